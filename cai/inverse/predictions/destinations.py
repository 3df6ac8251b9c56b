"""Where a trip that is under way goes, and over which turns: Bayes' rule over destinations.

    p(d | prefix) ~ p(d) z_d(now) / z_d(origin)

z_d being sums over all routes to d: what the prefix has paid is the same for every destination, and cancels (Ziebart et
al. 2008, "Navigate like a cabbie", for destinations from partial paths).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cai.inference.tabular.routes.derivatives import Pairs, pair_logs, with_gradient
from cai.inference.tabular.routes.sums import RouteGraph, RouteSums
from cai.inverse.estimation.estimate import Estimate
from cai.inverse.networks.objective import network_graph
from cai.inverse.networks.problem import NetworkProblem
from cai.models.common.names import did_you_mean
from cai.models.demonstrations.network_tables import spelled
from cai.models.demonstrations.route_network import RouteNetwork

__all__ = ["destinations", "network_problem", "remaining_flows"]

Array = np.ndarray[Any, Any]
TIES = 1e-12  # relative differences below which probabilities are the same, and share a rank


def destinations(est: Estimate, prefix: Any, prior: Mapping[Any, float] | None = None) -> pd.Series | pd.DataFrame:
    """The probability of each destination, given the links that a trip has taken so far.

    A prefix of the origin alone says nothing yet: it gives the prior. Destinations that cannot be reached from the
    origin have 0, and the rest is renormalised; with ends="absorb" so have those whose links the prefix has passed.

    Args:
        est: a fit on a network.
        prefix: links from the origin to the present one; or a list of such lists, for which one factorisation serves.
        prior: {destination: weight}, those that are not named have 0; all alike unless given.

    Returns:
        Series by destination, or a DataFrame with a row for each prefix and a column for each destination.

    Raises:
        ValueError: if a link or turn of a prefix is not part of the network, the prior is none, or no destination is
            possible.
        TypeError: if the estimate is not of a network.
    """
    problem = network_problem(est)
    network = problem.network
    single = _is_single(network, prefix)
    routes = [_route(network, part) for part in ([prefix] if single else prefix)]
    weights = _prior(network, prior)
    graph, sums = _sums(est, problem)
    table = _probabilities(graph, sums, routes, weights)
    columns = network.destination_index.rename("destination")
    if single:
        return pd.Series(table[0], index=columns, name="probability")
    return pd.DataFrame(table, columns=columns)


def remaining_flows(est: Estimate, prefix: Any, prior: Mapping[Any, float] | None = None) -> pd.DataFrame:
    """How often each turn is expected to be taken by the rest of a trip, over all destinations that it may have.

    Args:
        est: a fit on a network.
        prefix: links from the origin to the present one.
        prior: as in `destinations`.

    Returns:
        Columns from, to, expected, one row a turn in the order of the network's turns.

    Raises:
        ValueError, TypeError: as `destinations`.
    """
    problem = network_problem(est)
    network = problem.network
    if not _is_single(network, prefix):
        raise ValueError("remaining_flows takes one prefix, a list of links; call it once for each")
    route = _route(network, prefix)
    if not len(route):
        raise ValueError("prefix is empty; give the origin at least")
    graph, sums = _sums(est, problem)
    chances = _probabilities(graph, sums, [route], _prior(network, prior))[0]
    likely = np.flatnonzero(chances)
    pairs = Pairs(np.full(len(likely), route[-1]), likely, chances[likely])
    values = with_gradient(sums, pairs)
    if values is None:
        raise _infinite()
    turns = network.turns
    return pd.DataFrame({"from": turns["from"], "to": turns["to"], "expected": values.turn_counts})


def network_problem(est: Estimate) -> NetworkProblem:
    """The network of an estimate.

    Raises:
        TypeError: if it is of a model.
    """
    if not isinstance(est, Estimate) or not isinstance(est.problem, NetworkProblem):
        kind = f"the estimate of a {est.problem.kind}" if isinstance(est, Estimate) else f"a {type(est).__name__}"
        raise TypeError(f"expected the estimate of a network, got {kind}; `goals` compares models")
    return est.problem


def _sums(est: Estimate, problem: NetworkProblem) -> tuple[RouteGraph, RouteSums]:
    graph = network_graph(problem.network)
    return graph, RouteSums(graph, *problem.logs(est.vector))


def _is_single(network: RouteNetwork, prefix: Any) -> bool:
    """Whether a prefix is a list of links, and not a list of prefixes."""
    if isinstance(prefix, str) or not isinstance(prefix, Sequence | np.ndarray | pd.Series | pd.Index):
        raise TypeError(f"prefix is {prefix!r}; expected a list of links, or a list of such lists")
    first = next(iter(prefix), None)
    if first is None or not isinstance(first, Sequence | np.ndarray | pd.Series) or isinstance(first, str):
        return True
    return isinstance(first, Hashable) and not isinstance(first, pd.Series) and first in network.link_index


def _route(network: RouteNetwork, prefix: Any) -> Array:
    """int64, the places of links, each a turn from the one before."""
    keys = list(prefix)
    links = np.array([network.link(key, f"prefix[{i}]") for i, key in enumerate(keys)], dtype=np.int64)
    turns = network.turn_lookup.get_indexer(pd.Index(links[:-1] * network.num_links + links[1:]))
    missing = np.flatnonzero(turns < 0)
    if len(missing):
        i = int(missing[0])
        raise ValueError(
            f"prefix, position {i}: the network has no turn from {spelled(keys[i])} to {spelled(keys[i + 1])}; give "
            "links in the order in which they were taken"
        )
    return links


def _prior(network: RouteNetwork, prior: Mapping[Any, float] | None) -> Array:
    """[D] >= 0, not all 0."""
    index = network.destination_index
    if prior is None:
        return np.full(len(index), 1.0 / len(index))
    weights = np.zeros(len(index))
    for key, value in prior.items():
        place = int(index.get_indexer(pd.Index([key], tupleize_cols=False))[0])
        if place < 0:
            near = did_you_mean(str(key), map(str, index))
            raise ValueError(f"prior names {spelled(key)}, which no exit leads to{near}; leave it out")
        if not (math.isfinite(float(value)) and float(value) >= 0):
            raise ValueError(f"prior[{spelled(key)}] is {value!r}; expected a finite number, 0 or more")
        weights[place] = float(value)
    if not weights.any():
        raise ValueError("prior gives no destination any weight; give one some")
    return weights / weights.sum()


def _probabilities(graph: RouteGraph, sums: RouteSums, routes: list[Array], prior: Array) -> Array:
    """[prefixes, D]."""
    count = len(prior)
    needed = [np.array([route[0], route[-1]]) for route in routes if len(route)]
    links = np.unique(np.concatenate(needed)) if needed else np.zeros(0, dtype=np.int64)
    wanted = np.flatnonzero(prior)
    pairs = Pairs(np.repeat(links, len(wanted)), np.tile(wanted, len(links)), np.ones(len(links) * len(wanted)))
    logs = np.full((len(links), count), -np.inf)
    if len(links):
        found = pair_logs(sums, pairs)
        if found is None:
            raise _infinite()
        logs[:, wanted] = found.reshape(len(links), len(wanted))
    place = dict(zip(links.tolist(), logs, strict=True))
    with np.errstate(divide="ignore"):
        base = np.log(prior)
    table = np.empty((len(routes), count))
    for row, route in enumerate(routes):
        score = base.copy()
        if len(route):
            start, now = place[int(route[0])], place[int(route[-1])]
            possible = np.isfinite(start) & np.isfinite(now)
            score = np.where(possible, score + np.where(possible, now, 0.0) - np.where(possible, start, 0.0), -np.inf)
            if graph.absorbs and len(route) > 1:
                score[graph.exit_destinations[np.isin(graph.exit_links, route[:-1])]] = -np.inf
        if not np.isfinite(score).any():
            raise ValueError(
                f"prefix {row} leads to no destination that the prior allows; give the prior of others some weight"
            )
        table[row] = _tied(np.exp(score - score.max()))
    return table / table.sum(-1, keepdims=True)


def _tied(values: Array) -> Array:
    """Values that differ by rounding alone made the same."""
    order = np.argsort(values)
    ranked = values[order]
    apart = np.concatenate([[True], np.diff(ranked) > TIES * ranked[1:]])
    group = np.cumsum(apart) - 1
    made = np.empty_like(values)
    made[order] = ranked[apart][group]
    return made


def _infinite() -> ArithmeticError:
    return ArithmeticError(
        "sums over routes of the whole network are infinite at these coefficients; some destination is reached by a "
        "cycle that gains more than it costs, which no fitted trip could use"
    )
