"""Reward factors that people ask for by name: entering a goal, and linear in features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.models.checks import float_tensor
from cai.models.mdp import MDP
from cai.models.rewards import RewardFactor, Step, TableReward, one_number

__all__ = ["Goal", "LinearReward"]


@dataclass(frozen=True, eq=False)
class Goal(RewardFactor):
    """Pays `value` on entering a set of states from outside it (so it may be terminal).

    Args:
        states: mask, indices or names.
        value: paid once for each entry, in reward units.
    """

    states: Any
    value: float | Tensor = 1.0
    reads_time = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", one_number(self.value, "the value of Goal"))

    def check(self, mdp: MDP) -> None:
        mdp.states(self.states)

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        goal = mdp.states(self.states)
        enters = goal[step.next_state] & ~goal[step.state]
        value = torch.as_tensor(self.value)
        return torch.where(enters, value, torch.zeros_like(value))


@dataclass(frozen=True, eq=False)
class LinearReward(RewardFactor):
    """features . weights; the weights may require grad, and `log_evidence` then differentiates to them.

    Args:
        features: [S, F], [S, A, F] or [S, A, S, F].
        weights: [F], in reward units per unit of feature.
    """

    features: Any
    weights: Any

    def __post_init__(self) -> None:
        features, _ = float_tensor(self.features, "features")
        weights, _ = float_tensor(self.weights, "weights")
        if features.dim() not in (2, 3, 4):
            raise ValueError(f"features has shape {list(features.shape)}; expected [S, F], [S, A, F] or [S, A, S, F]")
        if weights.dim() != 1 or weights.shape[0] != features.shape[-1]:
            raise ValueError(
                f"weights has shape {list(weights.shape)}; features ends in F = {features.shape[-1]}: expected [F]"
            )
        if not torch.isfinite(features.detach()).all():
            raise ValueError("features holds NaN or infinite entries; forbid outcomes with a reward of -inf instead")
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "reads_outcome", features.dim() == 4)
        object.__setattr__(self, "reads_time", False)

    def _table(self) -> TableReward:
        return TableReward(self.features @ self.weights)

    def check(self, mdp: MDP) -> None:
        full = (mdp.num_states, mdp.num_actions, mdp.num_states)
        if tuple(self.features.shape[:-1]) != full[: self.features.dim() - 1]:
            raise ValueError(
                f"features has shape {list(self.features.shape)}; this process has S = {mdp.num_states}, "
                f"A = {mdp.num_actions}: expected [S, F], [S, A, F] or [S, A, S, F]"
            )

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        return self._table().evaluate(mdp, step)
