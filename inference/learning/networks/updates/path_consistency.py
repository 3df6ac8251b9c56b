"""Path consistency with networks: paths of any policy, from a buffer."""

from __future__ import annotations

import torch
from torch import Tensor

from cai.inference.learning.networks.experience.buffer import Batch, Buffer, flattened
from cai.inference.learning.networks.updates.brain import Lesson, Setting, Told
from cai.inference.learning.networks.updates.value_and_policy import ValueAndPolicy

__all__ = ["PathConsistencyNetworks"]


class PathConsistencyNetworks(ValueAndPolicy):
    """Makes -V(s_0) + gamma^n V(s_n) + sum_i gamma^i (r - alpha log pi/p) small in the square, on paths from a buffer.

    The value at the end of a path is that of a slow copy of the network (Nachum 2018, "Trust-PCL", section 4.3).

    Args:
        setting: what the networks are made for.
        generator: draws the first parameters.
        path_length: the most steps of a path.
    """

    def __init__(self, setting: Setting, generator: torch.Generator, path_length: int) -> None:
        super().__init__(setting, generator)
        self.path_length = path_length
        self._target = self._critic.flat.detach().clone()

    def lesson(self, buffer: Buffer, copies: int, generator: torch.Generator) -> Lesson | None:
        length = min(self.path_length, buffer.capacity // copies)
        if buffer.size < length * copies:
            return None
        return lambda number, draws: buffer.paths(number, length, copies, draws)

    def update(self, batch: Batch, generator: torch.Generator) -> Told:
        residual = self.residuals(batch)
        loss = 0.5 * residual.square().mean()
        self._critic.descend(loss, keep=True)
        self._actor.descend(loss)
        self._target.lerp_(self._critic.flat.detach(), self.setting.smoothing)
        with torch.no_grad():
            first = None if batch.allowed is None else batch.allowed[0]
            entropy = self.head.divergence(self._actor.flat, batch.observations[0], first, generator)[1]
        return Told(float(loss.detach()), float("nan"), float(entropy.mean()))

    def residuals(self, batch: Batch) -> Tensor:
        """[B], of paths [n, B] that end where an episode ends, reward units."""
        assert batch.ends is not None
        discount, length = self.setting.discount, len(batch.rewards)
        before = torch.cumprod(torch.cat([torch.ones_like(batch.ends[:1]), 1 - batch.ends[:-1]]), 0)
        weights = (
            before * discount ** torch.arange(length, dtype=before.dtype)[:, None]
        )  # gamma^i where step i is on the path
        flat = flattened(batch)
        ratio = self.head.log_ratio(self._actor.flat, flat.observations, flat.allowed, flat.actions)
        earned = batch.rewards - self.temperature.value * ratio.reshape(batch.rewards.shape)
        last = before * torch.cat([batch.ends[:-1], torch.ones_like(batch.ends[:1])])
        with torch.no_grad():
            worth = self.critic(self._target, flat.next_observations)[:, 0].reshape(last.shape)
            worth = discount * weights * last * (1 - batch.terminated) * worth
        begin = self.critic(self._critic.flat, batch.observations[0])[:, 0]
        return (weights * earned + worth).sum(0) - begin

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"target": self._target}
