"""Actions in a box as the image of unbounded numbers under tanh, with exact densities."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

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

    def act(self, flat: Tensor, observations: Tensor, noise: Tensor) -> Tensor:
        """The same u [B, d] alone."""
        mean, deviation = place(self.network(flat, observations))
        return torch.addcmul(mean, deviation, noise)

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
    u, log_density = _Drawn.apply(head, noise)
    return u, log_density


class _Drawn(torch.autograd.Function):
    """Draws with their log densities, and the gradient by hand: autograd takes a node for each of twenty operations.

    With g, l the slopes of u and of log pi: as d log pi / du = 2 tanh u, the mean has slope h = g + 2 l tanh u, and the
    log of the standard deviation h sigma noise - l, or 0 where it is beyond its bounds.
    """

    @staticmethod
    def forward(ctx: Any, head: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = head.chunk(2, -1)
        inside = log_std.clamp(LEAST, MOST)
        deviation = inside.exp()
        u = torch.addcmul(mean, deviation, noise)
        ctx.save_for_backward(log_std, inside, deviation, u, noise)
        parts = torch.addcmul(inside, noise, noise, value=0.5).sub_(softplus(-2 * u).add_(u), alpha=2)
        return u, -(HALF_LOG_TAU + 2 * math.log(2)) * noise.shape[-1] - parts.sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_u: Tensor, of_log: Tensor) -> tuple[Tensor, None]:
        log_std, inside, deviation, u, noise = ctx.saved_tensors
        of_log = of_log.unsqueeze(-1)
        of_mean = torch.addcmul(of_u, of_log, torch.tanh(u), value=2)
        of_log_std = (of_mean * noise).mul_(deviation).sub_(of_log).mul_(inside == log_std)
        return torch.cat([of_mean, of_log_std], -1), None


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
