"""Sums over outcomes by the native loops, and the structures that the loops read."""

from __future__ import annotations

import ctypes
import math
from functools import cached_property

import torch
from torch import Tensor

from cai.inference.kernels.native.library import call, library, thread_count
from cai.inference.kernels.outcome_sums import OutcomeSums
from cai.inference.kernels.sparse_patterns import Merging, transposed_table

__all__ = ["NativeStep", "NativeSums"]


class NativeTable(ctypes.Structure):
    """`Sums` of cpp/sums.h."""

    _fields_ = [
        ("rows", ctypes.c_int64),
        ("outcomes", ctypes.c_int64),
        ("pointers", ctypes.c_void_p),
        ("columns", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
    ]


class NativeStep(ctypes.Structure):
    """`Step` of cpp/step.h."""

    _fields_ = [
        ("states", ctypes.c_int64),
        ("actions", ctypes.c_int64),
        ("problems", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("discount", ctypes.c_double),
        ("scale", ctypes.c_double),
        ("shared_prior", ctypes.c_double),
        ("smallest", ctypes.c_double),
        ("level", ctypes.c_double),
        ("rewards", ctypes.c_void_p),
        ("prior", ctypes.c_void_p),
        ("prior_problems", ctypes.c_int64),
        ("weights", ctypes.c_void_p),
        ("row_largest", ctypes.c_void_p),
    ]


class NativeChain(ctypes.Structure):
    """`Chain` of cpp/chain.h."""

    _fields_ = [
        ("states", ctypes.c_int64),
        ("steps", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("discount", ctypes.c_double),
        ("least", ctypes.c_double),
        ("most", ctypes.c_double),
        ("levels", ctypes.c_void_p),
        ("factors", ctypes.c_void_p),
        ("terminal", ctypes.c_void_p),
        ("hopeless", ctypes.c_void_p),
    ]


class NativeSums(OutcomeSums):
    """Sums by the native loops.

    Args:
        weights: [S, A, S] where there are no columns; else [N].
        num_states: S.
        columns: int32 [N], next states.
        pointers: int32 [S A + 1], where each row begins; or one number, the length of every row.
        apart: of sums over actions, how they were made (None of a dense table), and the weights before.

    Raises:
        ValueError: if the weights are not on the CPU.
    """

    def __init__(
        self,
        weights: Tensor,
        num_states: int,
        columns: Tensor | None = None,
        pointers: Tensor | int | None = None,
        apart: tuple[Merging | None, Tensor] | None = None,
    ) -> None:
        if weights.device.type != "cpu":
            raise ValueError(f"kernel 'native' runs on the CPU; this process is on {weights.device}: use kernel='auto'")
        self.weights, self.columns, self.pointers, self.apart = weights.contiguous(), columns, pointers, apart
        if isinstance(pointers, Tensor):
            rows = len(pointers) - 1
        else:
            rows = weights.numel() // (num_states if pointers is None else max(pointers, 1))
        self.num_states, self.rows_per_state = num_states, rows // num_states
        self.table = self._table(0, rows)
        library()

    def _table(self, first: int, last: int) -> NativeTable:
        """The rows from `first` to `last`."""
        skipped = first * (self.num_states if self.columns is None else 0)
        even = self.pointers if isinstance(self.pointers, int) else 0
        skipped += first * even
        pointers = None
        if isinstance(self.pointers, Tensor):
            pointers = self.pointers.data_ptr() + first * self.pointers.itemsize
        columns = None if self.columns is None else self.columns.data_ptr() + skipped * self.columns.itemsize
        weights = self.weights.data_ptr() + skipped * self.weights.itemsize
        return NativeTable(last - first, -1 if self.columns is None else even, pointers, columns, weights)

    def gather(self, x: Tensor, start: int, stop: int, out: Tensor) -> Tensor:
        whole = start == 0 and stop == self.num_states
        table = self.table if whole else self._table(start * self.rows_per_state, stop * self.rows_per_state)
        self._run(table, x, self.num_states, out)
        return out

    def _run(self, table: NativeTable, x: Tensor, width: int, out: Tensor) -> None:
        problems = x.shape[1] if x.dim() > 1 else 1
        call("gather", self.weights.dtype, table, width, problems, thread_count(), x.contiguous(), out)

    def scatter(self, y: Tensor) -> Tensor:
        if self.transpose is None:
            return self.weights.view(-1, self.num_states).t() @ y
        out = y.new_empty((self.num_states, *y.shape[1:]))
        self._run(self.transpose.table, y, len(y), out)
        return out

    @cached_property
    def merging(self) -> Merging:
        """How actions are summed over, of a sparse table."""
        assert self.columns is not None
        assert self.pointers is not None
        return Merging(self.pointers, self.columns, self.num_states, self.rows_per_state)

    def over_actions(self, weights: Tensor) -> NativeSums:
        if self.columns is None:
            rows = self.weights.view(self.num_states, self.rows_per_state, self.num_states)
            return NativeSums(weights[:, None, :] @ rows, self.num_states, apart=(None, rows))
        pattern, merged = self.merging.pattern, self.merging.merged(self.weights, weights)
        apart = self.merging, self.weights
        return NativeSums(merged, self.num_states, pattern.columns, pattern.pointers, apart)

    def chain(self, rows: Tensor, factors: Tensor) -> None:
        if self.transpose is None:
            super().chain(rows, factors)
        else:
            self.transpose.run(rows, rows.stride(0), len(rows) - 1, factors)

    def run(
        self,
        first: Tensor,
        stride: int,
        steps: int,
        factors: Tensor,
        *,
        least: float = -math.inf,
        most: float = math.inf,
        discount: float = 1.0,
        levels: Tensor | None = None,
        terminal: Tensor | None = None,
        hopeless: Tensor | None = None,
    ) -> int:
        """Products in a row, each written `stride` numbers after the one before, as long as they are sound.

        Args:
            first: where the row lies that is known.
            stride: numbers from a row to the next, below 0 for the one before it in memory.
            steps: the number of products at most.
            factors: [S], what each is multiplied by.
            least: the least number of a sound row.
            most: the largest.
            discount: of what goes on.
            levels: float64 [steps + 1], e^{-c} of each row; for a discount, and for terminal states.
            terminal: bool [S], where rows are e^{-c}.
            hopeless: bool [S], where rows may be 0.

        Returns:
            How many products were sound.
        """
        given = {"levels": levels, "factors": factors.contiguous(), "terminal": terminal, "hopeless": hopeless}
        pointers = {name: part.data_ptr() for name, part in given.items() if part is not None}
        threads = thread_count()
        chain = NativeChain(self.num_states, steps, stride, threads, discount, least, most, **pointers)
        scratch = torch.empty((2, self.num_states), dtype=torch.float64)
        return call("chain", self.weights.dtype, chain, self.table, first, scratch)

    def correlate(self, ahead: Tensor, behind: Tensor) -> Tensor:
        if self.columns is None:
            return ahead.t() @ behind
        totals = torch.empty_like(self.weights)
        rows = ahead.contiguous(), behind.contiguous(), totals
        call("correlate", totals.dtype, self.table, self.num_states, len(ahead), *rows, thread_count())
        return totals

    def spread(self, totals: Tensor) -> Tensor:
        assert self.apart is not None
        merging, weights = self.apart
        return (weights @ totals[:, :, None])[..., 0] if merging is None else merging.spread(weights, totals)

    @cached_property
    def transpose(self) -> NativeSums | None:
        """The sums of the transposed table [S, S A]; None of a dense one."""
        if self.columns is None:
            return None
        if self.apart is not None and self.apart[0] is not None:
            pattern, weights = self.apart[0].transposed[0], self.apart[0].transpose(self.weights)
            return NativeSums(weights, self.num_states, pattern.columns, pattern.pointers)
        rows = self.num_states * self.rows_per_state
        assert self.pointers is not None
        pattern, weights = transposed_table(self.pointers, self.columns, self.weights, rows, self.num_states)
        return NativeSums(weights, self.num_states, pattern.columns, pattern.pointers)
