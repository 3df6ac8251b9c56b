"""Posteriors of coefficients: against numerical integration, and their calibration."""

import importlib.util
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from inverse_oracle import tensor
from methods import FAILURE_RATE
from scipy.special import gammaincc

import cai
from cai.inverse import L2, Demonstrations, fit_bayes
from cai.inverse.tabular.objective import ModelObjective
from cai.models import LinearReward, TrajectoryModel

pytestmark = pytest.mark.filterwarnings(r"ignore:\s*ArviZ is undergoing:FutureWarning")  # once a day, on import
needs_arviz = pytest.mark.skipif(importlib.util.find_spec("arviz") is None, reason="ArviZ is an optional extra")


def corner(weight=0.7):
    """Two steps on three states with one feature; the action moves the chances."""
    chances = np.array([[[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]] * 3)
    return TrajectoryModel(cai.MDP(chances, 0), LinearReward([[0.0], [1.0], [-0.5]], [weight], names=["x"]), 3)


@needs_arviz
def test_draws_have_the_moments_of_the_posterior():
    model = corner()
    drawn = Demonstrations.from_policy(cai.infer(model, "variational"), model, 25, 0)
    found = fit_bayes(model, drawn, L2(2.0), num_samples=40, chains=2, seed=3, warmup=20)
    asked = ModelObjective(model, drawn)
    grid = np.linspace(-6, 8, 201)
    logs = np.array([asked.evaluate(tensor([w]))[0] - w**2 / 8 for w in grid])
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    mean = float(weights @ grid)
    deviation = math.sqrt(float(weights @ (grid - mean) ** 2))
    draws = found.posterior["coefficients"].sel(feature="x").to_numpy()
    assert draws.shape == (2, 40)
    # At least one draw in four counts as independent for this sampler on one coefficient of about normal shape.
    error = -NormalDist().inv_cdf(FAILURE_RATE / 4) / math.sqrt(80 / 4)
    assert abs(draws.mean() - mean) < error * deviation
    assert abs(math.log(draws.std() / deviation)) < error
    each = found.log_likelihood["demonstrations"].to_numpy()
    assert each.shape == (2, 40, 25)
    np.testing.assert_allclose(each[0, 0], asked.log_probs(tensor([draws[0, 0]])), rtol=1e-12)
    lp = found.sample_stats["lp"].to_numpy()
    np.testing.assert_allclose(lp[1, 5], each[1, 5].sum() - draws[1, 5] ** 2 / 8, rtol=1e-10)


@needs_arviz
def test_priors_of_each_kind_and_seeds():
    model = corner()
    drawn = Demonstrations.from_policy(cai.infer(model, "variational"), model, 10, 0)
    normal = torch.distributions.Normal(torch.tensor(0.0).double(), torch.tensor(2.0).double())
    state = torch.random.get_rng_state()
    priors = (L2(2.0), normal, {"x": normal}, lambda w: -(w**2).sum() / 8)
    runs = [fit_bayes(model, drawn, prior, num_samples=5, chains=1, seed=4, warmup=5) for prior in priors]
    assert torch.equal(torch.random.get_rng_state(), state)
    for run in runs[1:]:
        np.testing.assert_allclose(run.posterior["coefficients"], runs[0].posterior["coefficients"], atol=1e-6)
    with pytest.raises(ValueError, match="do not share 'x'"):
        fit_bayes(model, drawn, {"y": normal})
    with pytest.raises(ValueError, match="needs a log-likelihood"):
        fit_bayes(model, drawn, L2(1.0), objective="moments")
    with pytest.raises(TypeError, match="expected L2"):
        fit_bayes(model, drawn, None)


@needs_arviz
@pytest.mark.campaign
def test_ranks_of_the_truth_are_uniform():
    """Simulation-based calibration (Talts et al. 2018): 80 truths from the prior, each ranked among thinned draws."""
    rng = np.random.default_rng(0)
    bins, ranks = 8, []
    for seed in range(80):
        truth = float(rng.normal())
        model = corner(truth)
        drawn = Demonstrations.from_policy(cai.infer(model, "variational"), model, 12, seed)
        found = fit_bayes(model, drawn, L2(1.0), num_samples=30, chains=1, seed=seed, warmup=15)
        draws = found.posterior["coefficients"].to_numpy().reshape(-1)[::2]  # 15, nearly independent
        ranks.append(int((draws < truth).sum()))
    counts = np.bincount(np.array(ranks) * bins // 16, minlength=bins)
    statistic = float(((counts - 80 / bins) ** 2 / (80 / bins)).sum())
    assert gammaincc((bins - 1) / 2, statistic / 2) > FAILURE_RATE
