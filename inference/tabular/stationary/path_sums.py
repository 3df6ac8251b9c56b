"""Where soft policy iteration begins: sums over all paths to the end, where those are one linear system.

With eta = 1, and for any eta where each pair has one outcome, z = e^v solves z = G z + b, G(s, s') and b(s) being the
weights p(a|s) p(s'|s,a) e^rho of what goes on and of what ends. As z may be beyond any float, x = z e^{-h} is solved
for, h being the log weight of the best single path: then all of x is 1 or more (Todorov 2009 for the system).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cai.inference.tabular.stationary.linear_systems import Pattern
from cai.inference.tabular.stationary.steps import Steps

__all__ = ["path_sums"]

Array = np.ndarray[Any, Any]


def path_sums(steps: Steps) -> Array | None:
    """[N], about log z, or the best paths alone where x does not come out positive: v <= F(v) but for rounding.

    None where sums over paths are no linear system, or a single step multiplies weight.
    """
    sure = len(steps.pairs) == len(steps.states)
    if steps.hard or not (steps.eta == 1 or sure):
        return None
    weights = (np.log(steps.prior) + steps.rewards)[steps.pairs] + steps.gains
    if not sure:
        weights = weights + np.log(steps.chances)
    weights = weights.astype(np.float64)
    if (weights > 0).any():
        return None
    best = _best_paths(steps, weights)
    ends = steps.targets == steps.number
    shifted = np.exp(weights + np.append(best, 0.0)[steps.targets] - best[steps.sources])
    side = np.bincount(steps.sources[ends], shifted[ends], steps.number)
    rows, columns = steps.sources[~ends], steps.targets[~ends]
    pattern = Pattern(torch.from_numpy(rows), torch.from_numpy(columns), steps.number)
    if pattern.method == "iterate":
        return best
    found = pattern.system(torch.from_numpy(shifted[~ends])).answer(side[:, None])
    if found is None or not np.isfinite(found).all() or not (found > 0).all():
        return best
    return np.asarray(best + np.log(found[:, 0]))


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
