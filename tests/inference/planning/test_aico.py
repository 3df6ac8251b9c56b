"""Approximate inference control: exact where the world is linear, and honest where the beliefs do not stand still."""

import pyro
import pytest
import torch
from gaussian_oracle import conditioned, random_numbers
from planning_problems import as_model, planning_model

import cai
from cai.inference import ApproximateInference, InferenceError
from cai.inference.core.status import Status
from cai.models import ContinuousModel, LinearNormal

NUMBERS = ("log_evidence", "elbo", "believed_return", "luck", "policy_divergence", "policy_entropy")


@pytest.mark.parametrize("seed", range(4))
def test_on_a_linear_model_it_is_the_exact_answer(seed):
    numbers = random_numbers(seed, flat=seed % 2 == 1)
    found, expected = cai.infer(as_model(numbers), "aico"), cai.infer(as_model(numbers), "exact")
    assert len(found.details["changes"]) == 2
    for name in NUMBERS:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-9, msg=name)
    truth = conditioned(numbers)
    assert float(found.log_evidence) == pytest.approx(truth.log_evidence, abs=1e-8)
    for t in range(len(numbers.A)):
        mean, covariance = truth.moments(("s", t))
        site = found.marginal(f"s_{t + 1}")
        torch.testing.assert_close(site.mean, torch.as_tensor(mean), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(site.covariance, torch.as_tensor(covariance), rtol=1e-7, atol=1e-7)


def test_noise_is_believed_to_be_kind():
    """With noise the exact target bends the dynamics, and the regulator does not."""

    def dynamics(s, a, t):
        return pyro.distributions.Normal(s + 0.3 * torch.sin(s) + a, 0.5).to_event(1)

    def reward(s, a, t):
        return -((s[..., 0] - 2) ** 2)

    model = ContinuousModel(torch.zeros(1).double(), dynamics, reward, 5, LinearNormal(L=[[0.1]]))
    found = cai.infer(model, "aico")
    _, _, offset, noise = found.dynamics(2)
    assert float(noise) < 0.25
    held = cai.infer(model, "ilqr").dynamics(2)
    assert float(held.covariance) == pytest.approx(0.25)
    assert float(found.marginal("s_4").mean) > float(cai.infer(model, "ilqr").marginal("s_4").mean)
    for t in range(6):
        torch.testing.assert_close(found.marginal(f"s_{t + 1}").mean, found.plan.states[t], rtol=1e-5, atol=1e-5)
    assert (found.log_evidence, found.luck, found.believed_return) == (None, None, None)
    assert offset.shape == (1,)


def test_beliefs_that_stand_still_are_an_optimum_of_a_certain_world():
    found = cai.infer(planning_model("dubins"), "aico")
    optima = (0.9739, 1.3287, 5.0191)
    assert min(abs(found.details["cost"] - optimum) for optimum in optima) < 1e-3
    assert found.details["changes"][-1] <= 1e-6


def test_beliefs_that_do_not_stand_still_are_not_converged():
    with pytest.raises(InferenceError, match="not converged") as caught:
        cai.infer(planning_model("pendulum", horizon=60), "aico", max_iterations=15)
    answer = caught.value.posterior
    assert answer.status is Status.NOT_CONVERGED
    assert len(answer.details["changes"]) == 15
    assert answer.policy().act(torch.zeros(2), 0).shape == (1,)


def test_a_warm_start_lets_it_stand_still():
    model = planning_model("pendulum", horizon=12)
    warm = cai.infer(model, "ilqr", restarts=2)
    found = cai.infer(model, "aico", warm_start=warm)
    assert found.details["cost"] == pytest.approx(warm.details["cost"], rel=1e-3)


def test_numbers_that_overflow_are_not_converged_with_their_step():
    model = planning_model("pendulum", horizon=30).replace(dynamics=lambda s, a, t: s * 1e30 + 1)
    answer = cai.infer(model, "aico", throw=False)
    assert answer.status is Status.NOT_CONVERGED
    assert 0 < answer.details["step"] < 30


def test_a_run_that_was_cut_off_ends_with_the_same_bits(tmp_path):
    model = planning_model("dubins", horizon=12)
    whole = cai.infer(model, "aico", seed=5)
    cai.infer(model, "aico", seed=5, folder=tmp_path / "run", max_seconds=0.0, throw=False)
    assert torch.equal(cai.resume(tmp_path / "run", model=model).plan.actions, whole.plan.actions)


def test_a_discount_is_refused_with_what_fits():
    with pytest.raises(
        ValueError, match=r"the discount 0.5 brings is no Gaussian; leave the discount out, or ask 'ilqr'"
    ):
        cai.infer(planning_model("dubins", discount=0.5), "aico")
    with pytest.raises(ValueError, match="tolerance is -1; expected a number >= 0"):
        ApproximateInference(tolerance=-1)
    with pytest.raises(ValueError, match="max_iterations is 0; give a whole number of at least 1"):
        ApproximateInference(max_iterations=0)
