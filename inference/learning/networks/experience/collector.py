"""Copies of a world that are stepped by a learner, each reset with a seed of its own, and how they come back."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cai.inference.learning.networks.experience.interface import Interface, make_worlds
from cai.models.common.files import StorageError
from cai.models.environments.streams import reset_seed

__all__ = ["Collector", "CollectedStep"]


class CollectedStep(NamedTuple):
    """What N copies met in one step.

    Attributes:
        rows: float32 [N, width], as the buffer holds them.
        ended: episodes that ended, as (return, length) each.
        terminated: bool [N].
        ends: bool [N], terminated or truncated.
        rewards: float64 [N].
        following: float32 [N, n], what was seen at the end of the step, before any reset.
    """

    rows: Tensor
    ended: list[tuple[float, int]]
    terminated: Any
    ends: Any
    rewards: Any
    following: Tensor


class Collector:
    """N copies of a world.

    Args:
        world: the world.
        interface: how networks see it.
        number: N.
        seed: of the run: the reset of episode e in copy c has the seed of (seed, c, e).
        keeps_ends: whether rows say where episodes end.

    Attributes:
        observations: float32 [N, n], what is seen now.
        allowed: float32 [N, A], 1 where an action is available; None where that is not told.
    """

    def __init__(self, world: Any, interface: Interface, number: int, seed: int, *, keeps_ends: bool = False) -> None:
        self._keeps_ends = keeps_ends
        self.world, self.interface, self.number, self.seed = world, interface, number, seed
        self._worlds = make_worlds(world, number)
        self.episodes = np.zeros(number, dtype=np.int64)
        self.returns, self.lengths = np.zeros(number), np.zeros(number, dtype=np.int64)
        self._since: list[list[Any]] = [[] for _ in range(number)]  # the actions of each copy since its reset
        self._see(*self._worlds.reset(seed=self._seeds()))

    def _seeds(self) -> list[int]:
        return [reset_seed(self.seed, copy, int(self.episodes[copy])) for copy in range(self.number)]

    def _see(self, seen: Any, info: Any) -> None:
        self.observations, self.allowed = self.interface.rows(seen), self.interface.allowed(info)

    def step(self, actions: Tensor, kept: Tensor) -> CollectedStep:
        """Steps every copy once, and resets those whose episodes end.

        Args:
            actions: [N, d] in [-1, 1], or int64 [N].
            kept: the same actions as rows are to hold them.
        """
        before, allowed = self.observations, self.allowed
        taken = self.interface.to_world(actions).numpy()
        for since, action in zip(self._since, taken, strict=True):
            since.append(action)
        seen, rewards, terminated, truncated, info = self._worlds.step(taken)
        self._see(seen, info)
        following, next_allowed = self.observations, self.allowed
        ends = terminated | truncated
        self.returns += rewards
        self.lengths += 1
        ended = []
        if ends.any():
            ended = [(float(self.returns[copy]), int(self.lengths[copy])) for copy in np.flatnonzero(ends)]
            self.begin_anew(ends)
        with np.errstate(over="ignore"):
            numbers = np.stack([rewards, terminated], 1).astype(np.float32)
        if not np.isfinite(numbers.sum()):
            self._refuse_beyond(rewards, numbers[:, 0])
        parts = [before, kept.reshape(self.number, -1).float(), torch.from_numpy(numbers), following]
        if self._keeps_ends:
            parts.append(torch.from_numpy(ends[:, None].astype(np.float32)))
        if allowed is not None and next_allowed is not None:
            parts += [allowed, next_allowed]
        return CollectedStep(torch.cat(parts, 1), ended, terminated, ends, rewards, following)

    def _refuse_beyond(self, rewards: Any, kept: Any) -> None:
        """Raises ValueError if a reward has no number like it in float32."""
        lost = ~np.isfinite(kept)
        if lost.any():
            raise ValueError(
                f"{self.world.name} paid {rewards[lost][0]:g}, and networks compute in float32, up to 3.4e38; scale "
                "rewards and temperature alike, e.g. by gymnasium.wrappers.TransformReward"
            )

    def begin_anew(self, which: Any) -> None:
        """Resets some of the copies, whether their episodes have ended or not.

        Args:
            which: bool [N].
        """
        mask = np.asarray(which)
        self.episodes += mask
        self.returns[mask], self.lengths[mask] = 0.0, 0
        for copy in np.flatnonzero(mask):
            self._since[copy] = []
        self._see(*self._worlds.reset(seed=self._seeds(), options={"reset_mask": mask}))

    # ---- travelling ---------------------------------------------------------------------------------------------

    def stored(self) -> dict[str, Any]:
        """Everything that brings the copies back: what was drawn is in seeds and actions."""
        since = [np.stack(part) if part else np.zeros((0, *self.interface.shape)) for part in self._since]
        return {
            "episodes": torch.from_numpy(self.episodes.copy()),
            "returns": torch.from_numpy(self.returns.copy()),
            "lengths": torch.from_numpy(self.lengths.copy()),
            "observations": self.observations.clone(),
            "since": [torch.from_numpy(np.array(part)) for part in since],
        }

    def restore(self, stored: dict[str, Any], exact: bool) -> None:
        """Brings the copies back: resets with the same seeds, and takes the same actions again.

        Args:
            stored: what `stored` returned.
            exact: refuse where they do not come to the same observations; else begin new episodes there.

        Raises:
            StorageError: if the world is not where it was.
        """
        self.episodes, self.lengths = stored["episodes"].numpy().copy(), stored["lengths"].numpy().copy()
        self.returns = stored["returns"].numpy().copy()
        self._since = [list(part.numpy()) for part in stored["since"]]
        longest = max(map(len, self._since))
        seen, info = self._worlds.reset(seed=self._seeds())
        for at in range(longest):  # all end their last step together; those that begin late wait for their reset
            begin = np.array([longest - len(part) == at for part in self._since])
            if at and begin.any():
                seen, info = self._worlds.reset(seed=self._seeds(), options={"reset_mask": begin})
            waits = [longest - len(part) > at for part in self._since]
            taken = [
                self._any_action(info, copy) if waits[copy] else part[at - longest + len(part)]
                for copy, part in enumerate(self._since)
            ]
            seen, _, terminated, truncated, info = self._worlds.step(np.stack(taken))
            again = (terminated | truncated) & np.array(waits)
            if again.any():
                seen, info = self._worlds.reset(seed=self._seeds(), options={"reset_mask": again})
        late = np.array([not part for part in self._since]) & (longest > 0)
        if late.any():
            seen, info = self._worlds.reset(seed=self._seeds(), options={"reset_mask": late})
        self._see(seen, info)
        if torch.equal(self.observations, stored["observations"]):
            return
        if exact:
            raise StorageError(
                f"{self.world.name} does not come back to where the run was by its seed and its actions (something in "
                "it keeps what a reset should clear), so the run cannot go on to the same bits; cai.resume(folder, "
                "exact=False) goes on with new episodes"
            )
        self.episodes += 1
        self.returns, self.lengths = np.zeros(self.number), np.zeros(self.number, dtype=np.int64)
        self._since = [[] for _ in range(self.number)]
        self._see(*self._worlds.reset(seed=self._seeds()))

    def _any_action(self, info: Any, copy: int) -> Any:
        """What a copy can do whose steps do not count."""
        if self.interface.num_actions:
            mask = info.get("action_mask")
            return 0 if mask is None else int(np.argmax(mask[copy]))
        middle = (self.interface.low + self.interface.high) / 2
        return middle.numpy().reshape(self.interface.shape)

    def close(self) -> None:
        """Closes environments that were made here."""
        if getattr(self.world, "fixed_number", None) is None:
            self._worlds.close()
