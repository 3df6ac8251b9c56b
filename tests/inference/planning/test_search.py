"""Iterated linear-quadratic steps: the problems of the literature, the plain regulator, and what goes wrong."""

import dataclasses

import pyro
import pytest
import torch
from gaussian_oracle import random_numbers
from planning_problems import as_model, planning_model, regulator

from cai.inference.core.status import Status
from cai.inference.gaussian.messages import backward
from cai.inference.planning.around import world_around
from cai.inference.planning.derivatives import Expansion, expand
from cai.inference.planning.local import improvement
from cai.inference.planning.read_model import planning_problem
from cai.inference.planning.search import PlanSearch
from cai.models import ContinuousModel, Flat


def searched(model, *, restarts=8, noise=1.0, seed=0, limit=500, tolerance=1e-5):
    def start(problem, seed):
        shape = (restarts, problem.horizon, problem.action_dim)
        return noise * torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()

    search = PlanSearch("", limit, tolerance, planning_problem, start, lambda state: state)
    state = search.init(model, seed=seed)
    while state.status is None and len(state.history) <= limit:
        state, _ = search.step(state)
    return state


def test_both_sides_of_the_obstacles_are_found():
    state = searched(planning_model("dubins"))
    assert state.status is Status.SUCCESS
    assert float(state.costs.min()) <= 0.975
    assert any(abs(float(cost) - 5.019) < 1e-3 for cost in state.costs)
    assert list(state.history) == sorted(state.history, reverse=True)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_linear_problems_are_solved_by_one_step(seed):
    numbers = random_numbers(seed, flat=seed == 2)
    model = as_model(numbers)
    state = searched(model, restarts=2)
    assert state.status is Status.SUCCESS
    assert len(state.history) <= 3
    problem = planning_problem(model)
    local = expand(problem, state.states, state.actions)
    advice = improvement(problem, local, torch.zeros(2).double())
    K, k, _ = (torch.as_tensor(part) for part in regulator(numbers))
    torch.testing.assert_close(advice.gain[0], K, rtol=1e-9, atol=1e-9)
    assert float(advice.offset.abs().max()) < 1e-8
    mean = (K @ state.states[0, :-1, :, None])[..., 0] + k
    torch.testing.assert_close(state.actions[0], mean, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("discount", [1.0, 0.7])
def test_damped_steps_are_those_of_quadratic_messages(discount):
    """The search's own backward pass against that of the Gaussian answers, with a cost of |a - a_old|^2 for damping."""
    numbers = random_numbers(6)
    problem = planning_problem(as_model(numbers, discount=discount))
    actions = torch.randn(2, problem.horizon, problem.action_dim).double()
    states, damping = problem.rollout(actions).states, torch.tensor([0.0, 0.7]).double()
    local = expand(problem, states, actions)
    advice = improvement(problem, local, damping)
    for row in range(2):
        one = Expansion(*(part[row] for part in local))
        world = world_around(problem, states[row], actions[row], one)
        n, m = problem.state_dim, problem.action_dim
        acting = torch.diag(torch.cat([torch.zeros(n), torch.ones(m)])).double() * damping[row]
        z = torch.cat([states[row, :-1], actions[row]], -1)
        damped = dataclasses.replace(world, cost=world.cost + acting, linear=world.linear - z @ acting)
        messages = backward(damped)
        torch.testing.assert_close(advice.gain[row], messages.gain, rtol=1e-9, atol=1e-9)
        mean = (messages.gain @ states[row, :-1, :, None])[..., 0] + messages.offset
        torch.testing.assert_close(advice.offset[row], mean - actions[row], rtol=1e-8, atol=1e-8)
    assert advice.sound.all()


def test_where_no_action_is_best_the_advice_is_not_sound():
    numbers = random_numbers(6)
    problem = planning_problem(as_model(numbers))
    actions = torch.randn(3, problem.horizon, problem.action_dim).double()
    local = expand(problem, problem.rollout(actions).states, actions)
    hessian, final = local.hessian.clone(), local.final_hessian.clone()
    n = problem.state_dim
    hessian[1] = 0
    final[1] = 0  # nothing costs anything: singular
    hessian[2, 0, n:, n:] -= 1e4 * torch.eye(problem.action_dim).double()
    changed = local._replace(hessian=hessian, final_hessian=final)
    found = improvement(problem, changed, torch.zeros(3).double())
    assert found.sound.tolist() == [True, False, False]


def test_the_promise_of_a_linear_problem_is_kept():
    numbers = random_numbers(4)
    problem = planning_problem(as_model(numbers))
    actions = torch.randn(3, problem.horizon, problem.action_dim).double()
    before = problem.rollout(actions)
    local = expand(problem, before.states, actions)
    promised = improvement(problem, local, torch.zeros(3).double()).promised
    after = searched(as_model(numbers)).costs.min()
    torch.testing.assert_close(before.costs - promised, after.expand(3), rtol=1e-9, atol=1e-9)


def test_without_noise_the_pendulum_stays_where_it_hangs():
    state = searched(planning_model("pendulum"), restarts=1, noise=0.0)
    assert float(state.costs) == pytest.approx(150.0)


def test_what_cannot_be_lowered_any_further_is_told_from_convergence():
    """A cost of |a|: its local model promises more for ever."""
    steep = planning_model("pendulum", horizon=10)
    steep = steep.replace(reward=lambda s, a, t: -1e3 * (a[..., 0].abs() + 1e-9 * a[..., 0] ** 2), final_reward=None)
    state = searched(steep, restarts=1, limit=60)
    assert state.status in (None, Status.NOT_CONVERGED)
    assert not bool(state.converged.any())


def test_a_damped_step_is_never_taken_for_convergence():
    """Under heavy damping the local model promises next to nothing, wherever the trajectory is."""
    model = planning_model("pendulum", horizon=20)
    search = PlanSearch(
        "", 9, 1e-5, planning_problem, lambda problem, seed: torch.ones(2, 20, 1).double(), lambda state: state
    )
    state = search.init(model, seed=0)
    heavy = dataclasses.replace(state, damping=torch.full((2,), 1e7).double())
    following, _ = search.step(heavy)
    assert not bool(following.converged.any())
    assert bool(following.going.all())


def test_a_start_that_diverges_is_not_converged_with_its_step():
    model = planning_model("pendulum", horizon=30).replace(dynamics=lambda s, a, t: s * 1e30 + 1)
    state = searched(model, restarts=2)
    assert state.status is Status.NOT_CONVERGED
    assert 0 < int(state.diverged.max()) < 30


def test_discounts_count():
    """A discount is a scale on costs with the dynamics held fixed; the final cost counts like the last step."""
    numbers = random_numbers(7, flat=True, noisy=False)
    gamma, T = 0.8, len(numbers.A)
    weights = gamma ** torch.arange(T).double().numpy()
    scaled = dataclasses.replace(
        numbers,
        C=numbers.C * weights[:, None, None],
        g=numbers.g * weights[:, None],
        const=numbers.const * weights,
        Qf=numbers.Qf * weights[-1],
        qf=numbers.qf * weights[-1],
        constf=numbers.constf * weights[-1],
    )
    state = searched(as_model(numbers, discount=gamma), restarts=1, tolerance=1e-12)
    plain = searched(as_model(scaled), restarts=1, tolerance=1e-12)
    torch.testing.assert_close(state.costs, plain.costs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state.actions, plain.actions, rtol=1e-6, atol=1e-6)


def test_noise_that_grows_with_control_is_paid_for():
    """iLQG on a scalar problem: the Riccati recursion of multiplicative noise has c^2 P more curvature of actions."""
    A, B, spread, Q, R, T = 1.1, 0.7, 0.8, 0.5, 0.2, 6

    def dynamics(s, a, t):
        return pyro.distributions.Normal(A * s + B * a, spread * a.abs() + 1e-9).to_event(1)

    def reward(s, a, t):
        return -0.5 * Q * s[..., 0] ** 2 - 0.5 * R * a[..., 0] ** 2

    start = torch.ones(1).double()
    model = ContinuousModel(start, dynamics, reward, T, Flat(1), final_reward=lambda s: -2 * s[..., 0] ** 2)
    state = searched(model, restarts=2)
    assert state.status is Status.SUCCESS
    P, gains = 4.0, []
    for _ in range(T):
        Haa = R + B * P * B + spread**2 * P
        K = -B * P * A / Haa
        P = Q + A * P * A + A * P * B * K
        gains.append(K)
    s, expected = 1.0, []
    for K in gains[::-1]:
        expected.append(K * s)
        s = A * s + B * K * s
    torch.testing.assert_close(state.actions[0, :, 0], torch.tensor(expected).double(), rtol=1e-4, atol=1e-5)


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "bar"), [("pendulum", 23.875), ("cart-pole", 26.9), ("dubins", 0.975)])
def test_the_bars_of_the_three_problems(name, bar, seed):
    state = searched(planning_model(name), seed=seed)
    assert state.status is Status.SUCCESS
    assert float(state.costs.min()) <= bar
