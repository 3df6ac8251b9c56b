"""Rewards given as functions of (state, action, next_state, t), and what is said of their mistakes."""

from __future__ import annotations

import contextlib
import functools
import inspect
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from cai.models.common.checks import float_tensor
from cai.models.common.default_dtype import NumbersOf
from cai.models.processes.mdp import MDP
from cai.models.rewards.base import RewardFactor, Step
from cai.models.rewards.unread import Unread, UnreadIndexError

__all__ = ["CALL", "CallableReward", "check_arguments", "digits_lost", "dtype_of", "reward_factor"]

CALL = "(state, action, next_state, t)"
PLACES = {"state": 0, "states": 0, "s": 0, "action": 1, "actions": 1, "a": 1, "next_state": 2, "next_states": 2, "t": 3}


@dataclass(frozen=True, eq=False)
class CallableReward(RewardFactor):
    """A function of (state, action, next_state, t) that works on whole tensors of indices.

    Numbers that the function makes (`0.1 * state`, `torch.where(state == 3, 0.1, 0.0)`) are float64, or of the dtype of
    its parameters if it is a module.

    Args:
        function: takes three int64 tensors that broadcast together and the time index (from 0), and returns rewards
            that broadcast with them. Write `torch.where(state == 3, -1.0, 0.0)`, not `-1.0 if state == 3 else 0.0`.
        reads_outcome: say False if next_state is never looked at; backends then work on [S, A], and any use of it
            raises.
        reads_time: say False if t is never looked at; the table is then made once, and any use of it raises.

    Raises:
        TypeError: if the function takes other arguments, or these in another order.
    """

    function: Callable[[Tensor, Tensor, Tensor, int], Any]
    reads_outcome: bool = True
    reads_time: bool = True
    seen: dict[str, Any] = field(init=False, repr=False, default_factory=dict)
    """What has been seen of its results: "dtype", and whether any had a "gradient"."""

    def __post_init__(self) -> None:
        if isinstance(self.function, type) or not callable(self.function):
            raise TypeError(f"{self.function!r} is no function; give a function of {CALL}, or an instance")
        check_arguments(self.function)

    def __call__(self, state: Tensor, action: Tensor, next_state: Tensor, t: int) -> Any:
        """The function itself, as it was before it became a factor."""
        return self.function(state, action, next_state, t)

    @property
    def name(self) -> str:
        """The name of the function."""
        return _name(self.function)

    @property
    def label(self) -> str:
        return f"reward function {self.name}"

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        # What the function is said not to read, it is not given, so that a wrong word is found out; and it works on
        # copies, as what it is given may be the process's own table.
        seen = step.seen_by(self)
        following = seen.next_state.clone() if self.reads_outcome else seen.next_state
        given = (seen.state.clone(), seen.action.clone(), following)
        try:
            with NumbersOf(dtype_of(self.function)):
                values = self.function(given[0], given[1], given[2], seen.t)
            seen.refuse_use(values)
        except UnreadIndexError:
            raise
        except Exception as error:
            seen.refuse_use()
            raise ValueError(f"reward function {self.name} {self._reason(error, mdp, step)}") from error
        for index, what in zip(given, ("state", "action", "next_state"), strict=True):
            if isinstance(index, Tensor) and index._version:
                raise ValueError(
                    f"reward function {self.name} changes its argument {what} in place ({what} += 1, "
                    f"{what}[...] = ..., or a method that ends in _); work on a new tensor: {what} = {what} + 1"
                )
        if not isinstance(values, (Tensor, np.ndarray, numbers.Real)):
            hint = ": is the 'return' missing?" if values is None else ""
            hint = (
                ": wrap it in torch.as_tensor(...), or stack its parts" if isinstance(values, (list, tuple)) else hint
            )
            raise TypeError(
                f"reward function {self.name} returned {type(values).__name__}; expected a tensor or number{hint}"
            )
        tensor, source = float_tensor(values, f"the result of reward function {self.name}")
        self.seen["gradient"] = self.seen.get("gradient", False) or tensor.requires_grad
        if not isinstance(values, numbers.Real):
            self.seen["dtype"] = source
        return tensor

    def unread(self, name: str, flag: str) -> Unread:
        return Unread(
            f"reward function {self.name} reads {name}, and it was said not to ({flag}=False): leave that word out, or "
            f"do not look at {name}"
        )

    def _reason(self, error: Exception, mdp: MDP, step: Step) -> str:
        """What went wrong inside the function, and what to write instead."""
        text = str(error)
        if "Boolean value of Tensor" in text:
            return (
                "branches on a tensor ('if', 'and', 'or' or 'not'); it is called once for many states: use "
                "torch.where(condition, yes, no), and &, |, ~ between conditions"
            )
        if "numpy() on Tensor that requires grad" in text:
            return (
                "hands a tensor that requires grad to NumPy, where its gradient would be lost; do not detach it: use "
                "the torch function of the same name (torch.exp for np.exp, torch.dot for np.dot)"
            )
        head = f"failed with {type(error).__name__}: {error}; "
        if isinstance(error, (IndexError, KeyError)) or "out of bounds" in text or "out of range" in text:
            return head + (
                (f"at t = {step.t}, " if self.reads_time else "")
                + f"states are 0 to {mdp.num_states - 1}, actions 0 to {mdp.num_actions - 1}, and t "
                "runs from 0 to T - 1 (the state that a discount falls into is never asked about): give its tensor or "
                "table an entry for each of them"
            )
        if "converted" in text or "one-element" in text or "item()" in text:
            return head + (
                "float(...), int(...), .item() and lists take one number, and it is called once for many states: keep "
                "the whole tensors, with torch functions for those of math and torch.where for choices"
            )
        if isinstance(error, TypeError) and "where() received" in text and "got (bool," in text:
            return (
                "compares an index with a name; states and actions are numbers here: look them up outside the function "
                "with mdp.state_index(name) and mdp.action_index(name)"
            )
        if isinstance(error, NameError):
            return f"failed with NameError: {error}"
        if "dtype" in text:
            return head + "numbers made in a reward function are float64: convert what they meet with .double()"
        return head + (
            f"it is called as {self.name}{CALL} with whole index tensors and the time index t: use torch operations on "
            "them (torch.where, arithmetic, tables as tensors)"
        )

    @property
    def learns(self) -> bool:
        """Whether it holds tensors that require grad: parameters, or what it sees of the places around it."""
        return any(_requires_grad(value) for value in _surroundings(self.function))


@overload
def reward_factor(function: Callable[..., Any]) -> CallableReward: ...


@overload
def reward_factor(
    *, reads_outcome: bool = True, reads_time: bool = True
) -> Callable[[Callable[..., Any]], CallableReward]: ...


def reward_factor(
    function: Callable[..., Any] | None = None, *, reads_outcome: bool = True, reads_time: bool = True
) -> Any:
    """Makes a reward factor of a function of (state, action, next_state, t); a decorator, with options or without.

        @reward_factor(reads_outcome=False, reads_time=False)
        def toll(state, action, next_state, t):
            return torch.where(state == 3, -2.0, 0.0)

        model = TrajectoryModel(mdp, toll + Goal("exit", 10.0), horizon=20)

    Args:
        function: see `CallableReward`.
        reads_outcome: say False if next_state is never looked at; any use of it then raises, and backends work on
            [S, A].
        reads_time: say False if t is never looked at; any use of it then raises, and the table is made once.

    Raises:
        TypeError: if the function takes other arguments, or these in another order.
    """
    if function is None:
        return functools.partial(reward_factor, reads_outcome=reads_outcome, reads_time=reads_time)
    return CallableReward(function, reads_outcome, reads_time)


def check_arguments(function: Any, hint: str = "") -> None:
    """Raises TypeError unless a function takes (state, action, next_state, t) in this order."""
    try:
        signature = inspect.signature(function.forward if isinstance(function, nn.Module) else function)
    except (TypeError, ValueError):  # what is compiled may not tell
        return
    name = _name(function)
    try:
        signature.bind(None, None, None, None)
    except TypeError:
        raise TypeError(
            f"reward function {name} takes {signature}; it is called as {name}{CALL}: give it these four "
            f"arguments{hint}"
        ) from None
    for place, argument in enumerate(list(signature.parameters)[:4]):
        if PLACES.get(argument, place) != place:
            raise TypeError(
                f"reward function {name} takes {signature}; it is called by position as {name}{CALL}: put its "
                "arguments in this order"
            )


def digits_lost(values: Tensor, source: torch.dtype) -> str:
    """An entry that was rounded to fewer digits than float64 has, e.g. 0.1 in float32; empty where none is."""
    kinds = {torch.float32: np.float32, torch.float16: np.float16}
    if source not in kinds:
        return ""
    flat = values.detach().flatten()
    for value in np.unique(flat[:: max(1, len(flat) // 256)].numpy()):
        meant = float(str(kinds[source](value)))
        if np.isfinite(value) and meant != value:
            return f"{value:.12g}, probably for {meant!r}"
    return ""


def _name(function: Any) -> str:
    if isinstance(function, functools.partial):
        return _name(function.func)
    return getattr(function, "__name__", type(function).__name__)


def dtype_of(function: Any) -> torch.dtype:
    """What a module computes in; float64 for anything else."""
    parameter = next(function.parameters(), None) if isinstance(function, nn.Module) else None
    return torch.float64 if parameter is None else parameter.dtype


def _surroundings(function: Any) -> Iterator[Any]:
    """What a function can see of the places around it: closure, defaults, globals that it names, its own object."""
    if isinstance(function, functools.partial):
        yield from (*function.args, *function.keywords.values())
        yield from _surroundings(function.func)
        return
    yield function
    yield getattr(function, "__self__", None)
    plain = inspect.unwrap(getattr(function, "__func__", function))
    code = getattr(plain, "__code__", None)
    if code is None:
        return
    yield from (plain.__defaults__ or ())
    yield from (plain.__globals__[name] for name in code.co_names if name in plain.__globals__)
    for cell in plain.__closure__ or ():
        with contextlib.suppress(ValueError):  # a cell may be empty yet
            yield cell.cell_contents


def _requires_grad(value: Any) -> bool:
    if isinstance(value, nn.Module):
        return any(parameter.requires_grad for parameter in value.parameters())
    return isinstance(value, Tensor) and value.requires_grad
