"""Times of calls that take turns, so that what the machine does meanwhile falls on all of them alike."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

__all__ = ["Sample", "interleave", "slope"]

LIGHT = 0.05  # seconds of a first call below which one takes more rounds
MORE = 4  # times as many

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Sample:
    """Repeated times of one call.

    Attributes:
        seconds: in the order they were taken.
        first: seconds of the first call, which warms up and is not among them.
    """

    seconds: tuple[float, ...]
    first: float = float("nan")

    @property
    def median(self) -> float:
        """Seconds."""
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        """Seconds below which one quarter and three quarters of the times lie."""
        low, high = np.percentile(self.seconds, [25, 75])
        return float(low), float(high)

    def ratio(self, other: Sample) -> float:
        """Of the medians: below 1 where this one is faster."""
        return self.median / other.median


def interleave(
    calls: Mapping[Name, Callable[[], Any]],
    first: Mapping[Name, float],
    *,
    rounds: int,
    budget: float,
    tick: Callable[[Name], None] = lambda name: None,
    around: Mapping[Name, Callable[[], AbstractContextManager[object]]] = MappingProxyType({}),
) -> dict[Name, Sample]:
    """Lets calls take turns; the order is shuffled every round, and garbage is collected between calls, never within.

    Args:
        calls: by name; they have been called once.
        first: seconds of that first call, by name.
        rounds: the most times each is called; `MORE` times as many for calls of milliseconds.
        budget: seconds for one name in all. A slow call joins fewer rounds, at least one.
        tick: is told each name before its turn.
        around: by name, makes what a call runs within; entering and leaving it is not timed.

    Returns:
        A sample for each name.
    """
    shares = {
        name: max(1, min(rounds * (MORE if first[name] < LIGHT else 1), int(budget / max(first[name], 1e-9))))
        for name in calls
    }
    taken: dict[Name, list[float]] = {name: [] for name in calls}
    generator = random.Random(0)
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()  # what lives already need not be looked through before every call
    try:
        for round_number in range(max(shares.values(), default=0)):
            names = [name for name in calls if round_number < shares[name]]
            generator.shuffle(names)
            for name in names:
                tick(name)
                gc.collect()
                gc.disable()
                with around.get(name, nullcontext)():
                    start = time.perf_counter()
                    result = calls[name]()
                    taken[name].append(time.perf_counter() - start)
                gc.enable()
                del result
    finally:
        gc.unfreeze()
        (gc.enable if enabled else gc.disable)()
    return {name: Sample(tuple(seconds), first[name]) for name, seconds in taken.items()}


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The least-squares slope of log seconds over log sizes: 1 where time is proportional to size.

    Raises:
        ValueError: if there are fewer than two sizes, or a number is not positive.
    """
    if len(sizes) != len(seconds) or len(set(sizes)) < 2:
        raise ValueError(
            f"got {len(sizes)} sizes and {len(seconds)} times; a slope needs two different sizes and their times"
        )
    if min(*sizes, *seconds) <= 0:
        raise ValueError("sizes and times must be positive, as their logarithms are taken")
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
