"""A temperature that is fixed, or learned so that the policy keeps a given entropy or divergence from the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cai.inference.core.storage import storable

__all__ = ["HIGHEST", "LOWEST", "Target", "Temperature"]

LOWEST, HIGHEST = 1e-4, 1e4  # of a learned temperature


@storable("temperature-target")
@dataclass(frozen=True)
class Target:
    """What a learned temperature is to bring about; at most one of both.

    Attributes:
        entropy: nats, of actions scaled to [-1, 1], or of a discrete policy; None for no such target.
        divergence: nats, the mean KL of the policy from the prior.
    """

    entropy: float | None = None
    divergence: float | None = None

    @property
    def learned(self) -> bool:
        """Whether there is a target."""
        return self.entropy is not None or self.divergence is not None


class Temperature:
    """alpha, in reward units a nat; Adam on its logarithm where it is learned.

    Args:
        first: alpha at the start.
        target: what it is to bring about.
        learning_rate: of log alpha.
    """

    def __init__(self, first: float, target: Target, learning_rate: float) -> None:
        self.target, self.rate = target, learning_rate
        self.state = torch.tensor([math.log(first), 0.0, 0.0, 0.0], dtype=torch.float64)  # log alpha, Adam, steps
        self.value = first

    def adapt(self, entropy: float, divergence: float) -> None:
        """Lowers alpha where the policy is more random than it should be, and raises it where it is less.

        Args:
            entropy: the mean of the policy's, nats.
            divergence: the mean KL from the prior, nats.
        """
        if self.target.entropy is not None:
            slope = entropy - self.target.entropy
        elif self.target.divergence is not None:
            slope = self.target.divergence - divergence
        else:
            return
        place, mean, square, count = self.state.tolist()
        count += 1
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        scale = math.sqrt(square / (1 - 0.999**count)) + 1e-8
        place -= self.rate * mean / (1 - 0.9**count) / scale
        place = min(max(place, math.log(LOWEST)), math.log(HIGHEST))
        self.state[:] = torch.tensor([place, mean, square, count], dtype=torch.float64)
        self.value = math.exp(place)

    def load(self, state: Tensor) -> None:
        """Goes on from a stored state."""
        self.state[:] = state
        if self.target.learned:
            self.value = math.exp(float(state[0]))

    @property
    def at_bound(self) -> bool:
        """Whether a learned alpha has run to a bound of its range."""
        return self.target.learned and float(self.state[0]) in (math.log(LOWEST), math.log(HIGHEST))
