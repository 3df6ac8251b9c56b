"""Stein soft Q-learning: its backup against integrals, its sampler against its target, and what its answer knows."""

import math

import numpy as np
import pytest
import torch
from network_worlds import Target, box_setting

import cai
from cai.inference import NotKnown, SteinSoftQLearning
from cai.inference.learning.networks.experience.buffer import Batch
from cai.inference.learning.networks.updates.stein import SteinNetworks
from cai.inverse import gail
from cai.models import environment_model

SMALL = {"hidden_sizes": (16,), "batch_size": 16, "num_particles": 8, "particle_sets": 8, "value_samples": 16}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def slope(inputs):
    """Twin Q: 0.4 a_1 + 0.2 a_2 o_1, and more."""
    worth = 0.4 * inputs[:, 3] + 0.2 * inputs[:, 4] * inputs[:, 0]
    return torch.stack([worth - 0.5, worth + 0.5])[..., None]


def brain_of(entropy_form=False, log_prior=None):
    setting = box_setting(entropy_form=entropy_form)._replace(log_prior=log_prior, policy="stein", learning_rate=3e-3)
    brain = SteinNetworks(setting, seeded(), 32, 16, 64)
    brain.critic = lambda flat, inputs: slope(inputs)
    return brain


def lean(observations, actions):
    """log of a density over the uniform one that leans to one side."""
    return torch.log1p(0.5 * actions[:, 0])


@pytest.mark.parametrize(("entropy_form", "log_prior"), [(False, None), (True, None), (False, lean)])
def test_the_soft_value_is_the_integral(entropy_form, log_prior):
    brain, seen = brain_of(entropy_form, log_prior), torch.tensor([[1.0, 0.0, 0.0], [-2.0, 0.0, 0.0]])
    found = brain._soft(torch.zeros(1), seen, 40_000, seeded(1))
    axis = torch.linspace(-1, 1, 401)
    actions = torch.cartesian_prod(axis, axis)
    for row, value in zip(seen, found, strict=True):
        scores = slope(torch.cat([row.expand(len(actions), -1), actions], 1)).mean(0)[:, 0] / 0.5
        scores = scores + (0.0 if log_prior is None else log_prior(row, actions))
        total = torch.trapezoid(torch.trapezoid(scores.exp().reshape(401, 401), axis), axis) / 4
        want = 0.5 * (math.log(float(total)) + (math.log(24) if entropy_form else 0.0))  # 24: the volume in its units
        assert float(value) == pytest.approx(want, abs=0.01)


def test_critics_learn_the_soft_backup():
    setting = box_setting()._replace(policy="stein")
    brain = SteinNetworks(setting, seeded(), 4, 2, 8)
    drawn = seeded(3)
    seen, following = torch.randn(2, 6, 3, generator=drawn)
    actions, rewards = torch.rand(6, 2, generator=drawn), torch.randn(6, generator=drawn)
    ended = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    with torch.no_grad():
        wanted = rewards + 0.8 * (1 - ended) * brain._soft(brain._target, following, 8, seeded(7))
        worth = brain.critic(brain._critic.flat, torch.cat([seen, actions], 1))[..., 0]
    told = brain.update(Batch(seen, actions, rewards, following, ended, None, None), seeded(7))
    assert told.critic_loss == pytest.approx(0.25 * float((worth - wanted).square().mean(1).sum()), rel=1e-5)
    assert math.isnan(told.entropy)


@pytest.mark.campaign
@pytest.mark.parametrize("log_prior", [None, lean])
def test_the_sampler_draws_from_its_target(log_prior):
    brain, drawn = brain_of(log_prior=log_prior), seeded(5)
    for _ in range(3000):
        brain._move_particles(torch.randn(16, 3, generator=drawn).clamp(-2, 2), drawn)
    axis = torch.linspace(-1, 1, 401)
    actions = torch.cartesian_prod(axis, axis)
    for first in (-1.5, 1.5):
        row = torch.tensor([first, 0.0, 0.0])
        scores = slope(torch.cat([row.expand(len(actions), -1), actions], 1)).mean(0)[:, 0] / 0.5
        scores = scores + (0.0 if log_prior is None else log_prior(row, actions))
        weights = torch.softmax(scores, 0)
        mean = (weights[:, None] * actions).sum(0)
        variance = (weights[:, None] * (actions - mean).square()).sum(0)
        found = brain.act(row.expand(20_000, -1), None, seeded(9))
        torch.testing.assert_close(found.mean(0), mean, rtol=0, atol=0.06)
        torch.testing.assert_close(found.var(0), variance, rtol=0, atol=0.05)


def target_world():
    return environment_model(Target, discount=1.0, temperature=0.5)


def test_particles_move_towards_what_is_worth_more():
    brain, drawn = brain_of(), seeded(5)
    seen = torch.tensor([[1.5, 0.0, 0.0], [-1.5, 0.0, 0.0]]).repeat(8, 1)
    before = brain.act(seen.repeat(200, 1), None, seeded(9)).reshape(-1, 2, 2)
    for _ in range(150):
        brain._move_particles(seen, drawn)
    after = brain.act(seen.repeat(200, 1), None, seeded(9)).reshape(-1, 2, 2)
    assert float(after[:, :, 0].mean()) > 0.15  # Q / alpha rises by .8 along the first action: a mean of .26
    assert float((after[:, 0, 1] - after[:, 1, 1]).mean()) > 0.15  # and by .6 or -.6 along the second
    assert float(after.std(0).min()) > 0.4 > float(before.std(0).max())  # the box is filled, its ends included


@pytest.mark.campaign
def test_one_step_is_worth_its_evidence():
    options = {"hidden_sizes": (32,), "batch_size": 32, "learning_rate": 1e-2, "particle_sets": 16, "num_particles": 16}
    answer = cai.infer(target_world(), "stein-soft-q-learning", steps=600, seed=1, updates_per_step=0.8, **options)
    worth = float(answer.value(np.zeros((1, 1)))[0])
    assert worth / 0.5 == pytest.approx(Target.evidence(0.5), abs=0.5)
    actions = answer.policy().act(np.zeros((500, 1)), generator=seeded())
    torch.testing.assert_close(actions.mean(0), torch.tensor([1.0, 0.5]).double(), rtol=0, atol=0.35)
    assert float(actions.std(0).min()) > 0.2  # exp(-2 x^2) has .5


def test_what_the_answer_knows_and_what_it_does_not(tmp_path):
    answer = cai.infer(target_world(), "stein-soft-q-learning", steps=140, **SMALL)
    assert answer.status.ok
    assert (answer.elbo, answer.policy_divergence, answer.log_evidence) == (None, None, None)
    assert math.isfinite(float(answer.believed_return))
    policy, seen = answer.policy(), np.zeros((4, 1), np.float32)
    with pytest.raises(NotKnown, match="the Stein policy does not know densities of actions; draw from it"):
        policy.log_prob(np.ones((4, 2)), seen)
    with pytest.raises(ValueError, match="and a stein policy may have several modes"):
        policy.act(seen, deterministic=True)
    best = policy.act(seen, deterministic=True, num_candidates=50, generator=seeded())
    drawn = policy.act(seen, generator=seeded(1))
    assert float(answer.q_value(seen, best).mean()) > float(answer.q_value(seen, drawn).mean())
    again = cai.load(policy.save(tmp_path / "policy"))
    assert torch.equal(again.act(seen, generator=seeded(1)), drawn)
    assert torch.equal(again.act(seen, deterministic=True, num_candidates=50, generator=seeded()), best)
    row = cai.compare(target_world(), [SteinSoftQLearning(steps=140, **SMALL)]).rows[0]
    assert row.elbo is None
    assert row.episodes.deterministic_return is None
    assert math.isfinite(row.episodes.stochastic_return.mean)


def shown():
    world = target_world()
    return cai.models.collect(world, 40)


REFUSED = {
    "numbered": (
        lambda: cai.infer(environment_model("CartPole-v1", discount=0.9, temperature=1.0), "stein-soft-q-learning"),
        "those of CartPole-v1 are numbered; ask 'soft-q-learning', which takes every action",
    ),
    "tables": (
        lambda: cai.infer(cai.models.random_mdp(0), "stein-soft-q-learning"),
        "so they must lie in a box: .* on tables ask 'soft-q-learning'",
    ),
    "policy": (
        lambda: SteinSoftQLearning(policy="flow"),
        "policy is 'flow', and backend 'stein-soft-q-learning' learns",
    ),
    "asked of another": (
        lambda: cai.infer(target_world(), "soft-actor-critic", policy="stein"),
        "policy 'stein' is what backend 'stein-soft-q-learning' learns; ask that",
    ),
    "one particle": (lambda: SteinSoftQLearning(num_particles=1), "num_particles is 1; expected a whole number >= 2"),
    "no sets": (lambda: SteinSoftQLearning(particle_sets=0), "particle_sets is 0"),
    "no samples": (lambda: SteinSoftQLearning(value_samples=0), "value_samples is 0"),
    "discriminator": (
        lambda: gail(target_world(), shown(), learner=SteinSoftQLearning(steps=40)),
        "whose policy has no density, and the discriminator reads log pi",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    build, pattern = REFUSED[name]
    with pytest.raises(ValueError, match=pattern):
        build()
