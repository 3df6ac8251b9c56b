"""Matrices that floats hold to the last digit and that are nearly singular: a heavy ray, and 1 or 1/4 across it."""

import itertools
import math
import warnings

import numpy as np
import pytest
from gaussian_digits import apart, inverse, many_digits, precise

import cai
from cai.inference import Status, kalman_filter, kalman_smoother
from cai.models import Flat, LinearGaussianModel, LinearNormal, QuadraticReward

A = np.array([[1.0, 0.25, 0.0], [-0.25, 0.75, 0.5], [0.0, 0.25, 0.5]])
B = np.array([[0.5, 0.75], [0.25, 0.0], [-0.5, 1.0]])
OWN = {"Q": np.eye(3), "R": np.eye(2), "W": np.eye(3) / 4, "S1": np.eye(3) / 2}
WEIGHTS = [2.0**30, 2.0**46]


def steep(weight, size):
    """Whole numbers and quarters, the smallest of whose eigenvalues is 1/4: up to 2^-51 of the largest."""
    ray = np.arange(1.0, size + 1)[:, None]
    return weight * ray @ ray.T + np.eye(size) / 4


def problem(Q, R, W, S1, **parts):
    return LinearGaussianModel(
        A, B, noise=W, initial=(np.ones(3), S1), reward=QuadraticReward(Q, R=R), **{"action_prior": Flat(), **parts}
    )


@pytest.mark.parametrize("discount", [0.5, 1.0])
@pytest.mark.parametrize("heavy", ["Q", "R", "QR"])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_infinite_horizons(heavy, weight, discount):
    """The gain was off by 0.4 beside a success, or Haa was said to be indefinite: Riccati's recursion by inverses."""
    parts = OWN | {name: steep(weight, len(OWN[name])) for name in heavy}
    criterion = "total" if discount < 1 else "average"
    model = problem(**parts, horizon=math.inf, discount=discount, criterion=criterion)
    answer = cai.infer(model, "variational")
    F, G, Q, R = (precise(part) for part in (A, B, parts["Q"], parts["R"]))
    P = Q
    for _ in range(150):
        K = -inverse(R + discount * G.T @ P @ G) @ (G.T @ P @ F) * discount
        P = Q + discount * F.T @ P @ (F + G @ K)
        P = (P + P.T) / 2
    assert apart(answer.gain(0), K) < 1e-12
    assert apart(answer.message(0).P, P) < 1e-12


@pytest.mark.parametrize(
    ("heavy", "eta"),
    [
        *itertools.product([["Q"], ["R"], ["W"], ["S1"]], [0.0, 1.0, 0.5, -(2.0**-55)]),
        *itertools.product([["Q", "R", "W", "S1"]], [0.0, 1.0, 0.5]),
    ],
)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_finite_horizons(heavy, weight, eta):
    parts = OWN | {name: steep(weight, len(OWN[name])) for name in heavy}
    for T in (2, 30):
        answer = cai.infer(problem(**parts, horizon=T), f"risk:eta={eta}" if eta else "variational")
        cost = np.zeros((5, 5))
        cost[:3, :3], cost[3:, 3:] = parts["Q"], parts["R"]
        end, start = (np.zeros((3, 3)), np.zeros(3)), (np.ones(3), parts["S1"])
        ask = many_digits(A, B, np.zeros(3), parts["W"], cost, np.zeros(5), end, start, T, 1.0, None, eta)
        assert apart(answer.message(0).P, ask["P"][0]) < 1e-12
        for t, gain in enumerate(ask["policies"]):
            assert apart(answer.gain(t), gain[0]) < 1e-11
            assert apart(answer.covariance(t), gain[2]) < 1e-11
        assert apart(answer.details["start"], ask["start"]) < 1e-12


def test_a_nearly_singular_prior_is_out_of_range():
    """Its inverse is that of rounded floats: policies were off by 1e-5 beside a success."""
    ray = np.array([[0.3], [1.1]])
    prior = LinearNormal(L=2.0**40 * ray @ ray.T + np.eye(2))
    for asked in ({"horizon": 5}, {"horizon": math.inf, "discount": 0.5}):
        answer = cai.infer(problem(**OWN, **asked, action_prior=prior), "variational", throw=False)
        assert answer.status is Status.OUT_OF_RANGE
        assert "the action prior's L is so nearly singular" in answer.details["why"]


@pytest.mark.parametrize("part", ["noise", "observation_noise", "start", "all"])
@pytest.mark.parametrize("weight", [2.0**30, 2.0**43])
def test_a_covariance_that_is_nearly_singular_is_what_its_floats_say(part, weight):
    """Along a ray variances are heavy, across it 1: whole numbers, which floats hold to the last digit."""
    steep = weight * np.array([[1.0, 3.0], [3.0, 9.0]]) + np.eye(2)
    W, V, S = (steep if part in (name, "all") else np.eye(2) for name in ("noise", "observation_noise", "start"))
    A, C, y = np.array([[1.0, 0.25], [-0.25, 0.75]]), np.array([[1.0, 0.5], [0.25, 1.0]]), [[1.0, 2.0], [0.5, -1.0]]
    own, mean, P = precise(np.eye(2)), precise(np.zeros(2)), precise(S)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that such floats leave estimates undecided, if they were rounded before
        chain = {"noise": W, "observation_noise": V, "initial": (np.zeros(2), S)}
        found, smooth = (estimate(y, A, C, **chain) for estimate in (kalman_filter, kalman_smoother))
    for t, seen in enumerate(y):
        if t:
            mean, P = precise(A) @ mean, precise(A) @ P @ precise(A).T + precise(W)
        gain = P @ precise(C).T @ inverse(precise(C) @ P @ precise(C).T + precise(V))
        mean, P = mean + gain @ (precise(seen) - precise(C) @ mean), (own - gain @ precise(C)) @ P
        assert apart(found.means[t], mean) < 1e-13
        assert apart(found.covariances[t], P) < 1e-13
    assert apart(smooth.means[-1], mean) < 1e-12
    assert apart(smooth.covariances[-1], P) < 1e-12
