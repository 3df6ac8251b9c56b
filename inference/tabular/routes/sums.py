"""Sums over all routes of a network to each of many destinations, from one factorisation of I - M.

M(k, a) = e^v(k, a) is the weight of the turn from link k to link a, b_d(k) = e^u(k, d) that of leaving at k for
destination d. The sum over all routes from k solves z_d = M z_d + b_d, for which rho(M) < 1 is needed (Fosgerau,
Frejinger and Karlstrom 2013; Mai, Fosgerau and Frejinger 2015 for the derivatives as further linear systems). Where
whoever enters a link of the set D of a destination has arrived, rows D of M are 0. With G = (I - M)^-1 of the whole M,
every route is one to its first link of D and then on, so

    z = G[:, D] c,  G[D, D] c = e,  e = b_d on D

and one factorisation serves all destinations again. Where rho(M) >= 1 for the whole M, each destination gets its own,
of what lies on the way to it from where sums are wanted.

Weights beyond the range of floats: of a destination where some wanted z is below 1e-290, x = z e^-h is solved for, h
being the log weight of the best route (Dijkstra 1959); then all of x is 1 or more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from cai.inference.tabular.markov.linear_systems import LinearSystem, SystemPattern
from cai.inference.tabular.routes.solvers import AbsorbingSolver, PlainSolver, Solver

__all__ = ["Block", "RouteGraph", "RouteSums"]

Array = np.ndarray[Any, Any]
WIDTH, NARROW = 64, 16  # right-hand sides that are solved for together, on small networks and on large ones
LARGE = 50_000  # links from which a network is large
CANCELLED = 1e4  # times a sum, from which its terms are too large: the destination then gets factors of its own
SMALLEST = 1e-290  # below which a sum over routes is found in its own scale


@dataclass(frozen=True, eq=False)
class RouteGraph:
    """The places of turns and exits; what they weigh is no part of it.

    Attributes:
        number: L links.
        tails: int64 [E], the link that each turn leaves.
        heads: int64 [E], the link that it enters.
        exit_links: int64 [X].
        exit_destinations: int64 [X], below `num_destinations`.
        num_destinations: D.
        absorbs: whether whoever enters an exit link of the destination has arrived.
    """

    number: int
    tails: Array
    heads: Array
    exit_links: Array
    exit_destinations: Array
    num_destinations: int
    absorbs: bool = False

    @cached_property
    def pattern(self) -> SystemPattern:
        """The places of M."""
        return SystemPattern(torch.from_numpy(self.tails), torch.from_numpy(self.heads), self.number)

    @cached_property
    def _grouped(self) -> tuple[Array, Array]:
        """Exits in the order of their destinations, and where each destination's begin."""
        order = np.argsort(self.exit_destinations, kind="stable")
        return order, np.searchsorted(self.exit_destinations[order], np.arange(self.num_destinations + 1))

    def exits_of(self, destination: int) -> Array:
        """int64, the exits of a destination."""
        order, begins = self._grouped
        return order[begins[destination] : begins[destination + 1]]

    def leads_to(self, destination: int) -> Array:
        """Bool [L], from which links there is a route to a destination."""
        return self._searched(self.heads, self.tails, self.exit_links[self.exits_of(destination)], destination)

    def led_from(self, origins: Array, destination: int) -> Array:
        """Bool [L], which links a trip from some origins to a destination can be on."""
        return self._searched(self.tails, self.heads, np.unique(origins), destination)

    def _searched(self, sources: Array, targets: Array, starts: Array, destination: int) -> Array:
        """Bool [L], what is reached along edges; from absorbing links of the destination no turn is made."""
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import breadth_first_order

        ends = self.exit_links[self.exits_of(destination)]
        kept = ~np.isin(self.tails, ends) if self.absorbs else np.ones(len(self.tails), dtype=bool)
        rows = np.concatenate([sources[kept], np.full(len(starts), self.number)])
        columns = np.concatenate([targets[kept], starts])
        size = self.number + 1  # the last one stands for where the search begins
        table = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(size, size))
        found = np.zeros(size, dtype=bool)
        found[breadth_first_order(table, self.number, return_predecessors=False)] = True
        return found[:-1]

    def groups(self, destinations: Sequence[int]) -> Iterator[list[int]]:
        """Destinations in blocks of at most `WIDTH` columns (of exit links too, where these absorb)."""
        most = WIDTH if self.number < LARGE else NARROW
        block: list[int] = []
        width = 0
        for destination in destinations:
            more = max(1, len(self.exits_of(destination))) if self.absorbs else 1
            if block and width + more > most:
                yield block
                block, width = [], 0
            block.append(destination)
            width += more
        if block:
            yield block


@dataclass(frozen=True, eq=False)
class Block:
    """R destinations whose sums are found together.

    Attributes:
        destinations: R of them.
        sums: z [L, R], in the scale of `heights`.
        heights: [L], log z = log sums + heights; None where that is 0. Links without a way to go have -inf.
        weights: [E], of turns, in the same scale.
        exits: int64 [Y], the exits of these destinations.
        links: int64 [Y], their links.
        columns: int64 [Y], which of the R each belongs to.
        leaves: [Y], the weight of each exit, in the same scale.
        solver: of (I - M) x = b and its transpose, for these columns.
    """

    destinations: list[int]
    sums: Array
    heights: Array | None
    weights: Array
    exits: Array
    links: Array
    columns: Array
    leaves: Array
    solver: Solver

    def log_sums(self, links: Array, columns: Array) -> Array:
        """Log z at some links and columns, -inf where there is no route."""
        with np.errstate(divide="ignore"):
            logs = np.log(self.sums[links, columns])
        return logs if self.heights is None else logs + self.heights[links]


class RouteSums:
    """Sums over routes for given log weights.

    Args:
        graph: the places.
        turn_logs: v [E], nats, of any sign.
        exit_logs: u [X], nats.
    """

    def __init__(self, graph: RouteGraph, turn_logs: Array, exit_logs: Array) -> None:
        self.graph, self.turn_logs, self.exit_logs = graph, turn_logs, exit_logs
        with np.errstate(over="ignore", under="ignore"):
            self.weights, self.leaves = np.exp(turn_logs), np.exp(exit_logs)

    @cached_property
    def system(self) -> LinearSystem:
        """I - M of the whole M."""
        return self.graph.pattern.system(torch.from_numpy(self.weights))

    @cached_property
    def converges(self) -> bool:
        """Whether rho(M) < 1 for the whole M, as far as float64 can tell."""
        return bool(np.isfinite(self.weights).all()) and self.system.lengths is not None

    @property
    def finite(self) -> bool:
        """Whether weights are in the range of floats; sums may still be infinite."""
        return bool(np.isfinite(self.weights).all() and np.isfinite(self.leaves).all())

    def blocks(self, origins: dict[int, Array]) -> Iterator[Block | None]:
        """Blocks of destinations, in order; None once a destination has no finite sums.

        Args:
            origins: the links from which each destination's sums are wanted.
        """
        if not self.finite:
            yield None
            return
        wanted = sorted(origins)
        if not self.converges:
            for destination in wanted:
                yield self.alone(destination, origins[destination])
            return
        for group in self.graph.groups(wanted):
            block = self._shared(group)
            if block is None:
                yield None
                return
            small = [
                i
                for i, destination in enumerate(group)
                if self._lost(block.sums[:, i], destination, origins) or self._cancelled(block, i, origins[destination])
            ]
            if not small:
                yield block
                continue
            kept = [destination for i, destination in enumerate(group) if i not in small]
            if kept:
                yield self._shared(kept)
            for i in small:
                yield self.alone(group[i])

    def _lost(self, sums: Array, destination: int, origins: dict[int, Array]) -> bool:
        """Whether some wanted sum is below `SMALLEST` although there is a route."""
        low = origins[destination][~(sums[origins[destination]] >= SMALLEST)]
        return bool(len(low) and self.graph.leads_to(destination)[low].any())

    def _cancelled(self, block: Block, column: int, links: Array) -> bool:
        """Whether G[:, D] c is the difference of far larger terms: ways on from one exit link to one that pays more."""
        if not isinstance(block.solver, AbsorbingSolver) or (block.columns == column).sum() < 2:
            return False
        return bool((block.solver.sizes(column)[links] > CANCELLED * block.sums[links, column]).any())

    def _exits(self, group: Sequence[int]) -> tuple[Array, Array, Array]:
        """(exits, their links, their columns) of some destinations."""
        exits = [self.graph.exits_of(destination) for destination in group]
        columns = np.repeat(np.arange(len(group)), [len(part) for part in exits])
        chosen = np.concatenate(exits) if exits else np.zeros(0, dtype=np.int64)
        return chosen, self.graph.exit_links[chosen], columns

    def _shared(self, group: list[int]) -> Block | None:
        """The sums of some destinations by the factors of the whole M."""
        exits, links, columns = self._exits(group)
        leaves = self.leaves[exits]
        solver: Solver = PlainSolver(self.system)
        if self.graph.absorbs:
            solver = AbsorbingSolver(self.system, links, columns, len(group))
        side = np.zeros((self.graph.number, len(group)))
        side[links, columns] = leaves
        sums = solver.solve(side)
        if sums is None or not np.isfinite(sums.sum()):
            return None
        sums = np.ascontiguousarray(sums)
        return Block(group, sums, None, self.weights, exits, links, columns, leaves, solver)

    def alone(self, destination: int, origins: Array | None = None) -> Block | None:
        """One destination by factors of its own, in the scale of its best routes; None where sums are infinite.

        Args:
            destination: which.
            origins: where rho(M) >= 1 for the whole M, the links from which sums are wanted: only what lies on the way
                counts. None stands for all.
        """
        graph = self.graph
        exits, links, columns = self._exits([destination])
        on_the_way = np.ones(graph.number, dtype=bool)
        if not self.converges:
            on_the_way = graph.leads_to(destination)
            on_the_way &= True if origins is None else graph.led_from(origins, destination)
        inner = on_the_way.copy()
        if graph.absorbs:
            inner[links] = False
        used = inner[graph.tails] & on_the_way[graph.heads]
        system = self.system
        if not self.converges:
            system = graph.pattern.system(torch.from_numpy(np.where(used, self.weights, 0.0)))
        if system.lengths is None:
            return None
        logs = np.where(used, self.turn_logs, -np.inf)
        heights = self._heights(logs, exits, links, np.log(system.lengths.numpy()))
        with np.errstate(invalid="ignore", under="ignore"):
            moved = np.exp(logs + heights[graph.heads] - heights[graph.tails])
            moved = np.where(np.isfinite(heights[graph.tails]) & np.isfinite(heights[graph.heads]), moved, 0.0)
            leaves = np.exp(self.exit_logs[exits] - heights[links])
        system = graph.pattern.system(torch.from_numpy(moved))
        if system.lengths is None:
            return None
        side = np.zeros((graph.number, 1))
        np.add.at(side, (links, columns), leaves)
        solver = PlainSolver(system)
        sums = solver.solve(side)
        if sums is None or not np.isfinite(sums).all():
            return None
        return Block([destination], sums, heights, moved, exits, links, columns, leaves, solver)

    def _heights(self, logs: Array, exits: Array, links: Array, level: Array) -> Array:
        """[L], the largest log weight of a route from each link, -inf where there is none.

        With y = (I - M)^-1 1 >= 1 there is y >= M y, so costs -v + log y(k) - log y(a) are >= 0 whatever the sign of v.

        Args:
            logs: v [E], -inf where there is no turn.
            exits: of the destination.
            links: of these exits.
            level: log y [L].
        """
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import dijkstra

        graph = self.graph
        used = np.isfinite(logs)
        tails, heads = graph.tails[used], graph.heads[used]
        costs = np.maximum(level[tails] - level[heads] - logs[used], 0.0)
        paid = level[links] - self.exit_logs[exits]
        floor = min(float(paid.min(initial=0.0)), 0.0)
        size = graph.number + 1  # the last one stands for having left
        rows = np.concatenate([heads, np.full(len(links), graph.number)])
        columns = np.concatenate([tails, links])
        table = csr_matrix((np.concatenate([costs, paid - floor]), (rows, columns)), shape=(size, size))
        return np.asarray(level - (dijkstra(table, indices=graph.number)[:-1] + floor))
