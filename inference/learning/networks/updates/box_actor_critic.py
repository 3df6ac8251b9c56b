"""Soft actor-critic in a box of actions: a policy with a density and twin critics."""

from __future__ import annotations

import torch
from torch import Tensor

from cai.inference.learning.networks.experience.buffer import Batch
from cai.inference.learning.networks.layers.flat import Adam
from cai.inference.learning.networks.layers.heads import BoxHead
from cai.inference.learning.networks.updates.brain import Replaying, Setting, Told
from cai.inference.learning.networks.updates.temperature import Temperature

__all__ = ["BoxActorCritic"]

EDGE = 1e-6  # actions nearer than this to the bounds of [-1, 1], whose u is infinite, are taken as being there
DRAWN = 16  # actions that stand for the policy where a state is valued


class BoxActorCritic(Replaying):
    """Q(s, a) of the policy, the smaller of two; and a policy whose actions are worth much and little likely.

    Haarnoja 2018b, "Soft actor-critic algorithms and applications", equations (5) to (18), relative to the action
    prior: log pi/p in place of log pi.

    Args:
        setting: what the networks are made for.
        generator: draws the first parameters.
    """

    def __init__(self, setting: Setting, generator: torch.Generator) -> None:
        interface = setting.interface
        self.setting, self.dim = setting, interface.action_size
        self.head = BoxHead(setting)
        self.actor = self.head.actor
        self.critic = setting.layers(self.dim, 1, copies=2)
        self._actor = Adam(self.actor.start(generator), setting.learning_rate)
        self._critic = Adam(self.critic.start(generator), setting.learning_rate)
        self._target = self._critic.flat.detach().clone()
        self.temperature = Temperature(setting.temperature, setting.target, setting.learning_rate)

    def act(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            return self.head.taken(self.head.draw(self._actor.flat, observations, allowed, generator))

    def draw(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            noise = torch.randn(len(observations), self.dim, generator=generator, dtype=torch.float32)
            actions, _, ratio = self.head.sample(self._actor.flat, observations, noise)
            return actions, ratio

    def log_policy_of(self, observations: Tensor, actions: Tensor, allowed: Tensor | None) -> Tensor:
        with torch.no_grad():
            u = torch.atanh(actions.clamp(EDGE - 1, 1 - EDGE).double()).float()
            return self.head.log_ratio(self._actor.flat, observations, allowed, u)

    def update(self, batch: Batch, generator: torch.Generator) -> Told:
        setting, alpha = self.setting, self.temperature.value
        noise = torch.randn(2, len(batch.rewards), self.dim, generator=generator, dtype=torch.float32)
        with torch.no_grad():
            following, _, ratio = self.head.sample(self._actor.flat, batch.next_observations, noise[0])
            worth = self.critic(self._target, torch.cat([batch.next_observations, following], 1))
            soft = _smaller(worth) - alpha * ratio
            wanted = batch.rewards + setting.discount * (1 - batch.terminated) * soft
        errors = self.critic(self._critic.flat, torch.cat([batch.observations, batch.actions], 1)).squeeze(-1) - wanted
        critic_loss = 0.5 * errors.square().mean(1).sum()
        self._critic.descend(critic_loss)
        actions, log_density, ratio = self.head.sample(self._actor.flat, batch.observations, noise[1])
        # the critics' weights take no gradient here, only their inputs do
        worth = self.critic(self._critic.flat.detach(), torch.cat([batch.observations, actions], 1))
        actor_loss = (alpha * ratio - _smaller(worth)).mean()
        self._actor.descend(actor_loss)
        entropy = -float(log_density.detach().mean())
        self.temperature.adapt(entropy, float(ratio.detach().mean()) if setting.target.divergence is not None else 0.0)
        self._target.lerp_(self._critic.flat.detach(), setting.smoothing)
        return Told(0.5 * float(critic_loss.detach()), float(actor_loss.detach()), entropy)

    def tensors(self) -> dict[str, Tensor]:
        found = self._actor.tensors("actor") | self._critic.tensors("critic")
        return found | {"target": self._target, "temperature": self.temperature.state}

    def policy_tensors(self) -> dict[str, Tensor]:
        found = {"actor": self._actor.flat.detach()}
        return found if self.setting.policy != "flow" else found | {"critic": self._critic.flat.detach()}

    def values(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            repeated = observations.repeat_interleave(DRAWN, 0)
            noise = torch.randn(len(repeated), self.dim, generator=generator, dtype=torch.float32)
            actions, _, ratio = self.head.sample(self._actor.flat, repeated, noise)
            worth = self.q_values(repeated, actions) - self.temperature.value * ratio
            return worth.reshape(-1, DRAWN).mean(1)

    def q_values(self, observations: Tensor, actions: Tensor) -> Tensor:
        with torch.no_grad():
            worth = self.critic(self._critic.flat, torch.cat([observations, actions], 1))
            return _smaller(worth)


def _smaller(worth: Tensor) -> Tensor:
    """[B], the smaller of two critics [2, B, 1]."""
    return torch.minimum(*worth.squeeze(-1).unbind())
