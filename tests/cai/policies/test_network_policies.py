"""Policies of networks in environments: every reset mode, wrappers, masks, and spaces that do not fit."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import cai
from cai.models import environment_model, multi_goal

RECORDS = []


class Counted(gymnasium.Env):
    """Lasts as long as its reset draws, from one step on, and writes down what every episode came to."""

    def __init__(self, seen="box", boxed=False):
        self.seen = seen
        self.observation_space = {
            "box": spaces.Box(-9.0, 9.0, (2,), np.float64),
            "bytes": spaces.Box(0, 255, (2,), np.uint8),
            "dict": spaces.Dict({"t": spaces.Box(0.0, 9.0, (1,), np.float32), "n": spaces.Discrete(9)}),
            "numbers": spaces.MultiDiscrete([9, 9]),
        }[seen]
        self.action_space = spaces.Box(-1.0, 3.0, (2,), np.float32) if boxed else spaces.Discrete(3)

    def _told(self):
        if self.seen == "dict":
            seen = {"t": np.array([self.t], np.float32), "n": np.int64(self.length)}
        else:
            seen = np.array([self.t, self.length], dtype=self.observation_space.dtype)
        mask = np.ones(3, dtype=np.int8)
        mask[(self.t + self.length) % 3] = 0
        return seen, {"action_mask": mask} if hasattr(self.action_space, "n") else {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.length = 0, int(self.np_random.integers(1, 7))
        self.record = {"sum": 0.0, "steps": 0, "over": False}
        RECORDS.append(self.record)
        return self._told()

    def step(self, action):
        assert not self.record["over"]
        assert action in self.action_space
        assert not hasattr(self.action_space, "n") or self._told()[1]["action_mask"][action]
        reward = float(np.sum(action)) + self.t / 8
        self.t += 1
        self.record["sum"] += reward
        self.record["steps"] += 1
        self.record["over"] = over = self.t == self.length
        terminated, truncated = (
            over and self.length in (1, 2, 4, 6),
            over and self.length in (1, 3, 4, 5),
        )  # some are both
        return (told := self._told())[0], reward, terminated, truncated, told[1]


def make(seen, boxed, limit):
    env = Counted(seen, boxed)
    env = wrappers.FlattenObservation(env) if seen == "dict" else env
    return wrappers.TimeLimit(wrappers.RecordEpisodeStatistics(env), 5) if limit else env


def played():
    """Sums and steps of the episodes that were written down, to the last digit."""
    return sorted((record["sum"], record["steps"]) for record in RECORDS if record["steps"])


CASES = [(seen, boxed) for seen in ("box", "bytes", "dict", "numbers") for boxed in (False, True)]


@pytest.mark.parametrize(("seen", "boxed"), CASES)
@pytest.mark.parametrize("limit", [False, True])
def test_every_reset_mode_plays_whole_episodes(seen, boxed, limit):
    """Masks that change with every step are kept in each; what an environment counts is what is told."""

    def one():
        return make(seen, boxed, limit)

    world = environment_model(one, discount=0.9, temperature=1.0)
    backend = "soft-actor-critic" if boxed else "soft-q-learning"
    answer = cai.infer(world, backend, hidden_sizes=(4,), batch_size=4, steps=40, warmup_steps=20, num_envs=2)
    policy = answer.policy()
    options = {"seed": 3, "max_steps": 4 if limit else None, "deterministic": limit}
    for mode in (None, *AutoresetMode):
        world_now = one() if mode is None else SyncVectorEnv([one] * 3, autoreset_mode=mode)
        RECORDS.clear()
        found = policy.run(world_now, episodes=8, **options)
        known = played()
        assert found.returns.shape == (8,)
        for total, steps in zip(found.returns.tolist(), found.steps.tolist(), strict=True):
            assert steps <= (4 if limit else 6)
            assert (total, steps) in known, mode
            known.remove((total, steps))
    RECORDS.clear()
    outcome = cai.evaluate(policy, world, episodes=5)
    sums = [total for total, _ in played()]
    assert all(float(total) in sums for total in outcome.stochastic_return.samples)


@pytest.mark.parametrize("boxed", [False, True])
def test_a_learner_counts_the_episodes_that_its_world_counts(boxed):
    world = environment_model(lambda: make("box", boxed, True), discount=0.9, temperature=1.0)
    RECORDS.clear()
    options = {"hidden_sizes": (4,), "batch_size": 4, "steps": 60, "warmup_steps": 20, "num_envs": 3}
    history = cai.infer(world, "soft-actor-critic", **options).details["history"]
    over = [record for record in RECORDS if record["over"] or record["steps"] == 5]
    assert sum(record["steps"] for record in RECORDS) == 60
    assert float(history.episode_return[-1]) == pytest.approx(np.mean([record["sum"] for record in over]))
    assert float(history.episode_length[-1]) == pytest.approx(np.mean([record["steps"] for record in over]))


def test_saved_policies_run_as_well(tmp_path):
    world = environment_model("Pendulum-v1", discount=0.9, temperature=1.0)
    policy = cai.infer(world, "soft-actor-critic", hidden_sizes=(4,), batch_size=4, steps=30).policy()
    again = cai.load(policy.save(tmp_path / "policy.safetensors"))
    env = gymnasium.make("Pendulum-v1")
    assert again.run(env, seed=1, max_steps=20) == policy.run(env, seed=1, max_steps=20)


def test_spaces_that_do_not_fit_are_refused_before_the_first_step():
    def learned(world, backend):
        return cai.infer(world, backend, hidden_sizes=(4,), batch_size=4, steps=30).policy()

    def spaced(seen, acts):
        env = Counted()
        env.observation_space, env.action_space = seen, acts
        return env

    box = learned(environment_model("Pendulum-v1", discount=0.9, temperature=1.0), "soft-actor-critic")
    table = learned(environment_model("CliffWalking-v1", discount=0.9, temperature=1.0), "soft-q-learning")
    three, wide = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-9.0, 9.0, (1,))
    for policy, env, said in (
        (box, spaced(spaces.Box(-1.0, 1.0, (4,)), wide), "this policy sees 3 numbers"),
        (box, spaced(spaces.Discrete(3), wide), "this policy sees 3 numbers"),
        (box, spaced(three, spaces.Box(-1.0, 1.0, (1,))), r"acts from \[-2.0\] to \[2.0\], which is not within it"),
        (box, spaced(three, spaces.Discrete(2)), r"arrays of shape \[1\], which needs a Box"),
        (table, spaced(spaces.Discrete(48, start=1), spaces.Discrete(4)), r"1 whole numbers below \[48\], from 0"),
        (table, spaced(spaces.Discrete(48), spaces.Discrete(4, start=1)), "does not begin at 0"),
        (table, spaced(spaces.Discrete(48), spaces.Discrete(5)), "it was made for another problem"),
        (table, spaced(three, spaces.Discrete(4)), r"whole numbers below \[48\]"),
    ):
        with pytest.raises(ValueError, match=said):
            policy.run(env)
    with pytest.raises(ValueError, match="this policy sees 3 numbers"):
        cai.evaluate(box, environment_model("MountainCarContinuous-v0", discount=0.9, temperature=1.0), episodes=2)
    unbounded = spaced(three, spaces.Box(-np.inf, np.inf, (1,)))
    box._check_spaces(unbounded.observation_space, unbounded.action_space)
    goals = learned(multi_goal(horizon=4), "soft-actor-critic")  # sees t beside the state
    goals._check_spaces(spaces.Box(-9.0, 9.0, (2,)), spaces.Box(-1.0, 1.0, (2,)))
