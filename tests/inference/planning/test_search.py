"""Iterated linear-quadratic steps: the problems of the literature, the plain regulator, and what goes wrong."""

import dataclasses

import pyro
import pytest
import torch
from gaussian_oracle import random_numbers
from planning_problems import as_model, planning_model, regulator

import cai
from cai.inference.core.status import Status
from cai.inference.gaussian.messages import backward
from cai.inference.planning.around import world_around
from cai.inference.planning.derivatives import Expansion, expand, with_dynamics
from cai.inference.planning.local import improvement, last_bend
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
    assert state.history[1] == pytest.approx(state.history[-1], rel=1e-12)
    assert len(state.history) <= 4  # the others look whether it is a minimum
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


def hessian_of(model, actions):
    """The Hessian [T m, T m] of the cost of a rollout in all actions, by autograd through a plain loop."""

    def cost(given):
        state, total, weight = model.initial, 0.0, 1.0
        for t, action in enumerate(given):
            total = total - weight * model.reward(state, action, t)
            moved = model.dynamics(state, action, t)
            state = moved if isinstance(moved, torch.Tensor) else moved.mean
            weight = weight * model.discount if t < len(given) - 1 else weight
        return total - weight * model.final_reward(state)

    return torch.autograd.functional.hessian(cost, actions).reshape(actions.numel(), actions.numel())


def around_a_hill():
    """From (0, 0) to (1, 0) with a hill of cost halfway: straight over it is a saddle, and both sides are as good."""
    hill, goal = torch.tensor([0.5, 0.0]).double(), torch.tensor([1.0, 0.0]).double()

    def reward(s, a, t):
        return -5 * a.square().sum(-1) - 3 * torch.exp(-(s - hill).square().sum(-1) / 0.18)

    def final(s):
        return -50 * (s - goal).square().sum(-1)

    return ContinuousModel(torch.zeros(2).double(), lambda s, a, t: s + a, reward, 10, Flat(2), final_reward=final)


@pytest.mark.parametrize("discount", [1.0, 0.95])
@pytest.mark.parametrize("name", ["pendulum", "hill"])
def test_saddles_are_left(name, discount):
    """Controls of zero are a stationary point in both, and steps that promise something are found all the same."""
    model = (around_a_hill() if name == "hill" else planning_model("pendulum", horizon=60)).replace(discount=discount)
    state = searched(model, restarts=1, noise=0.0)
    assert state.status is Status.SUCCESS
    assert float(torch.linalg.eigvalsh(hessian_of(model, state.actions[0]))[0]) > 0
    if name == "hill":
        assert abs(float(state.states[0, 5, 1])) > 0.3
        best = searched(model, restarts=3).costs.min()
        torch.testing.assert_close(state.costs.min(), best, rtol=1e-6, atol=0)


@pytest.mark.campaign
@pytest.mark.parametrize("seed", [0, 1])
def test_a_success_is_a_minimum_to_second_order(seed):
    """The robust steps alone stop this swing-up at a cost of 26.74, where the Hessian has negative eigenvalues."""
    model = planning_model("cart-pole", temperature=0.01)
    state = searched(model, seed=seed, restarts=1)
    assert state.status is Status.SUCCESS
    assert float(state.costs) < 19.9750
    assert float(torch.linalg.eigvalsh(hessian_of(model, state.actions[0]))[0]) > 0


def test_the_last_bend_is_a_direction_of_negative_curvature():
    """u at the last bend and K_t ds later: the Hessian of the whole cost along it is u'Haa u, an eigenvalue of Haa."""
    model = planning_model("pendulum", horizon=40)
    problem = planning_problem(model)
    actions = torch.zeros(1, 40, 1).double()
    states = problem.rollout(actions).states
    bare = expand(problem, states, actions, projected=False)
    whole = with_dynamics(problem, states, actions, bare)
    advice = improvement(problem, whole, torch.zeros(1).double())
    time, bend, way = last_bend(advice)
    state, moves = torch.zeros(2).double(), []
    for t in range(40):
        moves.append(way[0] if t == time else (advice.gain[0, t] @ state if t > time else torch.zeros(1).double()))
        state = whole.slope[0, t] @ torch.cat([state, moves[-1]])
    along = torch.cat(moves)
    torch.testing.assert_close(along @ hessian_of(model, actions[0]) @ along, bend[0], rtol=1e-9, atol=1e-9)
    assert float(bend) < 0


def test_a_valley_of_equal_minima_counts_as_one():
    """Any point of a ring is as good a goal: the Hessian is singular at each, and negative at the start."""
    model = ContinuousModel(
        torch.zeros(2).double(),
        lambda s, a, t: s + a,
        lambda s, a, t: -0.1 * a.square().sum(-1),
        5,
        Flat(2),
        final_reward=lambda s: -((s.square().sum(-1) + 1e-12).sqrt() - 1).square(),
    )
    for noise in (0.0, 1.0):
        state = searched(model, restarts=2, noise=noise)
        assert state.status is Status.SUCCESS
        # with r = |s_6|: 0.1 r^2 / 5 + (r - 1)^2 is least at r = 1 / 1.02
        torch.testing.assert_close(state.costs.min(), torch.tensor(0.02 / 1.02).double(), rtol=1e-6, atol=0)


def test_a_constant_reward_and_units_change_no_plan():
    model = planning_model("pendulum", horizon=40, temperature=0.01)
    plan = searched(model, restarts=1).actions
    for scale, more in ((1.0, 1e4), (1e-8, 0.0), (1e8, 0.0)):

        def reward(s, a, t, scale=scale, more=more):
            return scale * model.reward(s, a, t) + more

        other = model.replace(
            reward=reward, final_reward=lambda s, scale=scale: scale * model.final_reward(s), temperature=0.01 * scale
        )
        state = searched(other, restarts=1)
        assert state.status is Status.SUCCESS
        torch.testing.assert_close(state.actions, plan, rtol=0, atol=0.02)  # of a curvature of 0.0037


def test_a_cost_without_a_least_is_no_success():
    model = ContinuousModel(
        torch.zeros(1).double(),
        lambda s, a, t: s + a,
        lambda s, a, t: 2 * s.square().sum(-1) - a.square().sum(-1),
        6,
        Flat(1),
        final_reward=lambda s: 0.0 * s.sum(-1),
    )
    answer = cai.infer(model, "ilqr", restarts=1, noise=0.0, max_iterations=15, throw=False)
    assert answer.status is Status.NOT_CONVERGED
    assert answer.details["step"] < 6
    assert "is no minimum: its cost bends down" in answer.details["why"]


def test_derivatives_that_are_not_finite_are_named():
    model = ContinuousModel(
        torch.zeros(2).double(),
        lambda s, a, t: s + a,
        lambda s, a, t: -a.square().sum(-1) - torch.linalg.vector_norm(s, dim=-1),
        4,
        Flat(2),
    )
    answer = cai.infer(model, "ilqr", restarts=2, throw=False)
    assert answer.status is Status.NOT_CONVERGED
    assert answer.details["step"] == 0
    assert "derivative of dynamics or reward is not finite at time index 0" in answer.details["why"]


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


def test_restarts_are_compared_with_what_noise_costs():
    """One step to s' ~ N(a, W(a)): of two wells of the cost of a the plan alone prefers the one with more noise."""

    def dynamics(s, a, t):
        return pyro.distributions.Normal(0 * s + a, 0.3 + 0.3 * torch.sigmoid(4 * a)).to_event(1)

    def reward(s, a, t):
        return (0.05 * a - 10 * (a.square() - 1).square())[..., 0]

    model = ContinuousModel(
        torch.zeros(1).double(), dynamics, reward, 1, Flat(1), final_reward=lambda s: -s.square().sum(-1)
    )
    grid = torch.linspace(-2, 2, 400001).double()
    expected = 10 * (grid**2 - 1) ** 2 - 0.05 * grid + grid**2 + (0.3 + 0.3 * torch.sigmoid(4 * grid)) ** 2
    answer = cai.infer(model, "ilqr", restarts=8)
    wells = [grid < 0, grid > 0]
    lowest = sorted(float(expected[well].min()) for well in wells)
    found = sorted({round(float(cost), 6) for cost in answer.details["costs"]})
    assert found == pytest.approx(lowest, abs=1e-5)
    assert answer.details["cost"] == pytest.approx(lowest[0], abs=1e-6)
    torch.testing.assert_close(answer.plan.actions[0, 0], grid[expected.argmin()], rtol=0, atol=1e-3)


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "bar"), [("pendulum", 23.875), ("cart-pole", 26.9), ("dubins", 0.975)])
def test_the_bars_of_the_three_problems(name, bar, seed):
    state = searched(planning_model(name), seed=seed)
    assert state.status is Status.SUCCESS
    assert float(state.costs.min()) <= bar
