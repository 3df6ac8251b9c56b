"""Dense elimination without row changes, for matrices that need none."""

from __future__ import annotations

import numpy as np

__all__ = ["BLOCK", "unpivoted"]

BLOCK = 32  # unknowns that are eliminated together


def unpivoted(matrix: np.ndarray) -> np.ndarray | None:
    """Triangular factors [N, N] in one table, by elimination in the order of rows; None unless all pivots are above 0.

    Of a nonsingular M-matrix entries off the diagonal only grow away from 0, so nothing is lost however their sizes
    differ; with rows that change places small unknowns would be differences of large ones.
    """
    from scipy.linalg import solve_triangular

    table, number = matrix.copy(), len(matrix)
    for low in range(0, number, BLOCK):
        top = min(low + BLOCK, number)
        columns = np.ascontiguousarray(table[low:, low:top].T)  # one after another in memory
        for k in range(top - low):
            if not columns[k, k] > 0:
                return None
            columns[k, k + 1 :] /= columns[k, k]
            columns[k + 1 :, k + 1 :] -= np.outer(columns[k + 1 :, k], columns[k, k + 1 :])
        table[low:, low:top] = columns.T
        inner = table[low:top, low:top]
        table[low:top, top:] = solve_triangular(inner, table[low:top, top:], lower=True, unit_diagonal=True)
        table[top:, top:] -= table[top:, low:top] @ table[low:top, top:]
    return table
