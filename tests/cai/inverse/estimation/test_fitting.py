"""The search, its statuses and the standard errors, on a conditional logit and on functions made to mislead."""

import json
import math
import pickle

import numpy as np
import pytest
import torch
from logit_choices import Choices, Logit, draw, fit
from scipy.optimize import minimize

from cai.inverse import L1, L2, FitError, FitStatus
from cai.inverse.estimation.fitting import Task, fit_objective
from cai.inverse.search.maximize import Box, maximize
from cai.inverse.search.settings import Settings


def reference(logit, extra=lambda w: 0.0):
    """The maximum by scipy from values alone, then standard errors from differences of gradients."""

    def lost(w):
        w = torch.as_tensor(w)
        scores = logit.features @ w
        logs = scores - scores.logsumexp(-1, keepdim=True)
        return -float(logit.weights @ logs.gather(1, logit.chosen[:, None])[:, 0]) - extra(w)

    return minimize(lost, np.zeros(len(logit.names)), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13})


@pytest.mark.parametrize("method", ["bfgs", "newton"])
def test_a_fit_is_the_maximum(method):
    logit = draw()
    estimate = fit(logit, method=method)
    assert estimate.status is FitStatus.SUCCESS
    assert np.allclose(estimate.coefficients, reference(logit).x, atol=1e-6)
    assert estimate.log_likelihood == pytest.approx(-reference(logit).fun, abs=1e-9)
    assert estimate.null_log_likelihood == pytest.approx(-len(logit.chosen) * math.log(3))
    assert estimate.gradient_norm < 1e-6
    assert estimate.aic == pytest.approx(4 - 2 * estimate.log_likelihood)
    assert estimate.bic == pytest.approx(2 * math.log(400) - 2 * estimate.log_likelihood)
    assert (estimate.coefficients - [-1, 0.5]).abs().max() < 4 * estimate.standard_errors.max()


def test_standard_errors_are_those_of_three_formulas():
    persons = np.arange(400) // 8
    logit = draw(persons=list(persons), weights=torch.linspace(0.5, 2, 400, dtype=torch.float64))
    plain = fit(logit)
    w = torch.tensor(plain.coefficients.to_numpy())
    step = 1e-5
    differences = [(logit.evaluate(w + e)[1] - logit.evaluate(w - e)[1]) / (2 * step) for e in step * torch.eye(2)]
    inverse = np.linalg.inv(-torch.stack(differences).numpy())
    scores, weights = logit.scores(w).numpy(), logit.weights.numpy()
    assert np.allclose(plain.covariance, inverse, rtol=1e-6)
    sandwich = inverse @ sum(c * np.outer(s, s) for c, s in zip(weights, scores, strict=True)) @ inverse
    assert np.allclose(fit(logit, covariance="sandwich").covariance, sandwich, rtol=1e-6)
    sums = [(weights[persons == p, None] * scores[persons == p]).sum(0) for p in range(50)]
    cluster = inverse @ sum(np.outer(s, s) for s in sums) @ inverse
    assert np.allclose(fit(logit, covariance="cluster").covariance, cluster, rtol=1e-6)
    assert np.allclose(logit.weights @ plain.scores, 0, atol=1e-6)


def test_weights_2_are_doubled_data():
    logit = draw()
    twice = Logit(logit.features.repeat(2, 1, 1), logit.chosen.repeat(2), logit.names)
    heavy = Logit(logit.features, logit.chosen, logit.names, weights=torch.full((400,), 2.0, dtype=torch.float64))
    a, b = fit(twice), fit(heavy)
    assert np.allclose(a.coefficients, b.coefficients, rtol=1e-10)
    assert np.allclose(a.standard_errors, b.standard_errors, rtol=1e-10)
    assert (a.bic, a.num_demonstrations) == (pytest.approx(b.bic), b.num_demonstrations)


def test_infeasible_steps_are_halved_and_never_become_values():
    """The maximum lies beside a wall behind which nothing is finite; the search meets the wall and still arrives."""
    logit = draw(truth=(-0.1, 0.05), number=4000)
    free = fit(logit)
    top = float(free.coefficients["cost"])
    walled = Logit(logit.features, logit.chosen, logit.names, wall=lambda w: float(w[0]) < top - 1e-3)
    estimate = fit(walled)
    assert float(walled.calls[2][0]) < top - 1e-3  # where the first step led
    assert estimate.status.ok
    assert np.allclose(estimate.coefficients, free.coefficients, atol=1e-8)


def test_the_first_step_has_length_1_at_most():
    logit = draw(number=4000)
    fit(logit)
    first = float((logit.calls[2] - logit.calls[1]).norm())  # calls 0 and 1 are both at the start
    assert 0.5 < first <= 1 + 1e-12


def test_a_search_that_cannot_go_on_says_so():
    logit = draw()
    estimate = fit(logit, max_iterations=2, throw=False)
    assert estimate.status is FitStatus.NOT_CONVERGED
    with pytest.raises(FitError, match="raise max_iterations") as caught:
        fit(logit, max_iterations=2)
    assert caught.value.estimate.steps == 2
    assert pickle.loads(pickle.dumps(caught.value)).status is FitStatus.NOT_CONVERGED


class Saddle:
    """log-likelihood -(w0^2 - 1)^2 - w1^2: at 0 the gradient is 0 and the curvature is not."""

    def evaluate(self, w):
        x, y = float(w[0]), float(w[1])
        return -((x * x - 1) ** 2) - y * y, torch.tensor([-4 * x * (x * x - 1), -2 * y], dtype=torch.float64)

    def hessian(self, w):
        x = float(w[0])
        return torch.diag(torch.tensor([-12 * x * x + 4, -2.0], dtype=torch.float64))


@pytest.mark.parametrize("newton", [True, False])
def test_a_saddle_is_no_maximum(newton):
    none = torch.full((2,), math.inf, dtype=torch.float64)
    box = Box(-none, none, torch.zeros(2, dtype=torch.float64))
    found = maximize(Saddle(), torch.tensor([0.0, 1.0], dtype=torch.float64), box, newton=newton)
    assert found.converged
    assert abs(float(found.place[0])) == pytest.approx(1)
    assert found.value == pytest.approx(0, abs=1e-10)


def test_collinear_features_are_named_with_their_combination():
    logit = draw(truth=(-1.0, 0.5, 0.2), names=("a", "b", "c"))
    logit.features[..., 2] = 2 * logit.features[..., 0] + logit.features[..., 1]
    estimate = fit(logit, throw=False)
    assert estimate.status is FitStatus.NOT_IDENTIFIED
    assert estimate.coefficients.isna().all()
    (row,) = estimate.null_space().to_numpy()
    assert np.allclose(row / row[2], [-2, -1, 1])
    assert estimate.warnings[0].endswith("+1 a +0.5 b -0.5 c")
    assert math.isfinite(estimate.log_likelihood)
    with pytest.raises(FitError, match="leave one of the features out"):
        fit(logit)
    assert fit(logit, fixed={"c": 0.0}).status.ok
    assert fit(logit, penalty=L2(1.0)).status.ok


def test_only_what_is_not_identified_is_nan():
    logit = draw(truth=(-1.0, 0.5, 0.2), names=("a", "b", "c"))
    logit.features[..., 2] = 2 * logit.features[..., 0]
    estimate = fit(logit, throw=False)
    assert list(estimate.coefficients.isna()) == [True, False, True]
    assert list(estimate.standard_errors.isna()) == [True, False, True]
    other = fit(logit, fixed={"c": 0.0})
    assert estimate.coefficients["b"] == pytest.approx(other.coefficients["b"], rel=1e-6)
    assert estimate.standard_errors["b"] == pytest.approx(other.standard_errors["b"], rel=1e-6)


def test_known_up_to_returns_the_smallest_norm():
    logit = draw(truth=(-1.0, 0.5, 0.2), names=("a", "b", "c"))
    logit.features[..., 2] = 2 * logit.features[..., 0]
    other = fit(logit, fixed={"c": 0.0})
    estimate = fit(logit, task={"known_up_to": "shaping", "scales": torch.tensor([1.0, 3.0, 0.2]).double()})
    a = other.coefficients["a"]
    assert np.allclose(estimate.coefficients, [a / 5, other.coefficients["b"], 2 * a / 5], rtol=1e-6)
    assert "shaping" in " ".join(estimate.warnings)


def test_separation_by_a_combination_is_no_success():
    """Whoever chooses takes the most of a + b always: neither feature alone is at an extreme."""
    logit = draw(number=60)
    logit.chosen = (logit.features[..., 0] + logit.features[..., 1]).argmax(-1)
    estimate = fit(logit, throw=False)
    assert not estimate.status.ok
    assert estimate.coefficients.isna().all()
    assert fit(logit, penalty=L2(2.0)).status.ok


@pytest.mark.parametrize("weight", [1e-3, 1e-7])
def test_what_is_weakly_known_is_not_separated(weight):
    """Little weight gives wide standard errors at the same maximum."""
    plain = draw()
    logit = draw(weights=torch.full((400,), weight, dtype=torch.float64))
    estimate = fit(logit)
    assert estimate.status is FitStatus.SUCCESS
    assert np.allclose(estimate.coefficients, fit(plain).coefficients, rtol=1e-3)
    assert np.allclose(estimate.standard_errors, fit(plain).standard_errors / math.sqrt(weight), rtol=1e-3)


def test_scales_change_nothing():
    logit = draw()
    other = fit(logit, task={"scales": torch.tensor([300.0, 0.01], dtype=torch.float64)})
    assert np.allclose(fit(logit).coefficients, other.coefficients, rtol=1e-8)
    assert np.allclose(fit(logit).standard_errors, other.standard_errors, rtol=1e-8)


def test_fixed_coefficients_are_kept():
    logit = draw()
    estimate = fit(logit, fixed={"cost": -2.0})
    assert estimate.coefficients["cost"] == -2.0
    assert math.isnan(estimate.standard_errors["cost"])
    assert estimate.scores.shape == (400, 1)
    assert estimate.hessian.shape == estimate.covariance.shape == (1, 1)
    held = fit(logit, fixed={"cost": -2.0, "comfort": 0.25})
    assert held.status.ok
    assert held.log_likelihood == pytest.approx(logit.evaluate(torch.tensor([-2.0, 0.25]).double())[0])
    assert held.evaluations == 1
    assert held.scores.shape == (400, 0)


def test_bounds_hold_and_are_reported():
    logit = draw()
    estimate = fit(logit, bounds={"comfort": (None, 0.2)}, throw=False)
    assert estimate.status is FitStatus.AT_BOUND
    assert estimate.coefficients["comfort"] == 0.2
    assert math.isnan(estimate.standard_errors["comfort"])
    held = fit(logit, fixed={"comfort": 0.2})
    assert estimate.coefficients["cost"] == pytest.approx(held.coefficients["cost"], rel=1e-7)
    assert estimate.standard_errors["cost"] == pytest.approx(held.standard_errors["cost"], rel=1e-6)
    loose = fit(logit, bounds={"comfort": (-5, 5), "cost": (None, 0)})
    assert np.allclose(loose.coefficients, fit(logit).coefficients, rtol=1e-8)


def test_penalties_are_log_densities_on_unscaled_features():
    logit = draw(number=30)
    scales = {"scales": torch.tensor([5.0, 0.3], dtype=torch.float64)}
    normal = fit(logit, scales, penalty=L2(0.4))
    want = reference(logit, lambda w: -float((w**2).sum()) / (2 * 0.4**2))
    assert np.allclose(normal.coefficients, want.x, atol=1e-6)
    as_density = fit(logit, scales, penalty=torch.distributions.Normal(0.0, 0.4))
    assert np.allclose(as_density.coefficients, normal.coefficients, atol=1e-8)
    assert np.allclose(as_density.covariance, normal.covariance, rtol=1e-8)
    w = torch.tensor(normal.coefficients.to_numpy())
    assert normal.log_likelihood == pytest.approx(logit.evaluate(w)[0])
    assert np.allclose(normal.hessian, logit.hessian(w))
    assert np.allclose(normal.covariance, torch.linalg.inv(-logit.hessian(w) + torch.eye(2) / 0.4**2), rtol=1e-8)
    lasso = fit(logit, scales, penalty=L1(0.1))
    sharp = reference(logit, lambda w: -float(w.abs().sum()) / 0.1)
    assert np.allclose(lasso.coefficients, sharp.x, atol=1e-5)
    strong = fit(logit, scales, penalty=L1(0.01))
    assert list(strong.coefficients) == [0.0, 0.0]
    assert strong.standard_errors.isna().all()
    assert strong.aic is None


def test_separated_features_are_named_before_fitting():
    logit = draw()
    estimate = fit(logit, task={"separated": [("cost", "never used", -1.0)]}, throw=False)
    assert estimate.status is FitStatus.SEPARATED
    assert estimate.coefficients.isna().all()
    assert estimate.warnings == ("cost: never used",)
    assert estimate.evaluations == 0
    assert fit(logit, task={"separated": [("cost", "never used", -1.0)]}, fixed={"cost": -9.0}).status.ok
    assert fit(logit, task={"separated": [("cost", "never used", -1.0)]}, penalty=L2(1.0)).status.ok


def test_starts_are_doubled_until_feasible():
    logit = draw(truth=(-30.0, 0.5), number=40, wall=lambda w: float(w[0]) > -5)
    task = {"initial": torch.tensor([-1.0, 0.0], dtype=torch.float64), "doubles": True}
    estimate = fit(logit, task, penalty=L2(10.0))
    assert float(logit.calls[3][0]) == -8
    assert estimate.status.ok
    logit.wall = lambda w: True
    failed = fit(logit, task, throw=False)
    assert failed.status is FitStatus.INFEASIBLE_START
    with pytest.raises(ValueError, match="start is infeasible"):
        fit(logit, start={"cost": -1.0})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"fixed": {"coast": 1.0}}, "did you mean 'cost'"),
        ({"start": {"cost": math.nan}}, "finite number"),
        ({"start": [1.0]}, "start has 1 entries"),
        ({"bounds": {"cost": (1, 0)}}, "lower must be below"),
        ({"bounds": {"cost": (0, 1)}, "start": {"cost": 2.0}}, "outside bounds"),
        ({"covariance": "robust"}, "'sandwich' or 'cluster'"),
        ({"covariance": "cluster"}, "give persons"),
        ({"tolerance": 0.0}, "above 0"),
        ({"method": "bhhh"}, "'bfgs' or 'newton'"),
        ({"max_iterations": 0}, "1 or more"),
    ],
)
def test_bad_settings_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        fit(draw(), **options)


def test_missing_persons_are_refused():
    with pytest.raises(ValueError, match=r"persons\[2\] is missing"):
        fit(draw(number=4, persons=["a", "b", None, "a"]), covariance="cluster")
    with pytest.raises(TypeError, match="log density"):
        fit(draw(), penalty=3.0)


def test_hypotheses():
    logit = draw(truth=(-1.0, 0.0, 0.0), names=("a", "b", "c"))
    full, small = fit(logit), fit(logit, fixed={"b": 0.0, "c": 0.0})
    ratio, wald = full.likelihood_ratio(small), full.wald(["b", "c"])
    assert ratio.degrees == wald.degrees == 2
    assert ratio.statistic == pytest.approx(2 * (full.log_likelihood - small.log_likelihood))
    assert ratio.statistic == pytest.approx(wald.statistic, rel=0.1)
    assert ratio.p_value == pytest.approx(math.exp(-ratio.statistic / 2))  # of two degrees
    assert ratio == small.likelihood_ratio(full)
    rows = [[0.0, 1, 0], [0, 0, 1]]
    assert full.wald(rows, [0.0, 0]).statistic == pytest.approx(wald.statistic)
    one = full.wald({"a": 1.0, "b": -1.0}, -1.0)
    c = full.covariance
    miss = full.coefficients["a"] - full.coefficients["b"] + 1
    assert one.statistic == pytest.approx(miss**2 / float(c[0, 0] + c[1, 1] - 2 * c[0, 1]))
    with pytest.raises(ValueError, match="depend on each other"):
        full.wald([[1.0, 0, 0], [2.0, 0, 0]], 0.0)
    with pytest.raises(ValueError, match="special case"):
        full.likelihood_ratio(full)
    with pytest.raises(ValueError, match="same demonstrations"):
        full.likelihood_ratio(fit(draw(number=9, truth=(-1.0, 0.0, 0.0), names="abc"), fixed={"b": 0}))


def test_reports():
    logit = draw()
    estimate = fit(logit, fixed={"cost": -1.0})
    text = estimate.summary()
    for word in ("likelihood", "KL (with an action prior)", "success", "fixed", "comfort"):
        assert word in text
    told = json.loads(estimate.to_json())
    assert told["coefficients"] == dict(estimate.coefficients)
    assert told["standard_errors"]["cost"] is None
    assert told["status"] == "success"
    low, high = estimate.intervals(0.9).loc["comfort"]
    assert (high - low) / 2 == pytest.approx(1.6448536 * estimate.standard_errors["comfort"])
    assert list(estimate.to_frame().columns) == ["coefficient", "standard_error", "z", "p", "lower", "upper"]
    assert estimate.p_values["comfort"] == pytest.approx(math.erfc(estimate.z_values["comfort"] / math.sqrt(2)))
    with pytest.raises(ValueError, match="level"):
        estimate.intervals(95)
    assert len(estimate.plot().axes[0].get_yticks()) == 2
    assert estimate.plot_counts().axes[0].get_xlabel().startswith("expected")
    assert pickle.loads(pickle.dumps(estimate)).log_likelihood == estimate.log_likelihood


def test_without_the_exact_hessian_there_are_no_standard_errors():
    logit = draw()
    size = torch.zeros(2, dtype=torch.float64)
    task = Task(logit, Choices(logit), size, size + 1, curved=False)
    estimate = fit_objective(task, Settings())
    assert np.allclose(estimate.coefficients, fit(logit).coefficients, atol=1e-6)
    assert estimate.standard_errors.isna().all()


def test_an_absolute_value_counts_where_a_bound_holds():
    """What rises outward at a bound is the likelihood with the penalty; where it alone holds 0, no bound does."""
    logit = draw()
    free = fit(logit, penalty=L1(0.02))
    cost, comfort = free.coefficients["cost"], free.coefficients["comfort"]
    assert cost < -0.1
    assert comfort > 0.1
    plain = fit(logit)
    assert plain.coefficients["cost"] < cost
    between = {"cost": (None, (plain.coefficients["cost"] + cost) / 2)}  # the likelihood alone would stay inside
    held = fit(logit, penalty=L1(0.02), bounds=between, throw=False)
    assert held.coefficients["cost"] == pytest.approx(between["cost"][1])
    assert held.status is FitStatus.AT_BOUND
    assert "at a bound: cost" in "".join(held.warnings)
    upward = fit(logit, penalty=L1(0.001), bounds={"cost": (None, 0.0), "comfort": (0.0, None)}, throw=False)
    assert upward.coefficients.tolist() == [0.0, 0.0]
    assert upward.status is FitStatus.SUCCESS


def test_a_prior_that_ends_is_a_wall():
    """Outside of its support a distribution has density 0; a start there is told, instead of torch's error."""
    logit = draw(truth=(2.0, 0.5))
    prior = torch.distributions.HalfNormal(torch.tensor(0.5).double())
    inside = fit(logit, penalty=prior, start=[0.3, 0.3])
    assert inside.coefficients.to_numpy() == pytest.approx(
        fit(logit, penalty=L2(0.5)).coefficients.to_numpy(), abs=1e-6
    )
    with pytest.raises(ValueError, match="the penalty is not finite there"):
        fit(logit, penalty=prior, start=[-0.3, 0.3])
