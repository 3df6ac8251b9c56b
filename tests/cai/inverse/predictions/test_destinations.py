"""Destinations of trips under way, and the turns that are still ahead of them, against dense sums and listed paths."""

import numpy as np
import pandas as pd
import pytest
from networks import dag, dense_sums, draw_trips, paths, town, utilities

from cai.inverse import RouteNetwork, destinations, fit, remaining_flows

TOWN = ["minutes", "left", "u_turn"]
TRUTH = [-1.5, -0.5, -2.0]


def fixed(network, names, w, trips):
    return fit(network, trips, features=names, fixed=dict(zip(names, w, strict=True)))


@pytest.fixture(scope="module", params=["exit", "absorb"])
def case(request):
    network = town(ends=request.param)
    return network, fixed(network, TOWN, TRUTH, draw_trips(network, TOWN, TRUTH, 5))


def route(network, length, seed=0):
    """A walk without turning back at once."""
    rng = np.random.default_rng(seed)
    links = [int(rng.integers(network.num_links))]
    while len(links) < length:
        turns = np.flatnonzero((network.tails == links[-1]) & (network.turns["u_turn"].to_numpy() == 0))
        links.append(int(network.heads[rng.choice(turns)]))
    return links


def test_destinations_follow_bayes_rule(case):
    network, est = case
    prefix = route(network, 3)
    prior = {key: 1.0 + i for i, key in enumerate(network.destination_index)}
    found = destinations(est, prefix, prior)
    want = {}
    for i, key in enumerate(network.destination_index):
        z = dense_sums(network, TOWN, TRUTH, i)
        passed = network.ends == "absorb" and set(prefix[:-1]) & set(network.exit_links[network.exit_destinations == i])
        want[key] = 0.0 if passed else prior[key] * z[prefix[-1]] / z[prefix[0]]
    want = pd.Series(want) / sum(want.values())
    assert np.allclose(found, want, rtol=1e-10, atol=0)
    assert found.sum() == pytest.approx(1)
    assert (found == 0).any() == (network.ends == "absorb")


def test_an_empty_prefix_gives_the_prior(case):
    est = case[1]
    prior = {"00": 3.0, "12": 1.0}
    for prefix in ([], [4]):
        found = destinations(est, prefix, prior)
        assert found["00"] == pytest.approx(0.75)
        assert found["12"] == pytest.approx(0.25)
        assert found.sum() == pytest.approx(1)
    assert np.allclose(destinations(est, [4]), 1 / 9)
    assert (destinations(est, [4]).rank(method="min") == 1).all()  # ties share ranks


def test_many_prefixes_are_the_rows_of_a_frame(case):
    network, est = case
    prefixes = [route(network, n, seed=n) for n in (1, 2, 4)]
    found = destinations(est, prefixes)
    assert list(found.columns) == list(network.destination_index)
    for row, prefix in enumerate(prefixes):
        assert np.allclose(found.iloc[row], destinations(est, prefix), rtol=1e-12)


def test_destinations_out_of_reach_have_none():
    network = dag()
    est = fixed(network, ["minutes"], [-1.0], draw_trips(network, ["minutes"], [-1.0], 5, origins=[0, 1]))
    found = destinations(est, ["a0", "b1", "c1", "d2"])
    assert found.to_dict() == {"home": 0.0, "work": 1.0}
    with pytest.raises(ValueError, match="leads to no destination that the prior allows"):
        destinations(est, ["d2"], {"home": 1.0})


def test_remaining_flows_are_those_of_listed_paths():
    network = dag()
    names, w = ["minutes", "left", "toll"], [-0.8, -0.3, -1.0]
    est = fixed(network, names, w, draw_trips(network, names, w, 5, origins=[0, 1]))
    prior, prefix = {"home": 0.3, "work": 0.7}, ["a0", "b0"]
    chances = destinations(est, prefix, prior)
    v, u = utilities(network, names, w)
    want = np.zeros(network.num_turns)
    for i, key in enumerate(network.destination_index):
        every = paths(network, network.link("b0"), i)
        weights = np.array([np.exp(v[list(turns)].sum() + u[exit_]) for turns, exit_ in every])
        for (turns, _), share in zip(every, weights / weights.sum(), strict=True):
            want[list(turns)] += chances[key] * share
    found = remaining_flows(est, prefix, prior)
    assert list(found.columns) == ["from", "to", "expected"]
    assert np.allclose(found["expected"], want, rtol=1e-10)


def test_flows_are_conserved(case):
    network, est = case
    found = remaining_flows(est, route(network, 2))["expected"].to_numpy()
    into = np.bincount(network.heads, found, network.num_links)
    out = np.bincount(network.tails, found, network.num_links)
    now = route(network, 2)[-1]
    into[now] += 1
    assert (into - out >= -1e-12).all()
    assert (into - out).sum() == pytest.approx(1)  # what is not sent on has arrived


def test_tuples_may_be_links():
    import networkx

    graph = networkx.DiGraph([("x", "y"), ("y", "z"), ("z", "y"), ("y", "x")])
    networkx.set_edge_attributes(graph, 1.0, "minutes")
    network = RouteNetwork.from_graph(graph)
    trip = pd.DataFrame({"trip": 0, "position": [0, 1], "link": [("x", "y"), ("y", "z")], "destination": "z"})
    est = fixed(network, ["minutes"], [-2.0], trip)
    one = destinations(est, [("x", "y"), ("y", "z")])
    assert one.idxmax() == "z"
    assert np.allclose(destinations(est, [[("x", "y"), ("y", "z")], [("x", "y")]]).iloc[0], one)


@pytest.mark.parametrize(
    ("prefix", "prior", "text"),
    [
        ([0, 0], None, "prefix, position 0: the network has no turn from 0 to 0"),
        ([0, 99], None, r"prefix\[1\] is 99"),
        ([0], {"99": 1.0}, "prior names '99'"),
        ([0], {"00": -1.0}, "0 or more"),
        ([0], {"00": 0.0}, "no destination any weight"),
    ],
)
def test_bad_prefixes_are_refused(case, prefix, prior, text):
    with pytest.raises(ValueError, match=text):
        destinations(case[1], prefix, prior)
    with pytest.raises(TypeError, match="list of links"):
        destinations(case[1], 3)
    with pytest.raises(TypeError, match="estimate of a network"):
        destinations(None, [0])
