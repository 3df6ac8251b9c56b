"""The linear-quadratic problem around a trajectory, and a trajectory's better neighbours by a line search."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cai.inference.gaussian.messages import Messages, backward
from cai.inference.gaussian.problem import GaussianProblem, Quadratic, times
from cai.inference.planning.derivatives import Expansion
from cai.inference.planning.problem import PlanningProblem, Rollout

__all__ = ["STEP_LENGTHS", "line_search", "local_messages", "predicted_decrease"]

STEP_LENGTHS = 1.1 ** -(torch.arange(10, dtype=torch.float64) ** 2)  # Tassa, Erez and Todorov 2012


def local_messages(problem: PlanningProblem, local: Expansion, damping: Tensor) -> Messages:
    """Quadratic messages of the local model, in differences from the trajectories.

    Args:
        problem: for sizes, temperature and discount.
        local: the expansion around trajectories [...].
        damping: [...], what is added to the curvature of every action (Levenberg 1944).
    """
    n, m = problem.state_dim, problem.action_dim
    batch = damping.shape
    acting = torch.cat([damping.new_zeros(n), damping.new_ones(m)])
    damped = local.hessian + damping[..., None, None, None] * torch.diag_embed(acting)
    zeros = damping.new_zeros(1, n)
    return backward(
        GaussianProblem(
            A=local.slope[..., :n],
            B=local.slope[..., n:],
            offset=zeros,
            noise=damping.new_zeros(1, n, n),
            cost=damped,
            linear=local.gradient,
            constant=damping.new_zeros(1),
            final=Quadratic(local.final_hessian, local.final_gradient, damping.new_zeros(batch)),
            mean=zeros[0],
            covariance=damping.new_zeros(n, n),
            horizon=problem.horizon,
            temperature=damping.new_tensor(problem.temperature),
            discount=problem.discount,
        )
    )


def predicted_decrease(problem: PlanningProblem, messages: Messages) -> Tensor:
    """[...], by how much the local model says that a whole step lowers the cost: sum_t k'Haa k / 2, discounted."""
    k = messages.offset
    return (problem.weights[:-1] * (k * times(messages.action_cost, k)).sum(-1)).sum(-1) / 2


def line_search(
    problem: PlanningProblem, states: Tensor, actions: Tensor, messages: Messages, merit: Tensor | None = None
) -> tuple[Tensor, Rollout]:
    """For each trajectory the best neighbour over all step lengths, which are rolled out in one batch.

        a_t = a_t(old) + length k_t + K_t (s_t - s_t(old))

    Args:
        problem: the dynamics and costs.
        states: [R, T + 1, n].
        actions: [R, T, m].
        messages: of the local models around them.
        merit: [R, T, n, n], see `noise_cost`; what noise costs there counts as well. None where it does not change.

    Returns:
        Actions [R, T, m], and their rollout, whose costs are inf where every neighbour diverges.
    """
    lengths = STEP_LENGTHS.to(actions)
    steps = (lengths[:, None, None] * messages.offset[:, None]).unbind(-2)
    gains, before, taken = (messages.gain[:, None]).unbind(-3), states[:, None].unbind(-2), actions[:, None].unbind(-2)

    def act(state: Tensor, t: int) -> Tensor:
        return taken[t] + steps[t] + times(gains[t], state - before[t])

    tried, found = problem.follow(act, (len(states), len(lengths)))
    costs = found.costs if merit is None else found.costs + problem.paid_for_noise(found.states, tried, merit[:, None])
    best = torch.where(costs.isnan(), math.inf, costs).argmin(-1)
    rows = torch.arange(len(best))
    return tried[rows, best], Rollout(found.states[rows, best], costs[rows, best], found.diverged[rows, best])
