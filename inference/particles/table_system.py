"""Particles on the tables of a `TrajectoryModel`, with whatever number of states, dense or by successor lists."""

from __future__ import annotations

import torch
from torch import Tensor

from cai.models.common.numerics import plain_number
from cai.models.trajectory.model import TrajectoryModel
from cai.models.trajectory.simulate import draw_rows

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
        self._generator: torch.Generator | None = None
        self._states: list[Tensor] = []
        self._choices: list[tuple[Tensor, Tensor]] = []
        self._parents: list[Tensor | None] = []

    def start(self, num_particles: int, generator: torch.Generator | None = None) -> Tensor:
        self._generator = generator
        state = self.model.reset(num_particles, generator)
        self._states, self._choices, self._parents = [state], [], [None]
        return torch.full((num_particles,), plain_number(self.model.evidence_offset), dtype=torch.float64)

    def state(self, t: int) -> Tensor:
        return self._states[t]

    def select(self, index: Tensor) -> None:
        parents = self._parents[-1]
        self._states[-1] = self._states[-1][index]
        self._parents[-1] = index if parents is None else parents[index]

    def advance(self, steps: range) -> Tensor:
        return torch.stack([self._step(t) for t in steps])

    def _step(self, t: int) -> Tensor:
        model, states = self.model, self._states[-1]
        actions = draw_rows(self._prior[states], self._generator)
        drawn = model.simulator.draw(states, actions, t, self._generator)
        self._states.append(drawn.next_states)
        self._choices.append((actions, drawn.outcomes))
        self._parents.append(None)
        return drawn.rewards / model.temperature

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
