"""Log sums over routes from many links, with exact first and second derivatives by coefficients of the log weights.

Log weights are linear, v = v0 + X w of turns and u = u0 + Y w of exits, so M_i = M X_i, b_i = b Y_i elementwise and

    z_i  = (I - M)^-1 (M_i z + b_i)
    z_ij = (I - M)^-1 (M_ij z + b_ij + M_i z_j + M_j z_i)

Of sum_n c_n log z(o_n), the gradient needs one adjoint solve l = (I - M)^-T sum_n c_n e_o / z(o): it is
l'(M_i z + b_i), where l(k) M(k, a) z(a) is the expected count of a turn. z_i at the links o gives each term's own
gradient, for one solve a coefficient; and l' contracts z_ij without solving for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cai.inference.kernels.native.factors import edge_products
from cai.inference.tabular.routes.sums import Block, RouteGraph, RouteSums

__all__ = ["Derivatives", "Pairs", "Values", "pair_logs", "second_order", "with_gradient"]

Array = np.ndarray[Any, Any]
CHUNK = 2048  # turns whose products over columns are made together


@dataclass(frozen=True, eq=False)
class Pairs:
    """K pairs of a link and a destination, and how much each log sum counts.

    Attributes:
        links: int64 [K].
        destinations: int64 [K].
        factors: c [K].
    """

    links: Array
    destinations: Array
    factors: Array

    @cached_property
    def places(self) -> dict[int, Array]:
        """The pairs of each destination."""
        order = np.argsort(self.destinations, kind="stable")
        found, begins = np.unique(self.destinations[order], return_index=True)
        return dict(zip(found.tolist(), np.split(order, begins[1:]), strict=True))

    @cached_property
    def origins(self) -> dict[int, Array]:
        """The links of each destination."""
        return {destination: self.links[places] for destination, places in self.places.items()}

    def within(self, block: Block) -> tuple[Array, Array]:
        """(pairs of a block, the column of each)."""
        parts = [self.places[destination] for destination in block.destinations]
        return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])


@dataclass(frozen=True, eq=False)
class Values:
    """Log sums and expected counts.

    Attributes:
        logs: log z [K].
        turn_counts: [E], sum_n c_n E[times that a turn is taken].
        exit_counts: [X].
    """

    logs: Array
    turn_counts: Array
    exit_counts: Array


@dataclass(frozen=True, eq=False)
class Derivatives:
    """What coefficients do to log sums.

    Attributes:
        slopes: [K, F], of each log z.
        hessian: [F, F], of sum_n c_n log z.
    """

    slopes: Array
    hessian: Array


def pair_logs(sums: RouteSums, pairs: Pairs) -> Array | None:
    """Log z [K], -inf where there is no route; None where sums are infinite."""
    logs = np.full(len(pairs.links), -np.inf)
    for block in sums.blocks(pairs.origins):
        if block is None:
            return None
        chosen, columns = pairs.within(block)
        logs[chosen] = block.log_sums(pairs.links[chosen], columns)
    return logs


def with_gradient(sums: RouteSums, pairs: Pairs) -> Values | None:
    """Log sums and expected counts; None where a sum is infinite or has no route."""
    graph = sums.graph
    logs = np.empty(len(pairs.links))
    turns, exits = np.zeros(len(graph.tails)), np.zeros(len(graph.exit_links))
    for block, chosen, columns, ahead in _adjoints(sums, pairs):
        if ahead is None:
            return None
        logs[chosen] = block.log_sums(pairs.links[chosen], columns)
        _add_exits(exits, block, ahead)
        turns += block.weights * _products(graph, block.solver.moving(ahead), block.sums)
    return Values(logs, turns, exits) if np.isfinite(logs).all() else None


def second_order(sums: RouteSums, pairs: Pairs, of_turns: Array, of_exits: Array) -> Derivatives | None:
    """Slopes of every log sum and the Hessian of their weighted sum; None as `with_gradient`.

    Args:
        sums: the log weights.
        pairs: of link and destination.
        of_turns: X [E, F].
        of_exits: Y [X, F].
    """
    graph, size = sums.graph, of_turns.shape[1]
    slopes, hessian = np.empty((len(pairs.links), size)), np.zeros((size, size))
    turns, exits = np.zeros(len(graph.tails)), np.zeros(len(graph.exit_links))
    for block, chosen, columns, ahead in _adjoints(sums, pairs):
        if ahead is None:
            return None
        _add_exits(exits, block, ahead)
        ahead = block.solver.moving(ahead)
        turns += block.weights * _products(graph, ahead, block.sums)
        cross = np.empty((size, size))
        at = pairs.links[chosen], columns
        for j in range(size):
            side = _side(graph, block, of_turns[:, j], of_exits[block.exits, j])
            first = block.solver.solve(side)
            if first is None or not np.isfinite(first).all():
                return None
            slopes[chosen, j] = first[at] / block.sums[at]
            cross[:, j] = of_turns.T @ (block.weights * _products(graph, ahead, np.ascontiguousarray(first)))
        hessian += cross + cross.T
    hessian += (turns[:, None] * of_turns).T @ of_turns + (exits[:, None] * of_exits).T @ of_exits
    hessian -= (pairs.factors[:, None] * slopes).T @ slopes
    return Derivatives(slopes, (hessian + hessian.T) / 2)


def _adjoints(sums: RouteSums, pairs: Pairs) -> Iterator[tuple[Block, Array, Array, Array | None]]:
    """(block, its pairs, their columns, l [L, R]); l is None where a sum is infinite or has no route."""
    for block in sums.blocks(pairs.origins):
        if block is None:
            yield None, None, None, None  # type: ignore[misc]
            return
        chosen, columns = pairs.within(block)
        links = pairs.links[chosen]
        found = block.sums[links, columns]
        if not (found > 0).all():
            yield block, chosen, columns, None
            return
        side = np.zeros(block.sums.shape)
        np.add.at(side, (links, columns), pairs.factors[chosen] / found)
        ahead = block.solver.adjoint(side)
        del side
        if ahead is not None:
            ahead = np.ascontiguousarray(ahead) if np.isfinite(ahead.sum()) else None
        yield block, chosen, columns, ahead


def _add_exits(exits: Array, block: Block, ahead: Array) -> None:
    """Adds the expected counts of exits of a block."""
    np.add.at(exits, block.exits, ahead[block.links, block.columns] * block.leaves)


def _products(graph: RouteGraph, left: Array, right: Array) -> Array:
    """[E], sum_r left(k, r) right(a, r) along every turn from k to a."""
    native = edge_products(graph.tails, graph.heads, left, right)
    if native is not None:
        return native
    left, right = np.ascontiguousarray(left), np.ascontiguousarray(right)
    found = np.empty(len(graph.tails))
    for start in range(0, len(found), CHUNK):
        part = slice(start, start + CHUNK)
        found[part] = np.einsum("er,er->e", left[graph.tails[part]], right[graph.heads[part]])
    return found


def _side(graph: RouteGraph, block: Block, of_turns: Array, of_exits: Array) -> Array:
    """M_i z + b_i [L, R], with rows where whoever enters has arrived holding b_i alone."""
    from scipy.sparse import csr_matrix

    weights = block.weights * of_turns
    table = csr_matrix((weights, (graph.tails, graph.heads)), shape=(graph.number, graph.number))
    side = block.solver.moving(np.asarray(table @ block.sums))
    np.add.at(side, (block.links, block.columns), block.leaves * of_exits)
    return side
