"""Soft Q-learning in a box of actions: a soft backup over uniform actions, and a network that draws from exp(Q)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cai.inference.core.squashed import log_tanh_slope
from cai.inference.core.status import NotKnown
from cai.inference.learning.networks.experience.buffer import Batch
from cai.inference.learning.networks.layers.flat import Adam
from cai.inference.learning.networks.updates.brain import Replaying, Setting, Told
from cai.inference.learning.networks.updates.temperature import Target, Temperature
from cai.inference.learning.svgd import stein_direction

__all__ = ["SteinNetworks"]

JUDGED = 256  # actions that stand for the box where a state is valued


class SteinNetworks(Replaying):
    """Q towards r + gamma V(s'), V = alpha log E_p exp(Q / alpha), and a sampler of p exp((Q - V) / alpha).

    Haarnoja 2017, "Reinforcement learning with deep energy-based policies", equations (10) to (14). The expectation in
    V is a mean over uniform actions, weighted by the prior where that is not uniform. Q is the mean of two critics: the
    smaller would be low wherever little was tried, so that a mode once lost would stay lost. The sampler is a network
    a = tanh f(o, noise), whose particles in u-space move by Stein's direction.

    Args:
        setting: what the networks are made for.
        generator: draws the first parameters.
        num_particles: K, actions of a set, which repel each other.
        particle_sets: observations of a batch for which there is a set.
        value_samples: M, uniform actions of an observation.
    """

    has_density = False

    def __init__(
        self,
        setting: Setting,
        generator: torch.Generator,
        num_particles: int,
        particle_sets: int,
        value_samples: int,
    ) -> None:
        interface = setting.interface
        self.setting, self.dim = setting, interface.action_size
        self.num_particles, self.particle_sets, self.value_samples = num_particles, particle_sets, value_samples
        self.actor = setting.layers(self.dim, self.dim)
        self.critic = setting.layers(self.dim, 1, copies=2)
        self._actor = Adam(self.actor.start(generator), setting.learning_rate)
        self._critic = Adam(self.critic.start(generator), setting.learning_rate)
        self._target = self._critic.flat.detach().clone()
        self.temperature = Temperature(setting.temperature, Target(), setting.learning_rate)
        # V holds the entropy where that is added: the mean over uniform actions is an integral over the volume
        self._constant = setting.temperature * interface.log_volume if setting.entropy_form else 0.0

    def act(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            noise = torch.randn(len(observations), self.dim, generator=generator, dtype=torch.float32)
            return torch.tanh(self.actor(self._actor.flat, torch.cat([observations, noise], 1)))

    def draw(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        unknown = torch.full((len(observations),), math.nan)  # a network that is no bijection has no density at hand
        return self.act(observations, allowed, generator), unknown

    def log_policy_of(self, observations: Tensor, actions: Tensor, allowed: Tensor | None) -> Tensor:
        raise NotKnown("densities", "the sampler of 'stein-soft-q-learning'", "ask 'soft-actor-critic'")

    def update(self, batch: Batch, generator: torch.Generator) -> Told:
        with torch.no_grad():
            soft = self._soft(self._target, batch.next_observations, self.value_samples, generator)
            wanted = batch.rewards + self.setting.discount * (1 - batch.terminated) * soft
        errors = self.critic(self._critic.flat, torch.cat([batch.observations, batch.actions], 1))[..., 0] - wanted
        loss = 0.5 * errors.square().mean(1).sum()
        self._critic.descend(loss)
        self._move_particles(batch.observations[: self.particle_sets], generator)
        self._target.lerp_(self._critic.flat.detach(), self.setting.smoothing)
        return Told(0.5 * float(loss.detach()), math.nan, math.nan)

    def _move_particles(self, observations: Tensor, generator: torch.Generator) -> None:
        """A step of the sampler: its particles towards exp(Q / alpha) |da / du|, and apart."""
        repeated = observations.repeat_interleave(self.num_particles, 0)
        noise = torch.randn(len(repeated), self.dim, generator=generator, dtype=torch.float32)
        particles = self.actor(self._actor.flat, torch.cat([repeated, noise], 1))
        at = particles.detach().requires_grad_()
        score = self._log_weights(self._critic.flat.detach(), repeated, torch.tanh(at)) + log_tanh_slope(at)
        (slopes,) = torch.autograd.grad(score.sum(), at)
        shape = (len(observations), self.num_particles, self.dim)
        direction = stein_direction(at.detach().reshape(shape), slopes.reshape(shape)).reshape(-1, self.dim)
        self._actor.descend(-(particles * direction).sum(-1).mean())

    def _log_weights(self, flat: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """[B], log of exp(Q / alpha) p(a) over the uniform density."""
        scores = self._worth(flat, observations, actions) / self.temperature.value
        if self.setting.log_prior is None:
            return scores
        return scores + self.setting.log_prior(observations, actions)

    def _soft(self, flat: Tensor, observations: Tensor, number: int, generator: torch.Generator) -> Tensor:
        """[B], alpha log E_p exp(Q / alpha), a mean over so many uniform actions."""
        actions = 2 * torch.rand(number * len(observations), self.dim, generator=generator, dtype=torch.float32) - 1
        scores = self._log_weights(flat, observations.repeat_interleave(number, 0), actions).reshape(-1, number)
        return self.temperature.value * (torch.logsumexp(scores, 1) - math.log(number)) + self._constant

    def tensors(self) -> dict[str, Tensor]:
        found = self._actor.tensors("actor") | self._critic.tensors("critic")
        return found | {"target": self._target, "temperature": self.temperature.state}

    def policy_tensors(self) -> dict[str, Tensor]:
        return {"actor": self._actor.flat.detach(), "critic": self._critic.flat.detach()}

    def values(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            return self._soft(self._critic.flat, observations, JUDGED, generator)

    def q_values(self, observations: Tensor, actions: Tensor) -> Tensor:
        with torch.no_grad():
            return self._worth(self._critic.flat, observations, actions)

    def _worth(self, flat: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """[B], the mean of both critics."""
        found: Tensor = self.critic(flat, torch.cat([observations, actions], 1))[..., 0].mean(0)
        return found
