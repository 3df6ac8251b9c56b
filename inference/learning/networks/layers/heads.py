"""Policy networks: how their outputs become a distribution over actions, numbered or in a box."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from cai.inference.learning.networks.experience.interface import draw_numbered
from cai.inference.learning.networks.layers.box_networks import box_network
from cai.inference.learning.networks.updates.brain import Setting, log_allowed, masked_mean

__all__ = ["BoxHead", "DiscreteHead", "Head", "head_of"]

DRAWN = 8  # actions whose mean stands for an expectation over a box


class Head(Protocol):
    """A policy network.

    Actions are written as a buffer keeps them: u [B, d] before tanh in a box, so that their densities lose no digit, or
    int64 [B]. `log_ratio` and `divergence` are relative to the action prior; in the entropy form to density, or weight,
    1: then they are log pi and minus the entropy.
    """

    actor: Any  # the network; its parameters are one flat tensor

    def draw(self, flat: Tensor, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        """Actions of the policy."""

    def uniform(self, number: int, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        """Actions that are uniform over what is available."""

    def taken(self, kept: Tensor) -> Tensor:
        """Actions in [-1, 1], or numbers, of those that are kept."""

    def log_ratio(self, flat: Tensor, observations: Tensor, allowed: Tensor | None, kept: Tensor) -> Tensor:
        """[B], log pi/p of actions that were taken."""

    def divergence(
        self, flat: Tensor, observations: Tensor, allowed: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """[B] each, KL(pi || p) and the policy's entropy, nats: exact, or an unbiased estimate in a box."""


class DiscreteHead:
    """pi(a | o) = softmax(f(o) + log p), exact expectations over actions.

    Args:
        setting: what the network is made for.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.actor = setting.numbered_policy()

    def rows(self, flat: Tensor, observations: Tensor, log_prior: Tensor) -> Tensor:
        """[B, A], log pi(a | o), -inf where an action is not available."""
        logs: Tensor = torch.log_softmax(self.actor(flat, observations) + log_prior, -1)
        return logs

    def draw(self, flat: Tensor, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        rows = self.rows(flat, observations, log_allowed(self.setting, observations, allowed))
        return draw_numbered(rows.exp(), generator)

    def uniform(self, number: int, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        weights = (
            torch.ones(number, self.setting.interface.num_actions, dtype=torch.float32) if allowed is None else allowed
        )
        return torch.multinomial(weights, 1, generator=generator)[:, 0]

    def taken(self, kept: Tensor) -> Tensor:
        return kept

    def log_ratio(self, flat: Tensor, observations: Tensor, allowed: Tensor | None, kept: Tensor) -> Tensor:
        log_prior = log_allowed(self.setting, observations, allowed)
        chosen = kept.reshape(-1, 1).long()
        return (self.rows(flat, observations, log_prior).gather(1, chosen) - log_prior.gather(1, chosen))[:, 0]

    def divergence(
        self, flat: Tensor, observations: Tensor, allowed: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        log_prior = log_allowed(self.setting, observations, allowed)
        rows = self.rows(flat, observations, log_prior)
        probs = rows.exp()
        return masked_mean(probs, rows - log_prior), -masked_mean(probs, rows)


class BoxHead:
    """a = tanh u, u of a network: normal, or latent normal numbers through a flow.

    Densities are those of actions scaled to [-1, 1], to which the box's volume adds a constant that the uniform prior
    takes away again, and the entropy form does not.

    Args:
        setting: what the network is made for.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting, self.dim = setting, setting.interface.action_size
        beneath = None if setting.beneath is None else setting.beneath.frozen()
        self.actor = box_network(setting.policy, setting.interface, setting.hidden_sizes, setting.network, beneath)
        # log pi - log p is the density on [-1, 1] and this; p is uniform, density 2^-d there, unless it is given
        self._constant = self.dim * math.log(2) - (setting.interface.log_volume if setting.entropy_form else 0.0)

    def sample(self, flat: Tensor, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Actions [B, d] in [-1, 1], logs of their densities there [B], and log pi / p [B], all with gradients."""
        u, log_density = self.actor.draw(flat, observations, noise)
        actions = torch.tanh(u)
        return actions, log_density, self._relative(log_density, observations, actions)

    def _relative(self, log_density: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        ratio = log_density + self._constant
        if self.setting.log_prior is None:
            return ratio
        return ratio - self.setting.log_prior(observations, actions)

    def draw(self, flat: Tensor, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(observations), self.dim, generator=generator, dtype=torch.float32)
        return self.actor.act(flat, observations, noise)

    def uniform(self, number: int, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        # the image under tanh of a logistic distribution of scale 1/2 is uniform
        drawn = torch.rand(number, self.dim, generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
        return (0.5 * torch.logit(drawn)).float()

    def taken(self, kept: Tensor) -> Tensor:
        return torch.tanh(kept)

    def log_ratio(self, flat: Tensor, observations: Tensor, allowed: Tensor | None, kept: Tensor) -> Tensor:
        return self._relative(self.actor.log_density(flat, observations, kept), observations, torch.tanh(kept))

    def divergence(
        self, flat: Tensor, observations: Tensor, allowed: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        noise = torch.randn(DRAWN * len(observations), self.dim, generator=generator, dtype=torch.float32)
        repeated = observations.repeat_interleave(DRAWN, 0)
        u, log_density = self.actor.draw(flat, repeated, noise)
        log_density = log_density + 0.5 * (noise.square() - 1).sum(-1)  # the normal's part is known in the mean
        ratio = self._relative(log_density, repeated, torch.tanh(u))
        return ratio.reshape(-1, DRAWN).mean(1), -log_density.reshape(-1, DRAWN).mean(1)


def head_of(setting: Setting) -> Head:
    """The policy network for a world."""
    return DiscreteHead(setting) if setting.interface.num_actions else BoxHead(setting)
