"""Covariances by the scatter of scores, where there is little of it."""

import numpy as np
import pytest
import torch
from logit_choices import draw, fit

from cai.inverse import FitStatus


def test_scores_that_do_not_scatter_say_nothing():
    with pytest.raises(ValueError, match="one person alone made all demonstrations"):
        fit(draw(persons=["x"] * 400), covariance="cluster")
    counted = torch.tensor([1.0] * 200 + [0.0] * 200, dtype=torch.float64)
    with pytest.raises(ValueError, match="one person alone"):
        fit(draw(persons=["x"] * 200 + ["y"] * 200, weights=counted), covariance="cluster")
    few = draw(truth=(-1.0, 0.5, 0.2), names=("a", "b", "c"), persons=["x", "y"] * 200)
    told = fit(few, covariance="cluster").warnings[0]
    assert told.startswith("scores of the persons scatter along 1 of 3 combinations")
    assert not fit(few, covariance="sandwich").warnings
    alike = InOne(few)
    estimate = fit(alike, covariance="sandwich")
    assert estimate.status is FitStatus.SUCCESS
    assert estimate.standard_errors.isna().all()
    assert "those of all demonstrations are alike" in estimate.summary()
    assert fit(alike).standard_errors.notna().all()


def test_standard_errors_that_rest_on_few_say_so():
    """A feature that three of 400 choices have: the oracle counts the parts of its variance as equal ones."""
    rare = draw(truth=(-1.0, 0.2), names=("a", "rare"))
    rare.features[3:, :, 1] = 0.0
    found = fit(rare, covariance="sandwich")
    parts = (found.scores.numpy() @ np.linalg.inv(-found.hessian.numpy()))[:, 1] ** 2
    assert parts.sum() == pytest.approx(found.standard_errors["rare"] ** 2, rel=1e-8)
    number = parts.sum() ** 2 / (parts**2).sum()
    assert number < 3.01
    (told,) = found.warnings
    assert f"rest on few demonstrations: rare ({number:.1f}), counted as equal ones" in told
    assert not fit(rare).warnings
    persons = draw(truth=(-1.0, 0.2), names=("a", "rare"), persons=[i % 4 for i in range(400)])
    assert "rest on few persons: a (" in fit(persons, covariance="cluster").warnings[0]


class InOne:
    """All choices of a logit as one demonstration."""

    def __init__(self, logit):
        self.logit, self.names, self.persons = logit, logit.names, None
        self.weights, self.chosen, self.features = torch.ones(1, dtype=torch.float64), logit.chosen, logit.features

    def evaluate(self, w):
        return self.logit.evaluate(w)

    def scores(self, w):
        return self.logit.scores(w).sum(0, keepdim=True)

    def hessian(self, w):
        return self.logit.hessian(w)
