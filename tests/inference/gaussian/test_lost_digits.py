"""Noise that outweighs rewards by many orders: an answer whose accounts add up, or a status."""

import numpy as np
import pytest

import cai
from cai.inference import Status
from cai.models import LinearGaussianModel, LinearNormal, QuadraticReward


@pytest.mark.parametrize("name", ["exact", "risk:eta=0.5", "max-product"])
@pytest.mark.parametrize("size", [1.0, 1e6, 1e10, 1e12])
def test_accounts_add_up_or_there_is_a_status(name, size):
    seen = set()
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
        answer = cai.infer(model, name, throw=False)
        seen.add(answer.status)
        if answer.status is not Status.SUCCESS:
            assert "digits were lost" in answer.details["why"]
            assert answer.elbo is None
            continue
        if name == "max-product":  # a certainty among densities has no bound
            continue
        parts = [float(answer.believed_return), float(answer.policy_divergence), float(answer.luck)]
        gap = abs(parts[0] - parts[1] - parts[2] - float(answer.elbo))
        assert gap <= 1e-9 * max(map(abs, parts)), (seed, gap, parts)
    if size == 1:
        assert seen == {Status.SUCCESS}
    if size >= 1e10:
        assert Status.OUT_OF_RANGE in seen
