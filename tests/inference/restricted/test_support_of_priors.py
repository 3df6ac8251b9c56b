"""Policies whose actions the action prior rules out."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import cai
from cai.inference import LinearGaussianPolicy
from cai.models import ContinuousModel


class Wide(nn.Module):
    """Within the box at the start, beyond it later."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(1).double())

    def forward(self, states, t):
        return dist.Normal(self.mean.expand(len(states), 1), 1e-3 if t == 0 else 5.0).to_event(1)


@pytest.mark.parametrize("policy", [LinearGaussianPolicy(), Wide()])
def test_policies_beyond_the_support_of_the_prior_are_refused_in_words(policy):
    """Where distributions validate what they are asked for, as they do unless told otherwise."""
    model = ContinuousModel(
        torch.zeros(1).double(),
        lambda s, a, t: s + a,
        lambda s, a, t: -s.square().sum(-1),
        3,
        lambda s, t: dist.Uniform(-torch.ones_like(s), torch.ones_like(s)).to_event(1),
    )
    with pyro.validation_enabled(True), pytest.raises(ValueError, match="outside the support of the action prior"):
        cai.infer(model, "restricted", policy=policy, max_iterations=3)
