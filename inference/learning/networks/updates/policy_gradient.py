"""Policy gradient with networks: soft advantages of the policy's own steps, which are then thrown away."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cai.inference.learning.networks.experience.buffer import Batch, Buffer, flattened
from cai.inference.learning.networks.updates.brain import Lesson, Setting, Told
from cai.inference.learning.networks.updates.value_and_policy import ValueAndPolicy

__all__ = ["Judged", "PolicyGradientNetworks", "soft_advantages"]


class Judged(NamedTuple):
    """Steps of the policy that took them, and what came of them.

    Attributes:
        observations: [B, n].
        actions: [B, ...], as they are kept.
        allowed: [B, A], 1 where an action is available, or None.
        log_ratio: [B], log pi/p of the action under the policy that took it.
        advantages: [B], reward units.
        returns: [B], lambda-returns, reward units.
    """

    observations: Tensor
    actions: Tensor
    allowed: Tensor | None
    log_ratio: Tensor
    advantages: Tensor
    returns: Tensor


def soft_advantages(
    batch: Batch, values: Tensor, following: Tensor, divergence: Tensor, alpha: float, discount: float, lam: float
) -> Tensor:
    """[L, N], sum_k (gamma lambda)^k delta_{t+k}, delta = r - alpha KL(pi || p)(s) + gamma V(s') - V(s).

    Schulman 2016, "High-dimensional continuous control using generalized advantage estimation", equation (16), with
    the soft reward r - alpha KL in place of r. A step that terminates is followed by value 0; one that was truncated,
    and the last of the rows, by V of its own last observation.

    Args:
        batch: steps [L, N] with `ends`.
        values: [L, N], V of what was observed.
        following: [L, N], V of what was observed next.
        divergence: [L, N], KL of the policy from the prior where the step began, nats.
        alpha: reward units a nat.
        discount: gamma.
        lam: lambda.
    """
    assert batch.ends is not None
    deltas = batch.rewards - alpha * divergence + discount * (1 - batch.terminated) * following - values
    goes_on = discount * lam * (1 - batch.ends)
    advantages, running = torch.empty_like(deltas), torch.zeros_like(deltas[0])
    for row in range(len(deltas) - 1, -1, -1):
        running = deltas[row] + goes_on[row] * running
        advantages[row] = running
    return advantages


class _Steps:
    """Judged steps in a random order, all of them before any comes again."""

    def __init__(self, judged: Judged) -> None:
        self._judged, self._order, self._at = judged, torch.zeros(0, dtype=torch.int64), 0

    def __call__(self, number: int, generator: torch.Generator) -> Judged:
        """The next steps, so many or all."""
        total = len(self._judged.returns)
        if self._at + number > len(self._order):
            self._order, self._at = torch.randperm(total, generator=generator), 0
        chosen = self._order[self._at : self._at + number]
        self._at += number
        return Judged._make(None if part is None else part[chosen] for part in self._judged)


class PolicyGradientNetworks(ValueAndPolicy):
    """Steps of the present policy are gathered until the buffer is full, learned from, and never used again.

    The gradient of the bound at a step is grad log pi(a | s) times the soft advantage of what came after the choice,
    less alpha times the gradient of KL(pi || p)(s), which is worked out over all actions and not from the one that was
    taken (Levine 2018, section 4.1). As the policy moves away from the one that took the steps, the first part is
    weighted by pi / pi_old, clipped (Schulman 2017b, "Proximal policy optimization algorithms", equation (7)).

    Args:
        setting: what the networks are made for.
        generator: draws the first parameters.
        gae_lambda: lambda.
        clip: how far pi / pi_old may leave 1 and still have a gradient.
    """

    def __init__(self, setting: Setting, generator: torch.Generator, gae_lambda: float, clip: float) -> None:
        super().__init__(setting, generator)
        self.gae_lambda, self.clip = gae_lambda, clip

    def lesson(self, buffer: Buffer, copies: int, generator: torch.Generator) -> Lesson | None:
        if buffer.total % buffer.capacity:
            return None
        batch = buffer.newest(buffer.capacity // copies, copies)
        flat = flattened(batch)
        shape = batch.rewards.shape
        with torch.no_grad():
            divergence = self.head.divergence(self._actor.flat, flat.observations, flat.allowed, generator)[0]
            log_ratio = self.head.log_ratio(self._actor.flat, flat.observations, flat.allowed, flat.actions)
            values = self.critic(self._critic.flat, flat.observations)[:, 0]
            following = self.critic(self._critic.flat, flat.next_observations)[:, 0]
            advantages = soft_advantages(
                batch,
                values.reshape(shape),
                following.reshape(shape),
                divergence.reshape(shape),
                self.temperature.value,
                self.setting.discount,
                self.gae_lambda,
            ).flatten()
        return _Steps(Judged(flat.observations, flat.actions, flat.allowed, log_ratio, advantages, values + advantages))

    def update(self, batch: Judged, generator: torch.Generator) -> Told:
        errors = self.critic(self._critic.flat, batch.observations)[:, 0] - batch.returns
        critic_loss = 0.5 * errors.square().mean()
        self._critic.descend(critic_loss)
        flat = self._actor.flat
        moved = self.head.log_ratio(flat, batch.observations, batch.allowed, batch.actions) - batch.log_ratio
        weight = moved.exp()
        gains = torch.minimum(weight * batch.advantages, weight.clamp(1 - self.clip, 1 + self.clip) * batch.advantages)
        divergence, entropy = self.head.divergence(flat, batch.observations, batch.allowed, generator)
        actor_loss = (self.temperature.value * divergence - gains).mean()
        self._actor.descend(actor_loss)
        return Told(float(critic_loss.detach()), float(actor_loss.detach()), float(entropy.detach().mean()))
