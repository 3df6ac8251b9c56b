"""Exact functions where rewards of -inf forbid actions: the right numbers, or a sentence, and never NaN."""

import math

import numpy as np
import pytest
import torch

import cai
from cai.inference.learning import exact
from cai.models import MDP, TrajectoryModel


def own_soft_values(transitions, rewards, prior, gamma):
    """V [S] of soft value iteration at temperature 1 by its definition, -inf where nothing can be hoped for."""
    values = np.zeros(len(rewards))
    for _ in range(300):
        ahead = np.where(transitions > 0, transitions * np.where(transitions > 0, values, 0.0), 0.0).sum(-1)
        worth = np.where(prior > 0, rewards + gamma * ahead + np.log(np.where(prior > 0, prior, 1.0)), -np.inf)
        values = np.logaddexp.reduce(worth, axis=-1)
    return values


@pytest.mark.parametrize("seed", range(12))
def test_actor_critic_keeps_clear_of_forbidden_rewards(seed):
    """The prior itself is worth -inf where it can meet one; a policy that cannot is found all the same."""
    rng = np.random.default_rng(seed)
    transitions = rng.dirichlet(np.ones(4), size=(4, 3)) * (rng.random((4, 3, 4)) < 0.5)
    transitions[..., 0] += 1e-3
    transitions /= transitions.sum(-1, keepdims=True)
    rewards = np.where(rng.random((4, 3)) < 0.35, -np.inf, rng.normal(size=(4, 3)))
    rewards[0, 0] = 0.3 if seed % 4 else -np.inf  # all states lead to state 0
    rewards[3] = -np.inf if seed % 3 == 0 else rewards[3]
    prior = rng.dirichlet(np.ones(3), size=4)
    model = TrajectoryModel(
        MDP(transitions, [0.25] * 4, axes="state-action-state"), rewards, math.inf, 1.0, 0.8, action_prior=prior
    )
    expected = own_soft_values(transitions, rewards, prior, 0.8)
    values, q_values, probs = (part.numpy() for part in exact.soft_actor_critic(model)[:3])
    hopeful = np.isfinite(expected)
    assert np.array_equal(np.isfinite(values), hopeful)
    assert np.allclose(values[hopeful], expected[hopeful], atol=1e-12, rtol=0)
    assert np.allclose(probs.sum(-1), 1.0)
    assert probs[hopeful][~np.isfinite(q_values[hopeful])].sum() == 0
    assert np.allclose(probs[~hopeful], prior[~hopeful])


def model_with_one_forbidden():
    transitions = np.zeros((3, 2, 3))
    transitions[0, 0, 1] = transitions[0, 1, 2] = transitions[1, :, 0] = transitions[2, :, 2] = 1
    rewards = [[0.0, -math.inf], [1.0, -1.0], [0.0, 0.0]]
    return TrajectoryModel(MDP(transitions, [1.0, 0.0, 0.0], axes="state-action-state"), rewards, math.inf, 1.0, 0.9)


def test_a_learned_temperature_knows_what_is_forbidden():
    model = model_with_one_forbidden()
    values, _, probs, temperature = exact.soft_actor_critic(model, target_entropy=0.1, state_weights=[1.0, 1.0, 0.0])
    answer = cai.infer(model.replace(temperature=temperature), "variational")
    assert torch.allclose(values, answer.values[0], atol=1e-9)
    assert abs(float(torch.special.entr(probs[:2]).sum(-1).mean()) - 0.1) < 1e-9


def test_numbers_that_do_not_exist_are_refused():
    """A path by an action that pays -inf, and the gradient of a policy that can meet that."""
    model = model_with_one_forbidden()
    answer = cai.infer(model, "variational")
    with pytest.raises(ValueError, match="path 1 has no residual: it meets a reward of -inf"):
        exact.path_residuals(model, answer.values, answer.action_probs, [[0, 1], [0, 2]], [[0], [1]])
    assert abs(float(exact.path_residuals(model, answer.values, answer.action_probs, [[0, 1]], [[0]]))) < 1e-12
    for q_values in (torch.zeros(3, 2), torch.full((3, 2), -math.inf)):
        with pytest.raises(
            ValueError, match="the policy of q_values can meet a reward of -inf, or has a nonterminal state"
        ):
            exact.soft_q_gradient(model, q_values)
    kept = torch.tensor([[0.0, -math.inf], [0.2, 0.0], [0.0, 0.0]])
    soft_q, policy, value = exact.soft_q_gradient(model, kept, steps=2)
    assert torch.allclose(soft_q, value - policy, atol=1e-12)
