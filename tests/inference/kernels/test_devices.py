"""Answers on another device and in float32, by the same code; a GPU is asked where there is one."""

import math

import pytest
import torch
from campaigns import over_seeds
from elsewhere import elsewhere
from oracle import random_problem
from torch.autograd import gradcheck, gradgradcheck

import cai
from cai.inference.kernels import tables
from cai.models import MDP, TrajectoryModel

NUMBERS = (
    "log_evidence",
    "elbo",
    "values",
    "q_values",
    "action_probs",
    "state_marginals",
    "absorbed",
    "believed_return",
    "luck",
    "policy_divergence",
    "policy_entropy",
)
BACKENDS = ("exact", "variational")


def problem(seed):
    return random_problem(seed, discount=0.8 if seed % 2 else None).model


def agree(found, expected, tolerance):
    """Equal, infinities included, within the tolerance relative to the size of a number above 1."""
    for name in NUMBERS:
        left, right = getattr(found, name), getattr(expected, name)
        assert (left is None) == (right is None), name
        if left is not None:
            left = left.cpu().double()
            close = (left == right) | ((left - right).abs() <= tolerance * right.abs().clamp(min=1))
            assert close.all(), (name, left, right)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("keep", ["values", "evidence"])
def test_float32_stays_float32(backend, keep):
    """Sums of ten steps of numbers up to 10 in float32 leave four digits."""
    for seed in range(8):
        model = problem(seed)
        found = cai.infer(model.to(dtype=torch.float32), backend, keep=keep, throw=False)
        assert found.values.dtype is torch.float32
        agree(found, cai.infer(model, backend, throw=False), 2e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_mixes_devices(backend, monkeypatch):
    """The stand-in for a device has no sparse layouts, so that sums are made by an index."""
    monkeypatch.setattr(tables, "has_sparse_products", lambda device: False)
    asked = 0
    for seed in range(12):
        model = problem(seed)
        for keep in ("values", "evidence"):
            with elsewhere() as device:
                found = cai.infer(model.to(device), backend, keep=keep, throw=False)
                assert found.details["kernel"] == "torch"
                found = found.replace(**{name: getattr(found, name) for name in NUMBERS})
                found = found.replace(
                    **{name: table.cpu() for name in NUMBERS if (table := getattr(found, name)) is not None}
                )
            agree(found, cai.infer(model, backend, throw=False), 1e-9)
            asked += 1
    assert asked >= 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("backend", BACKENDS)
@over_seeds(range(12), quick=4)
def test_a_gpu_says_the_same(backend, seeds):
    for seed in seeds:
        model = problem(seed)
        for keep in ("values", "evidence"):
            found = cai.infer(model.to("cuda"), backend, keep=keep, throw=False)
            assert found.values.is_cuda
            agree(found, cai.infer(model, backend, throw=False), 1e-9)


def test_gradients_pass_the_change_of_dtype():
    reward = torch.tensor([0.0, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    mdp = MDP([[[0.5, 0.5, 0.0]] * 2, [[0.0, 0.5, 0.5]] * 2, [[0.2, 0.3, 0.5]] * 2], [1.0, 0.0, 0.0])
    model = TrajectoryModel(mdp, reward, horizon=5)
    (exact,) = torch.autograd.grad(cai.infer(model, "exact").log_evidence, reward)
    (rounded,) = torch.autograd.grad(cai.infer(model.to(dtype=torch.float32), "exact").log_evidence, reward)
    assert rounded.dtype is torch.float64
    assert torch.allclose(exact, rounded, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("keep", ["values", "evidence"])
def test_gradients_reach_the_temperature(backend, keep):
    checked = 0
    for seed in range(6):
        model = problem(seed)

        def bound(temperature, model=model):
            return cai.infer(model.replace(temperature=temperature), backend, keep=keep).elbo

        def values(temperature, model=model):
            found = cai.infer(model.replace(temperature=temperature), backend, keep=keep).values
            return found[torch.isfinite(found)].sum()

        temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        if not cai.infer(model, backend, throw=False).status.ok:
            continue
        assert gradcheck(bound, (temperature,))
        assert gradgradcheck(bound, (temperature,))
        assert gradcheck(values, (temperature,))
        checked += 1
    assert checked >= 3


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_a_tensor_is_checked(temperature):
    mdp = MDP([[[1.0]]], [1.0])
    with pytest.raises(ValueError, match="temperature is"):
        TrajectoryModel(mdp, [0.0], horizon=2, temperature=torch.tensor(temperature, requires_grad=True))
    with pytest.raises(ValueError, match="temperature is"):
        TrajectoryModel(mdp, [0.0], horizon=2, temperature=torch.ones(2))
