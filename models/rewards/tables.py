"""Rewards given as tables and numbers, and the door by which everything else becomes a reward factor."""

from __future__ import annotations

import logging
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from cai.models.common.checks import PLAIN, float_tensor
from cai.models.common.labels import by_name, in_order, taken_apart
from cai.models.common.storage import storable
from cai.models.processes.mdp import MDP
from cai.models.rewards.base import RewardFactor, Setting, Step, evaluate_factor, one_number
from cai.models.rewards.functions import CallableReward, check_arguments, digits_lost
from cai.models.rewards.sparse import SparseReward, given_sparse

logger = logging.getLogger("cai.models")

__all__ = [
    "CallableReward",
    "EvaluatedReward",
    "Labelled",
    "OutcomeReward",
    "RewardFactor",
    "SparseReward",
    "Step",
    "StepCost",
    "TableReward",
    "TimeTableReward",
    "as_reward",
    "axis_names",
    "evaluate_factor",
    "fitting_reward",
    "one_number",
]


def _table(given: Any, name: str) -> Tensor:
    """A float64 tensor; says so where rounding to fewer digits has changed the numbers already."""
    table, source = float_tensor(given, name)
    if source != torch.float64 and not table.requires_grad and (example := digits_lost(table, source)):
        logger.warning(
            "the %s came as %s and holds %s; it was rounded before it got here: make it with dtype=torch.float64",
            name,
            str(source).removeprefix("torch."),
            example,
        )
    return table


def axis_names(mdp: MDP) -> list[Any]:
    """What the axes [S, A, S] are called."""
    states = (mdp.state_names, "state")
    return [states, (mdp.action_names, "action"), states]


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

    def _read(self, convert: Callable[[Any, str], Tensor] | None = None) -> Tensor:
        """The table as a tensor, its labels put down apart."""
        given, labels = getattr(self, self.held), None
        if not isinstance(given, Tensor):  # which has no labels
            given, labels = taken_apart(given, self.called)
        table = float_tensor(given, self.called)[0] if convert is None else convert(given, self.called)
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


@storable("reward-table")
@dataclass(frozen=True, eq=False)
class TableReward(Labelled):
    """A reward given as a table of s_t [S], of (s_t, a_t) [S, A], or of (s_t, a_t, s_{t+1}) [S, A, S].

    Args:
        table: in reward units.
        explicit: whether a table with three axes is known to mean next states. False lets its shape tell whether it
            holds one reward per next state or per outcome [S, A, K], and refuses it if K = S.
        labels: for each axis the names in whose order it is, None where it is in that of the process. Those of a
            labelled table (pandas, xarray) unless given.
    """

    table: Any
    explicit: bool = True
    labels: Any = None

    def __post_init__(self) -> None:
        table = self._read(_table)
        if table.dim() not in (1, 2, 3):
            raise ValueError(f"reward has shape {list(table.shape)}; expected [S], [S, A], [S, A, S] or [S, A, K]")
        object.__setattr__(self, "reads_outcome", table.dim() == 3)
        object.__setattr__(self, "reads_time", False)

    def check(self, mdp: MDP) -> None:
        self.in_order_of(mdp)
        full = (mdp.num_states, mdp.num_actions, mdp.num_states)
        shape = list(self.table.shape)
        if not mdp.is_dense and self.explicit and shape == list(mdp.probabilities.shape) != list(full):
            raise ValueError(
                f"reward has shape {shape}, one reward per outcome [S, A, K]; say so with OutcomeReward(table)"
            )
        ambiguous = shape == list(mdp.probabilities.shape) == list(full) and mdp.num_states > 1
        if not mdp.is_dense and not self.explicit and ambiguous:
            raise ValueError(
                f"reward has shape {shape}, and K = S = {mdp.num_states}: it could be one reward per next state or "
                "one per outcome; say which with TableReward(...) or OutcomeReward(...)"
            )
        if self._per_outcome(mdp):
            return
        if tuple(shape) != full[: len(shape)]:
            raise ValueError(
                f"reward has shape {shape}; this process has S = {mdp.num_states}, "
                f"A = {mdp.num_actions}, K = {mdp.num_outcomes}: expected [S], [S, A], [S, A, S]"
                + ("" if mdp.is_dense else " or [S, A, K]")
                + self._otherwise(shape, full)
            )

    def whole_table(self, mdp: MDP) -> Tensor | None:
        if self.table.dim() > 2 or type(self).evaluate is not TableReward.evaluate:
            return None
        plain = self.labels is None
        table = self.table if plain else in_order(self.table, self.labels, self._axes(mdp), "reward")
        return table if table.dim() == 2 else table[:, None].expand(-1, mdp.num_actions)

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        if self.labels is not None:
            return self.in_order_of(mdp).evaluate(mdp, step)
        if self.table.dim() == 1:
            return self.table[step.state]
        if self.table.dim() == 2:
            return self.table[step.state, step.action]
        last = step.outcome if self._per_outcome(mdp) else step.next_state
        return self.table[step.state, step.action, last]

    @staticmethod
    def _otherwise(shape: list[int], full: tuple[int, int, int]) -> str:
        swapped = len(shape) > 1 and shape == [full[1], full[0], full[2]][: len(shape)]
        looks = shape[1:] in ([full[0]], list(full[:2]), list(full))
        return (
            "; if its first axis is the action, exchange it with the second, numpy.swapaxes(reward, 0, 1)"
            if swapped
            else ""
        ) + ("; if its first axis is time, say so with TimeTableReward(table)" if looks else "")

    def _per_outcome(self, mdp: MDP) -> bool:
        fits = self.table.shape == mdp.probabilities.shape and mdp.num_outcomes != mdp.num_states
        return not mdp.is_dense and not self.explicit and fits


@storable("reward-outcomes")
@dataclass(frozen=True, eq=False)
class OutcomeReward(Labelled):
    """A reward for each listed outcome, [S, A, K] aligned with `MDP.from_successors`.

    Needed where two outcomes of one (s, a) share their next state and pay differently.

    Args:
        table: in reward units.
        labels: of states and actions, as for `TableReward`; outcomes count from 0.
    """

    table: Any
    labels: Any = None

    def __post_init__(self) -> None:
        self._read(_table)
        object.__setattr__(self, "reads_time", False)

    def _axes(self, mdp: MDP) -> list[Any]:
        return [*axis_names(mdp)[:2], (None, "outcome")]

    def check(self, mdp: MDP) -> None:
        shape = (mdp.num_states, mdp.num_actions, mdp.num_outcomes)
        if tuple(self.table.shape) != shape:
            raise ValueError(f"outcome reward has shape {list(self.table.shape)}; expected [S, A, K] = {list(shape)}")
        self.in_order_of(mdp)

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        if self.labels is not None:
            return self.in_order_of(mdp).evaluate(mdp, step)
        return self.table[step.state, step.action, step.outcome]


@storable("reward-over-time")
@dataclass(frozen=True, eq=False)
class TimeTableReward(Labelled):
    """A reward given as a table for each time index: [T, S], [T, S, A] or [T, S, A, S].

    Args:
        table: in reward units; the first axis is the time index, from 0. It may be longer than the horizon.
        labels: as for `TableReward`; those of the first axis are time indices.
    """

    table: Any
    labels: Any = None

    def __post_init__(self) -> None:
        table = self._read(_table)
        if table.dim() not in (2, 3, 4):
            raise ValueError(
                f"the reward over time has shape {list(table.shape)}; expected [T, S], [T, S, A] or [T, S, A, S]"
            )
        object.__setattr__(self, "reads_outcome", table.dim() == 4)

    def _axes(self, mdp: MDP) -> list[Any]:
        return [(None, "time index"), *axis_names(mdp)]

    def check(self, mdp: MDP) -> None:
        self.in_order_of(mdp)
        full = (mdp.num_states, mdp.num_actions, mdp.num_states)
        shape = list(self.table.shape)
        if tuple(shape[1:]) != full[: len(shape) - 1]:
            raise ValueError(
                f"the reward over time has shape {shape}; this process has S = {mdp.num_states}, "
                f"A = {mdp.num_actions}: expected [T, S], [T, S, A] or [T, S, A, S]"
            )

    def check_model(self, model: Setting) -> None:
        given = len(self.table)
        if given < model.steps:
            raise ValueError(
                f"the reward over time has {given} steps (time indices 0 to {given - 1}); the horizon is "
                f"{model.horizon}: give a row for each of its {model.steps} steps"
            )
        if given == model.steps + 1:
            logger.warning(
                "the reward over time has %d rows for a horizon of %d: the last is never paid; row 0 belongs to the "
                "first step, and s_{T+1} earns nothing",
                given,
                model.steps,
            )

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        if self.labels is not None:
            return self.in_order_of(mdp).evaluate(mdp, step)
        row = self.table[step.t]
        return row[(step.state, step.action, step.next_state)[: row.dim()]]


@storable("reward-evaluated")
@dataclass(frozen=True, eq=False)
class EvaluatedReward(RewardFactor):
    """What another reward was found to pay, as one table: for files and other processes, where its code cannot go.

    Args:
        table: [T, S, A, K] or [T, S, A, 1], or the same with T = 1 for all times; reward units.
        label: how the reward was called.
    """

    table: Any
    label: str = "evaluated reward"

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads_time", len(self.table) > 1)
        object.__setattr__(self, "reads_outcome", self.table.shape[-1] > 1)

    def check(self, mdp: MDP) -> None:
        shape, fits = list(self.table.shape[1:]), (1, mdp.num_outcomes)
        if shape[:2] != [mdp.num_states, mdp.num_actions] or shape[2] not in fits:
            raise ValueError(f"the {self.label} was evaluated on another process: its tables have shape {shape}")

    def check_model(self, model: Setting) -> None:
        if self.reads_time and len(self.table) < model.steps:
            raise ValueError(f"the {self.label} was evaluated for {len(self.table)} steps, the model has {model.steps}")

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        outcome = step.outcome if self.reads_outcome else 0
        return self.table[step.t if self.reads_time else 0][step.state, step.action, outcome]


@storable("reward-step-cost", unpack=lambda parts: StepCost.paying(-torch.as_tensor(parts["cost"])))
@dataclass(frozen=True, eq=False)
class StepCost(RewardFactor):
    """Charges `cost` (usually positive) for every live step: reward -cost outside terminal states, 0 inside them."""

    cost: float | Tensor
    reads_outcome = False
    reads_time = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "cost", one_number(self.cost, "the cost of StepCost"))
        cost = float(torch.as_tensor(self.cost).detach())
        if cost < 0:
            logger.warning(
                "StepCost(%g) pays %g for every step; is a bonus meant? StepCost(%g) charges; numbers are rewards",
                cost,
                -cost,
                -cost,
            )

    @classmethod
    def paying(cls, reward: Any) -> StepCost:
        """The same reward, of any sign, for every live step."""
        made = object.__new__(cls)
        object.__setattr__(made, "cost", -one_number(reward, "the constant reward"))
        return made

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        charge = -torch.as_tensor(self.cost)
        return torch.where(mdp.terminal[step.state], torch.zeros_like(charge), charge)


def fitting_reward(reward: Any, mdp: MDP) -> RewardFactor:
    """`as_reward`, refused unless it fits the process."""
    factor = as_reward(reward, mdp).in_order_of(mdp)
    factor.check(mdp)
    return factor


def as_reward(reward: Any, mdp: MDP | None = None) -> RewardFactor:
    """Makes a factor of a factor, a table, a function, a torch module or a number (the same reward on every live step).

    A table may be sparse, as `SparseReward` says.

    Args:
        reward: what to convert. A function or module is called with (state, action, next_state, t); a module that works
            on features is `ModuleReward(module, features)`.
        mdp: the process that it is for, by whose names a labelled table (pandas, xarray) is put in order.

    Raises:
        TypeError: if it is none of these, or a function of other arguments.
        ValueError: if a table has labels that are not the names of the process.
    """
    if isinstance(reward, RewardFactor):
        return reward
    if mdp is not None and not isinstance(reward, PLAIN):
        reward = by_name(reward, axis_names(mdp), "reward")
    if isinstance(reward, type) and issubclass(reward, RewardFactor):
        raise TypeError(f"{reward.__name__} is a class; pass an instance: {reward.__name__}(...)")
    is_number = isinstance(reward, numbers.Real) and not isinstance(reward, bool)
    if is_number or (isinstance(reward, (Tensor, np.ndarray)) and reward.ndim == 0):
        return StepCost.paying(reward)
    if isinstance(reward, nn.Module):
        check_arguments(reward, "; if it works on features, use ModuleReward(module, features)")
    if callable(reward) and not isinstance(reward, Tensor):
        return CallableReward(reward)
    if isinstance(reward, (str, bytes)) or reward is None:
        hint = ": is the 'return' missing where it is made?" if reward is None else ""
        hint = f": build_reward({reward!r}, ...) makes one by its name" if isinstance(reward, str) else hint
        raise TypeError(
            f"a reward of type {type(reward).__name__} is not understood; give a table, function or factor{hint}"
        )
    plain = isinstance(reward, Tensor) and reward.layout == torch.strided
    if not plain and given_sparse(reward):
        return SparseReward(reward)
    if isinstance(reward, Mapping):
        raise TypeError(
            f"a reward of type {type(reward).__name__} is not understood; give a table [S], [S, A] or [S, A, S] in the "
            "order of the states and actions, e.g. [rewards[name] for name in mdp.state_names]; for a few states "
            "Goal('exit', 10.0) pays on entry, and rewards add up"
        )
    return TableReward(reward, explicit=False)
