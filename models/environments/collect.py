"""Steps of a policy, or of the action prior, in a world: what learners learn from, as tensors."""

from __future__ import annotations

import inspect
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cai.models.common.checks import as_count
from cai.models.common.random_draws import OwnDraws, seeded
from cai.models.continuous.world import World
from cai.models.environments.making import vector_environment
from cai.models.environments.streams import reset_seed
from cai.models.environments.world import EnvironmentModel, draw_actions
from cai.models.trajectory.model import TrajectoryModel
from cai.models.trajectory.simulate import draw_rows

__all__ = ["Transitions", "acting_worlds", "collect", "told_masks"]


def acting_worlds(world: Any, number: int) -> Any:
    """A vector of copies of a world whose observations are what policies act on: states, where the world is a model.

    Args:
        world: an `EnvironmentModel`; a `TrajectoryModel`, seen by "index"; or a continuous model, seen by its states.
        number: of copies.

    Raises:
        TypeError: if it is none of these.
    """
    if isinstance(world, EnvironmentModel):
        return world.make(number)
    if isinstance(world, TrajectoryModel):
        return vector_environment(world, number, observe="index")
    if isinstance(world, World):
        return vector_environment(world, number, observe=_states, observation_space=_box(world.state_dim))
    raise TypeError(
        f"the world is a {type(world).__name__}; expected a TrajectoryModel, a continuous model, or what "
        "cai.models.environment_model makes"
    )


def told_masks(policy: Any, info: Any) -> dict[str, np.ndarray]:
    """What a policy is told of available actions: `action_mask` [N, A], if it takes that and the world tells it.

    Args:
        policy: with `act`.
        info: of the vector environment.
    """
    mask = info.get("action_mask") if isinstance(info, dict) else None
    if mask is None or "action_mask" not in inspect.signature(policy.act).parameters:
        return {}
    return {"action_mask": np.asarray(mask)}


class Transitions(NamedTuple):
    """Steps in their order; with several environments time comes first, [num_steps, num_envs, ...].

    Attributes:
        observations: [num_steps, ...], what was seen before each step.
        actions: [num_steps, ...], in the environment's units.
        rewards: float64 [num_steps], in reward units.
        next_observations: [num_steps, ...], what was seen after it: the episode's own last one, never the next's first.
        terminated: bool [num_steps], whether the world ended there.
        truncated: bool [num_steps], whether the episode was cut there; False where it terminated.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminated: Tensor
    truncated: Tensor


@torch.no_grad()
def collect(world: Any, num_steps: int, *, policy: Any = None, num_envs: int = 1, seed: int = 0) -> Transitions:
    """Takes steps in a world, episode after episode.

    The reset of episode e in environment c has the seed `SeedSequence([seed, c, e])`, as in training.

    Args:
        world: an `EnvironmentModel`; a `TrajectoryModel`, whose observations are state numbers (over a finite horizon
            [..., 2], s and t); or a continuous model, whose observations are states.
        num_steps: of each environment.
        policy: with `act(observations, t, generator=...)`, on states where the world is a model; the action prior
            unless given.
        num_envs: environments side by side.
        seed: of resets and actions.

    Raises:
        TypeError, ValueError: if the world is none of these, has no prior to draw from, or the policy does not fit it.
    """
    steps, number = as_count(num_steps, "num_steps"), as_count(num_envs, "num_envs")
    if policy is not None and not hasattr(policy, "act"):
        raise TypeError(
            f"policy is a {type(policy).__name__}, which does not act; give cai.extract_policy(posterior), or None"
        )
    worlds = acting_worlds(world, number)
    generator = seeded(seed)
    episodes, times = np.zeros(number, dtype=np.int64), np.zeros(number, dtype=np.int64)
    observations, info = worlds.reset(seed=[reset_seed(seed, copy, 0) for copy in range(number)])
    rows: list[list[np.ndarray]] = [[] for _ in Transitions._fields]
    for _ in range(steps):
        seen = np.array(observations)
        actions = np.asarray(
            _actions(world, policy, seen, times, info, generator), dtype=worlds.single_action_space.dtype
        )
        observations, rewards, terminated, truncated, info = worlds.step(actions)
        truncated = truncated & ~terminated
        after = np.array(observations)
        for row, part in zip(rows, (seen, actions, rewards, after, terminated, truncated), strict=True):
            row.append(np.array(part))
        times += 1
        ended = terminated | truncated
        if ended.any():
            episodes += ended
            times[ended] = 0
            seeds = [reset_seed(seed, copy, int(episodes[copy])) for copy in range(number)]
            fresh, info = worlds.reset(seed=seeds, options={"reset_mask": ended})
            observations = np.array(fresh)
    if getattr(world, "fixed_number", None) is None:
        worlds.close()
    stacked = [torch.as_tensor(np.stack(row)) for row in rows]
    stacked[2] = stacked[2].double()
    return Transitions(*(part[:, 0] if number == 1 else part for part in stacked))


def _actions(
    world: Any, policy: Any, seen: np.ndarray, times: np.ndarray, info: Any, generator: torch.Generator
) -> np.ndarray:
    """[N, ...], what is done next."""
    states: Tensor = torch.as_tensor(seen)
    if isinstance(world, TrajectoryModel):
        states = states if states.dim() == 1 else states[:, 0]
        if policy is None:
            return draw_rows(world.host.action_prior.detach()[states], generator).numpy()
    elif policy is None and isinstance(world, EnvironmentModel):
        return draw_actions(world, seen, info, generator).numpy()
    parts: list[tuple[np.ndarray, Tensor]] = []
    timeless = policy is not None and getattr(policy, "horizon", math.inf) == math.inf
    for t in (0,) if timeless else np.unique(times):
        rows = np.ones(len(seen), dtype=bool) if timeless else times == t
        if policy is None:
            with OwnDraws(generator):
                drawn = world.prior(states[rows], int(t)).sample()
        else:
            here = {name: part[rows] for name, part in told_masks(policy, info).items()}
            drawn = policy.act(states[rows], int(t), generator=generator, **here)
        parts.append((rows, torch.as_tensor(drawn)))
    actions = np.zeros((len(seen), *parts[0][1].shape[1:]), dtype=parts[0][1].numpy().dtype)
    for rows, drawn in parts:
        actions[rows] = drawn.detach().numpy()
    return actions


def _states(states: np.ndarray, times: np.ndarray) -> np.ndarray:
    return states


def _box(size: int) -> Any:
    from gymnasium.spaces import Box

    most = np.finfo(np.float64).max
    return Box(-most, most, (size,), np.float64)
