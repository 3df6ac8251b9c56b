"""Returns that are tiny beside the temperature, over finite horizons, against the recursion in 80 digits."""

import math

import mpmath
import numpy as np
import pytest
import torch
from campaigns import over_seeds

import cai
from cai.models import MDP, OutcomeReward, TableReward, TrajectoryModel

BACKENDS = {
    "exact": 1.0,
    "optimistic": 1.0,
    "variational": 0.0,
    "risk:eta=0.5": 0.5,
    "risk:eta=-2": -2.0,
    "exact:kernel=torch": 1.0,
    "variational:kernel=torch": 0.0,
}


def problem(seed, scale):
    """A random process with holes in its prior, rewards of an action or an outcome, some of them -inf."""
    rng = np.random.default_rng(seed)
    states, actions, outcomes = rng.integers(2, 6), rng.integers(1, 4), int(rng.integers(1, 4))
    following = rng.integers(0, states, (states, actions, outcomes))
    chances = rng.dirichlet(np.ones(outcomes), (states, actions))
    rewards = rng.normal(size=(states, actions, outcomes if seed % 2 else 1)) * scale
    if seed % 3 == 0 and actions > 1:
        rewards[0, 0] = -math.inf
    mdp = MDP.from_successors(following, chances, rng.dirichlet(np.ones(states)))
    prior = rng.dirichlet(np.ones(actions), states)
    reward = OutcomeReward(rewards) if seed % 2 else TableReward(rewards[..., 0])
    discount = 0.9 if seed % 5 == 0 else 1.0
    model = TrajectoryModel(mdp, reward, int(rng.integers(1, 7)), discount=discount, action_prior=prior)
    chances, prior = mdp.probabilities.numpy(), model.action_prior.numpy()
    return model, (following, chances, np.broadcast_to(rewards, chances.shape), prior, discount)


def certain(pairs, eta):
    """(1 / eta) log sum w e^{eta x} of pairs (w, x), the weights made to sum to 1."""
    pairs = [(mpmath.mpf(float(w)), x) for w, x in pairs if w > 0]
    whole = mpmath.fsum(w for w, _ in pairs)
    if eta <= 0 and any(x == -mpmath.inf for _, x in pairs):
        return -mpmath.inf
    if eta == 0:
        return mpmath.fsum(w * x for w, x in pairs) / whole
    total = mpmath.fsum(w * mpmath.exp(eta * x) for w, x in pairs) / whole
    return mpmath.log(total) / eta if total else -mpmath.inf


def recursion(parts, steps, eta):
    """V_1 in nats, by the definition."""
    following, chances, rewards, prior, discount = parts
    values = [mpmath.mpf(0)] * len(prior)
    gamma = mpmath.mpf(discount)
    for _ in range(steps):
        fresh = []
        for s in range(len(prior)):
            q_values = []
            for a in range(prior.shape[1]):
                outcomes = []
                for p, r, t in zip(chances[s, a], rewards[s, a], following[s, a], strict=True):
                    paid = mpmath.mpf(float(r)) if np.isfinite(r) else -mpmath.inf
                    outcomes += [(gamma * mpmath.mpf(float(p)), paid + values[t])]
                    if discount < 1:
                        outcomes += [((1 - gamma) * mpmath.mpf(float(p)), paid)]
                q_values.append((prior[s, a], certain(outcomes, eta)))
            fresh.append(certain(q_values, 1.0))
        values = fresh
    return values


@over_seeds(range(2000), quick=30)
@pytest.mark.parametrize("name", BACKENDS)
def test_no_digit_is_lost(name, seeds):
    with mpmath.workdps(80):
        for seed in seeds:
            scale = (1e-4, 1e-6, 1e-9, 1e-12, 1e-15, 1e-18)[seed % 6]
            model, parts = problem(seed, scale)
            got = cai.infer(model, name, throw=False)
            if not got.status.ok:
                assert np.isinf(parts[2]).any(), (seed, got.status)
                continue
            want = recursion(parts, model.steps, BACKENDS[name])
            size = max(abs(float(w)) for w in want if mpmath.isfinite(w))
            for s, value in enumerate(want):
                found = float(got.values[0, s])
                if not mpmath.isfinite(value):
                    assert found == float(value), (seed, s, found)
                    continue
                assert abs(found - value) <= 1e-11 * size, (seed, s, found, float(value))
            if not np.isinf(parts[2]).any():
                account = got.believed_return - got.policy_divergence - got.luck
                assert float(account) == pytest.approx(float(got.elbo), abs=1e-9 * size, rel=0), seed


@pytest.mark.parametrize("name", ["exact", "variational"])
def test_gradients_are_those_of_the_prior(name):
    """As rewards vanish the slope of the answer is how often the prior is where."""
    model, _ = problem(1, 1e-12)
    rewards = model.reward_table(0).detach().clone().requires_grad_()
    answer = cai.infer(model.replace(reward=OutcomeReward(rewards)), name)
    (slope,) = torch.autograd.grad(answer.elbo, rewards)
    assert float(slope.sum()) == pytest.approx(model.steps, rel=1e-9)
    assert float((slope * rewards.detach()).sum()) == pytest.approx(float(answer.elbo.detach()), rel=1e-9)


@pytest.mark.parametrize("name", ["exact", "variational"])
def test_a_batch_may_hold_tiny_problems_beside_others(name):
    model, _ = problem(2, 1e-12)
    rewards = model.reward_table(0)[..., 0] * torch.tensor([1.0, 1e12, 1e4]).double()[:, None, None]
    batch = cai.infer(model.batch(reward=rewards), name)
    for member, reward in enumerate(rewards):
        alone = cai.infer(model.replace(reward=TableReward(reward)), name)
        assert torch.allclose(batch[member].values, alone.values, rtol=1e-11, atol=0)
