"""Actions in a box as the image of unbounded numbers under tanh, with exact densities."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["draw_squashed", "log_squashed", "log_stretch", "place"]

LEAST, MOST = -5.0, 2.0  # of the log of a standard deviation in u-space
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


def log_stretch(u: Tensor) -> Tensor:
    """[...], the log of the derivative of tanh, summed over the last axis: no digit is lost however large u is."""
    return 2 * (math.log(2) * u.shape[-1] - (u + softplus(-2 * u)).sum(-1))


def draw_squashed(head: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions [B, d] in [-1, 1] of a tanh-Gaussian, and the log of their densities there [B].

    log pi(a) = log N(u) - sum 2 (log 2 - u - softplus(-2 u)), a = tanh u; gradients pass through both.

    Args:
        head: [B, 2 d], mean and log standard deviation of u, as a network gives them.
        noise: [B, d], normal numbers; zeros give the image of the mean.
    """
    mean, log_std = place(head)
    u = mean + log_std.exp() * noise
    return torch.tanh(u), _log_normal(log_std, noise) - log_stretch(u)


def log_squashed(head: Tensor, u: Tensor) -> Tensor:
    """[B], the log of the density on [-1, 1] of the actions tanh u [B, d], as `draw_squashed` draws them.

    Args:
        head: [B, 2 d].
        u: [B, d], before tanh, so that no digit of an action near the walls is lost.
    """
    mean, log_std = place(head)
    return _log_normal(log_std, (u - mean) * (-log_std).exp()) - log_stretch(u)


def place(head: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation of u [B, d] each, of a network's outputs [B, 2 d]."""
    mean, log_std = head.chunk(2, -1)
    return mean, log_std.clamp(LEAST, MOST)


def _log_normal(log_std: Tensor, noise: Tensor) -> Tensor:
    return -(0.5 * noise.square() + log_std).sum(-1) - HALF_LOG_TAU * noise.shape[-1]
