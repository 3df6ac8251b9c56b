"""Where moves lead: searches through graphs of states, pairs (s, a) and edges (s, a) -> s', each edge seen once."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = [
    "attracted",
    "closed_classes",
    "components",
    "end_components",
    "hops_by_table",
    "next_hops",
    "period",
    "reaching",
    "reaching_table",
    "surely_reaching",
]

Array = np.ndarray[Any, Any]
WAVES = 4  # looks at every edge before a search, which costs more than all of them


def _graph(sources: Array, targets: Array, number: int) -> Any:
    from scipy.sparse import csr_matrix

    return csr_matrix((np.ones(len(sources), dtype=np.float32), (sources, targets)), shape=(number, number))


def reaching(sources: Array, targets: Array, goal: Array) -> Array:
    """Bool [N]: states with a path to the goal, bool [N], along edges; the goal included."""
    near, count = goal.copy(), -1
    for _ in range(WAVES):  # under a discount every state leads to the end at once, and where all lead to many, soon
        before, count = count, int(np.count_nonzero(near))
        if count in (before, len(near)):
            return near
        near[sources[near[targets]]] = True
    return next_hops(sources, targets, near) >= -1


def next_hops(sources: Array, targets: Array, goal: Array) -> Array:
    """Int [N]: the next state on a shortest path to the goal, bool [N]; -1 in it, -2 where there is none."""
    from scipy.sparse.csgraph import breadth_first_order

    number, ends = len(goal), np.flatnonzero(goal)
    # Backward from one more node, which every goal leads to, so that one search serves all.
    graph = _graph(np.append(targets, np.full(len(ends), number)), np.append(sources, ends), number + 1)
    found, before = breadth_first_order(graph, number)
    hops = np.full(number + 1, -2)
    hops[found] = before[found]
    hops = hops[:number]
    return np.where(hops == number, -1, hops)


def reaching_table(leads: Array, goal: Array) -> Array:
    """Bool [M]: states with a path to the goal, bool [M], by a table of which lead to which, bool [N, M], N <= M."""
    return hops_by_table(leads, goal) >= -1


def hops_by_table(leads: Array, goal: Array) -> Array:
    """As `next_hops`, int [M], by a table of which states lead to which, bool [N, M]."""
    hops = np.where(goal, -1, -2)
    fresh, left = np.flatnonzero(goal), np.flatnonzero(~goal[: len(leads)])
    while len(fresh) and len(left):
        ways = leads[left[:, None], fresh] if len(left) < len(leads) else leads[:, fresh]
        found = ways.any(1)
        hops[left[found]] = fresh[ways[found].argmax(1)]
        fresh, left = left[found], left[~found]
    return hops


def components(sources: Array, targets: Array, number: int) -> Array:
    """Int [N], the number of each state's strongly connected component."""
    from scipy.sparse.csgraph import connected_components

    return np.asarray(connected_components(_graph(sources, targets, number), connection="strong")[1])


def closed_classes(sources: Array, targets: Array, inside: Array) -> list[Array]:
    """The strongly connected components among the states `inside`, bool [N], that no edge leaves; int arrays."""
    labels = components(sources, targets, len(inside))
    left = np.zeros(labels.max(initial=0) + 1, dtype=bool)
    left[labels[sources[labels[sources] != labels[targets]]]] = True
    states = np.flatnonzero(inside & ~left[labels])
    order = states[np.argsort(labels[states], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(order) else []


def period(sources: Array, targets: Array, number: int) -> int:
    """The greatest common divisor of the lengths of the cycles of a strongly connected graph."""
    from scipy.sparse.csgraph import breadth_first_order

    order, before = breadth_first_order(_graph(sources, targets, number), 0)
    depth = np.zeros(number, dtype=np.int64)
    for state in order[1:]:
        depth[state] = depth[before[state]] + 1
    return int(np.gcd.reduce(np.abs(depth[sources] + 1 - depth[targets])))


def attracted(states: Array, pairs: Array, targets: Array, goal: Array, *, by_any: bool) -> Array:
    """Bool [N + 1]: the goal and all states whose every pair is drawn into what was found before.

    Args:
        states: int [R], the state of each pair.
        pairs: int [E], the pair of each edge.
        targets: int [E], where it leads.
        goal: bool [N + 1]; states without a pair belong to it only if they are in it.
        by_any: whether a pair is drawn in as soon as one edge of it is, or only once all are.
    """
    found, number = goal.copy(), len(goal)
    order = np.argsort(targets, kind="stable")
    rows = pairs[order]
    starts = np.searchsorted(targets[order], np.arange(number + 1))
    edges_left = np.ones(len(states), dtype=np.int64) if by_any else np.bincount(pairs, minlength=len(states))
    pairs_left = np.bincount(states, minlength=number)
    fresh = np.flatnonzero(goal)
    while len(fresh):
        sizes = starts[fresh + 1] - starts[fresh]
        index = np.repeat(starts[fresh] - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes) + np.arange(sizes.sum())
        hit, times = np.unique(rows[index], return_counts=True)
        before = edges_left[hit] > 0
        edges_left[hit] -= times
        drawn = hit[before & (edges_left[hit] <= 0)]
        np.subtract.at(pairs_left, states[drawn], 1)
        touched = np.unique(states[drawn])
        fresh = touched[(pairs_left[touched] == 0) & ~found[touched]]
        found[fresh] = True
    return found


def end_components(states: Array, pairs: Array, targets: Array, usable: Array, number: int) -> tuple[Array, Array]:
    """Maximal end components: sets of states in which some pairs keep for ever, and lead from everywhere to everywhere.

    Args:
        states: int [R], the state of each pair.
        pairs: int [E], the pair of each edge.
        targets: int [E], where it leads.
        usable: bool [R], the pairs that may be used.
        number: N, including ends.

    Returns:
        (int [N], a number for each component, -1 outside; bool [R], the pairs that keep inside theirs).
    """
    kept = usable.copy()
    while True:
        edges = kept[pairs]
        sources = states[pairs]
        labels = components(sources[edges], targets[edges], number)
        leaves = np.bincount(pairs[edges & (labels[sources] != labels[targets])], minlength=len(states)) > 0
        if not (leaves & kept).any():
            break
        kept &= ~leaves
        gone = np.ones(number, dtype=bool)
        gone[states[kept]] = False
        rank, edges = np.cumsum(kept) - 1, kept[pairs]
        gone = attracted(states[kept], rank[pairs[edges]], targets[edges], gone, by_any=True)
        kept &= ~(np.bincount(pairs[gone[targets]], minlength=len(states)) > 0)
    inside = np.zeros(number, dtype=bool)
    inside[states[kept]] = True
    return np.where(inside, labels, -1), kept


def surely_reaching(states: Array, pairs: Array, targets: Array, chances: Array, goal: Array) -> tuple[Array, Array]:
    """Where some choice of pairs reaches the goal with probability 1.

    Args:
        states: int [R], ascending: the state of each pair.
        pairs: int [E], ascending: the pair of each edge.
        targets: int [E], where it leads.
        chances: [E], its probability given the pair.
        goal: bool [N + 1].

    Returns:
        (bool [N + 1], such states; int [N + 1], the pair of each that is the likeliest to lead to the next state on a
        shortest path, -1 in the goal and elsewhere).
    """
    kept = np.ones(len(states), dtype=bool)
    sources = states[pairs]
    while True:
        edges = kept[pairs]
        hops = next_hops(sources[edges], targets[edges], goal)
        leaves = np.bincount(pairs[edges & (hops[targets] == -2)], minlength=len(states)) > 0
        if not (leaves & kept).any():
            break
        kept &= ~leaves
    nearer = kept[pairs] & (hops[sources] == targets)
    likely = np.bincount(pairs[nearer], chances[nearer].astype(np.float64), len(states))
    able = np.flatnonzero(likely > 0)
    order = able[np.lexsort((-likely[able], states[able]))]
    first = np.append(True, states[order][1:] != states[order][:-1])[: len(order)]
    found = np.full(len(goal), -1)
    found[states[order[first]]] = order[first]
    return hops > -2, found
