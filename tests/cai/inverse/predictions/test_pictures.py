"""Pictures of what an estimate says hold the numbers that they are about."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from figure_checks import faults
from networks import draw_trips, town

import cai
from cai.inverse import (
    Demonstrations,
    RouteNetwork,
    destinations,
    fit,
    plot_destinations,
    plot_flows,
    plot_reward,
    remaining_flows,
)
from cai.models import MDP, LinearReward, TableReward, TrajectoryModel

NAMES, TRUTH = ["minutes", "left", "u_turn"], [-1.5, -0.3, -1.0]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def mapped(seed=0):
    """The town of the tests with its streets on a grid."""
    plain = town(seed)
    nodes = [(i, j) for i in range(3) for j in range(3)]
    ends = [(*a, *b) for a in nodes for b in nodes if abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1]
    places = pd.DataFrame(ends, columns=["x0", "y0", "x1", "y1"], dtype=float)
    return RouteNetwork(pd.concat([plain.links, places], axis=1), plain.turns, plain.exits)


def fitted(network):
    return fit(network, draw_trips(network, NAMES, TRUTH, 60, seed=1), features=NAMES)


def test_flows_are_drawn_link_by_link():
    network = mapped()
    est = fitted(network)
    prefix = [0, int(network.turns["to"][network.turns["from"] == 0].iloc[0])]
    for flows in (None, remaining_flows(est, prefix)):
        figure = plot_flows(est, flows)
        (lines,) = figure.axes[0].collections
        counts = est.problem.counts(est.vector)["expected"].to_numpy() if flows is None else flows["expected"]
        entered = pd.Series(np.asarray(counts)).groupby(network.turns["to"]).sum().reindex(range(network.num_links))
        assert np.allclose(np.sort(lines.get_array()), np.sort(entered.fillna(0.0)))
        busiest = lines.get_segments()[-1].mean(0) - network.positions[int(entered.idxmax())].reshape(2, 2).mean(0)
        assert np.hypot(*busiest) < 0.2  # on its street, to the right
        assert not faults(figure)
    for wrong in (flows.iloc[1:], flows.drop(columns="expected"), flows.iloc[::-1].reset_index(drop=True)):
        with pytest.raises(ValueError, match="flows are not those of this network"):
            plot_flows(est, wrong)
    with pytest.raises(ValueError, match="x0, y0, x1 and y1"):
        plot_flows(fitted(town()))


def test_two_ways_of_a_street_lie_apart():
    network = mapped()
    segments = {}
    est = fitted(network)
    for segment in plot_flows(est).axes[0].collections[0].get_segments():
        segments.setdefault(tuple(np.round(segment.mean(0), 6)), []).append(segment)
    assert len(segments) == network.num_links


def test_destinations_unfold():
    network = mapped()
    est = fitted(network)
    route = [0]
    for _ in range(3):
        onward = network.turns[(network.turns["from"] == route[-1]) & (network.turns["u_turn"] == 0)]
        route.append(int(onward["to"].iloc[0]))
    figure = plot_destinations(est, route, prior={"22": 2.0, "02": 1.0, "11": 1.0})
    ax = figure.axes[0]
    shown = {line.get_label(): line.get_ydata() for line in ax.lines}
    table = destinations(est, [route[: i + 1] for i in range(4)], {"22": 2.0, "02": 1.0, "11": 1.0})
    for key in ("22", "02", "11"):
        assert np.array_equal(shown[key], table[key])
    (rest,) = (values for label, values in shown.items() if label.endswith("others together"))
    assert np.allclose(sum(v for label, v in shown.items() if not label.endswith("together")) + rest, 1.0)
    assert not faults(figure)
    with pytest.raises(ValueError, match="prefix is empty"):
        plot_destinations(est, [])


def ring(reward, **options):
    """Four states and three actions, with chance everywhere."""
    return TrajectoryModel(MDP(np.random.default_rng(0).dirichlet(np.ones(4), size=(4, 3)), 0), reward, **options)


def test_a_table_is_compared_without_its_shaping():
    """A truth that is shaped by a potential makes the same picture; the oracle moves it by Phi - gamma E Phi'."""
    true = np.random.default_rng(1).normal(size=(4, 3))
    world = ring(TableReward(torch.tensor(true)), horizon=float("inf"), discount=0.8)
    shown = Demonstrations.from_policy(cai.extract_policy(cai.infer(world, "variational")), world, 400, 0, max_steps=20)
    shown = Demonstrations(shown.states, shown.actions, complete=np.zeros(400, dtype=bool))
    est = fit(world.replace(reward=TableReward(torch.zeros(4, 3).double().requires_grad_())), shown, throw=False)
    assert len(est.null_space()) == 4
    potential = np.array([3.0, -1.0, 0.5, 2.0])
    chances = np.random.default_rng(0).dirichlet(np.ones(4), size=(4, 3))
    pictures = [
        plot_reward(est, truth.ravel()).axes[0]
        for truth in (true, true + potential[:, None] - 0.8 * chances @ potential)
    ]
    places = [np.asarray(ax.containers[0].lines[0].get_data()) for ax in pictures]
    assert np.allclose(*places, atol=1e-8)
    assert np.abs(places[0][0] - places[0][1]).max() < 0.5  # few demonstrations, yet on the line
    assert np.abs(true.ravel() - est.coefficients.to_numpy()).max() > 0.5  # which they are not as they stand
    assert not faults(pictures[0].get_figure())


def test_what_is_left_open_has_no_point():
    model = ring(
        LinearReward(np.c_[np.ones(4), [0.0, 1.0, 0.0, -1.0]], [0.0, 1.0], names=["step", "height"]), horizon=8
    )
    shown = Demonstrations.from_policy(cai.infer(model, "variational"), model, 100, seed=0)
    est = fit(model, shown, throw=False)
    ax = plot_reward(est, {"step": 0.0, "height": 1.0}).axes[0]
    (points,) = ax.containers
    assert np.allclose(points.lines[0].get_data(), [[1.0], [est.coefficients["height"]]])
    assert "1 coefficients left open" in ax.get_title()
    with pytest.raises(ValueError, match="truth does not say what 'height' is"):
        plot_reward(est, {"step": 0.0})
    with pytest.raises(ValueError, match="truth has 3 entries; expected 2"):
        plot_reward(est, [1.0, 2.0, 3.0])
