"""Derivatives along trajectories, against differences; and how functions of time are called."""

import numpy as np
import pytest
import torch
from planning_problems import PARTS, planning_model

from cai.inference.planning.derivatives import expand, first_order, noise_cost, project, second_order
from cai.inference.planning.problem import PlanningProblem
from cai.inference.planning.read_model import planning_problem
from cai.models import ContinuousModel, LinearNormal

STEP = 1e-5


def differences(function, z):
    """The Jacobian [k, d] of a function of one vector by central differences."""
    columns = []
    for i in range(len(z)):
        move = np.zeros(len(z))
        move[i] = STEP
        ahead, back = (function(torch.as_tensor(z + sign * move)).detach().numpy() for sign in (1, -1))
        columns.append((ahead - back) / (2 * STEP))
    return np.stack(columns, -1)


@pytest.mark.parametrize("name", PARTS)
def test_derivatives_are_those_of_differences(name):
    step, reward, _, _ = PARTS[name]
    n = {"pendulum": 2, "cart-pole": 4, "dubins": 3}[name]
    z = torch.randn(3, 5, n + 1, dtype=torch.float64)
    slope = first_order(lambda x: step(x[..., :n], x[..., n:], 0), z)
    gradient, hessian = second_order(lambda x: reward(x[..., :n], x[..., n:], 0), z)
    assert slope.shape == (3, 5, n, n + 1)
    for row in ((0, 0), (2, 4)):
        at = z[row].numpy()
        expected = differences(lambda x: step(x[:n], x[n:], 0), at)
        np.testing.assert_allclose(slope[row].numpy(), expected, atol=1e-8)
        np.testing.assert_allclose(gradient[row].numpy(), differences(lambda x: reward(x[:n], x[n:], 0), at), atol=1e-6)
        slopes = differences(lambda x: second_order(lambda y: reward(y[..., :n], y[..., n:], 0), x)[0], at)
        np.testing.assert_allclose(hessian[row].numpy(), slopes, atol=1e-5)
        np.testing.assert_array_equal(hessian[row].numpy(), hessian[row].numpy().T)


def test_the_projection_keeps_what_is_positive_and_drops_the_rest():
    values, vectors = torch.tensor([-2.0, 0.5, 3.0]).double(), torch.linalg.qr(torch.randn(3, 3).double())[0]
    found = project((vectors * values) @ vectors.T)
    torch.testing.assert_close(found, (vectors * values.clamp(min=0)) @ vectors.T)
    whole = torch.eye(3).double().expand(2, 3, 3)
    assert project(whole) is whole


def clock(pick):
    """A model whose reward reads the time in one of several ways."""
    goals = torch.linspace(0, 1, 6).double()

    def reward(s, a, t):
        return -((s[..., 0] - pick(goals, t)) ** 2) - a[..., 0] ** 2

    return ContinuousModel(torch.zeros(1).double(), lambda s, a, t: s + a, reward, 6, LinearNormal(L=[[1.0]]))


WAYS = {
    "an index": (lambda goals, t: goals[t], True),
    "a number": (lambda goals, t: 0.2 * t, True),
    "a branch": (lambda goals, t: goals[t] if t < 3 else 0.0, False),
}


@pytest.mark.parametrize("way", WAYS)
def test_all_times_are_asked_at_once_where_that_gives_the_same(way):
    pick, at_once = WAYS[way]
    problem = planning_problem(clock(pick))
    assert (problem.times("reward") is not None) == at_once
    states, actions = torch.randn(2, 7, 1).double(), torch.randn(2, 6, 1).double()
    costs = problem.measured(states, actions).costs
    expected = 0.0
    for t in range(6):
        off = states[:, t, 0] - pick(torch.linspace(0, 1, 6).double(), t)
        a = actions[:, t, 0]
        expected = expected + off**2 + a**2 + 0.5 * a**2 + 0.5 * np.log(2 * np.pi)
    torch.testing.assert_close(costs, expected, rtol=1e-12, atol=1e-12)
    local = expand(problem, states, actions)
    torch.testing.assert_close(local.hessian, torch.diag(torch.tensor([2.0, 3.0])).double().expand(2, 6, 2, 2))


def test_a_function_that_mixes_time_with_coordinates_is_asked_step_by_step():
    """With as many coordinates as steps, s * t would run and be wrong."""
    problem = PlanningProblem(
        mean_step=lambda s, a, t: s * (1 + t) + a,
        reward=lambda s, a, t: -s.square().sum(-1),
        final_cost=lambda s: s.square().sum(-1),
        start=torch.ones(4).double(),
        start_covariance=torch.zeros(4, 4).double(),
        horizon=4,
        action_dim=4,
        temperature=1.0,
    )
    assert problem.times("mean_step") is None
    assert problem.times("reward") is not None
    local = expand(problem, torch.ones(5, 4).double(), torch.zeros(4, 4).double())
    torch.testing.assert_close(local.slope[:, 0, 0], torch.tensor([1.0, 2.0, 3.0, 4.0]).double())


def test_a_rollout_that_diverges_says_where():
    problem = planning_problem(planning_model("pendulum", horizon=5))
    actions = torch.zeros(3, 5, 1).double()
    actions[1, 2] = torch.nan
    found = problem.rollout(actions)
    assert found.costs.isfinite().tolist() == [True, False, True]
    assert found.diverged.tolist() == [5, 2, 5]
    assert float(found.costs[1]) == float("inf")


def test_what_noise_costs_follows_the_curvature():
    problem = PlanningProblem(
        mean_step=lambda s, a, t: s,
        reward=lambda s, a, t: 0 * s[..., 0],
        final_cost=lambda s: 0 * s[..., 0],
        start=torch.zeros(2).double(),
        start_covariance=torch.zeros(2, 2).double(),
        horizon=3,
        action_dim=1,
        temperature=1.0,
        noise=lambda s, a, t: torch.diag_embed((a**2).expand(*a.shape[:-1], 2)),
    )
    scales = torch.tensor([1.0, 2.0, 3.0]).double()
    curvature = torch.eye(2).double() * scales[:, None, None]
    states, actions = torch.zeros(4, 2).double(), torch.ones(3, 1).double()
    torch.testing.assert_close(noise_cost(problem, states[:3], actions, curvature, torch.arange(3)), scales)
    local = expand(problem, states, actions, curvature)
    torch.testing.assert_close(local.hessian[:, 2, 2], 2 * scales)
