"""Particles on the tables of a `TrajectoryModel`, with whatever number of states, dense or by successor lists."""

from __future__ import annotations

import torch
from torch import Tensor

from cai.inference.particles.particles import inverse_cdf
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["TableSystem"]


class TableSystem:
    """Particles of a `TrajectoryModel`, on its tables: O(N (A + K)) for each step, never a table of its own.

    Args:
        model: the trajectory model, of finite horizon.
    """

    def __init__(self, model: TrajectoryModel) -> None:
        self.model = model
        self.horizon = model.steps
        uniform = torch.full((1, model.mdp.num_actions), 1.0 / model.mdp.num_actions, dtype=torch.float64)
        self._prior = torch.cat([model.action_prior.detach(), uniform])  # the last row is the absorbing state's
        self._states: list[Tensor] = []
        self._choices: list[tuple[Tensor, Tensor]] = []
        self._parents: list[Tensor | None] = []

    def start(self, num_particles: int) -> Tensor:
        cumulative = self.model.mdp.initial.detach().cumsum(0)
        uniform = torch.rand(num_particles, dtype=torch.float64)
        state = inverse_cdf(cumulative, torch.zeros_like(uniform), cumulative[-1].expand_as(uniform), uniform)
        self._states, self._choices, self._parents = [state], [], [None]
        return torch.full((num_particles,), self.model.evidence_offset, dtype=torch.float64)

    def state(self, t: int) -> Tensor:
        return self._states[t]

    def select(self, index: Tensor) -> None:
        parents = self._parents[-1]
        self._states[-1] = self._states[-1][index]
        self._parents[-1] = index if parents is None else parents[index]

    def advance(self, steps: range) -> Tensor:
        return torch.stack([self._step(t) for t in steps])

    def _step(self, t: int) -> Tensor:
        model, mdp, state = self.model, self.model.mdp, self._states[-1]
        inside = state.clamp(max=mdp.num_states - 1)
        absorbed = state == mdp.num_states
        action = torch.multinomial(self._prior[state], 1)[:, 0]
        outcome = torch.multinomial(mdp.probabilities.detach()[inside, action], 1)[:, 0]
        rewards = model.reward_table(t).detach()
        paid = rewards[inside, action, outcome if rewards.shape[-1] > 1 else torch.zeros_like(outcome)]
        following = outcome if mdp.next_states is None else mdp.next_states[inside, action, outcome]
        falls = absorbed
        if model.discount < 1:
            lost = torch.rand(state.shape, dtype=torch.float64) >= model.survival[inside]
            falls = absorbed | lost
        self._states.append(torch.where(falls, torch.full_like(state, mdp.num_states), following))
        self._choices.append((action, torch.where(absorbed, torch.zeros_like(outcome), outcome)))
        self._parents.append(None)
        return torch.where(absorbed, torch.zeros_like(paid), paid / model.temperature)

    def values(self) -> dict[str, Tensor]:
        """Whole trajectories, traced back from the last step: O(N T), however often they were resampled."""
        index = torch.arange(self._states[-1].shape[0])
        found: dict[str, Tensor] = {}
        for t in range(self.horizon, -1, -1):
            found[f"s_{t + 1}"] = self._states[t][index]
            parents = self._parents[t]
            index = index if parents is None else parents[index]
            if t > 0:
                action, outcome = self._choices[t - 1]
                found[f"a_{t}"], found[f"k_{t}"] = action[index], outcome[index]
        return dict(reversed(found.items()))
