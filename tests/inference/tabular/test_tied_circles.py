"""Hard control where ways round in circles pay nothing in sum, and are as good as those to the end; in fractions."""

import math
import time
from fractions import Fraction

import numpy as np
import pytest

import cai
from cai.inference import Status
from cai.models import MDP, OutcomeReward, TrajectoryModel
from tests.campaigns import over_seeds

SUMS = 300  # steps after which sums of so few states repeat, or have grown


def random_problem(seed, sure):
    """(next states [S, A, K], rewards): differences of potentials, less a cost that is often nothing; the last ends."""
    rng = np.random.default_rng(seed)
    size, width, outcomes = int(rng.integers(2, 7)), int(rng.integers(1, 4)), 1 if sure else int(rng.integers(1, 4))
    following = rng.integers(0, size, (size, width, outcomes))
    following[-1] = size - 1
    unit = float(rng.choice([1.0, 0.1, 1 / 3, 0.7]))
    heights = rng.integers(0 if rng.random() < 0.5 else -3, 6, size) * unit
    heights[-1] = 0.0
    rewards = heights[:, None, None] - heights[following] - unit * rng.choice([0, 0, 1, 2], following.shape)
    rewards[-1] = 0.0
    return following, rewards


def best_sums(following, rewards):
    """[V_T for T = 1, 2, ...] of the best outcomes, each a list of fractions."""
    size = len(following)
    ways = [{} for _ in range(size)]
    for s, target, reward in zip(
        np.repeat(np.arange(size), following[0].size), following.ravel(), rewards.ravel(), strict=True
    ):
        ways[s][target] = max(Fraction(reward), ways[s].get(target, Fraction(-(10**9))))
    values, found = [Fraction(0)] * size, []
    for _ in range(SUMS):
        values = [max(r + values[t] for t, r in ways[s].items()) if s < size - 1 else Fraction(0) for s in range(size)]
        found.append(values)
    return found


@pytest.mark.parametrize(("successors", "sure"), [("best", False), ("expected", True), ("worst", True)])
@over_seeds(range(400), quick=25)
def test_values_are_the_limits_of_exact_sums(successors, sure, seeds):
    counts = dict.fromkeys(Status, 0)
    for seed in seeds:
        following, rewards = random_problem(seed, sure)
        size, alpha = len(following), [1.0, 3.0][seed % 2]
        mdp = MDP.from_successors(
            following, np.full(following.shape, 1 / following.shape[-1]), np.ones(size) / size, terminal=[size - 1]
        )
        model = TrajectoryModel(mdp, OutcomeReward(rewards), math.inf, temperature=alpha)
        began = time.process_time()
        got = cai.infer(model, "value-iteration", successors=successors, throw=False)
        assert time.process_time() - began < 5, seed
        counts[got.status] += 1
        last = best_sums(following, rewards)[-2 * size :]
        settled = all(values == last[-1] for values in last)
        if got.status is Status.SUCCESS:
            assert settled, (seed, "values of finite horizons do not settle")
            for value, want in zip(got.values[0].tolist(), last[-1], strict=True):
                assert abs(Fraction(value) - want) <= Fraction(got.details["error_bound"]), (seed, value, float(want))
        elif got.status is not Status.NOT_ASSURED:  # one circle pays more than nothing, however little
            assert not settled, (seed, got.status)
    assert counts[Status.SUCCESS] > len(seeds) / 3, counts


def test_a_circle_of_fractions_that_pays_nothing():
    """Three states in a ring of 1/3 + 2/3 - 1, each of which may end; divided by 7 the rewards still sum up to 0."""
    for paid in ([1 / 3, 2 / 3, -1 / 3 - 2 / 3], [6.0, -6.0, 0.0], [0.75, 1.5, -2.25]):
        for alpha in (1.0, 7.0):
            following = np.array([[1, 3], [2, 3], [0, 3], [3, 3]])
            ends = [20.0, 20.0 - paid[0], 20.0 - paid[0] - paid[1], 0.0]
            rewards = np.stack([[*paid, 0.0], ends], -1)
            mdp = MDP.from_successors(following[..., None], np.ones((4, 2, 1)), 0, terminal=[3])
            got = cai.infer(TrajectoryModel(mdp, rewards, math.inf, temperature=alpha), "value-iteration", throw=False)
            exact = sum(map(Fraction, paid))
            if exact > 0:
                assert got.status is not Status.SUCCESS
                continue
            assert got.status is Status.SUCCESS
            assert np.allclose(got.values[0], ends, rtol=1e-14)


def test_what_grows_by_less_than_floats_hold_ends_soon():
    """A ring that pays 2.8e-17 in sum beside values of 0.4: not converged, and not after a million backups."""
    following = np.array([[[4], [2], [2]], [[0], [3], [1]], [[4], [5], [5]], [[0], [3], [1]], [[2], [1], [0]]])
    following = np.concatenate([following, np.full((1, 3, 1), 5)])
    rewards = [
        *([0.1, 0.0, 0.1], [0.30000000000000004, 0.09999999999999998, 0.0], [-0.2, -0.1, -0.2]),
        *([2.7755575615628914e-17, 0.0, -0.09999999999999998], [-0.2, -0.4, -0.1], [0.0, 0.0, 0.0]),
    ]
    mdp = MDP.from_successors(following, np.ones(following.shape), np.ones(6) / 6, terminal=[5])
    model = TrajectoryModel(mdp, np.array(rewards), math.inf)
    got = cai.infer(model, "value-iteration", successors="worst", throw=False)
    assert got.status is not Status.SUCCESS
    assert got.details["steps"] < 10_000


@pytest.mark.parametrize("length", [4, 500])
@pytest.mark.parametrize("ring", [[0.0, 0.0], [0.75, -0.75]])
def test_waiting_round_a_ring_until_a_cost_would_come_after_the_end(ring, length):
    """A ring that pays nothing in sum, and a long way out of it that earns late and costs more at its end."""
    size = length + 2  # the ring is 0 and 1, the way 2 to length
    way = [*[-0.001] * (length - 3), 5.0, -10.0]
    following = np.stack([[1, 0, *range(3, size), size - 1], [2, 2, *range(3, size), size - 1]], -1)
    rewards = np.stack([[*ring, *way, 0.0], [0.0, 0.0, *way, 0.0]], -1)
    mdp = MDP.from_successors(following[..., None], np.ones((size, 2, 1)), 0, terminal=[size - 1])
    got = cai.infer(TrajectoryModel(mdp, rewards, math.inf), "value-iteration", throw=False)
    assert got.status is Status.NOT_ASSURED
