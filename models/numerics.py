"""Logarithms and sums that keep exact zeros, and whose gradients hold no NaN."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "categorical_divergence",
    "certainty_equivalent",
    "divergence_from_ratio",
    "expectation",
    "safe_log",
    "safe_logsumexp",
    "weighted",
]

TINY_ETA = 1e-100  # below it even a spread of 1e90 moves no digit


def safe_log(values: Tensor) -> Tensor:
    """Log x for x >= 0: -inf at zero, with zero gradient there instead of NaN."""
    positive = values > 0
    ones = torch.ones_like(values)
    return torch.where(positive, torch.log(torch.where(positive, values, ones)), torch.full_like(values, -torch.inf))


def safe_logsumexp(values: Tensor, dim: int = -1) -> Tensor:
    """Log sum exp along `dim`; rows that are -inf throughout give -inf, with zero gradient instead of NaN."""
    shift = values.detach().amax(dim, keepdim=True)
    shift = torch.where(torch.isfinite(shift), shift, torch.zeros_like(shift))
    return safe_log((values - shift).exp().sum(dim)) + shift.squeeze(dim)


def weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Weights * values with 0 * (+-inf) = 0: what has no probability does not count, and gradients hold no NaN."""
    counts = weights > 0
    infinite = torch.isinf(values)
    product = weights * torch.where(counts & ~infinite, values, torch.zeros_like(values))
    return torch.where(counts & infinite, values.detach().expand_as(product), product)


def expectation(weights: Tensor, values: Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
    """Sum of weights * values along `dim`; -inf as soon as a value of -inf has positive weight."""
    weights, values = torch.broadcast_tensors(weights, values)
    return weighted(weights, values).sum(dim)


def certainty_equivalent(weights: Tensor, values: Tensor, eta: float) -> Tensor:
    """(1 / eta) log sum_k w_k e^{eta x_k} along the last axis, the mean as eta -> 0, the extremes as eta -> +-inf.

    Exact to rounding for every eta: for eta times spread below 1 it is the mean plus log1p of a sum of expm1 of the
    deviations, which cannot cancel; beyond, it is shifted by the extreme. A value of -inf with positive weight makes
    the result -inf for eta <= 0; for eta > 0 its weight is lost.

    Args:
        weights: [..., K], probabilities; rows sum to 1.
        values: [..., K], finite or -inf; broadcasts with the weights.
        eta: any number, +-inf included.

    Returns:
        [...], in the unit of the values.
    """
    weights, values = torch.broadcast_tensors(weights, values)
    possible = weights > 0
    counts = possible & torch.isfinite(values)
    zero = torch.zeros((), dtype=values.dtype)
    nothing = torch.full((), -torch.inf, dtype=values.dtype)
    shares = torch.where(counts, weights, zero)
    lost = torch.where(possible & ~counts, weights, zero).sum(-1)
    kept = shares.sum(-1)
    sign = 1.0 if eta >= 0 else -1.0
    extreme = sign * torch.where(counts, sign * values.detach(), nothing).amax(-1, keepdim=True)
    extreme = torch.where(torch.isfinite(extreme), extreme, zero)
    offsets = torch.where(counts, values - extreme, zero)
    hopeless = (kept == 0) | ((lost > 0) if eta <= 0 else torch.zeros_like(kept, dtype=torch.bool))
    if math.isinf(eta):
        at_extreme = counts & (offsets.detach() == 0)
        result = extreme[..., 0] + torch.where(at_extreme, offsets, zero).sum(-1) / at_extreme.sum(-1).clamp(min=1)
        return torch.where(hopeless, nothing, result)
    shares = shares / torch.where(kept > 0, kept, torch.ones_like(kept))[..., None]
    mean = (shares * offsets).sum(-1, keepdim=True)
    result = (extreme + mean)[..., 0]
    if abs(eta) > TINY_ETA:
        deviations = torch.where(counts, offsets - mean, zero)
        near = abs(eta) * deviations.detach().abs().amax(-1, keepdim=True) <= 1
        small = torch.expm1(eta * torch.where(near, deviations, zero))
        close = torch.log1p((shares * small).sum(-1))
        far = safe_log((shares * (eta * torch.where(counts, offsets, zero)).exp()).sum(-1)) - eta * mean[..., 0]
        result = result + torch.where(near[..., 0], close, far) / eta
    if eta > 0 and bool((lost > 0).any()):
        # Little lost is counted exactly from what was lost, much from what was kept.
        little = lost < 0.5
        remains = torch.where(little, torch.log1p(-torch.where(little, lost, zero)), safe_log(kept))
        result = result + torch.where((lost > 0) & ~hopeless, remains, zero) / eta
    return torch.where(hopeless, nothing, result)


def divergence_from_ratio(weights: Tensor, log_ratio: Tensor) -> Tensor:
    """KL(q || p) along the last axis from p and log(q / p): sum_k p_k (x e^x - e^x + 1), x = log(q_k / p_k).

    No term is negative, so nothing cancels, and a ratio that differs from 1 by 1e-12 still counts.

    Args:
        weights: [..., K], p.
        log_ratio: [..., K]; -inf where q is 0, 0 where p is.
    """
    near = log_ratio.abs() < 0.01
    x = torch.where(near, log_ratio, torch.zeros_like(log_ratio))
    series = x * x * (1 / 2 + x * (1 / 3 + x * (1 / 8 + x * (1 / 30 + x * (1 / 144 + x / 840)))))
    gone = torch.isinf(log_ratio) & (log_ratio < 0)
    y = torch.where(near | gone, torch.zeros_like(log_ratio), log_ratio)
    log_weights = safe_log(weights)
    moved = (log_weights + y).exp()  # q: the ratio alone may overflow
    direct = moved * y - moved + weights
    direct = torch.where(gone, weights.expand_as(direct), direct)
    return torch.where(near, weights * series, torch.where(weights > 0, direct, torch.zeros_like(direct))).sum(-1)


def categorical_divergence(posterior: Tensor, prior: Tensor) -> Tensor:
    """KL(posterior || prior) along the last axis in nats, with 0 log 0 = 0; inf where the prior rules q out."""
    posterior, prior = torch.broadcast_tensors(posterior, prior)
    both = (posterior > 0) & (prior > 0)
    ratio = safe_log(torch.where(both, posterior, torch.ones_like(posterior)))
    ratio = ratio - safe_log(torch.where(both, prior, torch.ones_like(prior)))
    ratio = torch.where((prior > 0) & ~both, torch.full_like(ratio, -torch.inf), ratio)
    divergence = divergence_from_ratio(prior, ratio)
    outside = ((posterior > 0) & (prior == 0)).any(-1)
    return torch.where(outside, torch.full_like(divergence, torch.inf), divergence)
