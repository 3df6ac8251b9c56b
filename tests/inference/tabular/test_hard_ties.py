"""Which choices of hard control count as equally good: those that differ by rounding of what they add up."""

import numpy as np
import pytest
import torch

import cai
from cai.inference.kernels.backups import sizes_of
from cai.inference.tabular import ties
from cai.inference.tabular.ties import Ties
from cai.models import MDP, TrajectoryModel

KINDS = ("expected", "best", "worst")


@pytest.mark.parametrize("scale", [2.0**-44, 2.0**-200, 2.0**40])
@pytest.mark.parametrize("backend", [*(f"value-iteration:successors={kind}" for kind in ("expected", "best", "worst"))])
def test_scaled_rewards_leave_policy_and_beliefs_as_they_are(backend, scale):
    """A power of 2 scales every float exactly, so what is chosen and believed in over a finite horizon is the same."""
    rng = np.random.default_rng(0)
    mdp = MDP(rng.dirichlet(np.ones(6), size=(6, 3)), np.full(6, 1 / 6))
    rewards = rng.normal(size=(6, 3))
    rewards[0] = rewards[0, 0]
    whole, scaled = (
        cai.infer(TrajectoryModel(mdp, factor * rewards, horizon=5, discount=0.875), backend) for factor in (1.0, scale)
    )
    assert torch.equal(scaled.values, scale * whole.values)
    assert torch.equal(scaled.action_probs, whole.action_probs)
    assert torch.equal(scaled.initial, whole.initial)
    for t in range(5):
        assert torch.equal(scaled.dynamics(t), whole.dynamics(t))
    assert float(scaled.believed_return) == pytest.approx(scale * float(whole.believed_return), rel=1e-12)


@pytest.mark.parametrize("form", ["tables", "lists"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_large_penalty_elsewhere_makes_no_others_equal(kind, form):
    """What is no more than rounding is judged by the numbers that a choice adds up, not by those of other choices."""
    penalty, chances = -1e14, np.zeros((5, 2, 5))
    for state, (left, right) in enumerate([(1, 2), (3, 3), (3, 3), (3, 4), (4, 4)]):
        chances[state, 0, left] = chances[state, 1, right] = 1.0
    chances[0, 1, 2] = chances[0, 1, 3] = 0.5
    rewards = np.zeros((5, 2, 5))
    rewards[0, 0, 1], rewards[1, 0, 3], rewards[1, 1, 3] = 0.1, 0.2, 0.25
    rewards[2, 1, 3] = rewards[3, 1, 4] = penalty
    rewards[3, 0, 3] = 0.125
    rewards[4, 0, 4], rewards[4, 1, 4] = -0.3, -0.30000001
    reward = rewards
    mdp = MDP(chances, [1.0, 0, 0, 0, 0], axes="state-action-state")
    if form == "lists":
        leads = np.array([[[1, 1], [2, 3]], [[3, 3]] * 2, [[3, 3]] * 2, [[3, 3], [4, 4]], [[4, 4]] * 2])
        shares = np.full(leads.shape, 0.5)
        mdp = MDP.from_successors(leads, shares, [1.0, 0, 0, 0, 0])
        reward = np.take_along_axis(rewards, leads, -1)
    backend = f"value-iteration:successors={kind}"
    found = cai.infer(TrajectoryModel(mdp, reward, horizon=3), backend)
    wanted = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]
    assert found.action_probs[0].tolist() == wanted


@pytest.mark.parametrize("scale", [1e-13, 1.0, 1e13])
@pytest.mark.parametrize("kind", KINDS)
def test_routes_that_add_up_to_the_same_share(kind, scale):
    """0.1 + (0.2 - 0.3) is not 0 in floats, and as good as three steps of 0; a penalty on the way out is no matter."""
    chances, rewards = np.zeros((5, 3, 5)), np.zeros((5, 3))
    for state, (left, middle, right) in enumerate([(1, 3, 4), (2, 2, 4), (4, 4, 4), (3, 3, 4), (4, 4, 4)]):
        chances[state, [0, 1, 2], [left, middle, right]] = 1.0
    rewards[0, 0], rewards[1, :2], rewards[2] = 0.1, 0.2, -0.3
    rewards[[0, 1, 3], 2] = -1e14
    model = TrajectoryModel(MDP(chances, [1.0, 0, 0, 0, 0]), scale * rewards, horizon=3)
    found = cai.infer(model, f"value-iteration:successors={kind}")
    assert found.action_probs[0, 0].tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize("kind", ["best", "worst"])
def test_a_far_outcome_makes_no_others_equal(kind):
    """Believed dynamics and starts are those of the best or worst outcome, whatever another one costs."""
    sign = 1.0 if kind == "best" else -1.0
    rewards = sign * np.array([0.0, 1.0, -1e14])
    chances = np.full((3, 1, 3), 1 / 3)
    for reward in (np.broadcast_to(rewards, (3, 1, 3)), rewards[:, None]):
        model = TrajectoryModel(MDP(chances, np.full(3, 1 / 3)), reward, horizon=2)
        found = cai.infer(model, f"value-iteration:successors={kind}")
        assert found.dynamics(0)[0, 0].tolist() == [0.0, 1.0, 0.0]
        if reward.shape == (3, 1):
            assert found.initial.tolist() == [0.0, 1.0, 0.0]


def random_steps(seed):
    """A few states with rewards in tenths, whose sums tie but for rounding, or far from all others."""
    rng = np.random.default_rng(seed)
    number, actions = int(rng.integers(1, 6)), int(rng.integers(2, 4))
    chances = np.eye(number)[rng.integers(number, size=(number, actions))]
    rewards = np.round(10 * rng.normal(size=(number, actions))) / 10
    rewards[rng.random(rewards.shape) < 0.1] = -1e14 if seed % 3 else -np.inf
    mdp = MDP(chances, np.full(number, 1 / number), axes="state-action-state")
    return TrajectoryModel(mdp, rewards, horizon=int(rng.integers(2, 8)), discount=1.0 if seed % 2 else 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_that_are_not_computed_would_change_nothing(kind, monkeypatch):
    models = [random_steps(seed) for seed in range(30)]
    found = [cai.infer(model, f"value-iteration:successors={kind}", throw=False) for model in models]
    shared = sum(int(((each.action_probs > 0).sum(-1) > 1).sum()) for each in found)
    assert shared
    monkeypatch.setattr(Ties, "_largest", lambda self, t: np.inf)  # then any choice may be close
    for model, lazily in zip(models, found, strict=True):
        always = cai.infer(model, f"value-iteration:successors={kind}", throw=False)
        assert torch.equal(lazily.action_probs, always.action_probs)


def test_sizes_are_computed_only_where_a_choice_is_close(monkeypatch):
    asked = []
    monkeypatch.setattr(ties, "sizes_of", lambda *arguments: asked.append(arguments) or sizes_of(*arguments))
    rng = np.random.default_rng(0)
    mdp = MDP(rng.dirichlet(np.ones(5), size=(5, 3)), np.full(5, 0.2))
    rewards = rng.normal(size=(5, 3))
    cai.infer(TrajectoryModel(mdp, rewards, horizon=9), "value-iteration")
    assert not asked
    rewards[2, 1] = rewards[2, 0] - 1e-14 * abs(rewards[2, 0])
    rewards[2, 2] = rewards[2, 0] - 5
    mdp = MDP(np.broadcast_to(mdp.probabilities[:, :1].numpy(), (5, 3, 5)), np.full(5, 0.2))
    found = cai.infer(TrajectoryModel(mdp, rewards, horizon=9), "value-iteration")
    assert asked
    assert found.action_probs[0, 2].tolist() == [0.5, 0.5, 0.0]
