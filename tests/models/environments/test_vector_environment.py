"""Copies of a model: what is drawn is the model, copies do not disturb each other, and episodes end where they must."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv
from methods import FAILURE_RATE
from oracle import random_problem

from cai.models import (
    MDP,
    ContinuousModel,
    TrajectoryModel,
    bridge,
    environment,
    inventory,
    multi_goal,
    pendulum,
    random_mdp,
    vector_environment,
)
from cai.models.environments import outcomes

COPIES = 4000


def uniform_actions(mask, rng):
    """int64 [N], an available action for each copy."""
    return np.array([rng.choice(np.flatnonzero(row)) for row in mask])


def far(count, trials, chance, tests):
    """Whether a frequency is further from its probability than the shared failure rate allows."""
    limit = -NormalDist().inv_cdf(FAILURE_RATE / (2 * tests))
    return abs(count - trials * chance) > limit * math.sqrt(trials * chance * (1 - chance)) + 8


@pytest.mark.parametrize("evaluated", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_what_is_drawn_is_the_model(seed, evaluated, monkeypatch):
    """Starts, next states and rewards by their frequencies; each reward is that of an outcome which can be drawn."""
    if evaluated:
        monkeypatch.setattr(outcomes, "REWARD_ENTRIES", 0)
    problem = random_problem(seed, horizon=3)
    worlds = vector_environment(problem.model, COPIES, observe="index", seed=seed)
    seen, info = worlds.reset()
    for state, chance in enumerate(problem.initial):
        assert not far((seen[:, 0] == state).sum(), COPIES, chance, problem.num_states)
    rng = np.random.default_rng(seed)
    for t in range(problem.horizon):
        states = seen[:, 0]
        assert (seen[:, 1] == np.where(worlds._over, seen[:, 1], t)).all()
        over = np.array(problem.terminal)[states]
        actions = uniform_actions(info["action_mask"], rng)
        seen, rewards, terminated, truncated, info = worlds.step(actions)
        assert rewards.dtype == np.float64
        assert not truncated.any()
        assert (terminated == (np.array(problem.terminal)[seen[:, 0]] | (t + 1 == problem.horizon))).all()
        assert (seen[over, 0] == states[over]).all()
        assert (rewards[over] == 0).all()
        for state, row in enumerate(problem.outcomes):
            for action, listed in enumerate(row):
                here = (states == state) & (actions == action) & ~over
                expected = {}
                for probability, following, paid in listed:
                    if probability > 0 and here.any():
                        key = following, paid[t]
                        expected[key] = expected.get(key, 0.0) + probability
                for (following, paid), chance in expected.items():
                    met = here & (seen[:, 0] == following) & (rewards == paid)
                    assert not far(met.sum(), here.sum(), chance, 500)
                    here = here & ~met if chance == 1 else here
                left = [key for key in zip(seen[here, 0], rewards[here], strict=True) if key not in expected]
                assert not left


def test_rewards_may_change_over_time_and_copies_be_at_different_times(monkeypatch):
    table = torch.arange(24.0).reshape(4, 3, 2).double()

    def reward(state, action, next_state, t):
        return table[t, state, action]

    mdp = MDP(np.full((3, 2, 3), 1 / 3), [1.0, 0.0, 0.0])
    for limit in (0, 10**6):
        monkeypatch.setattr(outcomes, "REWARD_ENTRIES", limit)
        worlds = vector_environment(TrajectoryModel(mdp, reward, 4), 5, observe="index", seed=1)
        seen, _ = worlds.reset()
        rng = np.random.default_rng(0)
        for _ in range(12):
            actions = rng.integers(2, size=5)
            before = seen
            seen, rewards, terminated, _, _ = worlds.step(actions)
            assert rewards.tolist() == table[before[:, 1], before[:, 0], actions].tolist()
            mask = terminated | (rng.random(5) < 0.3)
            seen, _ = worlds.reset(options={"reset_mask": mask})
            assert (seen[mask, 1] == 0).all()


def test_a_copy_depends_on_its_own_seed_and_actions_alone():
    model = random_mdp(horizon=4)
    actions = np.random.default_rng(0).integers(3, size=(30, 3))
    worlds = vector_environment(model, 3, observe="index")
    found = [worlds.reset(seed=[7, 8, 9])[0]]
    for row in actions:
        seen, rewards, terminated, _, _ = worlds.step(row)
        if terminated.any():
            seen, _ = worlds.reset(options={"reset_mask": terminated})
        found.append(np.column_stack([seen, rewards]))
    for copy in range(3):
        alone = environment(model, observe="index")
        seen, info = alone.reset(seed=7 + copy)
        assert seen.tolist() == found[0][copy].tolist()
        assert info["action_mask"].tolist() == [1, 1, 1]
        for t, row in enumerate(actions):
            seen, reward, terminated, truncated, _ = alone.step(row[copy])
            assert terminated == ((t + 1) % 4 == 0)
            assert truncated is False
            if terminated:
                seen, _ = alone.reset()
            assert [*seen, reward] == found[t + 1][copy].tolist()


def test_resetting_some_leaves_the_others_alone():
    model = random_mdp(horizon=math.inf, discount=0.9)
    disturbed, left = (vector_environment(model, 4, observe="index", seed=3) for _ in range(2))
    assert disturbed.reset()[0].tolist() == left.reset()[0].tolist()
    mask = np.array([True, False, False, True])
    actions = np.random.default_rng(0).integers(3, size=(40, 4))
    for t, row in enumerate(actions):
        if t % 3 == 0:
            seeds = [t, None, 5, None] if t % 2 else None
            before = disturbed.states.copy()
            seen, _ = disturbed.reset(seed=seeds, options={"reset_mask": mask})
            assert (seen[~mask] == before[~mask]).all()
        ours, rewards, *_ = disturbed.step(row)
        theirs, others, *_ = left.step(row)
        assert ours[~mask].tolist() == theirs[~mask].tolist()
        assert rewards[~mask].tolist() == others[~mask].tolist()
    assert disturbed.states.tolist() != left.states.tolist()


def test_the_discount_ends_no_copy():
    model = random_mdp(horizon=math.inf, discount=0.05)
    worlds = vector_environment(model, 50, observe="index", seed=0)
    worlds.reset()
    for _ in range(20):
        seen, _, terminated, truncated, _ = worlds.step(np.zeros(50, dtype=int))
        assert not terminated.any()
        assert not truncated.any()
        assert (seen < model.mdp.num_states).all()


def test_a_limit_truncates_and_an_end_wins():
    model = bridge(horizon=5)
    worlds = vector_environment(model, 2, max_episode_steps=3)
    worlds.reset()
    flags = [worlds.step(np.zeros(2, dtype=int))[2:4] for _ in range(5)]
    assert [bool(truncated[0]) for _, truncated in flags] == [False, False, True, True, False]
    assert [bool(terminated[0]) for terminated, _ in flags] == [False, False, False, False, True]
    same = vector_environment(model, 2, max_episode_steps=5)
    same.reset()
    terminated, truncated = [same.step(np.zeros(2, dtype=int))[2:4] for _ in range(5)][-1]
    assert terminated.all()
    assert not truncated.any()


def test_observations_are_those_that_were_asked_for():
    finite, infinite = bridge(horizon=4), bridge(horizon=math.inf)
    size = finite.mdp.num_states
    expected = {
        (finite, "index"): ((3, 2), np.int64),
        (infinite, "index"): ((3,), np.int64),
        (finite, "one-hot"): ((3, size + 1), np.float32),
        (infinite, "one-hot"): ((3, size), np.float32),
    }
    for (model, observe), (shape, dtype) in expected.items():
        worlds = vector_environment(model, 3, observe=observe, seed=0)
        assert isinstance(worlds, VectorEnv)
        assert worlds.metadata["autoreset_mode"] == AutoresetMode.DISABLED
        worlds.reset()
        worlds.step(np.full(3, 1))
        seen, *_, info = worlds.step(np.full(3, 1))
        assert (seen.shape, seen.dtype) == (shape, dtype)
        assert seen in worlds.observation_space
        assert info["action_mask"].dtype == np.int8
        assert info["action_mask"].shape == (3, 4)
        if observe == "one-hot":
            assert seen[:, :size].argmax(-1).tolist() == worlds.states.tolist()
            assert (seen.sum(-1) == (1.5 if model is finite else 1.0)).all()
    from gymnasium.spaces import Box

    worlds = vector_environment(
        finite,
        2,
        observe=lambda states, t: torch.as_tensor(np.stack([states, 10 * t], -1)).float(),
        observation_space=Box(0, 100, (2,), np.float32),
    )
    worlds.reset()
    assert worlds.step(np.zeros(2, dtype=int))[0][:, 1].tolist() == [10, 10]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"observe": "state"}, ValueError, "'one-hot', 'index'"),
        ({"observe": lambda states, t: states}, TypeError, "observation_space is None"),
        ({"observation_space": 3}, ValueError, "belongs to a function"),
        ({"max_episode_steps": 0}, ValueError, "max_episode_steps"),
        ({"num_envs": 0}, ValueError, "num_envs"),
        ({"model": "bridge"}, TypeError, "environment_model"),
    ],
)
def test_what_does_not_fit_is_refused(options, error, message):
    given = {"model": bridge(), "num_envs": 2, **options}
    with pytest.raises(error, match=message):
        vector_environment(given.pop("model"), given.pop("num_envs"), **given)


def test_actions_that_cannot_be_taken_are_refused():
    worlds = vector_environment(inventory(), 2, seed=0)
    with pytest.raises(ValueError, match="before the first reset"):
        worlds.step(np.zeros(2, dtype=int))
    _, info = worlds.reset()
    while info["action_mask"][1].all():
        *_, info = worlds.step(np.zeros(2, dtype=int))
        if worlds.times[1] == 12:
            worlds.reset()
            *_, info = worlds.step(np.ones(2, dtype=int))
    missing = int(np.flatnonzero(info["action_mask"][1] == 0)[0])
    with pytest.raises(ValueError, match=r"environment 1: action .* is not available in state"):
        worlds.step(np.array([0, missing]))
    with pytest.raises(ValueError, match="action 9 does not exist"):
        worlds.step(np.array([9, 0]))
    with pytest.raises(TypeError, match="whole numbers"):
        worlds.step(np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="reset_mask"):
        worlds.reset(options={"reset_mask": np.array([1, 0])})
    with pytest.raises(ValueError, match="2 environments"):
        worlds.reset(seed=[1])


def test_states_of_a_continuous_model_move_by_its_dynamics():
    model = multi_goal(horizon=6)
    worlds = vector_environment(model, 3, seed=0)
    seen, _ = worlds.reset()
    states = torch.zeros(3, 2).double()
    rng = np.random.default_rng(0)
    for t in range(6):
        assert seen[:, :2].tolist() == states.tolist()
        assert seen[:, 2].tolist() == [t / 6] * 3
        actions = rng.uniform(-1, 1, size=(3, 2)).astype(np.float32)
        expected, paid, _ = model.step(states, torch.as_tensor(actions).double(), t)
        seen, rewards, terminated, _, _ = worlds.step(actions)
        assert rewards.tolist() == paid.tolist()
        assert terminated.tolist() == [t == 5] * 3
        states = expected
    assert worlds.single_action_space.low.tolist() == [-1, -1]
    assert not np.isfinite(vector_environment(pendulum(), 1).single_action_space.high).any()
    worlds.reset()
    with pytest.raises(ValueError, match="outside the action space"):
        worlds.step(np.full((3, 2), 1.1))


def test_random_copies_of_a_continuous_model_have_seeds_of_their_own():
    from pyro.distributions import Normal

    model = ContinuousModel(
        Normal(torch.zeros(1).double(), 1.0).to_event(1),
        lambda s, a, t: Normal(0.9 * s + a, 0.1).to_event(1),
        lambda s, a, t: -(s[..., 0] ** 2),
        5,
        lambda s, t: Normal(torch.zeros_like(s), 1.0).to_event(1),
    )
    worlds = vector_environment(model, 3)
    rows = [worlds.reset(seed=[4, 5, 6])[0]] + [worlds.step(np.ones((3, 1)))[0] for _ in range(2)]
    alone = environment(model)
    for copy in range(3):
        own = [alone.reset(seed=4 + copy)[0]] + [alone.step(np.ones(1))[0] for _ in range(2)]
        assert np.stack(own).tolist() == np.stack([row[copy] for row in rows]).tolist()
    assert len({row[0] for row in rows[0].tolist()}) == 3
    seen, _ = worlds.reset(seed=[9, None, None], options={"reset_mask": np.array([True, False, False])})
    assert seen[1:].tolist() == rows[-1][1:].tolist()


def test_single_environments_follow_gymnasium():
    check_env(environment(random_mdp(), observe="index"), skip_render_check=True)
    check_env(environment(multi_goal()), skip_render_check=True)
    with pytest.raises(ValueError, match="no layout to draw"):
        environment(random_mdp(), render_mode="rgb_array")


def test_stable_baselines_trains_on_one():
    """Where it is installed (`make bench`): the environment is one that other libraries take."""
    peers = pytest.importorskip("stable_baselines3")
    for observe in ("one-hot", "index"):
        learner = peers.PPO("MlpPolicy", environment(bridge(), observe=observe), n_steps=64, batch_size=32, seed=0)
        learner.learn(256)
        assert learner.num_timesteps >= 256
