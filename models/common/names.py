"""Names that were meant: what is said after a name that nobody knows."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any, ClassVar, Self

__all__ = ["KnownNames", "did_you_mean"]

ELSEWHERE = {  # what other books and libraries call things
    "gamma": ("discount",),
    "discount-factor": ("discount",),
    "alpha": ("temperature",),
    "tau": ("temperature",),
    "temp": ("temperature",),
    "t": ("horizon",),
    "steps": ("horizon", "num-steps"),
    "num-steps": ("horizon", "steps"),
    "max-steps": ("max-iterations", "horizon"),
    "max-episode-steps": ("horizon",),
    "rewards": ("reward",),
    "r": ("reward",),
    "prior": ("action-prior",),
    "policy": ("action-prior",),
    "p": ("transitions",),
    "transition": ("transitions",),
    "p0": ("initial",),
    "start": ("initial",),
    "s0": ("initial",),
    "initial-state": ("initial",),
    "goal": ("terminal",),
    "samples": ("num-samples",),
    "particles": ("num-particles",),
    "sac": ("soft-actor-critic",),
    "sql": ("soft-q-learning",),
    "pcl": ("path-consistency",),
    "n": ("num-particles", "num-samples"),
}
SEARCHED = 20_000  # names that are compared; more take longer than the reader of a message wants to wait


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The words for a message: " (did you mean 'bridge'?)" where a known name looks like the one given, else "".

    Case and the marks between words do not count.

    Args:
        name: what was asked for.
        known: what there is.
    """
    plain = {_plain(text): text for text, _ in zip(known, range(SEARCHED), strict=False)}
    elsewhere = [word for word in ELSEWHERE.get(_plain(name), ()) if word in plain]
    found = elsewhere or difflib.get_close_matches(_plain(name), plain, n=1)
    return f" (did you mean {plain[found[0]]!r}?)" if found else ""


class KnownNames:
    """Base of dataclasses whose constructor says which argument was meant by one that it does not have."""

    _elsewhere: ClassVar[dict[str, str]] = {}  # arguments of other classes, and where they belong

    def __new__(cls, *_: Any, **options: Any) -> Self:
        fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
        known = [entry.name for entry in fields if entry.init]
        for name in options if fields else ():
            if name not in known:
                place = cls._elsewhere.get(name)
                raise TypeError(
                    f"{cls.__name__} has no argument {name!r}"
                    + (f": it belongs to {place}" if place else did_you_mean(name, known))
                    + f"; it has {', '.join(known)}"
                )
        return super().__new__(cls)


def _plain(text: str) -> str:
    return str(text).lower().replace("_", "-").replace(" ", "-")
