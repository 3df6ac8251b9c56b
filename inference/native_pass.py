"""Backward passes and forward sweeps whose steps are single C++ loops: kernel="native"."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.inference.native import NativeStep, NativeSums, call
from cai.inference.outcome_sums import OutcomeSums
from cai.inference.soft_pass import Constants, SoftPass
from cai.inference.sweep import SoftSweep

__all__ = ["NativePass", "NativeSweep"]

HISTORY = 16  # steps whose rates are kept until they are added up together, as cpp/merge.h has it


class NativePass(SoftPass):
    """A `SoftPass` whose steps are native. Fixed dynamics have a shift for each state: no state is done again."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.x = self.shift = torch.empty(0, dtype=torch.float64)
        # By whether actions are apart: what the step was made from, the step, and the tables that it points to.
        self._steps: dict[bool, tuple[Constants, NativeStep, list[Tensor]]] = {}

    def native_step(self, t: int, problems: int, *, by_action: bool = False) -> tuple[NativeStep, NativeSums]:
        """What the loops read at step t.

        Args:
            t: the step.
            problems: B.
            by_action: whether the sums of each action are asked for, even if actions have been summed over.
        """
        made, apart = self.constants(t), by_action or self.collapsed is None
        if apart not in self._steps or self._steps[apart][0] is not made or self._steps[apart][1].problems != problems:
            self._steps[apart] = made, *self._filled(made, problems, apart)
        return self._steps[apart][1], _native(made.sums if apart else self.collapsed)

    def _filled(self, made: Constants, problems: int, apart: bool) -> tuple[NativeStep, list[Tensor]]:
        actions, threads = self.num_actions if apart else 1, torch.get_num_threads()
        step = NativeStep(self.num_states, actions, problems, threads, self.model.discount, made.scale)
        step.smallest, step.prior_problems = self.smallest, 1
        parts = {} if made.row_largest is None else {"row_largest": made.row_largest.contiguous()}
        if apart and self.held is not None:
            parts["weights"] = self.held.contiguous()
        elif apart:
            parts["rewards"] = made.rewards.contiguous()
            if isinstance(made.prior, Tensor):
                shared = made.prior.dim() == 2 or made.prior.stride(-1) == 0  # by all problems
                parts["prior"] = (made.prior[..., 0] if shared and made.prior.dim() == 3 else made.prior).contiguous()
                step.prior_problems = 1 if shared else problems
            else:
                step.shared_prior = made.prior
        for name, part in parts.items():
            setattr(step, name, part.data_ptr())
        return step, list(parts.values())

    def rooms(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Memory for what arrives, [S] or [S, B], and for shifts [B], in float64."""
        if self.x.shape != like.shape:
            self.x = torch.empty(like.shape, dtype=torch.float64)
            self.shift = torch.empty(like.shape[1] if like.dim() > 1 else 1, dtype=torch.float64)
        return self.x, self.shift

    def _fixed_step(self, following: Tensor, t: int, out: Tensor) -> None:
        step, sums = self.native_step(t, _problems(following))
        call("fixed_step", out.dtype, step, sums.table, following.contiguous(), out)

    def _exact_step(self, following: Tensor, t: int, out: Tensor) -> None:
        step, sums = self.native_step(t, _problems(following))
        if call("exact_step", out.dtype, step, sums.table, following.contiguous(), *self.rooms(out), out):
            states = torch.isposinf(out).nonzero(as_tuple=True)  # whose sums underflow
            out[states] = self.local_values(following, t, states)


class NativeSweep(SoftSweep):
    """A `SoftSweep` whose steps are native.

    Where actions were summed over, gradients of a reward need sum_t rate_t(s) x_t(s') for each s -> s' alone, which is
    added up for several steps at once and spread over actions at the end.
    """

    soft: NativePass

    def __init__(self, soft: NativePass, kept: Tensor, times: list[int]) -> None:
        super().__init__(soft, kept, times)
        self._sums, self._rates = torch.empty_like(kept[0]), torch.empty_like(kept[0])
        self._merged: Tensor | None = None
        if soft.collapsed is not None:
            merged = _native(soft.collapsed)
            if merged.columns is not None:
                self._merged = torch.zeros(len(merged.columns), dtype=torch.float64)
                self._history = kept.new_empty((HISTORY, soft.num_states))
                self._arrivals = torch.empty((HISTORY, soft.num_states), dtype=torch.float64)
                self._held = 0

    @property
    def total(self) -> Tensor:
        if self._merged is not None:
            self._add_up()
            table = _native(self.soft.constants(0).sums).table
            merged, products = _native(self.soft.collapsed), torch.empty_like(self._products)
            call("spread", products.dtype, table, merged.table, self.soft.num_states, self._merged, products)
            self._products.add_(products)
            self._merged.zero_()
        return super().total

    def _add_up(self) -> None:
        if self._held and self._merged is not None:
            table, threads = _native(self.soft.collapsed).table, torch.get_num_threads()
            rows = (self._history, self._arrivals, self._merged)
            call("accumulate", self._history.dtype, table, self.soft.num_states, self._held, *rows, threads)
            self._held = 0

    def _fixed_shares(self, t: int, values: Tensor, following: Tensor, adjoint: Tensor) -> Tensor:
        soft = self.soft
        step, sums = soft.native_step(t, _problems(values))
        tables = (following.contiguous(), self._counted(adjoint).contiguous(), self._table, self._direct)
        call("fixed_shares", values.dtype, step, sums.table, *tables)
        return sums.scatter(self._table.view(-1, *values.shape[1:])).mul_(soft.model.discount)

    def _exact_shares(self, t: int, values: Tensor, following: Tensor, adjoint: Tensor, wants_table: bool) -> Tensor:
        soft, adjoint = self.soft, self._counted(adjoint)
        merged = self._merged is not None and not wants_table
        step, sums = soft.native_step(t, _problems(values), by_action=not merged)
        least = soft.smallest * max(1.0, self.bound)
        x, shift = soft.rooms(values)
        rate = self._rates
        if merged:
            x, rate = self._arrivals[self._held], self._history[self._held]
            tables: list[Tensor | None] = [None, None, None]
        elif wants_table:
            tables = [self._weighted, self._table, None]
        else:
            tables = [self._weighted, None, self._products]
        passed, transposed = torch.empty_like(values), sums.transpose
        before = (values, following, adjoint)
        low = call(
            "exact_shares",
            values.dtype,
            step,
            sums.table,
            None if transposed is None else transposed.table,
            *(part.contiguous() for part in before),
            least,
            x,
            shift,
            self._sums,
            rate,
            *tables,
            passed,
        )
        if transposed is None:
            c = shift if values.dim() > 1 else float(shift)
            passed = sums.scatter(rate if merged else self._weighted.view(-1, *values.shape[1:]))
            passed.mul_(x.to(passed.dtype) if soft.model.discount == 1 else soft.discounted(following, c))
        if merged:
            self._held += 1
            if self._held == HISTORY:
                self._add_up()
        if low:
            states = (self._sums < least) & torch.isfinite(values) & (adjoint != 0)
            self._pass_locally(t, values, following, adjoint, states, passed, wants_table)
        if wants_table:
            self._direct.add_(self._table)
        return passed


def _native(sums: OutcomeSums | None) -> NativeSums:
    assert isinstance(sums, NativeSums)
    return sums


def _problems(values: Tensor) -> int:
    return values.shape[1] if values.dim() > 1 else 1
