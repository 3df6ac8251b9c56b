"""Batches and matrices over time where a single part of the model has the axis, and all others are constant."""

import pytest
import torch
from gaussian_models import random_model

import cai
from cai.inference import lqg
from cai.models import LinearGaussianModel, LinearNormal, QuadraticReward

T, FACTORS = 3, torch.tensor([1.0, 1.3], dtype=torch.float64)
TIMED = ("A", "B", "noise", "offset", "Q", "R", "N", "q", "r", "const", "K0", "k0", "L")
STARTS = ("mean", "spread", "Qf", "qf", "constf")


def constant_parts():
    """The matrices of a single step, by name."""
    _, model = random_model(3, largest=(2, 2, T))
    step, start, final = model.matrices(0), model.start, model.final
    return step._asdict() | dict(zip(STARTS, (*start, *final), strict=True))


def made(parts):
    costs = QuadraticReward(
        **{name: parts[name] for name in ("Q", "R", "N", "q", "r", "const")},
        final=(parts["Qf"], parts["qf"], parts["constf"]),
    )
    return LinearGaussianModel(
        **{name: parts[name] for name in ("A", "B", "noise", "offset")},
        initial=(parts["mean"], parts["spread"]),
        horizon=T,
        temperature=0.7,
        reward=costs,
        action_prior=LinearNormal(parts["K0"], parts["k0"], parts["L"]),
    )


def numbers(model):
    """Everything that a batch may go wrong in, one row a member."""
    n = model.state_dim
    seen = lqg(model, torch.ones(1, n), observation_noise=[[0.3]])
    found = [seen.elbo, seen.believed_return, cai.infer(model, "restricted").elbo]
    for answer in (cai.infer(model, "exact"), cai.infer(model, "variational")):
        found += [answer.elbo, answer.believed_return, answer.luck, answer.policy_divergence]
        found += [answer.gain(1).sum((-1, -2)), answer.value(torch.ones(n), 1)]
        found += [answer.luck_by_step().sum(-1), answer.policy().mean(torch.ones(n), 2).sum(-1)]
    return torch.stack([part.expand(model.batch_shape) for part in found], -1)


@pytest.mark.parametrize("name", TIMED + STARTS)
def test_a_batch_of_one_part(name):
    parts = constant_parts()
    members = [parts | {name: factor * parts[name]} for factor in FACTORS]
    rows = torch.stack([member[name] for member in members])
    batch = made(parts | {name: rows[:, None] if name in TIMED else rows})
    assert batch.batch_shape == (2,)
    wanted = torch.stack([numbers(made(member)) for member in members])
    torch.testing.assert_close(numbers(batch), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["noise", "N", "K0", "k0", "L"])
def test_one_part_over_time(name):
    """The same numbers as where all parts are written out for every step."""
    parts = constant_parts()
    parts[name] = parts[name].expand(T, *parts[name].shape) * torch.tensor([1.0, 1.3, 0.8])[
        (..., *[None] * parts[name].dim())
    ].to(torch.float64)
    every = {
        other: part if other == name or other in STARTS else part.expand(T, *part.shape)
        for other, part in parts.items()
    }
    torch.testing.assert_close(numbers(made(parts)), numbers(made(every)), rtol=1e-9, atol=1e-9)
