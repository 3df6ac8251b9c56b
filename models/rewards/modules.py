"""Rewards given by torch modules of features: learned rewards, and what is asked of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cai.models.common.default_dtype import NumbersOf
from cai.models.processes.mdp import MDP
from cai.models.rewards.base import RewardFactor, Step
from cai.models.rewards.features import check_features, features_in_order, read_features
from cai.models.rewards.functions import CALL, dtype_of

__all__ = ["ModuleReward"]


@dataclass(frozen=True, eq=False)
class ModuleReward(RewardFactor):
    """A torch module of features, the reward of a learned model; gradients reach its parameters.

    The features are given to the module in the dtype of its parameters, all at once, whenever rewards are asked for.

    Args:
        module: maps [..., F] to [..., 1] or [...]; or [S, F] to [S, A], a reward for each action.
        features: [S, F], [S, A, F] or [S, A, S, F].
        labels: for each axis the names in whose order features are, None where it is that of the process. Those of a
            labelled table (pandas, xarray) unless given.

    Raises:
        TypeError, ValueError: if it is no module, features have another shape or hold NaN, or results do not fit, do
            not depend on the parameters any more, or differ when asked for twice.
    """

    module: nn.Module
    features: Any
    labels: Any = None
    reads_time = False

    def __post_init__(self) -> None:
        if not isinstance(self.module, nn.Module):
            raise TypeError(
                f"the module is a {type(self.module).__name__}; expected an instance of torch.nn.Module (a plain "
                f"function of {CALL} is a reward by itself)"
            )
        features, labels = read_features(self.features)
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "labels", self.labels if labels is None else labels)
        object.__setattr__(self, "reads_outcome", features.dim() == 4)

    @property
    def label(self) -> str:
        return f"reward module {type(self.module).__name__}"

    def in_order_of(self, mdp: MDP) -> RewardFactor:
        if self.labels is None:
            return self
        return ModuleReward(self.module, features_in_order(self.features, self.labels, mdp))

    def check(self, mdp: MDP) -> None:
        check_features(self.features, mdp)
        with torch.enable_grad():
            table = self.table(mdp)
            again = self.table(mdp)
        if not torch.equal(table.detach().nan_to_num(), again.detach().nan_to_num()):
            raise ValueError(f"{self.label} gives other rewards when it is asked twice; call module.eval() first")
        if not table.requires_grad and any(p.requires_grad for p in self.module.parameters()):
            raise ValueError(
                f"{self.label} has parameters that require grad, and its result has lost them (NumPy, .detach(), "
                ".data or no_grad inside forward); keep to torch operations, or freeze it: module.requires_grad_(False)"
            )

    def table(self, mdp: MDP) -> Tensor:
        """The rewards, [S], [S, A] or [S, A, S]."""
        dtype, parameter = dtype_of(self.module), next(self.module.parameters(), None)
        features = features_in_order(self.features, self.labels, mdp).to(
            "cpu" if parameter is None else parameter.device, dtype
        )
        try:
            with NumbersOf(dtype):
                result = self.module(features)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"{self.label} cannot be called with features of shape {list(features.shape)}: "
                f"{type(error).__name__}: {error}; its forward takes one tensor [..., F] of {dtype}"
            ) from error
        if not isinstance(result, Tensor) or not result.is_floating_point():
            got = result.dtype if isinstance(result, Tensor) else type(result).__name__
            raise TypeError(f"{self.label} returned {got}; expected a tensor of floats")
        want = tuple(self.features.shape[:-1])
        if tuple(result.shape) == (*want, 1):
            result = result.squeeze(-1)
        elif tuple(result.shape) not in (want, (mdp.num_states, mdp.num_actions))[: 2 if len(want) == 1 else 1]:
            each = f", or [S, A] = {[mdp.num_states, mdp.num_actions]}" if len(want) == 1 else ""
            raise ValueError(
                f"{self.label} returned shape {list(result.shape)} for features of shape {list(self.features.shape)}; "
                f"expected {[*want, 1]} or {list(want)}{each}"
            )
        return result.to("cpu", torch.float64)

    def whole_table(self, mdp: MDP) -> Tensor | None:
        if self.reads_outcome:
            return None
        table = self.table(mdp)
        return table if table.dim() == 2 else table[:, None].expand(-1, mdp.num_actions)

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        table = self.table(mdp)
        return table[(step.state, step.action, step.next_state)[: table.dim()]]
