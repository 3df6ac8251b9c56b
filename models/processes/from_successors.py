"""Transition probabilities from lists of outcomes, nested lists of different lengths among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cai.models.common.checks import check_shape, first_index, float_tensor, index_tensor

__all__ = ["read_successors"]


def read_successors(next_states: Any, probabilities: Any) -> tuple[Tensor, Tensor, torch.dtype]:
    """Lists of outcomes as tensors.

    Args:
        next_states: as in `MDP.from_successors`.
        probabilities: as there.

    Returns:
        Next states int64 [S, A, K], probabilities float64 [S, A, K] and the dtype that these came in.

    Raises:
        ValueError, TypeError: if shapes or dtypes do not fit, or a next state does not exist.
    """
    next_states, probabilities = _pad(next_states, probabilities)
    successors = index_tensor(next_states, "next_states")
    weights, source = float_tensor(probabilities, "probabilities")
    if successors.dim() != 3:
        raise ValueError(f"next_states has shape {list(successors.shape)}; expected [S, A, K]")
    check_shape(weights, tuple(successors.shape), "probabilities", "[S, A, K], as next_states,")
    num_states = successors.shape[0]
    outside = (successors < 0) | (successors >= num_states)
    if outside.any():
        where = first_index(outside)
        raise ValueError(
            f"next_states{where} is {int(successors[outside][0])}; states are 0 to {num_states - 1} "
            "(pad short lists with the state itself and probability 0)"
        )
    return successors, weights, source


def _pad(next_states: Any, probabilities: Any) -> tuple[Any, Any]:
    """Makes ragged nested lists rectangular: short rows get the state itself with probability 0."""
    if hasattr(next_states, "shape") or hasattr(probabilities, "shape"):
        return next_states, probabilities
    for name, lists in (("next_states", next_states), ("probabilities", probabilities)):
        if not all(isinstance(rows, Sequence) and all(hasattr(row, "__len__") for row in rows) for rows in lists):
            raise ValueError(f"{name} must be nested as [S, A, K]: for each state and each action, a list of outcomes")
    width = max((len(rows) for rows in next_states), default=0)
    next_states = [rows or [[]] * width for rows in next_states]  # a terminal state needs no lists
    probabilities = [rows or [[]] * width for rows in probabilities]
    lengths = [[len(row) for row in rows] for rows in next_states]
    other = [[len(row) for row in rows] for rows in probabilities]
    if lengths != other:
        raise ValueError(
            "next_states and probabilities do not have lists of the same lengths; give each next state its probability"
        )
    if len({len(rows) for rows in lengths}) > 1:
        raise ValueError("states have different numbers of action lists; give all A (empty ones need available=...)")
    width = max((n for rows in lengths for n in rows), default=0)
    if width == 0:
        raise ValueError("next_states holds no outcome at all; every available action leads somewhere")
    padded_states = [
        [list(row) + [state] * (width - len(row)) for row in rows] for state, rows in enumerate(next_states)
    ]
    padded = [[list(row) + [0.0] * (width - len(row)) for row in rows] for rows in probabilities]
    return padded_states, padded
