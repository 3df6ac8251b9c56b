"""Where the entries of a sparse process go when its actions are summed over: found once, filled for every reward."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

__all__ = ["Merging", "Pattern", "transposed_table"]

FILLED = 1.25  # times the entries of a table up to which its rows are filled up to one length: products are faster


class Pattern:
    """The places of a sparse table, row by row.

    Attributes:
        pointers: int32 [rows + 1], where each row begins; or one number, the length of every row.
        columns: int32 [M].
        places: int64, where entries that were given row by row are found now; where rows were filled up there are more
            places than entries.
    """

    def __init__(self, pointers: np.ndarray, columns: np.ndarray, device: torch.device) -> None:
        counts = np.diff(pointers)
        width = int(counts.max(initial=0))
        places = np.arange(len(columns), dtype=np.int64)
        self.pointers: Tensor | int
        if 0 < width * len(counts) <= FILLED * len(columns):
            places += np.repeat(np.arange(len(counts)) * width - pointers[:-1], counts)
            filled = np.zeros(width * len(counts), dtype=np.int32)
            filled[places] = columns
            columns, self.pointers = filled, width
        else:
            self.pointers = torch.from_numpy(pointers.astype(np.int32)).to(device)
        self.columns = torch.from_numpy(columns.astype(np.int32, copy=False)).to(device)
        self.places = torch.from_numpy(places).to(device)

    def filled(self, entries: Tensor) -> Tensor:
        """Entries that are given row by row, at their places; 0 at those that only fill a row up."""
        return entries.new_zeros(len(self.columns)).index_copy_(0, self.places, entries)

    def begins(self, rows: int) -> Tensor:
        """Int32 [rows + 1], where each row begins."""
        if isinstance(self.pointers, Tensor):
            return self.pointers
        return torch.arange(rows + 1, dtype=torch.int32, device=self.columns.device) * self.pointers


def transposed_table(
    pointers: Tensor | int, columns: Tensor, weights: Tensor, rows: int, width: int
) -> tuple[Pattern, Tensor]:
    """The pattern and the entries of the transpose [width, rows] of a sparse table on the CPU, in linear time."""
    import scipy.sparse

    begins = torch.arange(rows + 1) * pointers if isinstance(pointers, int) else pointers
    parts = (weights.numpy(), columns.numpy(), begins.numpy())
    turned = scipy.sparse.csr_array(parts, shape=(rows, width)).tocsc()
    pattern = Pattern(turned.indptr, turned.indices, weights.device)
    return pattern, pattern.filled(torch.from_numpy(turned.data))


class Merging:
    """How M = sum_a w_a P_a is made of the entries of P; its pattern takes O(N) numbers, and is kept with P's.

    Args:
        pointers: int [S A + 1], where each row of P begins; or one number, the length of every row.
        columns: int32 [N], next states.
        num_states: S.
        rows_per_state: A.

    Attributes:
        pattern: of M [S, S].
        slots: int32 [N], where each entry of P goes in it.
    """

    def __init__(self, pointers: Tensor | int, columns: Tensor, num_states: int, rows_per_state: int) -> None:
        import scipy.sparse

        self.num_states, self.rows_per_state = num_states, rows_per_state
        rows = num_states * rows_per_state
        begins = np.arange(rows + 1) * pointers if isinstance(pointers, int) else pointers.cpu().numpy()
        self.counts = pointers if isinstance(pointers, int) else pointers.diff()  # of entries in a row of P
        # Sorting the entries of each state brings those of one next state together.
        shape = (num_states, num_states)
        entries = np.arange(len(columns)), columns.cpu().numpy().astype(np.int32), begins[::rows_per_state].copy()
        table = scipy.sparse.csr_array(entries, shape=shape)
        table.sort_indices()
        first = np.ones(len(columns), dtype=bool)
        first[1:] = table.indices[1:] != table.indices[:-1]
        first[table.indptr[:-1][np.diff(table.indptr) > 0]] = True
        number = np.concatenate([[0], first.cumsum()])
        self._places = scipy.sparse.csr_array(
            (np.arange(number[-1]), table.indices[first], number[table.indptr]), shape=shape
        )
        self.pattern = Pattern(self._places.indptr, self._places.indices, columns.device)
        slots = torch.empty(len(columns), dtype=torch.int64)
        slots[torch.from_numpy(table.data)] = torch.from_numpy(number[1:] - 1)
        self.slots = self.pattern.places[slots.to(columns.device)].to(torch.int32)

    def merged(self, weights: Tensor, shares: Tensor) -> Tensor:
        """[M], the entries of M.

        Args:
            weights: [N], those of P.
            shares: [S, A], w.
        """
        total = weights.new_zeros(len(self.pattern.columns))
        return total.index_add_(0, self.slots, self._by_entry(weights, shares))

    def spread(self, weights: Tensor, totals: Tensor) -> Tensor:
        """[S, A], the sums over outcomes of what belongs to the places of M: the transpose of `merged` by shares.

        Args:
            weights: [N], those of P.
            totals: [M].
        """
        found, number = totals.index_select(0, self.slots).mul_(weights), self.num_states * self.rows_per_state
        if isinstance(self.counts, int):
            sums = found.view(number, self.counts).sum(-1)
        else:
            rows = torch.arange(number, device=found.device).repeat_interleave(self.counts)
            sums = found.new_zeros(number).index_add_(0, rows, found)
        return sums.view(self.num_states, self.rows_per_state)

    def _by_entry(self, weights: Tensor, shares: Tensor) -> Tensor:
        """[N], each entry times the share of its action."""
        if isinstance(self.counts, int):
            return (weights.view(-1, self.counts) * shares.reshape(-1, 1)).view(-1)
        return weights * shares.reshape(-1).repeat_interleave(self.counts)

    @cached_property
    def transposed(self) -> tuple[Pattern, Tensor]:
        """The pattern of M' [S, S], and for each of its entries the place in M that it comes from, int64."""
        turned = self._places.tocsc()
        pattern = Pattern(turned.indptr, turned.indices, self.slots.device)
        return pattern, self.pattern.places[torch.from_numpy(turned.data).to(self.slots.device)]

    def transpose(self, merged: Tensor) -> Tensor:
        """The entries of M', at the places of its pattern, from those of M."""
        pattern, sources = self.transposed
        return pattern.filled(merged[sources])
