"""How large the rewards of a model are."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch

from cai.models.trajectory.model import TrajectoryModel

__all__ = ["largest_reward"]

_LARGEST: WeakKeyDictionary[TrajectoryModel, float] = WeakKeyDictionary()  # each takes a look at all tables


def largest_reward(model: TrajectoryModel) -> float:
    """The largest absolute reward that is finite, in reward units; what no outcome pays does not count."""
    if model not in _LARGEST:
        possible, largest = model.mdp.probabilities > 0, 0.0
        for t in model.reward_times:
            sizes = model.reward_table(t).detach().abs()
            counts = torch.isfinite(sizes) & (possible if sizes.shape == possible.shape else True)
            largest = max(largest, float(sizes.masked_fill(~counts, 0.0).max()))
        _LARGEST[model] = largest
    return _LARGEST[model]
