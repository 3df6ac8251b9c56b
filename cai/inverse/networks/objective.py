"""The log-likelihood of trips through a network: utilities of what was taken, less log sums over all routes.

    log p(trip n | origin o, destination d) = w . (features of its turns and exit) + log priors - log z_d(o)

It is concave in w, and by whole routes or turn by turn the same number, as turns are deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.inference.tabular.routes.derivatives import (
    Derivatives,
    Pairs,
    Values,
    pair_logs,
    second_order,
    with_gradient,
)
from cai.inference.tabular.routes.sums import RouteGraph, RouteSums
from cai.inverse.networks.parts import PartedSums
from cai.models.demonstrations.network_tables import plain
from cai.models.demonstrations.route_network import RouteNetwork
from cai.models.demonstrations.trips import Trips
from cai.tasks.mapping import Map

__all__ = ["Kept", "NetworkObjective", "network_graph", "reached"]

Array = np.ndarray[Any, Any]


def network_graph(network: RouteNetwork) -> RouteGraph:
    """All of a network."""
    return RouteGraph(
        network.num_links,
        network.tails,
        network.heads,
        network.exit_links,
        network.exit_destinations,
        len(network.destination_index),
        network.ends == "absorb",
    )


def reached(network: RouteNetwork, origins: Array, destinations: Array) -> Array:
    """Bool [L], links on a way from one of some origins to one of some destinations."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import breadth_first_order

    number = network.num_links
    size = number + 2
    ends = network.exit_links[np.isin(network.exit_destinations, destinations)]
    starts = np.unique(origins)

    def mask(rows: Array, columns: Array, begin: int) -> Array:
        table = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(size, size))
        found = np.zeros(size, dtype=bool)
        found[breadth_first_order(table, begin, return_predecessors=False)] = True
        return found[:number]

    source, sink = np.full(len(starts), number), np.full(len(ends), number + 1)
    forward = mask(np.concatenate([network.tails, source]), np.concatenate([network.heads, starts]), number)
    backward = mask(np.concatenate([network.heads, sink]), np.concatenate([network.tails, ends]), number + 1)
    return forward & backward


@dataclass(frozen=True, eq=False)
class Kept:
    """The part of a network that trips could use.

    Attributes:
        graph: its places.
        links: int64, its links in the network.
        places: int64 [L], the number that a kept link has in the graph.
        turns: int64, its turns in the network.
        exits: int64, its exits in the network.
    """

    graph: RouteGraph
    links: Array
    places: Array
    turns: Array
    exits: Array


class NetworkObjective:
    """An `Objective` over trips; what no trip could have used is left out of its linear systems.

    Args:
        network: links, turns, exits.
        trips: that fit the network.
        names: of the features.
        map: who does parts of the destinations, with the contract of `concurrent.futures.Executor.map`; None for all
            of them at once, here.

    Attributes:
        names: of the features.
        weights: [N].
        persons: N labels, or None.
        of_turns: X [E, F], what a turn has of each feature.
        of_exits: Y [X, F].
        observed: [N, F], what each trip has of each feature.
    """

    def __init__(self, network: RouteNetwork, trips: Trips, names: Sequence[str], map: Map | None = None) -> None:
        self.network, self.trips, self.map = network, trips, map
        self.names = tuple(plain(name) for name in names)
        self.weights = torch.from_numpy(trips.weights.copy())
        self.persons = trips.persons
        self.of_turns, self.of_exits = network.features(names)
        self.observed = trips.totals(self.of_turns, self.of_exits)
        self.offsets = trips.totals(*network.offsets)
        self._first: tuple[bytes, Values | None] | None = None
        self._second: tuple[bytes, Derivatives | None] | None = None
        self._sums: tuple[bytes, RouteSums] | None = None

    @cached_property
    def kept(self) -> Kept:
        """The part of the network that these trips could use; the rest changes no sum that is wanted."""
        network, trips = self.network, self.trips
        used = np.flatnonzero(trips.weights > 0)
        links = reached(network, trips.origins[used], trips.destinations[used])
        links[trips.origins[used]] = True
        places = np.cumsum(links) - 1
        turns = np.flatnonzero(links[network.tails] & links[network.heads])
        exits = np.flatnonzero(links[network.exit_links])
        graph = RouteGraph(
            int(links.sum()),
            places[network.tails[turns]],
            places[network.heads[turns]],
            places[network.exit_links[exits]],
            network.exit_destinations[exits],
            len(network.destination_index),
            network.ends == "absorb",
        )
        return Kept(graph, np.flatnonzero(links), places, turns, exits)

    @cached_property
    def pairs(self) -> tuple[Pairs, Array]:
        """(pairs of origin and destination with the weights of their trips, the pair of each trip, -1 of weight 0)."""
        count, trips = len(self.network.destination_index), self.trips
        used = trips.weights > 0
        keys, found = np.unique((trips.origins * count + trips.destinations)[used], return_inverse=True)
        place = np.full(len(trips), -1)
        place[used] = found
        factors = np.bincount(found, trips.weights[used], len(keys))
        return Pairs(self.kept.places[keys // count], keys % count, factors), place

    @cached_property
    def _weightless(self) -> tuple[Array, NetworkObjective] | None:
        """(places of trips of weight 0, their own objective), for what is asked of each trip; the fit has no part."""
        places = np.flatnonzero(self.trips.weights == 0)
        return (places, NetworkObjective(self.network, self.trips.select(places), self.names)) if len(places) else None

    @cached_property
    def _parted(self) -> PartedSums | None:
        """The same sums by parts of the destinations, where there is a map."""
        if self.map is None:
            return None
        turns, exits = self.kept.turns, self.kept.exits
        base_turns, base_exits = self.network.offsets
        return PartedSums(
            self.kept.graph,
            (base_turns[turns], base_exits[exits]),
            (self.of_turns[turns], self.of_exits[exits]),
            self.pairs[0],
            self.map,
        )

    def sums(self, coefficients: Tensor) -> RouteSums:
        """The linear systems at some coefficients."""
        key = coefficients.detach().numpy().tobytes()
        if self._sums is None or self._sums[0] != key:
            turns, exits = self.kept.turns, self.kept.exits
            w = coefficients.detach().numpy()
            base_turns, base_exits = self.network.offsets
            sums = RouteSums(
                self.kept.graph,
                base_turns[turns] + self.of_turns[turns] @ w,
                base_exits[exits] + self.of_exits[exits] @ w,
            )
            self._sums = key, sums
        return self._sums[1]

    def values(self, coefficients: Tensor) -> Values | None:
        """Log sums and expected counts of the turns and exits that are kept."""
        key = coefficients.detach().numpy().tobytes()
        if self._first is None or self._first[0] != key:
            self._first = key, with_gradient(self.sums(coefficients), self.pairs[0])
        return self._first[1]

    def counts(self, coefficients: Tensor) -> tuple[Array, Array] | None:
        """(expected counts of all turns [E], of all exits [X]); None where infeasible."""
        values = self.values(coefficients)
        if values is None:
            return None
        turns, exits = self.kept.turns, self.kept.exits
        of_turns, of_exits = np.zeros(self.network.num_turns), np.zeros(len(self.network.exits))
        of_turns[turns], of_exits[exits] = values.turn_counts, values.exit_counts
        return of_turns, of_exits

    def evaluate(self, coefficients: Tensor) -> tuple[float, Tensor] | None:
        """Log-likelihood in nats and its gradient [F]; None where rho(M) >= 1 or a sum leaves the range of floats."""
        found = self._log_sums(coefficients)
        if found is None:
            return None
        logs, expected = found
        taken = self.trips.weights @ self.observed
        value = taken @ coefficients.detach().numpy() + self.trips.weights @ self.offsets - logs
        return float(value), torch.from_numpy(taken - expected)

    def _log_sums(self, coefficients: Tensor) -> tuple[float, Array] | None:
        """(the weighted log sums over routes; their gradient [F], which is the features that are expected)."""
        if self._parted is not None:
            return self._parted.first_order(coefficients.detach().numpy())
        values = self.values(coefficients)
        if values is None:
            return None
        turns, exits = self.kept.turns, self.kept.exits
        expected = values.turn_counts @ self.of_turns[turns] + values.exit_counts @ self.of_exits[exits]
        return float(self.pairs[0].factors @ values.logs), expected

    def log_probs(self, coefficients: Tensor) -> Tensor:
        """[N], of each trip, -inf where float64 finds no route.

        Raises:
            ArithmeticError: if sums over routes are infinite at these coefficients.
        """
        pairs, place = self.pairs
        logs = pair_logs(self.sums(coefficients), pairs)
        if logs is None:
            raise ArithmeticError("sums over routes are infinite at these coefficients: rho(M) is 1 or more")
        found = torch.from_numpy(self.observed @ coefficients.detach().numpy() + self.offsets)
        used = torch.from_numpy(place >= 0)
        found[used] -= torch.from_numpy(logs[place[place >= 0]])
        if self._weightless is not None:
            found[~used] = self._weightless[1].log_probs(coefficients)
        return found

    def _derivatives(self, coefficients: Tensor) -> Derivatives:
        key = coefficients.detach().numpy().tobytes()
        if self._second is None or self._second[0] != key:
            turns, exits = self.kept.turns, self.kept.exits
            found = (
                second_order(self.sums(coefficients), self.pairs[0], self.of_turns[turns], self.of_exits[exits])
                if self._parted is None
                else self._parted.second_order(coefficients.detach().numpy())
            )
            self._second = key, found
        found = self._second[1]
        if found is None:
            raise ArithmeticError("sums over routes are infinite at these coefficients: rho(M) is 1 or more")
        return found

    def scores(self, coefficients: Tensor) -> Tensor:
        """[N, F], the gradient of each trip's log-likelihood; nan for one of weight 0 where sums are infinite."""
        slopes, place = self._derivatives(coefficients).slopes, self.pairs[1]
        found = torch.from_numpy(self.observed - slopes[place])
        if self._weightless is not None:
            places, others = self._weightless
            known = others.evaluate(coefficients) is not None
            found[torch.from_numpy(places)] = others.scores(coefficients) if known else torch.nan
        return found

    def hessian(self, coefficients: Tensor) -> Tensor:
        """[F, F]."""
        return torch.from_numpy(-self._derivatives(coefficients).hessian)
