"""Rewards that hold a table which may have come with labels (pandas, xarray)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from cai.models.common.checks import float_tensor
from cai.models.common.labels import in_order, taken_apart
from cai.models.processes.mdp import MDP
from cai.models.rewards.base import RewardFactor

__all__ = ["Labelled", "axis_names"]


def axis_names(mdp: MDP) -> list[Any]:
    """What the axes [S, A, S] are called."""
    states = (mdp.state_names, "state")
    return [states, (mdp.action_names, "action"), states]


def _plain(given: Any, name: str) -> Tensor:
    return float_tensor(given, name)[0]


class Labelled(RewardFactor):
    """A reward, a dataclass, one of whose fields is a table that may have come with labels.

    Attributes:
        held: the field.
        called: how messages call it.
        labels: for each axis of the table the names in whose order it is, None where it is in that of the process;
            None if no axis has any.
    """

    held: ClassVar[str] = "table"
    called: ClassVar[str] = "reward"
    labels: Any

    def _read(self, convert: Callable[[Any, str], Tensor] = _plain) -> Tensor:
        """The table as a tensor, its labels put down apart."""
        given, labels = taken_apart(getattr(self, self.held), self.called)
        table = convert(given, self.called)
        object.__setattr__(self, self.held, table)
        if labels is not None:
            object.__setattr__(self, "labels", labels)
        return table

    def _axes(self, mdp: MDP) -> list[Any]:
        """What the axes are called."""
        return axis_names(mdp)

    def in_order_of(self, mdp: MDP) -> RewardFactor:
        if self.labels is None:
            return self
        table = in_order(getattr(self, self.held), self.labels, self._axes(mdp), self.called)
        return replace(self, labels=None, **{self.held: table})  # type: ignore[type-var]
