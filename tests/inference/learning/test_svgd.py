"""Stein variational gradient descent: directions by their definition, and networks that draw from their target."""

import math

import pytest
import torch

from cai.inference.learning import amortized_svgd
from cai.inference.learning.svgd import stein_direction


def test_directions_are_those_of_the_definition():
    generator = torch.Generator().manual_seed(0)
    sets = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    scores = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    found = stein_direction(sets, scores)
    for particles, slopes, directions in zip(sets, scores, found, strict=True):
        squared = [float((a - b).square().sum()) for i, a in enumerate(particles) for b in particles[:i]]
        width = sorted(squared)[(len(squared) - 1) // 2] / math.log(5)
        for i, here in enumerate(particles):
            total = torch.zeros(3).double()
            for j, other in enumerate(particles):
                if j != i:
                    leaf = other.clone().requires_grad_()
                    kernel = torch.exp(-(leaf - here).square().sum() / width)
                    total += kernel.detach() * slopes[j] + torch.autograd.grad(kernel, leaf)[0]
            assert torch.allclose(directions[i], total / 4, atol=1e-12)


def test_draws_repeat_and_fill_the_box():
    before = torch.get_rng_state()
    draws = [amortized_svgd(lambda a: -a.square().sum(-1), 2, steps=3, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = (draw(50, generator=torch.Generator().manual_seed(7)) for draw in draws)
    assert first.shape == (50, 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.abs().max()) <= 1
    assert not first.requires_grad


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(3))
def test_without_a_preference_actions_are_uniform(seed):
    """The variance of a uniform action is 1/3; particles that attract themselves, or live in action space, miss it."""
    draw = amortized_svgd(lambda a: torch.zeros(len(a)).double(), 1, seed=seed)
    variance = float(draw(20_000, generator=torch.Generator().manual_seed(1)).var())
    assert abs(variance - 1 / 3) < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"temperature": 0.0}, "temperature"),
        ({"num_particles": 1}, "num_particles"),
        ({"action_dim": 0}, "action_dim"),
        ({"q_function": lambda a: a}, r"expected \[512\]"),
        ({"q_function": lambda a: a.sum(-1) * math.nan}, "NaN or inf"),
    ],
)
def test_what_cannot_be_drawn_from_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        amortized_svgd(**{"q_function": lambda a: a.sum(-1), "action_dim": 2, "steps": 1, **options})
