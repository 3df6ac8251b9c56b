"""Acting in Gymnasium environments, one or a vector of them, with episodes counted whoever resets them."""

from __future__ import annotations

import inspect
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cai.models.environments.spaces import reset_mode

__all__ = ["Episodes", "Runs", "check_box", "check_discrete"]

MODES = ("NextStep", "SameStep", "Disabled")  # the values of gymnasium.vector.AutoresetMode


class Episodes(NamedTuple):
    """E episodes, environment by environment, those of one in their order.

    Attributes:
        returns: float64 [E], sums of rewards.
        steps: int64 [E].
        terminated: bool [E]; False where an episode was truncated, or cut by a limit on its steps.
    """

    returns: Tensor
    steps: Tensor
    terminated: Tensor


class Runs:
    """What every policy that acts on observations can do in an environment; it needs `act` and `horizon`."""

    def run(
        self,
        environment: Any,
        *,
        seed: int | None = None,
        max_steps: int | None = None,
        episodes: int | None = None,
        deterministic: bool = False,
    ) -> Any:
        """Acts in a Gymnasium environment, or in a vector environment, from reset to the end of an episode.

        In a vector environment each of the N environments plays a fixed share of the episodes; taking whichever end
        first would prefer short ones. The time index starts anew with each episode. What the vector environment does
        at an end (`metadata["autoreset_mode"]`: NEXT_STEP, SAME_STEP or DISABLED) changes no episode.

        Args:
            environment: with observations and actions as this policy numbers them.
            seed: of the environment's first reset and of the actions.
            max_steps: cut an episode after so many steps; a policy over T steps is cut after T in any case.
            episodes: how many in all; 1, or one for each of a vector's environments, unless given.
            deterministic: whether to take the most probable action (the mean, of continuous ones) instead of a draw.

        Returns:
            `Episodes`. If one environment was given and no number of episodes: the sum of rewards, the number of
            steps, and whether the episode terminated.

        Raises:
            TypeError, ValueError: before the first step, if environment and policy do not fit together.
        """
        if not hasattr(environment, "reset") or not hasattr(environment, "step"):
            raise TypeError(f"expected a Gymnasium environment, got {environment!r}; make it with gymnasium.make(...)")
        stacked = hasattr(environment, "num_envs")
        number = environment.num_envs if stacked else 1
        for name, count in (("episodes", episodes), ("max_steps", max_steps)):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
                raise ValueError(f"{name} is {count!r}; expected a whole number of at least 1")
        prefix = "single_" if stacked else ""
        spaces = [getattr(environment, f"{prefix}{what}_space") for what in ("observation", "action")]
        self._check_spaces(*spaces)
        world = _Worlds(environment, spaces[1], number, stacked)
        generator = torch.Generator()
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        limit = min(self.horizon, math.inf if max_steps is None else max_steps)
        shares = [len(range(i, episodes or number, number)) for i in range(number)]
        found = _play(self, world, shares, limit, seed, generator, deterministic)
        if stacked or episodes is not None:
            return found
        return float(found.returns), int(found.steps), bool(found.terminated)

    horizon: Any
    act: Any

    def _check_spaces(self, observations: Any, actions: Any) -> None:
        """Raises ValueError unless the policy fits the spaces of one environment."""


class _Worlds:
    """One environment or a vector of N, as N environments whose ended ones are reset when asked to be.

    Args:
        environment: of Gymnasium.
        actions: the action space of one environment.
        number: N.
        stacked: whether it is a vector environment.
    """

    def __init__(self, environment: Any, actions: Any, number: int, stacked: bool) -> None:
        self.environment, self.number, self.stacked = environment, number, stacked
        self.discrete = hasattr(actions, "n")
        self.dtype = actions.dtype
        self.masks: np.ndarray | None = None  # [N, A], not 0 where an action is available; None where nothing is told
        self.mode = "Disabled"
        if stacked:
            mode = reset_mode(environment)
            self.mode = str(getattr(mode, "value", mode))
            if self.mode not in MODES:
                raise ValueError(
                    f"the vector environment does not say how it resets: metadata['autoreset_mode'] is {mode!r}; set "
                    "it to a gymnasium.vector.AutoresetMode"
                )

    def start(self, seed: int | None) -> np.ndarray:
        """Observations [N, ...] after a reset of all."""
        observations, info = self.environment.reset(seed=seed)
        self._take_note(info, np.ones(self.number, dtype=bool))
        return self._rows(observations)

    def restart(self, ended: np.ndarray, observations: np.ndarray) -> np.ndarray:
        """Observations [N, ...] after a reset of those of a mask [N]; the others keep theirs."""
        if not self.stacked:
            return self.start(None)
        fresh, info = self.environment.reset(options={"reset_mask": ended.copy()})
        self._take_note(info, ended)
        fresh, kept = self._rows(fresh), observations.copy()
        kept[ended] = fresh[ended]
        return kept

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Observations [N, ...], rewards [N], terminated [N] and truncated [N] after actions [N, ...]."""
        if self.stacked:
            observations, *rest, info = self.environment.step(actions)
        else:
            action = int(actions[0]) if self.discrete else actions[0]
            observations, *rest, info = self.environment.step(action)
        self._take_note(info, np.ones(self.number, dtype=bool))
        rewards, terminated, truncated = (np.asarray(part).reshape(self.number).copy() for part in rest)
        return self._rows(observations), rewards, terminated.astype(bool), truncated.astype(bool)

    def _take_note(self, info: Any, moved: np.ndarray) -> None:
        """Keeps `info["action_mask"]` of the environments that a reset or a step has moved."""
        told = info.get("action_mask") if self.discrete and isinstance(info, dict) else None
        if told is None:
            self.masks = None if moved.all() else self.masks
            return
        told = np.asarray(told if self.stacked else [told])
        masks = np.ones_like(told) if self.masks is None else self.masks.copy()
        masks[moved] = 1
        known = moved & np.asarray(info.get("_action_mask", moved) if self.stacked else moved)
        masks[known] = told[known]
        self.masks = masks

    def _rows(self, observations: Any) -> np.ndarray:
        table = np.asarray(observations)
        return table.copy() if self.stacked else table[None]


def _play(
    policy: Any,
    world: _Worlds,
    shares: list[int],
    limit: float,
    seed: int | None,
    generator: torch.Generator,
    deterministic: bool,
) -> Episodes:
    """Plays each environment's share of the episodes."""
    number = world.number
    left = np.array(shares)
    total, t = np.zeros(number), np.zeros(number, dtype=np.int64)
    waiting = np.zeros(number, dtype=bool)  # under NEXT_STEP: the coming step resets the environment and pays nothing
    records: list[list[tuple[float, int, bool]]] = [[] for _ in shares]
    asks = "action_mask" in inspect.signature(policy.act).parameters
    observations = world.start(seed)
    actions: np.ndarray | None = None
    while bool((left > 0).any()):
        acting = np.flatnonzero((left > 0) & ~waiting)
        for time in np.unique(t[acting]):
            rows = acting[t[acting] == time]
            index = 0 if policy.horizon == math.inf else int(time)
            seen = torch.as_tensor(observations[rows])
            known = {} if world.masks is None or not asks else {"action_mask": world.masks[rows]}
            taken = policy.act(seen, index, generator=generator, deterministic=deterministic, **known).numpy()
            if actions is None:
                actions = np.zeros((number, *taken.shape[1:]), dtype=world.dtype)
            actions[rows] = taken
        assert actions is not None  # somebody acts in the first step
        if world.masks is not None:  # what does not count must be possible, too
            idle = np.setdiff1d(np.arange(number), acting)
            actions[idle] = world.masks[idle].argmax(-1)
        observations, rewards, terminated, truncated = world.step(actions)
        total[acting] += rewards[acting]
        t[acting] += 1
        reset_by_step, waiting = waiting, np.zeros(number, dtype=bool)
        ended = (terminated | truncated) & ~reset_by_step
        counted = np.zeros(number, dtype=bool)
        counted[acting] = True
        over = counted & (ended | (t >= limit))
        for i in np.flatnonzero(over):
            records[i].append((float(total[i]), int(t[i]), bool(terminated[i])))
        left[over] -= 1
        total[over], t[over] = 0.0, 0
        # Without a share left an environment goes on, uncounted; where none resets itself, none may pass its end.
        by_hand = (over & ~ended) | (ended if world.mode == "Disabled" else np.zeros(number, dtype=bool))
        if world.mode == "NextStep":
            waiting = ended
        if bool(by_hand.any()) and bool((left > 0).any()):
            observations = world.restart(by_hand, observations)
    columns = zip(*(record for own in records for record in own), strict=True)
    dtypes = (torch.float64, torch.int64, torch.bool)
    return Episodes(*(torch.tensor(column, dtype=dtype) for column, dtype in zip(columns, dtypes, strict=True)))


def check_box(what: str, space: Any, size: int) -> None:
    """Refuses a space of an environment that holds no vectors of this many real numbers.

    Args:
        what: "observation" or "action".
        space: of one environment.
        size: how many numbers the policy has in its own.

    Raises:
        ValueError: naming the space.
    """
    if getattr(space, "shape", None) != (size,) or hasattr(space, "n"):
        raise ValueError(
            f"the environment's {what} space is {space}; this policy's {what}s are {size} numbers, which needs a Box "
            f"space of shape ({size},)"
        )


def check_discrete(what: str, space: Any, sizes: range, knows: str) -> None:
    """Refuses a space that is not Discrete, or of a size that the policy does not know.

    Args:
        what: "observation" or "action".
        space: of one environment.
        sizes: that will do.
        knows: what the policy knows, in words.

    Raises:
        ValueError: with a sentence on what does not fit.
    """
    if not hasattr(space, "n"):
        raise ValueError(f"the environment's {what} space is {space}; {knows}, which needs Discrete")
    if int(getattr(space, "start", 0)) != 0:
        raise ValueError(f"the environment's {what} space is {space}, which does not begin at 0; {knows}, from 0")
    if int(space.n) not in sizes:
        raise ValueError(f"the environment's {what} space is {space}; {knows}: it was made for another problem")
