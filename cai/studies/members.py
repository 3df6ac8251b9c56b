"""Batches in studies: of tables, and of linear-Gaussian models; their members by number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cai.models.continuous.world import World
from cai.models.trajectory.batch import ModelBatch

__all__ = ["is_batch", "member_of", "number_of_members"]


def is_batch(model: Any) -> bool:
    """Whether a model stands for several problems."""
    return isinstance(model, ModelBatch) or (isinstance(model, World) and len(model.batch_shape) > 0)


def number_of_members(batch: Any) -> int:
    """How many problems a batch stands for."""
    return len(batch) if isinstance(batch, ModelBatch) else math.prod(batch.batch_shape)


def member_of(batch: Any, member: int) -> Any:
    """One problem of a batch; several batch axes are numbered row by row, the last axis fastest.

    Raises:
        IndexError: if there is no such member.
    """
    if isinstance(batch, ModelBatch):
        return batch[member]
    count = number_of_members(batch)
    if not -count <= member < count:
        raise IndexError(f"member {member} is outside the batch; it has members 0 to {count - 1}")
    return batch.member(*(int(i) for i in np.unravel_index(member % count, tuple(batch.batch_shape))))
