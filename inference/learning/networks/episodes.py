"""Episodes of a policy in a world, each reset with a seed of its own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.inference.learning.networks.interface import make_worlds
from cai.models.environments.streams import EVALUATION_COPY, reset_seed

__all__ = ["episode_returns"]

LONGEST = 100_000  # steps after which an episode without an end is given up


@torch.no_grad()
def episode_returns(
    world: Any, policy: Any, number: int, *, seed: int, deterministic: bool, one_by_one: bool = False
) -> Tensor:
    """float64 [number], plain sums of the rewards of episodes.

    Episode i is reset with the seed of (seed, 2^32 - 1, i), which training never uses.

    Args:
        world: an `EnvironmentModel` or a continuous model.
        policy: with `act`, which sees observations, or states of a continuous model.
        number: of episodes.
        seed: of resets and actions.
        deterministic: whether the policy takes its mean or most probable actions.
        one_by_one: in one copy of the world, as for a window.
    """
    copies = 1 if one_by_one else getattr(world, "fixed_number", None) or number
    worlds = make_worlds(world, copies)
    generator = torch.Generator().manual_seed(seed)
    totals: list[float] = []
    while len(totals) < number:
        first = len(totals)
        seen, _ = worlds.reset(seed=[reset_seed(seed, EVALUATION_COPY, first + i) for i in range(copies)])
        earned, alive = np.zeros(copies), np.ones(copies, dtype=bool)
        for t in range(LONGEST):
            states = seen[:, :-1] if policy.horizon != math.inf else seen
            actions = policy.act(states, t, generator=generator, deterministic=deterministic)
            seen, rewards, terminated, truncated, _ = worlds.step(torch.as_tensor(actions).numpy())
            earned += np.where(alive, rewards, 0.0)
            over = terminated | truncated
            alive &= ~over
            if not alive.any():
                break
            if over.any():  # so that what has ended is not moved; its further episodes do not count
                seen, _ = worlds.reset(seed=[1] * copies, options={"reset_mask": over})
        totals += earned.tolist()
    if getattr(world, "fixed_number", None) is None:
        worlds.close()
    return torch.tensor(totals[:number], dtype=torch.float64)
