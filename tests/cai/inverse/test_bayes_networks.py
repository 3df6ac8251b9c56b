"""Posteriors of the coefficients of networks: infeasible places, and simulation-based calibration."""

import importlib.util

import numpy as np
import pytest
import torch
from methods import FAILURE_RATE
from networks import dag, draw_trips, town
from scipy.special import gammaincc

from cai.inverse import L2, RouteNetwork, fit, fit_bayes
from cai.inverse.fit import task_of

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("arviz") is None, reason="ArviZ is an optional extra"),
    pytest.mark.filterwarnings(r"ignore:\s*ArviZ is undergoing:FutureWarning"),  # once a day, on import
]
FEATURES = ["minutes", "left"]


def test_draws_on_a_network_are_feasible_and_near_the_mode():
    network = town()
    names = ["minutes", "left", "u_turn"]
    trips = draw_trips(network, names, [-1.5, -0.5, -2.0], 40, seed=1)
    found = fit_bayes(network, trips, L2(2.0), num_samples=20, chains=2, seed=0, features=names)
    draws = found.posterior["coefficients"]
    assert list(draws["feature"].to_numpy()) == names
    assert draws.shape == (2, 20, 3)
    assert np.isfinite(found.log_likelihood["demonstrations"].to_numpy()).all()
    mode = fit(network, trips, features=names, penalty=L2(2.0))
    apart = (draws.mean(("chain", "draw")).to_numpy() - mode.coefficients) / mode.standard_errors
    assert (np.abs(apart) < 3).all()
    # Where sums over paths are infinite the density is 0, and nothing of it gets in.
    task = task_of(network, trips, names, "likelihood", None)
    assert task.objective.evaluate(torch.tensor([1.0, 0.0, 0.0]).double()) is None


@pytest.mark.campaign
def test_ranks_of_the_truth_are_uniform_on_a_network():
    """Simulation-based calibration (Talts et al. 2018): 200 draws of coefficients from the prior, ranks uniform."""
    rng = np.random.default_rng(0)
    network, bins, ranks = dag(layers=3), 8, []
    for seed in range(200):
        truth = rng.normal(0.0, 0.7, 2)
        trips = draw_trips(network, FEATURES, truth, 15, seed=seed)
        found = fit_bayes(network, trips, L2(0.7), num_samples=30, chains=1, seed=seed, warmup=15, features=FEATURES)
        draws = found.posterior["coefficients"].to_numpy()[0, ::2]  # 15, nearly independent
        ranks.append((draws < truth).sum(0))
    for column in np.array(ranks).T:
        counts = np.bincount(column * bins // 16, minlength=bins)
        statistic = float(((counts - 200 / bins) ** 2 / (200 / bins)).sum())
        assert gammaincc((bins - 1) / 2, statistic / 2) > FAILURE_RATE


def test_draws_do_not_depend_on_the_units_of_features():
    """A feature in units of 1e-6, and a prior in the same: the same draws in these units."""
    network = town()
    names, units = ["minutes", "left", "u_turn"], np.array([1.0, 1e-6, 1e5])
    trips = draw_trips(network, names, [-1.5, -0.5, -2.0], 40, seed=1)
    turns = network.turns.assign(left=1e-6 * network.turns["left"], u_turn=1e5 * network.turns["u_turn"])
    other = RouteNetwork(network.links, turns, network.exits)
    draws = []
    for asked, scale in ((network, np.ones(3)), (other, units)):
        prior = torch.distributions.Normal(torch.zeros(3).double(), torch.tensor(2.0 / scale))
        found = fit_bayes(asked, trips, prior, num_samples=10, chains=1, seed=0, warmup=10, features=names)
        draws.append(found.posterior["coefficients"].to_numpy() * scale)
    np.testing.assert_allclose(draws[1], draws[0], rtol=1e-5, atol=1e-6)
