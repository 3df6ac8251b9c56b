"""Infinite horizons over random combinations of features, against linear systems in 60 digits and finite horizons.

No `success` may have an error above its stated bound, or above the tolerance, and its policy must earn what it says.
What is called diverged must grow over finite horizons, what is not assured must be undiscounted, and an iteration that
does not get there must be rare.
"""

import math

import mpmath
import numpy as np
import pytest
from campaigns import over_seeds
from stationary_oracle import best_policy_value, exact_values, finite, soft_values

import cai
from cai.inference import Status
from cai.models import MDP, OutcomeReward, TrajectoryModel

INF = math.inf
DISCOUNTS = [1.0, 1.0, 1.0, 0.9, 0.5, 0.99, 1 - 1e-6, 1 - 1e-9]
SIZES = [1.0, 1.0, 1.0, 10.0, 1e-10, 1e3]


def random_case(seed):
    """(problem as lists, discount, model): few states, ends, traps, leaks, free loops, ties, forbidden outcomes."""
    rng = np.random.default_rng(seed)
    size, width = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    number = size + 1  # the last may be an end
    ends = rng.random() < 0.8
    sign, scale = rng.choice([-1.0, 1.0, 0.0], p=[0.5, 0.25, 0.25]), float(rng.choice(SIZES))
    forbids, sparse, whole = rng.random() < 0.25, rng.random() < 0.7, rng.random() < 0.4
    discount = float(rng.choice(DISCOUNTS))
    chances, following = np.zeros((number, width, 3)), np.zeros((number, width, 3), dtype=int)
    rewards, prior = np.zeros((number, width, 3)), np.zeros((number, width))
    for s in range(number):
        if ends and s == size:
            following[s], chances[s, :, 0], prior[s] = s, 1.0, 1 / width
            continue
        offered = rng.random(width) < 0.8
        offered[rng.integers(width)] = True
        prior[s] = np.where(offered, rng.dirichlet(np.ones(width)) + 0.05, 0.0)
        prior[s] /= prior[s].sum()
        for a in range(width):
            count = 1 if sparse and rng.random() < 0.5 else int(rng.integers(1, 4))
            row = rng.dirichlet(np.ones(count))
            if count > 1 and rng.random() < 0.3:  # something happens seldom
                rare = 10.0 ** -rng.integers(2, 13)
                row = np.append(row[:-1] / row[:-1].sum() * (1 - rare), rare)
            chances[s, a, :count] = row
            following[s, a] = rng.integers(number, size=3)
            if rng.random() < 0.3:
                following[s, a, 0] = s
            paid = rng.gamma(1.0, 1.0, size=3) * (sign if sign else rng.choice([-1.0, 1.0], size=3))
            paid = np.round(paid) if whole else paid
            paid = np.full(3, paid[0]) if rng.random() < 0.5 else paid
            rewards[s, a] = scale * np.where(rng.random() < 0.2, 0.0, paid)
            if forbids and rng.random() < 0.15:
                rewards[s, a, rng.integers(3)] = -INF
    start = rng.dirichlet(np.ones(number)) * (rng.random(number) < 0.6)
    start = np.eye(number)[rng.integers(size)] if start.sum() == 0 else start / start.sum()
    mdp = MDP.from_successors(following, chances, start, terminal=[size] if ends else None)
    model = TrajectoryModel(mdp, OutcomeReward(rewards), INF, discount=discount, action_prior=prior)
    chances, prior = mdp.probabilities.numpy(), model.action_prior.numpy()
    problem = []
    for s in range(number):
        if ends and s == size:
            problem.append(None)
            continue
        row = []
        for a in np.flatnonzero(prior[s]):
            row.append(
                (
                    prior[s, a],
                    [
                        (chances[s, a, k], int(following[s, a, k]), float(rewards[s, a, k]))
                        for k in range(3)
                        if chances[s, a, k] > 0
                    ],
                )
            )
        problem.append(row)
    return problem, discount, model


def met(problem, start, eta=None):
    """The states that the start may lead to; given eta, without what is forbidden by a reward of -inf.

    Where outcomes are wished for (eta > 0) an outcome is forbidden alone, else every action that may have it.
    """

    def possible(outcomes):
        if eta is None or all(r != -INF for _, _, r in outcomes):
            return outcomes
        return [outcome for outcome in outcomes if outcome[2] != -INF] if eta > 0 else []

    found = {int(s) for s in np.flatnonzero(start)}
    while True:
        more = found | {t for s in found if problem[s] for _, k in problem[s] for _, t, _ in possible(k)}
        if more == found:
            return sorted(found)
        found = more


def check_values(got, want, states, led_to, problem, what):
    """Each value that the start leads to within the stated bound, all within the tolerance of what is in play."""
    paid = [r for s in states if problem[s] for _, k in problem[s] for _, _, r in k if r != -INF]
    finite_ones = [abs(want[s]) for s in states if mpmath.isfinite(want[s])]
    size = float(max([*finite_ones, *map(abs, paid), 0.0]))
    one_sign = all(r >= 0 for r in paid) or all(r <= 0 for r in paid)
    for s in states:
        value = float(got.values[0, s])
        if not mpmath.isfinite(want[s]):
            assert value == float(want[s]), (what, s, value, want[s])
            continue
        missed = abs(mpmath.mpf(value) - want[s])
        rounding = 4e-16 * abs(float(want[s])) + 1e-300
        unstated = 1e-300 if s in led_to else rounding
        assert missed <= got.details["error_bound"] + unstated, (what, s, value, float(want[s]), "bound")
        allowed = 1e-10 * (float(abs(want[s])) if one_sign else size)
        assert missed <= allowed + rounding, (what, s, value, float(want[s]), "tolerance")


def check_refusal(got, problem, discount, eta, hard, start, what):
    """What was refused as growth grows over finite horizons; only without a discount may values have no limit."""
    assert got.status is not Status.NOT_ASSURED or discount == 1, what
    if got.status is Status.DIVERGED:
        short, long = (finite(problem, discount, eta, hard, steps, 1)[0] for steps in (100, 1000))
        states = met(problem, start)
        grows = [abs(long[s]) > abs(short[s]) + 1e-12 or math.isinf(long[s]) for s in states]
        assert any(grows), (what, "nothing grows", short, long)


def accounts(got, model, what):
    """Log p(O) or the bound = believed return / alpha - KL(policy) - luck, to what is claimed."""
    if got.elbo is None or not math.isfinite(float(got.elbo)):
        return
    parts = (float(got.believed_return) / float(model.temperature), float(got.policy_divergence), float(got.luck))
    size = sum(map(abs, parts)) + abs(float(got.elbo)) + max(abs(float(v)) for v in got.values[0] if math.isfinite(v))
    assert abs(parts[0] - parts[1] - parts[2] - float(got.elbo)) <= 1e-9 * size + 1e-20, (what, parts, float(got.elbo))


LONG = 1200  # steps of a horizon that stands for its limit
KINDS = [
    ("exact", 1.0, False),
    ("variational", 0.0, False),
    ("value-iteration", 0.0, True),
    ("risk:eta=0.4", 0.4, False),
    ("risk:eta=-0.7", -0.7, False),
    ("value-iteration:successors=best", INF, True),
    ("value-iteration:successors=worst", -INF, True),
]


def differing(got, limit, states):
    """(state, value, that of the finite horizon) where these are not the same."""
    size = float(np.abs(limit[np.isfinite(limit)]).max(initial=0))
    values = {s: float(got.values[0, s]) for s in states}
    return [
        (s, value, limit[s])
        for s, value in values.items()
        if math.isfinite(value) and limit[s] != pytest.approx(value, rel=1e-6, abs=1e-6 * size + 1e-12)
    ]


@over_seeds(range(5000), quick=30, blocks=4)
def test_values_are_right_or_not_called_so(seeds):
    counts = dict.fromkeys(Status, 0)
    for seed in seeds:
        problem, discount, model = random_case(seed)
        start = model.mdp.initial.numpy()
        states = met(problem, start)
        kinds = [KINDS[seed % len(KINDS)]] if seed % 10 else KINDS
        for name, eta, hard in kinds:
            got, what = cai.compare(model, [name], num_rollouts=1).rows[0].posterior, (seed, name)
            assert got is not None, what
            counts[got.status] += 1
            if got.status is not Status.SUCCESS:
                check_refusal(got, problem, discount, eta, hard, start, what)
                continue
            want = oracle(problem, discount, eta, hard, got.values[0].tolist(), states, what)
            if want is not None:
                check_values(got, want, states, met(problem, start, eta), problem, what)
            accounts(got, model, what)
            if hard and eta == 0:
                earned, worth = float(got.believed_return), float((got.initial * got.values[0])[got.initial > 0].sum())
                size = max(float(got.values[0, s].abs()) for s in states)
                assert earned == pytest.approx(worth, rel=1e-9, abs=1e-9 * size), (what, "not attained")
            if (discount < 1 and discount**LONG > 1e-9) or not _settles(problem):
                continue
            off = [differing(got, finite(problem, discount, eta, hard, LONG, 1)[0], states)]
            if off[0]:  # waiting where it is cheap may be as good as an end for thousands of steps
                off.append(differing(got, finite(problem, discount, eta, hard, 16 * LONG, 1)[0], states))
            assert not off[-1], (what, off)
    total = sum(counts.values())
    assert counts[Status.SUCCESS] > total / 2, counts
    assert counts[Status.NOT_CONVERGED] <= max(2, total / 50), counts


def oracle(problem, discount, eta, hard, guess, states, what):
    """The values in 60 digits where they are known by other means, else None."""
    if hard:
        return best_policy_value(problem, discount) if eta == 0 and _all_pay(problem, discount) else None
    if eta != 1:
        return soft_values(problem, discount, eta, guess, states)
    want = exact_values(problem, discount, states)
    assert want is not None, (what, "rho(M) >= 1")
    return want


def _settles(problem):
    """Whether nothing happens so seldom that so many steps are no time."""
    chances = [p for row in problem if row for _, k in row for p, _, _ in k]
    return min(chances, default=1.0) > 5e-2


def _all_pay(problem, discount):
    """Whether all nonterminal states pay something, so that no loop is free and every best policy ends."""
    return discount < 1 or all(r < 0 for row in problem if row for _, k in row for _, _, r in k)
