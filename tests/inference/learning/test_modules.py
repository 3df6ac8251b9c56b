"""Torch modules of users: as features of images, and as policies."""

import gymnasium
import numpy as np
import pytest
import torch
from network_worlds import Target
from torch import nn

import cai
from cai.inference import SoftActorCritic
from cai.inference.core.storage import StorageError
from cai.inference.learning.networks.layers.modules import ModuleNetwork
from cai.models import environment_model

SMALL = {"hidden_sizes": (8,), "batch_size": 16, "updates_per_step": 0.2}


class Lamp(gymnasium.Env):
    """An image whose left or right half is lit; pressing on that side pays 1, at once."""

    observation_space = gymnasium.spaces.Box(0, 255, (4, 4, 1), np.uint8)

    def __init__(self, box=False):
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32) if box else gymnasium.spaces.Discrete(2)
        self.box = box

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.side = int(self.np_random.integers(2))
        seen = np.zeros((4, 4, 1), np.uint8)
        seen[:, 2 * self.side : 2 * self.side + 2] = 255
        return seen, {}

    def step(self, action):
        pressed = int(action[0] > 0) if self.box else int(action)
        return np.zeros((4, 4, 1), np.uint8), float(pressed == self.side), True, False, {}


class Eye(nn.Module):
    """Means over places, of images [N, height, width, colours]."""

    def __init__(self, features=4):
        super().__init__()
        self.see = nn.Conv2d(1, features, 2, stride=2)

    def forward(self, images):
        assert images.shape[1:] == (4, 4, 1)
        return torch.relu(self.see(images.permute(0, 3, 1, 2) / 255)).flatten(1)


def lamp(box=False):
    return environment_model(lambda: Lamp(box), discount=0.9, temperature=0.1)


@pytest.mark.parametrize("backend", ["soft-q-learning", "soft-actor-critic"])
def test_images_are_learned_from_by_a_network_for_them(backend):
    torch.manual_seed(0)
    eye = Eye()
    before = [part.clone() for part in eye.parameters()]
    options = {**SMALL, "steps": 600, "learning_rate": 1e-2, "updates_per_step": 0.4}
    answer = cai.infer(lamp(), backend, network=eye, **options)
    seen = np.stack([Lamp().reset(seed=seed)[0] for seed in range(10)])
    assert {int(image[0, 0, 0]) for image in seen} == {0, 255}
    lit = torch.as_tensor((seen[:, 0, 3, 0] > 0).astype(np.int64))
    assert torch.equal(answer.policy().act(seen, deterministic=True), lit)
    assert all(torch.equal(part, old) for part, old in zip(eye.parameters(), before, strict=True))
    with pytest.raises(StorageError, match=r"policy.network is a Eye, which cannot be saved"):
        answer.policy().save("anywhere")


def test_images_go_with_boxes_and_flows_too():
    answer = cai.infer(lamp(box=True), "soft-actor-critic", network=Eye(), policy="flow", steps=160, **SMALL)
    seen = np.zeros((3, 4, 4, 1), np.uint8)
    assert answer.policy().act(seen).shape == (3, 2)
    assert answer.q_value(seen, np.zeros((3, 2))).shape == (3,)


def test_a_module_acts_in_a_box_and_among_numbers():
    torch.manual_seed(1)
    world = environment_model(Target, discount=1.0, temperature=0.5)
    module = nn.Linear(1, 4)
    answer = cai.infer(world, "soft-actor-critic", policy=module, steps=160, **SMALL)
    policy = answer.policy()
    found = policy.parameters["actor"]
    assert found.shape == (8,)
    assert not torch.equal(found[4:], module.bias.detach())
    mean = found[4:6]  # the bias; the observation is 0
    want = policy.interface.to_world(torch.tanh(mean)[None])[0]
    torch.testing.assert_close(policy.act(np.zeros((1, 1)), deterministic=True)[0], want)
    pole = environment_model("CartPole-v1", discount=0.9, temperature=1.0)
    tried = cai.infer(pole, "policy-gradient", policy=nn.Linear(4, 2), steps=64, buffer_size=32, **SMALL)
    assert tried.policy().act(np.zeros((5, 4))).shape == (5,)


def test_a_run_with_a_module_goes_on_if_it_is_given_again(tmp_path):
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    world = environment_model("Pendulum-v1", discount=0.9, temperature=1.0)
    options = {**SMALL, "policy": module}
    whole = cai.infer(world, "soft-actor-critic", folder=tmp_path / "whole", steps=180, **options)
    cai.infer(world, "soft-actor-critic", folder=tmp_path / "cut", steps=140, **options)
    with pytest.raises(ValueError, match=r"was given policy=..., which no file can hold; give it again"):
        cai.resume(tmp_path / "cut", steps=180)
    again = cai.resume(tmp_path / "cut", steps=180, policy=module)
    assert torch.equal(again.policy().parameters["actor"], whole.policy().parameters["actor"])


def test_parameters_move_through_one_flat_tensor():
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    network = ModuleNetwork(module, (3,), "policy", 2)
    inputs, flat = torch.randn(4, 3), network.start(torch.Generator()).requires_grad_()
    torch.testing.assert_close(network(flat, inputs), module(inputs))
    (slope,) = torch.autograd.grad(network(flat, inputs).square().sum(), flat)
    module(inputs).square().sum().backward()
    torch.testing.assert_close(slope, torch.cat([part.grad.flatten() for part in module.parameters()]))


class Pair(nn.Linear):
    def forward(self, observations):
        return super().forward(observations), observations


SQUARE = nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (2, 2)))


def ask(**options):
    cai.infer(environment_model("Pendulum-v1", discount=0.9, temperature=1.0), "soft-actor-critic", steps=9, **options)


REFUSED = {
    "shape": (
        lambda: ask(policy=nn.Linear(3, 5)),
        r"policy= returned \[2, 5\] for .* expected \[2, 2\]: in a box, means",
    ),
    "pair": (lambda: ask(policy=Pair(3, 2)), "policy= returned a tuple for two observations"),
    "input": (
        lambda: ask(policy=nn.Linear(4, 2)),
        r"policy= failed on two observations \[2, 3\]: .* it is called with",
    ),
    "no parameters": (lambda: ask(policy=nn.Tanh()), "policy= has no parameters"),
    "features": (
        lambda: ask(network=nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (2, 2)))),
        r"network= returned \[2, 2, 2\]",
    ),
    "no module": (lambda: SoftActorCritic(network="cnn"), "network is a str; expected a torch module"),
    "no policy": (lambda: SoftActorCritic(policy=3), "policy is a int; expected 'gaussian', 'flow', a torch module"),
    "images": (
        lambda: cai.infer(lamp(), "soft-actor-critic"),
        r"are images \[4, 4, 1\], .*; give network=, a torch module",
    ),
    "tables": (
        lambda: cai.infer(cai.models.random_mdp(0), "soft-q-learning", network=nn.Linear(3, 3)),
        "network= is for what networks see, and a TrajectoryModel is learned on tables",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    build, pattern = REFUSED[name]
    with pytest.raises(ValueError, match=pattern):
        build()
