"""Soft actor-critic and soft Q-learning with discrete actions: exact expectations over actions."""

from __future__ import annotations

import torch
from torch import Tensor

from cai.inference.learning.networks.experience.buffer import Batch
from cai.inference.learning.networks.experience.interface import draw_numbered
from cai.inference.learning.networks.layers.flat import Adam
from cai.inference.learning.networks.layers.heads import DiscreteHead
from cai.inference.learning.networks.updates.brain import Replaying, Setting, Told, log_allowed, masked_mean
from cai.inference.learning.networks.updates.temperature import Temperature

__all__ = ["DiscreteActorCritic", "DiscreteSoftQ"]


class _Discrete(Replaying):
    """Twin critics [2, N, A] with slow copies, and what follows from any log policy [N, A]."""

    def __init__(self, setting: Setting, generator: torch.Generator) -> None:
        self.setting = setting
        self.critic = setting.layers(0, setting.interface.num_actions, copies=2)
        self._critic = Adam(self.critic.start(generator), setting.learning_rate)
        self._target = self._critic.flat.detach().clone()
        self.temperature = Temperature(setting.temperature, setting.target, setting.learning_rate)

    def log_policy(self, observations: Tensor, log_prior: Tensor) -> Tensor:
        """[N, A], log pi(a | s), -inf where an action is not available."""
        raise NotImplementedError

    def act(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            rows = self.log_policy(observations, log_allowed(self.setting, observations, allowed)).exp()
            return draw_numbered(rows, generator)

    def draw(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            log_prior = log_allowed(self.setting, observations, allowed)
            rows = self.log_policy(observations, log_prior)
            chosen = draw_numbered(rows.exp(), generator)
            return chosen, masked_mean(rows.exp(), rows - log_prior)

    def log_policy_of(self, observations: Tensor, actions: Tensor, allowed: Tensor | None) -> Tensor:
        with torch.no_grad():
            log_prior = log_allowed(self.setting, observations, allowed)
            rows = self.log_policy(observations, log_prior) - log_prior.masked_fill(log_prior == -torch.inf, 0.0)
            return rows.gather(1, actions.reshape(-1, 1).long())[:, 0]

    def _learn_critic(self, batch: Batch, soft: Tensor) -> float:
        """A step of the critics towards r + gamma V(s'); the mean of their losses."""
        wanted = batch.rewards + self.setting.discount * (1 - batch.terminated) * soft
        worth = self.critic(self._critic.flat, batch.observations)
        taken = batch.actions.long().expand(2, -1, -1)
        errors = worth.gather(2, taken)[..., 0] - wanted
        loss = 0.5 * errors.square().mean(1).sum()
        self._critic.descend(loss)
        self._target.lerp_(self._critic.flat.detach(), self.setting.smoothing)
        return 0.5 * float(loss.detach())

    def _worth(self, flat: Tensor, observations: Tensor) -> Tensor:
        """[N, A], the smaller Q."""
        worth = self.critic(flat, observations)
        return torch.minimum(worth[0], worth[1])

    def _soft(self, worth: Tensor, log_policy: Tensor, log_prior: Tensor) -> Tensor:
        """[N], E_pi[Q - alpha log pi/p]."""
        probs = log_policy.exp()
        return masked_mean(probs, worth - self.temperature.value * (log_policy - log_prior))

    def values(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            log_prior = log_allowed(self.setting, observations, allowed)
            rows = self.log_policy(observations, log_prior)
            return self._soft(self._worth(self._critic.flat, observations), rows, log_prior)

    def q_values(self, observations: Tensor, actions: Tensor) -> Tensor:
        with torch.no_grad():
            return self._worth(self._critic.flat, observations).gather(1, actions.reshape(-1, 1).long())[:, 0]

    def tensors(self) -> dict[str, Tensor]:
        found = self._critic.tensors("critic")
        return found | {"target": self._target, "temperature": self.temperature.state}

    def policy_tensors(self) -> dict[str, Tensor]:
        return {"critic": self._critic.flat.detach(), "temperature": self.temperature.state}


class DiscreteActorCritic(_Discrete):
    """Q of the policy, and a policy network that moves to p exp(Q / alpha); Christodoulou 2019."""

    def __init__(self, setting: Setting, generator: torch.Generator) -> None:
        super().__init__(setting, generator)
        self.head = DiscreteHead(setting)
        self.actor = self.head.actor
        self._actor = Adam(self.actor.start(generator), setting.learning_rate)

    def log_policy(self, observations: Tensor, log_prior: Tensor) -> Tensor:
        return self.head.rows(self._actor.flat, observations, log_prior)

    def update(self, batch: Batch, generator: torch.Generator) -> Told:
        following = log_allowed(self.setting, batch.next_observations, batch.next_allowed)
        with torch.no_grad():
            rows = self.log_policy(batch.next_observations, following)
            soft = self._soft(self._worth(self._target, batch.next_observations), rows, following)
        critic_loss = self._learn_critic(batch, soft)
        log_prior = log_allowed(self.setting, batch.observations, batch.allowed)
        with torch.no_grad():
            worth = self._worth(self._critic.flat, batch.observations)
        rows = self.log_policy(batch.observations, log_prior)
        loss = -self._soft(worth, rows, log_prior).mean()
        self._actor.descend(loss)
        probs, logs = rows.detach().exp(), rows.detach()
        entropy, divergence = (
            -float(masked_mean(probs, logs).mean()),
            float(masked_mean(probs, logs - log_prior).mean()),
        )
        self.temperature.adapt(entropy, divergence)
        return Told(critic_loss, float(loss.detach()), entropy)

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | self._actor.tensors("actor")

    def policy_tensors(self) -> dict[str, Tensor]:
        return {"actor": self._actor.flat.detach()}


class DiscreteSoftQ(_Discrete):
    """Q towards r + gamma V(s'), V = alpha log sum_a p exp(Q / alpha); the policy is p exp((Q - V) / alpha).

    The smaller of two critics stands in V, which else grows by the noise of Q (Fujimoto 2018, section 4.2).
    """

    def log_policy(self, observations: Tensor, log_prior: Tensor) -> Tensor:
        worth = self._worth(self._critic.flat, observations)
        return torch.log_softmax(worth / self.temperature.value + log_prior, -1)

    def update(self, batch: Batch, generator: torch.Generator) -> Told:
        alpha = self.temperature.value
        following = log_allowed(self.setting, batch.next_observations, batch.next_allowed)
        with torch.no_grad():
            worth = self._worth(self._target, batch.next_observations)
            soft = alpha * torch.logsumexp(worth / alpha + following, -1)
            rows = self.log_policy(batch.observations, log_allowed(self.setting, batch.observations, batch.allowed))
            entropy = -float(masked_mean(rows.exp(), rows).mean())
        return Told(self._learn_critic(batch, soft), float("nan"), entropy)
