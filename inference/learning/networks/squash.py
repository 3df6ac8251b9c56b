"""Actions in a box as the image of unbounded numbers under tanh, with exact densities."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.squashed import log_tanh_slope

__all__ = ["GaussianNetwork", "OneNetwork", "draw_squashed", "log_squashed"]

LEAST, MOST = -5.0, 2.0  # of the log of a standard deviation in u-space
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class OneNetwork:
    """A policy in a box whose parameters are those of one network.

    Args:
        network: of parameters in one tensor [P] and inputs.
        sizes: of its layers, as far as they are known.
    """

    def __init__(self, network: Any, sizes: tuple[int, ...]) -> None:
        self.network, self.sizes = network, sizes

    def start(self, generator: torch.Generator) -> Tensor:
        """[P], first parameters."""
        found: Tensor = self.network.start(generator)
        return found


class GaussianNetwork(OneNetwork):
    """a = tanh u, u normal; the network turns observations [B, n] into its means and logs of deviations [B, 2 d]."""

    def draw(self, flat: Tensor, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws u [B, d] by normal numbers [B, d], and the log density of tanh u on [-1, 1] [B]; with gradients."""
        return draw_squashed(self.network(flat, observations), noise)

    def log_density(self, flat: Tensor, observations: Tensor, u: Tensor) -> Tensor:
        """[B], the log of the density on [-1, 1] of the actions tanh u [B, d]."""
        return log_squashed(self.network(flat, observations), u)


def deviation_of(log_std: Tensor) -> Tensor:
    """The standard deviation of u, in [e^-5, e^2], of what a network gives for its log."""
    return log_std.clamp(LEAST, MOST).exp()


def draw_squashed(head: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draws u [B, d] of a tanh-Gaussian, and the log of the densities of the actions tanh u on [-1, 1] [B].

    log pi(a) = log N(u) - sum 2 (log 2 - u - softplus(-2 u)), a = tanh u; gradients pass through both.

    Args:
        head: [B, 2 d], mean and log standard deviation of u, as a network gives them.
        noise: [B, d], normal numbers; zeros give the image of the mean.
    """
    mean, deviation = place(head)
    u = mean + deviation * noise
    return u, _log_normal(deviation, noise) - log_tanh_slope(u)


def log_squashed(head: Tensor, u: Tensor) -> Tensor:
    """[B], the log of the density on [-1, 1] of the actions tanh u [B, d], as `draw_squashed` draws them.

    Args:
        head: [B, 2 d].
        u: [B, d], before tanh, so that no digit of an action near the walls is lost.
    """
    mean, deviation = place(head)
    return _log_normal(deviation, (u - mean) / deviation) - log_tanh_slope(u)


def place(head: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of u [B, d] each, of a network's outputs [B, 2 d]."""
    mean, log_std = head.chunk(2, -1)
    return mean, deviation_of(log_std)


def _log_normal(deviation: Tensor, noise: Tensor) -> Tensor:
    return -(0.5 * noise.square() + deviation.log()).sum(-1) - HALF_LOG_TAU * noise.shape[-1]
