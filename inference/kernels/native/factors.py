"""Sparse LU factors whose triangular solves are native loops: all right-hand sides of a row lie side by side."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch

from cai.inference.kernels.native.library import available, call

__all__ = ["NativeFactors", "edge_products"]

Array = np.ndarray[Any, Any]


class _Factors(ctypes.Structure):
    """`Factors` of cpp/factors.h."""

    _fields_ = [
        ("size", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("lower_begins", "lower_rows", "upper_begins", "upper_rows")),
        *((name, ctypes.c_void_p) for name in ("lower", "upper")),
    ]


class NativeFactors:
    """P A Q = L U of a SuperLU, whose own solves go through one right-hand side after the other.

    Args:
        factor: what `scipy.sparse.linalg.splu` returned; it is not kept.
    """

    def __init__(self, factor: Any) -> None:
        lower, upper = factor.L, factor.U
        parts = (lower.indptr, lower.indices, upper.indptr, upper.indices)
        self._kept = [np.ascontiguousarray(part, dtype=np.int32) for part in parts]
        self._kept += [np.ascontiguousarray(part, dtype=np.float64) for part in (lower.data, upper.data)]
        self._factors = _Factors(lower.shape[0], *(part.ctypes.data for part in self._kept))
        self._rows, self._columns = np.array(factor.perm_r), np.array(factor.perm_c)

    def solve(self, sides: Array, trans: str = "N") -> Array:
        """A^-1 b, or A^-T b for trans="T", of sides [N, R]; as SuperLU's."""
        transposed = trans == "T"
        into, back = (self._columns, self._rows) if transposed else (self._rows, self._columns)
        moved = np.empty(sides.shape)
        moved[into] = sides
        call("solve_factors", torch.float64, self._factors, int(transposed), sides.shape[1], torch.from_numpy(moved))
        return moved[back]


def edge_products(tails: Array, heads: Array, left: Array, right: Array) -> Array | None:
    """[E], sum_r left(tail, r) right(head, r) of every edge; None where the loops are not there.

    Args:
        tails: int64 [E].
        heads: int64 [E].
        left: [N, R].
        right: [N, R].
    """
    if not available():
        return None
    found = np.empty(len(tails))
    arrays = [np.ascontiguousarray(part) for part in (tails, heads, left, right)]
    tensors = [torch.from_numpy(part) for part in (*arrays, found)]
    call("edge_products", torch.float64, len(tails), arrays[2].shape[1], *tensors)
    return found
