"""The linear-quadratic step of trajectories, and their better neighbours by a line search."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cai.inference.gaussian.problem import times
from cai.inference.planning.derivatives import Expansion
from cai.inference.planning.problem import PlanningProblem, Rollout

__all__ = ["STEP_LENGTHS", "Improvement", "improvement", "line_search"]

STEP_LENGTHS = 1.1 ** -(torch.arange(10, dtype=torch.float64) ** 2)  # Tassa, Erez and Todorov 2012


class Improvement(NamedTuple):
    """What the local models of R trajectories advise, in differences from these.

    Attributes:
        gain: [R, T, m, n], K.
        offset: [R, T, m], k.
        promised: [R], by how much they say that the whole step lowers the cost: sum_t k'Haa k / 2, discounted.
        curvature: [R, T, n, n], P of the cost-to-go of s_2 .. s_{T+1}.
        sound: bool [R], whether every Haa is positive definite, so that there is a best action.
    """

    gain: Tensor
    offset: Tensor
    promised: Tensor
    curvature: Tensor
    sound: Tensor


def improvement(problem: PlanningProblem, local: Expansion, damping: Tensor) -> Improvement:
    """Solves the local models of R trajectories backward.

        H = C + gamma F'PF + damping on the actions,  h = g + gamma F'p,  K = -Haa^-1 Has,  k = -Haa^-1 ha

    These are the messages of `cai.inference.gaussian` at eta = 0, without their constants; the search needs no more,
    and a step of matrices so small takes NumPy a fraction of the time of torch.

    Args:
        problem: for sizes and discount.
        local: the expansion around trajectories [R].
        damping: [R], what is added to the curvature of every action (Levenberg 1944).
    """
    n, horizon = problem.state_dim, problem.horizon
    slopes, costs, linears = (part.numpy() for part in (local.slope, local.hessian, local.gradient))
    P, p = local.final_hessian.numpy(), local.final_gradient.numpy()[..., None]
    rows, size = linears.shape[0], linears.shape[-1]
    acting = np.zeros((rows, size, size))
    acting[:, range(n, size), range(n, size)] = damping.numpy()[:, None]
    gains, offsets = np.empty((rows, horizon, size - n, n)), np.empty((rows, horizon, size - n))
    stages, curvatures = np.empty((rows, horizon, size - n, size - n)), np.empty((rows, horizon, n, n))
    survival = (problem.discount,) * (horizon - 1) + (1.0,)
    with np.errstate(all="ignore"):  # numbers that are not finite are told from `sound`
        for t in reversed(range(horizon)):
            curvatures[:, t] = P = survival[t] * P
            F = slopes[:, t]
            back = F.swapaxes(-1, -2)
            H = costs[:, t] + acting + back @ (P @ F)
            h = linears[:, t, :, None] + survival[t] * (back @ p)
            stages[:, t] = H[:, n:, n:]
            advice = -_solved(H[:, n:, n:], np.concatenate([H[:, n:, :n], h[:, n:]], -1))
            gains[:, t], offsets[:, t] = advice[..., :n], advice[..., n]
            step = np.concatenate([H[:, :n, :n], h[:, :n]], -1) + H[:, :n, n:] @ advice
            P, p = step[..., :n], step[..., n:]
            P = (P + P.swapaxes(-1, -2)) / 2
        squares = np.einsum("rti,rtij,rtj->rt", offsets, stages, offsets)
    gain, offset, stage = (torch.from_numpy(part) for part in (gains, offsets, stages))
    finite = stage.isfinite().all((-3, -2, -1)) & offset.isfinite().all((-2, -1))
    safe, gain = (torch.where(finite[:, None, None, None], part, torch.zeros_like(part)) for part in (stage, gain))
    offset = torch.where(finite[:, None, None], offset, torch.zeros_like(offset))  # nothing is tried that is no number
    promised = (problem.weights[:-1] * torch.from_numpy(squares)).sum(-1) / 2
    sound = finite & (torch.linalg.eigvalsh(safe)[..., 0] > 0).all(-1)
    return Improvement(gain, offset, promised, torch.from_numpy(curvatures), sound)


def _solved(matrix: Any, right: Any) -> Any:
    try:
        return np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:  # of one that is singular, and so not positive definite either
        if len(matrix) == 1:
            return np.full_like(right, np.nan)
        return np.concatenate([_solved(matrix[i : i + 1], right[i : i + 1]) for i in range(len(matrix))])


def line_search(
    problem: PlanningProblem, states: Tensor, actions: Tensor, advice: Improvement, curvature: Tensor | None = None
) -> tuple[Tensor, Rollout]:
    """For each trajectory the best neighbour over all step lengths, which are rolled out in one batch.

        a_t = a_t(old) + length k_t + K_t (s_t - s_t(old))

    Args:
        problem: the dynamics and costs.
        states: [R, T + 1, n].
        actions: [R, T, m].
        advice: of the local models around them.
        curvature: [R, T, n, n], by which noise is paid for where it changes (`paid_for_noise`); else None.

    Returns:
        Actions [R, T, m], and their rollout, whose costs are inf where every neighbour diverges.
    """
    lengths = STEP_LENGTHS.to(actions)
    bases = actions[:, None] + lengths[:, None, None] * advice.offset[:, None]
    steps, before, gains = bases.unbind(-2), states[:, None].unbind(-2), (advice.gain[:, None]).unbind(-3)

    def act(state: Tensor, t: int) -> Tensor:
        return steps[t] + times(gains[t], state - before[t])

    tried, found = problem.follow(act, (len(states), len(lengths)), states[:, None, 0])
    costs = found.costs
    if curvature is not None:
        costs = costs + problem.paid_for_noise(found.states, tried, curvature[:, None])
    best = torch.where(costs.isnan(), math.inf, costs).argmin(-1)
    rows = torch.arange(len(best))
    return tried[rows, best], Rollout(found.states[rows, best], costs[rows, best], found.diverged[rows, best])
