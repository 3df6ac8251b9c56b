"""Linear systems (I - M) x = b and (I - M)^T x = b, where M >= 0 is a list of entries: dense, sparse or iterated.

Which of them is decided in one place, `SystemPattern.method`, from the number N of unknowns and an estimate of the
entries that the factors of a sparse elimination would have:

    dense     N <= 150: elimination without subtractions; N <= 3,000 and the factors at least half full: LU of [N, N]
    sparse    up to 1e8 entries of the factors (about 1.5 GB): SuperLU, ordered by minimum degree on M + M^T
    iterate   else: BiCGSTAB on the residual (van der Vorst 1992), or the series b + M b + M^2 b + ... where that stalls

Measured on one core, factorising once: a planar road network of 296,000 states and 1.2e6 entries takes 2.2 s and
1.7e7 entries, a grid of 550 x 550 states 1.4 s and 2.0e7, 10,000 states with random successors 4 s and 1.0e7; the last
grows by the cube of N, which is where iterating starts. COLAMD instead of minimum degree is about as fast on the road
and twice as full on the grid.

Where rows of M nearly sum to 1, what a row lacks says everything, and 1 - M(s, s) does not hold it. So chains give what
leaves each state (`exits`) besides M: the diagonal is then the sum of what leads elsewhere, and solutions are right to
rounding however seldom the chain ends: by the elimination of Grassmann, Taksar and Heyman (1985), which never
subtracts, or by an LU whose residual, taken from differences x_s - x_s', is worked off.

If rho(M) < 1, I - M is a nonsingular M-matrix: elimination needs no pivoting, and keeps the signs that it has (Berman
and Plemmons 1994, chapter 6). (I - M)^-1 1 is then positive; conversely, a y > 0 with (I - M) y > 0 shows rho(M) < 1.

Everything is computed in float64 and on the CPU, wherever the tensors live.
"""

from __future__ import annotations

import math
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cai.inference.kernels.native.factors import NativeFactors
from cai.inference.kernels.native.library import available
from cai.inference.tabular.markov.elimination import BLOCK, unpivoted
from cai.inference.tabular.markov.iterated import ROUNDS, iterated
from cai.inference.tabular.markov.solve_gradient import Solve

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix, csr_matrix

__all__ = ["LinearSystem", "SystemPattern"]

TINY = 150  # unknowns up to which elimination without subtractions costs nothing
WHOLE = 1500  # unknowns up to which it serves where nothing else does
DENSE_LIMIT = 3000  # unknowns up to which [N, N] may be formed
FILL_LIMIT = 1e8  # entries of the factors up to which they are made, 12 to 16 bytes each
WIDE = 8  # right-hand sides from which native loops over rows of them are faster than SuperLU's own
PROOFS = 5  # vectors that are tried as a proof of rho(M) < 1
EPS = float(np.finfo(np.float64).eps)


class SystemPattern:
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

    def system(self, weights: Tensor, exits: Tensor | None = None) -> LinearSystem:
        """I - M for the entries `weights` [E] >= 0, which may carry gradients; for `exits` see `LinearSystem`."""
        return LinearSystem(self, weights, exits)


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
        exits: [N], what rows of M lack to 1, exactly; None where M is no chain.
    """

    def __init__(self, pattern: SystemPattern, weights: Tensor, exits: Tensor | None = None) -> None:
        self.pattern, self.dtype = pattern, weights.dtype
        self.weights = weights.double()
        self._entries = self.weights.detach()
        self.exits = None if exits is None else exits.detach().double().cpu().numpy()

    @property
    def method(self) -> str:
        """How it is solved: see `SystemPattern.method`."""
        return self.pattern.method

    @cached_property
    def lengths(self) -> Tensor | None:
        """(I - M)^-1 1 [N], detached, all positive; None if rho(M) is 1 or more, as far as float64 can tell.

        For a chain these are the steps that it is expected to make.
        """
        ones = np.ones((self.pattern.number, 1))
        if not self.pattern.number:
            return self._tensor(ones[:, 0])
        found = self.answer(ones)
        if found is None or not (np.isfinite(found).all() and (found > 0).all()):
            return None
        if self.exits is None and not self._proved(ones, found):
            return None
        return self._tensor(found[:, 0])

    def _proved(self, side: np.ndarray, found: np.ndarray) -> bool:
        """Whether rho(M) < 1, by a y > 0 with (I - M) y > 0.

        Of y = (I - M)^-1 1 this is no more than rounding where some entries are 1e16 and more; then y's own solution is
        tried, whose shares are those of the Perron vector ever more closely.

        Args:
            side: 1 [N, 1].
            found: y [N, 1] > 0.
        """
        for proofs in range(PROOFS):
            left = self._matrix @ found
            if (left > 0.5 * side).all() and (not proofs or (side > 1e3 * EPS * found).all()):
                return True
            side = found / found.max()
            following = self.answer(side)
            if following is None or not (np.isfinite(following).all() and (following > 0).all()):
                return False
            found = following
        return False

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
        found: Tensor = Solve.apply(self.weights, columns, self, transposed)
        return (found if sides.dim() == 2 else found[:, 0]).to(sides.dtype)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._entries.device, self.dtype)

    @cached_property
    def _listed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows, columns, weights) of the entries that are not 0."""
        weights = self._entries.cpu().numpy()
        kept = weights != 0
        rows, columns = self.pattern.rows.cpu().numpy()[kept], self.pattern.columns.cpu().numpy()[kept]
        return rows, columns, weights[kept]

    @cached_property
    def _leading(self) -> tuple[csr_matrix, np.ndarray]:
        """(W, d): what leads to other states, and what leaves each in all; I - M = diag(d) - W, of chains alone."""
        from scipy.sparse import csr_matrix

        rows, columns, weights = self._listed
        away = rows != columns
        number = self.pattern.number
        others = csr_matrix((weights[away], (rows[away], columns[away])), shape=(number, number))
        assert self.exits is not None
        return others, np.asarray(others.sum(1)).ravel() + self.exits

    @cached_property
    def _matrix(self) -> csc_matrix:
        """I - M on the CPU; of chains with each row over its diagonal entry."""
        from scipy.sparse import csc_matrix, diags, identity

        number = self.pattern.number
        if self.exits is not None:
            others, leaves = self._leading
            return (identity(number, format="csc") - diags(1 / leaves) @ others).tocsc()
        rows, columns, weights = self._listed
        return (identity(number, format="csc") - csc_matrix((weights, (rows, columns)), shape=(number, number))).tocsc()

    @cached_property
    def _eliminated(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(lower, upper) triangular factors [N, N] of a chain's I - M from behind, found without a subtraction."""
        others, _ = self._leading
        matrix, exits = _whole(others), self.exits.copy()  # type: ignore[union-attr]
        number = len(exits)
        upper, lower = np.zeros_like(matrix), np.eye(number)
        for top in range(number, 0, -BLOCK):
            low = max(top - BLOCK, 0)
            for k in range(top - 1, low - 1, -1):  # what the block itself needs
                row = matrix[k, :k]
                leaves = row.sum() + exits[k]
                if not leaves > 0:
                    return None
                shares = matrix[:k, k] / leaves
                lower[:k, k] = -shares
                upper[k, :k], upper[k, k] = -row, leaves
                matrix[low:k, :k] += np.outer(shares[low:], row)
                matrix[:low, low:k] += np.outer(shares[:low], row[low:])
                np.fill_diagonal(matrix[low:k, low:k], 0.0)
                exits[:k] += shares * exits[k]
            matrix[:low, :low] += lower[:low, low:top] @ upper[low:top, :low]
            np.fill_diagonal(matrix[:low, :low], 0.0)
        return lower, upper  # I - M = lower @ upper, of which `lower` is unit upper and `upper` lower triangular

    @cached_property
    def _factor(self) -> Any:
        """What solves for `_matrix`: (LU, pivots, whether of its transpose), a SuperLU, itself, or None."""
        from scipy.sparse.linalg import splu

        if not math.isfinite(self._matrix.sum()):
            return None
        if self.method == "dense":
            # Rows of a chain weigh no more than their diagonal: the columns of the transpose need no other pivots.
            whole, turned = _whole(self._matrix), self.exits is not None
            factors, pivots, info = torch.linalg.lu_factor_ex(torch.from_numpy(whole.T if turned else whole))
            order = np.arange(len(whole))
            if not (pivots.numpy() - 1 == order).all():  # rows that change places bring subtractions along
                own = unpivoted(whole)
                if own is not None:
                    return own, order, False
            return (factors.numpy(), pivots.numpy() - 1, turned) if int(info) == 0 else None  # scipy counts from 0
        if self.method == "iterate":
            return self._matrix
        try:
            return splu(
                self._matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
            )
        except RuntimeError:  # "Factor is exactly singular"
            return None

    def _use_rows(self) -> None:
        """Factors of a SuperLU become those that native loops read, where there are such loops; it is let go."""
        factor = self._factor  # looked at once: another thread may put the native one in its place
        if self.method == "sparse" and available() and not isinstance(factor, (NativeFactors, type(None))):
            self.__dict__["_factor"] = NativeFactors(factor)

    def answer(self, sides: np.ndarray, transposed: bool = False, *, corrected: bool = True) -> np.ndarray | None:
        """The solution [N, R] of sides [N, R], without a history; None where there is none that can be found.

        Without `corrected`, which is a second solve, the factors' own: of sides >= 0 those have no cancellation.
        """
        if not sides.size:
            return sides.copy()
        with np.errstate(all="ignore"):  # what is not finite is seen by the caller
            if self.exits is None:
                return self._solved(sides, transposed, corrected)
            if not (self._leading[1] > 0).all() or not np.isfinite(self._leading[1]).all():
                return None
            if self.pattern.number <= TINY:
                return self._backward(sides, transposed)
            found = self._worked_off(sides, transposed)
            return self._backward(sides, transposed) if found is None and self.pattern.number <= WHOLE else found

    def _backward(self, sides: np.ndarray, transposed: bool) -> np.ndarray | None:
        from scipy.linalg import solve_triangular

        if self._eliminated is None:
            return None
        (lower, upper), options = self._eliminated, {"check_finite": False}
        if transposed:
            inner = solve_triangular(upper, sides, trans=1, lower=True, **options)
            return np.asarray(solve_triangular(lower, inner, trans=1, lower=False, **options))
        inner = solve_triangular(lower, sides, lower=False, **options)
        return np.asarray(solve_triangular(upper, inner, lower=True, **options))

    def _worked_off(self, sides: np.ndarray, transposed: bool) -> np.ndarray | None:
        """A chain's solution by an LU of rows over their diagonal entries, until its residual is that of rounding."""
        leaves = self._leading[1]

        def guess(side: np.ndarray) -> np.ndarray | None:
            if transposed:  # A = D B: A^T x = B^T (D x)
                found = self._solved(side, True, False)
                return None if found is None else found / leaves[:, None]
            return self._solved(side / leaves[:, None], False, False)

        x, last = guess(sides), math.inf
        if x is None:
            return None
        for _ in range(ROUNDS):
            if not np.isfinite(x).all():
                return None
            left, size = self._residual(x, sides, transposed)
            if (np.abs(left) <= 4 * EPS * size).all():
                return x
            step = guess(left)
            if step is None:
                return None
            length = float(np.abs(step).max() / np.abs(x).max())
            if length <= EPS:
                return x
            if length > 0.5 * last:  # as good as its side is known, however far the chain carries that
                return x if length < 1e-9 or (np.abs(left) <= 16 * EPS * size).all() else None
            x, last = x + step, length
        return x

    def _residual(self, x: np.ndarray, sides: np.ndarray, transposed: bool) -> tuple[np.ndarray, np.ndarray]:
        """(b - A x, its rounding) of a chain, from differences of x along the entries."""
        leaves, exits = self._leading[1], self.exits[:, None]  # type: ignore[index]
        rows, columns, weights = self._places
        if transposed:
            sent = leaves[:, None] * x
            return sides + _added(columns, weights[:, None] * x[rows], len(x)) - sent, np.abs(sides) + np.abs(sent)
        drops = weights[:, None] * (x[columns] - x[rows])
        size = np.abs(sides) + _added(rows, np.abs(drops), len(x)) + exits * np.abs(x)
        return sides + _added(rows, drops, len(x)) - exits * x, size

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows, columns, weights) of what leads to other states."""
        others = self._leading[0].tocoo()
        return (*others.coords, others.data)

    def _solved(self, sides: np.ndarray, transposed: bool, corrected: bool = True) -> np.ndarray | None:
        """What the factors of `_matrix` say, corrected once."""
        from scipy.linalg import get_lapack_funcs

        factor = self._factor
        if factor is None:
            return None
        if self.method == "iterate":
            matrix = self._matrix.T.tocsc() if transposed else self._matrix
            columns = [column for column in map(partial(iterated, matrix), sides.T) if column is not None]
            return np.stack(columns, -1) if len(columns) == sides.shape[1] else None

        def once(b: np.ndarray) -> np.ndarray:
            if self.method == "dense":
                factors, pivots, turned = factor
                solve = get_lapack_funcs("getrs", dtype=np.float64)
                return np.asarray(solve(factors, pivots, b, trans=transposed != turned)[0])
            return np.asarray(self._factor.solve(b, trans="T" if transposed else "N"))

        if not corrected:
            if sides.shape[1] >= WIDE:
                self._use_rows()
            return once(sides)
        x = once(np.ascontiguousarray(sides))
        return x + once(sides - (self._matrix.T if transposed else self._matrix) @ x)


def _whole(matrix: Any) -> np.ndarray:
    """[N, N] of its own, of a sparse matrix or a table."""
    return matrix.copy() if isinstance(matrix, np.ndarray) else np.asarray(matrix.toarray())


def _added(places: np.ndarray, parts: np.ndarray, number: int) -> np.ndarray:
    """[N, R], parts [E, R] added up at their places [E]."""
    return np.stack([np.bincount(places, column, number) for column in parts.T], -1)
