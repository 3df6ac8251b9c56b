"""A `LinearGaussianModel` as the plain tensors that the recursion reads."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cai.inference.gaussian.problem import GaussianPrior, GaussianProblem, Quadratic
from cai.models.common.shapes import broadcast_shapes
from cai.models.continuous.linear_gaussian import LinearGaussianModel
from cai.models.continuous.priors import LinearNormal

__all__ = ["read_problem"]


def read_problem(model: LinearGaussianModel) -> GaussianProblem:
    """The problem of a model; over an infinite horizon that of one step, with nothing after it.

    Gradients pass through every tensor of the model.
    """
    reward, prior = model.reward, model.action_prior
    cost, linear = _stage_cost(reward)
    Qf, qf, constf = reward.final
    return GaussianProblem(
        A=_timed(model.A, 2),
        B=_timed(model.B, 2),
        offset=_timed(model.offset, 1),
        noise=_timed(model.noise, 2),
        cost=cost,
        linear=linear,
        constant=_timed(reward.const, 0),
        final=Quadratic(Qf, qf, constf),
        mean=model.initial.mean,
        covariance=model.initial.covariance,
        horizon=1 if model.horizon == math.inf else int(model.horizon),
        temperature=torch.as_tensor(model.temperature, dtype=model.A.dtype, device=model.A.device),
        discount=float(model.discount),
        prior=_prior(prior) if isinstance(prior, LinearNormal) else None,
    )


def _prior(prior: LinearNormal) -> GaussianPrior:
    return GaussianPrior(_timed(prior.K0, 2), _timed(prior.k0, 1), _timed(prior.L, 2))


def _timed(part: Tensor, own: int) -> Tensor:
    """The part with an axis for time before its `own` axes, where it has none yet."""
    return part if part.dim() > own else part[None]


def _stage_cost(reward: object) -> tuple[Tensor, Tensor]:
    """C [..., T, n + m, n + m] and g [..., T, n + m] of a quadratic reward."""
    Q, R, N, q, r = (
        _timed(getattr(reward, name), own) for name, own in (("Q", 2), ("R", 2), ("N", 2), ("q", 1), ("r", 1))
    )
    shape = broadcast_shapes(Q.shape[:-2], R.shape[:-2], N.shape[:-2])
    Q, R, N = (part.expand(*shape, *part.shape[-2:]) for part in (Q, R, N))
    cost = torch.cat([torch.cat([Q, N], -1), torch.cat([N.mT, R], -1)], -2)
    shape = broadcast_shapes(q.shape[:-1], r.shape[:-1])
    return cost, torch.cat([part.expand(*shape, part.shape[-1]) for part in (q, r)], -1)
