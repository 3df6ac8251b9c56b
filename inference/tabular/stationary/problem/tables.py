"""What `Steps.moves` computes, of edges that are a table: rows in blocks that stay in a core's cache, without an index.

The numbers are those of the list: differences v(s') - v(s) first, then products and sums, so that rounding is that of
what a step changes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cai.inference.tabular.stationary.problem.edges import EdgeTable
from cai.inference.tabular.stationary.problem.moves import log_mean_exp

__all__ = ["expected", "sources_of", "tilted"]

Array = np.ndarray[Any, Any]


def _differences(edges: EdgeTable, high: Array, low: Array, states: Array) -> Any:
    """A function of a block of rows that gives v(s') - v(s) [rows, K], in the same memory each time.

    Args:
        edges: the table.
        high: [N + 1], with `low` the values.
        low: [N + 1].
        states: int [R], the state of each pair.
    """
    apart = bool(low.any())
    there, here = high[edges.columns], high[states][:, None]
    there_low, here_low = low[edges.columns], low[states][:, None]
    blocks = edges.blocks()
    memory = np.empty((blocks[0].stop if blocks else 0, len(there)))

    def of(rows: slice) -> Array:
        x = memory[: rows.stop - rows.start]
        np.subtract(there, here[rows], out=x)
        if apart:
            x += there_low - here_low[rows]
        return x

    return of


def expected(edges: EdgeTable, high: Array, low: Array, states: Array) -> tuple[Array, Array]:
    """(expected v(s') - v(s) [R]; the sums of their absolute parts [R]); arguments as in `_differences`."""
    differences = _differences(edges, high, low, states)
    found, size = np.empty(len(states)), np.empty(len(states))
    for rows in edges.blocks():
        x = differences(rows)
        x *= edges.table[rows]
        found[rows] = x.sum(1)
        size[rows] = np.abs(x, out=x).sum(1)
    return found, size


def tilted(
    edges: EdgeTable, high: Array, low: Array, states: Array, eta: float, lost: Array
) -> tuple[Array, Array, Array]:
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
    differences = _differences(edges, high, low, states)
    found, size, outcomes = np.empty(len(states)), np.empty(len(states)), np.empty_like(edges.table)
    paid = edges.paid
    for rows in edges.blocks():
        x, chances = differences(rows), edges.table[rows]
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
                lost[rows].astype(np.float64),
                lambda parts: parts.sum(1),
                lambda parts: parts.max(1),
                lambda numbers: numbers[:, None],
            )
            found[rows], own = logs / eta, own / abs(eta)
        apart *= outcomes[rows]
        size[rows] = own + apart.sum(1)
    return found, outcomes, size


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
