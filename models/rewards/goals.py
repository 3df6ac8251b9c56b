"""Reward factors that people ask for by name: entering a goal, being somewhere in time, and linear in features."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.models.common.checks import float_tensor
from cai.models.common.labels import axis_labels, in_order
from cai.models.common.storage import storable
from cai.models.processes.mdp import MDP
from cai.models.rewards.base import RewardFactor, Setting, Step, one_number
from cai.models.rewards.features import check_features, features_in_order, read_features
from cai.models.rewards.tables import TableReward

__all__ = ["Goal", "LinearReward", "Waypoint"]


@storable("reward-goal")
@dataclass(frozen=True, eq=False)
class Goal(RewardFactor):
    """Pays `value` on entering a set of states from outside it (so it may be terminal).

    Args:
        states: mask, indices or names; at least one, or the model is refused with a ValueError.
        value: paid once for each entry, in reward units.
    """

    states: Any
    value: float | Tensor = 1.0
    reads_time = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", one_number(self.value, "the value of Goal"))

    @property
    def label(self) -> str:
        return f"reward factor Goal({_written(self.states)})"

    def describe(self, mdp: MDP) -> str:
        return f"Goal({_found(mdp, self.states)})"

    def check(self, mdp: MDP) -> None:
        _check_some(mdp, self.states, "Goal")

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        goal = mdp.states(self.states)
        enters = goal[step.next_state] & ~goal[step.state]
        value = torch.as_tensor(self.value)
        return torch.where(enters, value, torch.zeros_like(value))


@storable("reward-waypoint")
@dataclass(frozen=True, eq=False)
class Waypoint(RewardFactor):
    """Pays `value` for being in some states at one time: a preference about s_t alone.

    It is paid by the step that leads there (by the first step, for time 0). A chain that has ended in a terminal state
    before earns nothing any more, so a waypoint in a terminal state pays on arrival at just that time.

    Args:
        states: mask, indices or names; at least one, or the model is refused with a ValueError.
        time: the index of the state, from 0 (s_1, the start) to T (s_{T+1}, where the last step leads).
        value: in reward units; -inf forbids.
    """

    states: Any
    time: int
    value: float | Tensor = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", one_number(self.value, "the value of Waypoint"))
        if isinstance(self.time, bool) or not isinstance(self.time, numbers.Integral) or self.time < 0:
            raise ValueError(f"the time of Waypoint is {self.time!r}; expected the index of a state, from 0 to T")
        object.__setattr__(self, "reads_outcome", self.time > 0)

    @property
    def label(self) -> str:
        return f"reward factor Waypoint({_written(self.states)}, {self.time})"

    def describe(self, mdp: MDP) -> str:
        return f"Waypoint({_found(mdp, self.states)}, {self.time})"

    def check(self, mdp: MDP) -> None:
        _check_some(mdp, self.states, "Waypoint")

    def check_model(self, model: Setting) -> None:
        if self.time > model.steps:
            raise ValueError(
                f"the time of {self.label} is {self.time}; with a horizon of {model.horizon} there are the states 0 to "
                f"{model.steps}"
            )

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        value = torch.as_tensor(self.value)
        if step.t != max(self.time - 1, 0):
            return torch.zeros((), dtype=torch.float64)
        there = step.state if self.time == 0 else step.next_state
        pays = mdp.states(self.states)[there] & ~mdp.terminal[step.state]
        return torch.where(pays, value, torch.zeros_like(value))


def _check_some(mdp: MDP, states: Any, name: str) -> None:
    if not mdp.states(states).any():
        raise ValueError(f"{name} has no state ({_written(states)}), so it would never pay; name at least one")


def _written(states: Any) -> str:
    """States as they were written, where that is short."""
    text = str(states) if isinstance(states, str) else repr(states)
    return text if len(text) <= 24 else "..."


def _found(mdp: MDP, states: Any) -> str:
    """States by the name of their region, or by their own where these are few."""
    mask = mdp.states(states)
    for name, region in mdp.regions.items():
        if torch.equal(mask, region):
            return name
    members = torch.nonzero(mask).flatten().tolist()
    return ", ".join(mdp.state_name(s) for s in members) if len(members) <= 3 else f"{len(members)} states"


@storable("reward-linear")
@dataclass(frozen=True, eq=False)
class LinearReward(RewardFactor):
    """features . weights; the weights may require grad, and `log_evidence` then differentiates to them.

    Args:
        features: [S, F], [S, A, F] or [S, A, S, F].
        weights: [F], in reward units per unit of feature.
        names: F names of the features, for tables of weights that were learned; None for none. The labels of a table
            (pandas, xarray) name its features unless these are given: then both are put into their order.
        labels: for each axis but the last the names in whose order features are, None where it is that of the process.
            Those of a labelled table unless given.

    Raises:
        ValueError: if shapes do not fit each other, a feature is not finite, names are not F different words, or labels
            are not the names.
    """

    features: Any
    weights: Any
    names: Sequence[str] | None = None
    labels: Any = None

    def __post_init__(self) -> None:
        features, labels = read_features(self.features)
        for given in (labels, axis_labels(self.weights)):
            if given and given[-1] is not None and self.names is None:
                object.__setattr__(self, "names", tuple(map(str, given[-1])))
        of_features = (self.names, "feature")
        if labels is not None:
            features = in_order(features.movedim(-1, 0), labels[-1:], [of_features], "features").movedim(0, -1)
            object.__setattr__(self, "labels", (*labels[:-1], None))
        weights, _ = float_tensor(self.weights, "weights", [of_features])
        if weights.dim() != 1 or weights.shape[0] != features.shape[-1]:
            raise ValueError(
                f"weights has shape {list(weights.shape)}; features ends in F = {features.shape[-1]}: expected [F]"
            )
        if self.names is not None:
            names = tuple(str(name) for name in self.names)
            if isinstance(self.names, str) or len(set(names)) != len(names) or len(names) != len(weights):
                raise ValueError(
                    f"names is {self.names!r}; expected {len(weights)} different ones, one for each feature"
                )
            object.__setattr__(self, "names", names)
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "reads_outcome", features.dim() == 4)
        object.__setattr__(self, "reads_time", False)

    def _table(self) -> TableReward:
        return TableReward(self.features @ self.weights)

    def in_order_of(self, mdp: MDP) -> RewardFactor:
        if self.labels is None:
            return self
        return LinearReward(features_in_order(self.features, self.labels, mdp), self.weights, self.names)

    def check(self, mdp: MDP) -> None:
        check_features(self.features, mdp)
        self.in_order_of(mdp)

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        if self.labels is not None:
            return self.in_order_of(mdp).evaluate(mdp, step)
        return self._table().evaluate(mdp, step)
