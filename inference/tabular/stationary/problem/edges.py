"""What a pair (s, a) may lead to: a list of edges, or a table with a column for each outcome where most may happen.

A list costs some ten numbers an edge and a look-up for each use. Of a table one number is read, so it serves where many
outcomes of every pair may happen; whatever has no way of its own for it takes its list, which is made on first use.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

__all__ = ["BLOCK", "EdgeList", "EdgeTable", "Outcomes", "computes_long", "serves", "summed"]

Array = np.ndarray[Any, Any]
LONG_LIMIT = 100_000  # edges up to which everything is computed in long double, by the list
FILL = 0.25  # of a table, above which it is quicker than the list
BLOCK = 1 << 15  # entries of a table that are looked at together: what a core's cache holds


def computes_long(count: int) -> bool:
    """Whether so many edges are computed with in long double; that is by the list."""
    return count <= LONG_LIMIT


def serves(count: int, size: int) -> bool:
    """Whether a table of some size is worth having for so many edges."""
    return not computes_long(count) and count > FILL * size


@dataclass(frozen=True)
class EdgeList:
    """Edges (s, a) -> s' of positive probability.

    Attributes:
        pairs: int [E], ascending: the pair of each edge.
        targets: int [E], where it leads.
        chances: [E], its probability given the pair.
        gains: [E], its reward where eta is not 0, else 0; nats.
    """

    pairs: Array
    targets: Array
    chances: Array
    gains: Array

    @property
    def count(self) -> int:
        """E."""
        return len(self.pairs)

    @property
    def listed(self) -> EdgeList:
        """Itself."""
        return self

    def shifted(self, gain: Any) -> EdgeList:
        """The same where every edge is paid as much more, nats."""
        return replace(self, gains=self.gains + gain)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Probabilities and rewards of the outcomes of all pairs as a model gives them, from which tables are made.

    Attributes:
        given: [R, K], a model's probabilities, float64.
        missing: [R], what rows of them lack to 1, long double.
        largest: int [R], the outcome that it is added to.
        discount: the probability of going on.
        falling: how many columns of falls there are: 0, 1 behind all outcomes, or K, one behind each.
        rewards: [R, K] or [R, 1], reward units; None where they are no part of the edges.
        temperature: what rewards are divided by.
    """

    given: Array
    missing: Array
    largest: Array
    discount: float
    falling: int
    rewards: Array | None
    temperature: float

    def chances(self, dtype: Any, rows: Array | slice = slice(None)) -> Array:
        """[rows, K + falls], the probability of going on with each outcome, and of falling."""
        given = self.given[rows]
        count, width = given.shape
        found = np.empty((count, width + self.falling), dtype)
        whole = found[:, ::2] if self.falling > 1 else found[:, :width]
        whole[:] = given
        largest = self.largest[rows]
        everything = given[np.arange(count), largest] + self.missing[rows]
        whole[np.arange(count), largest] = everything
        if self.falling > 1:
            np.multiply(whole, np.asarray(1 - self.discount, dtype), out=found[:, 1::2])
        elif self.falling:
            found[:, -1] = 1 - self.discount
        if self.discount < 1:
            whole *= np.asarray(self.discount, dtype)
        return found

    def gains(self, dtype: Any, rows: Array | slice = slice(None)) -> Array:
        """[rows, K + falls] or [rows, 1], rewards in nats."""
        if self.rewards is None:
            return np.zeros((len(self.largest[rows]), 1), dtype)
        paid = self.rewards[rows].astype(dtype) / np.asarray(self.temperature, dtype)
        if paid.shape[1] == 1 or not self.falling:
            return np.asarray(paid)
        if self.falling == 1:
            return np.append(paid, paid[:, :1], 1)
        return np.repeat(paid, 2, 1)


@dataclass(frozen=True, eq=False)
class EdgeTable:
    """Edges of pairs of which all may lead to the same states, and most lead to most.

    Attributes:
        source: what is known of the outcomes, of more pairs.
        rows: int [R], the pairs of `source` that are left.
        columns: int [K], the state that each outcome leads to; the end for as many as lead there, others once each.
        table: [R, K], the probability of each outcome, float64; 0 where there is no edge.
        added: [K], nats, what an outcome earns besides rewards.
    """

    source: Outcomes
    rows: Array
    columns: Array
    table: Array
    added: Array

    @cached_property
    def positive(self) -> Array:
        """Bool [R, K], where there is an edge."""
        return self.table > 0

    @cached_property
    def count(self) -> int:
        """E, how many edges there are."""
        return int(np.count_nonzero(self.positive))

    @cached_property
    def full(self) -> bool:
        """Whether every outcome of every pair may happen."""
        return self.count == self.table.size

    @property
    def pays(self) -> bool:
        """Whether the table is worth having."""
        return serves(self.count, self.table.size)

    @property
    def alike(self) -> bool:
        """Whether a pair pays the same whatever its outcome, but for `added`."""
        return self.source.rewards is None or self.source.rewards.shape[1] == 1

    @cached_property
    def own(self) -> Array | None:
        """[R], nats, float64: what pairs pay that are `alike`, without `added`; None where all is 0."""
        gains = None if self.source.rewards is None else self.source.gains(np.float64, self.rows)[:, 0]
        return gains if gains is not None and gains.any() else None

    @cached_property
    def paid(self) -> Array | None:
        """[R, K] or [R, 1], nats, float64: the reward of each edge; None where all are 0."""
        gains = None if self.source.rewards is None else self.source.gains(np.float64, self.rows)
        if self.added.any():
            same = self.added[:1] if (self.added == self.added[0]).all() else self.added
            return same.astype(np.float64)[None] + (np.zeros((len(self.rows), 1)) if gains is None else gains)
        return gains if gains is not None and gains.any() else None

    @cached_property
    def listed(self) -> EdgeList:
        """The list of these edges, with all digits."""
        pairs, outcomes = np.nonzero(self.positive)
        chances = self.source.chances(np.longdouble, self.rows)[self.positive]
        return EdgeList(pairs, self.columns[outcomes], chances, self.gains_at(pairs, outcomes))

    def gains_at(self, pairs: Array, outcomes: Array) -> Array:
        """[E], the rewards of some edges, int [E] each, nats, in long double."""
        gains = self.source.gains(np.longdouble, self.rows)
        return np.asarray(gains[pairs, outcomes if gains.shape[1] > 1 else 0] + self.added[outcomes])

    def placed(self, edges: Array) -> Array:
        """Bool [R, K], where edges are of a mask over the list, bool [E]."""
        if self.full:
            return edges.reshape(self.table.shape)
        found = np.zeros_like(self.positive)
        found[self.positive] = edges
        return found

    def shifted(self, gain: Any) -> EdgeTable:
        """The same where every edge is paid as much more, nats."""
        return replace(self, added=self.added + gain)

    def part(self, pairs: Array | None, placed: Array | None = None) -> EdgeTable:
        """Those of some pairs, bool or int, and of them those in `placed`, bool [R, K]; None for all."""
        if pairs is None:
            table, rows = self.table, self.rows
        else:
            table, rows = self.table[pairs], self.rows[pairs]
        if placed is not None:
            table = np.where(placed if pairs is None else placed[pairs], table, 0.0)
        return replace(self, rows=rows, table=table)

    def exactly(self, numbers: Array) -> Array:
        """[R], expectations of numbers of the outcomes [K], in long double."""
        found, numbers = np.empty(len(self.rows), np.longdouble), numbers.astype(np.longdouble)
        for rows in self.blocks():
            chances = self.source.chances(np.longdouble, self.rows[rows])
            found[rows] = np.where(self.positive[rows], chances, 0) @ numbers
        return found

    def blocks(self) -> list[slice]:
        """Rows in blocks that a core's cache holds."""
        rows, width = self.table.shape
        size = max(BLOCK // max(width, 1), 1)
        return [slice(i, min(i + size, rows)) for i in range(0, rows, size)]


def summed(places: Array, parts: Array, number: int) -> Array:
    """[N], parts [E] added up at their places, in long double."""
    found = np.zeros(number, dtype=np.longdouble)
    np.add.at(found, places, parts)
    return found
