"""Solving A x = b for a sparse A without factors: corrections until the residual is that of rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix

__all__ = ["ROUNDS", "ROUND_STEPS", "iterated"]

RESIDUAL = 1e-14  # of an iterated solution, relative to its largest entry, at which it is as good as a direct one
ROUNDS = 60  # corrections of an iterated solution
ROUND_STEPS = 500  # steps of one correction


def iterated(matrix: csc_matrix, side: np.ndarray) -> np.ndarray | None:
    """A^-1 b by corrections until the residual is that of rounding; None if it does not get there.

    Every correction is BiCGSTAB's, or where that does not halve the residual the sum of a series, for which A is I - M.
    """
    from scipy.sparse.linalg import bicgstab

    matrix = matrix.tocsr()
    x, left = np.zeros_like(side), side
    for _ in range(ROUNDS):
        size = np.abs(left).max()
        if size <= RESIDUAL * max(np.abs(x).max(), np.abs(side).max()):
            return x
        with np.errstate(all="ignore"):
            step, _ = bicgstab(matrix, left, rtol=1e-8, atol=0.0, maxiter=ROUND_STEPS)
            better = left - matrix @ step
        if not np.isfinite(better).all() or np.abs(better).max() > 0.5 * size:
            step, better = np.zeros_like(side), left
            for _ in range(ROUND_STEPS):
                step, better = step + better, better - matrix @ better
            better = left - matrix @ step
            if not np.isfinite(better).all():
                return None
        x = x + step
        left = side - matrix @ x
    return x if np.abs(left).max() <= 100 * RESIDUAL * max(np.abs(x).max(), np.abs(side).max()) else None
