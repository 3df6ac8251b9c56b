"""Answers to models in float32: what float64 answers can do, they can, and they say nearly the same."""

import pytest
import torch
from methods import ALL, SAMPLED

import cai
from cai.inference.registry import make_backend
from cai.models import MDP, TrajectoryModel

DENSE = MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [1.0, 0.0])
LISTED = MDP.from_successors([[[0, 1], [1, 0]], [[1, 1], [1, 0]]], [[[0.7, 0.3], [1.0, 0.0]]] * 2, [0.4, 0.6])


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("process", [DENSE, LISTED], ids=["dense", "listed"])
@pytest.mark.parametrize("name", sorted({method.backend.name for method in ALL + SAMPLED}))
def test_everything_an_answer_can_do(name, process, discount):
    model = TrajectoryModel(process, [1.0, 0.0], horizon=3, discount=discount)
    try:
        make_backend(name).supports(model)
    except ValueError:
        pytest.skip("not for this problem")
    want, answer = (cai.infer(asked, name, throw=False) for asked in (model, model.to(dtype=torch.float32)))
    assert answer.status == want.status
    states, actions = answer.sample(50)
    assert bool(torch.isfinite(answer.log_prob(states, actions)).all())
    for kind in ("stochastic", "greedy", "plan"):
        policy = cai.extract_policy(answer, kind)
        cai.evaluate(policy, model.to(dtype=torch.float32), num_rollouts=20)
        cai.evaluate(policy, model, num_rollouts=20)
    lost = [float((answer.marginal(site) - want.marginal(site)).abs().max()) for site in answer.sites if discount == 1]
    assert name in ("smc", "importance") or all(part < 1e-4 for part in lost)
    if name not in ("smc", "importance"):  # of these the draws may differ
        assert float(answer.believed_return) == pytest.approx(float(want.believed_return), abs=1e-4)


@pytest.mark.parametrize("discount", [1 - 1e-9, 1 - 1e-4])
@pytest.mark.parametrize("backend", ["exact", "variational", "risk:eta=0.5", "value-iteration", "enumeration"])
def test_a_discount_that_float32_does_not_hold_still_ends_chains(backend, discount):
    """1 - 1e-9 is 1 in float32; to fall is the cheapest way out of what costs 30 nats."""
    horizon = 3 if backend == "enumeration" else float("inf")
    model = TrajectoryModel(MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [1.0, 0.0]), [-1.0, -30.0], horizon, discount=discount)
    want, answer = (cai.infer(asked, backend) for asked in (model, model.to(dtype=torch.float32)))
    for name in ("believed_return", "luck", "policy_divergence"):
        assert float(getattr(answer, name)) == pytest.approx(float(getattr(want, name)), rel=2e-6, abs=2e-6), name
    torch.testing.assert_close(answer.absorbed, want.absorbed, check_dtype=False, rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize("backend", ["exact", "variational", "value-iteration", "boltzmann", "risk:eta=0.5"])
def test_numbers_that_float32_does_not_hold_are_out_of_range(backend):
    """At a temperature of 1e-100 rewards over it were 0 / 0, with success."""
    for unit in (1e-100, 1e-35, 1e100):
        plain = TrajectoryModel(
            LISTED, [-1.0 * unit, -2.0 * unit], horizon=float("inf"), discount=0.9, temperature=unit
        )
        assert cai.infer(plain, backend).status.ok
        answer = cai.infer(plain.to(dtype=torch.float32), backend, throw=False)
        assert answer.status is cai.inference.Status.OUT_OF_RANGE
        assert "in float32" in answer.details["why"]
