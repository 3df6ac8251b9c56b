"""What is made of reward factors: sums, multiples, schedules over time, masks and names."""

from __future__ import annotations

import logging
import math
import numbers
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.models.common.checks import float_tensor, state_mask
from cai.models.common.labels import by_name
from cai.models.common.storage import storable
from cai.models.processes.mdp import MDP
from cai.models.rewards.base import RewardFactor, Setting, Step, evaluate_factor, one_number, short_name
from cai.models.rewards.tables import as_reward

logger = logging.getLogger("cai.models")

__all__ = ["Wrapper", "add", "name", "negative", "restrict", "scale", "schedule"]


def add(left: RewardFactor, right: Any) -> RewardFactor:
    """The sum of two rewards, whatever can be a reward."""
    if isinstance(right, (int, float)) and right == 0:  # lets sum() work
        return left
    return _Sum(left, as_reward(right))


def negative(reward: Any) -> RewardFactor:
    """The reward with its sign turned."""
    return as_reward(reward) * -1.0


def scale(factor: RewardFactor, number: Any) -> RewardFactor:
    """The reward times a finite number."""
    if isinstance(number, RewardFactor):
        raise TypeError("rewards are scaled by numbers; to gate one by states use reward.at(states=...)")
    return _Scaled(factor, one_number(number, "the scale of a reward"))


def restrict(
    factor: RewardFactor, times: Any, states: Any, actions: Any, next_states: Any, transitions: Any
) -> RewardFactor:
    """See `RewardFactor.at`."""
    if times is not None:
        if not isinstance(times, Iterable):
            raise TypeError(f"times is {times!r}; give several time indices, e.g. [{times!r}] or range(5)")
        times = list(times)
        for t in times:
            if isinstance(t, bool) or not isinstance(t, numbers.Integral) or t < 0:
                raise ValueError(f"times holds {t!r}; time indices are whole numbers from 0")
        times = frozenset(int(t) for t in times)
    return _Restricted(factor, times, states, actions, next_states, transitions)


def schedule(factor: RewardFactor, given: Any) -> RewardFactor:
    """See `RewardFactor.scheduled`."""
    if callable(given) and not isinstance(given, Tensor):
        return _Scheduled(factor, given)
    table, _ = float_tensor(given, "the schedule of a reward")
    if table.dim() != 1:
        raise ValueError(
            f"the schedule of a reward has shape {list(table.shape)}; expected [T], a number for each time index, or a "
            "function of the time index; for a reward of state and time use TimeTableReward"
        )
    if not torch.isfinite(table.detach()).all():
        raise ValueError("the schedule of a reward holds NaN or infinite numbers; use finite ones, 0 to switch off")
    return _Scheduled(factor, table)


def name(factor: RewardFactor, given: str) -> RewardFactor:
    """See `RewardFactor.named`."""
    if not isinstance(given, str) or not given.strip():
        raise TypeError(f"the name of a reward is {given!r}; give a word")
    return _Named(factor, given)


@storable("reward-sum")
@dataclass(frozen=True, eq=False)
class _Sum(RewardFactor):
    left: RewardFactor
    right: RewardFactor

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads_outcome", self.left.reads_outcome or self.right.reads_outcome)
        object.__setattr__(self, "reads_time", self.left.reads_time or self.right.reads_time)

    @property
    def label(self) -> str:
        return f"{self.left.label} + {short_name(self.right)}"

    def in_order_of(self, mdp: MDP) -> RewardFactor:
        left, right = self.left.in_order_of(mdp), self.right.in_order_of(mdp)
        return self if left is self.left and right is self.right else _Sum(left, right)

    def check(self, mdp: MDP) -> None:
        self.left.check(mdp)
        self.right.check(mdp)

    def check_model(self, model: Setting) -> None:
        self.left.check_model(model)
        self.right.check_model(model)

    def terms(self) -> tuple[RewardFactor, ...]:
        return (*self.left.terms(), *self.right.terms())

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        return evaluate_factor(self.left, mdp, step) + evaluate_factor(self.right, mdp, step)


@dataclass(frozen=True, eq=False)
class Wrapper(RewardFactor):
    """A factor made of one other; it reads what that one reads, and is checked as that one is."""

    factor: RewardFactor

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads_outcome", self.factor.reads_outcome)
        object.__setattr__(self, "reads_time", self.factor.reads_time)

    @property
    def label(self) -> str:
        return self.factor.label

    def in_order_of(self, mdp: MDP) -> RewardFactor:
        inside = self.factor.in_order_of(mdp)
        return self if inside is self.factor else replace(self, factor=inside)

    def check(self, mdp: MDP) -> None:
        self.factor.check(mdp)

    def check_model(self, model: Setting) -> None:
        self.factor.check_model(model)

    def describe(self, mdp: MDP) -> str:
        return self.factor.describe(mdp)

    def terms(self) -> tuple[RewardFactor, ...]:
        """The terms of what is inside, each of them changed as the whole is."""
        inside = self.factor.terms()
        return (self,) if len(inside) == 1 else tuple(replace(self, factor=term) for term in inside)


@storable("reward-scaled")
@dataclass(frozen=True, eq=False)
class _Scaled(Wrapper):
    number: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if not torch.isfinite(self.number.detach()):
            raise ValueError(f"a reward cannot be scaled by {self.number.item()}; use a finite number")

    @property
    def label(self) -> str:
        return f"{self.factor.label} * {self.number.detach().item():g}"

    def describe(self, mdp: MDP) -> str:
        return f"{self.number.detach().item():g} {self.factor.describe(mdp)}"

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        return _times(evaluate_factor(self.factor, mdp, step), self.number)


def _times(values: Tensor, number: Tensor) -> Tensor:
    if number.detach().item() == 0:  # 0 * -inf: a reward that is switched off forbids nothing
        values = torch.where(torch.isinf(values), torch.zeros_like(values), values)
    return values * number


@storable("reward-scheduled")
@dataclass(frozen=True, eq=False)
class _Scheduled(Wrapper):
    numbers: Tensor | Callable[[int], Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "reads_time", True)

    @property
    def label(self) -> str:
        return f"{self.factor.label} (scheduled)"

    def describe(self, mdp: MDP) -> str:
        return f"{self.factor.describe(mdp)} (scheduled)"

    def check_model(self, model: Setting) -> None:
        super().check_model(model)
        if isinstance(self.numbers, Tensor) and len(self.numbers) < model.steps:
            raise ValueError(
                f"the schedule of {self.factor.label} holds {len(self.numbers)} numbers for time indices 0 to "
                f"{len(self.numbers) - 1}; the horizon is {model.horizon}: give {model.steps}, or a function of t"
            )

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        return _times(evaluate_factor(self.factor, mdp, step), self.factor_at(step.t))

    def factor_at(self, t: int) -> Tensor:
        """The number that the reward is multiplied with at time index t; 0-dim."""
        if isinstance(self.numbers, Tensor):
            return self.numbers[t]
        what = f"the schedule of {self.factor.label} at time index {t}"
        try:
            number = one_number(self.numbers(t), what)
        except (IndexError, KeyError) as error:
            raise ValueError(
                f"{what} failed with {type(error).__name__}: {error}; it is asked for every time index from 0 to T - 1"
            ) from error
        if not math.isfinite(number.detach().item()):
            raise ValueError(f"{what} is {number.detach().item()}; use a finite number, 0 to switch the reward off")
        return number


def _restriction(factor: _Restricted) -> dict[str, Any]:
    parts = {name: getattr(factor, name) for name in ("factor", "states", "actions", "next_states", "transitions")}
    return parts | {"times": None if factor.times is None else sorted(factor.times)}


def _of_restriction(parts: dict[str, Any]) -> _Restricted:
    return _Restricted(**parts | {"times": None if parts["times"] is None else frozenset(parts["times"])})


@storable("reward-restricted", pack=_restriction, unpack=_of_restriction)
@dataclass(frozen=True, eq=False)
class _Restricted(Wrapper):
    times: frozenset[int] | None
    states: Any
    actions: Any
    next_states: Any
    transitions: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "reads_time", self.factor.reads_time or self.times is not None)
        reads = self.next_states is not None or self.transitions is not None
        object.__setattr__(self, "reads_outcome", self.factor.reads_outcome or reads)

    @property
    def label(self) -> str:
        return f"{self.factor.label} (restricted)"

    def describe(self, mdp: MDP) -> str:
        return f"{self.factor.describe(mdp)} (restricted)"

    def check(self, mdp: MDP) -> None:
        self.factor.check(mdp)
        kinds = ("states", "actions", "next states", "transitions")
        for kind, mask in zip(kinds, self._masks(mdp), strict=True):
            if mask is not None and not mask.any():
                logger.warning("%s is restricted to an empty set of %s, so it is never paid", self.factor.label, kind)
        if self.times is not None and not self.times:
            logger.warning("%s is restricted to an empty set of times, so it is never paid", self.factor.label)

    def check_model(self, model: Setting) -> None:
        super().check_model(model)
        late = [t for t in sorted(self.times or ()) if t >= model.horizon]
        if late:
            logger.warning(
                "%s is restricted to time index %d, and a horizon of %s has the indices 0 to %d; there it is never "
                "paid (the first step has t = 0: write times=range(%d) for all)",
                self.factor.label,
                late[0],
                model.horizon,
                model.steps - 1,
                model.steps,
            )

    def _masks(self, mdp: MDP) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """Bool [S], [A], [S] and [S, S]."""
        return (
            None if self.states is None else mdp.states(self.states),
            None if self.actions is None else _action_mask(self.actions, mdp),
            None if self.next_states is None else mdp.states(self.next_states),
            None if self.transitions is None else _transition_mask(self.transitions, mdp),
        )

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        if self.times is not None and step.t not in self.times:
            return torch.zeros((), dtype=torch.float64)
        values = evaluate_factor(self.factor, mdp, step)
        states, actions, next_states, transitions = self._masks(mdp)
        for paid in (
            None if states is None else states[step.state],
            None if actions is None else actions[step.action],
            None if next_states is None else next_states[step.next_state],
            None if transitions is None else transitions[step.state, step.next_state],
        ):
            if paid is not None:
                values = torch.where(paid, values, torch.zeros_like(values))
        return values


def _action_mask(actions: Any, mdp: MDP) -> Tensor:
    return state_mask(actions, mdp.num_actions, mdp.action_names, "actions", kind="action")


def _transition_mask(transitions: Any, mdp: MDP) -> Tensor:
    shape = (mdp.num_states, mdp.num_states)
    transitions = by_name(transitions, [(mdp.state_names, "state")] * 2, "transitions")
    if isinstance(transitions, (Tensor, np.ndarray)) and transitions.dtype in (torch.bool, np.dtype(bool)):
        mask = torch.as_tensor(transitions).cpu()
        if tuple(mask.shape) != shape:
            raise ValueError(f"transitions is a mask of shape {list(mask.shape)}; expected bool [S, S] = {list(shape)}")
        return mask
    mask = torch.zeros(shape, dtype=torch.bool)
    pairs = transitions.tolist() if isinstance(transitions, (Tensor, np.ndarray)) else transitions
    for pair in [pairs] if isinstance(pairs, str) or not isinstance(pairs, Iterable) else pairs:
        if isinstance(pair, str) or not isinstance(pair, Iterable) or len(pair := tuple(pair)) != 2:
            raise TypeError(
                f"transitions holds {pair!r}; give (state, next state) pairs, e.g. [('door', 'room')], or a mask [S, S]"
            )
        start, end = (mdp.states(state if isinstance(state, str) else [state]) for state in pair)
        mask |= start[:, None] & end
    return mask


@storable("reward-named")
@dataclass(frozen=True, eq=False)
class _Named(Wrapper):
    given: str

    @property
    def label(self) -> str:
        return f"reward factor {self.given}"

    def describe(self, mdp: MDP) -> str:
        return self.given

    def whole_table(self, mdp: MDP) -> Tensor | None:
        return self.factor.whole_table(mdp)

    def terms(self) -> tuple[RewardFactor, ...]:
        return (self,)  # under one name it is one thing

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        return evaluate_factor(self.factor, mdp, step)
