"""Weighted sums over outcomes, y(s, a) = sum_k w_k x(s'_k), as products with a table [S A, S], dense or sparse.

One rule chooses: lists of outcomes are sparse, and so is a dense process of which less than one entry in eight is not
zero; else the table is dense. What the places of a process' entries decide (its transpose, and how actions are summed
over) is found once, and kept as long as its probabilities.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from cai.models.processes.mdp import MDP

__all__ = ["Pattern", "Table", "entries_like", "has_sparse_products", "process_table"]

SPARSE_BELOW = 1 / 8  # share of entries of a dense process that are not zero, below which sparse products are faster

with warnings.catch_warnings():  # filters belong to all threads, so here: torch says once that its layouts are a beta
    warnings.simplefilter("ignore", UserWarning)
    torch.sparse_csr_tensor([0, 0], [], [], (1, 1))

# By the probabilities themselves, which processes that differ elsewhere may share.
_MADE: WeakIdKeyDictionary = WeakIdKeyDictionary()


def has_sparse_products(device: torch.device) -> bool:
    """Whether torch multiplies sparse tables there: on a GPU, and on a CPU with MKL."""
    return device.type == "cuda" or (device.type == "cpu" and torch.backends.mkl.is_available())


@dataclass(frozen=True, eq=False)
class Pattern:
    """The places of the entries of a sparse table [rows, columns], row by row.

    Attributes:
        shape: (rows, columns).
        columns: int32 [N], the column of each entry.
        begins: int32 [rows + 1], where each row begins; or one number, the length of every row.
    """

    shape: tuple[int, int]
    columns: Tensor
    begins: Tensor | int

    @cached_property
    def pointers(self) -> Tensor:
        """int32 [rows + 1], where each row begins."""
        if isinstance(self.begins, Tensor):
            return self.begins
        return torch.arange(self.shape[0] + 1, dtype=torch.int32, device=self.columns.device) * self.begins

    @cached_property
    def rows(self) -> Tensor:
        """int64 [N], the row of each entry."""
        places = torch.arange(self.shape[0], device=self.columns.device)
        return places.repeat_interleave(self.pointers.diff().long())

    @cached_property
    def turned(self) -> tuple[Pattern, Tensor]:
        """The pattern of the transpose, and for each of its entries the number of the entry here, int64 [N]."""
        numbers = np.arange(len(self.columns))
        table = self._scipy(numbers, self.pointers, self.shape).tocsc()
        return self._like((self.shape[1], self.shape[0]), table), self._placed(table.data, torch.int64)

    @cached_property
    def merged(self) -> tuple[Pattern, Tensor]:
        """The pattern [S, S] of sums over actions, and int32 [N], where each entry of this one goes in it."""
        num_states = self.shape[1]
        per_state = self.shape[0] // num_states
        shape = (num_states, num_states)
        # Sorting the entries of each state brings those of one next state together.
        table = self._scipy(np.arange(len(self.columns)), self.pointers[::per_state], shape)
        table.sort_indices()
        first = np.ones(len(self.columns), dtype=bool)
        first[1:] = table.indices[1:] != table.indices[:-1]
        first[table.indptr[:-1][np.diff(table.indptr) > 0]] = True
        number = np.concatenate([[0], first.cumsum()])
        slots = np.empty(len(self.columns), dtype=np.int32)
        slots[table.data] = number[1:] - 1
        columns = self._placed(table.indices[first], torch.int32)
        pattern = Pattern(shape, columns, self._placed(number[table.indptr], torch.int32))
        return pattern, self._placed(slots, torch.int32)

    def _scipy(self, data: np.ndarray, pointers: Tensor, shape: tuple[int, int]) -> Any:
        from scipy.sparse import csr_array  # it takes a while to import, and not every process needs it

        return csr_array((data, self.columns.cpu().numpy().copy(), pointers.cpu().numpy()), shape=shape)

    def _like(self, shape: tuple[int, int], table: Any) -> Pattern:
        return Pattern(shape, self._placed(table.indices, torch.int32), self._placed(table.indptr, torch.int32))

    def _placed(self, numbers: np.ndarray, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(numbers).to(self.columns.device, dtype)


@dataclass(frozen=True, eq=False)
class Table:
    """A table [rows, columns].

    Attributes:
        weights: [rows, columns], or the entries [N] of a sparse one.
        pattern: where they are; None of a dense table.
    """

    weights: Tensor
    pattern: Pattern | None = None

    def product(self, x: Tensor) -> Tensor:
        """sum_k w_k x(s'_k), [rows, B] from x [columns, B], which is finite."""
        pattern = self.pattern
        if pattern is None:
            return self.weights @ x
        if has_sparse_products(x.device):
            return self._sparse @ x
        total = x.new_zeros((pattern.shape[0], x.shape[1]))
        return total.index_add_(0, pattern.rows, self.weights[:, None] * x.index_select(0, pattern.columns))

    def scatter(self, y: Tensor) -> Tensor:
        """The transpose: w_k y(s, a) summed up at the next states, [columns, B] from [rows, B]."""
        return self.weights.t() @ y if self.pattern is None else self.turned.product(y)

    def merge(self, shares: Tensor) -> Table:
        """The table [S, S] of the sums over actions sum_a shares(s, a) w_k(s, a), from shares [S, A]."""
        if self.pattern is None:
            return Table((shares[:, None, :] @ self.weights.view(*shares.shape, -1))[:, 0])
        pattern, slots = self.pattern.merged
        if isinstance(self.pattern.begins, int):
            by_entry = (shares.reshape(-1, 1) * self.weights.view(-1, self.pattern.begins)).view(-1)
        else:
            by_entry = shares.reshape(-1)[self.pattern.rows] * self.weights
        return Table(self.weights.new_zeros(len(pattern.columns)).index_add_(0, slots, by_entry), pattern)

    @cached_property
    def turned(self) -> Table:
        """The transpose of a sparse table."""
        assert self.pattern is not None
        pattern, order = self.pattern.turned
        return Table(self.weights.index_select(0, order), pattern)

    @cached_property
    def _sparse(self) -> Tensor:
        assert self.pattern is not None
        return torch.sparse_csr_tensor(
            self.pattern.pointers, self.pattern.columns, self.weights, self.pattern.shape, check_invariants=False
        )


def process_table(mdp: MDP) -> Table:
    """The table of a process' probabilities, made once."""
    columns, table = _MADE.get(mdp.probabilities, (None, None))
    if table is None or columns is not mdp.next_states:
        table = _process_table(mdp)
        _MADE[mdp.probabilities] = mdp.next_states, table
    return table


def _process_table(mdp: MDP) -> Table:
    chances = mdp.probabilities.detach()
    num_states, num_actions, num_outcomes = chances.shape
    rows = num_states * num_actions
    if mdp.next_states is not None:
        columns = mdp.next_states.reshape(-1).to(torch.int32)
        return Table(chances.reshape(-1), Pattern((rows, num_states), columns, num_outcomes))
    matrix = chances.reshape(rows, num_states)
    if int(torch.count_nonzero(matrix)) >= SPARSE_BELOW * matrix.numel():
        return Table(matrix)
    at, columns = matrix.nonzero(as_tuple=True)
    counts = torch.bincount(at, minlength=rows)
    pointers = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)
    return Table(matrix[at, columns], Pattern((rows, num_states), columns.to(torch.int32), pointers))


def entries_like(table: Table, mdp: MDP, numbers: Tensor) -> Tensor:
    """Numbers [S, A, K] in the layout of the weights of a process' table."""
    if table.pattern is None:
        return numbers.reshape(table.weights.shape)
    if mdp.next_states is not None:
        return numbers.reshape(-1)
    return numbers.reshape(table.pattern.shape)[table.pattern.rows, table.pattern.columns.long()]
