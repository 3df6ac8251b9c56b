"""Soft values of a whole horizon with gradients: one backward pass, and one forward pass for what flows back.

Values that were not kept are computed again, segment by segment, from about sqrt(T) of them. Whoever differentiates
twice gets the plain formulas of `cai.inference.kernels.backups`, recorded step by step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from cai.inference.kernels.choose import make_pass
from cai.inference.kernels.plain import SoftPass, plain_values
from cai.inference.kernels.problem import Kind, SoftProblem
from cai.models.common.devices import new_table
from cai.models.common.threads import spare_core
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["asks_for_gradients", "batched_values", "recorded_values", "soft_values"]

SMALL = 2**26  # bytes of values up to which a gradient keeps those of all steps
GROUP = 16  # problems of one pass, whose working set stays in the cache


def soft_values(
    model: TrajectoryModel,
    kind: Kind,
    *,
    kernel: str = "auto",
    log_prior: Tensor | None = None,
    all_steps: bool = True,
    soft: SoftPass | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log beta_t(s) in nats, with gradients where the model's tensors ask for them.

    Gradients reach rewards, temperature, action prior and dynamics, and can be differentiated again.

    Args:
        model: the trajectory model, of a finite horizon.
        kind: which backup.
        kernel: see `cai.inference.kernels.choose`.
        log_prior: [T, S, A] in place of the model's own.
        all_steps: whether all values are wanted; else v_1 alone, which takes the memory of a few rows; with gradients
            of all rows where these are under 64 MiB, and of 2 sqrt(T) beyond.
        soft: a pass of this problem, made unless given.

    Returns:
        v_1 [S], and all values [T + 1, S] or None. They are apart because a gradient of the whole, of which only the
        first row is not 0, takes longer to make than to use.
    """
    soft = make_pass(SoftProblem(model, kind, log_prior), kernel) if soft is None else soft
    (first,), kept = _values(soft, (0,), all_steps, asks_for_gradients(model, log_prior))
    return first[:, 0], None if kept is None else kept[..., 0]


def batched_values(
    model: TrajectoryModel,
    kind: Kind,
    rewards: Tensor,
    log_prior: Tensor | None,
    horizons: Sequence[int],
    *,
    kernel: str = "auto",
    all_steps: bool = True,
) -> tuple[Tensor, Tensor | list[Tensor]]:
    """Log beta of B problems in nats, with gradients where the tensors ask for them.

    A problem with a shorter horizon than the longest is the end of the same recursion: the last h + 1 rows of values.

    Args:
        model: whose process and discount are shared; its horizon is the longest of `horizons`.
        kind: which backup.
        rewards: [B, S, A], nats.
        log_prior: [B, S, A], nats; the model's unless given.
        horizons: of the B problems.
        kernel: see `cai.inference.kernels.choose`.
        all_steps: whether all values are wanted; else the first of each problem alone.

    Returns:
        The first values of each problem [B, S]; and all values [T + 1, S] of each, in one table [B, T + 1, S] unless
        they have a gradient (an empty list, unless they are wanted). A problem of horizon h is in the last h + 1 rows.
    """
    begins = [model.steps - horizon for horizon in horizons]
    shared = model.mdp.probabilities, model.action_prior
    records = torch.is_grad_enabled() and any(
        part is not None and part.requires_grad for part in (rewards, log_prior, *shared)
    )
    whole = None
    if all_steps and not records:
        whole = new_table(model.action_prior, (len(begins), model.steps + 1, model.mdp.num_states))
    first, columns = [], list[Tensor]()
    for start in range(0, len(begins), GROUP):
        part = slice(start, start + GROUP)
        prior = log_prior if log_prior is None or log_prior.dim() == 2 else log_prior[part]
        soft = make_pass(SoftProblem(model, kind, prior, rewards[part]), kernel)
        if whole is not None:
            soft.backward_apart(whole[part])
            continue
        times = tuple(sorted(set(begins[part])))
        rows, kept = _values(soft, times, all_steps, records)
        by_time = dict(zip(times, rows, strict=True))
        first += [by_time[begin][:, column] for column, begin in enumerate(begins[part])]
        columns += [] if kept is None else kept.unbind(-1)  # whose gradients make one of the group
    if whole is not None:
        return whole[torch.arange(len(begins)), begins], whole
    return torch.stack(first), columns


def asks_for_gradients(model: TrajectoryModel, log_prior: Tensor | None = None) -> bool:
    """Whether gradients are recorded, and some tensor of the model asks for them."""
    if not torch.is_grad_enabled():
        return False
    given = [model.mdp.probabilities, model.action_prior, model.temperature, log_prior]
    return any(isinstance(part, Tensor) and part.requires_grad for part in given) or any(
        model.reward_table(t).requires_grad for t in model.reward_times
    )


def _values(
    soft: SoftPass, times: tuple[int, ...], all_steps: bool, records: bool
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """The values [S, B] of the steps `times`, the first of which is the earliest that counts, and all [T + 1, S, B]."""
    if records:
        found = _SoftValues.apply(soft, times, all_steps, *soft.problem.inputs())
        return found[: len(times)], found[-1] if all_steps else None
    with torch.no_grad():
        steps = int(soft.model.horizon)
        rows = _kept(soft, range(steps + 1) if all_steps else [*times, steps])
        return tuple(rows[t if all_steps else number] for number, t in enumerate(times)), rows if all_steps else None


def _kept(soft: SoftPass, times: Sequence[int]) -> Tensor:
    """[C, S, B], values of the steps that are asked for, ascending, the last of which is T."""
    kept = soft.rows(len(times))
    kept[-1] = 0.0
    if len(times) == times[-1] + 1:
        soft.backward(kept, 0, times[-1])
        return kept
    for number in reversed(range(len(times) - 1)):
        kept[number] = soft.first(kept[number + 1], times[number], times[number + 1] - times[number])
    return kept


class _SoftValues(torch.autograd.Function):
    """Inputs: those of `SoftProblem.inputs`. Outputs: values of the steps `times`, and all of them if asked for."""

    @staticmethod
    def forward(
        ctx: Any, soft: SoftPass, times: tuple[int, ...], all_steps: bool, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        steps, rewards = soft.model.steps, inputs[2:]
        small = (steps + 1) * soft.num_states * soft.problem.size * inputs[0].itemsize <= SMALL
        stride = 1 if all_steps or small else max(1, math.isqrt(steps))
        ctx.soft, ctx.asked, ctx.levels = soft, times, None
        ctx.times = sorted({*range(0, steps, stride), steps})
        by_outcome = inputs[0].requires_grad or rewards[0].shape[-1] > 1
        scaled = None if all_steps or stride > 1 or by_outcome else soft.backward_in_one_scale(steps)
        if scaled is None:
            kept = _kept(soft, ctx.times)
            place = {t: number for number, t in enumerate(ctx.times)}
            first = [kept[place[t]].clone() if t in place else _again(soft, kept, ctx.times, t) for t in times]
        else:  # nobody looks at values of later steps, so that they need no logarithms
            kept, ctx.levels = scaled
            values = kept[0].log() + float(ctx.levels[0])
            first = [values.masked_fill_(soft.model.mdp.terminal[:, None], 0.0)]
        ctx.save_for_backward(kept, *inputs)
        ctx.set_materialize_grads(False)
        return (*first, kept) if all_steps else tuple(first)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        kept, *inputs = ctx.saved_tensors
        needs = ctx.needs_input_grad[3:]
        first, rows = gradients[: len(ctx.asked)], (*gradients, None)[len(ctx.asked)]
        if torch.is_grad_enabled():  # somebody differentiates twice: record everything
            return (None, None, None, *_recorded(ctx, first, rows, inputs, needs))
        with spare_core():
            totals = [torch.zeros_like(part) if needed else None for part, needed in zip(inputs, needs, strict=True)]
            _swept(ctx, kept, dict(zip(ctx.asked, first, strict=True)), rows, totals)
        ctx.soft.made = None
        return (None, None, None, *totals)


def _again(soft: SoftPass, kept: Tensor, times: Sequence[int], t: int) -> Tensor:
    """Values [S, B] of a step that was not kept."""
    number = next(number for number, later in enumerate(times) if later > t)
    return soft.first(kept[number], t, times[number] - t)


def _swept(
    ctx: Any, kept: Tensor, first: dict[int, Tensor | None], incoming: Tensor | None, totals: list[Tensor | None]
) -> None:
    """Adds the gradients of the inputs to totals, from those of the first values, and of all where these were given."""
    soft: SoftPass = ctx.soft
    given = [part for part in (*first.values(), incoming) if part is not None]
    bound = float(sum(part.abs().sum() for part in given))
    adjoint = torch.zeros_like(kept[0])
    if ctx.levels is not None and first[0] is not None:
        if soft.forward_in_one_scale(kept, ctx.levels, first[0], totals):
            return
        kept = (kept.log() + ctx.levels.to(kept.dtype)[:, None, None]).masked_fill_(
            soft.model.mdp.terminal[:, None], 0.0
        )
    cuts = sorted({*ctx.times, *first}) if len(kept) < ctx.times[-1] + 1 else sorted({0, *first, ctx.times[-1]})
    for begin, end in pairwise(cuts):
        gradient = first.get(begin)
        if gradient is not None:
            adjoint = adjoint + gradient
        if len(kept) == ctx.times[-1] + 1:
            rows = kept[begin : end + 1]
        else:
            rows = soft.rows(end - begin + 1)
            rows[-1] = kept[ctx.times.index(end)] if end in ctx.times else _again(soft, kept, ctx.times, end)
            soft.backward(rows, begin, end - begin)
        part = None if incoming is None else incoming[begin:end]
        adjoint = soft.forward(rows, begin, adjoint, totals, part, bound)


def _recorded(
    ctx: Any,
    first: tuple[Tensor | None, ...],
    rows: Tensor | None,
    inputs: Sequence[Tensor],
    needs: tuple[bool, ...],
) -> list[Tensor | None]:
    """The same gradients, by operations that autograd records."""
    problem = ctx.soft.problem
    values = recorded_values(problem.model, problem.kind, *inputs)  # [T + 1, S] or [T + 1, B, S]
    columns = values[..., None] if problem.rewards is None else values.transpose(1, 2)
    given = [(columns[t], rise) for t, rise in zip(ctx.asked, first, strict=True) if rise is not None]
    given += [] if rows is None else [(columns, rows)]
    incoming = [torch.where(torch.isfinite(part), rise, torch.zeros_like(part)) for part, rise in given]
    asked = [part for part, needed in zip(inputs, needs, strict=True) if needed]
    outputs = [part for part, _ in given]
    found = iter(torch.autograd.grad(outputs, asked, incoming, create_graph=True, allow_unused=True))
    return [next(found) if needed else None for needed in needs]


def recorded_values(
    model: TrajectoryModel, kind: Kind, probabilities: Tensor, log_prior: Tensor, *rewards: Tensor
) -> Tensor:
    """Values [T + 1, S] (or [T + 1, B, S]) by operations that autograd records.

    Args:
        model: the trajectory model.
        kind: which backup.
        probabilities: [S, A, K].
        log_prior: [S, A], [T, S, A], or [B, S, A] for B problems.
        *rewards: nats, [S, A, 1 or K] of each step that differs, or [B, S, A, 1].
    """
    batched = rewards[0].dim() == 4
    timed = log_prior.dim() == 3 and not batched
    values = probabilities.new_zeros((*rewards[0].shape[:-3], model.mdp.num_states))
    rows = [values]
    for t in reversed(range(model.steps)):
        prior = log_prior[t] if timed else log_prior
        values = plain_values(model, kind, probabilities, prior, rewards[t if len(rewards) > 1 else 0], values)
        rows.append(values)
    return torch.stack(rows[::-1])
