"""Baselines against listed paths: best routes, the likelihood of the action model, and the table."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import torch
from networks import dag, draw_trips, paths, town, utilities

from cai.inverse import RouteNetwork, action_model, baselines, cheapest, fit, maximum_margin
from cai.inverse.networks.objective import network_graph
from cai.inverse.predictions.baselines import _ActionModel
from cai.inverse.predictions.best_routes import BestRoutes, action_values
from cai.models.demonstrations.trips import read_trips

DAG = ["minutes", "left", "toll"]


@pytest.mark.parametrize("ends", ["exit", "absorb"])
def test_best_routes_are_those_of_listed_paths(ends):
    network = dag(ends=ends)
    v, u = utilities(network, DAG, [-1.0, -0.5, -2.0])
    for place in range(2):
        best = BestRoutes(network_graph(network), -v, -u, place)
        for origin in range(network.num_links):
            every = paths(network, origin, place)
            if not every:
                assert math.isinf(best.costs[origin])
                continue
            values = [v[list(turns)].sum() + u[exit_] for turns, exit_ in every]
            turns, last = best.route(origin)
            assert (tuple(turns), last) == every[int(np.argmax(values))]
            assert best.costs[origin] == pytest.approx(-max(values))


@pytest.mark.parametrize("ends", ["exit", "absorb"])
def test_the_action_model_is_a_softmax_over_the_best_that_follows(ends):
    network = dag(ends=ends)
    trips = read_trips(network, draw_trips(network, DAG, [-1.0, -0.5, -2.0], 12, origins=[0, 1, 2]))
    w = np.array([-1.2, -0.3, -0.7])
    model = _ActionModel(network, trips, *network.features(DAG))
    logs, slopes = model.each(w)
    v, u = utilities(network, DAG, w)
    for n in range(len(trips)):
        place, total, link = int(trips.destinations[n]), 0.0, int(trips.origins[n])
        for turn in [*trips.turns[trips.starts[n] : trips.starts[n + 1]].tolist(), None]:
            best = {}
            for turns, exit_ in paths(network, link, place):
                value = v[list(turns)].sum() + u[exit_]
                first = turns[0] if turns else None
                best[first] = max(best.get(first, -math.inf), value)
            total += best[turn] - math.log(sum(math.exp(value) for value in best.values()))
            link = link if turn is None else int(network.heads[turn])
        assert logs[n] == pytest.approx(total, rel=1e-12)
    rises = [(model.each(w + e)[0] - model.each(w - e)[0]) / 2e-6 for e in 1e-6 * np.eye(3)]
    assert np.allclose(slopes, np.transpose(rises), atol=1e-6)


@pytest.mark.parametrize("ends", ["exit", "absorb"])
def test_turns_that_lead_nowhere_have_no_probability(ends):
    """From b no route goes to home: its turn has log probability -inf there, as is promised, and no warning comes."""
    network = RouteNetwork(
        pd.DataFrame({"link": list("abcd"), "minutes": [1.0, 2.0, 1.0, 1.0]}),
        pd.DataFrame([("a", "b"), ("a", "c"), ("b", "d")], columns=["from", "to"]),
        pd.DataFrame({"link": ["c", "d"], "destination": ["home", "work"]}),
        ends=ends,
    )
    place = list(network.destination_index).index("home")
    of_turns, of_exits = network.features(["minutes"])
    best = BestRoutes(network_graph(network), of_turns[:, 0], of_exits[:, 0], place)
    turns, ends_, log_turns, _ = action_values(best, of_turns, of_exits)
    assert np.isfinite(turns).all()
    assert np.isfinite(ends_).all()
    assert log_turns.tolist() == [-math.inf, 0.0, -math.inf]


def test_the_table():
    network = dag()
    est = fit(network, draw_trips(network, DAG, [-2.0, -1.0, -3.0], 60, origins=[0, 1, 2]), features=DAG)
    table = baselines(est, [cheapest("minutes"), action_model], length="minutes")
    assert list(table.index) == ["cheapest minutes", "action model", "maximum entropy"]
    assert table["matched"].between(0.3, 1).all()
    assert (table["matched_90"] <= table["matched"] / 0.9).all()
    assert table["log_prob"].isna().tolist() == [True, False, False]
    assert table.loc["maximum entropy", "log_prob"] == pytest.approx(est.log_likelihood / 60)
    assert table.loc["maximum entropy", "log_prob"] >= table.loc["action model", "log_prob"] - 0.1
    other = est.sample(40, seed=1)
    assert (baselines(est, [], length="minutes", trips=other)["matched"] > 0.3).all()
    with pytest.raises(ValueError, match="did you mean"):
        baselines(est, [cheapest("minuets")], length="minutes")


def test_the_action_model_is_fitted():
    network = town()
    names = ["minutes", "left"]
    trips = read_trips(network, draw_trips(network, names, [-2.0, -1.0], 40, seed=2))
    fitted = action_model(network, trips, names)
    model = _ActionModel(network, trips, *network.features(names))
    w = fitted.coefficients.to_numpy(copy=True)
    here = model.evaluate(torch.from_numpy(w))[0]
    assert fitted.log_probs(trips).sum() == pytest.approx(here)
    for change in ((0.1, 0), (-0.1, 0), (0, 0.1), (0, -0.1)):
        assert model.evaluate(torch.from_numpy(w + change))[0] <= here + 1e-9


def test_wide_margins_match_what_is_sure():
    """Trips that always take the best route of known costs are matched in full."""
    network = dag()
    v, u = utilities(network, DAG, [-1.0, -0.5, -2.0])
    graph, rows = network_graph(network), []
    for trip, (origin, place) in enumerate([(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]):
        turns, _ = BestRoutes(graph, -v, -u, place).route(origin)
        links = [origin, *(int(network.heads[turn]) for turn in turns)]
        rows += [(trip, i, network.link_index[k], network.destination_index[place]) for i, k in enumerate(links)]
    frame = pd.DataFrame(rows, columns=["trip", "position", "link", "destination"])
    trips = read_trips(network, frame)
    margin = maximum_margin(network, trips, DAG)
    assert margin.log_probs is None
    for n in range(len(trips)):
        best = BestRoutes(graph, margin.turn_costs, margin.exit_costs, int(trips.destinations[n]))
        assert best.route(int(trips.origins[n]))[0] == trips.turns[trips.starts[n] : trips.starts[n + 1]].tolist()
    # The same quadratic program over all listed paths; here no cost is below its loss at the optimum.
    of_turns, of_exits = network.features(DAG)
    both = np.concatenate([of_turns, of_exits])
    sizes = np.sqrt((both**2).sum(0) / (both != 0).sum(0))
    of_turns, of_exits = of_turns / sizes, of_exits / sizes
    margins = []
    for n in range(len(trips)):
        mine = trips.turns[trips.starts[n] : trips.starts[n + 1]]
        loss = np.where(np.isin(network.heads, network.heads[mine]), 0.0, 1 / len(mine))
        every = paths(network, int(trips.origins[n]), int(trips.destinations[n]))
        paid = np.stack([of_turns[list(turns)].sum(0) + of_exits[end] for turns, end in every])
        own = of_turns[mine].sum(0) + of_exits[trips.exits[n]]
        margins.append((own - paid, np.array([loss[list(turns)].sum() for turns, _ in every])))

    def objective(w):
        return w @ w / 200 + np.mean([max(0.0, (apart @ w + loss).max()) for apart, loss in margins])

    rows = [
        scipy.optimize.LinearConstraint(np.hstack([-apart, np.tile(np.eye(6)[n], (len(loss), 1))]), loss, np.inf)
        for n, (apart, loss) in enumerate(margins)
    ]
    best = scipy.optimize.minimize(
        lambda x: x[:3] @ x[:3] / 200 + x[3:].mean(), np.ones(9), bounds=[(0, None)] * 9, constraints=rows, tol=1e-10
    )
    found = -margin.coefficients.to_numpy() * sizes
    assert best.fun == pytest.approx(objective(best.x[:3]), abs=1e-7)
    assert objective(found) <= best.fun + 2e-6
