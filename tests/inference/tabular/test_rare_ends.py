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


@pytest.mark.parametrize("exit_", [1e-22, 2.0**-73])
def test_costs_that_end_hardly_ever_are_not_called_diverged(exit_):
    """Each policy that ends costs some 1e19: by rounding of that, one that never ends looked better."""
    following = [[[1, 2, 3], [1, 1, 3]], [[2, 0, 3], [2, 0, 3]], [[0, 0, 3], [0, 1, 3]], [[3, 3, 3], [3, 3, 3]]]
    chances = [[[0.5, 0.5, 0], [0.25, 0.75, 0]], [[0.25, 0.75, 0]] * 2, [[0.75, 0.25, 0], [0.75, 0.25, exit_]]]
    rewards = -np.array([[0.000625, 0.000625], [0.001, 0.00075], [0.00075, 0.000625], [0.0, 0.0]])
    mdp = MDP.from_successors(following, [*chances, [[1.0, 0, 0]] * 2], [1.0, 0, 0, 0], terminal=[3])
    got = cai.infer(TrajectoryModel(mdp, rewards, horizon=math.inf), "value-iteration", throw=False)
    assert not got.status.ok or float(got.values[0, 0]) < -1e18
    assert got.status is not cai.inference.Status.DIVERGED
