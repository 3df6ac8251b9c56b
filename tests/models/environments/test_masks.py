"""Masks of available actions: told of every copy of a world after every reset and step, and followed."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from network_worlds import small_model

import cai
from cai.models import collect, environment, environment_model


class Doors(gymnasium.Env):
    """An action is a door; which one is shut depends on the step. Episodes of copies have lengths of their own.

    Args:
        told: a function of (step, whether the episode has just begun) that returns a mask, or None for none.
    """

    observation_space, action_space = spaces.Box(0.0, 100.0, (1,), np.float32), spaces.Discrete(3)

    def __init__(self, told=None):
        self.told = told or (lambda t, begins: np.arange(3) != t % 3)

    def _seen(self, begins=False):
        self.mask = self.told(self.t, begins)
        return np.array([self.t], np.float32), {} if self.mask is None else {"action_mask": self.mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.end = 0, int(self.np_random.integers(2, 9))
        return self._seen(begins=True)

    def step(self, action):
        if self.mask is not None and not self.mask[action]:
            raise ValueError(f"door {action} is shut at step {self.t}")
        self.t += 1
        seen, info = self._seen()
        return seen, float(action), self.t == self.end, False, info


def world_of(told=None):
    return environment_model(lambda: Doors(told), discount=0.9, temperature=1.0)


def test_a_reset_of_some_copies_leaves_the_masks_of_the_others():
    worlds = world_of(lambda t, begins: [0, 1, 1] if t % 2 else np.array([True, False, True])).make(3)
    _, info = worlds.reset(seed=[1, 2, 3])
    assert info["action_mask"].tolist() == [[1, 0, 1]] * 3
    *_, info = worlds.step(np.array([0, 0, 2]))
    assert info["action_mask"].tolist() == [[0, 1, 1]] * 3
    _, info = worlds.reset(seed=[4, 5, 6], options={"reset_mask": np.array([False, True, False])})
    assert info["action_mask"].tolist() == [[0, 1, 1], [1, 0, 1], [0, 1, 1]]


@pytest.mark.parametrize("make", [Doors, lambda: environment(small_model())], ids=["doors", "model"])
def test_policies_and_the_prior_take_available_actions_alone(make):
    world = environment_model(make, discount=0.9, temperature=1.0)
    assert environment_model(make, discount=1.0, temperature=1.0).discount == 1  # looks for an end by the prior
    answer = cai.infer(world, "soft-q-learning", steps=60, num_envs=3, hidden_sizes=(4,), batch_size=4)
    assert cai.evaluate(answer.policy(), world, episodes=25).episode_length.mean >= 1
    assert len(collect(world, 60, num_envs=3).rewards) == 60
    assert len(collect(world, 60, num_envs=3, policy=answer.policy()).rewards) == 60


@pytest.mark.parametrize("backend", ["soft-q-learning", "path-consistency", "policy-gradient"])
def test_a_run_goes_on_to_the_same_bytes_where_masks_differ_between_copies(backend, tmp_path):
    rows = {"policy-gradient": {"buffer_size": 30}}.get(backend, {"updates_per_step": 0.5})
    options = {"num_envs": 3, "hidden_sizes": (8,), "batch_size": 16, **rows}
    cai.infer(world_of(), backend, steps=210, folder=tmp_path / "whole", **options)
    for cut in (90, 102, 120, 150):
        folder = tmp_path / str(cut)
        cai.infer(world_of(), backend, steps=cut, folder=folder, **options)
        cai.resume(folder, steps=210, world=world_of())
        for path in (tmp_path / "whole").iterdir():
            assert path.read_bytes() == (folder / path.name).read_bytes(), (cut, path.name)


REFUSED = {
    "late": (
        lambda t, begins: None if begins else np.ones(3),
        r"tells info\['action_mask'\] after a step and told none",
    ),
    "shape": (lambda t, begins: np.ones(2), r"of environment 0 has shape \[2\]; expected \[3\]"),
    "nothing": (lambda t, begins: np.ones(3) * (t < 1), r"after 1 steps of episode 0 .* leaves no action"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_masks_that_make_no_sense_are_refused(case):
    told, pattern = REFUSED[case]
    with pytest.raises(ValueError, match=pattern):
        collect(world_of(told), 10)
