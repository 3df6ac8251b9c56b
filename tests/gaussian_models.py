"""Linear-Gaussian models for tests: a double integrator, and the random problems of the oracle as models."""

import torch
from gaussian_oracle import random_numbers

from cai.models import Flat, LinearGaussianModel, LinearNormal, QuadraticReward


def integrator(**changes):
    """A point with noise that is to come to rest at the origin."""
    one, two = torch.eye(1, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    parts = {
        "A": [[1.0, 0.1], [0.0, 1.0]],
        "B": [[0.0], [0.1]],
        "noise": 0.01 * two,
        "initial": (torch.tensor([1.0, 0.0]), 0.1 * two),
        "horizon": 10,
        "temperature": 2.0,
        "reward": QuadraticReward(Q=two, R=0.1 * one, final=(10 * two,)),
        "action_prior": LinearNormal(L=one),
    }
    return LinearGaussianModel(**parts | changes)


def as_model(numbers, **changes):
    """A random problem of the oracle as a model."""
    n = len(numbers.m1)
    C, g = torch.as_tensor(numbers.C), torch.as_tensor(numbers.g)
    reward = QuadraticReward(
        Q=C[:, :n, :n],
        R=C[:, n:, n:],
        N=C[:, :n, n:],
        q=g[:, :n],
        r=g[:, n:],
        const=numbers.const,
        final=(numbers.Qf, numbers.qf, numbers.constf),
    )
    parts = {
        "A": numbers.A,
        "B": numbers.B,
        "noise": numbers.W,
        "offset": numbers.c,
        "initial": (numbers.m1, numbers.S1),
        "horizon": len(numbers.A),
        "temperature": numbers.alpha,
        "reward": reward,
        "action_prior": Flat() if numbers.prior is None else LinearNormal(*numbers.prior),
    }
    return LinearGaussianModel(**parts | changes)


def random_model(seed, **options):
    numbers = random_numbers(seed, **options)
    return numbers, as_model(numbers)
