"""Names with options behind them, as they are written on the command line: "risk:eta=-2"."""

from __future__ import annotations

import contextlib
from typing import Any

__all__ = ["split_options"]


def split_options(text: str, kind: str) -> tuple[str, dict[str, Any]]:
    """("risk", {"eta": -2}) from "risk:eta=-2".

    Args:
        text: NAME or NAME:option=value,option=value; numbers, inf, true, false and none are read as such, and other
            values as words.
        kind: what is named, for messages.

    Raises:
        ValueError: if an option has no value or no name.
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in rest.split(",") if rest else ():
        key, given, value = part.partition("=")
        if not given or not key.strip():
            raise ValueError(f"{part!r} in {kind} {text!r} is no option; write NAME:option=value,option=value")
        options[key.strip()] = _literal(value.strip())
    return name.strip(), options


def _literal(text: str) -> Any:
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        return float(text)
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)
