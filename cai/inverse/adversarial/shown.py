"""Demonstrations as steps that networks see: observations, actions, what followed, and where episodes ended."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.inference.learning.networks.experience.interface import Interface
from cai.inverse.adversarial.discriminator import Steps
from cai.models.continuous.world import World
from cai.models.demonstrations.continuous import ContinuousDemonstrations
from cai.models.demonstrations.demonstrations import Demonstrations
from cai.models.demonstrations.sources import minari_episodes
from cai.models.environments.collect import Transitions

__all__ = ["read_steps"]

TAKES = (
    "expected Demonstrations, ContinuousDemonstrations, the Transitions that cai.models.collect returns, episodes of "
    "Minari or the folder of a data set, or trajectories of imitation"
)


def read_steps(world: Any, interface: Interface, given: Any) -> tuple[Steps, Tensor]:
    """The steps of demonstrations in a world, and of which demonstration each is [M].

    Args:
        world: an `EnvironmentModel` or a continuous model.
        interface: how networks see it.
        given: see `TAKES`.

    Raises:
        TypeError, ValueError: if they are none of these, hold other sizes than the world, numbers that are not finite,
            or nothing at all.
    """
    episodes = [_episode(world, interface, *parts) for parts in _episodes(world, given)]
    counts = torch.tensor([len(episode.weights) for episode in episodes], dtype=torch.int64)
    weights = torch.cat([torch.zeros(0), *(episode.weights for episode in episodes)])
    if not bool((weights > 0).any()):
        raise ValueError("the demonstrations hold no step that counts; give at least one action")
    columns: list[Tensor] = [torch.cat(column) for column in zip(*episodes, strict=True)]
    return Steps(*columns), torch.arange(len(episodes)).repeat_interleave(counts)


def _episodes(world: Any, given: Any) -> list[tuple[Any, Any, Any, float]]:
    """(observations [L + 1, ...], actions [L, ...], ended bool [L], weight) of each."""
    if isinstance(given, Transitions):
        return _collected(given)
    if isinstance(given, Demonstrations):
        flags = zip(given.complete.tolist(), given.weights.tolist(), strict=True)
        return [
            (states.numpy(), actions.numpy(), _last(len(actions), complete), weight)
            for (states, actions), (complete, weight) in zip(given, flags, strict=True)
        ]
    if isinstance(given, ContinuousDemonstrations):
        steps = given.actions.shape[1]
        ended = _last(steps, isinstance(world, World) and steps >= world.horizon)
        rows = zip(given.states.numpy(), given.actions.numpy(), given.weights.tolist(), strict=True)
        return [(states, actions, ended, weight) for states, actions, weight in rows]
    listed = minari_episodes(given)
    if isinstance(listed, (bytes, dict)) or not hasattr(listed, "__iter__"):
        raise TypeError(f"the demonstrations are a {type(given).__name__}; {TAKES}")
    return [_listed(number, episode) for number, episode in enumerate(listed)]


def _listed(number: int, episode: Any) -> tuple[Any, Any, Any, float]:
    """An episode of another library."""
    if all(hasattr(episode, name) for name in ("obs", "acts", "terminal")):
        seen, acted, ended = np.asarray(episode.obs), np.asarray(episode.acts), bool(episode.terminal)
    elif all(hasattr(episode, name) for name in ("observations", "actions", "terminations")):
        seen, acted = np.asarray(episode.observations), np.asarray(episode.actions)
        ended = bool(np.asarray(episode.terminations).reshape(-1)[-1:].any())
    else:
        raise TypeError(f"demonstration {number} is a {type(episode).__name__}; {TAKES}")
    if seen.ndim == 0 or acted.ndim == 0 or len(seen) != len(acted) + 1:
        raise ValueError(
            f"demonstration {number} has observations {list(seen.shape)} and actions {list(acted.shape)}; give one "
            "observation more than actions, the one in which it ended"
        )
    return seen, acted, _last(len(acted), ended), 1.0


def _last(steps: int, ended: bool) -> np.ndarray:
    marks = np.zeros(steps, dtype=bool)
    marks[-1:] = ended
    return marks


def _collected(given: Transitions) -> list[tuple[Any, Any, Any, float]]:
    """Episodes of `Transitions`, of one environment or of several side by side."""
    parts = [np.asarray(part) for part in given]
    several = parts[4].ndim == 2
    copies = [[part[:, i] for part in parts] for i in range(parts[4].shape[1])] if several else [parts]
    found = []
    for seen, acted, _, following, terminated, truncated in copies:
        cuts = np.flatnonzero(terminated | truncated) + 1
        for first, last in zip([0, *cuts.tolist()], [*cuts.tolist(), len(seen)], strict=True):
            if first < last:
                rows = np.concatenate([seen[first:last], following[last - 1 : last]])
                found.append((rows, acted[first:last], terminated[first:last], 1.0))
    return found


def _episode(world: Any, interface: Interface, seen: Any, acted: Any, ended: Any, weight: float) -> Steps:
    """The steps of one episode."""
    if interface.horizon != math.inf:
        if len(acted) > interface.horizon:
            raise ValueError(f"a demonstration takes {len(acted)} actions, and the horizon is {interface.horizon:g}")
        clock = np.arange(len(seen))[:, None] / interface.horizon
        seen = np.concatenate([np.asarray(seen, dtype=float).reshape(len(seen), -1), clock], 1)
    for what, part in (("observations", seen), ("actions", acted)):
        if not np.isfinite(part).all():
            raise ValueError(f"the demonstrations hold {what} that are not finite; leave such steps out")
    _refuse_unknown(interface, np.asarray(seen), np.asarray(acted))
    rows, actions = interface.rows(seen), interface.from_world(acted)
    weights = torch.full((len(acted),), weight)
    return Steps(rows[:-1], actions, rows[1:], torch.from_numpy(ended.astype(np.float32)), weights)


def _refuse_unknown(interface: Interface, seen: np.ndarray, acted: np.ndarray) -> None:
    """Raises ValueError for actions and numbered observations that the world does not have."""
    if interface.num_actions:
        wrong = (acted < 0) | (acted >= interface.num_actions) | (acted != np.floor(acted))
        if acted.ndim > 2 or acted.size != len(acted) or wrong.any():
            raise ValueError(
                f"the demonstrations hold actions {list(acted.shape)} such as {acted.reshape(-1)[:1].tolist()}; this "
                f"world takes one number each, 0 to {interface.num_actions - 1}"
            )
    elif len(acted) and acted.size != len(acted) * interface.action_size:
        raise ValueError(
            f"the demonstrations hold actions {list(acted.shape)}; this world takes "
            f"{interface.action_size} numbers each"
        )
    else:
        low, high = interface.low.numpy(), interface.high.numpy()
        flat = acted.reshape(len(acted), -1)
        if ((flat < low - 1e-6 * (high - low)) | (flat > high + 1e-6 * (high - low))).any():
            raise ValueError(
                f"the demonstrations hold actions from {flat.min():.6g} to {flat.max():.6g}, outside the box "
                f"{low.tolist()} to {high.tolist()} of this world; give action_bounds= to environment_model"
            )
    if interface.categories:
        most = np.asarray(interface.categories)
        flat = seen.reshape(len(seen), -1)
        if flat.shape[1] != len(most) or ((flat < 0) | (flat >= most)).any():
            raise ValueError(
                f"the demonstrations hold observations such as {flat[0].tolist()}; this world shows numbers below "
                f"{most.tolist()}"
            )
