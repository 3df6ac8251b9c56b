"""The average criterion where floats lose the gain, where steps overshoot and where sets of states are as good."""

import math

import mpmath
import numpy as np
import pytest
import torch

import cai
from cai.inference import Status
from cai.models import MDP, TrajectoryModel


def problem(outcomes, rewards, temperature=1.0, prior=None):
    """A model of the average criterion.

    Args:
        outcomes: of each state and action, the chances of the next states by their numbers.
        rewards: [S, A].
        temperature: of the reward.
        prior: [S, A]; uniform unless given.
    """
    P = np.zeros((len(outcomes), len(outcomes[0]), len(outcomes)))
    for s, row in enumerate(outcomes):
        for a, chances in enumerate(row):
            for following, chance in chances.items():
                P[s, a, following] = chance
    mdp = MDP(P, initial=0, axes="state-action-state")
    given = {"horizon": math.inf, "criterion": "average", "temperature": temperature, "action_prior": prior}
    return TrajectoryModel(mdp, reward=torch.tensor(rewards, dtype=torch.float64), **given)


@pytest.mark.parametrize("leak", [2.0**-33, 2.0**-37, 2.0**-40])
def test_the_gain_has_all_digits_however_seldom_a_state_is_come_back_to(leak):
    """A ring of states of which most are hardly ever left, against all policies in 60 digits."""
    staying = [(leak * 8, 2.0**-10), (2.0**-23, 2.0**-17), (leak, 2.0**-17), (2.0**-20, None), (2.0**-7, 2.0**-27)]
    outcomes = [
        [{(s + 1) % 5: chance or 0.5, s: 1 - (chance or 0.5)} for chance in row] for s, row in enumerate(staying)
    ]
    outcomes[2][1] = {1: 2.0**-17, 2: 1 - 2.0**-17}
    rewards = (
        np.array([[-0.28125, -0.75], [1.0, 0.375], [1.375, 0.9375], [0.9375, -np.inf], [-1.75, 0.671875]]) * 2.0**-30
    )
    got = cai.infer(problem(outcomes, rewards, temperature=2.0**-23), "value-iteration")
    with mpmath.workdps(60):
        best = None
        for choice in np.ndindex(2, 2, 2, 1, 2):
            system, side = mpmath.zeros(6), mpmath.zeros(6, 1)  # h(s) + g = r + P h, h(2) = 0
            for s, a in enumerate(choice):
                system[s, s] += 1
                system[s, 5] = 1
                for following, chance in outcomes[s][a].items():
                    system[s, following] -= mpmath.mpf(chance)
                side[s] = mpmath.mpf(rewards[s, a])
            system[5, 2] = 1
            found = mpmath.lu_solve(system, side)
            best = found if best is None or found[5] > best[5] else best
        law = [mpmath.mpf(float(part)) for part in got.state_marginals[0]]
        mean = sum(weight * best[s] for s, weight in enumerate(law)) / sum(law)
        missed = max(abs(mpmath.mpf(float(got.values[0, s])) - best[s] + mean) for s in range(5))
        low, high = got.details["gain_bounds"]
        assert low <= best[5] <= high
        assert high - low < 1e-14 * high
        assert missed <= got.details["error_bound"]


def test_steps_that_overshoot_by_all_their_digits_are_taken_back():
    """Where the prior all but never comes to the best state, the first policy's values are -1e90 of all others."""
    outcomes = [
        [{1: 2.0**-10, 0: 1 - 2.0**-10}, {2: 2.0**-23, 0: 1 - 2.0**-23}],
        [{2: 2.0**-17, 1: 1 - 2.0**-17}, {1: 1.0}],
        [{0: 2.0**-17, 2: 1 - 2.0**-17}, {2: 1.0}],
    ]
    rewards = np.array([[-1.0, -2.0], [-2.0, 0.0], [-2.0, 2.0]])
    got = cai.infer(problem(outcomes, rewards, temperature=0.01), "variational")
    # State 2 earns 2 for ever, but for log 2 nats; state 1 comes there at -2 a step, also but for log 2.
    gain = 2 - 0.01 * math.log(2)
    assert float(got.gain) == pytest.approx(gain, rel=1e-15)
    second = (-2 - 0.01 * math.log(2) - gain) * 2.0**17
    # State 0 takes the better of the two ways: the second at once, at 2^23 steps of -2, or the first over state 1.
    first = max(second + (-1 - 0.01 * math.log(2) - gain) * 2.0**10, (-2 - 0.01 * math.log(2) - gain) * 2.0**23)
    apart = (got.values[0] - got.values[0, 2]).tolist()
    assert apart == pytest.approx([first, second, 0.0], rel=1e-12)


CIRCLES = [[{1: 1.0}, {3: 1.0}], [{0: 1.0}, {1: 1.0}], [{3: 1.0}, {2: 1.0}], [{4: 1.0}, {0: 1.0}], [{0: 1.0}, {4: 1.0}]]
EARNED = [[2.0, -1.0], [-2.0, 2.0], [2.0, -1.0], [2.0, 2.0], [-1.0, 2.0]]


@pytest.mark.parametrize("temperature", [1.0, 3.0, 100.0])
@pytest.mark.parametrize("successors", ["expected", "best", "worst"])
def test_sets_that_earn_as_much_are_told_apart_by_finite_horizons(successors, temperature):
    """V_T = 2 T from every state, whatever number 2 / temperature is in binary."""
    got = cai.infer(problem(CIRCLES, EARNED, temperature), f"value-iteration:successors={successors}")
    assert float(got.gain) == pytest.approx(2)
    np.testing.assert_allclose(got.values[0], 0.0, atol=1e-12)
    assert got.details["error_bound"] < 1e-12


def test_the_worst_of_what_may_follow_ties_in_a_chain_without_a_choice():
    outcomes = [[{0: 0.25, 1: 0.75}], [{2: 0.5, 0: 0.5}], [{1: 0.5, 2: 0.25, 0: 0.25}]]
    got = cai.infer(problem(outcomes, [[-30.0], [-30.0], [0.0]], 150.0), "value-iteration:successors=worst")
    assert float(got.gain) == pytest.approx(-30)
    np.testing.assert_allclose(got.values[0] - got.values[0, 0], [0.0, 0.0, 30.0], atol=1e-12)


@pytest.mark.parametrize("name", ["value-iteration:successors=worst", "risk:eta=-1.5"])
def test_steps_that_lead_astray_where_worst_outcomes_count_do_not_hide_the_gain(name):
    chances = [
        [{1: 1e-4, 0: 1 - 1e-4}, {2: 1e-4, 0: 1 - 1e-4}, {2: 1e-4, 0: 1 - 1e-4}],
        [{2: 1e-6, 1: 1 - 1e-6}, {0: 1e-3, 1: 1 - 1e-3}, {2: 0.1, 1: 0.9}],
        [{0: 1e-7, 2: 1 - 1e-7}, {0: 1e-3, 2: 1 - 1e-3}, {2: 1.0}],
    ]
    rewards = np.array([[74.75, 82.25, 82.25], [91.0, 107.75, 90.25], [104.5, 41.75, 67.5]])
    model = problem(chances, rewards, temperature=0.25)
    got = cai.infer(model, name)
    if name != "risk:eta=-1.5":
        assert float(got.gain) == pytest.approx(82.25)
        np.testing.assert_allclose(got.values[0] - got.values[0, 0], [0.0, 31.0, 22.25], atol=1e-10)
        return
    with mpmath.workdps(40):  # one backup of what was found moves all states by the gain
        values, moved = [mpmath.mpf(float(v)) * 4 for v in got.values[0]], []
        for s, row in enumerate(chances):
            worth = mpmath.mpf(0)
            for a, odds in enumerate(row):
                mean = sum(
                    mpmath.mpf(p) * mpmath.exp(-1.5 * (values[following] - values[s])) for following, p in odds.items()
                )
                worth += mpmath.exp(4 * mpmath.mpf(rewards[s, a]) + mpmath.log(mean) / -1.5) / 3
            moved.append(float(mpmath.log(worth)) / 4)
    assert moved == pytest.approx([float(got.gain)] * 3, rel=1e-10)


@pytest.mark.parametrize("base", [0.0, 1.0, 1000.0])
@pytest.mark.parametrize("slow", ["may leave", "must leave"])
@pytest.mark.parametrize("exponent", [2, 30, 52, 58, 62, 66, 80])
def test_values_that_move_by_less_than_rounding_are_no_success(slow, exponent, base):
    """A state that is left once in 2^k steps is worth what it leads to, however long values of horizons take there.

    States 0 and 3 can be stayed in, and so can 1, which may be left for 2; or else 1 must be left. All earn the same.
    """
    leave = 2.0**-exponent
    chances, rewards = np.zeros((4, 3, 4)), np.zeros((4, 3))
    chances[0, :, [0, 1, 3]] = np.eye(3)
    chances[1], chances[1, :, [1, 2]] = 0.0, np.array([[1 - leave], [leave]])
    if slow == "may leave":
        chances[1, 1:] = np.eye(4)[1]
    chances[2, :, 0] = chances[3, 0, 3] = chances[3, 1:, 0] = 1.0
    rewards[0], rewards[3] = [0.0, -4.0, -2.0], [0.0, -2.0, -2.0]
    rewards[2] = 0.5 if slow == "may leave" else -0.5
    mdp = MDP(chances, [1.0, 0, 0, 0], axes="state-action-state")
    model = TrajectoryModel(mdp, base + rewards, horizon=math.inf, criterion="average")
    found = cai.infer(model, "value-iteration", throw=False)
    if exponent == 2:
        assert found.status is Status.SUCCESS
    if found.status is Status.SUCCESS:
        values = found.values[0] - found.values[0, 0]
        want = torch.tensor([0.0, rewards[2, 0], rewards[2, 0], 0.0], dtype=torch.float64)
        torch.testing.assert_close(values, want, rtol=0, atol=4 * found.details["error_bound"])


@pytest.mark.parametrize("eta", [-1.0, -0.25])
def test_dynamics_that_work_against_the_policy_where_states_hardly_move(eta):
    """What a backup in 60 digits adds to the values is the gain, in every state; it took 3,000 backups and more."""
    rng, number, leak = np.random.default_rng(0), 60, 2.0**-40
    following = np.stack([np.arange(number), (np.arange(number) + 1) % number, rng.permutation(number)], -1)
    following = np.repeat(following[:, None], 2, 1)
    following[:, 1, 2] = rng.permutation(number)
    share = rng.integers(1, 8, size=(number, 2)) / 8
    chances = np.stack([np.full_like(share, 1 - leak), leak * share, leak * (1 - share)], -1)
    rewards = -rng.integers(1, 64, size=(number, 2)) / 16
    mdp = MDP.from_successors(following, chances, np.eye(number)[0])
    model = TrajectoryModel(mdp, rewards, horizon=math.inf, criterion="average")
    got = cai.infer(model, f"risk:eta={eta}")
    assert got.details["steps"] < 1000
    low, high = got.details["gain_bounds"]
    with mpmath.workdps(60):
        values = [mpmath.mpf(value) for value in got.values[0].tolist()]
        gains = []
        for s in range(number):
            total = mpmath.mpf(0)
            for a in range(2):
                weights = zip(chances[s, a].tolist(), following[s, a].tolist(), strict=True)
                mean = mpmath.fsum(p * mpmath.exp(eta * (values[t] - values[s])) for p, t in weights)
                total += mpmath.exp(rewards[s, a] + mpmath.log(mean) / eta) / 2
            gains.append(mpmath.log(total))
        assert max(abs(gain - mpmath.mpf(float(got.gain))) for gain in gains) <= 1e-12
        assert max(gains) >= low
        assert min(gains) <= high


def test_a_policy_and_dynamics_that_hold_sets_of_their_own():
    """State 0 can be held surely for 1 a step; whoever is in state 1 is held there by the dynamics, for -1."""
    leak = 2.0**-30
    outcomes = [[{0: 1}, {0: 0.5, 1: 0.5}], [{1: 1 - leak, 0: leak}, {1: 1 - leak, 0: leak}]]
    model = problem(outcomes, [[1.0, 2.0], [-1.0, -1.0]])
    got = cai.infer(model, "risk:eta=-8", throw=False)
    assert got.status is Status.NOT_ASSURED
    assert "may depend on the state" in got.details["why"]
    assert got.details["steps"] <= 10  # not thousands, in search of a gain that all have
    assert cai.infer(model, "variational").status is Status.SUCCESS


def test_dynamics_that_work_against_the_policy_of_many_states_need_few_systems():
    rng = np.random.default_rng(0)
    chances = rng.integers(1, 9, size=(60, 2, 60)).astype(float)
    chances /= chances.sum(-1, keepdims=True)
    rewards = rng.integers(-16, 17, size=(60, 2)) / 16
    mdp = MDP(chances, np.eye(60)[0], axes="state-action-state")
    model = TrajectoryModel(mdp, rewards, horizon=math.inf, criterion="average")
    got = cai.infer(model, "risk:eta=-1")
    assert got.details["steps"] <= 20  # 16 backups and Newton's steps; a policy that is held beside takes as many again
    values, gains = got.values[0].numpy(), []
    for s in range(60):
        worth = [math.log((chances[s, a] * np.exp(-(values - values[s]))).sum()) / -1 for a in range(2)]
        gains.append(math.log(sum(math.exp(rewards[s, a] + worth[a]) for a in range(2)) / 2))
    assert np.ptp(gains) <= 1e-12
    assert abs(gains[0] - float(got.gain)) <= 1e-12
