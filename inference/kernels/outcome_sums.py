"""Weighted sums over outcomes, y(s, a) = sum_k w_k x(s'_k), and their transposes, by operations of torch.

Sums are made for blocks of states, so that what lies between two products stays in the cache. x must be finite: what is
-inf is masked before.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from cai.inference.kernels.sparse_patterns import Merging, transposed_table

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

    def gather_onto(
        self, base: Tensor, beta: float, x: Tensor, alpha: float, start: int, stop: int, out: Tensor
    ) -> Tensor:
        """Alpha sum_k w_k x(s'_k) + beta base, like `gather`.

        Args:
            base: of the shape of `out`.
            beta: its factor.
            x: see `gather`.
            alpha: the factor of the sums.
            start: see `gather`.
            stop: see `gather`.
            out: see `gather`.
        """
        return self.gather(x, start, stop, out).mul_(alpha).add_(base, alpha=beta)

    def chain(self, rows: Tensor, factors: Tensor) -> None:
        """Of sums over actions: fills every row by the transpose of the row before, times factors.

        Args:
            rows: [n, S], of which the first is known.
            factors: [S].
        """
        for before, row in pairwise(rows):
            torch.mul(self.scatter(before), factors, out=row)

    def correlate(self, ahead: Tensor, behind: Tensor) -> Tensor:
        """Of sums over actions: sum_j ahead(j, s) behind(j, s') for every s -> s', one number for each entry.

        Args:
            ahead: [n, S].
            behind: [n, S].
        """
        raise NotImplementedError

    def spread(self, totals: Tensor) -> Tensor:
        """Of sums over actions: [S, A], sum_k w_k totals(s -> s'_k) by the weights of the actions apart.

        Args:
            totals: of `correlate`.
        """
        raise NotImplementedError


class DenseSums(OutcomeSums):
    """Products with a full table.

    Args:
        weights: [S, A, S].
        apart: of sums over actions, the weights [S, A, S] before.
    """

    def __init__(self, weights: Tensor, apart: Tensor | None = None) -> None:
        self.num_states, self.rows_per_state = weights.shape[0], weights.shape[1]
        self.matrix = weights.reshape(-1, self.num_states)
        self.apart = apart

    def gather(self, x: Tensor, start: int, stop: int, out: Tensor) -> Tensor:
        rows = self.matrix[start * self.rows_per_state : stop * self.rows_per_state]
        return torch.mv(rows, x, out=out) if x.dim() == 1 else torch.mm(rows, x, out=out)

    def scatter(self, y: Tensor) -> Tensor:
        return self.matrix.t() @ y

    def gather_onto(
        self, base: Tensor, beta: float, x: Tensor, alpha: float, start: int, stop: int, out: Tensor
    ) -> Tensor:
        rows = self.matrix[start * self.rows_per_state : stop * self.rows_per_state]
        return torch.addmv(base, rows, x, beta=beta, alpha=alpha, out=out)

    def over_actions(self, weights: Tensor) -> OutcomeSums:
        table = self.matrix.view(*weights.shape, -1)
        return DenseSums(weights[:, None, :] @ table, table)

    def correlate(self, ahead: Tensor, behind: Tensor) -> Tensor:
        return ahead.t() @ behind

    def spread(self, totals: Tensor) -> Tensor:
        assert self.apart is not None
        return (self.apart @ totals[:, :, None])[..., 0]


class CsrSums(OutcomeSums):
    """Products with a sparse table.

    Args:
        pointers: int [S A + 1], where each row begins; or one number, the length of every row.
        columns: int32 [N], next states.
        weights: [N].
        num_states: S.
        apart: of sums over actions, how they were made, and the weights before.
    """

    def __init__(
        self,
        pointers: Tensor | int,
        columns: Tensor,
        weights: Tensor,
        num_states: int,
        apart: tuple[Merging, Tensor] | None = None,
    ) -> None:
        rows = len(weights) // pointers if isinstance(pointers, int) else len(pointers) - 1
        self.num_states, self.rows_per_state = num_states, rows // num_states
        self.pointers, self.columns, self.weights, self.apart = pointers, columns, weights, apart
        self.blocks: dict[tuple[int, int], Tensor] = {}
        self.even: dict[int, Tensor] = {}
        self._turned: Tensor | None = None  # memory for what is correlated
        self._onward: tuple[Tensor, Tensor] | None = None  # factors of a chain, and the transposed table times them

    def gather(self, x: Tensor, start: int, stop: int, out: Tensor) -> Tensor:
        matrix = self._block(start, stop)
        return torch.mv(matrix, x, out=out) if x.dim() == 1 else torch.mm(matrix, x, out=out)

    def gather_onto(
        self, base: Tensor, beta: float, x: Tensor, alpha: float, start: int, stop: int, out: Tensor
    ) -> Tensor:
        return torch.addmv(base, self._block(start, stop), x, beta=beta, alpha=alpha, out=out)

    def scatter(self, y: Tensor) -> Tensor:
        return self.transpose @ y

    def _block(self, start: int, stop: int) -> Tensor:
        key = (start * self.rows_per_state, stop * self.rows_per_state)
        if key not in self.blocks:
            pointers, first, last = self._pointers(*key)
            self.blocks[key] = _csr(pointers, self.columns[first:last], self.weights[first:last], self.num_states)
        return self.blocks[key]

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

    @cached_property
    def merging(self) -> Merging:
        """How actions are summed over."""
        return Merging(self.pointers, self.columns, self.num_states, self.rows_per_state)

    def over_actions(self, weights: Tensor) -> OutcomeSums:
        merging = self.merging
        pattern, merged = merging.pattern, merging.merged(self.weights, weights)
        return CsrSums(pattern.pointers, pattern.columns, merged, self.num_states, (merging, self.weights))

    def chain(self, rows: Tensor, factors: Tensor) -> None:
        if self._onward is None or self._onward[0] is not factors:
            table = self.transpose
            by_entry = factors.repeat_interleave(table.crow_indices().diff())
            scaled = _csr(table.crow_indices(), table.col_indices(), table.values() * by_entry, self.num_states)
            self._onward = factors, scaled
        for before, row in pairwise(rows):
            torch.mv(self._onward[1], before, out=row)

    def correlate(self, ahead: Tensor, behind: Tensor) -> Tensor:
        if self._turned is None or self._turned.shape[2] != len(ahead):
            self._turned = ahead.new_empty((2, self.num_states, len(ahead)))
        for rows, turned in zip((ahead, behind), self._turned, strict=True):
            torch.add(rows.t(), 0.0, out=turned)  # on all cores, where a copy would take one
        first, second = self._turned
        return torch.sparse.sampled_addmm(self._block(0, self.num_states), first, second.t(), beta=0.0).values()

    def spread(self, totals: Tensor) -> Tensor:
        assert self.apart is not None
        return self.apart[0].spread(self.apart[1], totals)

    @cached_property
    def transpose(self) -> Tensor:
        """The transposed table [S, S A]."""
        rows = self.num_states * self.rows_per_state
        if self.apart is None:
            return _transposed(self.pointers, self.columns, self.weights, rows, self.num_states)
        pattern, weights = self.apart[0].transposed[0], self.apart[0].transpose(self.weights)
        return _csr(pattern.begins(self.num_states), pattern.columns, weights, rows)


class ListSums(OutcomeSums):
    """Gathers, one outcome after the other.

    Args:
        next_states: int [S, A, K].
        weights: [S, A, K].
        apart: of sums over actions, the weights before, [K, S A].
    """

    def __init__(self, next_states: Tensor, weights: Tensor, apart: Tensor | None = None) -> None:
        self.num_states, self.rows_per_state, num_outcomes = weights.shape
        self.apart = apart
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
        shares = (self.weights.t() * weights.reshape(-1, 1)).reshape(shape)
        return ListSums(self.columns.t().reshape(shape), shares, self.weights)

    def correlate(self, ahead: Tensor, behind: Tensor) -> Tensor:
        return torch.stack([(ahead * behind.index_select(1, columns)).sum(0) for columns in self.columns], 1)

    def spread(self, totals: Tensor) -> Tensor:
        assert self.apart is not None
        return (totals.view(-1, len(self.apart)) * self.apart.t()).sum(-1).view(self.num_states, -1)


def _csr(pointers: Tensor, columns: Tensor, weights: Tensor, width: int) -> Tensor:
    with warnings.catch_warnings():  # torch calls its sparse layouts a beta
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(pointers, columns, weights, (len(pointers) - 1, width), check_invariants=False)


def _transposed(pointers: Tensor | int, columns: Tensor, weights: Tensor, rows: int, width: int) -> Tensor:
    """The transpose [width, rows] of a sparse table [rows, width]."""
    if isinstance(pointers, int):
        pointers = torch.arange(rows + 1, device=columns.device) * pointers
    if columns.is_cuda:
        return _csr(pointers.int(), columns, weights, width).t().to_sparse_csr()
    pattern, turned = transposed_table(pointers, columns, weights, rows, width)
    return _csr(pattern.begins(width), pattern.columns, turned, rows)
