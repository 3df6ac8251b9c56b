"""Noise or ends that outweigh all else by many orders: answers whose accounts add up, and keep their digits."""

from fractions import Fraction

import numpy as np
import pytest

import cai
from cai.models import Flat, LinearGaussianModel, LinearNormal, QuadraticReward


@pytest.mark.parametrize("name", ["exact", "risk:eta=0.5", "max-product"])
@pytest.mark.parametrize("size", [1.0, 1e6, 1e10, 1e12])
def test_accounts_add_up(name, size):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        ray = rng.normal(size=(2, 1))
        model = LinearGaussianModel(
            np.eye(2) + 0.4 * rng.normal(size=(2, 2)),
            rng.normal(size=(2, 1)),
            noise=size * ray @ ray.T,
            initial=(rng.normal(size=2), size * ray @ ray.T),
            horizon=5,
            reward=QuadraticReward(np.eye(2), np.eye(1), r=[0.3]),
            action_prior=LinearNormal(rng.normal(size=(1, 2)), [0.1], [[0.7]]),
        )
        answer = cai.infer(model, name)
        if name == "max-product":  # a certainty among densities has no bound
            continue
        parts = [float(answer.believed_return), float(answer.policy_divergence), float(answer.luck)]
        gap = abs(parts[0] - parts[1] - parts[2] - float(answer.elbo))
        assert gap <= 1e-12 * max(map(abs, parts)), (seed, gap, parts)


@pytest.mark.parametrize("weight", [2.0**20, 2.0**34, 2.0**47])
@pytest.mark.parametrize("flat", [True, False])
def test_an_end_that_weighs_much_costs_no_digits(weight, flat):
    """Riccati's recursion in fractions: a cost of the end that is all but a constraint."""
    added = Fraction(0) if flat else Fraction(1, 4)  # alpha / L
    P, p, gains, offsets = Fraction(weight), Fraction(-weight) / 4, [], []
    for _ in range(3):
        H, across = 1 + added + P, P / 2
        gains.append(-across / H)
        offsets.append(-(p + Fraction(1, 8)) / H)
        P, p = 2 + P / 4 - across * across / H, p / 2 + across * offsets[-1]
    reward = QuadraticReward([[2.0]], [[1.0]], r=[0.125], final=([[weight]], [-weight / 4]))
    model = LinearGaussianModel(
        [[0.5]],
        [[1.0]],
        initial=([1.0], [[0.0]]),
        horizon=3,
        reward=reward,
        action_prior=Flat() if flat else LinearNormal(L=[[4.0]]),
    )
    for name in ("variational", "exact"):
        answer = cai.infer(model, name)
        first = answer.message(0)
        assert float(first.P) == pytest.approx(float(P), rel=1e-14)
        assert float(first.p) == pytest.approx(float(p), rel=1e-14)
        for t, (gain, offset) in enumerate(zip(gains[::-1], offsets[::-1], strict=True)):
            assert float(answer.gain(t)) == pytest.approx(float(gain), rel=1e-14)
            assert float(answer.offset(t)) == pytest.approx(float(offset), rel=1e-14)
        paid = float(answer.believed_return - answer.policy_divergence)
        assert paid == pytest.approx(float(answer.elbo), rel=1e-14 * max(1.0, weight / 32))


@pytest.mark.parametrize("far", [2.0**10, 2.0**30])
def test_a_mean_that_is_drawn_far_costs_no_digits(far):
    """The end is known to 2^-15 and lies 3 `far` away from where a vague start would have it."""
    noise, weight = 0.3 * far**2, 0.7 * 2.0**30
    model = LinearGaussianModel(
        [[1.0]],
        [[0.0]],
        initial=([3 * far], [[noise]]),
        horizon=1,
        reward=QuadraticReward(final=([[weight]], [-weight / 4])),
        action_prior=LinearNormal(L=[[1.0]]),
    )
    found = cai.infer(model, "exact").initial
    total = 1 + Fraction(noise) * Fraction(weight)
    want = (3 * Fraction(far) + Fraction(noise) * Fraction(weight) / 4) / total
    assert abs(float(Fraction(float(found.mean)) - want)) < 1e-15
    assert float(found.covariance) == pytest.approx(float(Fraction(noise) / total), rel=1e-14)
