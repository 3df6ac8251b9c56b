"""A vector environment whose observations and rewards are numbers, or it says where they stopped being so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

__all__ = ["CheckedVectorEnvironment"]

if TYPE_CHECKING:
    _Wrapper = VectorWrapper[Any, Any, Any, Any, Any]
else:
    _Wrapper = VectorWrapper  # generic since Gymnasium 1.4


class CheckedVectorEnvironment(_Wrapper):
    """Passes everything on, and refuses observations and rewards that are NaN or infinite.

    Whole numbers count from 0 outside, and from the environment's own `start` inside.

    Args:
        env: a vector environment in mode DISABLED.
        observation_space: of one copy, in place of the environment's own.
        action_space: the same of actions.
        name: of the world, for messages.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], observation_space: Any, action_space: Any, name: str) -> None:
        from gymnasium.vector.utils import batch_space

        super().__init__(env)
        self._first_seen, self._first_action = (
            np.asarray(getattr(space, "start", 0)) for space in (env.single_observation_space, env.single_action_space)
        )
        self.single_observation_space = observation_space
        self.observation_space = batch_space(observation_space, env.num_envs)
        self.single_action_space = action_space
        self.action_space = batch_space(action_space, env.num_envs)
        self._name = name
        self._steps = np.zeros(env.num_envs, dtype=np.int64)
        self._episodes = np.full(env.num_envs, -1, dtype=np.int64)
        self._floats = np.issubdtype(env.single_observation_space.dtype, np.floating)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """See `gymnasium.vector.VectorEnv.reset`; the options are left as they are.

        Raises:
            ValueError: if an observation is not finite, naming environment and episode.
        """
        given = None if options is None else dict(options)
        mask = np.ones(self.num_envs, dtype=bool) if given is None else given.get("reset_mask")
        mask = np.ones(self.num_envs, dtype=bool) if mask is None else np.asarray(mask)
        observations, infos = self.env.reset(seed=seed, options=given)
        self._steps = np.where(mask, 0, self._steps)
        self._episodes = self._episodes + mask
        self._check(observations, None)
        return self._counted(observations), infos

    def _counted(self, observations: np.ndarray) -> np.ndarray:
        """The same from 0."""
        return observations - self._first_seen if self._first_seen.any() else observations

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """See `gymnasium.vector.VectorEnv.step`; actions are in the environment's units.

        Raises:
            ValueError: if an observation or a reward is not finite, naming step, environment and episode.
        """
        taken = np.asarray(actions, dtype=self.single_action_space.dtype)
        if self._first_action.any():
            taken = taken + self._first_action
        observations, rewards, terminated, truncated, infos = self.env.step(taken)
        self._check(observations, rewards)
        self._steps += 1
        return self._counted(observations), rewards, terminated, truncated, infos

    def _check(self, observations: np.ndarray, rewards: Any) -> None:
        """Raises ValueError if a number is not finite."""
        if self._floats and not np.isfinite(observations.sum(dtype=np.float64)):  # finite numbers may overflow a sum
            self._refuse(np.isfinite(observations).reshape(self.num_envs, -1).all(-1), "observation", observations)
        if rewards is not None and not np.isfinite(rewards.sum()):
            self._refuse(np.isfinite(rewards), "reward", rewards)

    def _refuse(self, fine: np.ndarray, what: str, found: Any) -> None:
        if fine.all():
            return
        copy = int(np.flatnonzero(~fine)[0])
        values = np.ravel(found[copy])
        value = values[~np.isfinite(values)][0]
        advice = (
            "mend the environment, or end the episode before this happens"
            if what == "observation" or value != -np.inf
            else "what is forbidden is no number to learn from: pay a large finite penalty, or end the episode"
        )
        raise ValueError(
            f"{self._name}: {what} {value} at step {self._steps[copy]} of episode {self._episodes[copy]} in "
            f"environment {copy} (all counted from 0); {advice}"
        )
