"""What a learner sees of a model's states: the space of one observation, and how N states become N observations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

__all__ = ["Observer", "see_states", "see_table"]


class Observer(NamedTuple):
    """How a model is seen.

    Attributes:
        space: of one observation.
        see: (states [N, ...], times int64 [N]) -> observations [N, ...], an array of its own.
    """

    space: gymnasium.Space[Any]
    see: Callable[[np.ndarray, np.ndarray], np.ndarray]


def see_table(observe: Any, space: Any, num_states: int, horizon: int | float) -> Observer:
    """The observer of a model on numbered states.

    Args:
        observe: "one-hot", "index", or a function of (states, times).
        space: of what the function returns; None beside a word.
        num_states: S.
        horizon: T, or math.inf.

    Raises:
        TypeError, ValueError: if it is none of these, or the space is missing or one too many.
    """
    if callable(observe):
        return _by_function(observe, space)
    if observe not in ("one-hot", "index"):
        raise ValueError(f"observe is {observe!r}; expected 'one-hot', 'index' or a function of (states, t)")
    _refuse_space(space)
    finite = horizon != math.inf
    if observe == "index":
        if not finite:
            return Observer(spaces.Discrete(num_states), lambda states, times: states.copy())
        pair = spaces.MultiDiscrete([num_states, int(horizon) + 1])
        return Observer(pair, lambda states, times: np.stack([states, times], -1))

    def one_hot(states: np.ndarray, times: np.ndarray) -> np.ndarray:
        seen = np.zeros((len(states), num_states + finite), dtype=np.float32)
        seen[np.arange(len(states)), states] = 1.0
        if finite:
            seen[:, -1] = times / horizon
        return seen

    return Observer(spaces.Box(0.0, 1.0, (num_states + finite,), np.float32), one_hot)


def see_states(observe: Any, space: Any, state_dim: int, horizon: int | float) -> Observer:
    """The observer of a model on states [n]: the states, float64, and over a finite horizon t / T behind them.

    Args:
        observe: "one-hot", the default for models of numbered states, which stands for the states themselves here; or a
            function of (states, times).
        space: of what the function returns, else None.
        state_dim: n.
        horizon: T, or math.inf.

    Raises:
        TypeError, ValueError: if it is neither, or the space is missing or one too many.
    """
    if callable(observe):
        return _by_function(observe, space)
    if observe != "one-hot":
        raise ValueError(
            f"observe is {observe!r}; the states of this model are vectors, which are seen as they are: leave observe "
            "out, or give a function of (states, t)"
        )
    _refuse_space(space)
    finite = horizon != math.inf
    most = np.finfo(np.float64).max  # every finite number: states have no bounds that are known
    low, high = np.full(state_dim + finite, -most), np.full(state_dim + finite, most)
    if finite:
        low[-1], high[-1] = 0.0, 1.0

    def see(states: np.ndarray, times: np.ndarray) -> np.ndarray:
        return np.concatenate([states, (times / horizon)[:, None]], -1) if finite else states.copy()

    return Observer(spaces.Box(low, high, dtype=np.float64), see)


def _refuse_space(space: Any) -> None:
    if space is not None:
        raise ValueError("observation_space belongs to a function observe=; the words know their own space")


def _by_function(observe: Callable[..., Any], space: Any) -> Observer:
    if not isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        raise TypeError(
            f"observation_space is {space!r}; a function observe= needs the space of one observation, e.g. "
            "gymnasium.spaces.Box(low, high, shape)"
        )
    shape, dtype = tuple(space.shape or ()), space.dtype

    def see(states: np.ndarray, times: np.ndarray) -> np.ndarray:
        seen = np.asarray(observe(states.copy(), times.copy())).astype(dtype)
        if seen.shape != (len(states), *shape):
            raise ValueError(
                f"observe returned shape {list(seen.shape)} for {len(states)} states; expected "
                f"{[len(states), *shape]}, an observation of {space} for each"
            )
        return seen

    return Observer(space, see)
