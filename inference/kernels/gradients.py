"""Soft values whose gradients are computed by hand: a `SoftSweep` in place of what autograd would record.

Values that were not kept are computed again, segment by segment, from about sqrt(T) of them. Whoever differentiates
twice gets the plain formulas of `cai.inference.kernels.backups`, recorded step by step.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from cai.inference.kernels.backups import outcome_q_values, outcome_ratios, outcome_slopes
from cai.inference.kernels.multi_step import fill, finish
from cai.inference.kernels.passes import make_pass, make_sweep
from cai.inference.kernels.soft_backward import SoftPass
from cai.inference.kernels.soft_forward import SoftSweep
from cai.models.common.devices import new_table
from cai.models.common.numerics import safe_logsumexp
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["asks_for_gradients", "recorded_values", "soft_values"]

ROLLING = 16  # steps whose values are held at once where they are not kept
SMALL = 2**26  # bytes of values up to which a gradient keeps those of all steps


def soft_values(
    model: TrajectoryModel,
    kind: Literal["fixed", "exact"],
    *,
    kernel: str = "auto",
    log_prior: Tensor | None = None,
    all_steps: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Log beta_t(s) in nats, with gradients where the model's tensors ask for them.

    Gradients reach rewards, temperature, action prior and dynamics by `SoftSweep`. They can be differentiated again;
    that records the recursion step by step.

    Args:
        model: the trajectory model, of a finite horizon.
        kind: which backup.
        kernel: see `cai.inference.kernels.choose`.
        log_prior: [T, S, A] in place of the model's own.
        all_steps: whether all values are wanted; else v_1 alone, which takes the memory of 18 rows; with gradients of
            all rows where these are under 64 MiB, and of 2 sqrt(T) beyond.

    Returns:
        v_1 [S], and all values [T + 1, S] or None. They are apart because a gradient of the whole, of which only the
        first row is not 0, takes longer to make than to use.
    """
    if not asks_for_gradients(model, log_prior):
        soft = make_pass(model, kind, kernel=kernel, log_prior=log_prior, values_only=log_prior is None)
        kept = _backward_pass(soft, [*range(model.steps + 1)] if all_steps else [0, model.steps])
        return kept[0], kept if all_steps else None
    prior = model.log_action_prior if log_prior is None else log_prior
    rewards = [model.log_potential(t) for t in model.reward_times]
    found = _SoftValues.apply(model, kind, kernel, all_steps, model.mdp.probabilities, prior, *rewards)
    return found[0], found[1] if all_steps else None


def _backward_pass(soft: SoftPass, times: list[int]) -> Tensor:
    """[C, S], values of the steps that are asked for, ascending, the last of which is T."""
    kept = new_table(soft.ones, (len(times), soft.num_states))
    if len(times) == times[-1] + 1:
        return soft.values(kept)
    kept[-1] = 0.0
    for number in reversed(range(len(times) - 1)):
        begin, following = times[number + 1], kept[number + 1]
        while begin > times[number]:
            length = min(ROLLING, begin - times[number])
            rows = soft.ones.new_empty((length + 1, soft.num_states))
            rows[-1] = following
            begin -= length
            fill(soft, rows, begin)
            following = rows[0]
        kept[number] = following
    return kept


def asks_for_gradients(model: TrajectoryModel, log_prior: Tensor | None = None) -> bool:
    """Whether gradients are recorded, and some tensor of the model asks for them."""
    if not torch.is_grad_enabled():
        return False
    given = [model.mdp.probabilities, model.action_prior, model.temperature, log_prior]
    return any(isinstance(part, Tensor) and part.requires_grad for part in given) or any(
        model.reward_table(t).requires_grad for t in model.reward_times
    )


class _SoftValues(torch.autograd.Function):
    """Inputs: probabilities [S, A, K], log prior [S, A] or [T, S, A], and rewards in nats, a table a reward time."""

    @staticmethod
    def forward(
        ctx: Any,
        model: TrajectoryModel,
        kind: Literal["fixed", "exact"],
        kernel: str,
        all_steps: bool,
        probabilities: Tensor,
        log_prior: Tensor,
        *rewards: Tensor,
    ) -> tuple[Tensor, ...]:
        steps, own = model.steps, log_prior.dim() == 2
        soft = make_pass(model, kind, kernel=kernel, log_prior=None if own else log_prior, values_only=own)
        small = (steps + 1) * soft.num_states * log_prior.itemsize <= SMALL
        stride = 1 if all_steps or small else max(1, math.isqrt(steps))
        ctx.model, ctx.soft, ctx.times, ctx.levels = model, soft, [*range(0, steps, stride), steps], None
        if all_steps or stride > 1:
            kept = _backward_pass(soft, ctx.times)
            first = kept[0].clone()
        else:  # nobody looks at values of later steps, so that they need no logarithms
            kept = new_table(soft.ones, (steps + 1, soft.num_states))
            kept[-1] = 0.0
            ctx.levels = fill(soft, kept, linear=True)
            first = kept[:1].clone()
            first = (first if ctx.levels is None else finish(soft, first, ctx.levels))[0]
        ctx.save_for_backward(kept, probabilities, log_prior, *rewards)
        ctx.set_materialize_grads(False)
        return (first, kept) if all_steps else (first,)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        kept, probabilities, log_prior, *rewards = ctx.saved_tensors
        needs = ctx.needs_input_grad[4:]
        inputs = (probabilities, log_prior, *rewards)
        if torch.is_grad_enabled():  # somebody differentiates twice: record everything
            values = recorded_values(ctx.model, ctx.soft.kind, *inputs)
            asked = [part for part, needed in zip(inputs, needs, strict=True) if needed]
            pairs = zip((values[0], values), gradients, strict=False)
            given = [(rows, rise) for rows, rise in pairs if rise is not None]
            incoming = [torch.where(torch.isfinite(rows), rise, torch.zeros_like(rows)) for rows, rise in given]
            outputs = [rows for rows, _ in given]
            found = iter(torch.autograd.grad(outputs, asked, incoming, create_graph=True, allow_unused=True))
            return (None, None, None, None, *(next(found) if needed else None for needed in needs))
        sweep = make_sweep(ctx.soft, kept, ctx.times, ctx.levels)
        return (None, None, None, None, *_swept(ctx.model, sweep, gradients, inputs, needs))


def _swept(
    model: TrajectoryModel,
    sweep: SoftSweep,
    gradients: tuple[Tensor | None, ...],
    inputs: tuple[Tensor, ...],
    needs: tuple[bool, ...],
) -> list[Tensor | None]:
    """The gradients of the inputs, from those of the first values [S] and, if they were given, of all [T + 1, S]."""
    probabilities, log_prior, *rewards = inputs
    totals = [torch.zeros_like(part) if needed else None for part, needed in zip(inputs, needs, strict=True)]
    by_outcome = needs[0] or any(table.shape[-1] > 1 for table in rewards)
    by_step = by_outcome or sweep.soft.in_time
    first, rows = (*gradients, None)[:2]
    adjoint = torch.zeros_like(sweep.kept[0])
    if first is not None:
        adjoint = sweep.received(adjoint, first)
    together = rows is None and not by_step
    if together:
        sweep.flow(adjoint)
    for t, values, following in () if together else sweep.pairs():
        if rows is not None:
            adjoint = sweep.received(adjoint, rows[t])
        table, adjoint = sweep.shares(t, values, following, adjoint, table=by_step)
        if not by_step:
            continue
        nats = model.log_potential(t).detach()
        ratios = outcome_ratios(model, sweep.soft.kind, nats, following) if by_outcome else None
        if totals[1] is not None and log_prior.dim() == 3:
            totals[1][t] = table
        reward_total = totals[2 + (t if len(rewards) > 1 else 0)]
        if reward_total is not None and (reward_total.shape[-1] > 1 or len(rewards) > 1):
            reward_total.add_(_by_outcome(table, probabilities, ratios, reward_total))
        if totals[0] is not None and ratios is not None:
            slopes = outcome_slopes(model, sweep.soft.kind, nats, following, ratios)
            totals[0].add_(table[..., None] * slopes)
    if totals[1] is not None and log_prior.dim() == 2:
        totals[1].add_(sweep.total)
    if len(rewards) == 1 and totals[2] is not None and totals[2].shape[-1] == 1:
        totals[2].add_(sweep.total[..., None])
    return totals


def _by_outcome(table: Tensor, probabilities: Tensor, ratios: Tensor | None, like: Tensor) -> Tensor:
    """d_t, shared among outcomes [S, A, K] where rewards see them."""
    if like.shape[-1] == 1 or ratios is None:
        return table[..., None]
    return table[..., None] * probabilities * ratios


def recorded_values(
    model: TrajectoryModel,
    kind: Literal["fixed", "exact"],
    probabilities: Tensor,
    log_prior: Tensor,
    *rewards: Tensor,
) -> Tensor:
    """The same values [T + 1, S], by operations that autograd records."""
    values = probabilities.new_zeros(model.mdp.num_states)
    rows = [values]
    for t in reversed(range(model.steps)):
        q_values = outcome_q_values(model, kind, probabilities, rewards[t if len(rewards) > 1 else 0], values)
        scores = (log_prior[t] if log_prior.dim() == 3 else log_prior) + q_values
        values = safe_logsumexp(scores)
        values = torch.where(model.live, values, torch.zeros_like(values))
        rows.append(values)
    return torch.stack(rows[::-1])
