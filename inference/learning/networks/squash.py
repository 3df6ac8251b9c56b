"""Actions in a box as the image of unbounded numbers under tanh, with exact densities."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["draw_squashed", "log_stretch", "squashed_log_density"]

LEAST, MOST = -5.0, 2.0  # of the log of a standard deviation in u-space
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
EDGE = 1e-6  # from the bounds of [-1, 1]: actions nearer to them, whose u is infinite, are taken as being there


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
    mean, log_std = head.chunk(2, -1)
    log_std = log_std.clamp(LEAST, MOST)
    u = mean + log_std.exp() * noise
    log_normal = -(0.5 * noise.square() + log_std).sum(-1) - HALF_LOG_TAU * mean.shape[-1]
    return torch.tanh(u), log_normal - log_stretch(u)


def squashed_log_density(head: Tensor, actions: Tensor) -> Tensor:
    """Log densities [B] on [-1, 1] of actions [B, d] that somebody took, under the tanh-Gaussian of `draw_squashed`.

    Args:
        head: [B, 2 d], mean and log standard deviation of u = atanh a, as a network gives them.
        actions: [B, d], in [-1, 1]; those at the bounds are moved inside by 1e-6.
    """
    mean, log_std = head.chunk(2, -1)
    log_std = log_std.clamp(LEAST, MOST)
    u = torch.atanh(actions.clamp(EDGE - 1, 1 - EDGE).double()).to(head)
    noise = (u - mean) / log_std.exp()
    log_normal = -(0.5 * noise.square() + log_std).sum(-1) - HALF_LOG_TAU * mean.shape[-1]
    return log_normal - log_stretch(u)
