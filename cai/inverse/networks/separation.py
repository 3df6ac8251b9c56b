"""Features whose coefficient has no finite estimate, found by the best routes of each feature alone.

The likelihood of a trip is that of its route among all routes from its origin to its destination. If every trip has the
least that any of these routes has of a feature, the likelihood rises for ever as the coefficient falls (Albert and
Anderson 1984, for logits).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cai.inference.tabular.routes.sums import RouteGraph
from cai.inverse.networks.objective import NetworkObjective

__all__ = ["separated"]

Array = np.ndarray[Any, Any]
SAME = 1e-9  # of a total, by which it may differ from the extreme


def separated(objective: NetworkObjective) -> list[tuple[str, str, float]]:
    """(name, sentence, sign) of each feature that trips always have the least (sign -1) or the most (1) of."""
    found = []
    graph, turns, exits = objective.kept.graph, objective.kept.turns, objective.kept.exits
    for i, name in enumerate(objective.names):
        for sign, word in ((1.0, "least"), (-1.0, "most")):
            if not _always_least(objective, graph, sign * objective.of_turns[turns, i], exits, sign, i):
                continue
            if not _always_least(objective, graph, -sign * objective.of_turns[turns, i], exits, -sign, i):
                never = sign > 0 and not objective.observed[objective.pairs[1] >= 0, i].any()
                told = (
                    "no trip has any of it, and other routes do"
                    if never
                    else (f"every trip has the {word} of it that a route from its origin to its destination can have")
                )
                found.append((name, told, -sign))
            break  # where both hold, routes do not differ in it: it is not identified
    return found


def _goes_round(graph: RouteGraph, costs: Array, kept: Array, destination: int) -> bool:
    """Whether a round trip on the way to a destination has a negative cost, where no cost is above 0; else False.

    Then that is so if a turn of negative cost lies on any round trip, in one strongly connected part of the network.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    if (costs[kept] > 0).any():
        return False
    tails, heads = graph.tails[kept], graph.heads[kept]
    table = csr_matrix((np.ones(len(tails)), (tails, heads)), shape=(graph.number, graph.number))
    parts = connected_components(table, connection="strong")[1]
    round_trip = (parts[tails] == parts[heads]) & (costs[kept] < 0)
    return bool((round_trip & graph.leads_to(destination)[tails]).any())


def _always_least(
    objective: NetworkObjective, graph: RouteGraph, costs: Array, exits: Array, sign: float, feature: int
) -> bool:
    """Whether every trip has the least of sign times a feature; False as soon as one has not."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import NegativeCycleError, bellman_ford, dijkstra

    pairs, place = objective.pairs
    totals = sign * objective.observed[:, feature]
    negative = bool((costs < 0).any())
    size = graph.number + 1
    for destination, chosen in pairs.places.items():
        mine = graph.exits_of(destination)
        links = graph.exit_links[mine]
        kept = ~np.isin(graph.tails, links) if graph.absorbs else np.ones(len(costs), dtype=bool)
        if negative and _goes_round(graph, costs, kept, destination):
            return False
        paid = sign * objective.of_exits[exits[mine], feature]
        floor = min(float(paid.min(initial=0.0)), 0.0)
        rows = np.concatenate([graph.heads[kept], np.full(len(links), graph.number)])
        columns = np.concatenate([graph.tails[kept], links])
        table = csr_matrix((np.concatenate([costs[kept], paid - floor]), (rows, columns)), shape=(size, size))
        try:
            distance = (bellman_ford if negative else dijkstra)(table, indices=graph.number)
        except NegativeCycleError:
            return False
        least = distance[pairs.links] + floor
        own = np.isin(place, chosen)
        scale = np.maximum(1.0, np.abs(totals[own]))
        if (totals[own] - least[place[own]] > SAME * scale).any():
            return False
    return True
