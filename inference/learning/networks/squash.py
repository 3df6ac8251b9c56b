"""Actions in a box as the image of unbounded numbers under tanh, with exact densities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cai.inference.core.squashed import log_tanh_slope

__all__ = ["deviation_of", "draw_squashed"]

LEAST, MOST = -5.0, 2.0  # of the log of a standard deviation in u-space
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


def deviation_of(log_std: Tensor) -> Tensor:
    """The standard deviation of u, in [e^-5, e^2], of what a network gives for its log."""
    return log_std.clamp(LEAST, MOST).exp()


def draw_squashed(head: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions [B, d] in [-1, 1] of a tanh-Gaussian, and the log of their densities there [B].

    log pi(a) = log N(u) - sum 2 (log 2 - u - softplus(-2 u)), a = tanh u; gradients pass through both.

    Args:
        head: [B, 2 d], mean and log standard deviation of u, as a network gives them.
        noise: [B, d], normal numbers; zeros give the image of the mean.
    """
    mean, log_std = head.chunk(2, -1)
    deviation = deviation_of(log_std)
    u = mean + deviation * noise
    log_normal = -(0.5 * noise.square() + deviation.log()).sum(-1) - HALF_LOG_TAU * mean.shape[-1]
    return torch.tanh(u), log_normal - log_tanh_slope(u)
