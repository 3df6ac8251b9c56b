"""Covariances by the scatter of scores, where there is little of it."""

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


def test_standard_errors_that_are_short_for_want_of_scores_say_so():
    """A feature that six of 400 choices have, which went as was expected: their scores hardly scatter."""
    rare = draw(truth=(-1.0, 0.2), names=("a", "rare"))
    rare.features[6:, :, 1] = 0.0
    rare.features[:6, 0, 1], rare.features[:6, 1:, 1] = 1.0, 0.0
    rare.chosen[:6] = torch.tensor([0, 1, 2, 0, 1, 2]) % rare.features.shape[1]
    found, curved = fit(rare, covariance="sandwich"), fit(rare)
    share = found.standard_errors / curved.standard_errors
    told = " ".join(found.warnings)
    assert share["rare"] < 0.8 < share["a"]
    for name in ("a", "rare"):
        assert (f"{name} ({share[name]:.2f})" in told) == (share[name] < 0.8)
    assert not curved.warnings
    assert not fit(draw(truth=(-1.0, 0.2), names=("a", "b")), covariance="sandwich").warnings
    alone = draw(truth=(-1.0, 0.2), names=("a", "b"), persons=[i % 5 for i in range(400)])
    clustered, plain = fit(alone, covariance="cluster"), fit(alone)
    short = [n for n in ("a", "b") if clustered.standard_errors[n] < 0.8 * plain.standard_errors[n]]
    assert short == ["a"]
    assert (
        f"a ({clustered.standard_errors['a'] / plain.standard_errors['a']:.2f}), as where few persons"
        in (clustered.warnings[0])
    )


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
