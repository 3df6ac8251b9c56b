"""Values of many problems of one process in one backward pass, with gradients by hand.

The problems are done in groups of `GROUP`, whose working set stays in the cache; each group has its values to itself,
so that every step writes to one place. A problem with a shorter horizon than the longest is the end of the same
recursion: the last h + 1 rows of its values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from cai.inference.kernels.backups import outcome_ratios, outcome_slopes
from cai.inference.kernels.gradients import recorded_values
from cai.inference.kernels.passes import make_pass, make_sweep
from cai.inference.kernels.soft_backward import SoftPass
from cai.models.common.devices import new_table
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["batched_values"]

GROUP = 16  # problems of one pass


class _Batch:
    """What the passes of a batch share.

    Args:
        model: the process and the discount; its horizon is the longest of the batch.
        kind: which backup.
        kernel: see `cai.inference.kernels.choose`.
        horizons: of the B problems.
    """

    def __init__(
        self, model: TrajectoryModel, kind: Literal["fixed", "exact"], kernel: str, horizons: Sequence[int]
    ) -> None:
        self.model, self.kind, self.kernel, self.steps = model, kind, kernel, model.steps
        self.begins = [self.steps - horizon for horizon in horizons]  # the row of each problem's first values

    def groups(self) -> Iterator[slice]:
        """The problems of each pass."""
        for start in range(0, len(self.begins), GROUP):
            yield slice(start, start + GROUP)

    def soft_pass(self, group: slice, rewards: Tensor, log_prior: Tensor | None) -> SoftPass:
        """The pass of a group, from rewards [B, S, A] and the log prior [B, S, A], [S, A] or the model's own."""
        if log_prior is not None and log_prior.dim() == 3:
            log_prior = _last(log_prior[group])
        table = _last(rewards[group])
        return make_pass(self.model, self.kind, kernel=self.kernel, rewards=table, log_prior=log_prior)

    def run(self, rewards: Tensor, log_prior: Tensor | None, times: list[int]) -> tuple[Tensor, list[Tensor]]:
        """Passes over all groups.

        Args:
            rewards: [B, S, A], nats.
            log_prior: [B, S, A], [S, A], or None for the model's own.
            times: the steps whose values are kept, ascending.

        Returns:
            [B, S], the first values of each problem; and of each group those that are kept, [C, S, b].
        """
        num_states = rewards.shape[1]
        first, kept = rewards.new_zeros((len(self.begins), num_states)), []
        for group in self.groups():
            soft = self.soft_pass(group, rewards, log_prior)
            begins = self.begins[group]
            following = rewards.new_zeros((num_states, len(begins)))
            rolling = rewards.new_empty((2, *following.shape))
            kept.append(new_table(rewards, (len(times), *following.shape)))
            rows = dict(zip(times, kept[-1], strict=True))
            if self.steps in rows:
                rows[self.steps].zero_()
            for t in reversed(range(min([*begins, *rows]), self.steps)):
                following = soft.step(following, t, rows.get(t, rolling[t % 2]))
                for problem in _beginning(begins, t):
                    first[group][problem] = following[:, problem]
        return first, kept


def batched_values(
    model: TrajectoryModel,
    kind: Literal["fixed", "exact"],
    rewards: Tensor,
    log_prior: Tensor | None,
    horizons: Sequence[int],
    *,
    kernel: str = "auto",
    all_steps: bool = True,
) -> tuple[Tensor, list[Tensor]]:
    """Log beta of B problems in nats, with gradients where the tensors ask for them.

    Gradients reach rewards, prior and dynamics by `SoftSweep`, and can be differentiated again, which records the
    recursion step by step and problem by problem.

    Args:
        model: whose process and discount are shared; its horizon is the longest of `horizons`.
        kind: which backup.
        rewards: [B, S, A], nats.
        log_prior: [B, S, A], nats; the model's unless given.
        horizons: of the B problems.
        kernel: see `cai.inference.kernels.choose`.
        all_steps: whether all values are wanted; else the first of each problem alone, which takes 2 S B numbers, or
            2 sqrt(T) S B where gradients are recorded.

    Returns:
        The first values of each problem [B, S]; and all values of each group [T + 1, S, b] of `GROUP` problems (none,
        unless they are wanted), in which a problem of horizon h is in the last h + 1 rows.
    """
    batch = _Batch(model, kind, kernel, horizons)
    if log_prior is None and model.action_prior.requires_grad:
        log_prior = model.log_action_prior
    inputs = [model.mdp.probabilities, rewards, *([] if log_prior is None else [log_prior])]
    if torch.is_grad_enabled() and any(part.requires_grad for part in inputs):
        first, *kept = _BatchedValues.apply(batch, all_steps, *inputs)
        return first, kept
    rewards, log_prior = rewards.detach(), None if log_prior is None else log_prior.detach()
    return batch.run(rewards, log_prior, [*range(batch.steps + 1)] if all_steps else [])


class _BatchedValues(torch.autograd.Function):
    """Inputs: probabilities [S, A, K], rewards [B, S, A] and, where it is given, the log prior [B, S, A] or [S, A]."""

    @staticmethod
    def forward(
        ctx: Any, batch: _Batch, all_steps: bool, probabilities: Tensor, rewards: Tensor, *log_prior: Tensor
    ) -> tuple[Tensor, ...]:
        stride = 1 if all_steps else max(1, math.isqrt(batch.steps))
        ctx.batch, ctx.times = batch, [*range(0, batch.steps, stride), batch.steps]
        first, kept = batch.run(rewards, log_prior[0] if log_prior else None, ctx.times)
        ctx.num_groups = len(kept)
        ctx.save_for_backward(*kept, probabilities, rewards, *log_prior)
        ctx.set_materialize_grads(False)
        return (first, *kept) if all_steps else (first,)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        kept, inputs = ctx.saved_tensors[: ctx.num_groups], ctx.saved_tensors[ctx.num_groups :]
        needs = ctx.needs_input_grad[2:]
        first, *rows = gradients
        rows = rows or [None] * ctx.num_groups
        if torch.is_grad_enabled():
            return (None, None, *_recorded(ctx.batch, first, rows, inputs, needs))
        return (None, None, *_swept(ctx.batch, kept, ctx.times, first, rows, inputs, needs))


def _swept(
    batch: _Batch,
    kept: Sequence[Tensor],
    times: list[int],
    first: Tensor | None,
    rows: Sequence[Tensor | None],
    inputs: Sequence[Tensor],
    needs: tuple[bool, ...],
) -> list[Tensor | None]:
    """The gradients of the inputs, from those of the first values [B, S] and of all values of each group."""
    totals = [torch.zeros_like(part) if needed else None for part, needed in zip(inputs, needs, strict=True)]
    for_chances, for_rewards, for_prior = (*totals, None)[:3]
    rewards, log_prior = inputs[1], inputs[2] if len(inputs) > 2 else None
    for group, stored, incoming in zip(batch.groups(), kept, rows, strict=True):
        if first is None and incoming is None:
            continue
        soft, begins = batch.soft_pass(group, rewards, log_prior), batch.begins[group]
        sweep = make_sweep(soft, stored, times)
        adjoint = torch.zeros_like(stored[0])
        for t, values, following in sweep.pairs():
            if incoming is not None:
                adjoint = sweep.received(adjoint, incoming[t])
            starting = _beginning(begins, t) if first is not None else ()
            if first is not None and len(starting):
                arriving = torch.zeros_like(adjoint)
                for problem in starting:
                    arriving[:, problem] = first[group][problem]
                adjoint = sweep.received(adjoint, arriving)
            table, adjoint = sweep.shares(t, values, following, adjoint, table=for_chances is not None)
            if for_chances is not None:
                for problem in range(len(begins)):
                    nats, arrived = rewards[group][problem].detach()[..., None], following[:, problem]
                    ratios = outcome_ratios(batch.model, batch.kind, nats, arrived)
                    slopes = outcome_slopes(batch.model, batch.kind, nats, arrived, ratios)
                    for_chances += table[..., problem, None] * slopes
        if for_rewards is not None:
            for_rewards[group] = sweep.total.movedim(-1, 0)
        if for_prior is not None:
            if for_prior.dim() == 3:
                for_prior[group] = sweep.total.movedim(-1, 0)
            else:
                for_prior += sweep.total.sum(-1)
    return totals


def _recorded(
    batch: _Batch,
    first: Tensor | None,
    rows: Sequence[Tensor | None],
    inputs: Sequence[Tensor],
    needs: tuple[bool, ...],
) -> list[Tensor | None]:
    """The same gradients, by operations that autograd records."""
    probabilities, rewards = inputs[:2]
    log_prior = inputs[2] if len(inputs) > 2 else batch.model.log_action_prior
    outputs: list[Tensor] = []
    incoming: list[Tensor] = []
    for problem, begin in enumerate(batch.begins):
        prior = log_prior[problem] if log_prior.dim() == 3 else log_prior
        table = rewards[problem][..., None]
        values = recorded_values(batch.model, batch.kind, probabilities, prior, table)
        row = rows[problem // GROUP]
        gradient = torch.zeros_like(values) if row is None else row[..., problem % GROUP]
        if first is not None:
            at_begin = (torch.arange(len(values), device=values.device) == begin)[:, None]
            gradient = gradient + torch.where(at_begin, first[problem], torch.zeros_like(first[problem]))
        outputs.append(values)
        incoming.append(torch.where(torch.isfinite(values), gradient, torch.zeros_like(values)))
    asked = [part for part, needed in zip(inputs, needs, strict=True) if needed]
    found = iter(torch.autograd.grad(outputs, asked, incoming, create_graph=True, allow_unused=True))
    return [next(found) if needed else None for needed in needs]


def _beginning(begins: list[int], t: int) -> list[int]:
    """The problems of a group whose first values are those of step t."""
    return [problem for problem, begin in enumerate(begins) if begin == t]


def _last(table: Tensor) -> Tensor:
    """[S, A, b] from [b, S, A], as a pass reads it."""
    return table.detach().permute(1, 2, 0).contiguous()
