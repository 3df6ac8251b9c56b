"""First and second derivatives of dynamics and costs along trajectories, for all steps and trajectories at once.

The d rows of a Jacobian are the gradients of one sum over d copies of the inputs, whose leading axes are free. So the
functions of a model are called on tensors that hold values, and what they do by the way (checks, say) goes on working.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad

from cai.inference.gaussian.problem import times
from cai.inference.planning.problem import AtTimes, PlanningProblem, Times

__all__ = [
    "Expansion",
    "along",
    "expand",
    "first_order",
    "first_unknown",
    "project",
    "second_order",
    "semi_definite",
    "with_dynamics",
]


class Expansion(NamedTuple):
    """The local model around trajectories: linear dynamics and quadratic costs of z = (s, a), in differences from them.

    Attributes:
        slope: [..., T, n, d], F, of the mean of the next state.
        gradient: [..., T, d], of the stage costs, discounts apart.
        hessian: [..., T, d, d], positive semi-definite.
        final_gradient: [..., n].
        final_hessian: [..., n, n], positive semi-definite.
        noise: [..., T, n, n], the covariance of the next state.
    """

    slope: Tensor
    gradient: Tensor
    hessian: Tensor
    final_gradient: Tensor
    final_hessian: Tensor
    noise: Tensor


@torch.no_grad()
def expand(
    problem: PlanningProblem,
    states: Tensor,
    actions: Tensor,
    curvature: Tensor | None = None,
    *,
    projected: bool = True,
) -> Expansion:
    """The local model around trajectories.

    Args:
        problem: dynamics and costs.
        states: [..., T + 1, n].
        actions: [..., T, m].
        curvature: [..., T, n, n], P of the cost-to-go of s_2 .. s_{T+1}, where the covariance W(s, a) of the noise
            changes: tr(P W(s, a)) / 2 is then part of the stage cost (Todorov and Li 2005). None where it does not.
        projected: whether Hessians are made positive semi-definite; else they are what they are.
    """
    before = states[..., :-1, :]
    slope = along(problem, "mean_step", lambda s, a, t: (first_order(_joined(problem.mean_step, s, t), _z(s, a)),))
    cost = along(problem, "cost", lambda s, a, t: second_order(_joined(problem.cost, s, t), _z(s, a)))
    (F,), (gradient, hessian) = slope(before, actions), cost(before, actions)
    noise = states.new_zeros(problem.horizon, problem.state_dim, problem.state_dim)
    if problem.noise is not None:
        noise = problem.over_time(problem.noise, "noise")(before, actions)
    if curvature is not None:
        further, bent = _noise_curve(problem, before, actions, curvature)
        gradient, hessian = gradient + further, hessian + bent
    final_gradient, final_hessian = second_order(problem.final_cost, states[..., -1, :])
    found = Expansion(F, gradient, hessian, final_gradient, final_hessian, noise)
    return semi_definite(found) if projected else found


def semi_definite(local: Expansion) -> Expansion:
    """The same local model with Hessians that are projected on the positive semi-definite matrices."""
    return local._replace(hessian=project(local.hessian), final_hessian=project(local.final_hessian))


@torch.no_grad()
def with_dynamics(problem: PlanningProblem, states: Tensor, actions: Tensor, local: Expansion) -> Expansion:
    """The same local model with the curvature of the dynamics in its Hessians (Jacobson and Mayne 1970).

    With the adjoint lambda of the states along trajectories that follow the dynamics,

        lambda_t = c_s + gamma f_s' lambda_{t+1},    C~ = c_zz + gamma sum_i lambda_{t+1, i} f_i,zz,    z = (s, a)

    the costs C~ and the linear dynamics have the Hessian of the sum of costs in the actions, discounts included.

    Args:
        problem: dynamics and costs.
        states: [..., T + 1, n], where the actions lead.
        actions: [..., T, m].
        local: the expansion around them, not projected.
    """
    n, horizon = problem.state_dim, problem.horizon
    ahead, adjoint = [], local.final_gradient
    for t in reversed(range(horizon)):
        adjoint = (problem.discount if t < horizon - 1 else 1.0) * adjoint
        ahead.append(adjoint)
        adjoint = local.gradient[..., t, :n] + times(local.slope[..., t, :, :n].mT, adjoint)
    weights = torch.stack(ahead[::-1], -2)

    def weighed(s: Tensor, a: Tensor, t: Times) -> tuple[Tensor]:
        at = weights if isinstance(t, Tensor) else weights[..., t, :]
        return (second_order(lambda z: (at * _joined(problem.mean_step, s, t)(z)).sum(-1), _z(s, a))[1],)

    (bent,) = along(problem, "mean_step", weighed)(states[..., :-1, :], actions)
    return local._replace(hessian=local.hessian + bent)


def noise_cost(problem: PlanningProblem, states: Tensor, actions: Tensor, curvature: Tensor, t: Times) -> Tensor:
    """[...], tr(P W(s, a)) / 2 of one step or of all, P [..., T, n, n] that of all steps."""
    assert problem.noise is not None
    at = curvature if isinstance(t, Tensor) else curvature[..., t, :, :]
    return (at * problem.noise(states, actions, t)).sum((-2, -1)) / 2


def _noise_curve(problem: PlanningProblem, states: Tensor, actions: Tensor, curvature: Tensor) -> tuple[Tensor, ...]:
    def paid(s: Tensor, a: Tensor, t: Times) -> Tensor:
        return noise_cost(problem, s, a, curvature, t)

    curve = along(problem, "noise", lambda s, a, t: second_order(_joined(paid, s, t), _z(s, a)))
    return curve(states, actions)


def along(
    problem: PlanningProblem, name: str, derived: Callable[[Tensor, Tensor, Times], tuple[Tensor, ...]]
) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
    """What is derived of a function of the problem, at all steps of trajectories."""
    steps = AtTimes(derived, problem.times(name), problem.horizon)
    return lambda states, actions: steps.all(derived, states, actions)


def _z(states: Tensor, actions: Tensor) -> Tensor:
    return torch.cat([states, actions], -1)


def _joined(
    function: Callable[[Tensor, Tensor, Times], Tensor], states: Tensor, t: Times
) -> Callable[[Tensor], Tensor]:
    """The function of z = (s, a) at a time."""
    n = states.shape[-1]
    return lambda z: function(z[..., :n], z[..., n:], t)


def first_order(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """[..., k, d], the Jacobian of a function [..., d] -> [..., k] whose rows do not mix.

    Args:
        function: of z, with leading axes free.
        z: [..., d].
    """
    rows = function(z).shape[-1]

    def diagonal(x: Tensor) -> Tensor:
        return torch.einsum("i...i->", function(x))  # copy i pays for output i alone

    found: Tensor = grad(diagonal)(_copies(z, rows))
    return found.movedim(0, -2)


def second_order(function: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient [..., d] and Hessian [..., d, d] of a function [..., d] -> [...] whose rows do not mix.

    Args:
        function: of z, with leading axes free.
        z: [..., d].
    """

    def diagonal(x: Tensor) -> tuple[Tensor, Tensor]:
        slopes = grad(lambda y: function(y).sum())(x)
        return torch.einsum("i...i->", slopes), slopes[0]

    hessian, gradient = grad(diagonal, has_aux=True)(_copies(z, z.shape[-1]))
    hessian = hessian.movedim(0, -2)
    return gradient, (hessian + hessian.mT) / 2


def _copies(z: Tensor, count: int) -> Tensor:
    """[count, ..., d]."""
    return z.expand(count, *z.shape).contiguous()


def project(hessian: Tensor) -> Tensor:
    """The nearest positive semi-definite matrices to symmetric ones [..., d, d]: negative eigenvalues become 0.

    Those that are not finite stay as they are.
    """
    finite = hessian.isfinite().all(-1).all(-1)[..., None, None]
    values, vectors = torch.linalg.eigh(torch.where(finite, hessian, torch.zeros_like(hessian)))
    if bool((values >= 0).all()):
        return hessian
    return torch.where(finite, (vectors * values.clamp(min=0)[..., None, :]) @ vectors.mT, hessian)


def first_unknown(local: Expansion) -> int | None:
    """The first time index at which a derivative along one trajectory is not finite, T for the final one; else None."""
    parts = [part.isfinite().flatten(1).all(1) for part in (local.slope, local.gradient, local.hessian)]
    last = local.final_gradient.isfinite().all() & local.final_hessian.isfinite().all()
    lost = torch.nonzero(~torch.cat([torch.stack(parts).all(0), last[None]]))[:, 0]
    return int(lost[0]) if len(lost) else None
