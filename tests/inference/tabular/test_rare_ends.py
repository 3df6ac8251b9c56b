"""Infinite horizons that end so seldom that values of a policy are beyond the digits of the answer."""

import math

import mpmath
import numpy as np
import pytest

import cai
from cai.models import MDP, TrajectoryModel


def leaving(exit_, paid):
    """One state with two actions, which pay 5 and 3 eighths of `paid` and end with a tiny probability."""
    mdp = MDP.from_successors(
        [[[0, 1], [0, 1]], [[1, 1], [1, 1]]], [[[1 - exit_, exit_]] * 2, [[1.0, 0.0]] * 2], [1.0, 0.0], terminal=[1]
    )
    return TrajectoryModel(mdp, paid * np.array([[0.625, 0.375], [0.0, 0.0]]), horizon=math.inf)


def value(exit_, paid, eta):
    """V = log E_a exp(r_a + (1 / eta) log((1 - e) exp(eta V) + e)) in 80 digits, by its closed form."""
    with mpmath.workdps(80):
        mean = (mpmath.exp(mpmath.mpf(0.625 * paid)) + mpmath.exp(mpmath.mpf(0.375 * paid))) / 2
        tilted, e = mean**eta, mpmath.mpf(exit_)
        return mpmath.log(tilted * e / (1 - tilted * (1 - e))) / eta


@pytest.mark.parametrize("exit_", [2.0**-40, 2.0**-73, 2.0**-83])
@pytest.mark.parametrize("eta", [0.5, 0.125, 1.0])
def test_a_hope_of_an_end_that_hardly_ever_comes(exit_, eta):
    """The prior is worth -1e22 and the answer -100: Newton's steps from one to the other went back and forth."""
    model = leaving(exit_, -1.0)
    got = cai.infer(model, f"risk:eta={eta},max_iterations=1000" if eta != 1 else "exact:max_iterations=1000")
    want = value(exit_, -1.0, eta)
    assert abs(mpmath.mpf(float(got.values[0, 0])) - want) <= got.details["error_bound"] <= 1e-10 * abs(want)
    assert got.details["steps"] <= 50


def test_costs_that_end_hardly_ever_are_not_called_diverged():
    """Each policy that ends costs some 1e19: rounding of that made one look better that never ends."""
    following = np.array([[[1, 2, 3], [1, 1, 3]], [[2, 0, 3], [2, 0, 3]], [[0, 0, 3], [0, 2, 3]], [[3, 3, 3]] * 2])
    for seed in range(40):
        rng = np.random.default_rng(seed)
        exit_ = 10.0 ** -rng.integers(20, 26)
        chances, rewards = np.zeros((4, 2, 3)), -rng.integers(1, 9, size=(4, 2)) / 8192
        following[:3, :, 0], following[:3, :, 1] = [[1, 1], [2, 2], [0, 0]], rng.integers(3, size=(3, 2))
        share = rng.integers(1, 4, size=(4, 2)) / 4
        chances[..., 0], chances[..., 1], chances[3], rewards[3] = share, 1 - share, [1, 0, 0], 0
        chances[2, 1, 2] = exit_
        mdp = MDP.from_successors(following, chances, [1.0, 0, 0, 0], terminal=[3])
        model = TrajectoryModel(mdp, rewards, horizon=math.inf)
        for backend in ("value-iteration", "variational"):
            got = cai.infer(model, backend, throw=False)
            assert got.status is not cai.inference.Status.DIVERGED, (seed, backend)
