"""Particles of a continuous model, drawn by its own simulator: no program is run, so T steps take T draws."""

from __future__ import annotations

import torch
from torch import Tensor

from cai.models.common.numerics import plain_number
from cai.models.common.random_draws import OwnDraws
from cai.models.continuous.simulate import DivergedRollout, draw_start, draw_step, has_overflown
from cai.models.continuous.world import World
from cai.models.programs.inspect import ProgramInfo

__all__ = ["WorldSystem"]


class WorldSystem:
    """Particles of a continuous model.

    Args:
        program: the model, whose prior is proper and whose horizon is finite.
        info: its program's outside.

    Attributes:
        returns: [N], each particle's sum of rewards so far, nats.
        log_prior_actions: [N], the sum of log p(a_t | s_t) so far.
    """

    def __init__(self, program: World, info: ProgramInfo) -> None:
        self.program, self.info, self.horizon = program, info, info.horizon
        self.returns = torch.zeros(0, dtype=torch.float64)
        self.log_prior_actions = torch.zeros(0, dtype=torch.float64)
        self._known: dict[str, Tensor] = {}
        self._fallen = torch.zeros(0, dtype=torch.bool)  # those that the discount has ended
        self._generator = torch.Generator()

    def start(self, num_particles: int, generator: torch.Generator | None = None) -> Tensor:
        self._generator = self._generator if generator is None else generator
        self._known = {"s_1": draw_start(self.program, num_particles, self._generator)}
        self.returns = torch.zeros(num_particles, dtype=torch.float64)
        self.log_prior_actions, self._fallen = torch.zeros_like(self.returns), self.returns > 0
        return torch.zeros_like(self.returns)

    def advance(self, steps: range) -> Tensor:
        return torch.stack([self._step(t) for t in steps])

    def _step(self, t: int) -> Tensor:
        """The log factor [N] of a step that is drawn."""
        world, state, generator = self.program, self._known[f"s_{t + 1}"], self._generator
        prior = world.prior(state, t)
        with OwnDraws(generator):
            action = prior.sample()
        moved = draw_step(world, state, action, t, generator, falls=False)
        rewards = torch.where(self._fallen, torch.zeros_like(moved.rewards), moved.rewards)
        if bool((has_overflown(rewards, state) | has_overflown(rewards, moved.next_states)).all()):
            raise DivergedRollout("all rewards", t)
        factor = (rewards / plain_number(world.temperature)).double()
        self.returns = self.returns + factor
        self.log_prior_actions = self.log_prior_actions + prior.log_prob(action).double()
        self._known[f"a_{t + 1}"] = action
        self._known[f"s_{t + 2}"] = torch.where(self._fallen[:, None], state, moved.next_states)
        if world.discount < 1 and t + 1 < self.horizon:
            drawn = torch.rand(len(state), dtype=torch.float64, generator=generator)
            alive = (drawn < world.discount) & ~self._fallen
            self._known[f"alive_{t + 2}"] = alive.long()
            self._fallen = ~alive
        return factor

    def state(self, t: int) -> Tensor:
        return self._known[f"s_{t + 1}"]

    def select(self, index: Tensor) -> None:
        self._known = {name: value[index] for name, value in self._known.items()}
        self.returns, self.log_prior_actions = self.returns[index], self.log_prior_actions[index]
        self._fallen = self._fallen[index]

    def values(self) -> dict[str, Tensor]:
        return dict(self._known)
