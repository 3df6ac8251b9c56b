"""Networks that were learned in one world go on in another, or are refused."""

import gymnasium
import numpy as np
import pytest
import torch
from network_worlds import small_model, world_of

import cai
from cai.inference.core.storage import StorageError
from cai.inference.registry import make_backend
from cai.models import environment_model

SMALL = {"hidden_sizes": (8, 8), "batch_size": 16}
RUNS = {
    "soft-actor-critic": {"steps": 140, "updates_per_step": 0.5},
    "soft-q-learning": {"steps": 140, "updates_per_step": 0.5},
    "policy-gradient": {"steps": 64, "buffer_size": 32},
    "path-consistency": {"steps": 140},
}


class Pole(gymnasium.Wrapper):
    """CartPole with another number of observations or actions, or another reward."""

    def __init__(self, size=4, actions=2):
        super().__init__(gymnasium.make("CartPole-v1"))
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(actions)

    def reset(self, **options):
        seen, info = self.env.reset(**options)
        return np.resize(seen, self.observation_space.shape), info

    def step(self, action):
        seen, reward, terminated, truncated, info = self.env.step(action % 2)
        return np.resize(seen, self.observation_space.shape), 2 * reward, terminated, truncated, info


def cartpole(temperature=1.0):
    return environment_model("CartPole-v1", discount=0.9, temperature=temperature)


def pole(**options):
    return environment_model(lambda: Pole(**options), discount=0.9, temperature=1.0)


def networks(brain):
    parts = brain.tensors().items()
    return {name: part for name, part in parts if "." not in name and name != "temperature"}


@pytest.mark.parametrize("backend", RUNS)
def test_the_first_networks_are_those_of_the_answer(backend):
    first = cai.infer(cartpole(temperature=0.5), backend, seed=3, **RUNS[backend], **SMALL)
    begun = make_backend(backend, initial=first, **RUNS[backend], **SMALL)
    state = begun.learner(pole()).init(pole(), seed=8)
    begin, had = state.problem.brain, networks(first.brain)
    assert set(networks(begin)) == set(had) >= {"critic"}
    for name, part in networks(begin).items():
        assert torch.equal(part, had[name]), name
    moments = [part for name, part in begin.tensors().items() if ".exp" in name]
    assert moments
    assert all(not part.any() for part in moments)
    assert begin.temperature.value == 1.0
    answer = cai.infer(pole(), begun, seed=8)
    moved = networks(answer.brain)
    assert all(not torch.equal(part, moved[name]) for name, part in had.items())
    assert all(torch.equal(part, networks(first.brain)[name]) for name, part in had.items())


def test_a_run_that_began_with_networks_comes_back_without_them(tmp_path):
    first = cai.infer(cartpole(), "soft-q-learning", **RUNS["soft-q-learning"], **SMALL)
    options = {**RUNS["soft-q-learning"], **SMALL, "initial": first}
    whole = cai.infer(cartpole(), "soft-q-learning", folder=tmp_path / "whole", **options)
    short = cai.infer(cartpole(), "soft-q-learning", folder=tmp_path / "cut", **{**options, "steps": 120})
    assert short.details["steps"] == 120
    again = cai.resume(tmp_path / "cut", steps=140)
    assert torch.equal(again.brain.tensors()["critic"], whole.brain.tensors()["critic"])
    assert not torch.equal(again.brain.tensors()["critic"], first.brain.tensors()["critic"])


def test_what_cannot_go_on_is_refused():
    first = cai.infer(cartpole(), "soft-q-learning", **RUNS["soft-q-learning"], **SMALL)

    def ask(world, backend="soft-q-learning", **options):
        cai.infer(world, backend, **{**SMALL, "initial": first, **options})

    with pytest.raises(ValueError, match=r"an answer of backend 'soft-q-learning', whose networks are others"):
        ask(cartpole(), "soft-actor-critic")
    with pytest.raises(ValueError, match=r"of which it sees 4 numbers, and of <lambda> it would see 5 numbers"):
        ask(pole(size=5))
    with pytest.raises(ValueError, match=r"it has 2 numbered actions, and in <lambda> there is 3 numbered actions"):
        ask(pole(actions=3))
    with pytest.raises(ValueError, match=r"of which it sees 4 numbers, and of FrozenLake-v1 .* numbers below \[16\]"):
        ask(environment_model("FrozenLake-v1", discount=0.9, temperature=1.0))
    with pytest.raises(ValueError, match=r"and \(16,\) are asked for; give hidden_sizes=\(8, 8\)"):
        ask(cartpole(), hidden_sizes=(16,))
    with pytest.raises(ValueError, match="initial goes on with networks, and a TrajectoryModel is learned on tables"):
        ask(small_model())
    with pytest.raises(ValueError, match="initial is a str; expected an answer of a learner with networks"):
        ask(cartpole(), initial="runs/a")
    exact = cai.infer(small_model(), "variational")
    with pytest.raises(ValueError, match="initial is a RecursionPosterior; expected an answer"):
        ask(world_of(small_model()), initial=exact)


class Square(gymnasium.Env):
    """One step with an action in a square."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), float(action.sum()), True, False, {}


def in_square(**options):
    world = environment_model(Square, discount=0.9, temperature=0.5)
    return cai.infer(world, "soft-actor-critic", **{**SMALL, "steps": 110, "warmup_steps": 50, **options})


def test_another_kind_of_policy_does_not_go_on():
    """They ended in torch's words about sizes of tensors, or went on as another policy than the answer's."""
    torch.manual_seed(0)
    module, other, seeing = (torch.nn.Linear(*sizes) for sizes in ((1, 4), (1, 3), (1, 5)))
    acts = torch.nn.Sequential(torch.nn.Linear(1, 6), torch.nn.Linear(6, 4))
    gaussian, flow = in_square(), in_square(policy="flow")
    above = in_square(policy=flow.policy())
    with_module, with_features = in_square(policy=module), in_square(network=seeing)

    def refused(pattern, initial, **options):
        with pytest.raises(ValueError, match=pattern):
            in_square(initial=initial, **options)

    refused("of kind 'gaussian', and one of kind 'flow' is asked for; give policy='gaussian'", gaussian, policy="flow")
    refused("of kind 'flow', and one of kind 'gaussian' is asked for; give policy='flow'", flow)
    refused("of kind 'module', .* give the module again, policy=", with_module)
    refused("of kind 'gaussian', and one of kind 'module'", gaussian, policy=module)
    refused("has 8 parameters of its actor, and here there are 40: the modules of policy=", with_module, policy=acts)
    refused("sees features that a module makes .* give the module again, network=", with_features)
    refused("has no module that makes features of observations; leave network= out", gaussian, network=seeing)
    refused("parameters of its actor, and here there are", with_features, network=other)
    # without its frozen flow, or through another one, the policy would be another
    refused("has a frozen flow beneath .* not that one: .* give the policy above which it was", above, policy="flow")
    refused("has a frozen flow beneath its own, and policy= is not that one", above, policy=above.policy())
    refused("has no flow beneath .* policy= would put one there.* give policy='flow'", flow, policy=flow.policy())
    for answer, options in (
        (flow, {"policy": "flow"}),
        (above, {"policy": flow.policy()}),
        (with_module, {"policy": module}),
        (with_features, {"network": seeing}),
    ):
        begun = in_square(initial=answer, steps=40, **options)  # uniform steps alone: nothing has moved yet
        assert torch.equal(begun.policy().parameters["actor"], answer.policy().parameters["actor"])


def test_an_answer_whose_world_stayed_behind_goes_on(tmp_path):
    answer = in_square()
    answer.save(tmp_path / "answer")
    begun = in_square(initial=cai.load(tmp_path / "answer"), steps=40)
    assert torch.equal(begun.policy().parameters["actor"], answer.policy().parameters["actor"])
    with pytest.raises(
        ValueError, match="initial was learned in a world that stayed behind, of which it sees 1 number"
    ):
        cai.infer(cartpole(), "soft-actor-critic", initial=cai.load(tmp_path / "answer"), **SMALL)


def test_a_box_with_other_bounds_is_another_world():
    def world(high):
        return environment_model("Pendulum-v1", discount=0.9, temperature=1.0, action_bounds=(-1.0, high))

    first = cai.infer(world(1.0), "soft-actor-critic", **RUNS["soft-actor-critic"], **SMALL)
    with pytest.raises(ValueError, match=r"has a box from \[-1.0\] to \[1.0\], and .* a box from \[-1.0\] to \[2.0\]"):
        cai.infer(world(2.0), "soft-actor-critic", initial=first, **SMALL)


@pytest.mark.parametrize("other", ["backend", "option", "world", "seed", "initial"])
def test_a_state_of_another_run_is_refused_though_it_would_fit(other, tmp_path):
    """Networks of the same shapes come from another question."""
    options = {"hidden_sizes": (4,), "batch_size": 4, "steps": 120, "seed": 1}
    for name in ("own", "other"):
        change = {} if name == "own" else {"option": {"smoothing": 0.5}, "seed": {"seed": 2}}.get(other, {})
        if other == "initial":
            world = environment_model("CartPole-v1", discount=0.9, temperature=1.0)
            change["initial"] = cai.infer(world, "soft-q-learning", **{**options, "seed": len(name)})
        backend = "soft-actor-critic" if (name, other) == ("other", "backend") else "soft-q-learning"
        discount = 0.8 if (name, other) == ("other", "world") else 0.9
        world = environment_model("CartPole-v1", discount=discount, temperature=1.0)
        cai.infer(world, backend, folder=tmp_path / name, **{**options, **change})
    for name in ("state.safetensors", "state.json"):
        (tmp_path / "other" / name).replace(tmp_path / "own" / name)
    with pytest.raises(StorageError, match="belongs to another run, of another backend, other options or another"):
        cai.resume(tmp_path / "own", steps=240)
