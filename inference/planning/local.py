"""The linear-quadratic step of trajectories, and their better neighbours by a line search."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cai.inference.gaussian.problem import times
from cai.inference.planning.derivatives import Expansion
from cai.inference.planning.problem import PlanningProblem, Rollout

__all__ = ["STEP_LENGTHS", "Improvement", "improvement", "last_bend", "line_search", "search_bend"]

STEP_LENGTHS = 1.1 ** -(torch.arange(10, dtype=torch.float64) ** 2)  # Tassa, Erez and Todorov 2012
BEND_LENGTHS = 4.0 ** -torch.arange(16, dtype=torch.float64)  # times a first one that is too long
NEARBY = 8  # the number of the length at which the two ways are compared


class Improvement(NamedTuple):
    """What the local models of R trajectories advise, in differences from these.

    Attributes:
        gain: [R, T, m, n], K.
        offset: [R, T, m], k.
        promised: [R], by how much they say that the whole step lowers the cost: sum_t k'Haa k / 2, discounted.
        curvature: [R, T, n, n], P of the cost-to-go of s_2 .. s_{T+1}.
        sound: bool [R], whether every Haa is positive definite, so that there is a best action.
        stages: [R, T, m, m], Haa; where that is no finite matrix, zeros, as are K and k.
    """

    gain: Tensor
    offset: Tensor
    promised: Tensor
    curvature: Tensor
    sound: Tensor
    stages: Tensor


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
    discounts = (problem.discount,) * (horizon - 1) + (1.0,)
    with np.errstate(all="ignore"):  # numbers that are not finite are told from `sound`
        for t in reversed(range(horizon)):
            curvatures[:, t] = P = discounts[t] * P
            F = slopes[:, t]
            back = F.swapaxes(-1, -2)
            H = costs[:, t] + acting + back @ (P @ F)
            h = linears[:, t, :, None] + discounts[t] * (back @ p)
            stages[:, t] = H[:, n:, n:]
            advice = -_solved(H[:, n:, n:], np.concatenate([H[:, n:, :n], h[:, n:]], -1))
            gains[:, t], offsets[:, t] = advice[..., :n], advice[..., n]
            step = np.concatenate([H[:, :n, :n], h[:, :n]], -1) + H[:, :n, n:] @ advice
            P, p = step[..., :n], step[..., n:]
            P = (P + P.swapaxes(-1, -2)) / 2
        squares = np.einsum("rti,rtij,rtj->rt", offsets, stages, offsets)
    found = tuple(torch.from_numpy(part) for part in (gains, offsets[..., None], stages))
    finite = torch.stack([part.isfinite().all((-2, -1)) for part in found]).all(0)
    gain, offset, stage = (torch.where(finite[..., None, None], part, torch.zeros_like(part)) for part in found)
    promised = (problem.weights[:-1] * torch.from_numpy(squares)).sum(-1) / 2
    sound = (finite & (torch.linalg.eigvalsh(stage)[..., 0] > 0)).all(-1)
    return Improvement(gain, offset[..., 0], promised, torch.from_numpy(curvatures), sound, stage)


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
        Actions [R, T, m], and their rollout, whose costs count that noise, and are inf where every neighbour diverges.
    """
    offsets = STEP_LENGTHS.to(actions)[:, None, None] * advice.offset[:, None]
    return _cheapest(*_followed(problem, states, actions, advice.gain, offsets, curvature))


def last_bend(advice: Improvement) -> tuple[Tensor, Tensor, Tensor]:
    """Where the cost bends down last: the latest time at which Haa is not positive definite.

    With u the eigenvector of its lowest eigenvalue, the actions u at that time and K_t (s_t - s_t(old)) later change
    the cost of the local model by u'Haa u / 2 to second order.

    Args:
        advice: of the local models of R trajectories.

    Returns:
        The time indices, int64 [R], T where there is none; the eigenvalues [R] there and their vectors [R, m].
    """
    values, vectors = torch.linalg.eigh(advice.stages)
    rows, horizon = torch.arange(len(values)), values.shape[1]
    bends = values[..., 0] <= 0
    at = torch.where(bends, torch.arange(horizon), -1).amax(-1)
    here = at.clamp(min=0)
    return torch.where(at < 0, horizon, at), values[rows, here, 0], vectors[rows, here, :, 0]


def search_bend(
    problem: PlanningProblem,
    states: Tensor,
    actions: Tensor,
    advice: Improvement,
    size: Tensor,
    curvature: Tensor | None = None,
) -> tuple[Tensor, Rollout]:
    """For each trajectory the best neighbour along its last bend, at lengths that are a factor of 4 apart.

    The longest is the one at which the local model lowers the cost by its size: where the cost bends down, some step
    lowers it, also where its slope is 0 (More and Sorensen 1979). Of the two ways it goes the one that is downhill.

    Args:
        problem: the dynamics and costs.
        states: [R, T + 1, n].
        actions: [R, T, m].
        advice: of the local models around them, none of them sound.
        size: [R], of the costs.
        curvature: as for `line_search`.

    Returns:
        Actions [R, T, m], and their rollout.
    """
    time, bend, way = last_bend(advice)
    longest = (2 * size / (problem.weights[time] * bend.abs()).clamp(min=1e-300)).sqrt()
    lengths = longest[:, None] * torch.cat([BEND_LENGTHS, -BEND_LENGTHS])
    steps = torch.arange(problem.horizon)
    offsets = lengths[..., None, None] * torch.where(steps[:, None] == time[:, None, None], way[:, None], 0.0)[:, None]
    gain = torch.where((steps > time[:, None])[..., None, None], advice.gain, 0.0)
    tried, found = _followed(problem, states, actions, gain, offsets, curvature)
    there, back = found.costs.unflatten(-1, (2, -1))[..., NEARBY].unbind(-1)
    way_back = torch.where(back.isfinite() & ~(there <= back), 1, 0)
    barred = (torch.arange(len(lengths[0])) // len(BEND_LENGTHS)) != way_back[:, None]
    return _cheapest(tried, dataclasses.replace(found, costs=torch.where(barred, math.inf, found.costs)))


def _followed(
    problem: PlanningProblem, states: Tensor, actions: Tensor, gain: Tensor, offsets: Tensor, curvature: Tensor | None
) -> tuple[Tensor, Rollout]:
    """The neighbours [R, L, ...] by each of L sequences of offsets [R, L, T, m], with gains [R, T, m, n]."""
    steps, before, gains = (actions[:, None] + offsets).unbind(-2), states[:, None].unbind(-2), gain[:, None].unbind(-3)

    def act(state: Tensor, t: int) -> Tensor:
        return steps[t] + times(gains[t], state - before[t])

    tried, found = problem.follow(act, offsets.shape[:2], states[:, None, 0])
    if curvature is None:
        return tried, found
    paid = problem.paid_for_noise(found.states, tried, curvature[:, None])
    return tried, dataclasses.replace(found, costs=found.costs + paid)


def _cheapest(tried: Tensor, found: Rollout) -> tuple[Tensor, Rollout]:
    """The best of L neighbours of each trajectory."""
    costs = torch.where(found.costs.isnan(), math.inf, found.costs)
    best, rows = costs.argmin(-1), torch.arange(len(costs))
    return tried[rows, best], Rollout(found.states[rows, best], costs[rows, best], found.diverged[rows, best])
