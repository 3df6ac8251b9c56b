"""AIRL and GAIL on tables: their fixed points, against every trajectory listed in plain Python."""

import math

import numpy as np
import pytest
import torch
from adversarial_oracle import random_world

from cai.inverse import Demonstrations, FitError, FitStatus, airl, gail
from cai.inverse.adversarial.tables import TableGame
from cai.inverse.tabular.data import read_demonstrations

EXACT = {"learner": "variational"}


@pytest.mark.parametrize("seed", [0, 1])
def test_airl_finds_the_reward_up_to_shaping(seed):
    """g is r / alpha + log p up to shaping, f is log pi and D is 1/2, wherever the demonstrator comes."""
    world = random_world(seed)
    values, logs = world.solved()
    est = airl(world.model, world.shown(np.exp(logs)), **EXACT)
    assert est.status is FitStatus.SUCCESS
    assert est.divergence < 1e-12
    assert est.discriminator_loss == pytest.approx(2 * math.log(2), abs=1e-12)
    apart = values - est.reward.h.numpy()  # the potential between the two rewards
    visits = world.visits(np.exp(logs))
    for t, s, a in np.argwhere(visits > 0):
        following = world.moves[s][a][0][1]
        true = world.rewards[s, a] / world.temperature + math.log(world.prior[s, a])
        shaped = true + world.discount * apart[t + 1, following] * (following not in world.ends) - apart[t, s]
        assert float(est.reward.g[s, a]) == pytest.approx(shaped, abs=1e-9)
        assert float(est.reward.advantage(s, a, t=t)) == pytest.approx(logs[t, s, a], abs=1e-9)
        assert float(est.probability(s, a, t=t)) == pytest.approx(0.5, abs=1e-10)
    assert "success" in est.summary()


def test_airl_of_any_sample_is_the_maximum_entropy_estimate():
    """The policy does each action in each state as often as the demonstrations do, discounted, by its paths listed."""
    world = random_world(7)
    paths = world.paths(np.exp(world.solved()[1]))
    chosen = np.random.default_rng(0).choice(len(paths), 60, p=[p for _, _, p in paths])
    shown = Demonstrations([paths[n][0] for n in chosen], [paths[n][1] for n in chosen])
    est = airl(world.model, shown, **EXACT)
    starts = np.zeros(len(world.start))
    seen = np.zeros(world.rewards.shape)
    for states, actions in shown:
        starts[int(states[0])] += 1 / len(shown)
        for t, (s, a) in enumerate(zip(states.tolist(), actions.tolist(), strict=False)):
            seen[s, a] += world.discount**t / len(shown)
    world.start = starts
    visits = world.visits(est.policy.action_probs.numpy())
    np.testing.assert_allclose(visits.sum(0), seen, atol=1e-11)
    likely = torch.tensor(visits > 0)
    logits = est.reward.f - est.policy.action_probs.log()
    assert float(logits[likely].abs().max()) < 1e-10  # D = 1/2, though visits at each time differ
    assert est.divergence > 1e-4


def test_a_reward_of_states_alone_is_found_up_to_a_constant():
    world = random_world(5, state_only=True, ends=False, horizon=5)
    est = airl(world.model, world.shown(np.exp(world.solved()[1])), state_only=True, **EXACT)
    apart = est.reward.g - torch.tensor(world.rewards[:, 0]) / world.temperature
    assert float(apart.std()) < 1e-9
    assert float(est.reward.reward([0], [1])) == float(est.reward.g[0])


def test_gail_finds_the_policy_under_noise():
    world = random_world(3, noise=True, states=3, horizon=3)
    logs = world.solved()[1]
    est = gail(world.model, world.shown(np.exp(logs)), **EXACT)
    visits = world.visits(np.exp(logs))
    np.testing.assert_allclose(est.policy.action_probs.numpy()[visits > 0], np.exp(logs)[visits > 0], atol=1e-10)
    for t, s, a in np.argwhere(visits > 0):
        assert float(est.probability(s, a, t=t)) == pytest.approx(0.5, abs=1e-10)


def test_under_noise_the_pointwise_form_is_off():
    """g = r / alpha + log p and h = V / alpha give D = 1/2 for one outcome after the other only without noise."""
    for noise, least in ((False, 0.0), (True, 0.4)):
        world = random_world(4, noise=noise)
        values, logs = world.solved()
        off = [0.0]
        for t, s, a in np.argwhere(world.visits(np.exp(logs)) > 0):
            g = world.rewards[s, a] / world.temperature + math.log(world.prior[s, a])
            off += [
                abs(g + world.discount * values[t + 1, n] - values[t, s] - logs[t, s, a]) for _, n in world.moves[s][a]
            ]
        assert max(off) >= least
        assert noise or max(off) < 1e-12
    with pytest.raises(ValueError, match="leads to several states"):
        airl(world.model, world.shown(np.exp(logs)), **EXACT)


def test_entropy_that_is_counted_twice_doubles_the_temperature():
    """A learner that adds entropy, paid f - log pi, comes to the policy of f at temperature 2."""
    world = random_world(6)
    model = world.model
    game = TableGame(model, read_demonstrations(model, world.shown(np.exp(world.solved()[1])), "moments"), False)
    f = torch.where(
        game.possible, torch.randn(game.shown.shape, generator=torch.Generator().manual_seed(0)).double(), 0.0
    )
    place = game.answer(f)
    logs = torch.where(game.possible, place.log_policy, 0.0)
    for _ in range(45):
        place = game.answer(f - logs)
        logs = (logs + torch.where(game.possible, place.log_policy, 0.0)) / 2
    hot = game.answer(f / 2).log_policy
    nonterminal = torch.tensor(world.visits(np.full(f.shape, 0.5)) > 0)
    assert float((place.log_policy - hot)[nonterminal].abs().max()) < 1e-9
    assert float((place.log_policy - game.answer(f).log_policy)[nonterminal].abs().max()) > 0.05


def test_what_is_never_done_has_no_estimate():
    world = random_world(1)
    once = Demonstrations([[0, world.moves[0][0][0][1]]], [[0]], complete=[True])
    short = world.model.replace(horizon=1)
    for method in (airl, gail):
        with pytest.raises(FitError, match="no demonstration shows action 1 in state 0") as caught:
            method(short, once, **EXACT)
        assert caught.value.status is FitStatus.SEPARATED
        assert bool(caught.value.estimate.reward.f.isnan().all())
    est = airl(short, once, throw=False, **EXACT)
    assert math.isnan(est.divergence)


def test_rounds_that_do_not_settle_are_no_success():
    world = random_world(0)
    est = airl(world.model, world.shown(np.exp(world.solved()[1])), rounds=3, throw=False, **EXACT)
    assert est.status is FitStatus.NOT_CONVERGED
    assert "raise rounds" in est.warnings[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learner": "soft-q-learning"}, "all is exact with learner='variational'"),
        ({"cut": True}, "was cut"),
        ({"env": 3}, "the world is a int"),
        ({"rounds": 0}, "rounds"),
    ],
)
def test_what_does_not_fit_tables_is_refused(change, said):
    world = random_world(0)
    shown = world.shown(np.exp(world.solved()[1]))
    if change.pop("cut", False):
        shown = Demonstrations(shown.states, shown.actions, shown.lengths, complete=[False] * len(shown))
    with pytest.raises((ValueError, TypeError), match=said):
        airl(change.pop("env", world.model), shown, **{**EXACT, **change})
