"""Plug-ins of other distributions, found by their entry points and loaded so that none can harm the program."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Container
from importlib.metadata import entry_points
from typing import Any, NamedTuple

__all__ = ["Plugins", "load_plugins"]

logger = logging.getLogger("cai.plugins")


class Plugins(NamedTuple):
    """What the distributions of this installation add to a group.

    Attributes:
        made: what was loaded, by name.
        broken: why the others cannot be loaded, by name.
    """

    made: dict[str, Any]
    broken: dict[str, str]


def load_plugins(group: str, built_in: Container[str], check: Callable[[str, Any], Any] | None = None) -> Plugins:
    """Loads every plug-in of a group; one that is broken takes neither the others nor the program with it.

    Whatever a plug-in prints while it is imported goes to standard error, so that the output of a program stays its
    own, and a `sys.exit` at import is a reason not to load it. Only KeyboardInterrupt passes.

    Args:
        group: of the entry points, e.g. "cai.backends".
        built_in: names that no plug-in may take; one that tries is left out, with a warning.
        check: (name, what was loaded) -> what is kept; raises if it is not what the group holds.
    """
    kind = group.removeprefix("cai.").removesuffix("s")
    found = Plugins({}, {})
    for point in entry_points(group=group):
        if point.name in built_in:
            logger.warning(
                "%s plug-in %s (%s) is not used: the name belongs to a built-in %s; its author must choose another",
                kind, point.name, point.value, kind,
            )  # fmt: skip
            continue
        if point.name in found.made:
            continue
        try:
            with contextlib.redirect_stdout(sys.stderr):
                loaded = point.load()
                found.made[point.name] = loaded if check is None else check(point.name, loaded)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            reason = repr(error)
            if isinstance(error, SystemExit):
                reason = f"it ended the program at import (exit code {error.code!r})"
            found.broken[point.name] = f"{kind} plug-in {point.name} ({point.value}) cannot be loaded: {reason}"
            logger.warning("%s", found.broken[point.name])
    return found
