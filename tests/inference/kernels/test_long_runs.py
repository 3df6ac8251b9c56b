"""Many steps in one scale: the numbers of plain loops, whatever ends a run, and that runs are what is used."""

import functools
import math

import numpy as np
import pytest
import torch
from campaigns import over_seeds
from dense_reference import DIGITS, case_of, random_case, solve
from kernel_checks import make
from native_kernel import needs_native

import cai
from cai.inference.kernels import values as adjoint
from cai.inference.kernels.plain import SoftPass
from cai.inference.kernels.values import soft_values
from cai.models import MDP, TrajectoryModel

KINDS = ("exact", "fixed")
LISTED = ("torch", pytest.param("native", marks=needs_native))
TOLERANCE = 1e-10


def values_of(model, kind, kernel):
    with torch.no_grad():
        return soft_values(model, kind, kernel=kernel)[1].numpy()


def error(found, expected):
    """The largest difference, relative to the size of a number (at least 1); infinite where infinities differ."""
    if not np.array_equal(np.isinf(found), np.isinf(expected)):
        return math.inf
    finite = np.isfinite(expected)
    size = np.maximum(1.0, np.abs(expected[finite]))
    return float((np.abs(found[finite] - expected[finite]) / size).max(initial=0.0))


@functools.cache
def listed_case(seed, scale, forbidden, listed):
    """A case of rewards by state and action that stay the same, and its exact answer in many digits."""
    horizon = (40, 75, 131)[seed % 3]
    case = random_case(
        seed, scale=scale, horizon=horizon, in_time=False, reward="sa", forbidden=forbidden, listed=listed
    )
    return case, solve(case, "exact", DIGITS)


def visits_of(case, kernel, keep):
    """The gradient of the log evidence by the reward, times the temperature."""
    reward = case.model.reward_table(0)[..., 0].clone().requires_grad_()
    cai.infer(case.model.replace(reward=reward), "exact", keep=keep, kernel=kernel).log_evidence.backward()
    return (reward.grad * case.temperature).numpy()


@pytest.mark.parametrize("kernel", LISTED)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("scale", "forbidden"), [(2.0, False), (2.0, True), (60.0, True), (400.0, False)])
@over_seeds(range(3000, 3012), quick=4)
def test_values_over_long_horizons_are_those_of_plain_loops(kind, kernel, scale, forbidden, seeds):
    """With a scale of 400 sums underflow: runs end, begin again, or give way to single steps."""
    for seed in seeds:
        options = {"in_time": False, "reward": "sa", "forbidden": forbidden, "listed": True}
        case = random_case(seed, scale=scale, horizon=(40, 75, 131)[seed % 3], **options)
        assert error(values_of(case.model, kind, kernel), solve(case, kind).values) < TOLERANCE


@pytest.mark.parametrize("kernel", LISTED)
@pytest.mark.parametrize("kind", KINDS)
def test_full_tables_over_long_horizons(kind, kernel):
    for seed in range(3100, 3108):
        case = random_case(seed, horizon=64, in_time=False, reward="sa", listed=False, forbidden=seed % 2 == 0)
        assert error(values_of(case.model, kind, kernel), solve(case, kind).values) < TOLERANCE


@pytest.mark.parametrize("kernel", LISTED)
@pytest.mark.parametrize("keep", ["values", "evidence", "checkpoints"])
@pytest.mark.parametrize(("scale", "forbidden"), [(2.0, False), (2.0, True), (60.0, True), (400.0, False)])
@over_seeds(range(3200, 3212), quick=4)
def test_gradients_over_long_horizons_are_visits(kernel, keep, scale, forbidden, monkeypatch, seeds):
    """d log p(O) / d r(s, a) = E[visits of (s, a)] / alpha, in one scale, by segments, or step by step."""
    if keep == "checkpoints":
        monkeypatch.setattr(adjoint, "SMALL", 0)
    for seed in seeds:
        case, answer = listed_case(seed, scale, forbidden, seed % 4 > 0)
        if answer.visits is None:
            continue
        found = visits_of(case, kernel, "evidence" if keep == "checkpoints" else keep)
        # Probabilities are powers of values of up to 1e5 nats: known to that times rounding.
        size = max(1.0, float(np.abs(answer.values[np.isfinite(answer.values)]).max()))
        assert np.abs(found - answer.visits).max() < 1e-13 * size * case.horizon


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel", LISTED)
@pytest.mark.parametrize("least", [1e-3, 1e-30, 1e6])
def test_runs_that_end_at_once_or_often_change_nothing(kind, kernel, least, monkeypatch):
    """A bound that sums reach after a few steps, after some, or never."""
    original = SoftPass.__init__

    def forced(self, *arguments, **keywords):
        original(self, *arguments, **keywords)
        self.smallest = least

    monkeypatch.setattr(SoftPass, "__init__", forced)
    for seed in range(3300, 3308):
        case = random_case(seed, horizon=90, in_time=False, reward="sa", listed=True)
        assert error(values_of(case.model, kind, kernel), solve(case, kind).values) < TOLERANCE


def corridor(reward, horizon, **options):
    """Five states in a row, the last of which ends; moves slip back with probability 0.2."""
    following = [[[min(s + 1, 4), max(s - 1, 0)], [s, max(s - 1, 0)]] for s in range(5)]
    following[4] = [[4, 4], [4, 4]]
    mdp = MDP.from_successors(following, [[[0.8, 0.2]] * 2] * 5, np.full(5, 0.2), **options)
    return TrajectoryModel(mdp, reward, horizon)


@pytest.mark.parametrize("kernel", LISTED)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reward", [-1e4, 1e4])
def test_large_rewards_with_a_discount_or_an_end(kind, kernel, reward):
    """What falls or ends is worth 0, beside values that leave the range of floats at every step."""
    rewards = np.full((5, 2), reward)
    for terminal in (None, [4]):
        rewards[4] = 0.0 if terminal else reward
        mdp = corridor(rewards, 1, terminal=terminal).mdp
        case = case_of(mdp, rewards, 40, discount=0.9 if terminal is None else 1.0)
        answer = solve(case, kind, DIGITS)
        assert error(values_of(case.model, kind, kernel), answer.values) < TOLERANCE
        for keep in ("values", "evidence") if kind == "exact" else ():
            assert np.abs(visits_of(case, kernel, keep) - answer.visits).max() < 1e-8, "values of 4e5 nats"


@pytest.mark.parametrize("kernel", LISTED)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reward", [0.0, -0.01, 3.0])
def test_a_thousand_steps_do_not_leave_the_floats(kind, kernel, reward):
    """With four actions alike a message in the scale of one of them grows fourfold a step."""
    following = [[[0, 1]] * 4, [[1, 0]] * 4]
    mdp = MDP.from_successors(following, [[[0.7, 0.3]] * 4] * 2, [1.0, 0.0])
    values = values_of(TrajectoryModel(mdp, np.full((2, 4), reward), 1200), kind, kernel)
    assert error(values, reward * np.arange(1200, -1, -1)[:, None] * np.ones((1, 2))) < TOLERANCE


@pytest.mark.parametrize("kernel", LISTED)
def test_a_wall_is_at_minus_infinity_and_nothing_else(kernel):
    """It is there from one step before the end on, and what leads to it alone for as long as that takes."""
    reward = np.full((5, 2), -0.5)
    reward[4] = -np.inf
    model = corridor(reward, 200).replace(reward=torch.from_numpy(reward).requires_grad_())
    values, _ = soft_values(model, "exact", kernel=kernel, all_steps=False)
    assert torch.isinf(values).tolist() == [False] * 4 + [True]
    values[:4].sum().backward()


@needs_native
@pytest.mark.parametrize("reward", [-0.5, -3.0, 2.0])
def test_plain_problems_take_one_scale(reward):
    """Messages grow or fall by the largest factor of all at every step, which their scale follows."""
    model = corridor(np.full((5, 2), reward), 200)
    assert make(model, "exact", "native").backward_in_one_scale(200) is not None


@pytest.mark.parametrize(("kernel", "steps"), [("torch", 400), pytest.param("native", 5000, marks=needs_native)])
def test_gradients_by_segments_are_those_of_rows_that_are_kept(kernel, steps, monkeypatch):
    """Of 400 steps every 20th is kept, of 5,000 every 70th, and what lies between is computed again."""
    monkeypatch.setattr(adjoint, "SMALL", 0)
    reward = torch.full((5, 2), -0.5, dtype=torch.float64, requires_grad=True)
    cai.infer(corridor(reward, steps), "exact", keep="evidence", kernel=kernel).log_evidence.backward()
    gradient, reward.grad = reward.grad, None
    monkeypatch.setattr(adjoint, "SMALL", 2**26)
    cai.infer(corridor(reward, steps), "exact", keep="evidence", kernel=kernel).log_evidence.backward()
    torch.testing.assert_close(gradient, reward.grad, rtol=1e-11, atol=1e-11)
    assert float(gradient.sum()) == pytest.approx(steps, abs=1e-7)


@pytest.mark.parametrize("kernel", ["torch", pytest.param("native", marks=needs_native)])
def test_a_large_incoming_gradient_passes_through(kernel):
    """A loss that is scaled by 1e250 has gradients that are, too."""
    case = random_case(3401, horizon=50, in_time=False, reward="sa", listed=True, forbidden=False)
    reward = case.model.reward_table(0)[..., 0].clone().requires_grad_()
    evidence = cai.infer(case.model.replace(reward=reward), "exact", keep="evidence", kernel=kernel).log_evidence
    (evidence * 1e250).backward()
    expected = solve(case, "exact").visits / case.temperature
    assert np.abs(reward.grad.numpy() / 1e250 - expected).max() < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel", ["torch", pytest.param("native", marks=needs_native)])
def test_float32_over_long_horizons(kind, kernel):
    """Relative to the size of the values; about 1e2 roundings of 6e-8 over 131 steps."""
    for seed in range(3500, 3508):
        case = random_case(seed, horizon=131, in_time=False, reward="sa", listed=True)
        found = values_of(case.model.to(dtype=torch.float32), kind, kernel)
        assert found.dtype == np.float32
        assert error(found, solve(case, kind).values) < 1e-5


@pytest.mark.parametrize("kernel", LISTED)
def test_only_what_outcomes_pay_tells_actions_apart(kernel):
    """Rewards by outcome go into the sums, which may be summed over actions all the same."""
    for seed in range(3600, 3606):
        case = random_case(seed, horizon=60, in_time=False, reward="sak", listed=True)
        for kind in KINDS:
            assert error(values_of(case.model, kind, kernel), solve(case, kind).values) < TOLERANCE
