"""A vector environment that tells all that learners ask for, in numbers, or says where it stopped doing so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import Env, Wrapper
from gymnasium.vector import VectorEnv, VectorWrapper

__all__ = ["CheckedEnvironment", "CheckedVectorEnvironment"]

if TYPE_CHECKING:
    _Wrapper = VectorWrapper[Any, Any, Any, Any, Any]
    _One = Wrapper[Any, Any, Any, Any]
else:
    _Wrapper = VectorWrapper  # generic since Gymnasium 1.4
    _One = Wrapper


class CheckedEnvironment(_One):
    """One environment, which is refused with a sentence where what it returns has another form than Gymnasium's.

    A vector would fail as it writes that into its arrays, and say nothing of where.

    Args:
        env: the environment.
        name: of the world, for messages.
    """

    def __init__(self, env: Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self._name, self._shape = name, env.observation_space.shape

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """See `gymnasium.Env.reset`.

        Raises:
            ValueError: if it returns something else than (observation, info), or an observation of another shape.
        """
        told = self.env.reset(seed=seed, options=options)
        self._check(told, "reset", ("observation", "info"))
        return told

    def step(self, action: Any) -> Any:
        """See `gymnasium.Env.step`.

        Raises:
            ValueError: if it returns something else than five parts, an observation of another shape, or a reward that
                is no number.
        """
        told: Any = self.env.step(action)
        self._check(told, "step", ("observation", "reward", "terminated", "truncated", "info"))
        if np.ndim(told[1]) or not _is_number(told[1]):
            what = f"an array of shape {list(np.shape(told[1]))}" if np.ndim(told[1]) else repr(told[1])
            raise ValueError(f"{self._name}: the reward of a step is {what}; return one number, e.g. float(reward)")
        return told

    def _check(self, told: Any, method: str, parts: tuple[str, ...]) -> None:
        if not isinstance(told, tuple) or len(told) != len(parts) or not isinstance(told[-1], dict):
            found = f"a {type(told).__name__}"
            if isinstance(told, tuple):
                found = f"{len(told)} parts, the last a {type(told[-1]).__name__}" if told else "nothing"
            raise ValueError(
                f"{self._name}: {method} returned {found}; expected ({', '.join(parts)}), with info a dict, as "
                "Gymnasium has it since 0.26"
            )
        if self._shape is not None and np.shape(told[0]) != self._shape:
            raise ValueError(
                f"{self._name}: {method} returned an observation of shape {list(np.shape(told[0]))}, and its "
                f"observation_space has {list(self._shape)}; mend the one or the other"
            )


def _is_number(reward: Any) -> bool:
    """Whether a reward is one: digits in a string are none."""
    try:
        float(reward)
    except (TypeError, ValueError):
        return False
    return not isinstance(reward, (str, bytes))


class CheckedVectorEnvironment(_Wrapper):
    """Passes everything on, and refuses observations and rewards that are NaN or infinite.

    What it hands out is its own: vectors made with `copy=False`, and many that are fast, write the next step into the
    arrays of the last one, so that what was seen before a step would be what was seen after it.

    Whole numbers count from 0 outside, and from the environment's own `start` inside. Where an environment tells by
    `info["action_mask"]` which actions are available, every reset and step here tells it of all copies: Gymnasium's own
    vectors give zeros for those that a reset has left alone.

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
        self._masks: np.ndarray | None = None  # [N, A], as they were told last

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """See `gymnasium.vector.VectorEnv.reset`; the options are left as they are.

        Raises:
            ValueError: if an observation is not finite, naming environment and episode; or a mask is none of actions.
        """
        given = None if options is None else dict(options)
        mask = np.ones(self.num_envs, dtype=bool) if given is None else given.get("reset_mask")
        mask = np.ones(self.num_envs, dtype=bool) if mask is None else np.asarray(mask)
        told, infos = self.env.reset(seed=seed, options=given)
        observations = np.array(told)
        self._steps = np.where(mask, 0, self._steps)
        self._episodes = self._episodes + mask
        self._check(observations, None)
        return self._counted(observations), self._masked(infos, mask, mask)

    def _counted(self, observations: np.ndarray) -> np.ndarray:
        """The same from 0."""
        return observations - self._first_seen if self._first_seen.any() else observations

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """See `gymnasium.vector.VectorEnv.step`; actions are in the environment's units.

        Raises:
            ValueError: if an observation or a reward is not finite, naming step, environment and episode; or a mask is
                none of actions.
        """
        taken = np.asarray(actions, dtype=self.single_action_space.dtype)
        if self._first_action.any():
            taken = taken + self._first_action
        *told, infos = self.env.step(taken)
        observations, rewards = np.array(told[0]), np.array(told[1])
        terminated, truncated = (np.array(part, dtype=bool) for part in told[2:])
        self._check(observations, rewards)
        self._steps += 1
        moved = np.ones(self.num_envs, dtype=bool)
        return self._counted(observations), rewards, terminated, truncated, self._masked(infos, moved, ~terminated)

    def _masked(self, infos: dict[str, Any], moved: np.ndarray, live: np.ndarray) -> dict[str, Any]:
        """The infos with the masks of all copies, if the world tells masks.

        Args:
            infos: of the environment.
            moved: bool [N], the copies that were reset or stepped; the masks of others stay.
            live: bool [N], those that go on, where something must be available.
        """
        number = int(getattr(self.single_action_space, "n", 0))
        told: Any = infos.get("action_mask") if number else None
        if told is None and self._masks is None:
            return infos
        if self._masks is None and self._steps.any():
            raise ValueError(
                f"{self._name} tells info['action_mask'] after a step and told none at its reset; tell it in both, or "
                "in neither"
            )
        masks = np.ones((self.num_envs, number), dtype=np.int8)
        if self._masks is not None:
            masks[~moved] = self._masks[~moved]
        for copy in [] if told is None else np.flatnonzero(infos.get("_action_mask", moved) & moved).tolist():
            row = np.asarray(told[copy])
            if row.shape != masks[copy].shape:
                raise ValueError(
                    f"{self._name}: info['action_mask'] of environment {copy} has shape {list(row.shape)}; expected "
                    f"[{number}], not 0 where an action is available"
                )
            masks[copy] = row != 0
        without_action = live & ~masks.any(1)
        if without_action.any():
            copy = int(np.flatnonzero(without_action)[0])
            raise ValueError(
                f"{self._name}: after {self._steps[copy]} steps of episode {self._episodes[copy]} in environment {copy}"
                " (both counted from 0) info['action_mask'] leaves no action, and the episode goes on"
            )
        self._masks = masks
        return {**infos, "action_mask": masks.copy(), "_action_mask": np.ones(self.num_envs, dtype=bool)}

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
