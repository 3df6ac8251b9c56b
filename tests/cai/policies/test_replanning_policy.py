"""Replanning policies in environments and evaluations."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from planning_problems import planning_model

import cai
from cai.models import build_model
from cai.policies import ReplanningPolicy


class Hanging(gym.Env):
    """The pendulum as an environment."""

    action_space = gym.spaces.Box(-10, 10, (1,), np.float64)

    def __init__(self, size=2):
        self.observation_space = gym.spaces.Box(-100, 100, (size,), np.float64)
        self.model = planning_model("pendulum", horizon=5)

    def reset(self, *, seed=None, options=None):
        self.state, self.t = self.model.reset(1), 0
        return self.state[0].numpy(), {}

    def step(self, action):
        self.state, reward, _ = self.model.step(self.state, torch.as_tensor(action).reshape(1, 1), self.t)
        self.t += 1
        return self.state[0].numpy(), float(reward), False, self.t == 5, {}


@pytest.fixture(scope="module")
def policy():
    return cai.extract_policy(cai.infer(planning_model("pendulum", horizon=5), "mppi", num_samples=50))


def test_it_runs_in_an_environment(policy):
    assert isinstance(policy, ReplanningPolicy)
    total, steps, terminated = policy.run(Hanging(), seed=0)
    assert (steps, terminated) == (5, False)
    assert -120 < total < -80


def test_a_space_that_does_not_fit_is_refused(policy):
    with pytest.raises(
        ValueError, match=r"the environment's observation space is Box.*needs a Box space of shape \(2,\)"
    ):
        policy.run(Hanging(3), seed=0)


def test_a_file_gives_back_the_policy_that_runs(policy, tmp_path):
    kept = cai.load(policy.save(tmp_path / "policy"))
    assert isinstance(kept, ReplanningPolicy)
    assert torch.equal(kept.plan, policy.plan)


def test_evaluation_rolls_out_as_often_as_it_can_afford(policy):
    model = planning_model("pendulum", horizon=5)
    outcome = cai.evaluate(policy, model)
    assert len(outcome.returns) == 20
    assert outcome.expected_return_error == pytest.approx(float(outcome.returns.std()) / math.sqrt(20))
    assert outcome.expected_return == cai.evaluate(policy, model).expected_return
    assert len(cai.evaluate(policy, model, num_rollouts=3).returns) == 3


def test_planners_are_compared_with_the_columns_of_all_answers():
    model = build_model("dubins", horizon=8)
    table = cai.compare(model, ["ilqr:restarts=2", "mppi:num_samples=40", "aico", "exact"], num_rollouts=10)
    ilqr, mppi, aico, exact = table.rows
    assert [row.status.ok for row in table.rows] == [True, True, True, False]
    assert "'ilqr', 'mppi', 'smc', or cai.models.discretize" in exact.detail
    assert mppi.effective_sample_size >= 1
    assert "fewer than 10 samples count" in mppi.detail
    for row in (ilqr, mppi, aico):
        assert math.isfinite(row.real_return)
        assert row.believed_return is None
    assert table.to_dict()["rows"][0]["elbo"] is None
    assert table.to_frame().shape[0] == 4
