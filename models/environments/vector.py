"""Vector environments of models: N copies in one operation, which are reset by whoever uses them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from cai.models.environments.copies import Copies
from cai.models.environments.observers import Observer

__all__ = ["ModelVectorEnvironment"]


class ModelVectorEnvironment(VectorEnv[Any, Any, Any]):
    """N copies of a model side by side; see `cai.models.vector_environment`.

    Args:
        copies: of the model.
        observer: what is seen of its states.
        number: N.
        seed: of the first reset; copy i takes seed + i.
        max_episode_steps: episodes are cut after so many.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}  # type: ignore[misc]

    def __init__(
        self, copies: Copies, observer: Observer, number: int, seed: int | None, max_episode_steps: int | None
    ) -> None:
        super().__init__()
        self.num_envs = number
        self.single_observation_space, self.single_action_space = observer.space, copies.action_space
        self.observation_space = batch_space(observer.space, number)
        self.action_space = batch_space(copies.action_space, number)
        self._copies, self._see = copies, observer.see
        self._limit = max_episode_steps
        everyone = np.ones(number, dtype=bool)
        copies.seed(seed, everyone)
        self.times = np.zeros(number, dtype=np.int64)
        self._over = np.ones(number, dtype=bool)  # who has terminated, or was never reset
        self._begun = False
        self.states = copies.start(np.zeros(number, dtype=bool))  # right in shape and dtype

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts episodes; of copies that are not reset nothing changes, nor do their random numbers.

        Args:
            seed: a number, of which copy i takes seed + i; a list of one for each copy, None where its random numbers
                go on; or None, where all go on.
            options: {"reset_mask": bool [N]}, the copies to reset; all, unless given.

        Returns:
            Observations [N, ...] of all copies, and infos.
        """
        which = self._mask(options)
        if seed is not None:
            self._copies.seed(int(seed) if isinstance(seed, np.integer) else seed, which)
        fresh = self._copies.start(which)
        shaped = which.reshape(-1, *[1] * (fresh.ndim - 1))
        self.states = np.where(shaped, fresh, self.states)
        self.times = np.where(which, 0, self.times)
        self._over = np.where(which, self._copies.ended(self.states), self._over)
        self._begun = True
        return self._see(self.states, self.times), self._copies.info(self.states)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Moves every copy by one step.

        A copy that has terminated stays where it is until it is reset, and earns nothing.

        Args:
            actions: [N, ...].

        Returns:
            Observations [N, ...], rewards float64 [N], terminated and truncated bool [N], and infos.

        Raises:
            TypeError, ValueError: if an action cannot be taken, naming the copy; or before the first reset.
        """
        if not self._begun:
            raise ValueError("step before the first reset; call reset() first")
        acting = ~self._over
        taken = self._copies.actions(actions, self.states, acting)
        following, rewards = self._copies.move(self.states, taken, self.times, acting)
        if acting.all():
            self.states, self.times = following, self.times + 1
            self._over = self._copies.ended(following)
        else:
            self.states = np.where(acting.reshape(-1, *[1] * (following.ndim - 1)), following, self.states)
            rewards = np.where(acting, rewards, 0.0)
            self.times = self.times + acting
            self._over = self._over | self._copies.ended(self.states)
        self._over = self._over | (self.times >= self._copies.horizon)
        truncated = np.zeros(self.num_envs, dtype=bool)
        if self._limit is not None:
            truncated = (self.times >= self._limit) & ~self._over
        observations = self._see(self.states, self.times)
        return observations, rewards, self._over.copy(), truncated, self._copies.info(self.states)

    def _mask(self, options: dict[str, Any] | None) -> np.ndarray:
        """Bool [N], the copies to reset."""
        given = (options or {}).get("reset_mask")
        if given is None:
            return np.ones(self.num_envs, dtype=bool)
        mask = np.asarray(given)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise ValueError(
                f"options['reset_mask'] has shape {list(mask.shape)} and dtype {mask.dtype}; expected bool "
                f"[{self.num_envs}]"
            )
        if not self._begun and not mask.all():
            raise ValueError("the first reset is of all copies; leave reset_mask out")
        return mask
