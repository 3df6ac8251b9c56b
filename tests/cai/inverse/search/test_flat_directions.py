"""Directions in which a log-likelihood is flat, or nearly so, or only far out."""

import pytest
import torch
from logit_choices import Logit, draw, fit

from cai.inverse import FitStatus


def test_separation_beside_what_is_known_is_named():
    """Half of the choices are settled by a + b, half are open in c; far out a + b is flat, and the way back falls."""
    logit = draw(truth=(0.0, 0.0, 0.7), names=("a", "b", "c"))
    logit.features[:200, :, 2] = 0.0
    logit.features[200:, :, :2] = 0.0
    logit.chosen[:200] = (logit.features[:200, :, 0] + logit.features[:200, :, 1]).argmax(-1)
    estimate = fit(logit, throw=False)
    assert estimate.status is FitStatus.SEPARATED
    assert estimate.warnings == ("the log-likelihood rises without end along a combination of a, b",)


@pytest.mark.parametrize("part", [2e-5, 5e-6, 1e-6])
def test_features_that_are_nearly_collinear_are_not_chased(part):
    """Along what is flat but for a millionth the log-likelihood still rises, over hundreds of thousands of units."""
    logit = draw(1, truth=(-1.0, 0.5, 0.3), names=("a", "b", "c"))
    logit.features[..., 2] = 2 * logit.features[..., 0] + part * logit.features[..., 2]
    estimate = fit(logit, throw=False)
    assert estimate.status is FitStatus.NOT_IDENTIFIED
    assert estimate.evaluations < 60
    assert estimate.coefficients[["a", "c"]].isna().all()


@pytest.mark.parametrize("method", ["bfgs", "newton"])
def test_separation_shows_between_what_is_infeasible_and_where_a_search_ends(method):
    """B - a is settled and a + b is known; three standard errors, and a hundredth of them, lead back to a wall."""
    features = torch.zeros(200, 2, 2, dtype=torch.float64)
    features[:100, 1] = torch.tensor([-1.0, 1.0])
    features[100:, 1] = torch.tensor([1.0, 1.0])
    chosen = torch.ones(200, dtype=torch.int64)
    chosen[100:120] = 0
    logit = Logit(features, chosen, ("a", "b"), wall=lambda w: float(w[0] - w[1]) > 1)
    estimate = fit(logit, throw=False, method=method, tolerance=1e-6)
    assert estimate.status is FitStatus.SEPARATED
    assert estimate.warnings == ("the log-likelihood rises without end along a combination of a, b",)
