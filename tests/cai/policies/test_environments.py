"""Policies in Gymnasium environments: vectors against a plain loop, in every autoreset mode; what is refused."""

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import cai
from cai.inference.particles.particles import Particles
from cai.policies import Episodes, ParticlePolicy, Policy

STATES, ACTIONS = 5, 3
MODES = list(AutoresetMode)


class Walk(gymnasium.Env):
    """A random walk over numbered states whose episodes have random lengths, often 1."""

    observation_space = gymnasium.spaces.Discrete(STATES)
    action_space = gymnasium.spaces.Discrete(ACTIONS)

    def __init__(self, longest=12):
        self.longest = longest

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.state = 0, int(self.np_random.integers(STATES))
        return self.state, {}

    def step(self, action):
        assert 0 <= action < ACTIONS
        self.t += 1
        reward = self.state + 10.0 * action + 100.0 * self.t
        self.state = int(self.np_random.integers(STATES))
        return self.state, reward, bool(self.np_random.random() < 0.25), self.t >= self.longest, {}


def vector(number, mode, make=Walk, kind=SyncVectorEnv):
    return kind([make for _ in range(number)], autoreset_mode=mode)


def plain(policy, make, number, shares, seed, limit=math.inf):
    """What single environments give, one after the other, with the most probable actions."""
    rows = []
    for i in range(number):
        environment = make()
        for episode in range(shares[i]):
            state, _ = environment.reset(seed=seed + i if episode == 0 else None)
            total, t, terminated, truncated = 0.0, 0, False, False
            while not (terminated or truncated) and t < min(limit, policy.horizon):
                action = int(policy.probs(state, t).argmax())
                state, reward, terminated, truncated, _ = environment.step(action)
                total, t = total + reward, t + 1
            rows.append((total, t, terminated))
    return rows


def table(horizon, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (STATES, ACTIONS) if horizon == math.inf else (horizon, STATES, ACTIONS)
    return Policy(torch.rand(shape, generator=generator, dtype=torch.float64).softmax(-1))


def rows(episodes):
    assert isinstance(episodes, Episodes)
    return list(zip(episodes.returns.tolist(), episodes.steps.tolist(), episodes.terminated.tolist(), strict=True))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("horizon", "max_steps"), [(math.inf, None), (20, None), (4, None), (math.inf, 3), (9, 1)])
@pytest.mark.parametrize(("number", "episodes"), [(1, 6), (3, 3), (3, 11), (4, 2)])
def test_a_vector_plays_the_episodes_of_single_environments(mode, horizon, max_steps, number, episodes):
    policy = table(horizon)
    limit = math.inf if max_steps is None else max_steps
    shares = [len(range(i, episodes, number)) for i in range(number)]
    found = policy.run(vector(number, mode), seed=5, max_steps=max_steps, episodes=episodes, deterministic=True)
    assert rows(found) == plain(policy, Walk, number, shares, 5, limit)
    assert len(found.returns) == episodes


@pytest.mark.parametrize("mode", MODES)
def test_an_asynchronous_vector_does_as_well(mode):
    policy = table(4)
    environment = vector(2, mode, kind=AsyncVectorEnv)
    found = policy.run(environment, seed=3, episodes=7, deterministic=True)
    environment.close()
    assert rows(found) == plain(policy, Walk, 2, [4, 3], 3)


def test_a_single_environment_plays_several_episodes():
    policy = table(6)
    found = policy.run(Walk(), seed=1, episodes=5, deterministic=True)
    assert rows(found) == plain(policy, Walk, 1, [5], 1)
    assert policy.run(Walk(), seed=1, deterministic=True) == plain(policy, Walk, 1, [1], 1)[0]


def test_a_vector_plays_one_episode_each_unless_told():
    assert len(table(6).run(vector(3, AutoresetMode.SAME_STEP), seed=1).returns) == 3


@pytest.mark.parametrize("mode", MODES)
def test_drawn_runs_repeat_with_their_seed(mode):
    policy = table(math.inf)
    first, second = (rows(policy.run(vector(3, mode), seed=8, episodes=9)) for _ in range(2))
    assert first == second
    assert first != rows(policy.run(vector(3, mode), seed=9, episodes=9))


class Plane(gymnasium.Env):
    """Real states and actions; the return tells what was done."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.normal(size=2)
        return self.state, {}

    def step(self, action):
        assert action.shape == (1,)
        assert action.dtype == np.float32
        self.state = self.np_random.normal(size=2) + float(action[0])
        return self.state, float(action[0]), False, False, {}


def particles(size=30, steps=3):
    generator = torch.Generator().manual_seed(0)
    values = {f"s_{t}": torch.randn(size, 2, generator=generator) for t in range(1, steps + 1)}
    values |= {f"a_{t}": torch.randn(size, 1, generator=generator) for t in range(1, steps + 1)}
    return ParticlePolicy(Particles(values, torch.zeros(size).double()))


@pytest.mark.parametrize("mode", MODES)
def test_particles_act_on_real_observations(mode):
    policy = particles()
    found = policy.run(vector(3, mode, Plane), seed=2, episodes=5, deterministic=True)
    wanted = []
    for i, share in enumerate((2, 2, 1)):
        environment = Plane()
        for episode in range(share):
            state, _ = environment.reset(seed=2 + i if episode == 0 else None)
            total = 0.0
            for t in range(3):
                state, reward, *_ = environment.step(policy.mean(state, t).numpy().astype(np.float32))
                total += reward
            wanted.append(total)
    assert found.returns.tolist() == pytest.approx(wanted, abs=1e-5)
    assert found.steps.tolist() == [3] * 5
    assert not bool(found.terminated.any())


def spaces(observations, actions):
    environment = Walk()
    environment.observation_space, environment.action_space = observations, actions
    return environment


DISCRETE, BOX = gymnasium.spaces.Discrete, gymnasium.spaces.Box


@pytest.mark.parametrize(
    ("policy", "environment", "pattern"),
    [
        (table(3), spaces(DISCRETE(7), DISCRETE(3)), r"observation space is Discrete\(7\); the policy is for 5"),
        (table(3), spaces(DISCRETE(3), DISCRETE(3)), r"observation space is Discrete\(3\)"),
        (table(3), spaces(DISCRETE(5), DISCRETE(4)), r"action space is Discrete\(4\); the policy is for 3"),
        (table(3), spaces(DISCRETE(5, start=1), DISCRETE(3)), r"does not begin at 0"),
        (table(3), spaces(BOX(0, 1, (2,)), DISCRETE(3)), r"needs Discrete"),
        (particles(), spaces(BOX(0, 1, (3,)), BOX(0, 1, (1,))), r"observations are real numbers of shape \[2\]"),
        (particles(), spaces(BOX(0, 1, (2,)), DISCRETE(3)), r"actions are real numbers of shape \[1\]"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(policy, environment, pattern):
    environment.reset = environment.step = lambda *_, **__: pytest.fail("it was run")
    with pytest.raises(ValueError, match=pattern):
        policy.run(environment)


def test_a_model_s_added_absorbing_state_may_be_missing_in_the_environment():
    policy = Policy(torch.full((2, STATES + 1, ACTIONS), 1 / ACTIONS))
    assert policy.run(Walk(), seed=0)[1] <= 2


@pytest.mark.parametrize("options", [{"episodes": 0}, {"max_steps": 0}, {"episodes": True}, {"episodes": 2.0}])
def test_numbers_of_episodes_and_steps_are_checked(options):
    with pytest.raises(ValueError, match="whole number of at least 1"):
        table(3).run(Walk(), **options)


def test_a_vector_that_does_not_say_how_it_resets_is_refused():
    environment = vector(2, AutoresetMode.DISABLED)
    environment.metadata = {}
    del environment.autoreset_mode
    with pytest.raises(ValueError, match="autoreset_mode"):
        table(3).run(environment)


def test_policies_act_on_batches():
    policy = table(3)
    states = torch.arange(STATES)
    assert policy.probs(states, 1).shape == (STATES, ACTIONS)
    assert torch.equal(policy.act(states, 1, deterministic=True), policy.action_probs[1].argmax(-1))
    taken = policy.act(states, 2, generator=torch.Generator().manual_seed(0))
    logs = policy.log_prob(taken, states, 2)
    assert torch.equal(logs, torch.stack([policy.log_prob(taken[s], s, 2) for s in range(STATES)]))
    assert torch.equal(logs.exp(), policy.action_probs[2, states, taken])


def test_particle_policies_act_on_batches():
    policy = particles(200)
    states = torch.randn(7, 2, generator=torch.Generator().manual_seed(4))
    weights = policy.weights(states, 1)
    for row, state in zip(weights, states, strict=True):
        torch.testing.assert_close(row, policy.weights(state, 1), rtol=1e-12, atol=0)
    torch.testing.assert_close(policy.mean(states, 1)[3], policy.mean(states[3], 1), rtol=1e-12, atol=1e-15)
    assert policy.act(states, 1).shape == (7, 1)
    with pytest.raises(cai.inference.NotKnown, match="densities"):
        policy.log_prob(torch.zeros(7, 1), states, 1)
