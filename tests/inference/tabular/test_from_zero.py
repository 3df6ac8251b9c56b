"""Soft choices among extremes of outcomes that may go on for ever: the limits of finite horizons by recursions."""

import math
from fractions import Fraction

import numpy as np
import pytest

import cai
from cai.inference import Status
from cai.models import MDP, OutcomeReward, TrajectoryModel

INF = math.inf


def falls_to(successors, chances, paid, prior, ends, eta, temperature=1.0, steps=4000):
    """V_T [S] in units of rewards by the recursion of finite horizons, in long double; None if it moves still."""
    extreme, off = (np.max, -INF) if eta > 0 else (np.min, INF)
    values = np.zeros(len(paid), np.longdouble)
    for _ in range(steps):
        outcomes = np.where(chances > 0, paid + values[successors], off)
        advantages = extreme(outcomes, axis=-1) / temperature
        following = np.where(ends, 0, temperature * np.log((prior * np.exp(advantages)).sum(-1)))
        moved, values = np.abs(following - values).max(), following
    return values if moved <= 1e-18 * max(1, float(np.abs(values).max())) else None


def asked(successors, chances, paid, prior, ends, eta, start, temperature=1.0):
    mdp = MDP.from_successors(successors, chances, start, terminal=ends)
    model = TrajectoryModel(mdp, OutcomeReward(paid), INF, temperature, action_prior=prior)
    return cai.infer(model, f"risk:eta={eta}", throw=False)


@pytest.mark.parametrize("actions", [1, 2])
def test_a_loop_of_net_reward_0_is_not_assured_by_both_backends(actions):
    """V_T of the loop is 3/8, 0, 3/8, ...: no limit; of two like actions, the soft choice is rounded."""
    successors, paid = [1, 0, 1], [Fraction(3, 8), Fraction(-3, 8), Fraction(-3, 4)]
    values, seen = [Fraction(0)] * 3, []
    for _ in range(6):
        values = [pay + values[following] for pay, following in zip(paid, successors, strict=True)]
        seen.append(values)
    assert seen[1] == seen[3] == seen[5] != seen[2] == seen[4]
    tables = np.repeat(np.array(successors)[:, None, None], actions, 1), np.ones((3, actions, 1))
    rewards = np.repeat(np.array([float(pay) for pay in paid])[:, None], actions, 1)
    model = TrajectoryModel(MDP.from_successors(*tables, [0, 0.6875, 0.3125]), rewards, INF)
    for backend in ("risk:eta=inf", "risk:eta=-inf", "value-iteration:successors=best"):
        answer = cai.infer(model, backend, throw=False)
        assert answer.status is Status.NOT_ASSURED
        assert answer.details["steps"] < 200  # a million backups took two minutes


@pytest.mark.parametrize("power", [10, 40])
def test_a_leak_from_a_loop_is_not_taken_for_going_round(power):
    """e^-V(0) = e^-3/8 ((1 - q) e^-V(1) + q) and e^-V(1) = e^3/8 e^-V(0), so that V(0) = 3/8 for every q > 0."""
    leak = 2.0**-power
    model = TrajectoryModel(
        MDP.from_successors(
            np.array([[[1, 2]], [[0, 2]], [[2, 2]]]),
            np.array([[[1 - leak, leak]], [[1, 0]], [[1, 0]]]),
            [1, 0, 0],
            terminal=[2],
        ),
        np.array([[0.375], [-0.375], [0.0]]),
        INF,
    )
    answer = cai.infer(model, "risk:eta=-1", throw=False)
    assert answer.status in (Status.SUCCESS, Status.NOT_CONVERGED)  # within the bound, or known to be too rare
    assert abs(float(answer.values[0, 0]) - 0.375) <= answer.details["error_bound"]
    assert answer.status.ok or power > 10


def test_the_worst_outcome_of_staying_is_as_good_as_the_way_on():
    """Two states of one value: every lower value of the first stands still as well."""
    successors = np.broadcast_to(np.arange(3), (3, 2, 3))
    chances = np.array([[[1, 0, 0], [1, 0, 0]], [[0, 0.5, 0.5], [0.5, 0.5, 0]], [[0, 0, 1], [1, 0, 0]]])
    paid = np.array([[[0.0] * 3] * 2, [[0.0] * 3, [-1.125, 0, 0]], [[0, -1.125, -INF], [-1.125, 0, 0]]])
    prior = np.array([[0, 1], [0.4375, 0.5625], [0.4375, 0.5625]])
    ends, start = np.array([True, False, False]), [0.375, 0.0625, 0.5625]
    answer = asked(successors, chances, paid, prior, ends, -INF, start, 8.0)
    want = 8 * math.log(0.5625) - 1.125
    assert answer.status is Status.SUCCESS
    assert answer.details["error_bound"] <= 1e-10 * abs(want) * 1.01
    assert np.abs(np.asarray(answer.values[0]) - [0, want, want]).max() <= answer.details["error_bound"]


@pytest.mark.parametrize("eta", [INF, -INF])
def test_rewards_of_one_sign_are_answered_where_backups_settle(eta):
    """Random dyadic problems of cost; some of their outcomes cost nothing."""
    random, settled = np.random.default_rng(5), 0
    for _ in range(120):
        number, actions, width = 3, 2, 2
        successors = random.integers(0, number, (number, actions, width))
        chances = np.where(random.random((number, actions, 1)) < 0.5, [0.5, 0.5], [0.25, 0.75])
        paid = -random.integers(0, 5, (number, actions, width)) / 4 * (random.random((number, actions, width)) < 0.5)
        prior = np.array([[0.25, 0.75]] * number)
        ends = np.arange(number) == number - 1
        successors[-1], paid[-1] = number - 1, 0
        want = falls_to(successors, chances, paid, prior, ends, eta, steps=600)
        if want is None:
            continue
        settled += 1
        answer = asked(successors, chances, paid, prior, ends, eta, [0.5, 0.5, 0])
        assert answer.status is Status.SUCCESS
        error = np.abs(np.asarray(answer.values[0]) - want).max()
        assert error <= answer.details["error_bound"]
    assert settled > 15
