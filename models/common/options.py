"""Names with options behind them, as they are written on the command line: "risk:eta=-2"."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterable
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from cai.models.common.checks import whole_number

__all__ = ["check_kinds", "named_options", "split_names", "split_options"]

OPENING, CLOSING = "([{", ")]}"
KINDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", type(None): "none"}


def split_options(text: str, kind: str) -> tuple[str, dict[str, Any]]:
    """("risk", {"eta": -2}) from "risk:eta=-2".

    Args:
        text: NAME or NAME:option=value,option=value; numbers, inf, true, false and none are read as such, [a, b] as a
            list of values, and other values as words. Commas within brackets or quotes belong to the value, as in
            "goal:states=bridge(2,3),value=2".
        kind: what is named, for messages.

    Raises:
        ValueError: if an option has no value or no name or is given twice, or a bracket or quote is left open.
    """
    name, _, rest = text.partition(":")
    return name.strip(), named_options(_parts(rest, f"{kind} {text!r}") if rest else (), f"{kind} {text!r}")


def named_options(parts: Iterable[str], what: str, form: str = "NAME:option=value,option=value") -> dict[str, Any]:
    """{"eta": -2} from ["eta=-2"]; `what` they belong to and how they are written, for messages."""
    options: dict[str, Any] = {}
    for part in parts:
        key, given, value = part.partition("=")
        if not given or not key.strip():
            raise ValueError(f"{part!r} in {what} is no option; write {form}")
        if key.strip() in options:
            raise ValueError(f"{what} gives {key.strip()} twice; give it once")
        options[key.strip()] = _literal(value.strip())
    return options


def check_kinds(made: Any, options: dict[str, Any], what: str) -> None:
    """Refuses options that are no number, no whole number or no truth value where a class says that they are.

    Args:
        made: a class with annotated fields; those of other types are left to it.
        options: by name.
        what: they belong to, for messages.

    Raises:
        ValueError: naming the option, what it is and what was expected.
    """
    hints = _hints(made)
    for name, value in options.items():
        hint = hints.get(name)
        kinds = set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}
        if not kinds <= KINDS.keys() or (value is None and type(None) in kinds):
            continue
        truth = isinstance(value, (bool, np.bool_))
        fits = {bool: truth, int: whole_number(value) is not None, float: not truth and hasattr(value, "__float__")}
        if not any(fits.get(kind) for kind in kinds):
            expected = " or ".join(text for kind, text in KINDS.items() if kind in kinds)
            raise ValueError(f"{what}: {name} is {value!r}; expected {expected}")


@functools.lru_cache(maxsize=128)  # reading annotations takes as long as the answer to a small model
def _hints(made: Any) -> dict[str, Any]:
    try:
        return get_type_hints(made)
    except Exception:  # a plug-in's annotations may name what is not there
        return {}


def split_names(text: str) -> list[str]:
    """["exact", "risk:eta=-2,tolerance=1e-3"] from "exact,risk:eta=-2,tolerance=1e-3".

    A part that is no option of the name before it is a name of its own.
    """
    names: list[str] = []
    for part in _parts(text, repr(text)):
        option = re.match(r"\s*\w+\s*=", part) is not None
        if option and names and ":" in names[-1]:
            names[-1] += f",{part}"
        else:
            names.append(part.strip())
    return [name for name in names if name]


def _parts(text: str, what: str) -> list[str]:
    """The text between commas that stand in no bracket and in no quotes."""
    parts, open_brackets, quote = [""], [], ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and parts[-1].rstrip()[-1:] in ("", "=", "[", "(", ","):  # an apostrophe quotes nothing
            quote = letter
        elif letter in OPENING:
            open_brackets.append(letter)
        elif letter in CLOSING and open_brackets and OPENING.index(open_brackets[-1]) == CLOSING.index(letter):
            open_brackets.pop()
        elif letter == "," and not open_brackets:
            parts.append("")
            continue
        parts[-1] += letter
    if quote or open_brackets:
        raise ValueError(f"{what} has no closing {quote or CLOSING[OPENING.index(open_brackets[-1])]}; add it")
    return parts


def _literal(text: str) -> Any:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    if text.startswith("[") and text.endswith("]"):
        return [_literal(part.strip()) for part in _parts(text[1:-1], repr(text)) if part.strip()]
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        return float(text)
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)
