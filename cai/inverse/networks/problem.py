"""A network with its trips, as an estimate asks about it: models, samples, counts, log-likelihoods of other trips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from cai.inference.tabular.routes.sums import Block, RouteGraph, RouteSums
from cai.inverse.networks.objective import NetworkObjective, network_graph
from cai.inverse.search.objective import Data
from cai.models.common.fingerprint import fingerprint
from cai.models.common.storage import storable
from cai.models.demonstrations.network_tables import spelled
from cai.models.demonstrations.route_network import RouteNetwork
from cai.models.demonstrations.trips import Trips, read_trips
from cai.models.processes.mdp import MDP
from cai.models.rewards.tables import TableReward
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["NetworkProblem"]

Array = np.ndarray[Any, Any]
ARRIVED = "(arrived)"  # the state after the exit
LONGEST_TRIP = 1_000_000  # turns of a sampled trip


@storable("inverse-network-problem")
@dataclass(frozen=True, eq=False)
class NetworkProblem:
    """A `Problem` on a network.

    Attributes:
        network: links, turns, exits.
        trips: that were fitted.
        names: of the features.
        objective: as the user called it; on a network all three are the same number.
    """

    network: RouteNetwork
    trips: Trips
    names: tuple[str, ...]
    objective: str = "likelihood"

    kind = "network"

    @property
    def form(self) -> str:
        """Without a prior all turns weigh alike."""
        return "entropy" if self.network.prior is None else "kl"

    @property
    def num_demonstrations(self) -> float:
        """The sum of the weights."""
        return float(self.trips.weights.sum())

    @property
    def num_choices(self) -> float:
        """Weighted."""
        return float(self.trips.weights @ self.trips.num_choices(self.network))

    @property
    def data(self) -> Data:
        """Digests of trips, network and features."""
        network, trips = self.network, self.trips
        shown = (trips.origins, trips.destinations, trips.exits, trips.turns, trips.starts, trips.weights)
        ways = (network.tails, network.heads, network.exit_links, network.exit_destinations)
        of_turns, of_exits = network.features(self.names)
        features = {name: fingerprint((of_turns[:, f], of_exits[:, f])) for f, name in enumerate(self.names)}
        world = fingerprint((network.num_links, network.ends, ways, network.offsets))
        return Data(fingerprint(shown), world, features)

    def log_prob(self, coefficients: Tensor, demonstrations: Any) -> Tensor:
        """[N], log p(trip | origin, destination), nats."""
        trips = read_trips(self.network, demonstrations)
        return NetworkObjective(self.network, trips, self.names).log_probs(coefficients)

    def counts(self, coefficients: Tensor) -> pd.DataFrame:
        """Observed and expected weighted counts of every turn, by (from, to)."""
        found = NetworkObjective(self.network, self.trips, self.names).counts(coefficients)
        if found is None:
            raise ArithmeticError("sums over routes are infinite at these coefficients: rho(M) is 1 or more")
        trip = np.repeat(np.arange(len(self.trips)), np.diff(self.trips.starts))
        weights = self.trips.weights[trip]
        observed = np.bincount(self.trips.turns, weights, self.network.num_turns)
        index = pd.MultiIndex.from_arrays([self.network.turns["from"], self.network.turns["to"]])
        return pd.DataFrame({"observed": observed, "expected": found[0]}, index=index)

    def logs(self, coefficients: Tensor) -> tuple[Array, Array]:
        """(v [E], u [X]), log weights of turns and exits, nats."""
        of_turns, of_exits = self.network.features(self.names)
        base_turns, base_exits = self.network.offsets
        w = coefficients.detach().numpy()
        return base_turns + of_turns @ w, base_exits + of_exits @ w

    def model(self, coefficients: Tensor, destination: Any = None) -> TrajectoryModel:
        """The first-exit problem of travelling to one destination, whose evidence from a link is log z there.

        States are the links from which there is a route, and one more for having arrived; the last action is to leave.
        The action prior is uniform, and log |A(s)| is added to each reward: the entropy form. It begins on any link.

        Raises:
            ValueError: if there is no destination, or the network does not hold it.
        """
        if destination is None:
            known = ", ".join(map(str, self.network.destination_index[:5]))
            raise ValueError(f"give the destination of the model, one of {known}, ...: est.model(destination=...)")
        network, place = self.network, self.network.destination(destination)
        graph = network_graph(network)
        turn_logs, exit_logs = self.logs(coefficients)
        leads = graph.leads_to(place)
        exits = graph.exits_of(place)
        ends = np.full(network.num_links, -1)
        ends[network.exit_links[exits]] = exits
        kept = leads[network.tails] & leads[network.heads]
        if graph.absorbs:
            kept &= ends[network.tails] < 0
        turns = np.flatnonzero(kept)
        turns = turns[np.argsort(network.tails[turns], kind="stable")]
        links = np.flatnonzero(leads)
        state = np.cumsum(leads) - 1
        count = np.bincount(state[network.tails[turns]], minlength=len(links))
        slot = np.arange(len(turns)) - np.repeat(np.cumsum(count) - count, count)
        size, width = len(links) + 1, int(count.max(initial=0)) + 1
        following = np.repeat(np.arange(size)[:, None], width, 1)
        available = np.zeros((size, width), dtype=bool)
        reward = np.zeros((size, width))
        at = state[network.tails[turns]], slot
        following[at], available[at], reward[at] = state[network.heads[turns]], True, turn_logs[turns]
        leaving = state[network.exit_links[exits]], np.full(len(exits), width - 1)
        following[leaving], available[leaving], reward[leaving] = size - 1, True, exit_logs[exits]
        reward += np.where(available, np.log(np.maximum(available.sum(-1, keepdims=True), 1)), 0.0)
        available[-1] = True
        initial = np.full(size, 1.0 / len(links))
        initial[-1] = 0.0
        mdp = MDP.from_successors(
            following[..., None],
            np.ones((size, width, 1)),
            initial,
            available=available,
            terminal=[size - 1],
            state_names=[*(str(key) for key in network.link_index[links]), ARRIVED],
        )
        return TrajectoryModel(mdp, TableReward(reward), horizon=math.inf, name=f"routes to {destination}")

    def sample(self, coefficients: Tensor, n: int, origin: Any, destination: Any, seed: int) -> pd.DataFrame:
        """Trips as `fit` reads them: columns trip, position, link, destination.

        Origins and destinations that are not given are drawn together, as often as fitted trips have them.
        """
        network, rng = self.network, np.random.default_rng(seed)
        if isinstance(n, bool) or int(n) != n or n < 1:
            raise ValueError(f"n is {n!r}; expected how many trips to draw, 1 or more")
        fits = np.ones(len(self.trips), dtype=bool)
        start = None if origin is None else network.link(origin, "origin")
        end = None if destination is None else network.destination(destination)
        if start is not None:
            fits &= self.trips.origins == start
        if end is not None:
            fits &= self.trips.destinations == end
        origins, ends = np.full(n, -1 if start is None else start), np.full(n, -1 if end is None else end)
        if start is None or end is None:
            weights = np.where(fits, self.trips.weights, 0.0)
            if not weights.any():
                given = f"origin {origin!r}" if end is None else f"destination {destination!r}"
                raise ValueError(f"no fitted trip has {given}; give both origin and destination")
            drawn = rng.choice(len(weights), n, p=weights / weights.sum())
            origins, ends = self.trips.origins[drawn], self.trips.destinations[drawn]
        graph = network_graph(network)
        sums = RouteSums(graph, *self.logs(coefficients))
        rows: list[tuple[Array, Array, Array]] = []
        mine = {place: np.flatnonzero(ends == place) for place in np.unique(ends).tolist()}
        for block in sums.blocks({place: origins[chosen] for place, chosen in mine.items()}):
            if block is None:
                raise ArithmeticError("sums over routes are infinite at these coefficients: rho(M) is 1 or more")
            for column, place in enumerate(block.destinations):
                chosen = mine[place]
                lost = ~(block.sums[origins[chosen], column] > 0)
                if lost.any():
                    key = network.link_index[origins[chosen][lost][0]]
                    goal = network.destination_index[place]
                    raise ValueError(
                        f"there is no route from link {spelled(key)} to destination {spelled(goal)}; give another pair"
                    )
                rows.append(_walk(graph, block, column, chosen, origins[chosen], rng))
        trip, position, link = (np.concatenate([part[i] for part in rows]) for i in range(3))
        order = np.lexsort((position, trip))
        keys = pd.Series(network.link_index[link[order]])
        goals = pd.Series(network.destination_index[ends[trip[order]]])
        return pd.DataFrame({"trip": trip[order], "position": position[order], "link": keys, "destination": goals})


def _walk(
    graph: RouteGraph, block: Block, column: int, trips: Array, origins: Array, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """(trip, position, link) of trips to one destination, all of them a turn at a time."""
    number, z = graph.number, block.sums[:, column]
    mine = block.columns == column
    turns = block.weights * z[graph.heads]
    if graph.absorbs:
        turns[np.isin(graph.tails, block.links[mine])] = 0.0
    sources = np.concatenate([graph.tails, block.links[mine]])
    targets = np.concatenate([graph.heads, np.full(int(mine.sum()), number)])
    weights = np.concatenate([turns, block.leaves[mine]])
    order = np.argsort(sources, kind="stable")
    sources, targets, weights = sources[order], targets[order], weights[order]
    begins = np.searchsorted(sources, np.arange(number + 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = weights / np.repeat(np.add.reduceat(np.append(weights, 0.0), begins[:-1]), np.diff(begins))
    ahead = np.concatenate([[0.0], np.cumsum(np.nan_to_num(shares))])
    found = [(trips, np.zeros(len(trips), dtype=np.int64), origins)]
    here, active = origins, trips
    for step in range(1, LONGEST_TRIP):
        low, high = ahead[begins[here]], ahead[begins[here + 1]]
        drawn = np.searchsorted(ahead, low + rng.random(len(here)) * (high - low), side="right") - 1
        after = targets[np.clip(drawn, begins[here], begins[here + 1] - 1)]
        going = after < number
        here, active = after[going], active[going]
        if not len(here):
            break
        found.append((active, np.full(len(active), step), here))
    else:
        raise ArithmeticError(f"a trip is longer than {LONGEST_TRIP:,} turns; give more negative coefficients")
    trip, position, link = (np.concatenate([part[i] for part in found]) for i in range(3))
    return trip, position, link
