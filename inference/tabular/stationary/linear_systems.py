"""Linear systems (I - M) x = b and (I - M)^T x = b, where M >= 0 is a list of entries: dense, sparse or iterated.

Which of the three is decided in one place, `Pattern.method`, from the number N of unknowns and an estimate of the
entries that the factors of a sparse elimination would have:

    dense     N <= 200, or N <= 3,000 and the factors would be at least half full: LU of [N, N], N^3 time
    sparse    up to 1e8 entries of the factors (about 1.5 GB): SuperLU, ordered by minimum degree on M + M^T
    iterate   else: BiCGSTAB on the residual (van der Vorst 1992), or the series b + M b + M^2 b + ... where that stalls

Measured on one core, factorising once: a planar road network of 296,000 states and 1.2e6 entries takes 2.2 s and
1.7e7 entries, a grid of 550 x 550 states 1.4 s and 2.0e7, 10,000 states with random successors 4 s and 1.0e7; the last
grows by the cube of N, which is where iterating starts. COLAMD instead of minimum degree is about as fast on the road
and twice as full on the grid.

If rho(M) < 1, I - M is a nonsingular M-matrix: elimination needs no pivoting, and keeps the signs that it has (Berman
and Plemmons 1994, chapter 6). (I - M)^-1 1 is then positive; conversely, a y > 0 with (I - M) y > 0 shows rho(M) < 1.

Everything is computed in float64; the sparse and the iterated way on the CPU, wherever the tensors live.
"""

from __future__ import annotations

import math
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix, csr_matrix

__all__ = ["LinearSystem", "Pattern"]

TINY = 200  # unknowns up to which nothing beats a dense solve
DENSE_LIMIT = 3000  # unknowns up to which [N, N] may be formed
FILL_LIMIT = 1e8  # entries of the factors up to which they are made, 12 to 16 bytes each
RESIDUAL = 1e-14  # of an iterated solution, relative to its largest entry, at which it is as good as a direct one
ROUNDS = 60  # corrections of an iterated solution
ROUND_STEPS = 500  # steps of one correction


class Pattern:
    """The places (row, column) of the entries of M [N, N]; a place may be listed several times, and its entries add up.

    Args:
        rows: int64 [E].
        columns: int64 [E].
        number: N.
    """

    def __init__(self, rows: Tensor, columns: Tensor, number: int) -> None:
        self.rows, self.columns, self.number = rows, columns, number

    @cached_property
    def method(self) -> str:
        """Which way is taken by the rule of this module: "dense", "sparse" or "iterate"."""
        if self.number <= TINY:
            return "dense"
        fill = self.estimated_fill
        if self.number <= DENSE_LIMIT:
            return "dense" if fill >= self.number**2 / 2 else "sparse"
        return "sparse" if fill <= FILL_LIMIT else "iterate"

    @cached_property
    def estimated_fill(self) -> float:
        """About how many entries the factors of I - M have: 4 N log2 N + 10 W^2 + 2 H N, and at most N^2.

        H counts the states that are joined with more than 10 sqrt(N) others, which are eliminated last. W is the widest
        layer of what is left, by distance from a state at its rim: removing a layer cuts the graph in two, so W is
        about the size of the last dense block. On grids, roads and random graphs the estimate is 0.9 to 10 times the
        true number, and errs towards iterating.
        """
        from scipy.sparse import coo_matrix

        number = self.number
        rows, columns = self.rows.cpu().numpy(), self.columns.cpu().numpy()
        joined = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(number, number)).tocsr()
        joined = (joined + joined.T).tocsr()
        hubs = np.diff(joined.indptr) > 10 * math.sqrt(number)
        rest = joined[~hubs][:, ~hubs] if hubs.any() else joined
        width = _widest_layer(rest) if rest.shape[0] else 0
        fill = 4 * number * math.log2(max(number, 2)) + 10.0 * width**2 + 2.0 * hubs.sum() * number
        return float(min(fill, float(number) ** 2))

    def system(self, weights: Tensor) -> LinearSystem:
        """I - M for the entries `weights` [E] >= 0, which may carry gradients."""
        return LinearSystem(self, weights)


def _widest_layer(joined: csr_matrix) -> int:
    """Nodes in the largest layer of a breadth-first search through the largest component, begun at its rim."""
    from scipy.sparse.csgraph import connected_components, dijkstra

    count, labels = connected_components(joined, directed=False)
    start = 0 if count == 1 else int(np.flatnonzero(labels == np.bincount(labels).argmax())[0])
    for _ in range(2):  # from anywhere to the rim, and from there
        distance = dijkstra(joined, directed=False, indices=start, unweighted=True)
        start = int(np.where(np.isfinite(distance), distance, -1.0).argmax())
    return int(np.bincount(distance[np.isfinite(distance)].astype(np.int64)).max())


class LinearSystem:
    """I - M, factorised once for all right-hand sides, for both sides of the matrix and for every backward pass.

    Attributes:
        pattern: the places of the entries.
        weights: [E], the entries, float64.
    """

    def __init__(self, pattern: Pattern, weights: Tensor) -> None:
        self.pattern, self.dtype = pattern, weights.dtype
        self.weights = weights.double()
        self._entries = self.weights.detach()

    @property
    def method(self) -> str:
        """How it is solved: see `Pattern.method`."""
        return self.pattern.method

    @cached_property
    def lengths(self) -> Tensor | None:
        """(I - M)^-1 1 [N], detached, all positive; None if rho(M) is 1 or more, as far as float64 can tell.

        For a chain these are the steps that it is expected to make.
        """
        ones = torch.ones(self.pattern.number, 1, dtype=torch.float64, device=self._entries.device)
        if not self.pattern.number:
            return ones[:, 0].to(self.dtype)
        if self._factor is None:
            return None
        found = self._answer(ones, False)
        if found is None or not bool(torch.isfinite(found).all()) or not bool((found > 0).all()):
            return None
        if self.method != "dense" and not bool((self._matrix @ found.cpu().numpy() > 0.5).all()):
            return None
        return found[:, 0].to(self.dtype)

    def solve(self, sides: Tensor, *, transposed: bool = False) -> Tensor:
        """(I - M)^-1 b, or (I - M)^-T b; differentiable in b and in the weights, as often as wanted.

        dx = (I - M)^-1 (db + dM x), so the backward pass is one more solve, with the other side of the matrix.

        Args:
            sides: b, [N] or [N, R].
            transposed: which side of the matrix.

        Raises:
            ArithmeticError: if rho(M) >= 1 as far as float64 can tell, or an iteration does not get there; ask
                `lengths` first.
        """
        if self.lengths is None:
            raise ArithmeticError(
                f"(I - M) x = b over {self.pattern.number} unknowns has no solution that is a sum over steps: rho(M) "
                "is 1 or more; ask `lengths` first"
            )
        columns = sides.double() if sides.dim() == 2 else sides.double()[:, None]
        found: Tensor = _Solve.apply(self.weights, columns, self, transposed)
        return (found if sides.dim() == 2 else found[:, 0]).to(sides.dtype)

    def guess(self, side: Tensor) -> Tensor | None:
        """What the factors say (I - M)^-1 b [N] is, without a look at rho(M); None if that is nothing or not finite."""
        found = None if self._factor is None else self._answer(side.detach().double()[:, None], False)
        if found is None or not bool(torch.isfinite(found).all()):
            return None
        return found[:, 0].to(side.dtype)

    @cached_property
    def _matrix(self) -> csc_matrix:
        """I - M without the entries that are 0, on the CPU."""
        from scipy.sparse import csc_matrix, identity

        number, weights = self.pattern.number, self._entries.cpu().numpy()
        kept = weights != 0
        rows, columns = self.pattern.rows.cpu().numpy()[kept], self.pattern.columns.cpu().numpy()[kept]
        inner = csc_matrix((weights[kept], (rows, columns)), shape=(number, number))
        return (identity(number, format="csc") - inner).tocsc()

    @cached_property
    def _factor(self) -> Any:
        """What solves for it: (LU, pivots), a SuperLU, the matrix to iterate with; None if there is no factor."""
        from scipy.sparse.linalg import splu

        number, device = self.pattern.number, self._entries.device
        if not bool(torch.isfinite(self._entries).all()):
            return None
        if self.method == "dense":
            places = self.pattern.rows * number + self.pattern.columns
            matrix = self._entries.new_zeros(number * number).index_add(0, places, self._entries)
            eye = torch.eye(number, dtype=torch.float64, device=device)
            factors, pivots, info = torch.linalg.lu_factor_ex(eye - matrix.reshape(number, number))
            return (factors, pivots) if int(info) == 0 else None
        if self.method == "iterate":
            return self._matrix
        try:
            return splu(
                self._matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
            )
        except RuntimeError:  # "Factor is exactly singular"
            return None

    def _answer(self, sides: Tensor, transposed: bool) -> Tensor | None:
        """The solution [N, R] of sides [N, R], without a history; None where an iteration gets nowhere."""
        if not sides.numel():
            return sides.clone()
        factor = self._factor
        if self.method == "dense":
            if transposed:  # A^T x = b; A = P L U, and `adjoint` of a real matrix is its transpose
                return torch.linalg.lu_solve(*factor, sides, adjoint=True)
            return torch.linalg.lu_solve(*factor, sides)
        matrix = self._matrix.T.tocsc() if transposed else self._matrix
        b = sides.cpu().numpy()
        if self.method == "iterate":
            columns = [column for column in map(partial(_iterated, matrix), b.T) if column is not None]
            if len(columns) < b.shape[1]:
                return None
            x = np.stack(columns, -1)
        else:
            trans = "T" if transposed else "N"
            x = factor.solve(b, trans=trans)
            with np.errstate(all="ignore"):  # what is not finite is seen by the caller
                x = x + factor.solve(b - matrix @ x, trans=trans)  # the rounding of the factors, once
        return torch.from_numpy(np.ascontiguousarray(x)).to(sides.device)


class _Solve(torch.autograd.Function):
    """x = (I - M)^-1 b; its backward pass is made of solves, so it can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, sides: Tensor, system: LinearSystem, transposed: bool) -> Tensor:
        solution = system._answer(sides.detach(), transposed)
        if solution is None:
            raise ArithmeticError(
                f"(I - M) x = b over {system.pattern.number} unknowns is too large to factorise, and its iteration "
                f"did not settle in {ROUNDS} rounds of {ROUND_STEPS} steps; give a lower discount, or a finite horizon"
            )
        ctx.system, ctx.transposed = system, transposed
        ctx.save_for_backward(weights, solution)
        return solution

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        weights, solution = ctx.saved_tensors
        adjoint: Tensor = _Solve.apply(weights, slopes[0], ctx.system, not ctx.transposed)
        if not ctx.needs_input_grad[0]:
            return None, adjoint, None, None
        rows, columns = ctx.system.pattern.rows, ctx.system.pattern.columns
        left, right = (solution, adjoint) if ctx.transposed else (adjoint, solution)
        return (left[rows] * right[columns]).sum(-1), adjoint, None, None


def _iterated(matrix: csc_matrix, side: np.ndarray) -> np.ndarray | None:
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
