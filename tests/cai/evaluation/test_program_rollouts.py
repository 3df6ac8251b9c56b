"""Policies in trajectory programs: rollouts against closed forms and exact evaluations; what is refused."""

import math
from statistics import NormalDist

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from example_programs import persistent
from gaussian_programs import gaussian
from methods import FAILURE_RATE

import cai
from cai.inference import SequentialMonteCarlo
from cai.models import bridge
from cai.policies import ParticlePolicy

LIMIT = -NormalDist().inv_cdf(FAILURE_RATE / 2)


def test_a_particle_policy_earns_what_a_loop_without_pyro_says():
    policy = cai.extract_policy(cai.infer(gaussian(3), SequentialMonteCarlo(2000), seed=1))
    assert isinstance(policy, ParticlePolicy)
    found = cai.evaluate(policy, gaussian(3), num_rollouts=4000, seed=2)
    generator = torch.Generator().manual_seed(5)
    state, total = 0.5 + torch.randn(4000, generator=generator), torch.zeros(4000)
    for t in range(3):
        action = policy.act(state, t, generator=generator)
        state = state + action + 0.3 * torch.randn(4000, generator=generator)
        total = total - 0.4 * state**2 - 0.2 * action**2
    error = math.hypot(found.standard_error, float(total.std()) / math.sqrt(4000))
    assert abs(found.expected_return - float(total.mean())) < LIMIT * error
    assert found.standard_error == pytest.approx(float(found.returns.std()) / math.sqrt(4000))
    assert found.cvar < found.expected_return


def test_a_policy_beats_the_prior_it_was_conditioned_from():
    policy = cai.extract_policy(cai.infer(gaussian(4), SequentialMonteCarlo(3000)))
    prior = cai.extract_policy(cai.infer(gaussian(4, price=0.0, cost=0.0), SequentialMonteCarlo(3000)))
    better, worse = (cai.evaluate(one, gaussian(4), seed=3) for one in (policy, prior))
    assert better.expected_return > worse.expected_return + LIMIT * math.hypot(
        better.standard_error, worse.standard_error
    )


def test_a_table_in_a_model_s_own_program_earns_its_exact_return():
    model = bridge(horizon=6)
    policy = cai.extract_policy(cai.infer(model, "variational"))
    exact = cai.evaluate(policy, model)
    found = cai.evaluate(policy, lambda: model(), num_rollouts=4000, seed=4)
    want = exact.expected_return / model.temperature
    assert abs(found.expected_return - want) < LIMIT * found.standard_error


def test_further_latents_and_late_states():
    """A program's further latents are drawn, not conditioned."""
    policy = cai.extract_policy(cai.infer(persistent(3), "enumeration"))
    first, second = (cai.evaluate(policy, persistent(3), seed=1) for _ in range(2))
    assert torch.equal(first.returns, second.returns)
    assert not torch.equal(first.returns, cai.evaluate(policy, persistent(3), seed=2).returns)


def test_the_global_random_state_is_left_alone():
    policy = cai.extract_policy(cai.infer(gaussian(2), SequentialMonteCarlo(200)))
    before = torch.random.get_rng_state()
    cai.evaluate(policy, gaussian(2))
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_is_forbidden_is_minus_infinity():
    def program():
        state = pyro.sample("s_1", dist.Categorical(torch.tensor([0.5, 0.5])))
        action = pyro.sample("a_1", dist.Categorical(torch.tensor([0.5, 0.5])))
        pyro.factor("O_1", torch.where(action == state, 0.0, -math.inf))

    found = cai.evaluate(cai.Policy([[0.5, 0.5], [0.5, 0.5]]), program)
    assert found.expected_return == -math.inf
    assert found.standard_error == math.inf
    assert np.isneginf(found.cvar)


POLICY = cai.Policy(np.full((2, 2, 2), 0.5))


@pytest.mark.parametrize(
    ("policy", "program", "options", "error", "pattern"),
    [
        (POLICY, gaussian(2), {}, ValueError, r"2 states and 2 actions.*'s_1' is continuous"),
        (POLICY, persistent(3), {}, ValueError, r"knows 2 steps, the program has 3"),
        (POLICY, persistent(2), {}, ValueError, r"2 states and 2 actions of the program; it has 3 and 2"),
        (lambda state: 0, gaussian(2), {}, TypeError, r"function does not act"),
        (POLICY, persistent(2), {"regions": {"left": [0]}}, ValueError, r"no regions"),
        (POLICY, 3, {}, TypeError, r"TrajectoryModel.*or a program; got int"),
        (POLICY, gaussian(2), {"num_rollouts": 1}, ValueError, r"at least 2"),
    ],
)
def test_what_does_not_fit_is_refused(policy, program, options, error, pattern):
    with pytest.raises(error, match=pattern):
        cai.evaluate(policy, program, **options)
