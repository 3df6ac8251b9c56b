"""A learner's networks whose rewards come from a discriminator that learns along with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.inference.learning.networks.experience.buffer import Batch, Columns
from cai.inference.learning.networks.layers.flat import Adam
from cai.inference.learning.networks.updates.brain import Replaying, Told
from cai.inverse.adversarial.discriminator import Discriminator, Steps

__all__ = ["AdversarialBrain", "steps_of"]

RUNNING = 0.01  # by how much the mean loss that is told follows the last one


class AdversarialBrain(Replaying):
    """What a learner's networks do, and at each update a step of the discriminator, whose rewards replace the world's.

    What is paid counts the policy's entropy once: a learner that adds entropy by itself gets f, one that does not gets
    f - log pi. In either case what it maximises is E[sum gamma^t (f - log pi)] = E[sum gamma^t log D / (1 - D)].

    Args:
        inner: the learner's networks, which learn from single steps, in the entropy form at temperature 1.
        adds_entropy: whether they add entropy to what they are paid.
        discriminator: its networks.
        shown: the demonstrations.
        learning_rate: of the discriminator.
        recent: the last so many steps stand for the policy.
        generator: draws the discriminator's first parameters.
    """

    def __init__(
        self,
        inner: Any,
        adds_entropy: bool,
        discriminator: Discriminator,
        shown: Steps,
        learning_rate: float,
        recent: int,
        generator: torch.Generator,
    ) -> None:
        self.inner, self.adds_entropy, self.discriminator, self.shown = inner, adds_entropy, discriminator, shown
        self._judge = Adam(discriminator.start(generator), learning_rate)
        interface = discriminator.interface
        self._columns = Columns(interface.size, interface.action_size, 0)
        self._ring, self._count = torch.zeros(recent, self._columns.width), torch.zeros(1, dtype=torch.int64)
        self._loss = torch.zeros(2)  # sum and number of recent losses, the past fading
        self.temperature = inner.temperature

    def __getattr__(self, name: str) -> Any:
        if "inner" not in self.__dict__:  # while it is being copied
            raise AttributeError(name)
        return getattr(self.__dict__["inner"], name)

    @property
    def flat(self) -> Tensor:
        """[P], the discriminator's parameters."""
        return self._judge.flat.detach()

    @property
    def loss(self) -> float:
        """The discriminator's, over its last hundred or so steps; log 4 where it knows no better than a coin."""
        return float(self._loss[0] / self._loss[1])

    def watch(self, rows: Tensor) -> None:
        """Takes note of steps that the policy just took, rows as a buffer holds them.

        Raises:
            ValueError: if an action was not available, of which demonstrations tell nothing.
        """
        if not bool(rows[:, self._columns.width :].all()):
            raise ValueError(
                "in this world some actions are not always available, and demonstrations do not say which; make all of "
                "them available (one that can do nothing may stay where it is), or use cai.inverse.fit on its tables"
            )
        places = (int(self._count) + torch.arange(len(rows))) % len(self._ring)
        self._ring[places] = rows[:, : self._columns.width]
        self._count += len(rows)

    def update(self, batch: Batch, generator: torch.Generator) -> Told:
        """A step of the discriminator on recent steps, then one of the learner, paid by what it now says."""
        count = len(batch.rewards)
        drawn = torch.multinomial(self.shown.weights, count, replacement=True, generator=generator)
        shown = self.shown.drawn(drawn)
        recent = min(int(self._count), len(self._ring))
        done = steps_of(self._ring[torch.randint(recent, (count,), generator=generator)], self._columns)
        logs = [self.inner.log_policy_of(steps.observations, steps.actions, None) for steps in (shown, done)]
        loss = self.discriminator.loss(self._judge.flat, shown, done, (logs[0], logs[1]))
        self._judge.descend(loss)
        self._loss.lerp_(torch.tensor([float(loss.detach()), 1.0]), RUNNING)
        return self.inner.update(batch._replace(rewards=self.paid(batch)), generator)

    @torch.no_grad()
    def paid(self, batch: Batch) -> Tensor:
        """[B] nats, what the learner is paid for steps, with all that follows the ends of episodes."""
        steps = Steps(
            batch.observations, batch.actions, batch.next_observations, batch.terminated, torch.ones_like(batch.rewards)
        )
        tail = self.discriminator.gamma * steps.ended * self.discriminator.end_value(self.flat)
        score = self.discriminator.score(self.flat, steps) + tail
        if self.adds_entropy:
            return score
        return score - self.inner.log_policy_of(steps.observations, steps.actions, batch.allowed)

    def act(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        return self.inner.act(observations, allowed, generator)

    def draw(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.inner.draw(observations, allowed, generator)

    def log_policy_of(self, observations: Tensor, actions: Tensor, allowed: Tensor | None) -> Tensor:
        return self.inner.log_policy_of(observations, actions, allowed)

    def tensors(self) -> dict[str, Tensor]:
        own = {"loss": self._loss, "recent": self._ring, "count": self._count}
        named = {f"discriminator.{name}": part for name, part in own.items()}
        return self.inner.tensors() | self._judge.tensors("discriminator") | named

    def policy_tensors(self) -> dict[str, Tensor]:
        return self.inner.policy_tensors()

    def values(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        found: Tensor = self.inner.values(observations, allowed, generator)
        return found


def steps_of(rows: Tensor, columns: Columns) -> Steps:
    """Rows of a buffer [M, width], as steps of weight 1."""
    sizes = [columns.observation, columns.action, 1, 1, columns.observation]
    seen, acted, _, ended, following = rows[:, : columns.width].split(sizes, 1)
    return Steps(seen, acted, following, ended[:, 0], torch.ones(len(rows)))
