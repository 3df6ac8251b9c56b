"""Transition probabilities with one matrix for each action, and what is said where a table reads both ways."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cai.models.common.checks import float_tensor
from cai.models.common.labels import is_labelled
from cai.models.processes.from_sparse import is_sparse, successors_from_sparse

logger = logging.getLogger("cai.models")

__all__ = ["AXES", "check_axes", "read_actions"]

AXES: Literal["state-action-state"] = "state-action-state"


def read_actions(matrices: Any, options: dict[str, Any]) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
    """The table [S, A, S] of dense matrices, or the outcomes (int64 [S, A, K], [S, A, K]) of sparse ones.

    Args:
        matrices: as in `MDP.from_actions`.
        options: keywords of `MDP`, to which the names of actions and states are added that come with the matrices.

    Raises:
        TypeError, ValueError: if these are not matrices [S, S] of one size, all dense or all sparse.
    """
    if isinstance(matrices, Mapping):
        options.setdefault("action_names", [str(name) for name in matrices])
        given = {str(name): matrix for name, matrix in matrices.items()}
        wanted = [str(name) for name in options["action_names"]]
        if sorted(given) != sorted(wanted):
            raise ValueError(f"matrices are given for {', '.join(given)}; the actions are {', '.join(wanted)}")
        matrices = [given[name] for name in wanted]
    if isinstance(matrices, str) or not isinstance(matrices, Iterable) or is_sparse(matrices):
        raise TypeError(
            f"matrices is a {type(matrices).__name__}; give one matrix [S, S] for each action, dense or sparse (one "
            "sparse matrix [S * A, S] is for MDP.from_sparse)"
        )
    parts = list(matrices) if not isinstance(matrices, (Tensor, np.ndarray)) else [*matrices]
    if parts and all(is_sparse(part) for part in parts):
        return None, successors_from_sparse(parts)
    if any(is_sparse(part) for part in parts):
        raise TypeError("some of the matrices are sparse and some are dense; give all of one kind")
    if parts and all(is_labelled(part) for part in parts) and options.get("state_names") is None:
        options["state_names"] = [str(label) for label in parts[0].index]
    names = (options.get("state_names"), "state")
    tables = [float_tensor(p, f"matrices[{a}]", [names, names]) for a, p in enumerate(parts)]
    shapes = [list(table.shape) for table, _ in tables]
    if not shapes or any(shape != [len(tables[0][0])] * 2 for shape in shapes):
        raise ValueError(
            f"matrices have the shapes {shapes}; expected one [S, S] for each action, p(s' | s, a) at [s, s']"
        )
    stacked = torch.stack([table for table, _ in tables], 1)
    sources: Sequence[torch.dtype] = [source for _, source in tables]
    return (stacked.to(sources[0]) if torch.float32 in sources and len(set(sources)) == 1 else stacked), None


def check_axes(axes: str | None, table: Tensor | None, terminal: Tensor) -> None:
    """Says how a table [S, A, S] with S = A was read, where it could be [A, S, S] as well, which is another problem.

    Args:
        axes: "state-action-state" where whoever gave it says so; None otherwise.
        table: [S, A, S], or None where outcomes are listed.
        terminal: bool [S].

    Raises:
        ValueError: if `axes` is another word.
    """
    if axes not in (AXES, None):
        raise ValueError(f"axes is {axes!r}; a table is 'state-action-state', and MDP.from_actions reads action first")
    if axes is not None or table is None or table.shape[0] != table.shape[1]:
        return
    table = table.detach()
    other = table.transpose(0, 1)
    if torch.equal(table, other):
        return
    ends = torch.nonzero(terminal).flatten()
    fits = bool((other.sum(-1) - 1).abs().max() < 1e-6) and bool((other[ends, :, ends] == 1).all())
    if fits:
        size = len(table)
        logger.warning(
            "transitions has shape [%d, %d, %d], and its rows sum to 1 with state or action first: it was read as "
            "[S, A, S], p(s' | s, a) at [s, a, s']. If the action comes first, use MDP.from_actions(transitions, ...). "
            "axes='state-action-state' says that it was read as it is meant",
            size,
            size,
            size,
        )
