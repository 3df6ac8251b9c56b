"""The best route from every link to one destination, and what a turn is worth if the best is done after it."""

from __future__ import annotations

from typing import Any

import numpy as np

from cai.inference.tabular.routes.sums import RouteGraph

__all__ = ["BestRoutes", "action_values"]

Array = np.ndarray[Any, Any]


class BestRoutes:
    """Shortest routes to one destination (Dijkstra 1959).

    Args:
        graph: the places of turns and exits.
        turn_costs: [E], >= 0.
        exit_costs: [X], of any sign.
        destination: which.

    Attributes:
        costs: [L], of the best route from each link, inf where there is none.
        following: int64 [L], the turn that it takes; -1 where it leaves, or there is none.
        leaving: int64 [L], the exit of each link to this destination, -1 where there is none.
    """

    def __init__(self, graph: RouteGraph, turn_costs: Array, exit_costs: Array, destination: int) -> None:
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import dijkstra

        self.graph, self.turn_costs, self.exit_costs = graph, turn_costs, exit_costs
        exits = graph.exits_of(destination)
        links = graph.exit_links[exits]
        self.leaving = np.full(graph.number, -1)
        self.leaving[links] = exits
        self.usable = self.leaving[graph.tails] < 0 if graph.absorbs else np.ones(len(graph.tails), dtype=bool)
        turns = np.flatnonzero(self.usable)
        floor = min(float(exit_costs[exits].min(initial=0.0)), 0.0)
        size = graph.number + 1  # the last one stands for having left
        rows = np.concatenate([graph.heads[turns], np.full(len(links), graph.number)])
        columns = np.concatenate([graph.tails[turns], links])
        paid = np.concatenate([turn_costs[turns], exit_costs[exits] - floor])
        distance, before = dijkstra(
            csr_matrix((paid, (rows, columns)), shape=(size, size)), indices=graph.number, return_predecessors=True
        )
        self.costs = distance[:-1] + floor
        # The turn from each link to the one that the search came from.
        chosen = turns[before[graph.tails[turns]] == graph.heads[turns]]
        self.following = np.full(graph.number, -1)
        self.following[graph.tails[chosen]] = chosen

    def route(self, origin: int) -> tuple[list[int], int]:
        """(turns, exit) of the best route.

        Raises:
            ValueError: if there is none.
        """
        if not np.isfinite(self.costs[origin]):
            raise ValueError(f"there is no route from link {origin}")
        turns: list[int] = []
        link = origin
        while self.following[link] >= 0:
            turns.append(int(self.following[link]))
            link = int(self.graph.heads[turns[-1]])
        return turns, int(self.leaving[link])


def action_values(best: BestRoutes, of_turns: Array, of_exits: Array) -> tuple[Array, Array, Array, Array]:
    """Log probabilities of turns and exits by a softmax over Q*, and their gradients by coefficients.

    Args:
        best: routes for costs that are minus features times coefficients.
        of_turns: [E, F].
        of_exits: [X, F].

    Returns:
        Gradients of turns [E, F] and exits [X, F], log probabilities of turns [E] and exits [X]; -inf where a turn does
        not lead there.
    """
    graph, size = best.graph, of_turns.shape[1]
    gathered = np.zeros((graph.number, size))
    order = np.argsort(best.costs, kind="stable")
    depth = _depths(best)
    for link in order[np.argsort(depth[order], kind="stable")]:
        turn = best.following[link]
        if turn >= 0:
            gathered[link] = of_turns[turn] + gathered[graph.heads[turn]]
        elif best.leaving[link] >= 0 and np.isfinite(best.costs[link]):
            gathered[link] = of_exits[best.leaving[link]]
    values = np.where(best.usable, -best.turn_costs - best.costs[graph.heads], -np.inf)
    ends = np.flatnonzero(best.leaving >= 0)
    exits = best.leaving[ends]
    sources = np.concatenate([graph.tails, ends])
    scores = np.concatenate([values, -best.exit_costs[exits]])
    slopes = np.concatenate([of_turns + gathered[graph.heads], of_exits[exits]])
    top = np.full(graph.number, -np.inf)
    np.maximum.at(top, sources, scores)
    level = np.where(np.isfinite(top), top, 0.0)
    weights = np.exp(scores - level[sources])
    sums = np.bincount(sources, weights, graph.number)
    sums = np.where(sums > 0, sums, 1.0)  # where no turn leads there all scores are -inf
    logs = scores - level[sources] - np.log(sums)[sources]
    shares = weights / sums[sources]
    mean = np.zeros((graph.number, size))
    np.add.at(mean, sources, shares[:, None] * slopes)
    slopes = slopes - mean[sources]
    count = len(graph.tails)
    end_slopes, end_logs = np.zeros((len(of_exits), size)), np.full(len(of_exits), -np.inf)
    end_slopes[exits], end_logs[exits] = slopes[count:], logs[count:]
    return slopes[:count], end_slopes, logs[:count], end_logs


def _depths(best: BestRoutes) -> Array:
    """int64 [L], how many turns the best route from each link makes."""
    depth = np.zeros(best.graph.number, dtype=np.int64)
    here = np.arange(best.graph.number)
    going = best.following[here] >= 0
    while going.any():
        depth[going] += 1
        here = np.where(going, best.graph.heads[best.following[here]], here)
        going &= best.following[here] >= 0
    return depth
