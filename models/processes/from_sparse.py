"""Transition probabilities from sparse matrices, as lists of outcomes; [S, A, S] is never formed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["is_sparse", "sparse_entries", "successors_from_sparse"]


def successors_from_sparse(matrices: Any) -> tuple[Tensor, Tensor]:
    """Lists of outcomes from one matrix [S * A, S] or from A matrices [S, S].

    Args:
        matrices: as in `MDP.from_sparse`.

    Returns:
        next_states, int64 [S, A, K], and probabilities [S, A, K] in the dtype and with the autograd history of what was
        given. K is the largest number of entries in a row that are not 0; short rows are padded with the state itself
        and probability 0.

    Raises:
        TypeError, ValueError: if these are no sparse matrices of real numbers, shapes do not fit, or an entry is no
            probability.
    """
    if is_sparse(matrices):
        rows, columns, values, shape = sparse_entries(matrices, "matrices")
        num_states = shape[1]
        if num_states == 0 or shape[0] == 0 or shape[0] % num_states:
            raise ValueError(
                f"matrices has shape {list(shape)}; expected [S * A, S] with p(s' | s, a) in row s * A + a, "
                "or give a list of A matrices [S, S]"
            )
        num_actions = shape[0] // num_states
    else:
        parts = _parts(matrices)
        num_states, num_actions = parts[0][3][1], len(parts)
        for action, (_, _, _, shape) in enumerate(parts):
            if shape != (num_states, num_states) or num_states == 0:
                raise ValueError(
                    f"matrices[{action}] has shape {list(shape)}; expected one matrix [S, S] for each action, all of "
                    "the same S, with p(s' | s, a) at [s, s'] of matrices[a]"
                )
        rows = torch.cat([part[0] * num_actions + action for action, part in enumerate(parts)])
        columns = torch.cat([part[1] for part in parts])
        values = torch.cat([part[2] for part in parts])
        order = torch.argsort(rows, stable=True)
        rows, columns, values = rows[order], columns[order], values[order]
    _check_entries(rows, columns, values.detach(), num_actions)
    counts = torch.bincount(rows, minlength=num_states * num_actions)
    width = max(int(counts.max()), 1)
    places = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
    here = torch.arange(num_states).repeat_interleave(num_actions)
    next_states = here[:, None].repeat(1, width)
    next_states[rows, places] = columns
    probabilities = values.new_zeros(num_states * num_actions, width).index_put((rows, places), values)
    sizes = (num_states, num_actions, width)
    return next_states.reshape(sizes), probabilities.reshape(sizes)


def refuse_sparse(transitions: Any) -> None:
    """Says how sparse matrices become a process, where they were given as a table.

    Raises:
        TypeError: if it is a sparse matrix, or a list of them.
    """
    first = transitions[0] if isinstance(transitions, (list, tuple)) and len(transitions) else transitions
    if is_sparse(first) and not (isinstance(first, Tensor) and first.dim() == 3):
        raise TypeError(
            "transitions is sparse, and a table is [S, A, S]; MDP.from_actions([P_a, ...], initial) reads one sparse "
            "matrix [S, S] for each action, and MDP.from_sparse(P, initial) one of [S * A, S]"
        )


def is_sparse(matrix: Any) -> bool:
    """Whether it is a scipy sparse matrix, or a torch tensor that is not dense."""
    if isinstance(matrix, Tensor):
        return matrix.layout != torch.strided
    if not type(matrix).__module__.startswith("scipy."):  # which takes a while to import
        return False
    import scipy.sparse

    return bool(scipy.sparse.issparse(matrix))


def _parts(matrices: Any) -> list[tuple[Tensor, Tensor, Tensor, tuple[int, int]]]:
    advice = (
        "expected one scipy sparse matrix (or torch sparse tensor) [S * A, S], or a list of A of them, [S, S] each; "
        "give full tables to MDP(transitions=...) as [S, A, S]"
    )
    if isinstance(matrices, (str, bytes)) or not isinstance(matrices, Sequence):
        raise TypeError(f"matrices is a {type(matrices).__name__}; {advice}")
    if not matrices:
        raise ValueError(f"matrices is empty; {advice}")
    for action, matrix in enumerate(matrices):
        if not is_sparse(matrix):
            raise TypeError(f"matrices[{action}] is a {type(matrix).__name__}; {advice}")
    return [sparse_entries(matrix, f"matrices[{action}]") for action, matrix in enumerate(matrices)]


def sparse_entries(matrix: Any, name: str) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """(rows, columns, values, shape) of what is not 0, in the order of rows; entries given twice are added up."""
    if len(matrix.shape) != 2:
        raise ValueError(f"{name} has shape {list(matrix.shape)}; expected a matrix, [S * A, S] or [S, S]")
    if isinstance(matrix, Tensor):
        if not matrix.is_floating_point():
            raise TypeError(f"{name} has dtype {matrix.dtype}; expected real numbers: convert with .double()")
        listed = matrix.cpu().to_sparse_coo().coalesce()
        (rows, columns), values = listed.indices(), listed.values()
    else:
        if matrix.dtype.kind not in "fiub":
            raise TypeError(f"{name} holds {matrix.dtype} entries; expected real numbers")
        compressed = matrix.tocsr(copy=True)
        compressed.sum_duplicates()
        lengths = np.diff(compressed.indptr)
        rows = torch.from_numpy(np.repeat(np.arange(len(lengths), dtype=np.int64), lengths))
        columns = torch.from_numpy(compressed.indices.astype(np.int64))
        data = compressed.data if compressed.data.dtype.kind == "f" else compressed.data.astype(np.float64)
        values = torch.from_numpy(data)
    kept = values != 0
    if not values.requires_grad and not kept.all():  # what requires grad may grow from 0, and keeps its place
        rows, columns, values = rows[kept], columns[kept], values[kept]
    return rows, columns, values, (int(matrix.shape[0]), int(matrix.shape[1]))


def _check_entries(rows: Tensor, columns: Tensor, values: Tensor, num_actions: int) -> None:
    for bad, what in ((~torch.isfinite(values), "not finite"), (values < 0, "negative")):
        if bad.any():
            entry = int(torch.nonzero(bad)[0])
            state, action = divmod(int(rows[entry]), num_actions)
            raise ValueError(
                f"p(s' = {int(columns[entry])} | s = {state}, a = {action}) is {float(values[entry]):g}, {what}; "
                "probabilities are numbers from 0 to 1"
            )
