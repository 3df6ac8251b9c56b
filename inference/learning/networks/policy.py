"""The policy that networks have learned: acts on batches of observations, and is saved without code."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from cai.inference.core.squashed import Squashed
from cai.inference.core.storage import save, storable
from cai.inference.learning.networks.flat import Perceptron
from cai.inference.learning.networks.interface import Interface
from cai.inference.learning.networks.squash import deviation_of, draw_squashed

__all__ = ["LearnedPolicy"]


@storable("learned-policy")
@dataclass(frozen=True, eq=False)
class LearnedPolicy:
    """pi(a | o) by a network.

    Args:
        interface: how the network sees the world.
        sizes: of its layers.
        parameters: by name: "actor", [P]; or "critic", [P] of twin critics, whose smaller Q over the temperature are
            the logits.
        temperature: alpha, where the logits are values.
        log_prior: the action prior of discrete actions where it is not uniform; a function, which is never saved.
        source: the backend that it came from.
    """

    interface: Interface
    sizes: tuple[int, ...]
    parameters: dict[str, Tensor]
    temperature: float = 1.0
    log_prior: Any = None
    source: str = ""

    @property
    def horizon(self) -> float:
        """T of a model whose time it sees, math.inf else."""
        return self.interface.horizon

    def act(
        self,
        observations: Any,
        t: int = 0,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
        action_mask: Any = None,
    ) -> Tensor:
        """Actions in the world's units for observations [N, ...], or for one.

        Args:
            observations: as the world gives them; of a continuous model its states.
            t: the time index, of a continuous model over a finite horizon.
            generator: draws the actions; the global one unless given.
            deterministic: the image of the mean, or the most probable action, in place of a draw.
            action_mask: [N, A], not 0 where an action is available, as `info["action_mask"]` of a world tells it; all
                are unless given. For discrete actions alone.

        Returns:
            float64 [N, ...] in the box of actions, or int64 [N]; without the first axis for one observation.
        """
        rows, single = self._rows(observations, t)
        with torch.no_grad():
            if self.interface.num_actions:
                logits = self._logits(rows, action_mask)
                chosen = logits.argmax(-1) if deterministic else _drawn(logits, generator)
            else:
                head = Perceptron(self.sizes)(self.parameters["actor"], rows)
                noise = torch.randn(len(rows), len(self.interface.low), generator=generator, dtype=torch.float32)
                chosen = draw_squashed(head, torch.zeros_like(noise) if deterministic else noise)[0]
        actions = self.interface.to_world(chosen)
        return actions[0] if single else actions

    def log_prob(self, actions: Any, observations: Any, t: int = 0, *, action_mask: Any = None) -> Tensor:
        """Log pi(a | o) in nats [N], or of one; in a box a density in the world's units, -inf at its bounds.

        Args:
            actions: [N, ...] in the world's units.
            observations: [N, ...].
            t: the time index, of a continuous model over a finite horizon.
            action_mask: as for `act`.
        """
        rows, single = self._rows(observations, t)
        given = torch.as_tensor(np.asarray(actions))
        given = given[None] if single else given
        with torch.no_grad():
            if self.interface.num_actions:
                logs = torch.log_softmax(self._logits(rows, action_mask), -1)
                scores = logs.gather(1, given.reshape(-1, 1).long())[:, 0]
            else:
                scores = self._log_density(rows, given.double())
        return scores[0] if single else scores

    def _log_density(self, rows: Tensor, actions: Tensor) -> Tensor:
        mean, log_std = Perceptron(self.sizes)(self.parameters["actor"], rows).double().chunk(2, -1)
        normal = Independent(Normal(mean, deviation_of(log_std)), 1)
        return Squashed(normal, self.interface.low, self.interface.high).log_prob(actions.reshape(len(actions), -1))

    def _logits(self, rows: Tensor, action_mask: Any) -> Tensor:
        """[N, A], up to a constant; -inf where an action is not available."""
        if "actor" in self.parameters:
            scores = Perceptron(self.sizes)(self.parameters["actor"], rows)
        else:
            worth = Perceptron(self.sizes, copies=2)(self.parameters["critic"], rows)
            scores = torch.minimum(worth[0], worth[1]) / self.temperature
        scores = scores if self.log_prior is None else scores + self.log_prior(rows, rows)
        if action_mask is None:
            return scores
        return scores.masked_fill(torch.as_tensor(np.asarray(action_mask)).reshape(scores.shape) == 0, -math.inf)

    def _rows(self, observations: Any, t: int) -> tuple[Tensor, bool]:
        """float32 [N, n], and whether there was one observation."""
        seen = np.asarray(observations)
        width = len(self.interface.categories) or (self.interface.size - (self.horizon != math.inf))
        single = seen.size == width and (
            seen.ndim == 0 or (seen.ndim == 1 and (width > 1 or not self.interface.categories))
        )
        seen = seen[None] if single else seen
        if seen.reshape(len(seen), -1).shape[1] != width:
            raise ValueError(
                f"observations have shape {list(np.shape(observations))}; this policy sees {width} numbers each: [N, "
                f"{width}], or one of them"
            )
        if self.horizon != math.inf:
            clock = np.full((len(seen), 1), t / self.horizon)
            seen = np.concatenate([seen.reshape(len(seen), -1), clock], 1)
        return self.interface.rows(seen), single

    def save(self, path: str | Path) -> Path:
        """Writes it to a file that `cai.load` reads; returns the path.

        Raises:
            StorageError: if its action prior is a function, which no file can hold.
        """
        return save(path, self)

    def __repr__(self) -> str:
        acts = (
            f"{self.interface.num_actions} actions"
            if self.interface.num_actions
            else f"a box of {len(self.interface.low)}"
        )
        return f"{type(self).__name__}({acts}, layers={list(self.sizes)}, source={self.source!r})"


def _drawn(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)[:, 0]
