"""The linear-Gaussian world around a trajectory, in the coordinates of states and actions themselves."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from cai.inference.gaussian.problem import GaussianPrior, GaussianProblem, Quadratic, times
from cai.inference.planning.derivatives import Expansion
from cai.inference.planning.problem import PlanningProblem

__all__ = ["world_around"]


@torch.no_grad()
def world_around(problem: PlanningProblem, states: Tensor, actions: Tensor, local: Expansion) -> GaussianProblem:
    """The problem whose dynamics and costs are the local models of a trajectory.

    Args:
        problem: dynamics and costs.
        states: [T + 1, n], which need not follow the dynamics.
        actions: [T, m].
        local: the expansion around them.

    Returns:
        That problem. A Gaussian action prior is taken out of the costs again, so that returns and divergences are told
        apart; any other stays in the costs, and the problem is a flat one.
    """
    n, before, last = problem.state_dim, states[:-1], states[-1]
    z = torch.cat([before, actions], -1)
    moved = problem.over_time(problem.mean_step, "mean_step")(before, actions)
    paid = problem.over_time(problem.cost, "cost")(before, actions)
    linear, constant = _moved(local.hessian, local.gradient, paid, z)
    final = Quadratic(
        local.final_hessian, *_moved(local.final_hessian, local.final_gradient, problem.final_cost(last), last)
    )
    found = GaussianProblem(
        A=local.slope[..., :n],
        B=local.slope[..., n:],
        offset=moved - times(local.slope, z),
        noise=local.noise,
        cost=local.hessian,
        linear=linear,
        constant=constant,
        final=final,
        mean=problem.start,
        covariance=problem.start_covariance,
        horizon=problem.horizon,
        temperature=torch.tensor(problem.temperature, dtype=z.dtype),
        discount=problem.discount,
    )
    prior = None if problem.prior is None else problem.prior.gaussian
    return found if prior is None else _without_prior(found, prior)


def _moved(P: Tensor, slope: Tensor, value: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """(p, rho) of value + slope'(z - at) + 1/2 (z - at)'P(z - at) as a quadratic function of z."""
    p = slope - times(P, at)
    return p, value - (slope * at).sum(-1) + (at * times(P, at)).sum(-1) / 2


def _without_prior(found: GaussianProblem, prior: GaussianPrior) -> GaussianProblem:
    """The same problem with the prior's share of its costs given as a prior."""
    n, m = found.num_states, found.num_actions
    zero = found.cost.new_zeros
    none = dataclasses.replace(found, cost=zero(1, n + m, n + m), linear=zero(1, n + m), constant=zero(1), prior=prior)
    share = none.folded()
    return dataclasses.replace(
        none, cost=found.cost - share.P, linear=found.linear - share.p, constant=found.constant - share.rho
    )
