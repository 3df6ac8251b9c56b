"""The optimality variable as a distribution, exact where torch's own Bernoulli would round."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["Optimality"]


class Optimality(TorchDistribution):
    """A Bernoulli over {0, 1} given by log p(O = 1), which may be 0 or -inf.

    `Bernoulli(probs=...)` clamps probabilities away from 0 and 1, and its logits lose log p near 0; here
    log_prob(1) is the very number given.

    Args:
        log_probability: log p(O = 1) <= 0, any batch shape.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.boolean
    has_enumerate_support = True

    def __init__(self, log_probability: Tensor, validate_args: bool | None = None) -> None:
        self.log_probability = log_probability
        super().__init__(log_probability.shape, torch.Size(), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Optimality:
        """A distribution with the larger batch shape."""
        return Optimality(self.log_probability.expand(torch.Size(batch_shape)), validate_args=False)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draws 0.0 or 1.0."""
        probability = self.log_probability.exp().expand(torch.Size(sample_shape) + self.batch_shape)
        return torch.bernoulli(probability.detach())

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(value)."""
        log_one = self.log_probability
        safe = torch.where(log_one < 0, log_one, torch.full_like(log_one, -1.0))
        log_zero = torch.where(log_one < 0, torch.log(-torch.expm1(safe)), torch.full_like(log_one, -torch.inf))
        return torch.where(torch.as_tensor(value) > 0.5, log_one, log_zero)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """[2, ...]: 0.0 and 1.0."""
        values = torch.arange(2, dtype=self.log_probability.dtype, device=self.log_probability.device)
        values = values.reshape((-1,) + (1,) * len(self.batch_shape))
        return values.expand((-1, *self.batch_shape)) if expand else values
