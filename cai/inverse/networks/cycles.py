"""Why sums over routes are infinite: the spectral radius of the weights of turns, and the cycle that weighs most."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["heaviest_cycle", "spectral_radius"]

Array = np.ndarray[Any, Any]
ROUNDS = 300


def spectral_radius(number: int, tails: Array, heads: Array, weights: Array) -> float:
    """About rho(M), by power iteration on (M + I) / 2, which has no other eigenvalue of the same size.

    Args:
        number: links.
        tails: int64 [E].
        heads: int64 [E].
        weights: [E], >= 0.
    """
    from scipy.sparse import csr_matrix

    if not np.isfinite(weights).all():
        return np.inf
    top = float(weights.max(initial=0.0))
    if not top > 0:
        return 0.0
    table = csr_matrix((weights / top, (tails, heads)), shape=(number, number))
    vector = np.ones(number)
    growth = 0.0
    for _ in range(ROUNDS):
        vector = (table @ vector + vector) / 2
        growth = float(vector.max())
        vector /= growth
    return max(2 * growth - 1, 0.0) * top


def heaviest_cycle(number: int, tails: Array, heads: Array, logs: Array) -> tuple[list[int], float] | None:
    """(links of the cycle whose mean log weight is the largest, that mean), or None where there is no cycle.

    By policy iteration (Howard 1960; Cochet-Terrasson et al. 1998): each link picks a turn, the cycles of the picks are
    weighed, and picks are improved by the mean they lead to and then by what they gather on the way.
    """
    finite = np.isfinite(logs)
    tails, heads, logs = tails[finite], heads[finite], logs[finite]
    live = np.ones(number, dtype=bool)
    for _ in range(number):  # only links that lead on for ever
        kept = live[heads] & live[tails]
        more = np.zeros(number, dtype=bool)
        more[tails[kept]] = True
        if (more == live).all():
            break
        live = more
    kept = live[heads] & live[tails]
    tails, heads, logs = tails[kept], heads[kept], logs[kept]
    if not len(tails):
        return None
    order = np.lexsort((logs, tails))
    tails, heads, logs = tails[order], heads[order], logs[order]
    last = np.append(np.flatnonzero(np.diff(tails)), len(tails) - 1)
    pick = np.full(number, -1)
    pick[tails[last]] = last
    cycle: list[int] = []
    mean = -np.inf
    for _ in range(ROUNDS):
        means, values, cycle, mean = _weighed(number, pick, heads, logs)
        better = means[heads] > means[tails] + 1e-12
        if not better.any():
            gain = logs - means[tails] + values[heads] - values[tails]
            better = (means[heads] >= means[tails] - 1e-12) & (gain > 1e-9)
            if not better.any():
                break
            score = np.where(better, gain, -np.inf)
        else:
            score = np.where(better, means[heads], -np.inf)
        chosen = np.lexsort((score, tails))
        ends = chosen[np.append(np.flatnonzero(np.diff(tails[chosen])), len(chosen) - 1)]
        ends = ends[np.isfinite(score[ends])]
        pick[tails[ends]] = ends
    return cycle, float(mean)


def _weighed(number: int, pick: Array, heads: Array, logs: Array) -> tuple[Array, Array, list[int], float]:
    """(mean of the cycle that each link leads to, values relative to it, the heaviest cycle, its mean)."""
    means, values = np.full(number, -np.inf), np.zeros(number)
    state = np.zeros(number, dtype=np.int8)  # 1 on the present walk, 2 done
    best: tuple[float, list[int]] = (-np.inf, [])
    for start in np.flatnonzero(pick >= 0).tolist():
        walk = []
        link = start
        while state[link] == 0:
            state[link] = 1
            walk.append(link)
            link = int(heads[pick[link]])
        if state[link] == 1:
            cycle = walk[walk.index(link) :]
            mean = float(np.mean([logs[pick[k]] for k in cycle]))
            best = max(best, (mean, cycle), key=lambda pair: pair[0])
            means[link], values[link] = mean, 0.0
            for k in reversed(cycle[1:]):
                means[k], values[k] = mean, logs[pick[k]] - mean + values[int(heads[pick[k]])]
            state[cycle] = 2
            walk = walk[: walk.index(link)]
        for k in reversed(walk):
            after = int(heads[pick[k]])
            means[k], values[k] = means[after], logs[pick[k]] - means[after] + values[after]
            state[k] = 2
    return means, values, best[1], best[0]
