"""What acts and learns: networks with their updates. The contract, and what all of them share."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from cai.inference.learning.networks.buffer import Batch
from cai.inference.learning.networks.interface import Interface, LogPrior
from cai.inference.learning.networks.temperature import Target, Temperature

__all__ = ["Brain", "Setting", "Told", "log_allowed", "masked_mean"]


class Setting(NamedTuple):
    """What networks are made for.

    Attributes:
        interface: how they see the world.
        hidden_sizes: of the layers between input and output.
        learning_rate: of Adam.
        discount: gamma.
        temperature: alpha at the start.
        target: of a learned temperature.
        log_prior: the action prior; None where it is uniform.
        entropy_form: whether entropy is added, instead of the KL from the prior.
        smoothing: tau, by how much target networks follow at each update.
    """

    interface: Interface
    hidden_sizes: tuple[int, ...]
    learning_rate: float
    discount: float
    temperature: float
    target: Target
    log_prior: LogPrior | None
    entropy_form: bool
    smoothing: float


class Told(NamedTuple):
    """What an update tells: losses of critic (squared reward units) and actor (reward units), entropy (nats)."""

    critic_loss: float
    actor_loss: float
    entropy: float


class Brain(Protocol):
    """Networks that act and learn."""

    temperature: Temperature

    def act(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        """Actions drawn by the policy: [N, d] in [-1, 1], or int64 [N]."""

    def draw(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Actions as `act` draws them, and [N] nats that the bound pays: log pi/p, or its mean where that is exact."""

    def log_policy_of(self, observations: Tensor, actions: Tensor, allowed: Tensor | None) -> Tensor:
        """[N] nats, log pi/p (log pi in the entropy form) of actions [N, d] in [-1, 1], or numbers [N, 1]."""

    def update(self, batch: Batch, generator: torch.Generator) -> Told:
        """One step of every network on a batch."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything that it learned by name, the tensors themselves."""

    def policy_tensors(self) -> dict[str, Tensor]:
        """What acting needs."""

    def values(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """[N], what its critic says that observations are worth, reward units."""

    def q_values(self, observations: Tensor, actions: Tensor) -> Tensor:
        """[N], what its critic says that actions, as `act` returns them, are worth."""


def log_allowed(setting: Setting, observations: Tensor, allowed: Tensor | None) -> Tensor:
    """[N, A], log p(a | s) of discrete actions, -inf where one is not available; 0 for all in the entropy form."""
    number = setting.interface.num_actions
    if allowed is not None:  # where an episode is over nothing may be available, and nothing is asked
        allowed = torch.where(allowed.sum(-1, keepdim=True) > 0, allowed, torch.ones_like(allowed))
    if setting.log_prior is not None:
        found = setting.log_prior(observations, observations)
        if allowed is not None:
            found = torch.log_softmax(found.masked_fill(allowed == 0, -torch.inf), -1)
        return found
    weights = torch.ones(len(observations), number) if allowed is None else allowed
    logs = weights.log()
    return logs if setting.entropy_form else logs - weights.sum(-1, keepdim=True).log()


def masked_mean(weights: Tensor, values: Tensor) -> Tensor:
    """[...], the sum of weights times values over the last axis, where 0 times an infinite number is 0."""
    return torch.where(weights > 0, weights * values.masked_fill(weights == 0, 0.0), 0.0).sum(-1)
