"""Backward passes and forward sweeps whose steps are single C++ loops: kernel="native"."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cai.inference.kernels.multi_step import Run, exact_run, open_scale, run_levels
from cai.inference.kernels.native.library import call, thread_count
from cai.inference.kernels.native.sums import NativeStep, NativeSums
from cai.inference.kernels.outcome_sums import OutcomeSums
from cai.inference.kernels.soft_backward import SoftPass
from cai.inference.kernels.soft_forward import SoftSweep
from cai.inference.kernels.step_constants import Constants

__all__ = ["NativePass", "NativeSweep"]


class NativePass(SoftPass):
    """A `SoftPass` whose steps are native. Fixed dynamics have a shift for each state: no state is done again."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.x = self.shift = torch.empty(0, dtype=torch.float64)
        # By whether actions are apart, and shares relative to those of all states: what the step was made from, the
        # step, and the tables that it points to.
        self._steps: dict[tuple[bool, bool], tuple[Constants, NativeStep, list[Tensor]]] = {}

    def native_step(
        self, t: int, problems: int, *, by_action: bool = False, by_state: bool = True
    ) -> tuple[NativeStep, NativeSums]:
        """What the loops read at step t.

        Args:
            t: the step.
            problems: B.
            by_action: whether the sums of each action are asked for, even if actions have been summed over.
            by_state: whether shares of actions are relative to the largest of each state, or of all, for one problem.
        """
        made, apart = self.constants(t), by_action or self.collapsed is None
        key = apart, by_state
        if key not in self._steps or self._steps[key][0] is not made or self._steps[key][1].problems != problems:
            self._steps[key] = made, *self._filled(made, problems, apart, by_state)
        return self._steps[key][1], _native(made.sums if apart else self.collapsed)

    def _filled(self, made: Constants, problems: int, apart: bool, by_state: bool) -> tuple[NativeStep, list[Tensor]]:
        actions, threads = self.num_actions if apart else 1, thread_count()
        step = NativeStep(self.num_states, actions, problems, threads, self.model.discount, made.scale)
        step.smallest, step.prior_problems = self.smallest, 1
        parts = {}
        if self.kind == "exact" and by_state:
            parts["row_largest"] = made.row_largest.contiguous()
        elif self.kind == "exact":
            step.level = self.rise
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

    @property
    def allows_runs(self) -> bool:
        """Steps under fixed dynamics have a shift for each state in any case."""
        return super().allows_runs and self.kind == "exact"

    def exact_sums(self, x: Tensor, made: Constants, out: Tensor) -> None:
        if self.collapsed is not None:
            super().exact_sums(x, made, out)
        else:
            self._weighted_sums(x, out, by_state=True)

    def scaled_sums(self, x: Tensor, made: Constants, out: Tensor) -> None:
        if self.by_row:
            super().scaled_sums(x, made, out)
        else:
            self._weighted_sums(x, out, by_state=False)

    def _weighted_sums(self, x: Tensor, out: Tensor, *, by_state: bool) -> None:
        step, sums = self.native_step(0, _problems(x), by_state=by_state)
        call("weighted_sums", out.dtype, step, sums.table, x.contiguous(), out)

    def run(self, rows: Tensor, last: int) -> Run:
        if self.collapsed is None:
            return exact_run(self, rows, last)
        known = rows[last].clone()
        scale = open_scale(self, known, self.whole("arrivals", known))
        if scale is None:
            return Run(last, [])
        discount = self.model.discount
        levels, falls = run_levels(self, scale.level, last), discount < 1 or len(self.terminal) > 0
        fallen = torch.tensor([math.exp(-level) for level in levels], dtype=torch.float64) if falls else None
        rows[last] = scale.known
        done = _native(self.collapsed).run(
            rows[last],
            -rows.stride(0),
            len(levels) - 1,
            self.factors,
            least=self.smallest,
            most=1 / self.smallest,
            discount=discount,
            levels=fallen,
            terminal=self.model.mdp.terminal if len(self.terminal) else None,
            hopeless=scale.hopeless,
        )
        rows[last] = known
        return Run(last - done, levels[: done + 1][::-1])

    def _fixed_step(self, following: Tensor, t: int, out: Tensor) -> None:
        step, sums = self.native_step(t, _problems(following))
        call("fixed_step", out.dtype, step, sums.table, following.contiguous(), out)

    def _exact_step(self, following: Tensor, t: int, out: Tensor) -> None:
        step, sums = self.native_step(t, _problems(following))
        if call("exact_step", out.dtype, step, sums.table, following.contiguous(), *self.rooms(out), out):
            states = torch.isposinf(out).nonzero(as_tuple=True)  # whose sums underflow
            out[states] = self.local_values(following, t, states)


class NativeSweep(SoftSweep):
    """A `SoftSweep` whose steps are native."""

    soft: NativePass

    def __init__(self, soft: NativePass, kept: Tensor, times: list[int], levels: list[float] | None = None) -> None:
        super().__init__(soft, kept, times, levels)
        self._sums, self._rate = torch.empty_like(kept[0]), torch.empty_like(kept[0])

    def _fixed_shares(self, t: int, values: Tensor, following: Tensor, adjoint: Tensor) -> Tensor:
        soft = self.soft
        step, sums = soft.native_step(t, _problems(values))
        tables = (following.contiguous(), self._counted(adjoint).contiguous(), self._table, self._direct)
        call("fixed_shares", values.dtype, step, sums.table, *tables)
        return sums.scatter(self._table.view(-1, *values.shape[1:])).mul_(soft.model.discount)

    def _exact_shares(self, t: int, values: Tensor, following: Tensor, adjoint: Tensor, wants_table: bool) -> Tensor:
        soft, adjoint = self.soft, self._counted(adjoint)
        step, sums = soft.native_step(t, _problems(values), by_action=True)
        least = soft.smallest * max(1.0, self.bound)
        x, shift = soft.rooms(values)
        table, products = (self._table, None) if wants_table else (None, self._products)
        passed, transposed = torch.empty_like(values), sums.transpose
        before = (part.contiguous() for part in (values, following, adjoint))
        after = (self._sums, self._rate, self._weighted, table, products, passed)
        turned = None if transposed is None else transposed.table
        low = call("exact_shares", values.dtype, step, sums.table, turned, *before, least, x, shift, *after)
        if transposed is None:
            c = shift if values.dim() > 1 else float(shift)
            passed = sums.scatter(self._weighted.view(-1, *values.shape[1:]))
            passed.mul_(x.to(passed.dtype) if soft.model.discount == 1 else soft.discounted(following, c))
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
