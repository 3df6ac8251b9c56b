"""Flow policies: densities by Jacobians, inverses, levels above each other, and what they gain over one Gaussian."""

import dataclasses
import math

import gymnasium
import numpy as np
import pytest
import torch
from network_worlds import Target, box_setting
from torch import nn

import cai
from cai.inference import SoftActorCritic
from cai.inference.learning.networks.layers.flat import Perceptron
from cai.inference.learning.networks.layers.flow import FlowNetwork, Frozen
from cai.models import environment_model

SMALL = {"hidden_sizes": (8,), "batch_size": 16, "updates_per_step": 0.2}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def bent_flow(dim, *, size=3, couplings=4, beneath=None, seed=0):
    """A flow with parameters far from those of its start."""
    network = FlowNetwork(
        size,
        dim,
        lambda further, outputs: Perceptron((size + further, 8, outputs)),
        (size, 8, 2 * dim),
        couplings=couplings,
        beneath=beneath,
    )
    return network, 0.3 * torch.randn(network.number, generator=seeded(seed), dtype=torch.float64)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("levels", [1, 2])
def test_the_density_is_that_of_the_jacobian(dim, levels):
    beneath = Frozen(*bent_flow(dim, couplings=2, seed=5)) if levels == 2 else None
    flow, flat = bent_flow(dim, beneath=beneath)
    draws = seeded(1)
    seen, noise = torch.randn(6, 3, generator=draws).double(), 0.3 * torch.randn(6, dim, generator=draws).double()
    u, logs = flow.draw(flat, seen, noise)
    for i in range(6):
        jacobian = torch.autograd.functional.jacobian(
            lambda z, i=i: torch.tanh(flow.forward(flat, seen[i : i + 1], z[None])[0][0]), noise[i]
        )
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(noise[i]).sum()
        assert float(logs[i]) == pytest.approx(float(normal - torch.linalg.slogdet(jacobian)[1]), abs=1e-10)
    torch.testing.assert_close(flow.inverse(flat, seen, u)[0], noise, rtol=0, atol=1e-10)
    torch.testing.assert_close(flow.log_density(flat, seen, u), logs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("levels", [1, 2])
def test_densities_integrate_to_one(levels):
    below = bent_flow(2, couplings=2, seed=7)
    beneath = Frozen(*below) if levels == 2 else None
    flow, flat = bent_flow(2, beneath=beneath, seed=3)
    axis = torch.linspace(-9, 9, 721, dtype=torch.float64)  # of u: the density of a times the slope of tanh
    u = torch.cartesian_prod(axis, axis)
    seen = torch.tensor([[0.3, -0.2, 0.5]]).double().expand(len(u), -1)
    slope = 2 * (math.log(2) - u - nn.functional.softplus(-2 * u)).sum(-1)
    density = (flow.log_density(flat, seen, u) + slope).exp().reshape(721, 721)
    assert float(torch.trapezoid(torch.trapezoid(density, axis), axis)) == pytest.approx(1.0, abs=1e-3)


def target_world():
    return environment_model(Target, discount=1.0, temperature=0.5)


def learned_flow(**options):
    return cai.infer(target_world(), "soft-actor-critic", policy="flow", seed=2, **{**SMALL, "steps": 240, **options})


def test_the_policy_that_was_learned_acts_and_has_a_density(tmp_path):
    answer = learned_flow()
    policy, seen = answer.policy(), np.zeros((40, 1), np.float32)
    actions = policy.act(seen, generator=seeded())
    assert actions.shape == (40, 2)
    assert bool(((actions > policy.interface.low) & (actions < policy.interface.high)).all())
    brain = answer.brain
    u = torch.atanh(policy.interface.from_world(actions).double())
    ratio = brain.head.log_ratio(brain._actor.flat.detach(), torch.zeros(40, 1), None, u.float())
    torch.testing.assert_close(policy.log_prob(actions, seen), (ratio - math.log(24)).double(), rtol=0, atol=2e-3)
    again = cai.load(policy.save(tmp_path / "policy"))
    assert torch.equal(again.act(seen, generator=seeded()), actions)
    assert torch.equal(again.log_prob(actions, seen), policy.log_prob(actions, seen))
    assert math.isfinite(float(answer.elbo))


def test_no_one_action_stands_for_a_flow_unless_q_chooses():
    answer = learned_flow()
    policy, seen = answer.policy(), np.zeros((3, 1), np.float32)
    with pytest.raises(ValueError, match=r"and a flow policy may have several modes.*give num_candidates"):
        policy.act(seen, deterministic=True)
    with pytest.raises(ValueError, match="num_candidates is for deterministic=True"):
        policy.act(seen, num_candidates=3)
    found = policy.act(seen, deterministic=True, num_candidates=20, generator=seeded(4))
    drawn = policy.act(np.repeat(seen, 20, 0), generator=seeded(4)).reshape(3, 20, 2)
    worth = answer.q_value(np.zeros((60, 1)), drawn.reshape(60, 2)).reshape(3, 20)
    torch.testing.assert_close(found, drawn[torch.arange(3), worth.argmax(1)])
    assert cai.evaluate(policy, target_world(), episodes=4).deterministic_return is None
    paths = cai.infer(target_world(), "policy-gradient", policy="flow", steps=64, buffer_size=32, **SMALL)
    with pytest.raises(ValueError, match="num_candidates chooses by Q, and backend 'policy-gradient' learned values"):
        paths.policy().act(seen, deterministic=True, num_candidates=3)


@pytest.mark.parametrize("backend", ["policy-gradient", "path-consistency"])
def test_flows_learn_from_paths_too(backend):
    options = {"buffer_size": 64} if backend == "policy-gradient" else {}
    answer = cai.infer(target_world(), backend, policy="flow", steps=256, **{**SMALL, **options})
    assert answer.status.ok
    assert float(answer.policy().parameters["actor"].abs().max()) > 0


def test_a_level_above_begins_as_the_policy_below():
    below = learned_flow(steps=140)
    seen = np.zeros((30, 1), np.float32)
    above = SoftActorCritic(policy=below.policy(), steps=300, learning_rate=1e-2, **SMALL)
    state = above.learner(target_world()).init(target_world(), seed=0)
    flat, head = state.problem.brain._actor.flat.detach(), state.problem.brain.head
    noise = torch.randn(30, 2, generator=seeded(1))
    u, logs = head.actor.draw(flat, torch.zeros(30, 1), noise)
    low = below.policy()
    want = low._acting().draw(low.parameters["actor"], torch.zeros(30, 1), noise)
    assert torch.equal(u, want[0])
    assert torch.equal(logs, want[1])
    answer = cai.infer(target_world(), above, seed=0)
    learned = answer.policy()
    assert torch.equal(learned.beneath.parameters["actor"], low.parameters["actor"])
    assert not torch.equal(learned.log_prob(np.ones((30, 2)), seen), low.log_prob(np.ones((30, 2)), seen))


def test_a_level_above_comes_back_from_its_folder(tmp_path):
    options = {**SMALL, "policy": learned_flow(steps=140).policy(), "seed": 1}
    whole = cai.infer(target_world(), "soft-actor-critic", folder=tmp_path / "whole", steps=260, **options)
    cai.infer(target_world(), "soft-actor-critic", folder=tmp_path / "cut", steps=200, **options)
    again = cai.resume(tmp_path / "cut", steps=260, world=target_world())
    assert torch.equal(again.policy().parameters["actor"], whole.policy().parameters["actor"])
    policy = cai.load(tmp_path / "whole" / "policy.safetensors")
    seen = np.zeros((5, 1), np.float32)
    assert torch.equal(policy.act(seen, generator=seeded()), whole.policy().act(seen, generator=seeded()))


class OneCoordinate(Target):
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)


def of(policy, source=Target):
    world = environment_model(source, discount=0.9, temperature=0.5)
    cai.infer(world, "soft-actor-critic", policy=policy, steps=20, **SMALL)


def wider():
    policy = learned_flow(steps=40).policy()
    interface = dataclasses.replace(policy.interface, high=2 * policy.interface.high)
    return dataclasses.replace(policy, interface=interface)


REFUSED = {
    "numbered": (lambda: of("flow", "CartPole-v1"), "policy is a flow, whose .* those of CartPole-v1 are numbered"),
    "one coordinate": (lambda: of("flow", OneCoordinate), "have one coordinate, of which couplings make a normal"),
    "gaussian below": (
        lambda: of(cai.infer(target_world(), "soft-actor-critic", steps=40, **SMALL).policy()),
        "the policy below is 'gaussian', and a level above acts in the latent numbers of a flow",
    ),
    "another box": (lambda: of(wider()), r"acts in a box from \[0.0, -3.0\] to \[8.0, 6.0\], and Target has one from"),
    "another shape": (lambda: of(learned_flow(steps=40).policy(), "Pendulum-v1"), "have one coordinate"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    build, pattern = REFUSED[name]
    with pytest.raises(ValueError, match=pattern):
        build()


def test_settings_with_a_flow_keep_its_bound_in_both_forms():
    """The entropy form differs by the log of the box's volume, and by nothing else."""
    from cai.inference.learning.networks.layers.heads import BoxHead

    noise, seen = torch.randn(5, 2, generator=seeded()), torch.zeros(5, 3)
    ratios = []
    for form in (False, True):
        head = BoxHead(box_setting(entropy_form=form)._replace(policy="flow"))
        ratios.append(head.sample(head.actor.start(seeded(1)), seen, noise)[2])
    torch.testing.assert_close(ratios[0] - ratios[1], torch.full((5,), math.log(24)))


class FourModes(gymnasium.Env):
    """One step: four places in a square of actions pay alike."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    places = torch.tensor([[0.6, 0.0], [-0.6, 0.0], [0.0, 0.6], [0.0, -0.6]]).double()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    @classmethod
    def reward(cls, actions):
        apart = torch.as_tensor(actions).double()[:, None] - cls.places
        return torch.logsumexp(-apart.square().sum(-1) / 0.08, -1)

    def step(self, action):
        return np.zeros(1, np.float32), float(self.reward(action[None])[0]), True, False, {}


def bound_of(answer):
    seen = np.zeros((20_000, 1), np.float32)
    actions = answer.policy().act(seen, generator=seeded(9))
    return float((FourModes.reward(actions) - answer.policy().log_prob(actions, seen)).mean()) - math.log(4)


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(2))  # a minute each; seeds 2 to 4 were tried once and hold it, too
def test_with_four_modes_a_flow_loses_less_than_half_of_what_a_gaussian_does(seed):
    axis = torch.linspace(-1, 1, 801).double()
    weights = FourModes.reward(torch.cartesian_prod(axis, axis)).exp().reshape(801, 801)
    evidence = float((torch.trapezoid(torch.trapezoid(weights, axis), axis) / 4).log())
    world = environment_model(FourModes, discount=1.0, temperature=1.0)
    options = {"steps": 3000, "hidden_sizes": (32, 32), "batch_size": 64, "learning_rate": 2e-3, "warmup_steps": 500}
    gaussian, flow = (
        cai.infer(world, "soft-actor-critic", policy=p, seed=seed, **options) for p in ("gaussian", "flow")
    )
    gaps = [evidence - bound_of(answer) for answer in (gaussian, flow)]
    assert gaps[1] < 0.5 * gaps[0]
    # a level above a flow that had little time closes more of the gap
    short = cai.infer(world, "soft-actor-critic", policy="flow", seed=seed, **{**options, "steps": 900})
    above = cai.infer(world, "soft-actor-critic", policy=short.policy(), seed=seed, **{**options, "steps": 2000})
    assert bound_of(above) > bound_of(short) - 0.01
