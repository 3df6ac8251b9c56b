"""What a reward factor is: the contract that every kind follows, and how one is evaluated.

A factor is the reward r(s_t, a_t, s_{t+1}) of one step, in reward units. In the model it becomes the potential
exp(r / alpha) on the optimality variable O_t (Levine 2018, section 2.2, equation 3).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from cai.models.common.checks import float_tensor
from cai.models.common.default_dtype import NumbersOf
from cai.models.common.devices import place_tensor
from cai.models.common.shapes import broadcast_shapes
from cai.models.processes.mdp import MDP
from cai.models.rewards.unread import Unread, UnreadIndexError

__all__ = ["RewardFactor", "Setting", "Step", "evaluate_factor", "one_number", "raw_table", "short_name"]


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

    @cached_property
    def shape(self) -> torch.Size:
        """The shape that the indices broadcast to."""
        given = (self.state, self.action, self.outcome, self.next_state)
        return broadcast_shapes(*(index.shape for index in given if isinstance(index, Tensor)))

    def cpu(self) -> Step:
        """The same indices on the CPU."""
        names = ("state", "action", "outcome", "next_state")
        given: dict[str, Any] = {name: getattr(self, name) for name in names}
        moved: dict[str, Any] = {name: part.cpu() for name, part in given.items() if isinstance(part, Tensor)}
        return replace(self, **moved)

    def seen_by(self, factor: RewardFactor) -> Step:
        """The step without what the factor is declared not to read; whatever it does with that raises."""
        unread: dict[str, Any] = {}
        if not factor.reads_outcome:
            unread |= {name: factor.unread(name, "reads_outcome") for name in ("outcome", "next_state")}
        if not factor.reads_time:
            unread["t"] = factor.unread("t", "reads_time")
        if not unread:
            return self
        seen = replace(self, **unread)
        seen.__dict__["shape"] = self.shape
        return seen

    def refuse_use(self, result: Any = None) -> None:
        """Raises the error of an index that was not given and yet used or returned, wherever that error was caught."""
        for index in (self.outcome, self.next_state, self.t):
            if isinstance(index, Unread) and (index is result or index.__dict__["used"]):
                index.refuse()


class Setting(Protocol):
    """What a factor may ask of the model that it is given to, before the model is made."""

    @property
    def horizon(self) -> int | float:
        """T, or math.inf."""

    @property
    def steps(self) -> int:
        """T, or 1 over an infinite horizon."""

    @property
    def discount(self) -> float:
        """In (0, 1]."""


class RewardFactor:
    """Base class of rewards. A subclass defines `evaluate`, and may narrow `reads_outcome` and `reads_time`.

    Factors add, subtract and scale (`cai.models.rewards.algebra`); tables, numbers, functions and torch modules take
    part through `as_reward`.
    """

    __array_ufunc__ = None  # an array on the left leaves the operation to us
    __pandas_priority__ = 5000  # and so does a table

    reads_outcome: bool = True
    """Whether the value depends on how the step ended (on s_{t+1}, or on the outcome)."""
    reads_time: bool = True
    """Whether the value depends on t."""

    @property
    def label(self) -> str:
        """How the factor is called in messages."""
        return f"reward factor {type(self).__name__}"

    def in_order_of(self, mdp: MDP) -> RewardFactor:
        """The factor with its labelled tables in the order of the states and actions of a process; itself if none is.

        Raises:
            ValueError: if labels are not the names of the process.
        """
        return self

    def unread(self, name: str, flag: str) -> Unread:
        """What the factor is given for an index of a step that its flag says it does not read."""
        return Unread(
            f"{self.label} reads step.{name}, and its {flag} is False: leave that word out, or do not look at "
            f"step.{name}"
        )

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        """The reward of each step, in reward units, in any shape that broadcasts with the step's indices.

        What the flags say is not read is not there: using `step.next_state`, `step.outcome` or `step.t` then raises.
        Process and indices are on the CPU and in float64, wherever the model lives: see `evaluate_factor`. Numbers made
        of Python's are float64, too.
        """
        raise NotImplementedError(f"{type(self).__name__} must define evaluate(mdp, step)")

    def describe(self, mdp: MDP) -> str:
        """How the factor is called where the process is known, in tables and pictures."""
        return short_name(self)

    def whole_table(self, mdp: MDP) -> Tensor | None:
        """[S, A] where the factor holds its rewards in just this way, so that nobody has to ask for each of them."""
        return None

    def check(self, mdp: MDP) -> None:
        """Raises ValueError if the factor does not fit the process."""

    def check_model(self, model: Setting) -> None:
        """Raises ValueError if the factor does not fit the horizon or the discount of a model."""

    def terms(self) -> tuple[RewardFactor, ...]:
        """The factors that add up to this one; itself, unless it is a sum."""
        return (self,)

    def __add__(self, other: Any) -> RewardFactor:
        from cai.models.rewards import algebra as reward_algebra  # it is made of factors

        return reward_algebra.add(self, other)

    __radd__ = __add__

    def __mul__(self, scale: float | Tensor) -> RewardFactor:
        from cai.models.rewards import algebra as reward_algebra

        return reward_algebra.scale(self, scale)

    __rmul__ = __mul__

    def __truediv__(self, scale: float | Tensor) -> RewardFactor:
        return self * (1.0 / one_number(scale, "the scale of a reward"))

    def __neg__(self) -> RewardFactor:
        return self * -1.0

    def __sub__(self, other: Any) -> RewardFactor:
        from cai.models.rewards import algebra as reward_algebra

        return reward_algebra.add(self, reward_algebra.negative(other))

    def __rsub__(self, other: Any) -> RewardFactor:
        return self * -1.0 + other

    def at(
        self,
        *,
        times: Iterable[int] | None = None,
        states: Any = None,
        actions: Any = None,
        next_states: Any = None,
        transitions: Any = None,
    ) -> RewardFactor:
        """The same reward where it applies, and 0 elsewhere.

        Args:
            times: time indices (from 0) at which it is paid; all, unless given.
            states: current states in which it is paid (mask, indices or names); all, unless given.
            actions: actions for which it is paid (mask, indices or names); all, unless given.
            next_states: next states on which it is paid (mask, indices or names); all, unless given.
            transitions: (state, next state) pairs of indices or names, or a mask bool [S, S], on which it is paid; all,
                unless given.
        """
        from cai.models.rewards import algebra as reward_algebra

        return reward_algebra.restrict(self, times, states, actions, next_states, transitions)

    def scheduled(self, schedule: Any) -> RewardFactor:
        """The same reward, times a number that depends on t.

        Args:
            schedule: a number for each time index (a list or a tensor [T], which may require grad), or a function of
                the time index, from 0 on.
        """
        from cai.models.rewards import algebra as reward_algebra

        return reward_algebra.schedule(self, schedule)

    def named(self, name: str) -> RewardFactor:
        """The same reward under a name of its own, for messages and for `cai.explain_reward`."""
        from cai.models.rewards import algebra as reward_algebra

        return reward_algebra.name(self, name)


def short_name(factor: RewardFactor) -> str:
    """The factor's label without the words that say that it is one."""
    return factor.label.removeprefix("reward factor ").removeprefix("reward function ").removeprefix("reward module ")


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
    name, seen = factor.label, step.seen_by(factor)
    try:
        with NumbersOf(torch.float64):
            values = factor.evaluate(mdp, seen)
        seen.refuse_use(values)
    except UnreadIndexError:
        raise
    except TypeError as error:
        seen.refuse_use()
        if _takes_two(factor.evaluate):
            raise
        raise TypeError(
            f"{name} defines evaluate{inspect.signature(factor.evaluate)}; define evaluate(self, mdp, step) and read "
            "step.state, step.action, step.next_state and step.t, or pass a plain function of those four"
        ) from error
    if not isinstance(values, Tensor) or values.is_complex() or values.dtype == torch.bool:
        got = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{name} returned {got}; expected a tensor of numbers" + _advice_on_type(values))
    shape = step.shape
    try:
        fits = broadcast_shapes(values.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} returned shape {list(values.shape)} at time index {step.t}; "
            f"expected a shape that broadcasts to {list(shape)}: index tables with the tensors as they are given "
            "(table[state, action]), without flatten, squeeze or a loop, and reduce no axis"
        )
    return values.to(mdp.device, mdp.dtype)


def _advice_on_type(values: Any) -> str:
    if values is None:
        return ": is the 'return' missing?"
    return ": convert with .double()" if isinstance(values, Tensor) else ": wrap it in torch.as_tensor(...)"


def _takes_two(method: Any) -> bool:
    try:
        inspect.signature(method).bind(None, None)
    except TypeError:
        return False
    return True


def raw_table(factor: RewardFactor, mdp: MDP, t: int) -> Tensor:
    """What a factor says of every step at time index t: [S, A, 1] where outcomes do not matter, else [S, A, K].

    The process is one that was not moved; nothing is set to zero in terminal states.
    """
    whole = factor.whole_table(mdp)
    if whole is not None:
        return whole[..., None]
    num_states, num_actions, num_outcomes = mdp.probabilities.shape
    states = torch.arange(num_states)[:, None, None]
    actions = torch.arange(num_actions)[None, :, None]
    if factor.reads_outcome:
        outcomes = torch.arange(num_outcomes)[None, None, :]
        step = Step(states, actions, outcomes, mdp.successors(), t)
        shape = (num_states, num_actions, num_outcomes)
    else:
        zero = torch.zeros((1, 1, 1), dtype=torch.int64)
        step = Step(states, actions, zero, zero, t)
        shape = (num_states, num_actions, 1)
    return evaluate_factor(factor, mdp, step).expand(shape)


def one_number(value: Any, what: str) -> Tensor:
    """A 0-dim float64 tensor that keeps its autograd history."""
    if isinstance(value, (str, bytes)) or value is None:
        raise TypeError(f"{what} is {value!r}; expected one number")
    tensor, _ = float_tensor(value, what)
    if tensor.dim():
        raise ValueError(f"{what} has shape {list(tensor.shape)}; expected one number")
    return tensor
