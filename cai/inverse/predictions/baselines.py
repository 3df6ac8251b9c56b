"""What other ways of learning routes predict, beside maximum entropy, in one table (Ziebart et al. 2008, section 4).

Each baseline learns costs of turns and predicts the cheapest route between the ends of a trip. A maximum-entropy model
has the most probable route too, which is the same route: probabilities of whole routes are ordered as their costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cai.inverse.estimation.estimate import Estimate
from cai.inverse.networks.objective import network_graph
from cai.inverse.predictions.best_routes import BestRoutes, action_values
from cai.inverse.predictions.destinations import network_problem
from cai.inverse.search.maximize import Box, maximize
from cai.models.demonstrations.route_network import RouteNetwork
from cai.models.demonstrations.trips import Trips, read_trips

__all__ = ["Baseline", "action_model", "baselines", "cheapest", "maximum_margin"]

Array = np.ndarray[Any, Any]
MARGIN_STEPS = 200
MARGIN_GAP = 1e-6  # of the mean margin, by which routes that are not held may violate it
REGULARISED = 0.01  # of |w|^2 / 2, against mean margins in shares of a trip
GOOD = 0.9


@dataclass(frozen=True, eq=False)
class Baseline:
    """Costs, and what they predict.

    Attributes:
        name: for tables.
        turn_costs: [E], >= 0.
        exit_costs: [X].
        log_probs: of trips [N], or None where a method predicts one route and no probabilities.
        coefficients: by feature, or None where nothing was learned.
    """

    name: str
    turn_costs: Array
    exit_costs: Array
    log_probs: Callable[[Trips], Array] | None = None
    coefficients: pd.Series | None = None


Method = Callable[[RouteNetwork, Trips, Sequence[str]], Baseline]


def cheapest(column: str) -> Method:
    """Predicts the route with the least of one attribute, such as the fastest; learns nothing.

    Args:
        column: an attribute of the network, >= 0.
    """

    def method(network: RouteNetwork, trips: Trips, features: Sequence[str]) -> Baseline:
        of_turns, of_exits = network.features([column])
        if (of_turns < 0).any():
            raise ValueError(f"column {column!r} is negative on some turn; the cheapest route needs costs of 0 or more")
        return Baseline(f"cheapest {column}", of_turns[:, 0], of_exits[:, 0])

    return method


def maximum_margin(network: RouteNetwork, trips: Trips, features: Sequence[str]) -> Baseline:
    """Costs w >= 0 at which each trip is cheaper than other routes by the share of them that differs, if possible.

    The minimum of |w|^2 / 200 plus the mean margin that is violated (Ratliff, Bagnell and Zinkevich 2006, "Maximum
    margin planning"), by cutting planes (Joachims, Finley and Yu 2009): routes are added until the best ones with their
    loss taken off violate no more than those that are held. Costs that a loss would make negative are taken as 0 in the
    search for routes, which cannot go round for ever.

    Raises:
        ValueError: if a feature is positive on some turns and negative on others.
    """
    of_turns, of_exits = network.features(features)
    scale, sign = _one_sided(of_turns, of_exits, features)
    of_turns, of_exits = of_turns * sign / scale, of_exits * sign / scale
    violated = _Violated(network, trips, of_turns, of_exits)
    w = np.ones(len(features))
    planes: list[tuple[Array, float]] = []
    held = 0.0
    for _ in range(MARGIN_STEPS):
        slope, loss = violated.plane(w)
        if planes and slope @ w + loss <= held + MARGIN_GAP:
            break
        planes.append((slope, loss))
        w, held = _least(planes, w)
    named = pd.Series(-sign * w / scale, index=list(features), name="coefficient")
    return Baseline("maximum margin", of_turns @ w, of_exits @ w, None, named)


class _Violated:
    """Mean margins that are violated, from below by planes: over routes that are found, slope w + loss."""

    def __init__(self, network: RouteNetwork, trips: Trips, of_turns: Array, of_exits: Array) -> None:
        self.network, self.trips, self.of_turns, self.of_exits = network, trips, of_turns, of_exits
        self.graph, self.taken = network_graph(network), trips.totals(of_turns, of_exits)
        self.shares = trips.weights / trips.weights.sum()

    def plane(self, w: Array) -> tuple[Array, float]:
        """(slope [F], loss) of the routes that are best at w with their loss taken off."""
        heads, starts = self.network.heads, self.trips.starts
        turn_costs, exit_costs = self.of_turns @ w, self.of_exits @ w
        slope, total = np.zeros(len(w)), 0.0
        for n in np.flatnonzero(self.shares > 0):
            mine = self.trips.turns[starts[n] : starts[n + 1]]
            if not len(mine):
                continue
            loss = np.full(len(heads), 1.0 / len(mine))
            loss[np.isin(heads, heads[mine])] = 0.0
            costs = np.maximum(turn_costs - loss, 0.0)
            best = BestRoutes(self.graph, costs, exit_costs, int(self.trips.destinations[n]))
            turns, last = best.route(int(self.trips.origins[n]))
            apart = self.taken[n] - self.of_turns[turns].sum(0) - self.of_exits[last]
            if apart @ w + loss[turns].sum() > 0:
                slope, total = slope + self.shares[n] * apart, total + self.shares[n] * float(loss[turns].sum())
        return slope, total


def _least(planes: list[tuple[Array, float]], start: Array) -> tuple[Array, float]:
    """(w [F], t) with the least of REGULARISED |w|^2 / 2 + t over w, t >= 0 and slope w + loss <= t on all planes."""
    from scipy.optimize import LinearConstraint, minimize

    slopes, losses = np.stack([slope for slope, _ in planes]), np.array([loss for _, loss in planes])
    size = len(start)
    first = np.append(start, max(0.0, float((slopes @ start + losses).max())))
    found = minimize(
        lambda x: REGULARISED * (x[:size] @ x[:size]) / 2 + x[size],
        first,
        jac=lambda x: np.append(REGULARISED * x[:size], 1.0),
        bounds=[(0.0, None)] * (size + 1),
        constraints=LinearConstraint(np.column_stack([-slopes, np.ones(len(planes))]), losses, np.inf),
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    w = np.maximum(found.x[:size], 0.0)
    return w, max(0.0, float((slopes @ w + losses).max()))


def action_model(network: RouteNetwork, trips: Trips, features: Sequence[str]) -> Baseline:
    """Log p(turn | link) = Q*(link, turn) - log sum e^Q*, Q* being the value of the best route after the turn.

    Equation 7 of Ziebart et al. 2008 (Ramachandran and Amir 2007; Neu and Szepesvari 2007), by maximum likelihood. The
    likelihood has kinks and need not be concave: this is a local maximum, from a start at which all features cost.

    Raises:
        ValueError: if a feature is positive on some turns and negative on others.
    """
    of_turns, of_exits = network.features(features)
    scale, sign = _one_sided(of_turns, of_exits, features)
    model = _ActionModel(network, trips, of_turns * -sign / scale, of_exits * -sign / scale)
    size = len(features)
    box = Box(torch.zeros(size).double(), torch.full((size,), np.inf).double(), torch.zeros(size).double())
    found = maximize(model, torch.ones(size).double(), box, exact=False, tolerance=1e-6, max_iterations=100)
    w = found.place.numpy() * -sign / scale

    def log_probs(others: Trips) -> Array:
        return _ActionModel(network, others, of_turns, of_exits).each(w)[0]

    named = pd.Series(w, index=list(features), name="coefficient")
    return Baseline("action model", -(of_turns @ w), -(of_exits @ w), log_probs, named)


class _ActionModel:
    """The likelihood of turns by the values of the best routes after them."""

    def __init__(self, network: RouteNetwork, trips: Trips, of_turns: Array, of_exits: Array) -> None:
        self.network, self.trips, self.graph = network, trips, network_graph(network)
        self.of_turns, self.of_exits = of_turns, of_exits

    def each(self, w: Array) -> tuple[Array, Array]:
        """(log p [N], their gradients [N, F])."""
        trips, logs = self.trips, np.zeros(len(self.trips))
        slopes = np.zeros((len(trips), self.of_turns.shape[1]))
        costs, leaving = -(self.of_turns @ w), -(self.of_exits @ w)
        for place in np.unique(trips.destinations).tolist():
            best = BestRoutes(self.graph, np.maximum(costs, 0.0), leaving, place)
            turns, ends, log_turns, log_ends = action_values(best, self.of_turns, self.of_exits)
            for n in np.flatnonzero(trips.destinations == place):
                mine = trips.turns[trips.starts[n] : trips.starts[n + 1]]
                last = int(trips.exits[n])
                logs[n] = log_turns[mine].sum() + log_ends[last]
                slopes[n] = turns[mine].sum(0) + ends[last]
        return logs, slopes

    def evaluate(self, place: Tensor) -> tuple[float, Tensor] | None:
        """Weighted sums of both."""
        logs, slopes = self.each(place.numpy())
        value = float(self.trips.weights @ logs)
        return (value, torch.from_numpy(self.trips.weights @ slopes)) if np.isfinite(value) else None

    def hessian(self, place: Tensor) -> Tensor:
        """None is asked for: the search is told that it is not exact."""
        raise ArithmeticError("the values of best routes have kinks, where there is no second derivative")


def _one_sided(of_turns: Array, of_exits: Array, features: Sequence[str]) -> tuple[Array, Array]:
    """(scale [F] > 0, sign [F]): sign 1 where a feature is >= 0, and so a cost."""
    both = np.concatenate([of_turns, of_exits])
    mixed = (both < 0).any(0) & (both > 0).any(0)
    if mixed.any():
        name = list(features)[int(mixed.argmax())]
        raise ValueError(
            f"feature {name!r} is positive on some turns and negative on others; best routes need costs of one sign: "
            "split it into two features"
        )
    scale = np.sqrt((both**2).sum(0) / (both != 0).sum(0))
    return scale, np.where((both < 0).any(0), -1.0, 1.0)


def baselines(
    est: Estimate,
    methods: Sequence[Method] = (maximum_margin, action_model),
    *,
    length: str,
    trips: Any = None,
) -> pd.DataFrame:
    """One table of what methods predict for trips, beside the maximum-entropy fit.

    Each method learns from the trips and features of the fit. Shares and means are weighted.

    Args:
        est: a fit on a network.
        methods: `cheapest(column)`, `maximum_margin`, `action_model`.
        length: the attribute by which routes are compared.
        trips: what is predicted; the trips of the fit unless given.

    Returns:
        By method: matched, the mean share of a trip's length that is on the predicted route; matched_90, the share of
        trips with 90% or more of it; log_prob, the mean log probability of a trip, nan for methods without one.

    Raises:
        ValueError, TypeError: if the estimate is of no network, an attribute is unknown, or a method cannot be used.
    """
    problem = network_problem(est)
    network = problem.network
    judged = problem.trips if trips is None else read_trips(network, trips)
    lengths = network.features([length])[0][:, 0]
    of_turns, of_exits = problem.logs(est.vector)
    wrong = [method for method in methods if not callable(method)]
    if wrong:
        raise TypeError(
            f"methods holds a {type(wrong[0]).__name__}; expected cheapest(column), maximum_margin and action_model "
            "themselves, in a list; trips to predict are trips="
        )

    def own(others: Trips) -> Array:
        return est.problem.log_prob(est.vector, others).numpy()

    if (of_turns > 0).any():
        raise ValueError("some turn gains at the fitted coefficients, and a cheapest route needs costs of 0 or more")
    rows = [method(network, problem.trips, problem.names) for method in methods]
    rows.append(Baseline("maximum entropy", -of_turns, -of_exits, own))
    table = {row.name: _judged(network, judged, row, lengths) for row in rows}
    frame = pd.DataFrame.from_dict(table, orient="index", columns=["matched", "matched_90", "log_prob"])
    frame.index.name = "method"
    return frame


def _judged(network: RouteNetwork, trips: Trips, row: Baseline, lengths: Array) -> tuple[float, float, float]:
    graph, shares = network_graph(network), np.full(len(trips), np.nan)
    for place in np.unique(trips.destinations).tolist():
        best = BestRoutes(graph, row.turn_costs, row.exit_costs, place)
        for n in np.flatnonzero(trips.destinations == place):
            mine = trips.turns[trips.starts[n] : trips.starts[n + 1]]
            total = lengths[mine].sum()
            if total > 0:
                turns, _ = best.route(int(trips.origins[n]))
                shared = np.isin(network.heads[mine], network.heads[turns])
                shares[n] = lengths[mine][shared].sum() / total
    known = np.isfinite(shares) & (trips.weights > 0)
    if not known.any():
        raise ValueError("no trip has any length; compare trips with a turn at least")
    weights = trips.weights[known] / trips.weights[known].sum()
    good = float(weights @ (shares[known] >= GOOD))
    logs = np.nan if row.log_probs is None else float(trips.weights @ row.log_probs(trips) / trips.weights.sum())
    return float(weights @ shares[known]), good, logs
