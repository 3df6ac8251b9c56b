"""Networks that tell a policy's steps from those of demonstrations, and the rewards that they stand for.

    D = sigma(f - log pi(a | s)),   AIRL: f = g(s, a) + gamma h(s') - h(s)      (Fu, Luo and Levine 2018)
                                    GAIL: f = g(s, a)                           (Ho and Ermon 2016)

For GAIL that is any D(s, a): the policy is known, and g is what is left of log D / (1 - D), so that it need not follow
each move of the policy.

What follows the end of an episode is one absorbing state, which leads to itself by its only action, with a learned
reward c of its own, and h = 0: it is worth c / (1 - gamma) in all (Kostrikov et al. 2019). So a policy that ends too
early, or too late, is told from the demonstrations by that, and no reward of living steps needs to have a sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from cai.inference.learning.networks.experience.interface import Interface
from cai.inference.learning.networks.layers.flat import Perceptron
from cai.models.common.storage import storable

__all__ = ["Discriminator", "Steps"]

FARTHEST = 10.0  # standard deviations of what demonstrations show, beyond which inputs are cut off


@storable("adversarial-steps")
class Steps(NamedTuple):
    """Steps as networks see them.

    Attributes:
        observations: float32 [M, n].
        actions: [M, d], in [-1, 1], or numbers [M, 1].
        following: [M, n].
        ended: [M], 1 where the episode ended there, else 0; not where it was cut.
        weights: [M], how often each counts.
    """

    observations: Tensor
    actions: Tensor
    following: Tensor
    ended: Tensor
    weights: Tensor

    def drawn(self, rows: Tensor) -> Steps:
        """The steps of these numbers [B], each of weight 1."""
        parts = (self.observations[rows], self.actions[rows], self.following[rows], self.ended[rows])
        return Steps(*parts, torch.ones(len(rows)))


@storable("adversarial-discriminator")
@dataclass(frozen=True, eq=False)
class Discriminator:
    """The networks, without their parameters.

    Args:
        interface: how networks see the world.
        method: "airl" or "gail".
        hidden_sizes: of g and h; () for linear functions, which are tables of one-hot observations.
        gamma: the discount.
        state_only: whether g is of states alone.
        center: [n], of what demonstrations show; inputs are (o - center) / scale.
        scale: [n].
    """

    interface: Interface
    method: str
    hidden_sizes: tuple[int, ...]
    gamma: float
    state_only: bool
    center: Tensor
    scale: Tensor

    @property
    def of_reward(self) -> Perceptron:
        """G."""
        seen, number = self.interface.size, self.interface.num_actions
        if self.state_only:
            return Perceptron((seen, *self.hidden_sizes, 1))
        if number:
            return Perceptron((seen, *self.hidden_sizes, number))
        return Perceptron((seen + self.interface.action_size, *self.hidden_sizes, 1))

    @property
    def of_potential(self) -> Perceptron:
        """H."""
        return Perceptron((self.interface.size, *self.hidden_sizes, 1))

    def start(self, generator: torch.Generator) -> Tensor:
        """[P], first parameters: of g, of h (AIRL alone), and c, which is 0."""
        parts = [self.of_reward.start(generator)]
        if self.method == "airl":
            parts.append(self.of_potential.start(generator))
        return torch.cat([*parts, torch.zeros(1)])

    def reward(self, flat: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """[M], g in nats."""
        net = self.of_reward
        inputs = self._scaled(observations)
        if self.state_only:
            return net(flat[: net.number], inputs)[:, 0]
        if self.interface.num_actions:
            return net(flat[: net.number], inputs).gather(1, actions.reshape(-1, 1).long())[:, 0]
        return net(flat[: net.number], torch.cat([inputs, actions], 1))[:, 0]

    def potential(self, flat: Tensor, observations: Tensor) -> Tensor:
        """[M], h in nats; 0 for GAIL."""
        if self.method == "gail":
            return torch.zeros(len(observations))
        return self.of_potential(flat[self.of_reward.number : -1], self._scaled(observations))[:, 0]

    def score(self, flat: Tensor, steps: Steps) -> Tensor:
        """[M], f of steps, nats."""
        paid = self.reward(flat, steps.observations, steps.actions)
        if self.method == "gail":
            return paid
        later = self.gamma * (1 - steps.ended) * self.potential(flat, steps.following)
        return paid + later - self.potential(flat, steps.observations)

    def end_reward(self, flat: Tensor) -> Tensor:
        """c, a step in the absorbing state, nats; 0 without a discount, where no other number adds up."""
        return flat[-1] if self.gamma < 1 else torch.zeros(())

    def end_value(self, flat: Tensor) -> Tensor:
        """C / (1 - gamma), nats."""
        return flat[-1] / (1 - self.gamma) if self.gamma < 1 else torch.zeros(())

    def loss(self, flat: Tensor, shown: Steps, done: Steps, log_policy: tuple[Tensor, Tensor]) -> Tensor:
        """Minus the mean log probability of telling right: log 4 nats where D = 1/2 everywhere.

        -E_shown[log D] - E_done[log(1 - D)], where a step that ends an episode brings gamma / (1 - gamma) steps in the
        absorbing state along, whose f is c and log pi 0.

        Args:
            flat: [P].
            shown: steps of the demonstrations.
            done: steps of the policy.
            log_policy: log pi of both, [M] each.
        """
        total = torch.zeros(())
        for steps, logs, sign in ((shown, log_policy[0], 1.0), (done, log_policy[1], -1.0)):
            tail = self.tail * steps.weights * steps.ended
            right = steps.weights @ logsigmoid(sign * (self.score(flat, steps) - logs))
            right = right + tail.sum() * logsigmoid(sign * self.end_reward(flat))
            total = total - right / (steps.weights.sum() + tail.sum())
        return total

    @property
    def tail(self) -> float:
        """Steps in the absorbing state after an end, discounted from the step that led there."""
        return self.gamma / (1 - self.gamma) if self.gamma < 1 else 0.0

    def _scaled(self, observations: Tensor) -> Tensor:
        return ((observations - self.center) / self.scale).clamp(-FARTHEST, FARTHEST)
