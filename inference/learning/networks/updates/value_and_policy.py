"""A value network beside a policy network: what learners share that judge actions by the paths that they began."""

from __future__ import annotations

import torch
from torch import Tensor

from cai.inference.learning.networks.layers.flat import Adam
from cai.inference.learning.networks.layers.heads import head_of
from cai.inference.learning.networks.updates.brain import Setting
from cai.inference.learning.networks.updates.temperature import Target, Temperature

__all__ = ["ValueAndPolicy"]


class ValueAndPolicy:
    """V(o) and pi(a | o). The temperature is the world's.

    Args:
        setting: what the networks are made for.
        generator: draws the first parameters.
    """

    def __init__(self, setting: Setting, generator: torch.Generator) -> None:
        self.setting, self.head = setting, head_of(setting)
        self.actor = self.head.actor
        self.critic = setting.layers(0, 1)
        self._actor = Adam(self.actor.start(generator), setting.learning_rate)
        self._critic = Adam(self.critic.start(generator), setting.learning_rate)
        self.temperature = Temperature(setting.temperature, Target(), setting.learning_rate)

    def act(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            return self.head.draw(self._actor.flat, observations, allowed, generator)

    def uniform(self, number: int, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        return self.head.uniform(number, allowed, generator)

    def taken(self, kept: Tensor) -> Tensor:
        return self.head.taken(kept)

    def draw(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            kept = self.head.draw(self._actor.flat, observations, allowed, generator)
            return self.taken(kept), self.head.divergence(self._actor.flat, observations, allowed, generator)[0]

    def values(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            return self.critic(self._critic.flat, observations)[:, 0]

    def tensors(self) -> dict[str, Tensor]:
        found = self._actor.tensors("actor") | self._critic.tensors("critic")
        return found | {"temperature": self.temperature.state}

    def policy_tensors(self) -> dict[str, Tensor]:
        return {"actor": self._actor.flat.detach()}
