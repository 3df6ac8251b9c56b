"""Logarithms and sums that keep exact zeros, and whose gradients hold no NaN."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["categorical_divergence", "expectation", "safe_log", "safe_logsumexp", "weighted"]


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


def categorical_divergence(posterior: Tensor, prior: Tensor) -> Tensor:
    """KL(posterior || prior) along the last axis in nats, with 0 log 0 = 0."""
    return weighted(posterior, safe_log(posterior) - safe_log(prior)).sum(-1).clamp(min=0)
