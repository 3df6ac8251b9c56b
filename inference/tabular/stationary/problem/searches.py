"""Searches of `graphs` through a stationary problem, of edges that are a table without a list where that can be."""

from __future__ import annotations

from typing import Any

import numpy as np

from cai.inference.tabular.markov.graphs import components, end_components, hops_by_table, surely_reaching
from cai.inference.tabular.stationary.problem.steps import Steps
from cai.inference.tabular.stationary.problem.tables import sources_of

__all__ = ["ending", "staying"]

Array = np.ndarray[Any, Any]
WAVES = 4  # looks at every edge before a search


def staying(steps: Steps, usable: Array) -> tuple[Array, Array]:
    """Maximal end components among some pairs, bool [R]; see `graphs.end_components`.

    A pair that may lead to the end, or to a state in which no pair is usable, stays nowhere.
    """
    kept, number = usable.copy(), steps.number + 1
    for _ in range(WAVES):
        gone = np.ones(number, dtype=bool)
        gone[steps.states[kept]] = False
        following = kept & ~steps.into(gone)
        if not following.any():
            return np.full(number, -1), following
        if (following == kept).all():
            break
        kept = following
    gone = np.ones(number, dtype=bool)
    gone[steps.states[kept]] = False
    if steps.table is None:
        return end_components(steps.states, steps.pairs, steps.targets, kept, number)
    part, states = steps.table.part(kept), steps.states[kept]
    sources, targets = np.nonzero(sources_of(part, states, number - 1))
    labels = components(sources, targets, number)
    if len(np.unique(labels[states])) == 1 and not steps.into(gone)[kept].any():
        return np.where(gone, -1, labels), kept
    edges = part.listed
    labels, inside = end_components(states, edges.pairs, edges.targets, np.ones(len(states), dtype=bool), number)
    kept[kept] = inside
    return labels, kept


def ending(steps: Steps, end: Array) -> tuple[Array, Array]:
    """Where some choice of pairs reaches the end, bool [N + 1], for sure; see `graphs.surely_reaching`."""
    table = steps.table
    hops = None if table is None else hops_by_table(steps.leads, end)
    if table is None or hops is None or (hops == -2).any():
        return surely_reaching(steps.states, steps.pairs, steps.targets, steps.chances, end)
    chosen = np.full(steps.number + 1, -1)  # every state leads there, so none can be left for good
    column = np.full(steps.number + 1, -1)
    inner = np.flatnonzero(table.columns < steps.number)
    column[table.columns[inner]] = inner
    following = hops[steps.states]
    direct = table.table[:, end[table.columns]].sum(1) if (following == steps.number).any() else 0.0
    rows = np.arange(len(steps.states))
    likely = np.where(following == steps.number, direct, table.table[rows, column[following]])
    best = np.maximum.reduceat(likely, steps.first_pairs)
    first = np.flatnonzero(likely >= best[steps.states])[::-1]
    chosen[steps.states[first]] = first
    return np.ones(steps.number + 1, dtype=bool), chosen
