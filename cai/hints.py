"""Asks a student's function, and turns what goes wrong inside it into a hint; the labs of the course call it.

`ask` speaks of functions that stop, or return something of another kind; `cai.diagnosis` of wrong numbers.
"""

from __future__ import annotations

import dis
import inspect
import math
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch

__all__ = ["ask"]

# What Python, torch or Pyro say, in parts, and the hint; the first that fits is taken.
SAID: tuple[tuple[tuple[str, ...], str], ...] = (
    (("is not defined",), "is a name misspelt, a line deleted that defines it, or `self.` left out in a method?"),
    (
        ("before assignment", "cannot access local variable"),
        "a variable is used before it has a value: is it set before the loop?",
    ),
    (
        ("missing 1 required positional argument",),
        "an argument is missing, or a class is used before an object is made of it: Name(...).method(...)",
    ),
    (
        ("has_rsample",),
        "a program with factors stands where a guide belongs: the order is loss(program, guide)",
    ),
    (
        ("positional argument", "keyword argument"),
        "keep the list of arguments as it was, and call what you are given with all of its own",
    ),
    (
        ("elements cannot be converted", "only one element tensors", "can only be converted to"),
        "a tensor of many is made into one number: take torch.log and torch.exp, not those of math, and no .item()",
    ),
    (
        ("must be tensor, not", "invalid combination of arguments"),
        "torch functions take tensors; of single numbers use math, or torch.as_tensor(x)",
    ),
    (
        ("truth value of", "boolean value of tensor"),
        "an `if`, `and`, `in` or max(...) asks about one number, and this is a tensor of many: torch.where, &, .clamp",
    ),
    (
        ("two bool tensors", "a bool tensor"),
        "masks are joined by &, | and ~ and not by arithmetic; as numbers they are mask.double()",
    ),
    (
        ("math domain error", "expected a positive input"),
        "math.log(0) is an error: return -math.inf where a probability is 0",
    ),
    (("math range error",), "the exponential is too large for a float: stay in log space"),
    (
        ("must match the size", "inconsistent tensor size", "expand(", "shape mismatch", "broadcast"),
        "two shapes do not fit: write them down, and put a new axis where one is missing, as in x[:, None]",
    ),
    (
        ("shapes cannot be multiplied", "size mismatch", "incompatible shapes"),
        "two shapes do not fit for @ or solve: write them down; is a .T missing, or (x * y).sum(-1) meant?",
    ),
    (
        ("out of bounds", "out of range"),
        "an index is too large: tensors count from 0, so step t is row t - 1; axes are [state, action, next state]",
    ),
    (("too many indices",), "there are more indices than axes: the shapes stand in the docstring"),
    (
        ("does not require grad", "does not have a grad_fn"),
        "nothing here can be differentiated: set requires_grad=True, and keep detach() and float() out of the loss",
    ),
    (
        ("not have been used in the graph",),
        "the number does not depend on what it is differentiated by: is a part of it detached?",
    ),
    (
        ("leaf variable",),
        "a tensor that requires grad is changed in place: let the optimiser change it, or build a new one",
    ),
    (
        ("inplace operation",),
        "a tensor that the gradient needs is changed in place: collect rows in a list, then torch.stack",
    ),
    (("second time",), "backward() runs through one graph twice: compute the bound anew in each step"),
    (("multiple sample sites named",), 'two sites have one name: the name carries the step, f"a_{t}"'),
    (
        ("max_plate_nesting", "enumerate_dim", "too many dimensions", "ran out of", "out of free"),
        "under pyro.markov variables of a long loop share dimensions; config_enumerate marks what is summed over",
    ),
    (
        ("not supported between instances",),
        "two things are compared that have no order, as None and a number: ask first `if x is None`",
    ),
    (("singular",), "a matrix has no inverse: is one left out, as I or a noise, or is that a case of its own?"),
    (
        ("and 'nonetype'", "'nonetype' and"),
        "this reckons with None: has this answer such a number (exact ones alone have a log_evidence; all an elbo), "
        "or is something asked for before it is there, as a gradient?",
    ),
    (
        ("not implemented for 'complex", "for complex"),
        "complex numbers have no order: take their modulus first, .abs()",
    ),
    (
        ("unsupported operand",),
        "this reckons with something that is no number: take the number out of it first, as in posterior.elbo",
    ),
    (
        ("the constraint", "within the support"),
        "a distribution is given numbers that it cannot take (a negative std, an infinite place): are two exchanged?",
    ),
    (
        ("probability tensor contains",),
        "probabilities are negative or NaN: are they logits (logarithms), which stand behind Categorical(logits=...)?",
    ),
    (
        ("cannot be differentiated",),
        "no gradient reaches the number: does a float(), an item() or a detach() cut it off?",
    ),
    (("no backend",), "no backend is called that: cai.available_backends() lists them"),
    (("has no attribute",), "the value is of another kind than you expect: print its type"),
    (("is not iterable",), "one thing stands where several are expected: is a part of it meant, as its log_evidence?"),
    (("not subscriptable",), "something is indexed that holds no entries: was a function meant to be called first?"),
    (
        ("'tensor' object is not callable", "'float' object is not callable"),
        "a number is called like a function: leave out its (), as in posterior.believed_return; a product needs *",
    ),
    (("not callable",), "something is called that is no function: is a name used twice?"),
)


def ask(
    function: Callable[..., Any],
    *arguments: Any,
    shape: Sequence[int] | None = None,
    parts: int | None = None,
    raises: type[Exception] | None = None,
    **keywords: Any,
) -> Any:
    """Calls a function that a student wrote, and returns what it returns.

    An answer that is still to be written goes through (`NotImplementedError`); what else stops it becomes a hint.

    Args:
        function: the student's.
        arguments: for it.
        shape: of the tensor that it should return, () of a number; anything but None may be returned, unless given.
        parts: how many results it should return, side by side; any number, unless given.
        raises: an error that the function may raise, by a `raise` of its own; it is returned.
        keywords: for it.

    Raises:
        AssertionError: if the function stops with an error, returns nothing, or not a tensor of that shape, or NaN. The
            text says what is likely wrong.
    """
    name = getattr(function, "__name__", "your function")
    before = {place: _copy(value) for place, value in enumerate(arguments) if isinstance(value, torch.Tensor)}
    try:
        got = function(*arguments, **keywords)
    except AssertionError:
        raise
    except Exception as error:
        if isinstance(error, NotImplementedError) and "not implemented for" not in str(error):  # torch's are answers
            raise
        if raises is not None and isinstance(error, raises) and _meant(error):
            return error
        said = f"{name} stopped with {type(error).__name__}: {_short(error)}".removesuffix(".")
        raise AssertionError(f"{said}. {_hint(error)}".rstrip()) from error
    if got is None:
        raise AssertionError(f"{name} returns nothing: end it with `return` and the result (to print it is not enough)")
    if isinstance(got, BaseException):
        raise AssertionError(f"{name} returns an error: it has to be raised, `raise {type(got).__name__}(...)`")
    for place, (entries, differentiated) in before.items():
        _left_alone(function, name, place, arguments[place], entries, differentiated)
    if parts is not None and (not isinstance(got, (tuple, list)) or len(got) != parts):
        count = f"{len(got)} results" if isinstance(got, (tuple, list)) else "one result"
        raise AssertionError(f"{name} returns {count}; expected {parts}, as its docstring says: return first, second")
    if shape is None:
        return got
    if isinstance(got, (list, tuple)):
        raise AssertionError(
            f"{name} returns a {type(got).__name__}; expected one tensor of shape {tuple(shape)}: torch.stack"
        )
    if callable(got):
        raise AssertionError(f"{name} returns a function; call it, or return its result")
    try:
        table = torch.as_tensor(got)
    except (TypeError, ValueError, RuntimeError):
        kind = type(got).__name__
        raise AssertionError(f"{name} returns a {kind}; expected one tensor of shape {tuple(shape)}") from None
    if tuple(table.shape) != tuple(shape):
        was, wanted = tuple(table.shape), tuple(shape)
        raise AssertionError(f"{name} returns shape {was}; expected {wanted}: {axes_hint(was, wanted)}")
    if bool(torch.isnan(table.detach().double()).any()):
        raise AssertionError(
            f"{name} returns NaN: it takes inf / inf (an exp that overflows: stay in log space), -inf minus -inf, "
            "0 times inf, 0 / 0, or the log of a negative number"
        )
    return got


def _last(error: Exception) -> TracebackType | None:
    """Where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def _raised_in(error: Exception) -> str:
    """The module whose code raised it."""
    trace = _last(error)
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))


def _meant(error: Exception) -> bool:
    """Whether a `raise` written in Python raised it, and nothing compiled."""
    trace = _last(error)
    return trace is not None and trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _copy(tensor: torch.Tensor) -> tuple[torch.Tensor, bool]:
    return tensor.detach().clone(), tensor.requires_grad


def _left_alone(
    function: Callable[..., Any], name: str, place: int, now: torch.Tensor, entries: torch.Tensor, differentiated: bool
) -> None:
    """Refuses a function that changed a tensor of its caller."""
    same = now.shape == entries.shape and torch.equal(torch.nan_to_num(now.detach()), torch.nan_to_num(entries))
    if same and now.requires_grad == differentiated:
        return
    try:
        argument = f"its argument `{list(inspect.signature(function).parameters)[place]}`"
    except (TypeError, ValueError, IndexError):
        argument = "one of its arguments"
    if not same:
        raise AssertionError(
            f"{name} changes {argument} in place, which the caller goes on using: work on a copy, x.clone(), and "
            "write x = x + y where you wrote x += y"
        )
    raise AssertionError(
        f"{name} marks {argument} for gradients, which the caller goes on using: take a copy, "
        "x = x.detach().clone().requires_grad_()"
    )


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else "no message")[:300]


def _hint(error: Exception) -> str:
    said = str(error).lower()
    for parts, hint in SAID:
        if any(part in said for part in parts):
            return f"Hint: {hint}"
    if isinstance(error, RecursionError):
        return "Hint: the function calls itself without end"
    if isinstance(error, KeyError):
        return "Hint: there is no entry of that name: names of sites are counted from 1, as s_1, a_1, O_1"
    if _raised_in(error).startswith("cai."):
        return ""  # what cai says names the mistake, and the way out
    return "Hint: run the cell of your answer on small numbers, and print what stands in each line"


def axes_hint(got: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """What a wrong shape is likely to come from."""
    if len(got) > len(wanted):
        return "an axis is left over: sum it out, the last one is dim=-1"
    if len(got) < len(wanted):
        return "an axis is gone: sum over one axis alone, with dim=-1, and keep the others"
    if sorted(got) == sorted(wanted):
        return "the axes are in another order, or the sum ran over the wrong one"
    return "the sum ran over the wrong axis, or a row is missing" if math.prod(got) else "it is empty"
