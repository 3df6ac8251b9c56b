"""A policy whose actions are latent normal numbers through a flow: several modes, and an exact density."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.squashed import log_tanh_slope

__all__ = ["FlowNetwork", "Frozen"]

BOUND = 2.0  # of the log of a scale of one coupling
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class Frozen:
    """A flow that was learned before, and learns no more.

    Attributes:
        network: the flow.
        flat: [P], its parameters.
    """

    network: FlowNetwork
    flat: Tensor


class FlowNetwork:
    """a = tanh f(z; o), z ~ N(0, I) anew in each step, f conditional couplings (real-valued non-volume preserving).

    Dinh 2017, "Density estimation using Real NVP", section 3.3, with observations as further inputs of every coupling:
    one half x_B of the coordinates becomes x_B exp s(x_A, o) + m(x_A, o), the other stays, and the halves take turns.
    As a policy: Levine 2018, section 5.3, and Haarnoja 2018, "Latent space policies for hierarchical reinforcement
    learning". Scales are bounded, |s| < 2, so that f has an inverse in floats. The last layers begin as 0: f is then
    the identity, or that of the flow beneath.

    Args:
        size: n, of an observation.
        dim: d >= 2, of an action; couplings of one coordinate would be a normal distribution again.
        make: makes the network (further inputs, outputs) of a coupling.
        sizes: of the layers of such a network as far as all have them.
        couplings: how many.
        beneath: a flow through which what comes out here goes on; with z ~ N(0, I) here, the policy is the one beneath.
    """

    def __init__(
        self,
        size: int,
        dim: int,
        make: Callable[[int, int], Any],
        sizes: tuple[int, ...],
        *,
        couplings: int = 4,
        beneath: Frozen | None = None,
    ) -> None:
        self.size, self.dim, self.sizes, self.beneath = size, dim, sizes, beneath
        first = list(range(dim // 2)), list(range(dim // 2, dim))
        self._halves = [first if i % 2 == 0 else first[::-1] for i in range(couplings)]
        self._networks = [make(len(kept), 2 * len(moved)) for kept, moved in self._halves]

    @property
    def number(self) -> int:
        """Of all parameters that learn."""
        return sum(network.number for network in self._networks)

    def start(self, generator: torch.Generator) -> Tensor:
        """[P], first parameters: f is the identity."""
        parts = []
        for network in self._networks:
            drawn = network.start(generator)
            weight, bias = network.layers(drawn)[-1]
            weight.zero_(), bias.zero_()
            parts.append(drawn)
        return torch.cat(parts)

    def forward(self, flat: Tensor, observations: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Places u [B, d] of z [B, d], and log|det du/dz| [B]."""
        x, total = z, z.new_zeros(len(z))
        for part, network, (kept, moved) in self._couplings(flat):
            shift, log_scale = _shift_and_log_scale(network(part, torch.cat([observations, x[:, kept]], 1)))
            x = _joined(x, kept, moved, x[:, moved] * log_scale.exp() + shift)
            total = total + log_scale.sum(1)
        if self.beneath is None:
            return x, total
        u, further = self.beneath.network.forward(self.beneath.flat.to(x), observations, x)
        return u, total + further

    def inverse(self, flat: Tensor, observations: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Latent z [B, d] of u [B, d], and log|det du/dz| [B]."""
        x, total = u, u.new_zeros(len(u))
        if self.beneath is not None:
            x, total = self.beneath.network.inverse(self.beneath.flat.to(u), observations, u)
        for part, network, (kept, moved) in reversed(list(self._couplings(flat))):
            shift, log_scale = _shift_and_log_scale(network(part, torch.cat([observations, x[:, kept]], 1)))
            x = _joined(x, kept, moved, (x[:, moved] - shift) * (-log_scale).exp())
            total = total + log_scale.sum(1)
        return x, total

    def draw(self, flat: Tensor, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws u [B, d] by normal numbers [B, d], and the log density of tanh u on [-1, 1] [B]; with gradients."""
        u, stretched = self.forward(flat, observations, noise)
        return u, _log_normal(noise) - stretched - log_tanh_slope(u)

    def act(self, flat: Tensor, observations: Tensor, noise: Tensor) -> Tensor:
        """The same u [B, d] alone."""
        return self.forward(flat, observations, noise)[0]

    def log_density(self, flat: Tensor, observations: Tensor, u: Tensor) -> Tensor:
        """[B], the log of the density on [-1, 1] of the actions tanh u [B, d]."""
        z, stretched = self.inverse(flat, observations, u)
        return _log_normal(z) - stretched - log_tanh_slope(u)

    def _couplings(self, flat: Tensor) -> Any:
        parts = flat.split([network.number for network in self._networks])
        return zip(parts, self._networks, self._halves, strict=True)


def _shift_and_log_scale(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Shifts and logs of scales, of a network's outputs."""
    shift, raw = outputs.chunk(2, -1)
    return shift, BOUND * torch.tanh(raw / BOUND)


def _joined(x: Tensor, kept: list[int], moved: list[int], new: Tensor) -> Tensor:
    """X with other values in the moved coordinates; the halves are the first and the last ones."""
    return torch.cat([x[:, kept], new] if kept < moved else [new, x[:, kept]], 1)


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * z.square().sum(-1) - HALF_LOG_TAU * z.shape[-1]
