"""Linear-Gaussian models on another device and in float32: the same answers, where and how they were asked for."""

import math

import pytest
import torch
from elsewhere import DEVICE, Elsewhere, MixedDevices, elsewhere
from gaussian_models import integrator, random_model

import cai
from cai.inference import InferenceError, Status
from cai.models import Flat, LinearGaussianModel, LinearNormal, QuadraticReward, double_integrator, lqg, pendulum

BACKENDS = ("exact", "variational", "risk:eta=-0.05", "max-product")
SINGLE = 2e-5  # relative rounding of float32 is 6e-8, times what ten steps of messages make of it
NUMBERS = ("log_evidence", "elbo", "believed_return", "luck", "policy_divergence", "policy_entropy")


def everything(answer):
    """All numbers of an answer in float64 on the CPU, by name."""
    found = {name: answer.number(name) for name in NUMBERS}
    found |= {f"gain {t}": answer.gain(t) for t in (0, answer.steps - 1)}
    found |= {
        "offset": answer.offset(0),
        "mean": answer.marginal("s_3").mean,
        "spread": answer.marginal("a_2").covariance,
    }
    found |= {f"dynamics {i}": part for i, part in enumerate(answer.dynamics(1))}
    if answer.messages is not None:
        states, actions = torch.ones(3, answer.problem.num_states), torch.ones(3, answer.problem.num_actions)
        found |= {"value": answer.value(states, 1), "q": answer.q_value(states, actions, 1)}
    return {name: part for name, part in found.items() if part is not None}


def assert_same(moved, original, tolerance):
    there, here = everything(moved), everything(original)
    assert there.keys() == here.keys()
    for name, value in here.items():
        size = max(1.0, float(value.abs().max()))
        assert float((there[name].cpu().double() - value).abs().max()) <= tolerance * size, name


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_float32_answers_are_those_of_float64(backend, flat):
    model = integrator(action_prior=Flat()) if flat else integrator()
    moved = model.to(dtype=torch.float32)
    assert moved.dtype == torch.float32
    assert moved.host is model
    answer = cai.infer(moved, backend)
    assert answer.gain(0).dtype == torch.float32
    assert_same(answer, cai.infer(model, backend), SINGLE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_answers_on_another_device_do_not_leave_it(backend):
    _, model = random_model(3)
    if backend.startswith("risk"):
        model = double_integrator()
    expected = cai.infer(model, backend)
    with elsewhere() as device:
        moved = model.to(device)
        assert moved.device == DEVICE
        answer = cai.infer(moved, backend)
        assert isinstance(answer.gain(0), Elsewhere)
        assert answer.gain(0).device == DEVICE
        there, here = everything_there(answer, device), everything(expected)
        assert there.keys() == here.keys()
        for name, value in here.items():
            assert torch.allclose(there[name].cpu(), value, rtol=1e-9, atol=1e-9), name


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(("backend", "least"), [("exact", 1.0), ("variational", 1.0), ("variational", -0.125)])
def test_answers_in_square_roots_do_not_leave_their_device(backend, least, flat):
    """Costs 2^30 apart: passed in roots where they are squares, and else judged by what they may have lost."""
    moves = torch.tensor([[1.0, 0.25], [0.0, 1.0]]), torch.eye(2), 0.25 * torch.eye(2)
    reward = QuadraticReward(torch.diag(torch.tensor([least, 1.0])), torch.eye(2), final=(2.0**30 * torch.eye(2),))
    parts = {"initial": (torch.ones(2), torch.eye(2)), "horizon": 4, "reward": reward}
    model = LinearGaussianModel(*moves, **parts, action_prior=Flat() if flat else LinearNormal(L=torch.eye(2)))
    expected = everything(cai.infer(model, backend))
    with elsewhere() as device:
        there = everything_there(cai.infer(model.to(device), backend), device)
        for name, value in expected.items():
            assert torch.allclose(there[name].cpu(), value, rtol=1e-9, atol=1e-9), name


def everything_there(answer, device):
    found = everything(answer)
    assert all(part.device == device for part in found.values())
    return found


def test_what_draws_and_searches_reads_the_original(tmp_path):
    model = double_integrator(horizon=5)
    moved = model.to(dtype=torch.float32)
    for backend in ("exact", "ilqr"):
        outcome = cai.evaluate(cai.infer(moved, backend).policy(), moved, num_rollouts=4)
        expected = cai.evaluate(cai.infer(model, backend).policy(), model, num_rollouts=4)
        assert outcome.expected_return == pytest.approx(expected.expected_return, rel=1e-5)
    assert cai.infer(moved, "ilqr").gain(0).dtype == torch.float64
    particles = [cai.infer(one, "smc", num_particles=20, throw=False).log_evidence for one in (moved, model)]
    assert particles[0] == particles[1]
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert torch.equal(moved.reset(3, generators[0]), model.reset(3, generators[1]))
    table = cai.compare(moved, ["exact", "variational"], num_rollouts=4)
    assert all(row.status.ok for row in table.rows)
    moved.save(tmp_path / "model")
    assert torch.equal(cai.load(tmp_path / "model").B, model.B)
    assert torch.equal(moved.replace(temperature=2.0).host.B, model.B)
    assert moved.replace(temperature=2.0).dtype == torch.float32
    assert moved.to(dtype=torch.float64) is model
    assert moved.to(dtype=torch.float32) is moved
    endless = double_integrator(horizon=math.inf, discount=0.9)
    assert cai.infer(endless.to(dtype=torch.float32), "variational").elbo == cai.infer(endless, "variational").elbo


def test_batches_move_and_members_with_them():
    batch = integrator(noise=0.01 * torch.eye(2).double()[None, None] * torch.tensor([1.0, 2.0])[:, None, None, None])
    moved = batch.to(dtype=torch.float32)
    assert torch.allclose(cai.infer(moved).elbo.double(), cai.infer(batch).elbo, rtol=1e-5)
    assert moved.member(1).dtype == torch.float32
    assert torch.equal(moved.member(1).host.noise, batch.member(1).noise)


def test_a_breakdown_in_float32_names_the_same_dial():
    for change in ({}, {"dtype": torch.float32}):
        with pytest.raises(InferenceError) as caught:
            cai.infer(integrator().to(**change), "risk", eta=-500)
        assert caught.value.posterior.status is Status.INFINITE
        assert caught.value.posterior.details["eta_crit"] == pytest.approx(-0.458, abs=1e-3)


def test_a_model_of_functions_and_strange_places_are_refused():
    assert pendulum().to("cpu").dtype == torch.float64
    with pytest.raises(ValueError, match="made of functions"):
        pendulum().to(dtype=torch.float32)
    with pytest.raises(ValueError, match=r"torch\.float64, or torch\.float32"):
        lqg().to(dtype=torch.float16)
    with pytest.raises(ValueError, match="holds numbers beyond"):
        integrator(initial=([1e300, 0.0], torch.eye(2).double())).to(dtype=torch.float32)
    with elsewhere() as device, pytest.raises(MixedDevices):
        _ = lqg().A @ lqg().to(device).A
