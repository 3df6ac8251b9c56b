"""What `Steps.moves` computes, of edges that are a table: states in blocks that stay in a core's cache.

The numbers are those of the list: differences v(s') - v(s) first, then products and sums, so that rounding is that of
what a step changes. All pairs of a state share these differences, and what they are tilted by unless each outcome pays
its own reward; so a product of matrices does for a block what the list does edge by edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from cai.inference.tabular.stationary.problem.edges import EdgeTable
from cai.inference.tabular.stationary.problem.moves import Tilted, log_mean_exp

__all__ = ["apart_of", "expected", "sources_of", "tilted", "undominated"]

Array = np.ndarray[Any, Any]
BLOCK = 1 << 16  # entries of a table that are multiplied together
NARROW = 1024  # terms that are added one after another at most: their rounding is no more than that of a sum in pairs
ALIKE = 1e-9  # of the largest reward: what pays less by no more may be as good up to rounding
LEAST = 1e-250  # a sum of weights below which some that count may have been lost


class _Blocks:
    """States of a table in blocks, with their pairs.

    Args:
        edges: the table.
        high: [N + 1], with `low` the values.
        low: [N + 1].
        states: int [R], ascending: the state of each pair; all N have one.
    """

    def __init__(self, edges: EdgeTable, high: Array, low: Array, states: Array) -> None:
        self.edges, self.states = edges, states
        self.there, self.here = high[edges.columns], high[:-1, None]
        self.there_low, self.here_low = low[edges.columns], low[:-1, None]
        self.apart = bool(low.any())
        number, rows = len(high) - 1, len(states)
        self.first = np.append(np.searchsorted(states, np.arange(number)), rows)
        self.width = rows // number if number and (np.diff(self.first) * number == rows).all() else 0

    def __iter__(self) -> Iterator[tuple[slice, slice, Array]]:
        """(states, their pairs, v(s') - v(s) [states, K])."""
        number = len(self.first) - 1
        size = max(BLOCK * number // max(self.edges.table.size, 1), 1)
        for low in range(0, number, size):
            of = slice(low, min(low + size, number))
            x = self.there - self.here[of]
            if self.apart:
                x += self.there_low - self.here_low[of]
            yield of, slice(int(self.first[of.start]), int(self.first[of.stop])), x

    def summed(self, of: slice, rows: slice, parts: Array) -> Array:
        """[rows], of each pair the sum over its outcomes of probability times a number of its state [states, K]."""
        found = np.zeros(rows.stop - rows.start)
        for low in range(0, parts.shape[1], NARROW):
            table, some = self.edges.table[rows, low : low + NARROW], parts[:, low : low + NARROW]
            if self.width:
                table = table.reshape(len(parts), self.width, -1)
                found += np.matmul(table, some[..., None]).ravel()
            else:
                found += np.einsum("rk,rk->r", table, some[self.states[rows] - of.start])
        return found


def expected(edges: EdgeTable, high: Array, low: Array, states: Array) -> tuple[Array, Array]:
    """(expected v(s') - v(s) [R]; the sums of their absolute parts [R]); arguments as in `_Blocks`."""
    blocks = _Blocks(edges, high, low, states)
    found, size = np.empty(len(states)), np.empty(len(states))
    for of, rows, x in blocks:
        found[rows] = blocks.summed(of, rows, x)
        size[rows] = blocks.summed(of, rows, np.abs(x, out=x))
    return found, size


def apart_of(edges: EdgeTable, values: Array, states: Array) -> Array:
    """[R], the expected |rho + v(s') - v(s)| of pairs; arguments as in `tilted`, values [N + 1]."""
    blocks, paid = _Blocks(edges, values, np.zeros_like(values), states), edges.paid
    found = np.empty(len(states))
    for of, rows, x in blocks:
        each = x[states[rows] - of.start]
        found[rows] = (edges.table[rows] * np.abs(each if paid is None else each + paid[rows])).sum(1)
    return found


def tilted(
    edges: EdgeTable, high: Array, low: Array, states: Array, eta: float, lost: Array
) -> tuple[Array, Array | Tilted, Array]:
    """Certainty equivalents of rewards and v(s') - v(s), as `Steps.moves` has them where eta is not 0.

    Args:
        edges: the table.
        high: [N + 1], with `low` the values.
        low: [N + 1].
        states: int [R], the state of each pair.
        eta: how outcomes are weighed.
        lost: [R], the probability of what was left out of the edges.

    Returns:
        (advantages [R], the probability of each outcome in the chain that attains them [R, K]; numbers whose rounding
        is in the advantages [R]).
    """
    blocks, lost = _Blocks(edges, high, low, states), lost.astype(np.float64)
    alike = edges.alike and (edges.full or math.isfinite(eta))
    found = _tilted_alike(blocks, eta, lost) if alike else None
    return _tilted_each(blocks, eta, lost) if found is None else found


def _tilted_alike(blocks: _Blocks, eta: float, lost: Array) -> tuple[Array, Tilted, Array] | None:
    """`tilted` where a pair pays the same whatever its outcome; None where weights of a state are too far apart."""
    edges, sign = blocks.edges, math.copysign(1.0, eta)
    found, size, scale = np.empty((3, len(blocks.states)))
    weights, paid = np.empty((len(blocks.here), edges.table.shape[1])), edges.own
    added = edges.added.astype(np.float64) if edges.added.any() else None
    for of, rows, x in blocks:
        apart = np.abs(x)
        if added is not None:
            x += added
            apart += np.abs(added)
        first = blocks.first[of] - rows.start
        here = blocks.states[rows] - of.start
        if math.isinf(eta):
            best = (sign * x).max(1)
            tilt = (sign * x >= best[:, None]).astype(np.float64)
            sums = blocks.summed(of, rows, tilt)
            logs, own = sign * best[here], np.abs(best)[here]
        else:
            x *= eta
            changes = np.expm1(x)
            less = blocks.summed(of, rows, changes) - lost[rows]
            near = (less > -0.5) & (less < 1.0)  # false for NaN
            calm = np.logical_and.reduceat(near, first)
            if calm.all():
                tilt, sums, logs = np.exp(x, out=x), 1 + less, np.log1p(less)
                own = np.zeros(len(less))
            else:
                if not edges.full:
                    x[~np.logical_or.reduceat(edges.positive[rows], first, 0)] = -np.inf
                best = np.where(calm, 0.0, x.max(1))
                tilt = np.exp(x - best[:, None])
                sums = blocks.summed(of, rows, tilt)
                if not (sums >= LEAST).all():
                    return None
                far = np.log(sums)
                logs = np.where(near, np.log1p(np.where(near, less, 0.0)), best[here] + far)
                own = np.where(near, 0.0, 1 + np.abs(best[here]) + np.abs(far))
            close = blocks.summed(of, rows, np.abs(changes, out=changes)) + lost[rows]
            own += np.where(near, close / np.where(near, 1 + less, 1.0), 0.0) + np.abs(logs)
            logs, own = logs / eta, own / abs(eta)
        weights[of], scale[rows] = tilt, 1 / sums
        apart *= tilt
        found[rows], size[rows] = logs, own + blocks.summed(of, rows, apart) / sums
    if paid is not None:
        found, size = found + paid, size + np.abs(paid)
    return found, Tilted(edges.table, scale, weights), size


def _tilted_each(blocks: _Blocks, eta: float, lost: Array) -> tuple[Array, Array, Array]:
    """`tilted`, pair by pair."""
    edges, states = blocks.edges, blocks.states
    found, size, outcomes = np.empty(len(states)), np.empty(len(states)), np.empty_like(edges.table)
    paid = edges.paid
    for of, rows, shared in blocks:
        x, chances = shared[states[rows] - of.start], edges.table[rows]
        apart = np.abs(x)
        if paid is not None:
            x += paid[rows]
            apart += np.abs(paid[rows])
        none = None if edges.full else ~edges.positive[rows]  # no edge
        if math.isinf(eta):
            sign = 1.0 if eta > 0 else -1.0
            x *= sign
            if none is not None:
                x[none] = -np.inf
            best = x.max(1)
            tight = np.where(x >= best[:, None], chances, 0.0)
            outcomes[rows] = tight / tight.sum(1)[:, None]
            found[rows], own = sign * best, np.abs(best)
        else:
            x *= eta
            if none is not None:
                x[none] = -np.inf
            logs, outcomes[rows], own = log_mean_exp(
                x,
                chances,
                lost[rows],
                lambda parts: parts.sum(1),
                lambda parts: parts.max(1),
                lambda numbers: numbers[:, None],
            )
            found[rows], own = logs / eta, own / abs(eta)
        apart *= outcomes[rows]
        size[rows] = own + apart.sum(1)
    return found, outcomes, size


def undominated(edges: EdgeTable, states: Array) -> Array:
    """Bool [R, K], edges of which none from the same state to the same place pays more, by more than rounding.

    Where the most is 0 all of them count, so that what never pays is told from what need not.

    Args:
        edges: the table.
        states: int [R], ascending: the state of each pair.
    """
    paid, kept = edges.paid, edges.positive.copy()
    if paid is None or not len(states):
        return kept
    slack = ALIKE * float(np.abs(paid).max())
    first = np.append(np.flatnonzero(np.append(True, states[1:] != states[:-1])), len(states))
    size = max(BLOCK * (len(first) - 1) // max(kept.size, 1), 1)
    for low in range(0, len(first) - 1, size):
        heads = first[low : low + size + 1]
        rows = slice(int(heads[0]), int(heads[-1]))
        gains = np.where(kept[rows], paid[rows], -np.inf)
        best = np.maximum.reduceat(gains, heads[:-1] - heads[0], 0)
        least = np.where(np.abs(best) <= slack, -np.inf, best - slack)
        kept[rows] &= gains >= np.repeat(least, np.diff(heads), 0)
    return kept


def sources_of(edges: EdgeTable, states: Array, number: int, placed: Array | None = None) -> Array:
    """Bool [N, N + 1], which states lead to which by some edges, bool [R, K]; by all unless given."""
    positive = edges.positive if placed is None else placed
    found = np.zeros((number, number + 1), dtype=bool)
    if not len(states):
        return found
    first = np.flatnonzero(np.append(True, states[1:] != states[:-1]))
    any_pair = np.logical_or.reduceat(positive, first, 0)
    inner = np.flatnonzero(edges.columns < number)
    of_state = np.zeros((len(first), number + 1), dtype=bool)
    of_state[:, edges.columns[inner]] = any_pair[:, inner]
    of_state[:, number] = any_pair[:, edges.columns == number].any(1)
    found[states[first]] = of_state
    return found
