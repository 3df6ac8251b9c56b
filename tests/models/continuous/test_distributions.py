"""Gaussians on a subspace, and states that stay, against SciPy and by counting."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import multivariate_normal

from cai.models.continuous.distributions import SingularNormal, Staying, covariance_root, gaussian, in_double


def built(mean, covariance):
    covariance = torch.as_tensor(covariance, dtype=torch.float64)
    return gaussian(torch.as_tensor(mean, dtype=torch.float64), covariance, covariance_root(covariance))


def test_the_kind_is_that_of_the_covariance():
    assert isinstance(built([0.0, 0.0], [[1.0, 0.2], [0.2, 1.0]]), dist.MultivariateNormal)
    assert isinstance(built([0.0, 0.0], [[1.0, 1.0], [1.0, 1.0]]), SingularNormal)
    assert isinstance(built([0.0, 0.0], [[0.0, 0.0], [0.0, 0.0]]), dist.Delta)
    both = torch.stack([torch.eye(2), torch.zeros(2, 2)]).double()
    assert isinstance(built(torch.zeros(2, 2), both), SingularNormal)


def test_a_singular_gaussian_has_the_density_of_its_subspace_and_none_outside():
    mean, covariance = np.array([1.0, 2.0, -1.0]), np.array([[2.0, 1.0, 0.0], [1.0, 0.5, 0.0], [0.0, 0.0, 0.3]])
    fn = built(mean, covariance)
    along = np.array([2.0, 1.0, 0.0])
    points = mean + np.array([[0.0], [0.7], [-1.3]]) * along + np.array([[0.2], [0.0], [0.9]]) * [0.0, 0.0, 1.0]
    want = multivariate_normal(mean, covariance, allow_singular=True).logpdf(points)
    assert fn.log_prob(torch.as_tensor(points)).numpy() == pytest.approx(want, abs=1e-9)
    off = torch.as_tensor(points) + torch.tensor([0.1, -0.2, 0.0]).double()
    assert (fn.log_prob(off) == -math.inf).all()
    drawn = fn.sample((50_000,))
    assert drawn.mean(0).numpy() == pytest.approx(mean, abs=0.03)
    assert drawn.T.cov().numpy() == pytest.approx(covariance, abs=0.05)
    assert torch.isfinite(fn.log_prob(drawn)).all()
    assert fn.expand((4,)).sample().shape == (4, 3)
    assert fn.variance.tolist() == [2.0, 0.5, 0.3]


def test_gradients_pass_to_the_mean_of_a_singular_one():
    mean = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    ones = torch.ones(2, 2).double()
    (gradient,) = torch.autograd.grad(gaussian(mean, ones, covariance_root(ones)).rsample((5,)).sum(), mean)
    assert gradient.tolist() == [5.0, 5.0]


def test_chains_that_have_ended_stay_and_others_move():
    state = torch.tensor([[1.0], [2.0]]).double()
    moves = dist.Uniform(state + 10, state + 11).to_event(1)  # whose support does not hold the states themselves
    fn = Staying(moves, state, torch.tensor([True, False]))
    before = torch.get_rng_state()
    scores = fn.log_prob(torch.tensor([[1.0], [12.5]]).double())
    assert torch.equal(before, torch.get_rng_state())
    assert scores.tolist() == [0.0, 0.0]
    assert fn.log_prob(torch.tensor([[1.5], [12.5]]).double())[0] == -math.inf
    drawn = fn.sample()
    assert drawn[0] == 1.0
    assert 12 <= float(drawn[1]) <= 13
    assert fn.expand((3, 2)).rsample().shape == (3, 2, 1)


def test_what_cannot_be_made_double_says_so():
    class Odd(dist.Normal):
        def __init__(self, mean):
            super().__init__(mean, 1.0)

    with pytest.raises(ValueError, match=r"initial is a Odd in torch.float32; models compute in float64"):
        in_double(Odd(torch.zeros(2)), "initial")
