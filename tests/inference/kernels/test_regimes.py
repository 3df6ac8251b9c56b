"""The soft recursions where floats are at their limits: |r| of 1e4, walls, long horizons, float32, one state alone."""

import numpy as np
import pytest
import torch
from campaigns import over_seeds
from dense_reference import DIGITS, case_of, random_case, solve
from kernel_checks import KERNELS, RECURSIONS, TOLERANCE, all_values, check, error, make, values_of, visits_along

from cai.inference.tabular.backward import backward, occupancies
from cai.models import MDP


def extreme_table(rng, num_states, num_actions, kind):
    sign = {"costs": -1.0, "gains": 1.0, "both": rng.choice([-1.0, 1.0], size=(num_states, num_actions))}[kind]
    return sign * 10 ** rng.uniform(-2, 4, size=(num_states, num_actions))


@pytest.mark.parametrize("kind", RECURSIONS)
@pytest.mark.parametrize("sign", ["costs", "gains", "both"])
@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_rewards_of_ten_thousand_against_sixty_digits(kind, sign, discount):
    """Values to 1e-12 of their size, of up to 1e5 nats; what is a power of them to the same times that size."""
    rng = np.random.default_rng(5)
    for number in range(3):
        mdp = _spread_out(rng, 5, 3, listed=number > 0)
        table = extreme_table(rng, 5, 3, sign)
        table[~np.eye(5, 3, dtype=bool) & (rng.random((5, 3)) < 0.1)] = -np.inf
        case = case_of(mdp, table, 6, temperature=0.5, discount=discount, prior=rng.dirichlet(np.ones(3), size=5))
        answer = solve(case, kind, DIGITS)
        size = max(1.0, np.abs(answer.values[np.isfinite(answer.values)]).max())
        for kernel in KERNELS:
            assert error(all_values(case, kind, kernel)[1], answer.values, size) < 1e-12
            check(case, kind, kernel, answer, 1e-12, scale=size, spread=max(size, 100.0))


def _spread_out(rng, num_states, num_actions, listed):
    if not listed:
        return MDP(
            rng.dirichlet(np.ones(num_states), size=(num_states, num_actions)), rng.dirichlet(np.ones(num_states))
        )
    shape = (num_states, num_actions, 3)
    chances = rng.dirichlet(np.ones(3), size=shape[:2])
    return MDP.from_successors(rng.integers(num_states, size=shape), chances, rng.dirichlet(np.ones(num_states)))


@pytest.mark.parametrize("kind", RECURSIONS)
@pytest.mark.parametrize("loss", [30.0, 300.0, 2000.0])
def test_values_that_range_over_thousands_of_nats(kind, loss):
    """A corridor with a wall in it: powers of the far side vanish beside those of the near one."""
    length, walled = 8, 5
    following = np.zeros((length, 2, 2), dtype=int)
    for state in range(length):
        following[state, 0] = max(state - 1, 0), state
        following[state, 1] = min(state + 1, length - 1), state
    following[walled - 1, 1] = walled - 1  # nobody passes
    following[walled, 0] = walled
    chances = np.broadcast_to([0.9, 0.1], following.shape).copy()
    mdp = MDP.from_successors(following, chances, np.ones(length) / length)
    table = -loss * np.arange(length)[:, None] * np.array([1.0, 1.1])
    table[-1, 1] = -np.inf
    case = case_of(mdp, table, 12)
    answer = solve(case, kind)
    size = np.abs(answer.values[np.isfinite(answer.values)]).max()
    assert np.ptp(answer.values[0]) > 8 * loss
    for kernel in KERNELS:
        assert error(all_values(case, kind, kernel)[1], answer.values, size) < 1e-13
        check(case, kind, kernel, answer, 1e-13, scale=size, spread=max(size, 1e3))


def test_only_an_action_of_vanishing_prior_leads_to_hope():
    """e^-800 is no float: the action that pays is lost in the collapsed table, and comes back by the states redone."""
    mdp = MDP([[[1.0, 0, 0], [0, 0, 1.0]], [[0, 1.0, 0]] * 2, [[0, 0, 1.0]] * 2], [1.0, 0, 0])
    table = np.array([[0.0, -800.0], [0.0, 0.0], [0.0, 0.0]])
    rewards = np.where(np.arange(3)[:, None] == 0, table, np.array([0.0, 0.0, 2000.0])[:, None])
    case = case_of(mdp, rewards, 3)
    answer = solve(case, "exact", DIGITS)
    assert answer.values[0, 0] > 3000  # by way of the action that costs 800
    for kernel in KERNELS:
        assert error(all_values(case, "exact", kernel)[1], answer.values, 6000.0) < 1e-14


@pytest.mark.parametrize("kind", RECURSIONS)
def test_the_smallest_problems(kind):
    for horizon in (1, 2, 500):
        for number, mdp in enumerate((MDP([[[1.0]]], [1.0]), MDP.from_successors([[[0, 0]]], [[[0.25, 0.75]]], [1.0]))):
            case = case_of(mdp, np.array([[-0.25]]), horizon, temperature=0.5, discount=(1.0, 0.9)[number])
            answer = solve(case, kind)
            for kernel in KERNELS:
                assert error(all_values(case, kind, kernel)[1], answer.values) < TOLERANCE
                check(case, kind, kernel, answer)


@pytest.mark.parametrize("kind", RECURSIONS)
@pytest.mark.parametrize("discount", [1.0, 0.97])
def test_a_long_horizon(kind, discount):
    rng = np.random.default_rng(3)
    case = case_of(_spread_out(rng, 3, 2, listed=True), rng.normal(size=(3, 2)), 500, discount=discount)
    answer = solve(case, kind)
    for kernel in KERNELS:
        assert error(all_values(case, kind, kernel)[1], answer.values, 100.0) < TOLERANCE
        check(case, kind, kernel, answer)


@pytest.mark.parametrize("kind", RECURSIONS)
@pytest.mark.parametrize("reward", [-1e4, 1e4])
def test_no_mass_is_lost_where_values_are_millions_of_nats(kind, reward):
    """Values of 5e7 nats are known to 1e-8 and their powers no better, but what leaves a state must arrive."""
    rng = np.random.default_rng(4)
    case = case_of(_spread_out(rng, 5, 3, listed=False), reward + rng.normal(size=(5, 3)), 500, temperature=0.1)
    messages = backward(case.model, RECURSIONS[kind], keep="values")
    initial = RECURSIONS[kind].believed_start(case.model, messages.values[0])
    marginals, _ = occupancies(case.model, RECURSIONS[kind], initial, messages.values)
    visits = visits_along(make(case.model, kind), messages.values, initial)
    assert float((marginals.sum(-1) - 1).abs().max()) < 1e-11
    assert abs(float(visits.sum()) / 500 - 1) < 1e-11


@pytest.mark.parametrize("kind", RECURSIONS)
@over_seeds(range(1200, 1240), quick=10)
def test_float32_models_agree_to_their_rounding(kind, seeds):
    """Relative to the size of the values (at least 1); about 1e2 roundings of 6e-8."""
    for seed in seeds:
        case = random_case(seed, horizon=4, scale=(2.0, 1e3)[seed % 2])
        answer = solve(case, kind)
        size = max(1.0, np.abs(answer.values[np.isfinite(answer.values)]).max())
        single = case.model.to(dtype=torch.float32)
        for kernel in KERNELS:
            values = values_of(make(single, kind, kernel))[..., 0]
            assert error(values, answer.values, size) < 1e-5
        messages = backward(single, RECURSIONS[kind])
        assert {part.dtype for part in (messages.values, messages.q_values, messages.policy)} == {torch.float32}
        assert error(messages.policy, answer.policy, size) < 1e-5
        if answer.marginals is not None:
            initial = RECURSIONS[kind].believed_start(single, messages.values[0])
            marginals, _ = occupancies(single, RECURSIONS[kind], initial, messages.values)
            assert error(marginals, answer.marginals, size) < 1e-5


@pytest.mark.parametrize("kind", RECURSIONS)
def test_a_batch_is_its_problems_one_by_one(kind):
    rng = np.random.default_rng(6)
    for listed in (False, True):
        mdp = _spread_out(rng, 5, 3, listed)
        tables = rng.normal(size=(4, 5, 3)) * np.array([1.0, 10.0, 400.0, 1e4])[:, None, None]
        tables[1, 2] = -np.inf
        cases = [case_of(mdp, table, 6, discount=0.95) for table in tables]
        for kernel in KERNELS:
            values = values_of(make(cases[0].model, kind, kernel, rewards=torch.as_tensor(tables)))
            for number, case in enumerate(cases):
                answer = solve(case, kind)
                size = max(1.0, np.abs(answer.values[np.isfinite(answer.values)]).max())
                assert error(values[..., number], answer.values, size) < 1e-13
