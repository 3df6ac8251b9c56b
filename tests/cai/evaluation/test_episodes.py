"""Episodes of a policy in environments and continuous models: seeds, sums and what is refused."""

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import cai
from cai.evaluation import EpisodeOutcome
from cai.models import bridge, environment_model, multi_goal, pendulum
from cai.models.environments.streams import reset_seed


class Lengths(gymnasium.Env):
    """Lasts 1 to 9 steps, as its seed says, pays the action, and observes the steps so far."""

    observation_space = spaces.Box(0.0, 100.0, (1,), np.float64)
    action_space = spaces.Box(-5.0, 5.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length, self.t = int(self.np_random.integers(1, 10)), 0
        return np.zeros(1), {}

    def step(self, action):
        self.t += 1
        return np.array([float(self.t)]), float(action[0]), self.t == self.length, False, {}


class Noisy:
    """Draws around 1; its mean is 1."""

    horizon = math.inf

    def act(self, observations, t=0, *, generator=None, deterministic=False):
        ones = torch.ones(len(observations), 1)
        return ones if deterministic else ones + 0.1 * torch.randn(ones.shape, generator=generator)


class NoMean(Noisy):
    def act(self, observations, t=0, *, generator=None, deterministic=False):
        if deterministic:
            raise ValueError("a multimodal policy has no meaningful mean action")
        return super().act(observations, t, generator=generator)


def world(source=Lengths):
    return environment_model(source, discount=0.9, temperature=1.0)


def expected_lengths(seed, number):
    seeds = [reset_seed(seed, 2**32 - 1, i) for i in range(number)]
    return [int(np.random.default_rng(one).integers(1, 10)) for one in seeds]


@pytest.mark.parametrize("number", [3, 25])
def test_every_episode_is_played_whole_from_its_own_seed(number):
    found = cai.evaluate(Noisy(), world(), episodes=number, seed=4)
    assert isinstance(found, EpisodeOutcome)
    lengths = expected_lengths(4, number)
    assert found.episode_length.samples.tolist() == lengths
    assert found.deterministic_return.samples.tolist() == lengths
    assert torch.allclose(found.stochastic_return.samples, torch.tensor(lengths).double(), atol=2.0)
    assert found.stochastic_return.samples.tolist() != lengths
    one = found.deterministic_return
    assert one.mean == np.mean(lengths)
    assert math.isclose(one.std, np.std(lengths, ddof=1))
    assert math.isclose(one.standard_error, one.std / math.sqrt(number))
    again = cai.evaluate(Noisy(), world(), episodes=number, seed=4)
    assert torch.equal(again.stochastic_return.samples, found.stochastic_return.samples)
    with pytest.raises(AttributeError, match=r"stochastic_return\.mean is its estimate"):
        _ = found.expected_return


def test_discounted_returns_are_those_of_the_world():
    class One(Noisy):
        def act(self, observations, t=0, *, generator=None, deterministic=False):
            return torch.ones(len(observations), 1)

    found = cai.evaluate(One(), world())
    lengths = torch.tensor(expected_lengths(0, 20)).double()
    assert torch.allclose(found.discounted_return.samples, (1 - 0.9**lengths) / 0.1)


def test_a_policy_without_a_mean_says_so_and_is_evaluated():
    found = cai.evaluate(NoMean(), world(), episodes=5)
    assert found.deterministic_return is None
    assert found.stochastic_return.samples.shape == (5,)


def test_a_ready_made_vector_plays_any_number_of_episodes():
    ready = SyncVectorEnv([Lengths] * 4, autoreset_mode=AutoresetMode.DISABLED)
    for number in (2, 4, 11):
        found = cai.evaluate(Noisy(), world(ready), episodes=number, seed=1)
        assert found.episode_length.samples.tolist() == expected_lengths(1, number)


def test_tables_act_in_environments_and_outcomes_travel(tmp_path):
    lake = environment_model("FrozenLake-v1", discount=0.99, temperature=0.01, is_slippery=False)
    answer = cai.infer(cai.models.gymnasium_model("FrozenLake-v1", is_slippery=False, horizon=math.inf), "variational")
    found = cai.evaluate(cai.extract_policy(answer), lake, episodes=4)
    assert found.deterministic_return.samples.tolist() == [1.0] * 4
    again = cai.load(found.save(tmp_path / "outcome"))
    assert torch.equal(again.stochastic_return.samples, found.stochastic_return.samples)
    with pytest.raises(ValueError, match="states"):
        cai.evaluate(cai.extract_policy(answer), environment_model("Taxi-v4", discount=0.9, temperature=1.0))


def test_continuous_models_are_played_when_episodes_are_asked_for():
    asked = set()

    class Right:
        horizon = 30

        def act(self, observations, t=0, *, generator=None, deterministic=False):
            asked.add(t)
            assert observations.shape[1] == 2
            return torch.tensor([[1.0, 0.0]]).double().expand(len(observations), 2)

    model = multi_goal()
    found = cai.evaluate(Right(), model, episodes=3)
    rollouts = cai.evaluate(Right(), model, num_rollouts=2)
    assert found.stochastic_return.samples.tolist() == pytest.approx([rollouts.expected_return] * 3)
    assert found.episode_length.samples.tolist() == [5.0] * 3
    assert max(asked) == 4


def test_what_has_no_episodes_is_refused():
    model = bridge()
    policy = cai.extract_policy(cai.infer(model, "variational"))
    with pytest.raises(ValueError, match="num_rollouts"):
        cai.evaluate(policy, model, episodes=20)
    with pytest.raises(ValueError, match="in place of num_rollouts"):
        cai.evaluate(Noisy(), world(), num_rollouts=10)
    with pytest.raises(ValueError, match="episodes"):
        cai.evaluate(Noisy(), world(), episodes=1)
    with pytest.raises(TypeError, match="does not act"):
        cai.evaluate(3, world())
    with pytest.raises(TypeError, match="does not act"):
        cai.evaluate("policy", pendulum(), episodes=3)
