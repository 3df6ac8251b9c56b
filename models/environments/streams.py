"""Random numbers of N copies, a stream for each, drawn for all of them in one operation; and the seeds of resets.

Each copy's numbers depend on its own seed and on how many it has drawn, never on what the others do: so a copy can be
reset alone, and a run repeats itself with any number of copies. The generator is SplitMix64 (Steele, Lea and Flood
2014, "Fast splittable pseudorandom number generators", figure 13): a counter that goes up by a constant, mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["EVALUATION_COPY", "Streams", "reset_seed"]

EVALUATION_COPY = 2**32 - 1  # stands for the copy in the seeds of episodes that evaluate
STEP = np.uint64(0x9E3779B97F4A7C15)
MIXERS = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
LAST_SHIFT, UNUSED_BITS = np.uint64(31), np.uint64(11)  # a float64 holds 53 of the 64 bits


def reset_seed(seed: int, copy: int, episode: int) -> int:
    """The seed of one reset: the first word of `numpy.random.SeedSequence([seed, copy, episode])`.

    Args:
        seed: of the run, >= 0.
        copy: which of the environments, from 0; `EVALUATION_COPY` for episodes that evaluate a policy.
        episode: how many resets this copy has had before.

    Returns:
        From 0 to 2^32 - 1.
    """
    return int(np.random.SeedSequence([seed, copy, episode]).generate_state(1)[0])


def _mixed(counter: np.ndarray) -> np.ndarray:
    """uint64 [N], counters as numbers without a pattern."""
    for shift, factor in MIXERS:
        counter = (counter ^ (counter >> shift)) * factor
    return counter ^ (counter >> LAST_SHIFT)


class Streams:
    """N streams of uniform numbers.

    Args:
        number: N.
    """

    def __init__(self, number: int) -> None:
        self._counters = np.zeros(number, dtype=np.uint64)
        self.seed(None, np.ones(number, dtype=bool))

    def seed(self, seeds: int | Sequence[int | None] | None, which: np.ndarray) -> None:
        """Starts streams anew.

        Args:
            seeds: one for each of the N, where None leaves a stream as it is; an int, copy i taking seeds + i; or None,
                for seeds of the operating system's.
            which: bool [N], the streams to start; others are left as they are.

        Raises:
            TypeError, ValueError: if a seed is no whole number >= 0, or there is not one for each copy.
        """
        number = len(self._counters)
        if seeds is None:
            fresh = np.random.SeedSequence().generate_state(number, np.uint64)
            self._counters = np.where(which, fresh, self._counters)
            return
        listed: list[Any] = [seeds + i for i in range(number)] if isinstance(seeds, int) else list(seeds)
        if len(listed) != number:
            raise ValueError(f"there are {len(listed)} seeds for {number} environments; give one for each, or a number")
        for i in np.flatnonzero(which):
            if listed[i] is not None:
                self._counters[i] = _counter(listed[i])

    def uniform(self, which: np.ndarray | None = None) -> np.ndarray:
        """float64 [N], in [0, 1), the next number of each stream.

        Args:
            which: bool [N], the streams that go on; what is returned of the others does not count. All, unless given.
        """
        with np.errstate(over="ignore"):
            following = self._counters + STEP
            drawn = (_mixed(following) >> UNUSED_BITS).astype(np.float64) * 2.0**-53
        self._counters = following if which is None else np.where(which, following, self._counters)
        return drawn


def _counter(seed: Any) -> np.uint64:
    """Where the stream of a seed begins."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"the seed is {seed!r}; give a whole number of at least 0")
    if seed < 0:
        raise ValueError(f"the seed is {seed}; give a whole number of at least 0")
    return np.uint64(np.random.SeedSequence(int(seed)).generate_state(1, np.uint64)[0])
