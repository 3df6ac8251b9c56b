"""Whether values are of the types that a class declares, and the layout of the header of a file."""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

import torch

__all__ = [
    "check_document",
    "check_fields",
    "check_tables",
    "declared_types",
    "fits",
    "no_number",
    "shown",
    "unique_keys",
    "whole",
]

_DOCUMENT = {"version": int, "kind": str, "root": Any, "objects": list[dict[str, Any]], "sums": dict[str, int]}
ROUNDING = 1e-5  # by which a probability that was computed may exceed 1
_OBJECT = {"kind": str, "parts": dict[str, Any]}


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What `json.loads` takes as `object_pairs_hook`: refuses an object that names a key twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def no_number(word: str) -> Any:
    """What `json.loads` takes as `parse_constant`: NaN and Infinity are no numbers in JSON."""
    raise ValueError(f"{word} is no number in JSON")


def whole(text: str) -> int:
    """What `json.loads` takes as `parse_int`: refuses what no float can hold."""
    if len(text) > 308:
        raise ValueError(f"{text[:20]}... is too large a number")
    return int(text)


def check_document(document: Any) -> None:
    """Refuses a header that has not the layout which `cai.models.common.storage` writes.

    Raises:
        ValueError: naming the field.
    """
    _check_layout(document, _DOCUMENT, "the header")
    for i, entry in enumerate(document["objects"]):
        _check_layout(entry, _OBJECT, f"objects.{i}")


def _check_layout(value: Any, layout: dict[str, Any], where: str) -> None:
    if not isinstance(value, dict) or set(value) != set(layout):
        raise ValueError(f"{where} has not the fields {', '.join(layout)}")
    for name, hint in layout.items():
        if not fits(value[name], hint):
            raise ValueError(f"{where}.{name} is {shown(value[name])}")


def check_fields(cls: type, parts: Mapping[str, Any]) -> None:
    """Refuses parts of the wrong types, by the annotations of the class; names without one are free.

    Raises:
        TypeError: naming the field, its type and the value.
    """
    known = declared_types(cls)
    for name, value in parts.items():
        if name in known and not fits(value, known[name]):
            raise TypeError(f"{name} is {shown(value)}; expected {_written(known[name])}")


def check_tables(made: Any, axes: Mapping[str, str]) -> None:
    """Refuses an object whose tables have not the axes and the bounds that its classes declare, or hold NaN.

    A class declares `_stored_axes = {"action_probs": "T S A chances"}`: axes by name, "T+1" among them, "..." in front
    or behind for any number of others, and "chances" for numbers from 0 to 1, "counts" for numbers of at least 0, "any"
    for tables that may hold no floats, "gaps" where NaN stands for what is not known. An axis of one name is as long in
    every table of the object, and as its `_axis_lengths()` says, where there is one. Of a mapping or a list every value
    is such a table. What ties other parts together is for a method `_check_held()`.

    Raises:
        ValueError: naming the table, its shape and what was expected.
    """
    declared = dict(axes)
    for base in reversed(type(made).__mro__):
        declared |= vars(base).get("_stored_axes", {})
    lengths = made._axis_lengths() if declared and hasattr(made, "_axis_lengths") else {}
    for name, written in declared.items():
        part = vars(made).get(name) if hasattr(made, "__dict__") else getattr(made, name)
        parts = {name: part}
        if isinstance(part, (Mapping, list, tuple)):
            pairs = part.items() if isinstance(part, Mapping) else enumerate(part)
            parts = {f"{name}.{key}": inner for key, inner in pairs}
        for called, table in parts.items():
            if table is not None:
                _check_table(called, table, written, lengths)
    if hasattr(made, "_check_held"):
        made._check_held()


def _check_table(name: str, given: Any, written: str, lengths: dict[str, int]) -> None:
    table, words = torch.as_tensor(given), written.split()
    if gaps := words[-1:] == ["gaps"]:
        words.pop()
    bound = words.pop() if words[-1:] in (["chances"], ["counts"], ["any"]) else ""
    if not table.is_floating_point() and isinstance(given, torch.Tensor) and bound != "any":
        raise ValueError(f"{name} is of {table.dtype}; expected floats")
    axes = [word for word in words if word != "..."]
    shape = list(table.shape)
    if "..." in words:
        shape = shape[: len(axes)] if words[-1] == "..." else shape[max(0, len(shape) - len(axes)) :]
    expected = f"{name} has shape {list(table.shape)}; expected [{', '.join(words)}]"
    if len(shape) != len(axes):
        raise ValueError(expected)
    for axis, length in zip(axes, shape, strict=True):
        letter, _, more = axis.partition("+")
        if lengths.setdefault(letter, length - int(more or 0)) != length - int(more or 0):
            raise ValueError(f"{expected} with {letter} = {lengths[letter]}")
    if not table.numel():
        return
    least, most = (float(end) for end in torch.aminmax(table))  # both NaN where one entry is
    if not gaps and least != least:
        raise ValueError(f"{name} holds NaN")
    if bound in ("chances", "counts") and (least < 0 or (bound == "chances" and most > 1 + ROUNDING)):
        beyond, meant = least if least < 0 else most, {"chances": "numbers from 0 to 1", "counts": "numbers >= 0"}
        raise ValueError(f"{name} holds {beyond:g}; expected {meant[bound]}")


@functools.cache
def declared_types(cls: type) -> dict[str, Any]:
    """The types of a class's attributes, annotated or computed; without those that cannot be told at run time."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        names = vars(sys.modules[base.__module__]) if base.__module__ in sys.modules else {}
        computed = {name: _result(part) for name, part in vars(base).items() if _result(part) is not None}
        for name, written in (computed | vars(base).get("__annotations__", {})).items():
            written = getattr(written, "__forward_arg__", written)  # as the fields of a NamedTuple are held
            try:
                hint = eval(written, names) if isinstance(written, str) else written  # the library's own source
            except (NameError, TypeError, AttributeError):  # imported for type checkers alone
                found.pop(name, None)
                continue
            if hint is not ClassVar and get_origin(hint) is not ClassVar and not isinstance(hint, dataclasses.InitVar):
                found[name] = hint
    return found


def _result(attribute: Any) -> Any:
    """What an attribute that is computed when it is looked at is declared to be; None for any other."""
    return getattr(getattr(attribute, "compute", None), "__annotations__", {}).get("return")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type, containers to their bottom; what cannot be told fits."""
    if hint is Any:
        return True
    origin, args = _taken_apart(hint)
    if hint is None or hint is type(None):
        return value is None
    if origin in (Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if isinstance(value, torch.Tensor) and hint in (int, float):
        return value.dim() == 0
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is tuple and args and args[-1] is not Ellipsis:
        return isinstance(value, tuple) and len(value) == len(args) and all(map(fits, value, args))
    if origin is not None and isinstance(origin, type):
        if not isinstance(value, origin):
            return False
        parts: Any = value
        if issubclass(origin, Mapping) and len(args) == 2:
            return all(fits(key, args[0]) and fits(part, args[1]) for key, part in parts.items())
        if issubclass(origin, Sequence) and args:
            return all(fits(part, args[0]) for part in parts)
        return True
    if isinstance(hint, type) and getattr(hint, "_is_protocol", False):
        members = {*vars(hint), *vars(hint).get("__annotations__", ())}
        return all(hasattr(value, name) for name in members if not name.startswith("_"))
    return isinstance(value, hint) if isinstance(hint, type) else True


@functools.cache
def _taken_apart(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return get_origin(hint), get_args(hint)


def shown(value: Any) -> str:
    """A value in a sentence: a short one itself, a table by its shape, and the type of either."""
    text = repr(value) if not isinstance(value, torch.Tensor) else f"{value.dtype} {list(value.shape)}"
    return f"{text if len(text) < 60 else text[:57] + '...'} ({type(value).__name__})"


def _written(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and get_origin(hint) is None else str(hint).replace("typing.", "")
