"""Reward factors: what a step is worth, evaluated lazily over whatever a backend needs.

A factor is the reward r(s_t, a_t, s_{t+1}) of one step, in reward units. In the model it becomes the potential
exp(r / alpha) on the optimality variable O_t (Levine 2018, section 2.2, equation 3). Factors add, scale and can be
restricted to times or states; tensors, numbers and plain functions take part through `as_reward`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from cai.models.checks import float_tensor
from cai.models.mdp import MDP
from torch import Tensor

__all__ = [
    "CallableReward",
    "Goal",
    "LinearReward",
    "OutcomeReward",
    "RewardFactor",
    "Step",
    "StepCost",
    "TableReward",
    "as_reward",
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


class RewardFactor:
    """Base class of rewards. A subclass defines `evaluate`, and may narrow `reads_outcome` and `reads_time`."""

    reads_outcome: bool = True
    """Whether the value depends on how the step ended (on s_{t+1}, or on the outcome)."""
    reads_time: bool = True
    """Whether the value depends on t."""

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        """The reward of each step, in reward units, in any shape that broadcasts with the step's indices."""
        raise NotImplementedError(f"{type(self).__name__} must define evaluate(mdp, step)")

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
        return _Scaled(self, scale)

    __rmul__ = __mul__

    def __neg__(self) -> RewardFactor:
        return self * -1.0

    def __sub__(self, other: Any) -> RewardFactor:
        return self + as_reward(other) * -1.0

    def at(self, *, times: Iterable[int] | None = None, states: Any = None) -> RewardFactor:
        """The same reward where it applies, and 0 elsewhere.

        Args:
            times: time indices (from 0) at which it is paid; all, unless given.
            states: current states in which it is paid (mask, indices or names); all, unless given.
        """
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
        return self.left.evaluate(mdp, step) + self.right.evaluate(mdp, step)


@dataclass(frozen=True, eq=False)
class _Scaled(RewardFactor):
    factor: RewardFactor
    scale: float | Tensor

    def __post_init__(self) -> None:
        if isinstance(self.scale, Tensor) and self.scale.dim():
            raise ValueError(f"a reward is scaled by one number, not by a tensor of shape {list(self.scale.shape)}")
        if not torch.isfinite(torch.as_tensor(self.scale)).all():
            raise ValueError(f"a reward cannot be scaled by {float(self.scale)}; use a finite number")
        object.__setattr__(self, "reads_outcome", self.factor.reads_outcome)
        object.__setattr__(self, "reads_time", self.factor.reads_time)

    def check(self, mdp: MDP) -> None:
        self.factor.check(mdp)

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        values = self.factor.evaluate(mdp, step)
        if torch.as_tensor(self.scale).detach().item() == 0:  # 0 * -inf: a reward that is switched off forbids nothing
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
        values = self.factor.evaluate(mdp, step)
        if self.states is None:
            return values
        return torch.where(mdp.states(self.states)[step.state], values, torch.zeros_like(values))


@dataclass(frozen=True, eq=False)
class TableReward(RewardFactor):
    """A reward given as a table of s_t [S], of (s_t, a_t) [S, A], or of (s_t, a_t, s_{t+1}) [S, A, S]."""

    table: Any

    def __post_init__(self) -> None:
        table, _ = float_tensor(self.table, "reward")
        if table.dim() not in (1, 2, 3):
            raise ValueError(f"reward has shape {list(table.shape)}; expected [S], [S, A], [S, A, S] or [S, A, K]")
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "reads_outcome", table.dim() == 3)
        object.__setattr__(self, "reads_time", False)

    def check(self, mdp: MDP) -> None:
        full = (mdp.num_states, mdp.num_actions, mdp.num_states)
        if tuple(self.table.shape) != full[: self.table.dim()]:
            raise ValueError(
                f"reward has shape {list(self.table.shape)}; this process has S = {mdp.num_states}, "
                f"A = {mdp.num_actions}, K = {mdp.num_outcomes}: expected [S], [S, A], [S, A, S]"
                + ("" if mdp.is_dense else " or [S, A, K]")
            )

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        if self.table.dim() == 1:
            return self.table[step.state]
        if self.table.dim() == 2:
            return self.table[step.state, step.action]
        return self.table[step.state, step.action, step.next_state]


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
        """How the function is called in messages."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        try:
            values = self.function(step.state, step.action, step.next_state, step.t)
        except RuntimeError as error:
            if "Boolean value of Tensor" not in str(error):
                raise
            raise ValueError(
                f"reward function {self.name} branches on a tensor ('if', 'and', 'or' or 'not'); it is called once for "
                "many states: use torch.where(condition, yes, no), and &, |, ~ between conditions"
            ) from error
        if not isinstance(values, (Tensor, int, float)):
            raise TypeError(
                f"reward function {self.name} returned {type(values).__name__}; expected a tensor or number"
            )
        tensor, _ = float_tensor(values, f"the result of reward function {self.name}")
        shape = torch.broadcast_shapes(step.state.shape, step.action.shape, step.next_state.shape)
        try:
            fits = torch.broadcast_shapes(tensor.shape, shape) == shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"reward function {self.name} returned shape {list(tensor.shape)} for state {list(step.state.shape)}, "
                f"action {list(step.action.shape)} and next_state {list(step.next_state.shape)}; "
                f"expected a shape that broadcasts to {list(shape)}"
            )
        return tensor


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

    def check(self, mdp: MDP) -> None:
        mdp.states(self.states)

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        goal = mdp.states(self.states)
        enters = goal[step.next_state] & ~goal[step.state]
        value = torch.as_tensor(self.value, dtype=torch.float64)
        return torch.where(enters, value, torch.zeros_like(value))


@dataclass(frozen=True, eq=False)
class StepCost(RewardFactor):
    """Charges `cost` (usually positive) for every live step: reward -cost outside terminal states, 0 inside them."""

    cost: float | Tensor
    reads_outcome = False
    reads_time = False

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        charge = -torch.as_tensor(self.cost, dtype=torch.float64)
        return torch.where(mdp.terminal[step.state], torch.zeros_like(charge), charge)


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


def as_reward(reward: Any, mdp: MDP | None = None) -> RewardFactor:
    """Makes a factor of a factor, a table, a function or a number (the same reward on every live step).

    Args:
        reward: what to convert.
        mdp: the process, which tells [S, A, K] (one reward per outcome) from [S, A, S].

    Raises:
        TypeError: if it is none of these.
        ValueError: if [S, A, S] and [S, A, K] cannot be told apart.
    """
    if isinstance(reward, RewardFactor):
        return reward
    if isinstance(reward, (int, float)) and not isinstance(reward, bool):
        return StepCost(-float(reward))
    if callable(reward) and not isinstance(reward, Tensor):
        return CallableReward(reward)
    if isinstance(reward, (str, bytes)) or reward is None:
        raise TypeError(f"a reward of type {type(reward).__name__} is not understood; give a table, function or factor")
    table = TableReward(reward)
    if mdp is None or mdp.is_dense or table.table.dim() != 3:
        return table
    if table.table.shape[2] != mdp.num_outcomes:
        return table
    if mdp.num_outcomes == mdp.num_states:
        raise ValueError(
            f"reward has shape {list(table.table.shape)}, and K = S = {mdp.num_states}: it could be one reward per "
            "next state or one per outcome; say which with TableReward(...) or OutcomeReward(...)"
        )
    return OutcomeReward(table.table)
