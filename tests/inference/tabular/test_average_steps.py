"""The average criterion where an answer took thousands of steps, or never came."""

import math

import mpmath
import numpy as np
import pytest

import cai
from cai.models import MDP, TrajectoryModel


def model_of(following, chances, rewards):
    """A problem of the average criterion, of lists of outcomes [S, A, K]."""
    mdp = MDP.from_successors(following, chances, np.eye(len(following))[0])
    return TrajectoryModel(mdp, rewards, horizon=math.inf, criterion="average")


def risky_gains(model, values, eta, digits=60):
    """F(h)(s) - h(s) of each state, a soft choice of certainty equivalents, in so many digits."""
    following, chances = model.mdp.successors().numpy(), model.mdp.probabilities.numpy()
    rewards = model.reward_table(0).numpy()
    with mpmath.workdps(digits):
        h, found = [mpmath.mpf(float(value)) for value in values], []
        for s in range(len(h)):
            total = mpmath.mpf(0)
            for a in range(chances.shape[1]):
                parts = [
                    [mpmath.mpf(float(p)), int(t)]
                    for p, t in zip(chances[s, a], np.broadcast_to(following, chances.shape)[s, a], strict=True)
                ]
                largest = max(range(len(parts)), key=lambda k: parts[k][0])
                parts[largest][0] = 1 - sum(p for k, (p, _) in enumerate(parts) if k != largest)
                mean = mpmath.fsum(p * mpmath.exp(eta * (h[t] - h[s])) for p, t in parts)
                reward = mpmath.mpf(float(rewards[s, a, 0]))
                total += mpmath.exp(reward + mpmath.log(mean) / eta) / chances.shape[1]
            found.append(mpmath.log(total))
    return found


@pytest.mark.parametrize("leak", [2.0**-10, 2.0**-40])
@pytest.mark.parametrize("eta", [-0.125, -1.0])
def test_states_that_are_seldom_left_need_few_systems_where_dynamics_work_against_the_policy(leak, eta):
    """60 states, each held with 1 - leak. A policy that is held beside needs some 200 steps at eta = -1 / 8."""
    rng = np.random.default_rng(3)
    number, width, fan = 60, 3, 4
    following = rng.integers(number, size=(number, width, fan + 1))
    following[..., 1] = ((np.arange(number) + 1) % number)[:, None]
    following[..., 0] = np.arange(number)[:, None]
    chances = np.full(following.shape, leak / fan)
    chances[..., 0] = 1 - leak
    rewards = rng.integers(-16, 17, size=(number, width)) / 16
    got = cai.infer(model_of(following, chances, rewards), f"risk:eta={eta}")
    assert got.details["steps"] <= 60
    low, high = got.details["gain_bounds"]
    assert high - low <= 1e-10
    gains = risky_gains(model_of(following, chances, rewards), got.values[0].tolist(), eta)
    assert max(gains) - min(gains) <= 1e-9
    assert min(gains) <= high
    assert max(gains) >= low


def test_worst_outcomes_of_a_long_ring_need_few_policies():
    """Each of 400 states may be held, so that the gain is the least of the best rewards; backups go round it."""
    rng = np.random.default_rng(5)
    number = 400
    following = np.stack([np.arange(number), (np.arange(number) + 1) % number], -1)[:, None].repeat(3, 1)
    chances = np.full(following.shape, 0.5)
    rewards = rng.integers(-64, 65, size=(number, 3)) / 16
    got = cai.infer(model_of(following, chances, rewards), "value-iteration:successors=worst")
    assert float(got.gain) == rewards.max(1).min()
    assert got.details["steps"] <= 50


@pytest.mark.parametrize("scale", [1.0, 2.0**-40])
def test_policies_as_good_in_sets_of_their_own_do_not_go_round(scale):
    """State 2 can stay for the gain, 0, or lead to the others for as much or for less: Howard's policies went round."""
    following = [[1, 0, 1, 1], [2, 1, 1, 2], [0, 0, 1, 2]]
    rewards = scale * np.array([[0.0, -2.0, -2.0, 0.0], [-3.0, 0.0, -3.0, -1.0], [-2.0, 0.0, -3.0, 0.0]])
    got = cai.infer(
        model_of(np.array(following)[..., None], np.ones((3, 4, 1)), rewards), "value-iteration:max_iterations=1000"
    )
    assert float(got.gain) == 0
    assert got.values.tolist() == [[0.0, 0.0, 0.0]]
    assert got.details["steps"] <= 20


def test_random_deterministic_problems_of_whole_rewards_end_and_earn_the_best_cycle():
    """The best mean of a circle that the start leads to (Karp 1978), in fractions."""
    from fractions import Fraction

    for seed in range(60):
        rng = np.random.default_rng(seed)
        number, width = int(rng.integers(2, 9)), int(rng.integers(1, 4))
        following = rng.integers(number, size=(number, width))
        following[:, 0] = (np.arange(number) + 1) % number
        rewards = rng.integers(-3, 4, size=(number, width)).astype(float)
        sums = [[Fraction(0)] + [None] * (number - 1)]
        for _ in range(number):
            row = [None] * number
            for s in range(number):
                if sums[-1][s] is None:
                    continue
                for a in range(width):
                    t, total = int(following[s, a]), sums[-1][s] + Fraction(rewards[s, a])
                    row[t] = total if row[t] is None else max(row[t], total)
            sums.append(row)
        best = max(
            min((sums[number][s] - sums[k][s]) / (number - k) for k in range(number) if sums[k][s] is not None)
            for s in range(number)
            if sums[number][s] is not None
        )
        model = model_of(following[..., None], np.ones((number, width, 1)), rewards)
        for successors in ("expected", "best", "worst"):  # the same in a sure world
            name = f"value-iteration:successors={successors},max_iterations=1000"
            got = cai.infer(model, name, throw=False)
            low, high = got.details["gain_bounds"]
            assert low <= best <= high, (seed, successors)
            assert high - low <= 1e-10, (seed, successors)
