"""Actions as the image of unbounded numbers: densities on a box, exact to the last digit.

With u in R^m and a = low + (high - low) (tanh u + 1) / 2 the density of an action is

    log q(a) = log q(u) - sum 2 (log 2 - u - softplus(-2 u)) - sum log((high - low) / 2),

in which no digit is lost however near an action comes to the bounds, as long as u is kept.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

__all__ = ["Squashed", "log_tanh_slope"]


def log_tanh_slope(u: Tensor) -> Tensor:
    """[...], the log of the derivative of tanh at u [..., m], summed over the last axis."""
    return 2 * (math.log(2) * u.shape[-1] - (u + softplus(-2 * u)).sum(-1))


class Squashed(TorchDistribution):
    """The law of a = low + (high - low) (tanh u + 1) / 2 for a law of u; of u itself without bounds.

    Args:
        base: of u, event shape [m].
        low: [m]; None where actions are unbounded.
        high: [m].
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, base: Any, low: Tensor | None = None, high: Tensor | None = None) -> None:
        self.base, self.low, self.high = base, low, high
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        """Whether gradients pass through draws."""
        return bool(self.base.has_rsample)

    @property
    def support(self) -> Any:
        """The box, or R^m."""
        if self.low is None:
            return constraints.real_vector
        return constraints.independent(constraints.interval(self.low, self.high), 1)

    def rsample_u(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draws of u [*sample_shape, ..., m] through which gradients pass."""
        drawn: Tensor = self.base.rsample(sample_shape)
        return drawn

    def sample_u(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draws of u [*sample_shape, ..., m]."""
        with torch.no_grad():
            drawn: Tensor = self.base.sample(sample_shape)
            return drawn

    def to_action(self, u: Tensor) -> Tensor:
        """The action [..., m] of u, strictly within the bounds."""
        if self.low is None or self.high is None:
            return u
        action = self.low + (self.high - self.low) * (torch.tanh(u) + 1) / 2
        inner = torch.nextafter(self.low, self.high), torch.nextafter(self.high, self.low)
        return torch.minimum(torch.maximum(action, inner[0]), inner[1])

    def to_u(self, action: Tensor) -> Tensor:
        """U [..., m] of an action; infinite at the bounds, NaN beyond them."""
        if self.low is None or self.high is None:
            return action
        above, below = action - self.low, self.high - action
        return (above.log() - below.log()) / 2

    def log_prob_u(self, u: Tensor) -> Tensor:
        """[...], log q(a) in nats of the action that u stands for."""
        score: Tensor = self.base.log_prob(u)
        if self.low is None or self.high is None:
            return score
        return score - log_tanh_slope(u) - ((self.high - self.low) / 2).log().sum(-1)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draws [*sample_shape, ..., m] through which gradients pass."""
        return self.to_action(self.rsample_u(sample_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draws [*sample_shape, ..., m]."""
        return self.to_action(self.sample_u(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """[...], log q(a) in nats; -inf at the bounds and beyond. Where u is known, `log_prob_u` loses no digit."""
        if self.low is None or self.high is None:
            return self.log_prob_u(value)
        inside = ((value > self.low) & (value < self.high)).all(-1)
        safe = torch.where(inside[..., None], value, (self.low + self.high) / 2)
        found = self.log_prob_u(self.to_u(safe))
        return torch.where(inside, found, torch.full_like(found, -torch.inf))
