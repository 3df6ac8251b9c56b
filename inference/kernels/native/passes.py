"""Passes over whole horizons by the native loops: one call each, where steps are alike."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from cai.inference.kernels.native.library import call, thread_count
from cai.inference.kernels.plain import SoftPass
from cai.inference.kernels.problem import StepTables
from cai.inference.kernels.tables import Table
from cai.models.common.devices import new_table

__all__ = ["NativePass"]

SHORT = 2**14  # probabilities of a step that is too short to be shared among threads, see `thread_count`


class NativeTable(ctypes.Structure):
    """`Sums` of cpp/sums.h."""

    _fields_ = [
        ("rows", ctypes.c_int64),
        ("outcomes", ctypes.c_int64),
        ("pointers", ctypes.c_void_p),
        ("columns", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
    ]


class NativeProblem(ctypes.Structure):
    """`Problem` of cpp/step.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("states", "actions", "problems", "threads")),
        *((name, ctypes.c_double) for name in ("discount", "smallest", "rise")),
        *((name, NativeTable) for name in ("chances", "turned", "merged", "merged_turned")),
        ("shared_prior", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("scores", "weights", "row_largest", "factors", "log_chances")),
        *((name, ctypes.c_void_p) for name in ("slots", "terminal")),
    ]


class NativePass(SoftPass):
    """A `SoftPass` whose passes are C++ loops. What outcomes or steps tell apart has its gradients by plain torch."""

    name = "native"

    def backward(self, rows: Tensor, begin: int, steps: int) -> None:
        if not self.problem.in_time:
            self._backward(rows, 0, steps)
            return
        pair = self.rows(2)
        for number in reversed(range(steps)):
            pair[1] = rows[(number + 1) % len(rows)]
            self._backward(pair, begin + number, 1)
            rows[number % len(rows)] = pair[0]

    def _backward(self, rows: Tensor, t: int, steps: int) -> None:
        exact = self.problem.kind == "exact"
        call("backward", rows.dtype, self._native(t), exact, rows, steps, len(rows), None)

    def backward_apart(self, values: Tensor) -> None:
        rows, steps = self.rows(2), values.shape[1] - 1
        rows[steps % 2], values[:, -1] = 0.0, 0.0
        call("backward", rows.dtype, self._native(0), self.problem.kind == "exact", rows, steps, 2, values)

    def forward(
        self,
        rows: Tensor,
        begin: int,
        adjoint: Tensor,
        totals: Sequence[Tensor | None],
        incoming: Tensor | None = None,
        bound: float = 1.0,
    ) -> Tensor:
        if self.problem.in_time or totals[0] is not None or (totals[2] is not None and totals[2].shape[-1] > 1):
            return super().forward(rows, begin, adjoint, totals, incoming, bound)
        ahead, total = adjoint.to(torch.float64, copy=True).contiguous(), self._total()
        exact, given = self.problem.kind == "exact", None if incoming is None else incoming.contiguous()
        call(
            "forward",
            rows.dtype,
            self._native(0, turned=True),
            exact,
            rows.contiguous(),
            len(rows) - 1,
            given,
            bound,
            ahead,
            total,
            None,
        )
        self._add(total, totals)
        return ahead.to(rows.dtype)

    def backward_in_one_scale(self, steps: int) -> tuple[Tensor, Tensor] | None:
        if not self.problem.merges or self.tables(0).table.pattern is None or self.problem.in_time:
            return None
        rows, levels = self.rows(steps + 1), torch.empty(steps + 1, dtype=torch.float64)
        rows[-1] = 0.0
        served = call("merged_backward", rows.dtype, self._native(0), rows, steps, levels)
        return (rows, levels) if served else None

    def forward_in_one_scale(
        self, rows: Tensor, levels: Tensor, adjoint: Tensor, totals: Sequence[Tensor | None]
    ) -> bool:
        ahead, total, steps = adjoint.to(torch.float64, copy=True).contiguous(), self._total(), len(rows) - 1
        native = self._native(0, merged_turned=True)
        if not call("merged_forward", rows.dtype, native, rows, levels, steps, ahead, total):
            return False
        self._add(total, totals)
        return True

    def marginals(self, values: Tensor, initial: Tensor) -> Tensor:
        if self.problem.in_time:
            return super().marginals(values, initial)
        result, ahead = new_table(values, tuple(values.shape)), initial.to(torch.float64, copy=True).contiguous()
        exact, steps = self.problem.kind == "exact", len(values) - 1
        call(
            "forward",
            values.dtype,
            self._native(0, turned=True),
            exact,
            values.contiguous(),
            steps,
            None,
            1.0,
            ahead,
            self._total(),
            result,
        )
        return result

    def product(self, made: StepTables, x: Tensor) -> Tensor:
        out = x.new_empty((self.num_states * self.num_actions, x.shape[1]))
        size = self.num_states
        call("gather", x.dtype, _native_table(made.table), size, x.shape[1], self._threads, x.contiguous(), out)
        return out

    def _total(self) -> Tensor:
        return torch.zeros((self.num_states, self.num_actions, self.problem.size), dtype=torch.float64)

    def _add(self, total: Tensor, totals: Sequence[Tensor | None]) -> None:
        """Adds the sum of all d_t [S, A, B] to the gradients of log prior and rewards."""
        single = self.problem.rewards is None
        _, prior, rewards = totals
        if prior is not None:
            prior.add_(total.movedim(-1, 0) if prior.dim() == 3 else total.sum(-1))
        if rewards is not None:
            rewards.add_(total if single else total.movedim(-1, 0)[..., None])

    def _native(self, t: int, *, turned: bool = False, merged_turned: bool = False) -> NativeProblem:
        """What the loops read at step t; the tables that it points to are held by `tables`."""
        made, problem, model = self.tables(t), self.problem, self.model
        native = NativeProblem(self.num_states, self.num_actions, problem.size, self._threads, model.discount)
        native.smallest, native.chances = self.smallest, _native_table(made.table)
        native.scores, native.shared_prior = _pointer(made.scores), made.shared_prior
        native.log_chances, native.terminal = _pointer(made.log_chances), _pointer(self._terminal)
        if turned and made.table.pattern is not None:
            native.turned = _native_table(made.table.turned)
        if problem.kind == "exact":
            native.row_largest = _pointer(made.row_largest)
            native.weights = _pointer(made.weights) if problem.holds_weights else None
        if problem.merges:
            native.merged, native.rise = _native_table(made.merged), float(made.row_largest.max())
            native.factors = _pointer(self._factors)
        if merged_turned and made.table.pattern is not None:
            native.merged_turned = _native_table(made.merged.turned)
            native.slots = _pointer(made.table.pattern.merged[1])
        return native

    @cached_property
    def _threads(self) -> int:
        return 1 if self.model.mdp.probabilities.numel() * self.problem.size <= SHORT else thread_count()

    @cached_property
    def _factors(self) -> Tensor:
        """[S], the largest e^score of each state relative to the largest of all."""
        largest = self.tables(0).row_largest[:, 0]
        return (largest - largest.max()).exp()

    @cached_property
    def _terminal(self) -> Tensor | None:
        """uint8 [S], None where no state is terminal."""
        terminal = self.model.mdp.terminal
        return terminal.to(torch.uint8) if bool(terminal.any()) else None


def _pointer(tensor: Tensor | None) -> int | None:
    assert tensor is None or tensor.is_contiguous()
    return None if tensor is None else tensor.data_ptr()


def _native_table(table: Table) -> NativeTable:
    rows, pattern, weights = len(table.weights), table.pattern, _pointer(table.weights)
    if pattern is None:
        return NativeTable(rows, -1, None, None, weights)
    if isinstance(pattern.begins, int):
        return NativeTable(pattern.shape[0], pattern.begins, None, _pointer(pattern.columns), weights)
    return NativeTable(pattern.shape[0], 0, _pointer(pattern.begins), _pointer(pattern.columns), weights)
