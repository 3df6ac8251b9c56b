"""Sums over the spectrum of W P, of which no digit is lost however small the tilt: log1p and what is near it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["half_log_det", "log_det_excess", "root_of"]

NEAR = 0.02  # below this size of theta W P sums are power series, whose error after eight terms is 1e-15 of the first
TERMS = 8


def half_log_det(product: Tensor, theta: Tensor, log_det: Tensor) -> Tensor:
    """log|I + theta W P| / (2 theta), the sum of log1p(theta lambda) / (2 theta); tr(W P) / 2 at theta = 0.

    Args:
        product: [..., n, n], W P.
        theta: [...].
        log_det: [...], log|I + theta W P| as a factorisation gives it, which loses digits where it is small.

    Returns:
        [...].
    """
    near = _near(product, theta)
    series = product.new_zeros(())
    if bool(near.any()):
        traces = _power_traces(product)
        for k in range(1, TERMS + 1):
            series = series + (-theta) ** (k - 1) * traces[k - 1] / (2 * k)
        if bool(near.all()):
            return series
    far = torch.where(near, torch.ones_like(theta), theta)
    return torch.where(near, series, torch.where(near, torch.zeros_like(log_det), log_det) / (2 * far))


def log_det_excess(product: Tensor, theta: Tensor, log_det: Tensor, shrunk: Tensor) -> Tensor:
    """The sum over the spectrum of log1p(x) - x / (1 + x), x = theta lambda(W P): log|I + X| + tr((I + X)^-1) - n.

    It is twice the KL of a Gaussian whose covariance was tilted from the one before, means apart, and never negative.

    Args:
        product: [..., n, n], W P.
        theta: [...].
        log_det: [...], log|I + theta W P|.
        shrunk: [..., n, n], (I + theta W P)^-1.

    Returns:
        [...].
    """
    near = _near(product, theta)
    direct = log_det + shrunk.diagonal(dim1=-2, dim2=-1).sum(-1) - product.shape[-1]
    if not bool(near.any()):
        return direct
    traces = _power_traces(product)
    series = sum(-((-theta) ** k) * traces[k - 1] * (1 / k - 1) for k in range(2, TERMS + 1))
    return torch.where(near, series, direct)


def _near(product: Tensor, theta: Tensor) -> Tensor:
    size = torch.linalg.vector_norm(product.detach(), dim=(-2, -1))
    return size * theta.detach().abs() < NEAR


def _power_traces(matrix: Tensor) -> list[Tensor]:
    """tr(Y), tr(Y^2), .., tr(Y^8)."""
    powers = [matrix, matrix @ matrix]
    powers += [powers[1] @ matrix, powers[1] @ powers[1]]
    traces = [matrix.diagonal(dim1=-2, dim2=-1).sum(-1)]
    for k in range(2, TERMS + 1):
        first, second = powers[k // 2 - 1], powers[k - k // 2 - 1]
        traces.append((first * second.mT).sum((-2, -1)))
    return traces


def root_of(covariance: Tensor) -> Tensor:
    """[..., n, n], U with U U' = covariance, which may be singular; without gradients."""
    values, vectors = torch.linalg.eigh(covariance.detach())
    return vectors * values.clamp(min=0).sqrt()[..., None, :]
