"""Soft Q-functions of one world, averaged: never below the optimum, and never above it by more than the bound."""

import math

import gymnasium
import numpy as np
import pytest
import torch
from oracle import random_problem

import cai
from cai.inference.backends.variational import StructuredVariational as Variational
from cai.inference.core.status import NotKnown
from cai.inference.learning import compose
from cai.inference.tabular.policy_posterior import policy_posterior
from cai.models import TableReward, TrajectoryModel, environment_model, gridworld, random_mdp


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


SMALL = {"batch_size": 16, "steps": 150, "warmup_steps": 50}


def pole(*, flipped=False):
    """CartPole, or the same that pays for falling."""
    made = gymnasium.make("CartPole-v1")
    return gymnasium.wrappers.TransformReward(made, lambda r: -r) if flipped else made


def in_pole(backend, *, flipped=False, discount=0.9, temperature=0.5, **options):
    world = environment_model(lambda: pole(flipped=flipped), discount=discount, temperature=temperature)
    return cai.infer(world, backend, **SMALL, **options)


def test_networks_of_other_sizes_are_averaged(tmp_path):
    """Q, the policy and V by plain numpy from what both parts say of every action."""
    parts = (
        in_pole("soft-q-learning", hidden_sizes=(8,)),
        in_pole("soft-actor-critic", flipped=True, hidden_sizes=(6, 5)),
    )
    both = compose(parts, [0.25, 0.75])
    seen = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    ours, theirs = (np.stack([part.q_value(seen, [a] * 5).numpy() for a in (0, 1)], 1) for part in parts)
    worth = 0.25 * ours + 0.75 * theirs
    for action in (0, 1):
        assert both.q_value(seen, [action] * 5).numpy() == pytest.approx(worth[:, action], abs=1e-5)
    scores = np.exp(worth / 0.5)
    policy = both.policy()
    for acting in (policy, cai.load(policy.save(tmp_path / "policy"))):
        logs = acting.log_prob([1] * 5, seen).numpy()
        assert np.exp(logs) == pytest.approx(scores[:, 1] / scores.sum(1), rel=1e-4)
        assert acting.act(seen, deterministic=True).tolist() == worth.argmax(1).tolist()
        assert acting.act(seen, action_mask=[[0, 1]] * 5).tolist() == [1] * 5
    assert both.value(seen).numpy() == pytest.approx(0.5 * np.log(scores.mean(1)), abs=1e-5)
    assert both.value(seen, action_mask=[[1, 0]] * 5).numpy() == pytest.approx(worth[:, 0], abs=1e-5)
    assert (both.details["bound"], both.elbo, both.believed_return) == (None, None, None)
    assert both.details["weights"].tolist() == [0.25, 0.75]
    outcome = cai.evaluate(policy, environment_model("CartPole-v1", discount=0.9, temperature=0.5), episodes=2)
    assert outcome.stochastic_return.mean >= 8


def test_in_a_box_actions_are_drawn_by_the_mean_of_both():
    """Two rewards that pull an action to either side; probabilities of ten bins by quadrature over Q."""
    worlds = [environment_model(make, discount=0.9, temperature=0.5) for make in (Side, RightSide)]
    options = {"batch_size": 32, "steps": 400, "warmup_steps": 300, "learning_rate": 1e-2, "hidden_sizes": (16,)}
    parts = [
        cai.infer(worlds[0], "soft-actor-critic", **options),
        cai.infer(worlds[1], "stein-soft-q-learning", **options),
    ]
    both, grid = compose(parts, [0.5, 0.5]), np.linspace(-2, 2, 2001)[:, None]
    nowhere = np.zeros((2001, 1), np.float32)
    worth = sum(0.5 * part.q_value(nowhere, grid).numpy() for part in parts)
    assert both.q_value(nowhere, grid).numpy() == pytest.approx(worth, abs=1e-5)
    weights = np.exp(worth / 0.5)
    drawn = both.policy().act(nowhere, generator=torch.Generator().manual_seed(0))[:, 0].numpy()
    want = np.add.reduceat(weights[:-1], np.arange(0, 2000, 200)) / weights[:-1].sum()
    found = np.histogram(drawn, np.linspace(-2, 2, 11))[0] / 2001
    assert np.abs(found - want).max() < 0.035  # three standard deviations of a share, and 256 in place of all actions
    assert float(both.value(nowhere).mean()) == pytest.approx(0.5 * np.log(weights.mean()), abs=0.02)
    best = both.policy().act(nowhere[:3], deterministic=True, num_candidates=500)[:, 0].numpy()
    assert best == pytest.approx(grid[worth.argmax(), 0], abs=0.1)
    with pytest.raises(ValueError, match="a composed policy may have several modes"):
        both.policy().act(nowhere, deterministic=True)
    with pytest.raises(NotKnown, match="densities of actions"):
        both.policy().log_prob(grid, nowhere)


class Side(gymnasium.Env):
    """One step that pays for an action near a place."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)

    place = -0.5

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), -float((action[0] - self.place) ** 2), True, False, {}


class RightSide(Side):
    """One step that pays for an action near another place."""

    place = 0.5


def test_networks_that_cannot_be_averaged_are_refused():
    own = in_pole("soft-q-learning", hidden_sizes=(8,))
    others = {
        "differ in discount": in_pole("soft-q-learning", discount=0.8, hidden_sizes=(8,)),
        "differ in temperature": in_pole("soft-q-learning", temperature=2.0, hidden_sizes=(8,)),
        "differ in form": in_pole("soft-q-learning", entropy_form=True, hidden_sizes=(8,)),
        "by 'policy-gradient', has no networks of Q": cai.infer(
            environment_model("CartPole-v1", discount=0.9, temperature=0.5),
            "policy-gradient",
            steps=128,
            buffer_size=128,
        ),
        "by 'soft-composition', has no networks of Q": compose([own, own], [0.5, 0.5]),
    }
    for message, other in others.items():
        with pytest.raises(ValueError, match=message):
            compose([own, other], [0.5, 0.5])
    with pytest.raises(TypeError, match="answer 1 is a LearnedPosterior; expected one with tables"):
        compose([cai.infer(random_mdp(), "variational"), own], [0.5, 0.5])
    with pytest.raises(TypeError, match="answers are a LearnedPosterior; expected a list"):
        compose(own, [1.0])
    for weights in (None, ["a", "b"]):
        with pytest.raises(TypeError, match="expected 2 numbers, one for each answer"):
            compose([own, own], weights)
