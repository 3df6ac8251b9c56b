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

from cai.inference.planning.problem import AtTimes, PlanningProblem, Times

__all__ = ["Expansion", "along", "expand", "first_order", "project", "second_order"]


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
    if projected:
        hessian, final_hessian = project(hessian), project(final_hessian)
    return Expansion(F, gradient, hessian, final_gradient, final_hessian, noise)


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
    """The nearest positive semi-definite matrices to symmetric ones [..., d, d]: negative eigenvalues become 0."""
    values, vectors = torch.linalg.eigh(hessian)
    if bool((values >= 0).all()):
        return hessian
    return (vectors * values.clamp(min=0)[..., None, :]) @ vectors.mT
