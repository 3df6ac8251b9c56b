"""Odd observations, and runs that leave the floats: an answer, a status or a sentence, never a traceback."""

import functools

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import cai
from cai.inference import Status
from cai.inference.learning.networks.experience.interface import interface_of
from cai.models import environment_model

SMALL = {"steps": 60, "hidden_sizes": (4,), "batch_size": 4}
DISCRETE = ("soft-actor-critic", "soft-q-learning", "policy-gradient", "path-consistency")
BOXES = ("soft-actor-critic", "stein-soft-q-learning", "policy-gradient", "path-consistency")


class Odd(gymnasium.Env):
    """Five steps, of which each shows what it is told to."""

    def __init__(self, space, shown=None, boxed=False, paid=1.0):
        self.observation_space, self.shown, self.paid = space, shown, paid
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
        return self._seen(), self.paid, self.t == 5, False, {}


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


def test_rewards_beyond_float32_are_refused():
    world = environment_model(lambda: Odd(spaces.Discrete(2), paid=-1e39), discount=0.9, temperature=1.0)
    with pytest.raises(ValueError, match=r"paid -1e\+39, and networks compute in float32.*scale rewards and temperat"):
        cai.infer(world, "soft-q-learning", **SMALL)


def test_a_state_among_very_many_takes_no_table_of_all():
    """200,000 states, of which a square of one-hot rows would take 160 GB, and a full buffer 1,600 GB."""
    options = {"steps": 14, "warmup_steps": 10, "hidden_sizes": (2,), "batch_size": 2}
    answer = cai.infer(world_of(spaces.Discrete(200_000)), "soft-q-learning", **options)
    assert answer.policy().act(np.array([0, 199_999]), deterministic=True).shape == (2,)


def test_numbers_are_seen_one_hot_in_their_order():
    interface = interface_of(world_of(spaces.MultiDiscrete([[2, 3], [1, 4]])), "soft-q-learning")
    rows = interface.rows(np.array([[[1, 2], [0, 3]], [[0, 0], [0, 1]]], dtype=np.int32))
    assert rows.tolist() == [[0, 1, 0, 0, 1, 1, 0, 0, 0, 1], [1, 0, 1, 0, 0, 1, 0, 1, 0, 0]]
    assert rows.dtype == torch.float32


@pytest.mark.parametrize(("shown", "said"), [([0, -1], "-1 where there are 2"), ([3, 0], "3 where there are 3")])
def test_numbers_outside_the_space_are_refused(shown, said):
    world = world_of(spaces.MultiDiscrete([3, 2]), np.array(shown))
    with pytest.raises(ValueError, match=f"an observation holds {said} numbers"):
        cai.infer(world, "soft-q-learning", **SMALL)


@pytest.fixture(scope="module")
def answers():
    """Of numbered actions, and of a box from -1 to 2."""
    space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    return [cai.infer(world_of(space, None, boxed), "soft-actor-critic", **SMALL) for boxed in (False, True)]


ASKED = {  # actions for two observations, and what is said of them
    "too many": (False, [0, 1, 1], r"shape \[3\], and there are 2 observations; expected \[2, ...\], a number"),
    "one for two": (False, [1], r"shape \[1\], and there are 2 observations"),
    "turned": (True, np.zeros((2, 2, 1)).T, r"shape \[1, 2, 2\], and there are 2 obs.* 2 numbers for each"),
    "one in a box for two": (True, [[0.0, 0.0]], r"shape \[1, 2\], and there are 2 obs"),
    "number": (False, 1, r"shape \[\], and there are 2 obs"),
    "beyond": (False, [0, 2], "action 2 does not exist; actions are 0 to 1"),
    "below": (False, [-1, 0], "action -1 does not exist"),
    "between": (False, [0.0, 0.7], r"action 0.7 does not exist"),
    "nan": (True, [[0.0, np.nan], [0.0, 0.0]], "actions hold nan"),
}


@pytest.mark.parametrize("case", ASKED)
def test_what_is_no_action_has_no_worth_and_no_probability(case, answers):
    boxed, actions, said = ASKED[case]
    answer, seen = answers[boxed], np.zeros((2, 2), np.float32)
    for ask in (answer.q_value, lambda seen, actions: answer.policy().log_prob(actions, seen)):
        with pytest.raises(ValueError, match=said):
            ask(seen, actions)


def test_outside_a_box_an_action_has_density_0_and_no_worth(answers):
    seen, edge = np.zeros((1, 2), np.float32), np.array([[2.0, -1.0]])
    beyond = np.array([[2.5, -1.0]])
    assert float(answers[1].policy().log_prob(beyond, seen)) == -np.inf
    with pytest.raises(
        ValueError, match=r"action \[2.5, -1.0\] lies outside the box from \[-1.0, -1.0\] to \[2.0, 2.0\]"
    ):
        answers[1].q_value(seen, beyond)
    assert torch.equal(answers[1].q_value(seen, edge), answers[1].q_value(seen, 1.00000005 * edge))


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_observations_that_are_not_finite_have_no_worth(boxed, dtype, answers):
    seen = np.array([[0.0, 0.0], [0.0, np.nan]], dtype)
    acts = np.zeros((2, 2)) if boxed else np.zeros(2)
    answer = answers[boxed]
    for ask in (answer.value, lambda s: answer.q_value(s, acts), answer.policy().act):
        with pytest.raises(ValueError, match="observations hold nan; give finite numbers"):
            ask(seen)


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3, start=4), spaces.MultiDiscrete([[2, 3], [1, 4]])], ids=["one", "four"]
)
@pytest.mark.parametrize("backend", DISCRETE)
def test_priors_are_asked_of_whole_numbers_as_the_world_shows_them(space, backend):
    """One that leaves the sum of what is seen, modulo 2, alone to be done."""

    def prior(seen):
        seen = torch.as_tensor(seen)
        assert seen.dtype == torch.int64
        assert seen.shape[1:] == space.shape
        parity = seen.flatten(1).sum(1) % 2 if space.shape else seen % 2
        return torch.distributions.Categorical(torch.stack([parity == 0, parity == 1], 1).double())

    world = environment_model(lambda: Odd(space), discount=0.9, temperature=1.0, action_prior=prior)
    options = {"buffer_size": 20} if backend == "policy-gradient" else {"warmup_steps": 20}
    policy = cai.infer(world, backend, **SMALL, **options).policy()
    seen = world.make(5).reset(seed=[1, 2, 3, 4, 5])[0]
    want = seen.reshape(5, -1).sum(1) % 2
    assert policy.act(seen, deterministic=True).tolist() == want.tolist()
    assert policy.log_prob(want, seen).tolist() == [0.0] * 5


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


@pytest.mark.parametrize(
    ("boxed", "backend"), [*((False, name) for name in DISCRETE), *((True, name) for name in BOXES)]
)
@pytest.mark.parametrize("rate", [1e15, 1e30])
def test_an_unstable_answer_has_no_numbers_and_does_not_blame_the_world(boxed, backend, rate, tmp_path):
    """Its networks may hold finite numbers of which an observation makes NaN."""
    world = world_of(spaces.Box(-1.0, 1.0, (2,), np.float32), boxed=boxed)
    options = {"buffer_size": 20} if backend == "policy-gradient" else {}
    options |= {**SMALL, "steps": 400, "learning_rate": rate, "throw": False}
    answer = cai.infer(world, backend, folder=tmp_path / "run", **options)
    assert answer.status is Status.UNSTABLE
    assert "left the floats" in answer.details["why"]
    assert (answer.elbo, answer.believed_return, answer.policy_divergence) == (None, None, None)
    again = cai.resume(tmp_path / "run", world=world, throw=False)
    assert (again.status, again.details["why"]) == (answer.status, answer.details["why"])
    with pytest.raises(
        ArithmeticError, match=r"networks make NaN of an observation, and no action.* lower learning_rate"
    ):
        answer.policy().act(np.ones((3, 2), dtype=np.float32))


def test_comparisons_show_an_unstable_learner_by_its_status():
    world = world_of(spaces.Box(-1.0, 1.0, (2,), np.float32))
    rates = [cai.inference.SoftQLearning(learning_rate=rate, warmup_steps=20, **SMALL) for rate in (1e-3, 1e30)]
    rows = cai.compare(world, rates).rows
    assert [row.status for row in rows] == [Status.SUCCESS, Status.UNSTABLE]
    assert rows[1].elbo is None
    assert rows[0].elbo is not None


def test_a_mask_without_any_action_is_refused():
    policy = cai.infer(world_of(spaces.Box(-1.0, 1.0, (2,), np.float32)), "soft-q-learning", **SMALL).policy()
    for deterministic in (True, False):
        with pytest.raises(ValueError, match="action_mask leaves observation 1 no action"):
            policy.act(np.zeros((2, 2)), deterministic=deterministic, action_mask=[[1, 0], [0, 0]])


def test_an_episode_that_does_not_end_has_no_bound(monkeypatch):
    """Without a discount what was summed up so far is no return."""
    from cai.inference.learning.networks.answers import posterior

    monkeypatch.setattr(posterior, "LONGEST_EPISODE", 4)
    world = world_of(spaces.Box(-1.0, 1.0, (2,), np.float32)).replace(discount=1.0)
    answer = cai.infer(world, "soft-q-learning", **SMALL)
    with pytest.raises(ValueError, match="has not ended after 4 steps, so its return is not known"):
        _ = answer.elbo


class Lottery(gymnasium.Env):
    """One action, one step, which pays what was drawn at the reset."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (1,), np.float32), spaces.Discrete(1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.paid = self.np_random.normal()
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), self.paid, True, False, {}


@pytest.mark.parametrize("copies", [1, 3, 20, 25])
def test_a_ready_made_vector_plays_as_many_episodes_as_are_told(copies):
    vector = SyncVectorEnv([Lottery] * copies, autoreset_mode=AutoresetMode.DISABLED)
    world = environment_model(vector, discount=0.9, temperature=2.0)
    answer = cai.infer(world, "soft-q-learning", seed=4, **{**SMALL, "steps": 60 // copies * copies})
    paid = []
    for episode in range(20):
        env = Lottery()
        env.reset(seed=int(np.random.SeedSequence([4, 2**32 - 1, episode]).generate_state(1)[0]))
        paid.append(env.paid / 2)
    assert float(answer.elbo) == pytest.approx(np.mean(paid), abs=1e-12)
    assert answer.details["standard_error"] == pytest.approx(np.std(paid, ddof=1) / np.sqrt(20), abs=1e-12)


def test_a_run_of_uniform_steps_alone_says_that_it_learned_nothing():
    world = world_of(spaces.Box(-1.0, 1.0, (2,), np.float32))
    first = cai.infer(world, "soft-q-learning", warmup_steps=60, **SMALL)
    assert first.details["note"].endswith("all of them were uniform steps (warmup_steps), so nothing was learned")
    assert "nothing was learned" not in cai.infer(world, "soft-q-learning", warmup_steps=50, **SMALL).details["note"]


@pytest.mark.parametrize(("backend", "boxed"), [(name, False) for name in DISCRETE] + [("stein-soft-q-learning", True)])
def test_a_vector_that_writes_over_its_arrays_is_learned_as_any(backend, boxed):
    def made(num_envs, **options):
        return SyncVectorEnv(
            [lambda: Odd(spaces.Box(0.0, 1.0, (2,), np.float32), None, boxed)] * num_envs,
            autoreset_mode=AutoresetMode.DISABLED,
            **options,
        )

    learned, waits = [], {"buffer_size": 20} if backend == "policy-gradient" else {"warmup_steps": 20}
    for source in (made, functools.partial(made, copy=False)):
        world = environment_model(source, discount=0.9, temperature=1.0)
        learned.append(cai.infer(world, backend, num_envs=2, **SMALL, **waits).policy().parameters)
    assert all(torch.equal(part, learned[1][name]) for name, part in learned[0].items())
