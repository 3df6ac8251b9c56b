"""Where soft policy iteration begins: sums over all paths to the end, where those are one linear system.

With eta = 1, and for any eta where each pair has one outcome, z = e^v solves z = G z + b, G(s, s') and b(s) being the
weights p(a|s) p(s'|s,a) e^rho of what goes on and of what ends. As z may be beyond any float, x = z e^{-h} is solved
for, h being the log weight of the best single path: then all of x is 1 or more (Todorov 2009 for the system).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cai.inference.tabular.markov.linear_systems import DENSE_LIMIT, SystemPattern
from cai.inference.tabular.stationary.problem.edges import EdgeTable
from cai.inference.tabular.stationary.problem.moves import mixed
from cai.inference.tabular.stationary.problem.steps import Steps

__all__ = ["path_sums"]

Array = np.ndarray[Any, Any]
MANY, SMALL = 50, 20_000  # edges a state, and edges in all, up to which the best paths are worth their search


def path_sums(steps: Steps) -> Array | None:
    """[N], about log z, or the best paths alone where x does not come out positive: v <= F(v) but for rounding.

    None where sums over paths are no linear system, or a single step multiplies weight. Of many edges the best path is
    not looked for, and z is solved for as it is.
    """
    sure = steps.count == len(steps.states)
    if steps.hard or not (steps.eta == 1 or sure):
        return None
    if steps.table is not None:
        return _of_table(steps, steps.table)
    many = steps.count > max(MANY * steps.number, SMALL)
    weights = (np.log(steps.prior) + steps.rewards)[steps.pairs] + steps.gains
    if not sure:
        weights = weights + np.log(steps.chances)
    weights = weights.astype(np.float64)
    if (weights > 0).any():
        return None
    best = np.zeros(steps.number) if many else _best_paths(steps, weights)
    ends = steps.targets == steps.number
    shifted = np.exp(weights + np.append(best, 0.0)[steps.targets] - best[steps.sources])
    side = np.bincount(steps.sources[ends], shifted[ends], steps.number)
    rows, columns = steps.sources[~ends], steps.targets[~ends]
    if many and steps.number <= DENSE_LIMIT:
        table = np.bincount(rows * steps.number + columns, shifted[~ends], steps.number**2)
        return _solved(table.reshape(steps.number, -1), side)
    pattern = SystemPattern(torch.from_numpy(rows), torch.from_numpy(columns), steps.number)
    if pattern.method == "iterate":
        return best
    found = pattern.system(torch.from_numpy(shifted[~ends])).answer(side[:, None])
    if found is None or not np.isfinite(found).all() or not (found > 0).all():
        return best
    return np.asarray(best + np.log(found[:, 0]))


def _solved(table: Array, side: Array) -> Array | None:
    """[N], log z for G [N, N] and b; None if z does not come out positive."""
    try:
        sums = np.linalg.solve(np.eye(len(table)) - table, side)
    except np.linalg.LinAlgError:
        return None
    return np.asarray(np.log(sums)) if np.isfinite(sums).all() and (sums > 0).all() else None


def _of_table(steps: Steps, edges: EdgeTable) -> Array | None:
    """The same where edges are a table: many, of which the best path is not looked for."""
    weights, gains = edges.table, edges.paid
    start = (np.log(steps.prior) + steps.rewards).astype(np.float64)
    if gains is not None and gains.shape[1] == 1:
        start += gains[:, 0]
    elif gains is not None:
        with np.errstate(over="ignore"):
            weights = weights * np.exp(gains)
    if not (np.log(weights.max(1)) + start <= 0).all():
        return None
    chain, inner = mixed(weights, np.exp(start), steps.first_pairs), np.flatnonzero(edges.columns < steps.number)
    table = np.zeros((steps.number, steps.number))
    table[:, edges.columns[inner]] = chain[:, inner]
    return _solved(table, chain[:, edges.columns == steps.number].sum(1))


def _best_paths(steps: Steps, weights: Array) -> Array:
    """[N], the largest log weight of a path to the end (Dijkstra 1959; all weights <= 0)."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import dijkstra

    size = steps.number + 1
    order = np.lexsort((-weights, steps.sources, steps.targets))  # of several edges between two states the best counts
    first = np.ones(len(order), dtype=bool)
    heads, tails = steps.targets[order], steps.sources[order]
    first[1:] = (np.diff(heads) != 0) | (np.diff(tails) != 0)
    kept = order[first]
    graph = csr_matrix((-weights[kept], (steps.targets[kept], steps.sources[kept])), shape=(size, size))
    return np.asarray(-dijkstra(graph, indices=steps.number)[:-1])
