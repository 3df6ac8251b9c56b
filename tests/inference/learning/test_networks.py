"""Learners with networks: their parts, what they learn, and runs that are killed."""

import math
import os
import signal

import gymnasium
import numpy as np
import pytest
import torch
from killed_runs import killed_while_collecting
from network_worlds import Target, learned_table, small_model, world_of
from torch import nn

import cai
from cai.inference import NotKnown, SoftActorCritic, SoftQLearning, Status
from cai.inference.core.storage import StorageError
from cai.inference.learning.networks.experience.buffer import Buffer, Columns
from cai.inference.learning.networks.layers.flat import Perceptron
from cai.inference.learning.networks.layers.squash import draw_squashed
from cai.inference.learning.networks.updates import box_actor_critic
from cai.models import environment_model

SMALL = {"hidden_sizes": (16, 16), "batch_size": 16}
PENDULUM = {"discount": 0.99, "temperature": 1.0}


def test_densities_under_tanh_lose_no_digit():
    head = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, logs = draw_squashed(head, noise)
    actions = torch.tanh(u)
    mean, log_std = head.chunk(2, -1)
    normal = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
    want = torch.distributions.TransformedDistribution(normal, [torch.distributions.TanhTransform()])
    inside = actions.abs().amax(-1) < 0.999  # where the reference has digits left
    assert int(inside.sum()) > 20
    torch.testing.assert_close(logs[inside], want.log_prob(actions).sum(-1)[inside], rtol=1e-9, atol=1e-9)
    far = draw_squashed(torch.tensor([[30.0, 0.0]]).double(), torch.zeros(1, 1).double())[1]
    assert float(far) == pytest.approx(-0.5 * math.log(2 * math.pi) - 2 * (math.log(2) - 30.0), abs=1e-12)


def test_a_flat_perceptron_is_the_one_of_modules():
    both = Perceptron((4, 8, 5, 2), copies=2)
    flat, inputs = both.start(torch.Generator().manual_seed(0)), torch.randn(7, 4)
    for copy in range(2):
        module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2))
        for layer, (weight, bias) in zip(module[::2], both.layers(flat), strict=True):
            layer.weight.data, layer.bias.data = weight[copy].T.contiguous(), bias[copy, 0]
        torch.testing.assert_close(both(flat, inputs)[copy], module(inputs))
    one = Perceptron((4, 8, 2))
    assert one(one.start(torch.Generator()), inputs).shape == (7, 2)


def test_a_ring_comes_back_from_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr("cai.inference.learning.networks.experience.buffer.BLOCK", 8)
    columns = Columns(2, 1, 0)
    ring, draws = Buffer(20, columns), torch.Generator().manual_seed(0)
    for _ in range(11):
        ring.add(torch.randn(3, columns.width, generator=draws))
        ring.store(tmp_path)
        ring.discard(tmp_path)
    with (tmp_path / "buffer-00000004.bin").open("ab") as file:
        file.write(b"more than the state knows of")
    (tmp_path / "once").mkdir()
    whole = Buffer(20, columns)
    draws.manual_seed(0)
    for _ in range(11):
        whole.add(torch.randn(3, columns.width, generator=draws))
    whole.store(tmp_path / "once")
    whole.discard(tmp_path / "once")
    for path in (tmp_path / "once").iterdir():
        assert (tmp_path / path.name).read_bytes()[: path.stat().st_size] == path.read_bytes()
    found = Buffer(20, columns)
    found.restore(tmp_path, 33)
    assert torch.equal(found._rows, ring._rows)
    assert sorted(path.name for path in tmp_path.glob("*.bin")) == [f"buffer-0000000{i}.bin" for i in (1, 2, 3, 4)]
    assert (tmp_path / "buffer-00000004.bin").stat().st_size == 4 * (columns.width + 1)
    block = tmp_path / "buffer-00000003.bin"
    content = block.read_bytes()
    row = 4 * (columns.width + 1)
    for damaged in (
        content[:37] + bytes([content[37] ^ 1]) + content[38:],  # one bit of a number
        content[row : 2 * row] + content[:row] + content[2 * row :],  # two rows that changed places
        bytes(len(content)),
    ):
        block.write_bytes(damaged)
        with pytest.raises(StorageError, match=r"buffer-00000003.bin' is damaged: its numbers are not those"):
            Buffer(20, columns).restore(tmp_path, 33)
    block.write_bytes(content)
    (tmp_path / "buffer-00000002.bin").unlink()
    with pytest.raises(StorageError, match="is missing or too short"):
        Buffer(20, columns).restore(tmp_path, 33)


@pytest.mark.parametrize(
    ("backend", "entropy_form"),
    [
        ("soft-actor-critic", True),
        ("soft-q-learning", False),
        pytest.param("soft-actor-critic", False, marks=pytest.mark.campaign),
        pytest.param("soft-q-learning", True, marks=pytest.mark.campaign),
    ],
)
def test_networks_on_numbered_states_find_the_exact_policy(backend, entropy_form):
    model = small_model()
    world = world_of(model)
    options = {"hidden_sizes": (32,), "batch_size": 64, "learning_rate": 3e-3, "steps": 3000, "smoothing": 0.02}
    answer = cai.infer(world, backend, entropy_form=entropy_form, num_envs=4, updates_per_step=0.25, **options)
    assert answer.status is Status.SUCCESS
    asked = model.entropy_form() if entropy_form else model
    best, found = cai.infer(asked, "variational"), learned_table(answer, asked)
    assert float(best.elbo - found.elbo) < 0.05
    slack = 4 * answer.details["standard_error"] if (answer.elbo is not None) else 0.0
    assert float(answer.elbo) == pytest.approx(float(found.elbo), abs=slack + 1e-3)
    for state in (0, 1):
        seen = np.eye(3)[state : state + 1]
        worth = answer.value(seen, action_mask=model.mdp.available[state : state + 1])
        assert float(worth[0]) == pytest.approx(float(best.values[0, state]), abs=0.3)
    # action 1 is not there in state 1; the world refuses it
    played = cai.evaluate(cai.extract_policy(answer), world, episodes=10)
    assert played.episode_length.mean > 1
    assert len(cai.models.collect(world, 30, policy=cai.extract_policy(answer)).actions) == 30


def test_unavailable_actions_are_told_to_policies_and_critics():
    model = small_model()
    world = world_of(model)
    answer = cai.infer(world, "soft-q-learning", steps=130, **SMALL)
    policy, mask = answer.policy(), model.mdp.available[1:2]
    seen = np.eye(3)[1:2]
    logs = torch.stack([policy.log_prob([a], seen, action_mask=mask)[0] for a in range(3)])
    assert float(logs[1]) == -math.inf
    assert float(logs.exp().sum()) == pytest.approx(1.0, abs=1e-6)
    drawn = policy.act(np.tile(seen, (200, 1)), action_mask=np.tile(mask, (200, 1)))
    assert set(drawn.tolist()) == {0, 2}
    assert int(policy.act(seen[0], deterministic=True, action_mask=mask[0])) in (0, 2)
    worth = torch.stack([answer.q_value(seen, [a])[0] for a in (0, 2)])
    soft = 0.5 * (torch.logsumexp(worth / 0.5, 0) - math.log(2))
    torch.testing.assert_close(answer.value(seen, action_mask=mask)[0], soft, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [60, 1100])
def test_every_run_has_a_history_up_to_its_end(steps):
    world = environment_model("CartPole-v1", **PENDULUM)
    answer = cai.infer(world, "soft-q-learning", steps=steps, updates_per_step=0.1, **SMALL)
    history = answer.details["history"]
    assert history.step.values.tolist() == sorted({min(steps, 1000), steps})
    assert bool(np.isfinite(history.episode_return).all())
    table = cai.infer(small_model(), "soft-q-learning", steps=steps)
    assert table.details["history"].step.values.tolist() == [table.details["steps"]]
    assert float(table.details["history"].elbo[-1]) == pytest.approx(float(table.elbo), abs=1e-12)


def test_a_policy_in_a_box_has_the_bound_of_the_evidence():
    world = environment_model(Target, discount=1.0, temperature=0.5)
    answer = cai.infer(
        world, "soft-actor-critic", steps=1100, hidden_sizes=(32,), batch_size=32, learning_rate=3e-3, seed=1
    )
    want = Target.evidence(0.5)
    assert float(answer.elbo) == pytest.approx(want, abs=0.25 + 3 * answer.details["standard_error"])
    assert float(answer.elbo) < want + 3 * answer.details["standard_error"]
    assert answer.details["tail_share"] == 0.0
    policy = cai.extract_policy(answer)
    best = policy.act(np.zeros((5, 1), np.float32), deterministic=True)
    torch.testing.assert_close(best, torch.tensor([[1.0, 0.5]] * 5).double(), rtol=0, atol=0.25)
    grid = torch.cartesian_prod(torch.linspace(0.01, 3.99, 200), torch.linspace(-2.99, 2.99, 200)).double()
    density = policy.log_prob(grid, np.zeros((len(grid), 1), np.float32)).exp()
    assert float(density.mean() * 3.98 * 5.98) == pytest.approx(1.0, abs=0.02)
    edge = torch.tensor([[0.0, 0.0], [4.0, 1.0], [5.0, 0.0], [1.0, -4.0]]).double()
    assert bool((policy.log_prob(edge, np.zeros((4, 1), np.float32)) == -torch.inf).all())


def test_what_a_learned_answer_knows(tmp_path):
    world = environment_model("Pendulum-v1", **PENDULUM)
    answer = cai.infer(world, "soft-actor-critic", steps=300, target_entropy="auto", **SMALL)
    assert answer.log_evidence is None
    assert float(answer.luck) == 0.0
    for name in ("values", "q_values", "state_marginals", "action_probs"):
        with pytest.raises(NotKnown, match="the learned answer of backend 'soft-actor-critic' does not know"):
            getattr(answer, name)
    seen = np.zeros((4, 3), np.float32)
    assert answer.value(seen).shape == answer.q_value(seen, np.zeros((4, 1))).shape == (4,)
    with pytest.raises(ValueError, match=r"observations have shape \[2, 9\]; expected \[N, ...\] with"):
        answer.value(np.zeros((2, 9)))
    assert answer.details["temperature"] != 1.0
    assert answer.details["form"] == "KL"
    policy = answer.policy()
    again = cai.load(policy.save(tmp_path / "policy"))
    draws = [one.act(seen, generator=torch.Generator().manual_seed(3)) for one in (policy, again)]
    assert torch.equal(*draws)
    assert draws[0].shape == (4, 1)
    assert policy.act(seen[0], deterministic=True).shape == (1,)
    assert bool((draws[0].abs() <= 2).all())
    with pytest.raises(ValueError, match=r"observations have shape \[4, 2\]; this policy sees 3 numbers each"):
        policy.act(np.zeros((4, 2)))


KILLED = {
    "box": ("Pendulum-v1", "soft-actor-critic", {"target_entropy": "auto", "num_envs": 2}),
    "discrete": ("CartPole-v1", "soft-actor-critic", {"target_kl": 0.1, "num_envs": 3}),
    "values": ("CartPole-v1", "soft-q-learning", {"buffer_size": 250}),
    "own steps": ("Pendulum-v1", "policy-gradient", {"buffer_size": 130, "num_envs": 2, "warmup_steps": 0}),
    "paths": ("CartPole-v1", "path-consistency", {"buffer_size": 250, "num_envs": 3}),
    "stein": ("Pendulum-v1", "stein-soft-q-learning", {"num_envs": 2, "num_particles": 4, "value_samples": 8}),
}


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith("log")}


@pytest.mark.parametrize("name", KILLED)
def test_a_killed_run_goes_on_to_the_same_bytes(name, tmp_path):
    world_id, backend, options = KILLED[name]
    options = {**SMALL, "steps": 699, "warmup_steps": 50, "updates_per_step": 0.3, **options}
    cai.infer(environment_model(world_id, **PENDULUM), backend, seed=4, folder=tmp_path / "whole", **options)

    def run():
        world = environment_model(world_id, **PENDULUM)
        cai.infer(world, backend, seed=4, folder=tmp_path / "cut", checkpoint_every=200, **options)

    assert 190 < killed_while_collecting(run, tmp_path / "cut") < 500
    cai.resume(tmp_path / "cut")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


@pytest.mark.parametrize("name", KILLED)
def test_the_default_dtype_changes_no_bit(name):
    world_id, backend, options = KILLED[name]
    options = {**SMALL, "steps": 200, "warmup_steps": 40, "updates_per_step": 0.2, **options}
    single = cai.infer(environment_model(world_id, **PENDULUM), backend, **options)
    torch.set_default_dtype(torch.float64)
    try:
        double = cai.infer(environment_model(world_id, **PENDULUM), backend, **options)
        assert double.elbo == single.elbo  # None of a policy without a density
        assert double.believed_return == single.believed_return
    finally:
        torch.set_default_dtype(torch.float32)
    for part, same in single.brain.tensors().items():
        assert torch.equal(double.brain.tensors()[part], same), part


class Forgetful(gymnasium.Env):
    """Remembers across episodes how often it was stepped."""

    observation_space = gymnasium.spaces.Box(0.0, 1e9, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self):
        self.count = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array([self.count], np.float32), {}

    def step(self, action):
        self.count += 1
        return np.array([self.count], np.float32), 0.0, self.count % 70 == 0, False, {}


def test_a_world_that_does_not_come_back_is_refused_unless_new_episodes_will_do(tmp_path):
    world = environment_model(Forgetful, **PENDULUM)
    cai.infer(world, "soft-q-learning", steps=200, folder=tmp_path / "run", **SMALL)
    with pytest.raises(ValueError, match=r"about a program \(or a reward, or an environment, that no file can hold\)"):
        cai.resume(tmp_path / "run", steps=300)
    with pytest.raises(StorageError, match=r"does not come back to where the run was .* exact=False"):
        cai.resume(tmp_path / "run", steps=300, world=world)
    answer = cai.resume(tmp_path / "run", steps=300, world=world, exact=False)
    assert answer.details["steps"] == 300


def test_ctrl_c_between_two_steps_keeps_the_run(tmp_path, monkeypatch):
    update, count = box_actor_critic.BoxActorCritic.update, []

    def pressed(self, batch, generator):
        count.append(1)
        if len(count) == 120:
            os.kill(os.getpid(), signal.SIGINT)
        return update(self, batch, generator)

    options = {**SMALL, "steps": 260, "seed": 2}
    world = environment_model("Pendulum-v1", **PENDULUM)
    cai.infer(world, "soft-actor-critic", folder=tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        patch.setattr(box_actor_critic.BoxActorCritic, "update", pressed)
        short = cai.infer(world, "soft-actor-critic", folder=tmp_path / "cut", throw=False, **options)
    assert short.status is Status.NOT_CONVERGED
    assert short.details["steps"] == 220  # 100 of the start, and the step in which it was pressed
    cai.resume(tmp_path / "cut")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_temperature_at_its_bound_is_unstable():
    world = environment_model("Pendulum-v1", discount=0.99, temperature=2e-4)
    answer = cai.infer(
        world, "soft-actor-critic", steps=400, target_entropy=-40.0, learning_rate=0.1, throw=False, **SMALL
    )
    assert answer.status is Status.UNSTABLE
    assert "temperature ran to its bound, 0.0001" in answer.details["why"]


def image():
    space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    env = Target()
    env.observation_space = space
    return env


REFUSED = {
    "batch": (lambda: SoftActorCritic(batch_size=100, buffer_size=50), "batch_size is 100, and the buffer holds"),
    "rate": (lambda: SoftQLearning(learning_rate=0.0), "learning_rate is 0.0; expected a number > 0"),
    "sizes": (lambda: SoftQLearning(hidden_sizes="64xbig"), "hidden_sizes is '64xbig'; expected whole numbers"),
    "half sizes": (lambda: SoftQLearning(hidden_sizes="64x"), "hidden_sizes is '64x'; expected whole numbers >= 1"),
    "a size of 0": (lambda: SoftQLearning(hidden_sizes=(64, 0)), r"hidden_sizes is \(64, 0\); expected whole numbers"),
    "policy": (lambda: SoftActorCritic(policy="normal"), "policy is 'normal'; expected 'gaussian'"),
    "smoothing": (lambda: SoftActorCritic(smoothing=0.0), "smoothing is 0.0"),
    "smoothing of no number": (
        lambda: SoftActorCritic(smoothing=True),
        r"smoothing is True; expected a number in \(0, ",
    ),
    "smoothing in words": (
        lambda: SoftQLearning(smoothing="slow"),
        r"smoothing is 'slow'; expected a number in \(0, 1",
    ),
    "box": (
        lambda: cai.infer(environment_model("Pendulum-v1", **PENDULUM), "soft-q-learning"),
        "those of Pendulum-v1 lie in a box; ask 'soft-actor-critic'",
    ),
    "tables alone": (
        lambda: cai.infer(environment_model("CartPole-v1", **PENDULUM), "exact"),
        "EnvironmentModel",
    ),
    "images": (
        lambda: cai.infer(environment_model(image, **PENDULUM), "soft-actor-critic"),
        r"are images \[8, 8, 3\], and backend 'soft-actor-critic' sees vectors",
    ),
    "entropy": (
        lambda: cai.infer(environment_model("CartPole-v1", **PENDULUM), "soft-actor-critic", target_entropy=0.7),
        r"target_entropy is 0.7 nats, and log\|A\| is 0.693147",
    ),
    "entropy in a box": (
        lambda: cai.infer(environment_model("Pendulum-v1", **PENDULUM), "soft-actor-critic", target_entropy=0.7),
        r"uniform actions in \[-1, 1\] is 0.693147; give less, e.g. -1 \('auto'\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    build, pattern = REFUSED[name]
    with pytest.raises(ValueError, match=pattern):
        build()
