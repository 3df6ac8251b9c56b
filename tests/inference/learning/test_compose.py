"""Soft Q-functions of one world, averaged: never below the optimum, and never above it by more than the bound."""

import math

import pytest
import torch
from oracle import random_problem

import cai
from cai.inference.backends.variational import StructuredVariational as Variational
from cai.inference.learning import compose
from cai.inference.tabular.policy_posterior import policy_posterior
from cai.models import TableReward, TrajectoryModel, gridworld, random_mdp


def pair(seed, *, horizon, discount):
    """Two models of one world that differ in their rewards."""
    problem = random_problem(seed, reward="sa", forbidden=False, horizon=3, discount=discount)
    model = problem.model.replace(horizon=horizon)
    shape = model.action_prior.shape
    other = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()
    other = torch.where(model.nonterminal[:, None], other, 0.0)
    return model, model.replace(reward=TableReward(other))


@pytest.mark.parametrize("horizon", [3, math.inf])
@pytest.mark.parametrize("seed", range(8))
def test_the_average_is_above_the_optimum_by_at_most_the_bound(seed, horizon):
    models = pair(seed, horizon=horizon, discount=0.9)
    answers = [cai.infer(model, "variational") for model in models]
    for weights in ([0.5, 0.5], [0.8, 0.2], [1.0, 0.0]):
        composed = compose(answers, weights)
        reward = models[0].reward * weights[0] + models[1].reward * weights[1]
        best = cai.infer(models[0].replace(reward=reward), "variational")
        average = weights[0] * answers[0].q_values + weights[1] * answers[1].q_values
        assert torch.allclose(composed.q_values, average, atol=1e-12)
        counted = models[0].nonterminal[:, None] & (models[0].action_prior > 0)
        gap, bound = (composed.q_values - best.q_values)[:, counted], composed.details["bound"][:, counted]
        assert float(gap.min()) >= -1e-10
        assert float((gap - bound).max()) <= 1e-10
        assert float(composed.elbo) <= float(best.elbo) + 1e-10
        if weights == [1.0, 0.0]:
            assert float(bound.max()) < 1e-9
            assert torch.allclose(composed.action_probs, answers[0].action_probs, atol=1e-12)


def test_a_prior_that_was_normalised_twice_is_the_same_prior():
    mdp = random_mdp(0, num_states=4, num_actions=5).mdp
    generator, moved = torch.Generator().manual_seed(0), 0
    for _ in range(50):
        prior = torch.rand(4, 5, generator=generator, dtype=torch.float64)
        model = TrajectoryModel(mdp, torch.zeros(4, 5), 3, action_prior=prior / prior.sum(-1, keepdim=True))
        other = model.replace(reward=torch.ones(4, 5))
        moved += not torch.equal(model.action_prior, other.action_prior)
        compose([cai.infer(model, "variational"), cai.infer(other, "variational")], [0.5, 0.5])
    assert moved > 0  # by rounding


def test_on_a_grid_little_is_lost():
    """Two corners that draw on 8 x 8 cells: the composed policy is worth all but .1 of the optimum, and beats a sum."""
    base = gridworld("S.......\n........\n........\n........\n........\n........\n........\n.......G", horizon=math.inf)
    mdp = base.mdp
    rows = [cell for cell in mdp.layout.cells if cell is not None]
    goals = [(0, 7), (7, 0)]
    rewards = []
    for goal in goals:
        distance = torch.tensor([abs(r - goal[0]) + abs(c - goal[1]) for r, c in rows]).double()
        distance = torch.cat([distance, torch.zeros(mdp.num_states - len(rows)).double()])
        rewards.append(torch.where(mdp.terminal, 0.0, -0.01 * distance))
    models = [TrajectoryModel(mdp, reward, math.inf, 1.0, 0.9) for reward in rewards]
    answers = [cai.infer(model, "variational") for model in models]
    composed = compose(answers, [0.5, 0.5])
    best = cai.infer(composed.model, "variational")
    gap = composed.q_values - best.q_values
    assert float(gap[:, composed.model.nonterminal].min()) >= -1e-10
    assert bool((gap <= composed.details["bound"] + 1e-10).all())
    tables = torch.softmax(sum(answer.q_values for answer in answers) + composed.model.log_action_prior, -1)
    added = policy_posterior(Variational(), composed.model, tables)
    assert float(composed.elbo) >= float(added.elbo)
    lost = composed.model.temperature * float(best.elbo - composed.elbo)
    assert 0 <= lost < 0.1


def test_what_cannot_be_averaged_is_refused():
    model = random_mdp(horizon=math.inf, discount=0.9)
    answer = cai.infer(model, "variational")
    others = {
        "temperature": cai.infer(model.replace(temperature=2.0), "variational"),
        "discount": cai.infer(model.replace(discount=0.8), "variational"),
        "action prior": cai.infer(model.replace(action_prior=torch.tensor([0.5, 0.3, 0.2])), "variational"),
        "transition": cai.infer(random_mdp(seed=9, horizon=math.inf, discount=0.9), "variational"),
        "target": cai.infer(model.replace(reward=-1.0), "optimistic"),
        "horizon": cai.infer(random_mdp(horizon=3, discount=0.9), "variational"),
    }
    for message, other in others.items():
        with pytest.raises(ValueError, match=message if message != "transition" else "differ in"):
            compose([answer, other], [0.5, 0.5])
    for weights, message in (([0.5, 0.6], "sum to 1"), ([1.5, -0.5], ">= 0"), ([1.0], "one for each")):
        with pytest.raises(ValueError, match=message):
            compose([answer, answer], weights)
    with pytest.raises(TypeError, match="expected one with tables"):
        compose([answer, "variational"], [0.5, 0.5])
    with pytest.raises(ValueError, match="nothing to compose"):
        compose([], [])
