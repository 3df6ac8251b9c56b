"""Infinite horizons where one cost outweighs others by many orders: Riccati's recursion with ninety digits."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from gaussian_digits import apart, inverse, log_det, precise, trace

import cai
from cai.inference import NotKnown, Status
from cai.models import Flat, LinearGaussianModel, QuadraticReward

# (A, B): two actions reach the first state; with one, doubling of horizons does not settle where RAY weighs 2^56
TWO = (
    np.array([[1.0, 0.25, 0.0], [-0.25, 0.75, 0.5], [0.0, 0.25, 0.5]]),
    np.array([[0.5, 0.75], [0.25, 0.0], [-0.5, 1.0]]),
)
ONE = np.array([[1.25, 0.5], [0.0, 1.0]]), np.array([[0.5], [0.5]])
FIRST, OTHERS, RAY = np.diag([1.0, 0.0, 0.0]), np.diag([0.0, 1.0, 1.0]), np.array([[1.0, 0.75], [0.75, 0.5625]])
# messages keep their digits here, as the heavy state is coupled weakly, and their derivatives lose them
WEAK = (
    np.array([[1.25, -0.25, -0.1875], [-0.1875, 0.8125, 0.0625], [-0.0625, 0.0, 0.875]]),
    np.array([[1.0], [0.5], [0.25]]),
)
CASES = {
    "two": (TWO, FIRST, OTHERS, 2.0**34),
    "undoubled": (ONE, RAY, 0 * RAY, 2.0**56),
    "weak": (WEAK, FIRST, OTHERS, 2.0**52),
}


def problem(A, B, Q, *, discount=0.5, R=None, W=0.25, alpha=1.0):
    n, m = B.shape
    return LinearGaussianModel(
        A,
        B,
        noise=torch.eye(n, dtype=torch.float64) * W,
        initial=(np.ones(n), 0.5 * np.eye(n)),
        horizon=math.inf,
        discount=discount,
        criterion="total" if discount < 1 else "average",
        temperature=alpha,
        reward=QuadraticReward(Q, R=torch.eye(m, dtype=torch.float64) if R is None else R),
        action_prior=Flat(),
    )


def recursion(A, B, Q, *, discount=0.5, R=1, W=0.25, alpha=1):
    """P, K and the bound, or what a step gains where there is no discount."""
    n, m = B.shape
    A, B, Q, W, alpha = precise(A), precise(B), precise(Q), precise(W).item(), precise(alpha).item()
    R, P = precise(np.eye(m)) * precise(R).item(), precise(np.zeros((n, n)))
    for _ in range(150):
        H = R + discount * (B.T @ P @ B)
        K = -inverse(H) @ (B.T @ P @ A) * discount
        P = Q + discount * (A.T @ P @ (A + B @ K))
        P = (P + P.T) / 2
    step = discount * trace(P) * W / 2 + alpha / 2 * (log_det(H) - m * mpmath.log(2 * mpmath.pi * alpha))
    if discount == 1:
        return P, K, -step
    start = np.ones(n)
    return P, K, -(start @ P @ start / 2 + trace(P) / 4 + step / (1 - discount)) / alpha


@pytest.mark.parametrize("weight", [2.0**34, 2.0**50])
def test_two_actions_that_reach_a_heavy_cost_lose_no_digits(weight):
    """The smaller eigenvalue of Haa is a difference of large numbers; its digits are those of half the policy."""
    Q = np.diag([weight, 1.0, 0.25])
    answer = cai.infer(problem(*TWO, Q), "variational")
    P, K, bound = recursion(*TWO, Q)
    assert apart(answer.message(0).P, P) < 1e-12
    assert apart(answer.gain(0), K) < 1e-11
    assert apart(answer.elbo, bound) < 1e-12


@pytest.mark.parametrize(("case", "discount"), [*itertools.product(CASES, [0.5]), ("two", 1.0), ("undoubled", 1.0)])
def test_gradients_of_the_bound_keep_their_digits(case, discount):
    """Each against a difference with ninety digits, those by small costs too, which plain passes round away."""
    world, heavy, light, weight = CASES[case]
    parts = {"small": 1.0, "R": 1.0, "W": 0.25, "alpha": 1.0, "large": weight}
    given = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in parts.items()}
    Q = torch.as_tensor(heavy) * given["large"] + torch.as_tensor(light) * given["small"]
    R = torch.eye(world[1].shape[1], dtype=torch.float64) * given["R"]
    model = problem(*world, Q, R=R, W=given["W"], alpha=given["alpha"], discount=discount)
    answer = cai.infer(model, "variational")
    found = torch.autograd.grad(answer.elbo if discount < 1 else answer.average_reward, list(given.values()))
    for (name, value), slope in zip(parts.items(), found, strict=True):
        step = mpmath.mpf(2) ** -100 * value

        def bound(moved, name=name):
            now = {key: mpmath.mpf(part) for key, part in parts.items()} | {name: moved}
            Q = precise(heavy) * now["large"] + precise(light) * now["small"]
            return recursion(*world, Q, R=now["R"], W=now["W"], alpha=now["alpha"], discount=discount)[2]

        expected = (bound(mpmath.mpf(value) + step) - bound(mpmath.mpf(value) - step)) / (2 * step)
        assert apart(slope, expected) < 1e-10, name


def test_gradients_that_doubling_lost_are_refused():
    Q = (2.0**56 * torch.as_tensor(RAY)).requires_grad_()
    answer = cai.infer(problem(*ONE, Q), "variational")
    with pytest.raises(NotKnown, match="ask for those of its bound"):
        answer.gain(0).sum().backward()
    slope = torch.autograd.grad(answer.elbo, Q, create_graph=True)[0]
    with pytest.raises(NotKnown, match="second derivatives"):
        slope.sum().backward()


def test_costs_that_neither_pass_holds_are_told():
    """Along a ray costs are 2^43, across it they are rounding, some of it below 0, so that no root is that of them."""
    ray = np.array([[0.3], [0.7], [0.9]])
    Q = 2.0**43 * ray @ ray.T
    assert min(mpmath.eigsy(mpmath.matrix(Q.tolist()), eigvals_only=True)) < -1e-6
    answer = cai.infer(problem(*TWO, Q), "variational", throw=False)
    assert answer.status is Status.OUT_OF_RANGE
    assert "digits were lost: the answer is known to" in answer.details["why"]
    assert answer.elbo is None


def test_a_weight_does_not_lead_to_the_unstable_root_of_riccatis_equation():
    """Doubling ended there, an eigenvalue of 1.029 in place of 1/1.029: no stationary law, it was said."""
    gains = [
        cai.infer(problem(*WEAK, np.diag([w, 1, 1]), discount=1.0), "variational").gain(0) for w in (2.0**40, 2.0**52)
    ]
    assert np.allclose(*gains, rtol=1e-9)
