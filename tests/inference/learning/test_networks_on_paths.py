"""Learners with networks that judge actions by paths: policy gradient and path consistency."""

import math

import numpy as np
import pytest
import torch
from network_worlds import (
    Target,
    box_setting,
    deterministic_model,
    learned_table,
    numbered_setting,
    small_model,
    world_of,
)
from pyro.distributions import Normal, Uniform

import cai
from cai.inference import NotKnown, PathConsistency, PolicyGradient, Status
from cai.inference.learning.networks.experience.buffer import Batch, Buffer, Columns
from cai.inference.learning.networks.layers import flat as flat_networks
from cai.inference.learning.networks.layers.heads import BoxHead
from cai.inference.learning.networks.updates.path_consistency import PathConsistencyNetworks
from cai.inference.learning.networks.updates.policy_gradient import Judged, PolicyGradientNetworks, soft_advantages
from cai.models import ContinuousModel, environment_model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entropy_form", [False, True])
def test_densities_of_kept_actions_are_those_of_the_draws(entropy_form):
    setting = box_setting(entropy_form=entropy_form)
    head, draws = BoxHead(setting), seeded()
    flat, seen = head.actor.start(draws).double(), torch.randn(40, 3, generator=draws).double()
    kept = head.draw(flat, seen, None, draws).double()
    mean, log_std = head.actor.network(flat, seen).chunk(2, -1)
    normal = torch.distributions.Normal(mean, log_std.exp())
    low, high = setting.interface.low, setting.interface.high
    squashed = torch.distributions.TransformedDistribution(
        normal,
        [torch.distributions.TanhTransform(), torch.distributions.AffineTransform((low + high) / 2, (high - low) / 2)],
    )
    logs = squashed.log_prob((low + high) / 2 + (high - low) / 2 * torch.tanh(kept)).sum(-1)
    want = logs if entropy_form else logs + (high - low).log().sum()
    assert float(kept.abs().max()) < 5  # where the reference has digits left
    torch.testing.assert_close(head.log_ratio(flat, seen, None, kept), want, rtol=1e-7, atol=1e-7)


def test_the_divergence_in_a_box_is_the_mean_of_the_log_ratio():
    setting = box_setting()
    head, draws = BoxHead(setting), seeded()
    flat, seen = head.actor.start(draws), torch.randn(1, 3, generator=draws)
    many = seen.expand(20_000, 3)
    kept = head.draw(flat, many, None, draws)
    ratios = head.log_ratio(flat, many, None, kept)
    told, entropy = head.divergence(flat, many[:4000], None, draws)
    error = 4 * math.hypot(float(ratios.std()) / 20_000**0.5, float(told.std()) / 4000**0.5)
    assert float(told.mean()) == pytest.approx(float(ratios.mean()), abs=error)
    assert float((told + entropy).mean()) == pytest.approx(2 * math.log(2), abs=1e-5)
    uniform = head.taken(head.uniform(20_000, None, draws))
    assert np.allclose(
        np.quantile(uniform.numpy(), [0.1, 0.5, 0.9], axis=0), [[-0.8] * 2, [0.0] * 2, [0.8] * 2], atol=0.04
    )


def batch_of(length, copies, draws, terminated=0.15, truncated=0.15):
    stops = torch.rand(2, length, copies, generator=draws)
    ended = (stops[0] < terminated).float()
    ends = ((stops[0] < terminated) | (stops[1] < truncated)).float()
    seen = torch.randn(2, length, copies, 3, generator=draws)
    actions = torch.randint(4, (length, copies, 1), generator=draws).float()
    rewards = torch.randn(length, copies, generator=draws)
    return Batch(seen[0], actions, rewards, seen[1], ended, None, None, ends)


def test_soft_advantages_are_sums_of_later_errors_that_stop_at_ends():
    """Against the definition; a step that both terminates and is truncated has terminated."""
    draws, gamma, lam, alpha = seeded(), 0.9, 0.7, 0.5
    batch = batch_of(9, 5, draws)
    assert bool(((batch.ends == 1) & (batch.terminated == 0)).any())
    assert bool((batch.terminated == 1).any())
    values, following, divergence = torch.randn(3, 9, 5, generator=draws)
    found = soft_advantages(batch, values, following, divergence, alpha, gamma, lam)
    for copy in range(5):
        for begin in range(9):
            total, weight = 0.0, 1.0
            for t in range(begin, 9):
                after = 0.0 if batch.terminated[t, copy] else gamma * float(following[t, copy])
                error = float(batch.rewards[t, copy]) - alpha * float(divergence[t, copy]) + after
                total += weight * (error - float(values[t, copy]))
                weight *= gamma * lam
                if batch.ends[t, copy]:
                    break
            assert float(found[begin, copy]) == pytest.approx(total, abs=1e-5)


def gradients_of(brain, batch, monkeypatch):
    """What an update steps down, by network."""
    found = {}

    def descend(self, loss, *, keep=False):
        found["actor" if self is brain._actor else "critic"] = torch.autograd.grad(
            loss, [self.flat], retain_graph=keep
        )[0]

    with monkeypatch.context() as patch:
        patch.setattr(flat_networks.Adam, "descend", descend)
        brain.update(batch, seeded(5))
    return found


def test_the_mean_update_is_the_gradient_of_the_soft_objective(monkeypatch):
    """Every action of every state, weighed by its probability: grad of sum_a pi (A - alpha log pi/p), with masks."""
    setting = numbered_setting()
    brain = PolicyGradientNetworks(setting, seeded(), 0.9, 0.2)
    draws = seeded(1)
    states, actions = torch.cartesian_prod(torch.arange(3), torch.arange(3)).unbind(1)
    allowed = torch.tensor([[1.0, 1, 1], [1, 0, 1], [1, 1, 1]])
    keeps = allowed[states, actions] > 0
    states, actions = states[keeps], actions[keeps]
    seen = torch.eye(3)[states]
    worth = torch.randn(3, 3, generator=draws)
    head, flat = brain.head, brain._actor.flat
    log_prior = torch.where(allowed > 0, -allowed.sum(1, keepdim=True).log(), torch.tensor(-math.inf))
    with torch.no_grad():
        probs = head.rows(flat, torch.eye(3), log_prior).exp()
        before = head.log_ratio(flat, seen, allowed[states], actions[:, None].float())
    weights = probs[states, actions] * len(states)
    advantages = weights * worth[states, actions]
    found = gradients_of(
        brain,
        Judged(seen, actions[:, None].float(), allowed[states], before, advantages, torch.zeros(len(states))),
        monkeypatch,
    )["actor"]
    rows = head.rows(flat, torch.eye(3), log_prior)
    safe = torch.where(allowed > 0, rows - log_prior, torch.zeros(()))
    seen_as_often = torch.bincount(states, minlength=3) / len(states)
    gains = (rows.exp() * worth).sum()
    spent = (seen_as_often * (rows.exp() * safe).sum(1)).sum()
    (want,) = torch.autograd.grad(setting.temperature * spent - gains, [flat])
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-6)
    assert float(want.norm()) > 0.1


def test_a_weight_beyond_the_clip_has_no_gradient(monkeypatch):
    brain = PolicyGradientNetworks(numbered_setting(temperature=1e-9), seeded(), 0.9, 0.2)
    seen, actions = torch.eye(3), torch.zeros(3, 1)
    with torch.no_grad():
        now = brain.head.log_ratio(brain._actor.flat, seen, None, actions)

    def size(shift, advantage):
        batch = Judged(seen, actions, None, now - shift, torch.full((3,), advantage), torch.zeros(3))
        return float(gradients_of(brain, batch, monkeypatch)["actor"].abs().max())

    assert size(0.3, 1.0) < 1e-6 < 0.01 < size(0.1, 1.0)  # too likely already
    assert size(-0.3, -1.0) < 1e-6 < 0.01 < size(-0.1, -1.0)
    assert size(0.3, -1.0) > 0.01 < size(-0.3, 1.0)


@torch.no_grad()
def test_residuals_are_those_of_their_definition():
    brain = PathConsistencyNetworks(numbered_setting(), seeded(), 6)
    brain._target.normal_(generator=seeded(3))
    batch = batch_of(6, 30, seeded(2))._replace(actions=torch.randint(3, (6, 30, 1), generator=seeded(4)).float())
    found, gamma, alpha = brain.residuals(batch), 0.8, 0.5
    for path in range(30):
        total = -float(brain.values(batch.observations[:1, path], None, seeded())[0])
        for t in range(6):
            seen = batch.observations[t, path][None]
            ratio = float(brain.head.log_ratio(brain._actor.flat, seen, None, batch.actions[t, path][None])[0])
            total += gamma**t * (float(batch.rewards[t, path]) - alpha * ratio)
            if batch.ends[t, path] or t == 5:
                if not batch.terminated[t, path]:
                    following = brain.critic(brain._target, batch.next_observations[t, path][None])
                    total += gamma ** (t + 1) * float(following[0, 0])
                break
        assert float(found[path]) == pytest.approx(total, abs=1e-4)


def test_paths_of_a_ring_are_steps_of_one_copy():
    columns = Columns(1, 1, 0, ends=True)
    ring = Buffer(14, columns)  # not a multiple of the three copies
    for t in range(11):
        rows = torch.zeros(3, columns.width)
        rows[:, 0], rows[:, 1] = 10 * torch.arange(3) + 100 * t, t
        rows[:, 5] = torch.tensor([0.0, 1.0, 0.0])
        ring.add(rows)
    paths = ring.paths(300, 3, 3, seeded())
    first = paths.observations[0, :, 0]
    assert torch.equal(paths.observations[..., 0], torch.stack([first, first + 100, first + 200]))
    held = [100.0 * t + 10 * c for t in range(11) for c in range(3) if 3 * t + c >= 33 - 14 and t <= 8]
    assert sorted(set(first.tolist())) == held
    assert torch.equal(paths.ends[0], ((first % 100) == 10).float())
    newest = ring.newest(2, 3)
    assert newest.observations[..., 0].tolist() == [[900.0, 910.0, 920.0], [1000.0, 1010.0, 1020.0]]


# ---- what they learn --------------------------------------------------------------------------------------------

LEARN = {
    "policy-gradient": {"learning_rate": 1e-3, "num_envs": 16, "buffer_size": 256, "updates_per_step": 0.06},
    "path-consistency": {"learning_rate": 3e-3, "num_envs": 8, "batch_size": 64, "updates_per_step": 0.2},
}
LEARN["policy-gradient"] |= {"steps": 16_000, "hidden_sizes": (32,), "gae_lambda": 0.8}
LEARN["path-consistency"] |= {"steps": 4000, "hidden_sizes": (32,)}
MODELS = {"policy-gradient": small_model, "path-consistency": deterministic_model}


@pytest.mark.parametrize(
    ("backend", "entropy_form"),
    [
        ("policy-gradient", False),
        ("path-consistency", True),
        pytest.param("policy-gradient", True, marks=pytest.mark.campaign),
        pytest.param("path-consistency", False, marks=pytest.mark.campaign),
    ],
)
def test_they_find_the_exact_policy_where_episodes_end_and_where_they_are_cut(backend, entropy_form):
    """Every live step pays 1, so that a cut taken for an end, or an end taken for a cut, costs far more than .05."""
    model = MODELS[backend](shift=1.0)
    world = world_of(model, max_episode_steps=5)
    answer = cai.infer(world, backend, entropy_form=entropy_form, **LEARN[backend])
    assert answer.status is Status.SUCCESS
    asked = model.entropy_form() if entropy_form else model
    best, found = cai.infer(asked, "variational"), learned_table(answer, asked)
    assert float(best.elbo - found.elbo) < 0.05
    assert float(answer.elbo) == pytest.approx(float(found.elbo), abs=5 * answer.details["standard_error"] + 0.1)
    assert answer.details["tail_share"] > 0.1
    nonterminal = model.nonterminal.numpy()
    worth = answer.value(
        np.eye(len(nonterminal))[nonterminal], action_mask=model.mdp.available[torch.from_numpy(nonterminal)]
    )
    torch.testing.assert_close(worth.double(), best.values[0, nonterminal], rtol=0, atol=0.35)


@pytest.mark.parametrize("backend", LEARN)
def test_a_horizon_of_a_model_is_a_true_end(backend):
    """The last column that is observed is t / T, and values fall to the end."""
    model = MODELS[backend](shift=1.0, horizon=3, discount=1.0)
    world = world_of(model)
    answer = cai.infer(world, backend, **LEARN[backend])
    best = cai.infer(model, "variational")
    assert float(answer.elbo) == pytest.approx(float(best.elbo), abs=5 * answer.details["standard_error"] + 0.05)
    assert answer.details["tail_share"] == 0.0
    seen = np.stack([[1.0, *[0.0] * (model.mdp.num_states - 1), t / 3] for t in (0, 2)])
    mask = model.mdp.available[[0, 0]]
    want = best.values[[0, 2], 0]
    torch.testing.assert_close(answer.value(seen, action_mask=mask).double(), want, rtol=0, atol=0.35)


@pytest.mark.parametrize("backend", LEARN)
def test_in_a_box_they_come_near_the_evidence_of_one_step(backend):
    world = environment_model(Target, discount=1.0, temperature=0.5)
    less = {"policy-gradient": {"steps": 6400}, "path-consistency": {"buffer_size": 500}}[backend]
    answer = cai.infer(world, backend, **{**LEARN[backend], **less})
    want = Target.evidence(0.5)
    assert float(answer.elbo) == pytest.approx(want, abs=0.25 + 4 * answer.details["standard_error"])
    middle = answer.policy().act(np.zeros((1, 1), np.float32), deterministic=True)
    torch.testing.assert_close(middle, torch.tensor([[1.0, 0.5]]).double(), rtol=0, atol=0.3)


def test_what_is_learned_are_values_of_observations_alone(tmp_path):
    answer = cai.infer(
        environment_model("Pendulum-v1", discount=0.9, temperature=1.0),
        "policy-gradient",
        steps=128,
        buffer_size=64,
        batch_size=16,
        hidden_sizes=(8,),
    )
    seen = np.zeros((4, 3), np.float32)
    assert answer.value(seen).shape == (4,)
    with pytest.raises(NotKnown, match=r"does not know what actions are worth; ask answer\.value"):
        answer.q_value(seen, np.zeros((4, 1)))
    again = cai.load(answer.policy().save(tmp_path / "policy"))
    both = [one.act(seen, generator=seeded()) for one in (again, answer.policy())]
    assert torch.equal(*both)
    assert bool(np.isfinite(answer.details["history"].critic_loss).all())


# ---- refusals ---------------------------------------------------------------------------------------------------


def noisy_continuous():
    return ContinuousModel(
        initial=torch.zeros(1, dtype=torch.float64),
        dynamics=lambda s, a, t: Normal(s + a, 0.1).to_event(1),
        reward=lambda s, a, t: -(s**2).sum(-1),
        horizon=4,
        action_prior=lambda s, t: Uniform(-1.0, 1.0).expand(s.shape).to_event(1),
    )


CARTPOLE = {"discount": 0.9, "temperature": 1.0}
REFUSED = {
    "warm-up": (lambda: PolicyGradient(warmup_steps=10), "learns from steps of its own policy alone"),
    "smoothing": (lambda: PolicyGradient(smoothing=0.1), "has no slow copy of a network"),
    "clip": (lambda: PolicyGradient(clip=0.0), "clip is 0.0; expected a number > 0"),
    "batch": (lambda: PolicyGradient(batch_size=600, buffer_size=500), "batch_size is 600, and the buffer holds"),
    "too few steps": (
        lambda: cai.infer(environment_model("CartPole-v1", **CARTPOLE), "policy-gradient", steps=1000),
        "steps is 1000, and backend 'policy-gradient' learns after every buffer_size=1024",
    ),
    "too many copies": (
        lambda: cai.infer(environment_model("CartPole-v1", **CARTPOLE), "policy-gradient", num_envs=2049),
        "buffer_size is 1024, and one step of num_envs=2049 copies takes more",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    build, pattern = REFUSED[name]
    with pytest.raises(ValueError, match=pattern):
        build()


def test_path_consistency_refuses_a_continuous_model_that_draws():
    PathConsistency().supports(cai.models.multi_goal())
    with pytest.raises(ValueError, match=r"needs deterministic dynamics, and those of .* draw"):
        PathConsistency().supports(noisy_continuous())


@pytest.mark.parametrize("backend", LEARN)
def test_actions_without_bounds_are_refused(backend):
    with pytest.raises(ValueError, match=r"have no bounds, and backend .* acts in a box"):
        cai.infer(cai.models.pendulum(), backend)
