"""Worlds in which each action has one outcome: nothing can be tilted, so that eta changes the start alone."""

import math

import numpy as np
import pytest
import torch

import cai
from cai.inference.tabular.believed_dynamics import TiltedDynamics
from cai.models import MDP, TableReward, TrajectoryModel

STATES, ACTIONS, STEPS, ALPHA = 5, 3, 6, 0.75


def world(seed, chance=1.0):
    draw = np.random.default_rng(seed)
    leads = draw.integers(STATES, size=(STATES, ACTIONS))
    rewards = draw.normal(size=(STATES, ACTIONS))
    rewards[draw.random((STATES, ACTIONS)) < 0.2] = -np.inf
    rewards[:, 0] = draw.normal(size=STATES)
    start = draw.dirichlet(np.ones(STATES))
    mdp = MDP.from_successors(leads[..., None].tolist(), np.full((STATES, ACTIONS, 1), chance).tolist(), start)
    model = TrajectoryModel(mdp, TableReward(torch.from_numpy(rewards)), STEPS, temperature=ALPHA)
    return model, leads, rewards, start


def by_hand(leads, rewards, start, eta):
    """(v_1 [S] in nats, certainty equivalent of the start, luck, believed return): numpy alone."""
    with np.errstate(divide="ignore"):
        v, policies = np.zeros(STATES), []
        for _ in range(STEPS):
            q = rewards / ALPHA + v[leads]
            v = np.log(np.exp(q).mean(-1))
            policies.insert(0, np.exp(q - v[:, None]) / ACTIONS)
    if eta == 0:
        worth, q = start @ v, start
    elif math.isinf(eta):
        best = v.max() if eta > 0 else v.min()
        worth, q = best, np.where(v == best, start, 0) / start[v == best].sum()
    else:
        weights = start * np.exp(eta * (v - v.max()))
        worth, q = v.max() + np.log(weights.sum()) / eta, weights / weights.sum()
    luck = sum(a * np.log(a / b) for a, b in zip(q, start, strict=True) if a > 0)
    mass, believed = q, 0.0
    for policy in policies:
        joint = mass[:, None] * policy
        believed += (joint * np.where(joint > 0, rewards, 0)).sum()
        mass = np.bincount(leads.ravel(), joint.ravel(), STATES)
    return v, worth, luck, believed


@pytest.mark.parametrize("eta", [-math.inf, -2.0, 0.0, 0.5, 1.0, math.inf])
@pytest.mark.parametrize("seed", range(4))
def test_the_start_alone_is_tilted(seed, eta):
    model, *problem = world(seed)
    assert model.mdp.num_outcomes == 1
    answer = cai.infer(model, f"risk:eta={eta}")
    v, worth, luck, believed = by_hand(*problem, eta)
    np.testing.assert_allclose(answer.values[0] / ALPHA, v, rtol=1e-12, atol=1e-12)
    assert float(answer.luck) == pytest.approx(luck, abs=1e-12)
    assert float(answer.believed_return) == pytest.approx(believed, abs=1e-12)
    if eta == 1:
        exact = cai.infer(model, "exact")
        assert float(exact.log_evidence) == pytest.approx(worth, abs=1e-12)
        assert float(exact.luck) == pytest.approx(luck, abs=1e-12)
    assert float(answer.luck_by_state().abs().max()) == 0.0


@pytest.mark.parametrize("name", ["exact", "risk:eta=-1", "max-product"])
def test_no_outcome_is_tilted(name, monkeypatch):
    model = world(0)[0]
    monkeypatch.setattr(TiltedDynamics, "_ratios", lambda *_: pytest.fail("outcomes are tilted"))
    answer = cai.infer(model, name)
    assert float(answer.luck) >= 0
    assert torch.isfinite(answer.state_marginals).all()


def test_gradients_by_certain_chances_are_those_of_uncertain_ones():
    """The chance of an outcome counts in the evidence in proportion, also where it is 1."""
    model = world(1)[0]
    table = torch.zeros(STATES, ACTIONS, STATES, dtype=torch.float64)
    table.scatter_(-1, model.mdp.next_states, model.mdp.probabilities)
    found = []
    for mdp in (model.mdp, MDP(table, model.mdp.initial)):
        rewards = model.reward_table(0)[..., 0].clone().requires_grad_()
        own = TrajectoryModel(mdp, TableReward(rewards), STEPS, temperature=ALPHA)
        answer = cai.infer(own, "risk:eta=-1")
        found.append(torch.autograd.grad(answer.values[0].sum(), rewards)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
