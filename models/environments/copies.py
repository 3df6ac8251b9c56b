"""N copies of a model, moved together: what a vector environment asks of each kind of model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from cai.models.continuous.model import ContinuousModel
from cai.models.continuous.simulate import draw_step
from cai.models.continuous.world import World
from cai.models.environments.outcomes import Outcomes
from cai.models.environments.streams import Streams
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["ContinuousCopies", "Copies", "TableCopies"]

SLACK = 1e-6  # of the width of a box: what float32 may add to an action at its edge


class Copies(Protocol):
    """N copies of a model. States that have ended are not moved; `which` tells the copies that a call is about.

    Attributes:
        action_space: of one copy.
        horizon: T, or math.inf.
    """

    action_space: gymnasium.Space[Any]
    horizon: int | float

    def seed(self, seeds: int | Sequence[int | None] | None, which: np.ndarray) -> None:
        """Starts the random numbers of some copies anew; see `Streams.seed`."""

    def start(self, which: np.ndarray) -> np.ndarray:
        """[N, ...], first states; rows of other copies do not count."""

    def ended(self, states: np.ndarray) -> np.ndarray:
        """Bool [N], which states are terminal."""

    def actions(self, actions: Any, states: np.ndarray, which: np.ndarray) -> np.ndarray:
        """[N, ...], the actions of the copies that act, checked.

        Raises:
            TypeError, ValueError: naming the copy, if one is not an action that can be taken.
        """

    def move(
        self, states: np.ndarray, actions: np.ndarray, times: np.ndarray, which: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Next states [N, ...] and rewards float64 [N]; rows of other copies do not count."""

    def info(self, states: np.ndarray) -> dict[str, Any]:
        """What else is told of states [N, ...]."""


class TableCopies:
    """Copies of a `TrajectoryModel`: every draw is one operation for all of them.

    Args:
        model: the model.
        number: N.
    """

    def __init__(self, model: TrajectoryModel, number: int) -> None:
        self.model, self.number, self.horizon = model.host, number, model.horizon
        self._outcomes = Outcomes(model)
        self._streams = Streams(number)
        self.action_space: gymnasium.Space[Any] = spaces.Discrete(self._outcomes.num_actions)
        self._all_available = bool(self._outcomes.available.all())

    def seed(self, seeds: int | Sequence[int | None] | None, which: np.ndarray) -> None:
        self._streams.seed(seeds, which)

    def start(self, which: np.ndarray) -> np.ndarray:
        return self._outcomes.starts(self._streams.uniform(which))

    def ended(self, states: np.ndarray) -> np.ndarray:
        return ~self._outcomes.nonterminal[states]

    def actions(self, actions: Any, states: np.ndarray, which: np.ndarray) -> np.ndarray:
        given = np.asarray(actions)
        if given.shape != (self.number,) or given.dtype.kind not in "iu":
            raise TypeError(
                f"actions have shape {list(given.shape)} and dtype {given.dtype}; expected whole numbers "
                f"[{self.number}], one for each environment"
            )
        last = self._outcomes.num_actions - 1
        outside = which & ((given < 0) | (given > last))
        if outside.any():
            copy = int(np.flatnonzero(outside)[0])
            raise ValueError(f"environment {copy}: action {given[copy]} does not exist; actions are 0 to {last}")
        taken = np.where(which, given, 0).astype(np.int64, copy=False)
        if not self._all_available:
            missing = which & (self._outcomes.available[states, taken] == 0)
            if missing.any():
                copy = int(np.flatnonzero(missing)[0])
                mdp = self.model.mdp
                raise ValueError(
                    f"environment {copy}: action {mdp.action_name(int(taken[copy]))} is not available in state "
                    f"{mdp.state_name(int(states[copy]))}; info['action_mask'] says which are"
                )
        return taken

    def move(
        self, states: np.ndarray, actions: np.ndarray, times: np.ndarray, which: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        uniform = self._streams.uniform(None if which.all() else which)
        return self._outcomes.draw(states, actions, times, uniform)

    def info(self, states: np.ndarray) -> dict[str, Any]:
        return {"action_mask": self._outcomes.available[states]}


class ContinuousCopies:
    """Copies of a continuous model: one operation for all of them where nothing is random, else one after the other.

    Args:
        model: no batch.
        number: N.
    """

    def __init__(self, model: World, number: int) -> None:
        if model.batch_shape:
            raise ValueError(
                f"the model is a batch of shape {list(model.batch_shape)}; an environment is one problem: use "
                "model.member(0)"
            )
        self.model, self.number, self.horizon = model, number, model.horizon
        self._generators = [torch.Generator() for _ in range(number)]
        self.seed(None, np.ones(number, dtype=bool))
        self._fixed_start = isinstance(model, ContinuousModel) and isinstance(model.initial, Tensor)
        self._fixed_moves = isinstance(model, ContinuousModel) and model.is_deterministic
        low, high = _bounds(model)
        self.action_space: gymnasium.Space[Any] = spaces.Box(
            low.astype(np.float32), high.astype(np.float32), dtype=np.float32
        )

    def seed(self, seeds: int | Sequence[int | None] | None, which: np.ndarray) -> None:
        streams = Streams(self.number)
        streams.seed(seeds, which)
        first = (streams.uniform() * 2.0**53).astype(np.int64)
        for i in np.flatnonzero(which).tolist():
            if not isinstance(seeds, Sequence) or seeds[i] is not None:
                self._generators[i].manual_seed(int(first[i]))

    @torch.no_grad()
    def start(self, which: np.ndarray) -> np.ndarray:
        rows = np.zeros((self.number, self.model.state_dim))
        if self._fixed_start:
            rows[:] = self.model.reset(1)[0].numpy()
            return rows
        for i in np.flatnonzero(which):
            rows[i] = self.model.reset(1, self._generators[i])[0].numpy()
        return rows

    @torch.no_grad()
    def ended(self, states: np.ndarray) -> np.ndarray:
        ends = self.model.has_ended(torch.as_tensor(states))
        return np.zeros(len(states), dtype=bool) if ends is None else ends.numpy().copy()

    def actions(self, actions: Any, states: np.ndarray, which: np.ndarray) -> np.ndarray:
        given, dim = np.asarray(actions), self.model.action_dim
        if given.shape != (self.number, dim) or given.dtype.kind not in "fiu":
            raise TypeError(
                f"actions have shape {list(given.shape)} and dtype {given.dtype}; expected numbers "
                f"[{self.number}, {dim}], a row for each environment"
            )
        taken = given.astype(np.float64)
        box = self.action_space
        assert isinstance(box, spaces.Box)
        low, high = box.low.astype(np.float64), box.high.astype(np.float64)
        slack = np.where(np.isfinite(high - low), SLACK * (high - low), 0.0)
        wrong = which & ~((taken >= low - slack) & (taken <= high + slack) & np.isfinite(taken)).all(-1)
        if wrong.any():
            copy = int(np.flatnonzero(wrong)[0])
            raise ValueError(f"environment {copy}: action {taken[copy].tolist()} is outside the action space {box}")
        return np.where(which[:, None], np.clip(taken, low, high), 0.0)

    @torch.no_grad()
    def move(
        self, states: np.ndarray, actions: np.ndarray, times: np.ndarray, which: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        following, rewards = states.copy(), np.zeros(self.number)
        steps = times if self.horizon != math.inf else np.zeros_like(times)
        groups = [which & (steps == t) for t in np.unique(steps[which])]
        if not self._fixed_moves:
            groups = [np.arange(self.number) == i for i in np.flatnonzero(which)]
        for rows in groups:
            first = int(np.flatnonzero(rows)[0])
            here, taken = torch.as_tensor(states[rows]), torch.as_tensor(actions[rows])
            generator = None if self._fixed_moves else self._generators[first]
            moved, paid, _ = draw_step(self.model, here, taken, int(steps[first]), generator, falls=False)
            following[rows], rewards[rows] = moved.numpy(), paid.numpy()
        return following, rewards

    def info(self, states: np.ndarray) -> dict[str, Any]:
        return {}


@torch.no_grad()
def _bounds(model: World) -> tuple[np.ndarray, np.ndarray]:
    """[m], [m], the box in which the action prior has its mass, where that is a box and the same in every state."""
    without = np.full(model.action_dim, -np.inf), np.full(model.action_dim, np.inf)
    if model.is_flat:
        return without
    generator = torch.Generator().manual_seed(0)
    states = torch.cat([torch.zeros(1, model.state_dim, dtype=torch.float64), model.reset(3, generator)])
    support: Any = model.prior(states, 0).support
    support = getattr(support, "base_constraint", support)
    low, high = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    if not isinstance(low, Tensor) or not isinstance(high, Tensor):
        return without
    low, high = (part.expand(len(states), model.action_dim).double() for part in (low, high))
    if not bool((low == low[:1]).all() & (high == high[:1]).all()):
        return without
    return low[0].numpy(), high[0].numpy()
