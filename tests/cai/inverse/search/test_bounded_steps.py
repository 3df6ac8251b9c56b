"""Steps and searches between bounds and over kinks, against every choice of what is held (numpy)."""

import itertools

import numpy as np
import pytest
import torch
from logit_choices import draw, fit

from cai.inverse import FitStatus
from cai.inverse.search.coordinates import Coordinates
from cai.inverse.search.curvature import best_step
from cai.inverse.search.maximize import Box, maximize
from cai.inverse.search.settings import Settings


def best_of_all_faces(slope, bend, place, lower, upper, sharp):
    """The gain of the best feasible point among the maxima of all faces: each coordinate low, high, 0, or of a sign."""
    best = -np.inf
    for face in itertools.product(("low", "high", "zero", 1.0, -1.0), repeat=len(place)):
        u, free = place.copy(), np.array([isinstance(part, float) for part in face])
        for i, part in enumerate(face):
            u[i] = {"low": lower[i], "high": upper[i], "zero": 0.0}.get(part, place[i])
        if not np.isfinite(u).all():
            continue
        sign = np.array([part if isinstance(part, float) else 0.0 for part in face])
        if free.any():
            held = bend[np.ix_(free, ~free)] @ (u - place)[~free]
            u[free] += np.linalg.solve(bend[np.ix_(free, free)], (slope - sharp * sign)[free] - held)
        if (u < lower).any() or (u > upper).any():
            continue
        step = u - place
        best = max(best, slope @ step - step @ bend @ step / 2 - sharp @ (abs(u) - abs(place)))
    return best


@pytest.mark.parametrize("seed", range(12))
def test_a_step_is_the_best_of_all_faces(seed):
    """Also of features that are nearly collinear, along which coordinates one after the other only creep."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(6, 3))
    rows[:, 1] = rows[:, 0] + 2.0 ** -(2 + seed) * rows[:, 1]
    bend, place = rows.T @ rows, rng.normal(size=3)
    lower, upper = place - rng.random(3) * 50, place + rng.random(3) * 50
    lower[0], upper[0] = -np.inf, np.inf
    sharp = np.where(rng.random(3) < 0.5, rng.random(3), 0.0)
    slope = bend @ rng.normal(size=3) + 1e-3 * rng.normal(size=3)
    parts = [torch.from_numpy(part) for part in (slope, bend, place, lower, upper, sharp)]
    step, gain = best_step(*parts)
    best = best_of_all_faces(slope, bend, place, lower, upper, sharp)
    assert gain == pytest.approx(best, rel=1e-9)
    there = place + step.numpy()
    assert (there >= lower - 1e-12).all()
    assert (there <= upper + 1e-12).all()


class Parabola:
    """-(u - top)' B (u - top) / 2."""

    def __init__(self, bend, top):
        self.bend, self.top = bend, top

    def evaluate(self, place):
        apart = place - self.top
        return float(-apart @ self.bend @ apart / 2), -self.bend @ apart

    def hessian(self, place):
        return -self.bend


@pytest.mark.parametrize("newton", [False, True])
def test_searches_end_exactly_at_bounds(newton):
    """A hair inside, and what is held would pass for a maximum with standard errors."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        rows = torch.from_numpy(rng.normal(size=(5, 2)))
        high = torch.from_numpy(rng.normal(size=2))
        start, top = high - torch.from_numpy(4 * rng.random(2)), torch.from_numpy(3 * rng.normal(size=2))
        box = Box(high - 5, high, torch.zeros(2).double())
        found = maximize(Parabola(rows.T @ rows, top), start, box, newton=newton)
        assert found.converged
        assert (found.place <= high).all()
        assert (found.place == high)[found.gradient > 1e-6].all()


def test_estimates_are_exactly_at_bounds():
    """Whatever the start; those that missed by rounding were called a success, with standard errors."""
    rng = np.random.default_rng(1)
    logit = draw(3, truth=(-1.0, 0.5), names=("cost", "comfort"))
    for bound in rng.uniform(-0.3, 0.2, 25).round(3):
        start = {"comfort": bound - rng.uniform(0, 0.8)}
        options = {"fixed": {"cost": -1.0}, "bounds": {"comfort": (None, bound)}, "start": start, "method": "newton"}
        estimate = fit(logit, throw=False, **options)
        assert estimate.status is FitStatus.AT_BOUND
        assert estimate.coefficients["comfort"] == bound
        assert np.isnan(estimate.standard_errors["comfort"])


def test_scales_leave_bounds_exact():
    """Times a scale and over it again is not always what it was."""
    rng = np.random.default_rng(2)
    for low, size in zip(rng.normal(size=50), rng.random(50), strict=True):
        settings = Settings(fixed={"b": 2.0}, bounds={"a": (low, low + size), "c": (low, low + size)})
        coordinates = Coordinates.of(["a", "b", "c"], torch.from_numpy(rng.random(3)), settings)
        place = torch.stack([box[i] for i, box in enumerate(coordinates.box(settings))])
        assert coordinates.within(coordinates.full(place), place, settings).tolist() == [low, 2.0, low + size]


def test_bounds_that_hold_nothing_change_nothing():
    """Two features that are nearly the same: the fit is as quick and as exact as without bounds."""
    logit = draw(1, truth=(-1.0, 0.5), names=("a", "b"))
    logit.features[..., 1] = logit.features[..., 0] + 2.0**-9 * logit.features[..., 1]
    plain, bounded = (fit(logit, bounds=b, method="newton") for b in ({}, {"a": (-1e6, 1e6)}))
    assert bounded.evaluations <= plain.evaluations + 2
    apart = (bounded.coefficients - plain.coefficients) / plain.standard_errors
    assert apart.abs().max() < 1e-8
