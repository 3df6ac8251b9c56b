"""Gymnasium environments as worlds: what they hold, what they refuse, and the steps collected in them."""

import functools
import math
import pickle
import typing

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

import cai
from cai.models import (
    ContinuousModel,
    Simulator,
    bridge,
    chain,
    collect,
    environment_model,
    multi_goal,
    pendulum,
    random_mdp,
    vector_environment,
)
from cai.models.environments.streams import reset_seed


class Counter(gymnasium.Env):
    """Observes [seed-dependent offset + steps]; ends after `end` steps, is cut after `cut`."""

    def __init__(self, end=None, cut=None, trouble=None, observation_space=None, action_space=None):
        self.observation_space = observation_space or spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.action_space = action_space or spaces.Box(-1.0, 3.0, (1,), np.float32)
        self.end, self.cut, self.trouble, self.episode = end, cut, trouble or {}, -1

    def seen(self):
        return np.array([self.offset + self.t])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.offset, self.t, self.episode = float(self.np_random.integers(1000)), 0, self.episode + 1
        return self.seen(), {}

    def step(self, action):
        self.t += 1
        place = self.trouble.get((self.episode, self.t))
        observation = self.seen() if place != "observation" else np.array([np.nan])
        reward = place if isinstance(place, float) else float(np.sum(action))
        ended, cut = self.t == self.end, self.t == self.cut
        return observation, reward, ended, cut, {}


class Forever(gymnasium.Env):
    """Nothing happens, without end."""

    observation_space, action_space = spaces.Discrete(1), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        return 0, 0.0, False, False, {}


class Offset(gymnasium.Env):
    """Shows the last action; counts observations from -2 and actions from 5."""

    observation_space, action_space = spaces.Discrete(3, start=-2), spaces.Discrete(2, start=5)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return -2, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        return int(action) - 6, 10.0 * (int(action) - 5), self.t == 4, False, {}


def world(discount=0.9, temperature=1.0, source=Counter, **options):
    return environment_model(source, discount=discount, temperature=temperature, **options)


def test_a_world_holds_what_a_learner_asks_for():
    found = environment_model("Pendulum-v1", discount=0.99, temperature=0.2, g=9.0)
    assert (found.source, found.name, found.discount, found.temperature) == ("Pendulum-v1", "Pendulum-v1", 0.99, 0.2)
    assert found.horizon == math.inf
    assert found.action_space == spaces.Box(-2.0, 2.0, (1,), np.float32)
    assert found.observation_space.shape == (3,)
    assert isinstance(found, Simulator)
    worlds = found.make(3)
    assert worlds.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    assert worlds.unwrapped.envs[0].unwrapped.g == 9.0
    prior = found.action_prior(torch.zeros(5, 3))
    assert prior.batch_shape == (5,)
    assert prior.event_shape == (1,)
    assert torch.allclose(prior.log_prob(torch.zeros(5, 1)).exp(), torch.tensor(0.25).double())
    with pytest.raises(AttributeError):
        found.discount = 0.5
    again = pickle.loads(pickle.dumps(found))
    assert again.make(1).reset(seed=[1])[0].tolist() == worlds.reset(seed=[1, 2, 3])[0][:1].tolist()
    assert found.replace(temperature=0.5).temperature == 0.5


def test_discrete_actions_have_a_categorical_prior():
    prior = environment_model("CartPole-v1", discount=0.9, temperature=1.0).action_prior(np.zeros((4, 4)))
    assert prior.probs.tolist() == [[0.5, 0.5]] * 4


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Dict({"a": spaces.Discrete(2)}), "FlattenObservation"),
        (spaces.Tuple([spaces.Discrete(2)]), "FlattenObservation"),
        (spaces.MultiBinary(3), "FlattenObservation"),
        (spaces.Text(3), "expected a Box"),
    ],
)
def test_observations_that_nobody_learns_from_are_refused(space, message):
    with pytest.raises(ValueError, match=message):
        world(observation_space=space)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"action_space": spaces.Box(-np.inf, np.inf, (2,))}, ValueError, "action_bounds"),
        ({"action_space": spaces.Box(np.float32([0.0]), np.float32([np.inf]))}, ValueError, "action_bounds"),
        ({"action_space": spaces.MultiDiscrete([2, 2])}, ValueError, "number the combinations in a gymnasium.ActionW"),
        ({"action_space": spaces.Box(0, 3, (1,), np.int64)}, ValueError, "whole numbers, of which there are no dens"),
        ({"action_space": spaces.Box(0, 3, (1,), np.uint8), "action_bounds": (0, 2)}, ValueError, "whole numbers"),
        ({"action_space": spaces.Box(0, 3, (0,))}, ValueError, "hold no number, so that nothing is chosen"),
        ({"action_bounds": (1.0, 1.0 + 1e-9)}, ValueError, "finite numbers of float32, low < high"),
        ({"action_space": spaces.Discrete(2), "action_bounds": (0, 1)}, ValueError, "are for boxes"),
        ({"action_bounds": (0.0, 4.0)}, ValueError, "leaves the actions"),
        ({"action_bounds": (1.0, 0.0)}, ValueError, "low < high"),
        ({"action_bounds": 3}, ValueError, "low, high"),
        ({"discount": 1.0, "cut": 10}, ValueError, "truncation, no end"),
        ({"discount": 0.0}, ValueError, "discount"),
        ({"temperature": 0.0}, ValueError, "temperature"),
        ({"max_episode_steps": 0}, ValueError, "max_episode_steps"),
        ({"action_prior": 3}, TypeError, "action_prior"),
        ({"source": 3}, TypeError, "source of a world"),
        ({"source": "Pendelum-v1"}, ValueError, "cannot make"),
        ({"source": lambda: 3}, TypeError, "expected a gymnasium.Env"),
        (
            {"source": lambda n: Counter()},
            TypeError,
            r"cannot be called as <lambda>\(\): missing a required argument: 'n'",
        ),
        (
            {"source": lambda num_envs, n: 0},
            TypeError,
            r"called as <lambda>\(num_envs=1\): .*'n'; a function that makes",
        ),
        ({"source": Counter()}, TypeError, "made already"),
        ({"source": SyncVectorEnv([Counter])}, ValueError, "AutoresetMode.DISABLED"),
        ({"source": SyncVectorEnv([Counter], autoreset_mode="SameStep")}, ValueError, "AutoresetMode.DISABLED"),
        ({"source": lambda num_envs: SyncVectorEnv([Counter] * num_envs)}, ValueError, "AutoresetMode.DISABLED"),
        ({"source": lambda num_envs: Counter()}, TypeError, "expected a VectorEnv"),
    ],
)
def test_what_is_no_world_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        world(**options)


def test_a_vector_is_asked_itself_how_it_resets():
    """Under Gymnasium 1.3 copies of one class may share their metadata, where the last one made speaks for all."""
    source = SyncVectorEnv([Counter])
    source.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
    with pytest.raises(ValueError, match="NEXT_STEP"):
        environment_model(source, discount=0.9, temperature=1.0)


def test_without_a_discount_episodes_must_terminate():
    assert world(discount=1.0, end=7, cut=7).discount == 1.0
    assert world(discount=1.0, end=2000, cut=None).discount == 1.0
    assert world(discount=1.0, end=5000, cut=None).discount == 1.0
    assert world(discount=1.0, end=2500, max_episode_steps=3000).discount == 1.0


def test_episodes_that_a_limit_alone_ends_do_not_terminate(monkeypatch):
    """However long it is: ten of them are tried, and 2,000 steps."""
    monkeypatch.setattr("cai.models.environments.world.LONGEST_PROBE", 6000)
    with pytest.raises(ValueError, match=r"within 2,000 steps of the action prior \(200 were cut at their limit"):
        world(discount=1.0, max_episode_steps=10)
    with pytest.raises(ValueError, match=r"within 5,000 steps of the action prior \(10 were cut .* max_episode_steps"):
        world(discount=1.0, max_episode_steps=500)
    with pytest.raises(ValueError, match=r"within 6,000 steps of the action prior \(0 were cut"):
        world(discount=1.0, source=Forever)
    ready = SyncVectorEnv([functools.partial(Counter, cut=400)] * 5, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(ValueError, match=r"within 4,000 steps of the action prior \(10 were cut"):
        world(discount=1.0, source=ready)


def test_whole_numbers_that_begin_elsewhere_are_counted_from_0():
    """An environment whose 3 observations are -2, -1, 0 and whose actions are 5 and 6."""
    found = world(source=Offset)
    assert (found.observation_space, found.action_space) == (spaces.Discrete(3), spaces.Discrete(2))
    steps = collect(found, 40, seed=3)
    assert steps.actions.unique().tolist() == [0, 1]
    assert torch.equal(steps.next_observations, steps.actions + 1)
    assert torch.equal(steps.rewards, 10.0 * steps.actions)
    assert steps.observations[0] == 0
    assert found.replace(temperature=2.0).make(2).reset(seed=[1, 2])[0].tolist() == [0, 0]
    many = world(
        source=lambda: Counter(observation_space=spaces.MultiDiscrete([900, 4], start=[3, 0]), trouble={}),
    )
    assert many.observation_space == spaces.MultiDiscrete([900, 4])


def test_bounds_make_a_box_of_what_has_none():
    unbounded = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    found = world(action_space=unbounded, action_bounds=([-1, 0], [1, 4]))
    assert found.action_space == spaces.Box(np.float32([-1, 0]), np.float32([1, 4]))
    assert found.make(2).single_action_space == found.action_space
    drawn = collect(found, 50).actions
    assert float(drawn[:, 1].min()) >= 0
    assert 2 < float(drawn[:, 1].max()) <= 4


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("observation", r"observation nan at step 2 of episode 1 in environment 1"),
        (math.nan, r"reward nan at step 2 of episode 1 in environment 1"),
        (-math.inf, r"reward -inf at step 2 of episode 1 in environment 1.*penalty"),
    ],
)
def test_numbers_that_are_none_are_refused_with_their_place(place, message):
    made = []

    def counter():
        made.append(Counter(cut=4, trouble={(1, 3): place} if len(made) % 2 else {}))
        return made[-1]

    made.append(None)  # the first copy of two has no trouble
    with pytest.raises(ValueError, match=message):
        collect(world(source=counter), 20, num_envs=2)


FORMS = {
    "shape": ({"seen": lambda told: np.zeros(3)}, r"returned an observation of shape \[3\], and its .* has \[1\]"),
    "old reset": ({"reset": lambda told: told[0]}, r"reset returned a ndarray; expected \(observation, info\)"),
    "old step": (
        {"step": lambda told: (*told[:3], {})},
        r"step returned 4 parts, .*truncated, info\), with info a dict",
    ),
    "no info": ({"step": lambda told: (*told[:4], None)}, "step returned 5 parts, the last a NoneType; expected"),
    "array": (
        {"step": lambda told: (told[0], np.ones(1), *told[2:])},
        r"is an array of shape \[1\]; return one number",
    ),
    "a word": (
        {"step": lambda told: (told[0], "much", *told[2:])},
        "the reward of a step is 'much'; return one number",
    ),
    "digits": ({"step": lambda told: (told[0], "1.0", *told[2:])}, "the reward of a step is '1.0'; return one number"),
    "nothing": ({"step": lambda told: (told[0], None, *told[2:])}, "the reward of a step is None; return one number"),
}


@pytest.mark.parametrize("case", FORMS)
def test_what_does_not_keep_to_the_interface_is_told_where(case):
    changes, message = FORMS[case]

    def changed(name):
        change = changes.get(name, lambda told: told)
        return lambda self, *given, **named: change(getattr(Counter, name)(self, *given, **named))

    odd = type("Odd", (Counter,), {name: changed(name) for name in ("seen", "reset", "step")})
    with pytest.raises(ValueError, match="Odd: .*" + message):
        collect(world(source=odd, discount=0.9), 3)


def test_ready_made_vectors_and_functions_of_vectors_are_worlds():
    ready = SyncVectorEnv([Counter] * 2, autoreset_mode=AutoresetMode.DISABLED)
    found = world(source=ready)
    assert collect(found, 5, num_envs=2).rewards.shape == (5, 2)
    with pytest.raises(ValueError, match="has 2 copies, and 3"):
        found.make(3)
    model = chain(horizon=math.inf, discount=0.9)
    made = world(source=functools.partial(vector_environment, model, observe="index"))
    steps = collect(made, 50, num_envs=4, seed=2)
    direct = collect(model, 50, num_envs=4, seed=2)
    assert steps.observations.shape == direct.observations.shape == (50, 4)
    assert steps.observations.dtype == torch.int64


class OneArray(VectorEnv):
    """Writes every step into the same arrays, flags as bytes, as fast vectors do: two clocks, one ends at 3."""

    metadata: typing.ClassVar = {"autoreset_mode": AutoresetMode.DISABLED}
    num_envs = 2
    single_observation_space, single_action_space = spaces.Box(-1, 9, (1,), np.float32), spaces.Discrete(2)
    observation_space = spaces.Box(-1, 9, (2, 1), np.float32)
    action_space = spaces.MultiDiscrete([2, 2])

    def __init__(self):
        self.seen, self.paid = np.zeros((2, 1), np.float32), np.zeros(2, np.float32)
        self.ended, self.cut = np.zeros(2, np.uint8), np.zeros(2, np.uint8)

    def reset(self, *, seed=None, options=None):
        which = (options or {}).get("reset_mask", np.ones(2, bool))
        self.seen[which], self.ended[which], self.paid[which] = 0, 0, 0
        return self.seen, {}

    def step(self, actions):
        self.seen += 1
        self.paid[:] = self.seen[:, 0]
        self.ended[:] = self.seen[:, 0] >= (3, 99)
        return self.seen, self.paid, self.ended, self.cut, {}


def test_what_a_vector_writes_over_is_kept_as_it_was():
    """The rows of a learner's buffer: seen, action, paid, terminated, seen after."""
    made = OneArray()
    learner = cai.inference.SoftActorCritic(steps=20, hidden_sizes=(4,), warmup_steps=20).learner(world(source=made))
    rows = learner.step(learner.init(world(source=made), seed=0))[0].problem.buffer._rows.reshape(-1, 2, 5)[:10]
    clocks = torch.arange(10)
    for copy, before in enumerate((clocks % 3, clocks)):
        assert rows[:, copy, [0, 2, 4]].long().tolist() == torch.stack([before, before + 1, before + 1], 1).tolist()
    assert rows[:, 0, 3].tolist() == [0, 0, 1] * 3 + [0]
    assert not rows[:, 1, 3].any()


def test_a_simulator_goes_on_from_its_own_states_alone():
    found = world(end=3)
    first = found.reset(2, torch.Generator().manual_seed(0))
    assert first.shape == (2, 1)
    again = found.reset(2, torch.Generator().manual_seed(0))
    assert torch.equal(first, again)
    actions = torch.tensor([[1.0], [2.0]])
    states, rewards, alive = found.step(again, actions, 0)
    assert torch.equal(states, again + 1)
    assert rewards.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="cannot be set to a state"):
        found.step(first, actions, 1)
    for t in (1, 2, 3, 4):
        last = states
        states, rewards, alive = found.step(states, actions, t)
    assert torch.equal(states, again + 3)
    assert torch.equal(states, last)
    assert rewards.tolist() == [0.0, 0.0]
    assert alive.tolist() == [False, False]
    with pytest.raises(ValueError, match="call reset"):
        world().step(first, actions, 0)


@pytest.mark.parametrize("number", [1, 3])
def test_transitions_are_those_of_their_own_episodes(number):
    found = collect(world(end=4, cut=4), 10, num_envs=number, seed=5)
    parts = [part if number > 1 else part[:, None] for part in found]
    assert [part.shape[:2] for part in parts] == [(10, number)] * 6
    observations, actions, rewards, following, terminated, truncated = parts
    assert torch.equal(following, observations + 1)
    assert torch.equal(rewards, actions[..., 0].double())
    assert not truncated.any()
    assert terminated[:, 0].tolist() == [False, False, False, True] * 2 + [False, False]
    for copy in range(number):
        for episode in range(3):
            expected = np.random.default_rng(reset_seed(5, copy, episode)).integers(1000)
            assert float(observations[4 * episode, copy, 0]) == expected
    cut = collect(world(cut=4), 10, seed=5)
    assert cut.truncated.tolist() == terminated[:, 0].tolist()
    assert torch.equal(cut.observations, observations[:, 0])
    assert cut.actions.dtype == torch.float32
    drawn = collect(world(cut=4), 80, seed=5).actions
    assert -1 <= float(drawn.min()) < 0 < 2 < float(drawn.max()) <= 3


def test_seeds_are_numpys_and_the_same_run_repeats():
    assert reset_seed(3, 1, 2) == int(np.random.SeedSequence([3, 1, 2]).generate_state(1)[0])
    first, second, other = (collect(world(cut=3), 20, num_envs=2, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.observations, other.observations)


def test_a_limit_of_steps_truncates():
    steps = collect(world(max_episode_steps=3), 7)
    assert steps.truncated.tolist() == [False, False, True, False, False, True, False]


def test_steps_are_collected_in_models_and_by_policies():
    class Constant:
        horizon = math.inf

        def act(self, observations, t=0, *, generator=None, deterministic=False):
            return torch.ones(len(observations), dtype=torch.int64)

    model = random_mdp(horizon=3)
    steps = collect(model, 7, policy=Constant(), seed=1)
    assert steps.observations[:, 1].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert steps.actions.tolist() == [1] * 7
    assert steps.terminated.tolist() == [False, False, True, False, False, True, False]
    table = bridge(horizon=math.inf)
    prior = collect(table, 300, num_envs=2)
    assert set(prior.actions.flatten().tolist()) == {0, 1, 2, 3}
    point = collect(multi_goal(horizon=4), 9)
    assert point.observations.shape == (9, 2)
    assert point.terminated.tolist() == [False] * 3 + [True] + [False] * 3 + [True, False]
    assert isinstance(multi_goal(), ContinuousModel)
    with pytest.raises(ValueError, match="no action can be drawn"):
        collect(pendulum(), 3)
    with pytest.raises(TypeError, match=r"policy is a int, which does not act; give cai\.extract_policy"):
        collect(bridge(), 3, policy=3)
    with pytest.raises(TypeError, match="the world is a str"):
        collect("Pendulum-v1", 3)


def test_policies_that_know_the_time_are_asked_by_it():
    asked = []

    class Timed:
        horizon = 4

        def act(self, observations, t=0, *, generator=None, deterministic=False):
            asked.append((t, len(observations)))
            return torch.zeros(len(observations), 1)

    collect(world(end=4), 5, policy=Timed(), num_envs=2)
    assert asked == [(0, 2), (1, 2), (2, 2), (3, 2), (0, 2)]


def test_a_prior_of_ones_own_draws_from_the_generator():
    def prior(observations):
        return torch.distributions.Independent(torch.distributions.Normal(torch.ones(len(observations), 1), 0.01), 1)

    first, second = (collect(world(action_prior=prior), 20, seed=3) for _ in range(2))
    assert torch.equal(first.actions, second.actions)
    assert bool(((first.actions - 1).abs() < 0.1).all())
