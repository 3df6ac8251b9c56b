"""What a step of a backward pass multiplies and adds, whatever the values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cai.inference.kernels.outcome_sums import OutcomeSums

__all__ = ["BLOCK", "Constants", "Shift"]

BLOCK = 2**18  # numbers of a block of states, 2 MiB of float64: what lies between two operations stays in the cache

Shift = float | Tensor  # one number, or [B]


@dataclass(frozen=True, eq=False)
class Constants:
    """Those of one step, or of all steps that are alike.

    Attributes:
        rewards: [S, A] or [S, A, B], the part of the reward that outcomes do not change.
        scale: nats in a unit of them.
        prior: log p(a|s) in nats, [S, A] or [S, A, B], or one number.
        sums: over outcomes.
    """

    rewards: Tensor
    scale: float
    prior: Tensor | float
    sums: OutcomeSums

    @cached_property
    def row_largest(self) -> Tensor:
        """[S] or [S, B], the largest rho + log prior of each state, 0 where there is none."""
        result = self.rewards.new_empty((len(self.rewards), *self.rewards.shape[2:]))
        start = 0
        for scores in self._scores():
            torch.amax(scores, 1, out=result[start : start + len(scores)])
            start += len(scores)
        if not isinstance(self.prior, Tensor):
            result.mul_(self.scale).add_(self.prior)
        return result.masked_fill_(torch.isinf(result), 0.0)

    @cached_property
    def largest(self) -> Shift:
        """The largest rho + log prior of all, 0 where there is none: one number, or [B]."""
        result = torch.stack([scores.amax((0, 1)) for scores in self._scores()]).amax(0)
        if not isinstance(self.prior, Tensor):
            result = result * self.scale + self.prior
        if result.dim() == 0:
            return float(result) if math.isfinite(float(result)) else 0.0
        return result.masked_fill(torch.isinf(result), 0.0)

    def _scores(self) -> Iterator[Tensor]:
        """Rho + log prior by blocks of states; rewards where all have one prior."""
        width = self.rewards[0].numel()
        parts = self.rewards.split(max(1, BLOCK // width))
        if not isinstance(self.prior, Tensor):
            yield from parts
            return
        for rewards, prior in zip(parts, self.prior.split(max(1, BLOCK // width)), strict=True):
            yield rewards * self.scale + prior
