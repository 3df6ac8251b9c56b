"""Says what a wrong number is likely to come from: the labs of the course call it once a function has returned.

A number is first held against what each known cause would give, then against what any number may be: the right one with
another sign, a factor, a term or an axis too many.
"""

from __future__ import annotations

import dis
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType, ModuleType
from typing import Any

import torch
from torch import Tensor

from cai.hints import axes_hint

__all__ = ["expect"]


def expect(
    got: Any,
    want: Any,
    what: str,
    *,
    causes: Mapping[str, Any] | None = None,
    terms: Mapping[str, Any] | None = None,
    numbers: Mapping[str, float] | None = None,
    function: Callable[..., Any] | None = None,
    spare: Sequence[str] = (),
    elsewhere: bool = False,
    atol: float = 1e-8,
) -> None:
    """Holds what a student's function returned against what is right, and says what is likely wrong.

    Args:
        got: what was returned; a number or a tensor.
        want: what is right, of the same shape.
        what: what that is, as in "the policy", for the sentence.
        causes: sentences, and what each mistake would have returned; the first that fits is told. An entry may be a
            function without arguments, which is called when its turn comes.
        terms: parts that add up to the right answer, with their signs, or some of them: each may be missing, be in it
            twice, or with the wrong sign.
        numbers: numbers of the problem by name, as in {"alpha": 0.5}; they are looked for among factors and terms.
        function: the student's, whose arguments should all be used.
        spare: arguments that a right answer may leave unused, and variables of the notebook that it may read.
        elsewhere: whether the problem is another than the notebook's, so that a function which reads the notebook's
            variables is told.
        atol: how far entries may be off.

    Raises:
        AssertionError: unless the two agree.
    """
    was, wanted = _table(got), _table(want)
    if was is None or wanted is None:
        raise AssertionError(f"{what}: a {type(got).__name__} where a number or a tensor is expected")
    if _same(was, wanted, atol):
        return
    if was.shape != wanted.shape:
        first, second = tuple(was.shape), tuple(wanted.shape)
        raise AssertionError(f"{what}: the shape is {first}; expected {second}: {axes_hint(first, second)}")
    for sentence, wrong in (causes or {}).items():
        made = _table(wrong() if callable(wrong) else wrong)
        if made is not None and _same(was, made, atol):
            raise AssertionError(f"{what}: {sentence}")
    for name, worth in (terms or {}).items():
        for times, sentence in (
            (-1, f"{name} is missing"),
            (1, f"{name} is in it twice"),
            (-2, f"{name} has the wrong sign"),
        ):
            if bool(torch.as_tensor(worth).any()) and _same(was, wanted + times * torch.as_tensor(worth), atol):
                raise AssertionError(f"{what} is wrong: {sentence}")
    if isinstance(got, Tensor) and got.dtype == torch.float32 and torch.allclose(was, wanted, rtol=1e-4, atol=1e-4):
        raise AssertionError(f"{what} is in single precision: leave the dtype as it is, without .float() or float32")
    read = next(_read(function, spare, elsewhere), None)
    if read is not None:
        raise AssertionError(
            f"{what} is wrong{' for numbers other than those of the notebook' if elsewhere else ''}: {read}"
        )
    told = next(_relations(was, wanted, numbers or {}, atol), None) or _where(was, wanted, atol)
    raise AssertionError(f"{what} is wrong: {told}")


def _table(value: Any) -> Tensor | None:
    if isinstance(value, (list, tuple)) and any(isinstance(part, Tensor) for part in value):
        value = torch.stack([torch.as_tensor(part) for part in value])
    try:
        table = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
        return table.detach().double()
    except (TypeError, ValueError, RuntimeError):
        return None


def _same(first: Tensor, second: Tensor, atol: float) -> bool:
    return first.shape == second.shape and torch.allclose(first, second, atol=atol, rtol=1e-9, equal_nan=True)


def _read(function: Callable[..., Any] | None, spare: Sequence[str], elsewhere: bool) -> Iterator[str]:
    """What the code of a function leaves unused, or reads besides its arguments."""
    code = getattr(function, "__code__", None)
    if function is None or code is None:
        return
    loaded = set(_loaded(code))
    around = {name: function.__globals__[name] for name in _loaded(code, "LOAD_GLOBAL") if name in function.__globals__}
    variables = sorted(
        name for name, value in around.items() if not callable(value) and not isinstance(value, ModuleType)
    )
    variables = [name for name in variables if name not in spare]
    beside = f"; it reads {', '.join(f'`{name}`' for name in variables)} of the notebook" if variables else ""
    for name in inspect.signature(function).parameters:
        if name not in loaded and name not in spare:
            yield f"the argument `{name}` is not used" + (beside if elsewhere else "")
    if elsewhere and variables:
        yield f"besides its arguments{beside[1:].replace('it reads', 'the function reads')}"


def _loaded(code: CodeType, operation: str = "LOAD") -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname.startswith(operation):
            names = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
            yield from (name for name in names if isinstance(name, str))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _loaded(constant, operation)


def _relations(got: Tensor, want: Tensor, numbers: Mapping[str, float], atol: float) -> Iterator[str]:
    """Sentences on how a wrong table comes from the right one."""
    if bool(got.isnan().any()):
        yield "NaN comes of inf / inf, of -inf minus -inf, of 0 times inf, or of the log of a negative number"
        return
    if not bool((got.isfinite() == want.isfinite()).all()):
        first = (got.isfinite() != want.isfinite()).nonzero()[0].tolist()
        here, expected = float(got[tuple(first)]), float(want[tuple(first)])
        yield f"at {first} it is {here}; expected {expected:.6g}: is that the log of 0, or an exp that overflows?"
        return
    finite = want.isfinite()
    was, right = got[finite], want[finite]
    many = right.numel() > 1 and float(right.max() - right.min()) > 1e-6
    if _same(was, -right, atol):
        yield "the sign is wrong, everywhere"
    if not bool(was.any()):
        yield "it is 0: is the result computed, and never added or stored?"
    yield from _factors(was, right, numbers, many, atol)
    yield from _terms(was, right, numbers, many, atol)
    for sentence, made in (
        ("that is exp of it; the logarithm is asked for", right.exp()),
        ("that is its logarithm; the number itself is asked for: exp", right.clamp(min=1e-300).log()),
        ("that is its square", right.square()),
        ("that is its square root", right.clamp(min=0).sqrt()),
        ("that is 1 minus it", 1 - right),
        ("that is its absolute value; the sign counts", right.abs()),
        ("it is cut to whole numbers: an integer tensor is made on the way", right.trunc()),
        ("it is clamped at 0: negative numbers count, too", right.clamp(min=0)),
    ):
        if _same(was, made, atol):
            yield sentence
    if want.ndim > 0 and want.shape[-1] > 1:
        yield from _axes(got, want, atol)


def _factors(was: Tensor, right: Tensor, numbers: Mapping[str, float], many: bool, atol: float) -> Iterator[str]:
    largest = int(right.abs().argmax())
    if not bool(right.any()) or not bool(was.any()):
        return
    factor = float(was[largest] / right[largest])
    if not _same(was, factor * right, max(atol, 1e-7)):
        return
    for name, number in numbers.items():
        for power, sentence in (
            (1, f"{name} is one factor too many"),
            (-1, f"the factor {name} is missing, or divided by"),
            (2, f"{name} is a factor twice too often"),
            (-2, f"it is divided by {name} where it should be multiplied"),
            (0.5, f"the root of {name} is one factor too many"),
            (-0.5, f"the root of {name} is missing"),
        ):
            for sign, beside in ((1, ""), (-1, ", and the sign is wrong")):
                if math.isclose(factor, sign * abs(number) ** power, rel_tol=1e-6):
                    yield sentence + beside
    if many or math.isclose(abs(factor), round(abs(factor)), rel_tol=1e-9):
        yield f"it is {factor:.6g} times what is expected: a factor is missing, or a mean stands for a sum"


def _terms(was: Tensor, right: Tensor, numbers: Mapping[str, float], many: bool, atol: float) -> Iterator[str]:
    term = float((was - right).mean())
    if not _same(was, right + term, max(atol, 1e-7)):
        return
    for name, number in numbers.items():
        for worth, written in ((number, name), (math.log(abs(number) or 1.0), f"log {name}")):
            if worth and math.isclose(abs(term), abs(worth), rel_tol=1e-6):
                yield f"it is {written} too {'large' if term > 0 else 'small'}"
            elif worth and math.isclose(abs(term), 2 * abs(worth), rel_tol=1e-6):
                yield f"the sign of {written} is wrong"
    if many:
        which = "large: a term is one too many" if term > 0 else "small: a term is missing"
        yield f"it is everywhere {abs(term):.6g} too {which}"


def _axes(got: Tensor, want: Tensor, atol: float) -> Iterator[str]:
    if want.ndim >= 2 and _same(got, want.mT, atol):
        yield "two axes are exchanged: is a .T missing, or one too many?"
    for axis in range(want.ndim):
        if want.shape[axis] > 1 and _same(got, want.flip(axis), atol):
            yield "it is in reverse order: is the first step first?"
    if want.shape[0] > 2:
        if _same(got[1:], want[:-1], atol):
            yield "the rows come one step late: steps count from 1, rows from 0"
        elif _same(got[:-1], want[1:], atol):
            yield "the rows come one step early: steps count from 1, rows from 0"
    total = got.sum(-1, keepdim=True)
    shares = bool((want >= 0).all()) and _same(want.sum(-1), torch.ones(want.shape[:-1]).double(), 1e-9)
    if shares and bool((total.abs() > 1e-12).all()) and _same(got / total, want, max(atol, 1e-7)):
        yield "it does not sum to 1: divide it by its sum"
    if _same(got.flatten().sort().values, want.flatten().sort().values, atol):
        yield "the right numbers stand in another order"


def _where(got: Tensor, want: Tensor, atol: float) -> str:
    if got.ndim == 0:
        return f"it is {float(got):.6g}; expected {float(want):.6g}"
    off = ~torch.isclose(got, want, atol=atol, rtol=1e-9)
    first = off.nonzero()[0].tolist()
    count = f"in {int(off.sum())} of {off.numel()} entries, first at {first if got.ndim > 1 else first[0]}"
    return f"{count}: it is {float(got[tuple(first)]):.6g} there; expected {float(want[tuple(first)]):.6g}"
