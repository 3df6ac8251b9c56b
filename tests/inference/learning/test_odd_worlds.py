"""Odd observations, and runs that leave the floats: an answer, a status or a sentence, never a traceback."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import cai
from cai.inference import Status
from cai.models import environment_model

SMALL = {"steps": 60, "hidden_sizes": (4,), "batch_size": 4}
DISCRETE = ("soft-actor-critic", "soft-q-learning", "policy-gradient", "path-consistency")
BOXES = ("soft-actor-critic", "stein-soft-q-learning", "policy-gradient", "path-consistency")


class Odd(gymnasium.Env):
    """Five steps, of which each shows what it is told to."""

    def __init__(self, space, shown=None, boxed=False):
        self.observation_space, self.shown = space, shown
        self.action_space = spaces.Box(-1.0, 2.0, (2,), np.float32) if boxed else spaces.Discrete(2)

    def _seen(self):
        return self.observation_space.sample() if self.shown is None else self.shown

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.t = 0
        return self._seen(), {}

    def step(self, action):
        assert np.isfinite(action).all()
        self.t += 1
        return self._seen(), 1.0, self.t == 5, False, {}


def world_of(space, shown=None, boxed=False):
    return environment_model(lambda: Odd(space, shown, boxed), discount=0.9, temperature=1.0)


@pytest.mark.parametrize(
    "space",
    [spaces.Box(0.0, 1.0, (2, 3), np.float32), spaces.MultiDiscrete([[2, 3], [4, 1]])],
    ids=["box", "numbers"],
)
def test_one_observation_that_is_a_matrix_is_one(space):
    answer = cai.infer(world_of(space), "soft-q-learning", **SMALL)
    policy, seen = answer.policy(), space.sample()
    assert policy.act(seen, deterministic=True).shape == ()
    assert policy.act(seen[None], deterministic=True).shape == (1,)
    assert (
        policy.act(np.stack([seen] * 3), deterministic=True).tolist() == [int(policy.act(seen, deterministic=True))] * 3
    )
    with pytest.raises(ValueError, match="this policy sees"):
        policy.act(seen[:1])


@pytest.mark.parametrize(
    ("boxed", "backend"), [*((False, name) for name in DISCRETE), *((True, name) for name in BOXES)]
)
def test_numbers_beyond_float32_are_refused(boxed, backend):
    space = spaces.Box(-1e300, 1e300, (2,), np.float64)
    with pytest.raises(ValueError, match=r"observations hold 1e\+40, and networks compute in float32.*scale them"):
        cai.infer(
            world_of(space, np.array([0.0, 1e40]), boxed),
            backend,
            **SMALL,
            **({"buffer_size": 20} if backend == "policy-gradient" else {}),
        )


def test_an_observation_of_no_numbers_is_refused():
    with pytest.raises(ValueError, match=r"hold no number at all; show at least one"):
        world_of(spaces.Box(-1.0, 1.0, (0,), np.float32))


@pytest.mark.parametrize(
    ("boxed", "backend"), [*((False, name) for name in DISCRETE), *((True, name) for name in BOXES)]
)
def test_networks_that_leave_the_floats_end_the_run_with_a_status(boxed, backend):
    world = world_of(spaces.Box(-1.0, 1.0, (2,), np.float32), boxed=boxed)
    options = {"buffer_size": 20} if backend == "policy-gradient" else {}
    answer = cai.infer(world, backend, learning_rate=1e38, throw=False, **{**SMALL, "steps": 400, **options})
    assert answer.status is Status.UNSTABLE
    assert "left the floats" in answer.details["why"]
    assert answer.details["steps"] < 400
    assert not all(bool(torch.isfinite(part).all()) for part in answer.brain.tensors().values())


def test_a_run_of_uniform_steps_alone_says_that_it_learned_nothing():
    world = world_of(spaces.Box(-1.0, 1.0, (2,), np.float32))
    first = cai.infer(world, "soft-q-learning", warmup_steps=60, **SMALL)
    assert first.details["note"].endswith("all of them were uniform steps (warmup_steps), so nothing was learned")
    assert "nothing was learned" not in cai.infer(world, "soft-q-learning", warmup_steps=50, **SMALL).details["note"]
