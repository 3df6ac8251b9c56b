"""Reward factors: what a step is worth, evaluated lazily over whatever a backend needs.

A factor is the reward r(s_t, a_t, s_{t+1}) of one step, in reward units. In the model it becomes the potential
exp(r / alpha) on the optimality variable O_t (Levine 2018, section 2.2, equation 3). Factors add, scale and can be
restricted to times or states; tensors, numbers and plain functions take part through `as_reward`.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.models.checks import float_tensor
from cai.models.mdp import MDP
from cai.models.places import place_tensor

__all__ = [
    "CallableReward",
    "OutcomeReward",
    "RewardFactor",
    "Step",
    "StepCost",
    "TableReward",
    "as_reward",
    "evaluate_factor",
    "one_number",
]


@dataclass(frozen=True)
class Step:
    """Index tensors of one step that broadcast together, so that any set of (s, a, s') can be asked about at once.

    Attributes:
        state: int64, s_t.
        action: int64, a_t.
        outcome: int64, which of the K outcomes happened.
        next_state: int64, s_{t+1} before a discount takes the chain away.
        t: the time index, from 0.
    """

    state: Tensor
    action: Tensor
    outcome: Tensor
    next_state: Tensor
    t: int

    def cpu(self) -> Step:
        """The same indices on the CPU."""
        return Step(self.state.cpu(), self.action.cpu(), self.outcome.cpu(), self.next_state.cpu(), self.t)


class RewardFactor:
    """Base class of rewards. A subclass defines `evaluate`, and may narrow `reads_outcome` and `reads_time`."""

    __array_ufunc__ = None  # an array on the left leaves the operation to us

    reads_outcome: bool = True
    """Whether the value depends on how the step ended (on s_{t+1}, or on the outcome)."""
    reads_time: bool = True
    """Whether the value depends on t."""

    @property
    def label(self) -> str:
        """How the factor is called in messages."""
        return f"reward factor {type(self).__name__}"

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        """The reward of each step, in reward units, in any shape that broadcasts with the step's indices.

        Process and indices are on the CPU and in float64, wherever the model lives: see `evaluate_factor`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define evaluate(mdp, step)")

    def whole_table(self, mdp: MDP) -> Tensor | None:
        """[S, A] where the factor holds its rewards in just this way, so that nobody has to ask for each of them."""
        return None

    def check(self, mdp: MDP) -> None:
        """Raises ValueError if the factor does not fit the process."""

    def __add__(self, other: Any) -> RewardFactor:
        if isinstance(other, (int, float)) and other == 0:  # lets sum() work
            return self
        return _Sum(self, as_reward(other))

    __radd__ = __add__

    def __mul__(self, scale: float | Tensor) -> RewardFactor:
        if isinstance(scale, RewardFactor):
            raise TypeError("rewards are scaled by numbers; to gate one by states use reward.at(states=...)")
        return _Scaled(self, one_number(scale, "the scale of a reward"))

    __rmul__ = __mul__

    def __truediv__(self, scale: float | Tensor) -> RewardFactor:
        return self * (1.0 / one_number(scale, "the scale of a reward"))

    def __neg__(self) -> RewardFactor:
        return self * -1.0

    def __sub__(self, other: Any) -> RewardFactor:
        return self + as_reward(other) * -1.0

    def __rsub__(self, other: Any) -> RewardFactor:
        return self * -1.0 + as_reward(other)

    def at(self, *, times: Iterable[int] | None = None, states: Any = None) -> RewardFactor:
        """The same reward where it applies, and 0 elsewhere.

        Args:
            times: time indices (from 0) at which it is paid; all, unless given.
            states: current states in which it is paid (mask, indices or names); all, unless given.
        """
        if times is not None:
            if not isinstance(times, Iterable):
                raise TypeError(f"times is {times!r}; give several time indices, e.g. [{times!r}] or range(5)")
            times = list(times)
            for t in times:
                if isinstance(t, bool) or not isinstance(t, numbers.Integral) or t < 0:
                    raise ValueError(f"times holds {t!r}; time indices are whole numbers from 0")
        return _Restricted(self, None if times is None else frozenset(int(t) for t in times), states)


@dataclass(frozen=True, eq=False)
class _Sum(RewardFactor):
    left: RewardFactor
    right: RewardFactor

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads_outcome", self.left.reads_outcome or self.right.reads_outcome)
        object.__setattr__(self, "reads_time", self.left.reads_time or self.right.reads_time)

    def check(self, mdp: MDP) -> None:
        self.left.check(mdp)
        self.right.check(mdp)

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        return evaluate_factor(self.left, mdp, step) + evaluate_factor(self.right, mdp, step)


@dataclass(frozen=True, eq=False)
class _Scaled(RewardFactor):
    factor: RewardFactor
    scale: Tensor

    def __post_init__(self) -> None:
        if not torch.isfinite(self.scale.detach()):
            raise ValueError(f"a reward cannot be scaled by {self.scale.item()}; use a finite number")
        object.__setattr__(self, "reads_outcome", self.factor.reads_outcome)
        object.__setattr__(self, "reads_time", self.factor.reads_time)

    def check(self, mdp: MDP) -> None:
        self.factor.check(mdp)

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        values = evaluate_factor(self.factor, mdp, step)
        if self.scale.detach().item() == 0:  # 0 * -inf: a reward that is switched off forbids nothing
            values = torch.where(torch.isinf(values), torch.zeros_like(values), values)
        return values * self.scale


@dataclass(frozen=True, eq=False)
class _Restricted(RewardFactor):
    factor: RewardFactor
    times: frozenset[int] | None
    states: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads_outcome", self.factor.reads_outcome)
        object.__setattr__(self, "reads_time", self.factor.reads_time or self.times is not None)

    def check(self, mdp: MDP) -> None:
        self.factor.check(mdp)
        if self.states is not None:
            mdp.states(self.states)

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        if self.times is not None and step.t not in self.times:
            return torch.zeros((), dtype=torch.float64)
        values = evaluate_factor(self.factor, mdp, step)
        if self.states is None:
            return values
        return torch.where(mdp.states(self.states)[step.state], values, torch.zeros_like(values))


@dataclass(frozen=True, eq=False)
class TableReward(RewardFactor):
    """A reward given as a table of s_t [S], of (s_t, a_t) [S, A], or of (s_t, a_t, s_{t+1}) [S, A, S].

    Args:
        table: in reward units.
        explicit: whether a table with three axes is known to mean next states. False lets its shape tell whether it
            holds one reward per next state or per outcome [S, A, K], and refuses it if K = S.
    """

    table: Any
    explicit: bool = True

    def __post_init__(self) -> None:
        table, _ = float_tensor(self.table, "reward")
        if table.dim() not in (1, 2, 3):
            raise ValueError(f"reward has shape {list(table.shape)}; expected [S], [S, A], [S, A, S] or [S, A, K]")
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "reads_outcome", table.dim() == 3)
        object.__setattr__(self, "reads_time", False)

    def check(self, mdp: MDP) -> None:
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
            )

    def whole_table(self, mdp: MDP) -> Tensor | None:
        if self.table.dim() > 2 or type(self).evaluate is not TableReward.evaluate:
            return None
        return self.table if self.table.dim() == 2 else self.table[:, None].expand(-1, mdp.num_actions)

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        if self.table.dim() == 1:
            return self.table[step.state]
        if self.table.dim() == 2:
            return self.table[step.state, step.action]
        last = step.outcome if self._per_outcome(mdp) else step.next_state
        return self.table[step.state, step.action, last]

    def _per_outcome(self, mdp: MDP) -> bool:
        fits = self.table.shape == mdp.probabilities.shape and mdp.num_outcomes != mdp.num_states
        return not mdp.is_dense and not self.explicit and fits


@dataclass(frozen=True, eq=False)
class OutcomeReward(RewardFactor):
    """A reward for each listed outcome, [S, A, K] aligned with `MDP.from_successors`.

    Needed where two outcomes of one (s, a) share their next state and pay differently.
    """

    table: Any

    def __post_init__(self) -> None:
        table, _ = float_tensor(self.table, "reward")
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "reads_time", False)

    def check(self, mdp: MDP) -> None:
        shape = (mdp.num_states, mdp.num_actions, mdp.num_outcomes)
        if tuple(self.table.shape) != shape:
            raise ValueError(f"outcome reward has shape {list(self.table.shape)}; expected [S, A, K] = {list(shape)}")

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        return self.table[step.state, step.action, step.outcome]


@dataclass(frozen=True, eq=False)
class CallableReward(RewardFactor):
    """A function of (state, action, next_state, t) that works on whole tensors of indices.

    Args:
        function: takes three int64 tensors that broadcast together and the time index (from 0), and returns rewards
            that broadcast with them. Write `torch.where(state == 3, -1.0, 0.0)`, not `-1.0 if state == 3 else 0.0`.
        reads_outcome: say False if next_state is never looked at; backends then work on [S, A].
        reads_time: say False if t is never looked at; the table is then made once.
    """

    function: Callable[[Tensor, Tensor, Tensor, int], Any]
    reads_outcome: bool = True
    reads_time: bool = True

    @property
    def name(self) -> str:
        """The name of the function."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    @property
    def label(self) -> str:
        return f"reward function {self.name}"

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        try:
            # What the function is said not to read, it is not given, so that a wrong word is found out.
            values = self.function(
                step.state,
                step.action,
                step.next_state if self.reads_outcome else None,  # type: ignore[arg-type]
                step.t if self.reads_time else None,  # type: ignore[arg-type]
            )
        except Exception as error:
            if "Boolean value of Tensor" in str(error):
                raise ValueError(
                    f"reward function {self.name} branches on a tensor ('if', 'and', 'or' or 'not'); it is called once "
                    "for many states: use torch.where(condition, yes, no), and &, |, ~ between conditions"
                ) from error
            raise ValueError(
                f"reward function {self.name} failed with {type(error).__name__}: {error}; it is called as "
                f"{self.name}(state, action, next_state, t) with whole index tensors and the time index t: use torch "
                "operations on them (torch.where, arithmetic, tables as tensors)"
            ) from error
        if not isinstance(values, (Tensor, np.ndarray, numbers.Real)):
            raise TypeError(
                f"reward function {self.name} returned {type(values).__name__}; expected a tensor or number"
            )
        tensor, _ = float_tensor(values, f"the result of reward function {self.name}")
        return tensor


@dataclass(frozen=True, eq=False)
class StepCost(RewardFactor):
    """Charges `cost` (usually positive) for every live step: reward -cost outside terminal states, 0 inside them."""

    cost: float | Tensor
    reads_outcome = False
    reads_time = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "cost", one_number(self.cost, "the cost of StepCost"))

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        charge = -torch.as_tensor(self.cost)
        return torch.where(mdp.terminal[step.state], torch.zeros_like(charge), charge)


def as_reward(reward: Any) -> RewardFactor:
    """Makes a factor of a factor, a table, a function or a number (the same reward on every live step).

    Args:
        reward: what to convert.

    Raises:
        TypeError: if it is none of these.
    """
    if isinstance(reward, RewardFactor):
        return reward
    is_number = isinstance(reward, numbers.Real) and not isinstance(reward, bool)
    if is_number or (isinstance(reward, (Tensor, np.ndarray)) and reward.ndim == 0):
        return StepCost(-one_number(reward, "the constant reward"))
    if callable(reward) and not isinstance(reward, Tensor):
        return CallableReward(reward)
    if isinstance(reward, (str, bytes)) or reward is None:
        raise TypeError(f"a reward of type {type(reward).__name__} is not understood; give a table, function or factor")
    return TableReward(reward, explicit=False)


def evaluate_factor(factor: RewardFactor, mdp: MDP, step: Step) -> Tensor:
    """`factor.evaluate`, with its result held against the shape of the step.

    It is asked about the process as it was checked, in float64 on the CPU, and what it says is moved to the device and
    dtype of `mdp`; so factors know nothing of either. The step may be on any device.

    Raises:
        TypeError, ValueError: naming the factor, if the result is no tensor of numbers or has the wrong shape.
    """
    if mdp.host is not mdp:
        values = evaluate_factor(factor, mdp.host, step.cpu())
        return place_tensor(values, mdp.device, mdp.dtype, factor.label)
    values = factor.evaluate(mdp, step)
    name = factor.label
    if not isinstance(values, Tensor) or values.is_complex() or values.dtype == torch.bool:
        got = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{name} returned {got}; expected a tensor of numbers")
    shape = torch.broadcast_shapes(step.state.shape, step.action.shape, step.outcome.shape, step.next_state.shape)
    try:
        fits = torch.broadcast_shapes(values.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} returned shape {list(values.shape)} at time index {step.t}; "
            f"expected a shape that broadcasts to {list(shape)}"
        )
    return values.to(mdp.device, mdp.dtype)


def one_number(value: Any, what: str) -> Tensor:
    """A 0-dim float64 tensor that keeps its autograd history."""
    if isinstance(value, (str, bytes)) or value is None:
        raise TypeError(f"{what} is {value!r}; expected one number")
    tensor, _ = float_tensor(value, what)
    if tensor.dim():
        raise ValueError(f"{what} has shape {list(tensor.shape)}; expected one number")
    return tensor
