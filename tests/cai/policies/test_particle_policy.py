"""Policies from particles, against a linear-Gaussian program whose posterior policy is known."""

import math
from statistics import NormalDist

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from example_programs import persistent
from gaussian_programs import gaussian, gaussian_posterior
from methods import FAILURE_RATE
from particle_checks import narrow, small
from refusals import check, refuse

import cai
from cai.inference.particles.particles import Particles
from cai.inference.particles.smc import ImportanceSampling, SequentialMonteCarlo
from cai.policies.particle_policy import ParticlePolicy, particle_policy

HORIZON = 3


def walker(bandwidth=None, size=20_000):
    return particle_policy(SequentialMonteCarlo(size, 0.5).run(gaussian(HORIZON), seed=2), bandwidth)


def test_the_mean_action_is_the_gaussian_regression():
    """E[a_t | s_t, O] is linear in s_t with slope cov(s_t, a_t) / var(s_t) under the posterior."""
    mean, covariance = gaussian_posterior(HORIZON)
    policy = walker()
    assert policy.horizon == HORIZON
    for t in range(HORIZON):
        action, deviation = HORIZON + 1 + t, math.sqrt(covariance[t, t])
        slope = covariance[t, action] / covariance[t, t]
        assert abs(slope) > 0.15  # so that a policy which does not look at the state fails
        for away in (-1.0, 0.0, 1.0):
            want = mean[action] + slope * away * deviation
            assert float(policy.mean(mean[t] + away * deviation, t)) == pytest.approx(want, abs=0.08)


def test_samples_have_the_mean_that_is_told():
    policy, count = walker(size=2000), 3000
    generator = torch.Generator().manual_seed(1)
    drawn = torch.stack([policy.sample(0.4, 1, generator=generator) for _ in range(count)]).double()
    limit = -NormalDist().inv_cdf(FAILURE_RATE / 2)
    assert abs(float(drawn.mean() - policy.mean(0.4, 1))) < limit * float(drawn.std()) / math.sqrt(count)
    assert drawn.unique().numel() > 100


def test_bandwidths():
    """A wide kernel does not see the state, a narrow one sees the nearest particle alone, also from far away."""
    posterior = SequentialMonteCarlo(500).run(gaussian(HORIZON))
    particles = posterior.details["particles"]
    everywhere = (particles.weights * particles.actions[:, 1]).sum()
    assert float(particle_policy(posterior, 1e6).mean(0.0, 1)) == pytest.approx(float(everywhere), abs=1e-6)
    narrow_policy = particle_policy(posterior, 1e-9)
    states = torch.where(particles.weights > 0, particles.states[:, 1], torch.full((), torch.inf))
    nearest = (states - 0.3).abs().argmin()
    assert float(narrow_policy.mean(0.3, 1)) == pytest.approx(float(particles.actions[nearest, 1]), abs=1e-6)
    for state in (1e3, -1e30):
        weights = particle_policy(posterior).weights(state, 1)
        assert float(weights.sum()) == pytest.approx(1.0)
    assert not particle_policy(posterior, 1e-200).weights(1e30, 0).isnan().any()


def test_discrete_states_are_not_smoothed():
    posterior = SequentialMonteCarlo(3000).run(persistent(3))
    policy = particle_policy(posterior)
    for t in range(3):
        for state in range(2 if t == 0 else 3):  # nothing starts in state 2
            assert torch.allclose(policy.probs(state, t), posterior.action_probs[t, state], atol=1e-9)
    assert int(policy.sample(2, 1)) in (0, 1)
    assert "source='smc'" in repr(policy)
    assert particle_policy(ImportanceSampling(200).run(small())).probs(0).tolist() == pytest.approx([1.0])


def vectors(horizon=2):
    """Each coordinate is pushed back to 0 by its own action."""

    def program():
        state = pyro.sample("s_1", dist.Normal(torch.zeros(2), torch.tensor([1.0, 3.0])).to_event(1))
        for t in range(1, horizon + 1):
            action = pyro.sample(f"a_{t}", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            state = pyro.sample(f"s_{t + 1}", dist.Normal(state + action, 0.1).to_event(1))
            pyro.factor(f"O_{t}", -0.5 * (state**2).sum(-1))

    return program


def test_vector_states_and_actions():
    posterior = SequentialMonteCarlo(20_000).run(vectors(1))
    policy = particle_policy(posterior)
    for state in ([0.5, 0.0], [0.0, -1.0], [-0.5, 1.0]):
        found = policy.mean(torch.tensor(state), 0)
        want = [-value / 2.01 for value in state]  # prior precision 1, the factor's 1 / (1 + 0.01)
        assert found.tolist() == pytest.approx(want, abs=0.12)
    assert policy.sample(torch.zeros(2)).shape == (2,)
    own = ParticlePolicy(posterior.details["particles"], torch.tensor([0.2, 0.5]))
    assert float(own.weights(torch.zeros(2)).sum()) == pytest.approx(1.0)


def test_a_coordinate_without_spread_is_not_looked_at():
    states = torch.stack([torch.linspace(-1, 1, 50), torch.full((50,), 2.0)], -1)
    particles = Particles({"s_1": states, "a_1": torch.linspace(-1, 1, 50)}, torch.zeros(50).double())
    policy = ParticlePolicy(particles)
    assert float(policy.mean(torch.tensor([0.5, 2.0]))) == pytest.approx(float(policy.mean(torch.tensor([0.5, 9.0]))))
    assert float(policy.mean(torch.tensor([0.5, 2.0]))) > 0.2


def test_acting_in_the_true_world_earns_more_than_the_prior():
    """Rolled out in the unconditioned program, step by step."""
    policy = walker(size=3000)
    generator = torch.Generator().manual_seed(3)
    totals = {"policy": [], "prior": []}
    for _ in range(150):
        for name in totals:
            state, total = 0.5 + torch.randn((), generator=generator), 0.0
            for t in range(HORIZON):
                action = 0.8 * torch.randn((), generator=generator)
                if name == "policy":
                    action = policy.sample(state, t, generator=generator)
                state = state + action + 0.3 * torch.randn((), generator=generator)
                total -= float(0.4 * state**2 + 0.2 * action**2)
            totals[name].append(total)
    assert np.mean(totals["policy"]) > np.mean(totals["prior"]) + 0.3


@refuse(
    {
        "no posterior": (lambda: particle_policy(3), TypeError, r"posterior that cai\.infer returns, got int"),
        "no particles": (lambda: particle_policy(cai.infer(small(), "exact")), r"'exact' holds no particles.*'smc'"),
        "dead": (lambda: particle_policy(SequentialMonteCarlo(3).run(narrow(10))), r"no particles: degenerate"),
        "bandwidth": (lambda: walker(0.0, 20), r"bandwidth is \[0\.0\].*> 0"),
        "bandwidth nan": (lambda: walker(math.nan, 20), r"bandwidth is \[nan\]"),
        "bandwidth text": (lambda: walker("wide", 20), r"bandwidth is 'wide'"),
        "bandwidths": (lambda: walker(torch.ones(3), 20), r"3 entries; states have 1 coordinates"),
        "discrete": (lambda: particle_policy(SequentialMonteCarlo(9).run(small()), 0.1), r"states are discrete"),
        "time": (lambda: walker(None, 20).mean(0.0, 3), r"time index 3.*0 to 2"),
        "shape": (lambda: walker(None, 20).mean([[0.0, 1.0]], 0), r"shape \[1, 2\]; expected \[\]"),
        "infinite": (lambda: walker(None, 20).mean(math.inf, 0), r"finite"),
        "no probabilities": (lambda: walker(None, 20).probs(0.0), r"continuous.*mean"),
        "no mean": (lambda: particle_policy(SequentialMonteCarlo(9).run(small())).mean(0), r"discrete.*probs"),
        "unseen": (
            lambda: particle_policy(SequentialMonteCarlo(9).run(small())).probs(1),
            r"no particle.*more particles",
        ),
    }
)
def test_bad_questions_are_refused(build, error, pattern):
    check(build, error, pattern)
