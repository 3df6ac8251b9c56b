"""Plans to the last digits, held against a minimiser that shares no code with them."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from cai.inference.planning.local_optima import local_optima
from cai.inference.planning.read_model import planning_problem
from cai.models import ContinuousModel, Flat


def between_wells(start, horizon=2):
    """A point between two wells of the last cost; where it begins the cost is flat but for its start."""
    return ContinuousModel(
        torch.tensor([start], dtype=torch.float64),
        lambda s, a, t: s + a + 0.1 * a.square(),
        lambda s, a, t: -a.square().sum(-1),
        horizon,
        Flat(1),
        final_reward=lambda s: -4 * (s[..., 0].square() - 1).square(),
        temperature=0.1,
    )


def cost(actions, start):
    place = start
    for a in actions:
        place = place + a + 0.1 * a * a
    return float((actions**2).sum() + 4 * (place**2 - 1) ** 2)


@pytest.mark.parametrize("starts", [[1e-6], [-1e-6, 0.5, 1e-6]])
def test_plans_leave_saddles_where_no_step_promises_anything(starts):
    """Near the saddle `ilqr` is promised 1e-11 of the cost, and takes that for the end; the whole Hessian tells."""
    problem = planning_problem(between_wells(starts[0]))
    begins = torch.tensor(starts, dtype=torch.float64)[:, None]
    plans = local_optima(problem, begins, torch.zeros(len(starts), 2, 1, dtype=torch.float64))
    assert plans is not None
    for start, actions, found in zip(starts, plans.actions[..., 0].numpy(), plans.costs, strict=True):
        uphill = np.full(2, 0.3 * np.sign(start))
        want = minimize(cost, uphill, (start,), method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-15})
        np.testing.assert_allclose(actions, want.x, atol=1e-6)
        assert float(found) == pytest.approx(want.fun, abs=1e-10)


def test_there_is_no_plan_without_a_strict_minimum():
    flat = between_wells(0.1).replace(final_reward=None, reward=lambda s, a, t: 0.0 * a.sum(-1))
    begin = torch.tensor([[0.1]], dtype=torch.float64)
    assert local_optima(planning_problem(flat), begin, torch.zeros(1, 2, 1, dtype=torch.float64)) is None
