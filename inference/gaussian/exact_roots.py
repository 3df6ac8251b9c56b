"""Triangular factors of symmetric matrices in whole numbers: what floats say of one that is nearly singular.

Floats are whole numbers times powers of two, and elimination without fractions (Bareiss 1968, Sylvester's identity and
multistep integer-preserving Gaussian elimination) rounds nothing. A small pivot beside large ones is then known as well
as these, where an eigenvalue is known to eps of the largest.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Factors", "exact_factors"]


class Factors(NamedTuple):
    """matrix = L diag(pivots) L'.

    Attributes:
        lower: L [N, n, n], triangular with a diagonal of 1 in the order of the pivots, its rows in that of the matrix.
        pivots: [N, n], >= 0; each is the largest diagonal entry of what is left.
        inverse: L^-1 [N, n, n].
        along: L^-1 times a vector, [N, n].
        known: bool [N], whether the matrix has no negative direction; of others the rest is nothing.
    """

    lower: Tensor
    pivots: Tensor
    inverse: Tensor
    along: Tensor
    known: Tensor


def exact_factors(matrices: Tensor, vectors: Tensor) -> Factors:
    """Of finite symmetric matrices [N, n, n] and vectors [N, n], each number rounded once."""
    number, n = vectors.shape
    alike, which = torch.unique(torch.cat([matrices.flatten(1), vectors], 1), dim=0, return_inverse=True)
    found = [_factors(row[: n * n], row[n * n :]) for row in alike.tolist()]
    rows = torch.tensor([part or [0.0] * (2 * n * n + 2 * n) for part in found], dtype=torch.float64)
    rows = rows.reshape(len(found), -1).to(matrices)[which]
    lower, inverse, pivots, along = rows.split([n * n, n * n, n, n], 1)
    known = torch.tensor([part is not None for part in found], device=matrices.device)[which]
    return Factors(lower.reshape(number, n, n), pivots, inverse.reshape(number, n, n), along, known)


def _factors(matrix: list[float], vector: list[float]) -> list[float] | None:
    """L, L^-1, pivots and L^-1 times the vector, one after the other; None if the matrix has a negative direction."""
    n = len(vector)
    (whole, unit), (right, other) = _whole_numbers(matrix), _whole_numbers(vector)
    rows = {i: [*whole[n * i : n * i + n], *(int(i == j) for j in range(n)), right[i]] for i in range(n)}
    lower, inverse, pivots, along, last = [[0.0] * n for _ in range(n)], list[float](), list[float](), list[float](), 1
    try:
        while rows:
            k = max(rows, key=lambda i: rows[i][i])
            row = rows.pop(k)
            pivot, column = row[k], len(pivots)
            if pivot < 0 or (pivot == 0 and any(left[j] for left in (row, *rows.values()) for j in (k, *rows))):
                return None
            for i in (k, *rows):
                lower[i][column] = row[i] / pivot if pivot else float(i == k)
            pivots.append(pivot / (last * unit))
            inverse += [part / last for part in row[n : 2 * n]]
            along.append(row[-1] / (last * other))
            if pivot:
                for i, left in rows.items():
                    rows[i] = [(pivot * a - left[k] * b) // last for a, b in zip(left, row, strict=True)]
                last = pivot
    except OverflowError:  # beyond what floats hold
        return None
    return [*(part for line in lower for part in line), *inverse, *pivots, *along]


def _whole_numbers(values: list[float]) -> tuple[list[int], int]:
    """Whole numbers and the power of two that they are divided by."""
    ratios = [value.as_integer_ratio() for value in values]
    unit = math.lcm(*(below for _, below in ratios))
    return [above * (unit // below) for above, below in ratios], unit
