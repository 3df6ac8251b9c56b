"""Where model and policy are linear-Gaussian no rollout is needed, and none is made where none is asked for."""

import math

import pytest
import torch

from cai import evaluate, extract_policy, infer
from cai.models import bridge, double_integrator, pendulum


def test_exact_moments_need_no_rollouts():
    model = double_integrator()
    policy = extract_policy(infer(model, "variational"))
    whole, bare = evaluate(policy, model, num_rollouts=50), evaluate(policy, model, num_rollouts=0)
    assert bare.expected_return == whole.expected_return
    assert bare.entropy == whole.entropy
    assert bare.is_exact
    assert len(bare.returns) == 0
    assert all(math.isnan(number) for number in (bare.std, bare.cvar, bare.standard_error))
    with pytest.raises(ValueError, match=r"known from rollouts alone: give at least 2"):
        evaluate(RandomPolicy(), pendulum(), num_rollouts=0)
    with pytest.raises(ValueError, match=r"num_rollouts is 0; a spread needs at least 2"):
        evaluate(extract_policy(infer(bridge(), "exact")), bridge(), num_rollouts=0)


class RandomPolicy:
    """Pushes at random."""

    horizon = math.inf

    def act(self, states, t, generator=None):
        return torch.randn(len(states), 1, generator=generator, dtype=torch.float64)
