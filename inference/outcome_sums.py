"""Weighted sums over outcomes, y(s, a) = sum_k w_k x(s'_k), and their transposes, by operations of torch.

Sums are made for blocks of states, so that what lies between two products stays in the cache. x must be finite: what is
-inf is masked before.
"""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

__all__ = ["CsrSums", "DenseSums", "ListSums", "OutcomeSums"]


class OutcomeSums:
    """Sums over the outcomes of every (s, a).

    Attributes:
        num_states: S, the length of x.
        rows_per_state: A, or 1 where actions have been summed over.
    """

    num_states: int
    rows_per_state: int

    def gather(self, x: Tensor, start: int, stop: int, out: Tensor) -> Tensor:
        """sum_k w_k x(s'_k) for the states from `start` to `stop`.

        Args:
            x: [S] or [S, B], finite.
            start: the first state.
            stop: the state after the last.
            out: [(stop - start) A] or with B behind, written and returned.
        """
        raise NotImplementedError

    def scatter(self, y: Tensor) -> Tensor:
        """The transpose: w_k y(s, a) summed up at the next states.

        Args:
            y: [S A] or [S A, B], finite.

        Returns:
            [S] or [S, B].
        """
        raise NotImplementedError

    def over_actions(self, weights: Tensor) -> OutcomeSums:
        """The sums sum_a weights(s, a) y(s, a) as one: rows_per_state is 1.

        Args:
            weights: [S, A].
        """
        raise NotImplementedError


class DenseSums(OutcomeSums):
    """Products with a full table.

    Args:
        weights: [S, A, S].
    """

    def __init__(self, weights: Tensor) -> None:
        self.num_states, self.rows_per_state = weights.shape[0], weights.shape[1]
        self.matrix = weights.reshape(-1, self.num_states)

    def gather(self, x: Tensor, start: int, stop: int, out: Tensor) -> Tensor:
        rows = self.matrix[start * self.rows_per_state : stop * self.rows_per_state]
        return torch.mv(rows, x, out=out) if x.dim() == 1 else torch.mm(rows, x, out=out)

    def scatter(self, y: Tensor) -> Tensor:
        return self.matrix.t() @ y

    def over_actions(self, weights: Tensor) -> OutcomeSums:
        return DenseSums(weights[:, None, :] @ self.matrix.view(*weights.shape, -1))


class CsrSums(OutcomeSums):
    """Products with a sparse table.

    Args:
        pointers: int [S A + 1], where each row begins; or one number, the length of every row.
        columns: int32 [N], next states.
        weights: [N].
        num_states: S.
    """

    def __init__(self, pointers: Tensor | int, columns: Tensor, weights: Tensor, num_states: int) -> None:
        rows = len(weights) // pointers if isinstance(pointers, int) else len(pointers) - 1
        self.num_states, self.rows_per_state = num_states, rows // num_states
        self.pointers, self.columns, self.weights = pointers, columns, weights
        self.blocks: dict[tuple[int, int], Tensor] = {}
        self.even: dict[int, Tensor] = {}
        self.transpose: Tensor | None = None

    def gather(self, x: Tensor, start: int, stop: int, out: Tensor) -> Tensor:
        key = (start * self.rows_per_state, stop * self.rows_per_state)
        if key not in self.blocks:
            pointers, first, last = self._pointers(*key)
            self.blocks[key] = _csr(pointers, self.columns[first:last], self.weights[first:last], self.num_states)
        matrix = self.blocks[key]
        return torch.mv(matrix, x, out=out) if x.dim() == 1 else torch.mm(matrix, x, out=out)

    def scatter(self, y: Tensor) -> Tensor:
        if self.transpose is None:
            self.transpose = self._transposed()
        return self.transpose @ y

    def _pointers(self, first: int, last: int) -> tuple[Tensor, int, int]:
        """(int32, where the rows from `first` to `last` begin, counted from the first entry; that entry; the last)."""
        if isinstance(self.pointers, int):
            width, number = self.pointers, last - first
            if number not in self.even:  # blocks of one size share them
                self.even[number] = torch.arange(number + 1, dtype=torch.int32, device=self.columns.device) * width
            return self.even[number], first * width, last * width
        pointers = self.pointers[first : last + 1]
        begin, end = int(pointers[0]), int(pointers[-1])
        return (pointers if begin == 0 else pointers - begin).int(), begin, end

    def over_actions(self, weights: Tensor) -> OutcomeSums:
        rows = self._rows()
        shares = self.weights * weights.reshape(-1)[rows]
        shape = (self.num_states, self.num_states)
        return CsrSums(*_sorted(rows // self.rows_per_state, self.columns, shares, shape), self.num_states)

    def _rows(self) -> Tensor:
        """int32 [N], the row of each entry."""
        number = self.num_states * self.rows_per_state
        counts: Tensor | int = self.pointers if isinstance(self.pointers, int) else self.pointers.diff()
        return torch.arange(number, device=self.columns.device, dtype=torch.int32).repeat_interleave(counts)

    def _transposed(self) -> Tensor:
        shape = (self.num_states * self.rows_per_state, self.num_states)
        made = _sorted(self.columns, self._rows(), self.weights, (shape[1], shape[0]))
        return _csr(*made, shape[0])


class ListSums(OutcomeSums):
    """Gathers, one outcome after the other.

    Args:
        next_states: int [S, A, K].
        weights: [S, A, K].
    """

    def __init__(self, next_states: Tensor, weights: Tensor) -> None:
        self.num_states, self.rows_per_state, num_outcomes = weights.shape
        self.columns = next_states.reshape(-1, num_outcomes).t().to(torch.int32).contiguous()
        self.weights = weights.reshape(-1, num_outcomes).t().contiguous()

    def gather(self, x: Tensor, start: int, stop: int, out: Tensor) -> Tensor:
        rows = slice(start * self.rows_per_state, stop * self.rows_per_state)
        values = torch.empty_like(out)
        out.zero_()
        for columns, weights in zip(self.columns, self.weights, strict=True):
            torch.index_select(x, 0, columns[rows], out=values)
            out.addcmul_(weights[rows] if x.dim() == 1 else weights[rows][:, None], values)
        return out

    def scatter(self, y: Tensor) -> Tensor:
        total = y.new_zeros((self.num_states, *y.shape[1:]))
        for columns, weights in zip(self.columns, self.weights, strict=True):
            total.index_add_(0, columns, y * (weights if y.dim() == 1 else weights[:, None]))
        return total

    def over_actions(self, weights: Tensor) -> OutcomeSums:
        shape = (self.num_states, 1, -1)
        return ListSums(self.columns.t().reshape(shape), (self.weights.t() * weights.reshape(-1, 1)).reshape(shape))


def _csr(pointers: Tensor, columns: Tensor, weights: Tensor, width: int) -> Tensor:
    with warnings.catch_warnings():  # torch calls its sparse layouts a beta
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(pointers, columns, weights, (len(pointers) - 1, width), check_invariants=False)


def _sorted(rows: Tensor, columns: Tensor, weights: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """(int32 pointers, int32 columns, weights) of entries in any order; those of one place are added up."""
    if rows.is_cuda:
        table = torch.sparse_coo_tensor(torch.stack([rows, columns]), weights, shape, check_invariants=False).coalesce()
        rows, columns = table.indices()
        counts = torch.bincount(rows, minlength=shape[0])
        pointers = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return pointers.int(), columns.int(), table.values()
    # Buckets in linear time, where torch sorts.
    entries = (weights.numpy(), (rows.numpy(), columns.numpy()))
    matrix = scipy.sparse.coo_array(entries, shape=shape).tocsr()
    parts = (matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32), matrix.data)
    pointers, columns, weights = (torch.from_numpy(part) for part in parts)
    return pointers, columns, weights
