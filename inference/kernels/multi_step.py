"""Many steps of a backward pass in one scale, where nothing changes over time.

A step by itself takes logarithms and a shift, so that what it passes on lies well inside the range of floats. While
that holds anyway both can wait, and be done for many steps at once:

    exact            x_t = D M x_{t+1}                                x = e^{v - c}, M = sum_a w_a P_a
    fixed dynamics   u_t = log2 sum_a 2^{rho + log p + P u_{t+1}}     u = v - c in bits; rows of P sum to 1

D holds the largest e^rho p(a|s) of each state relative to the largest of all, which c gains at every step. A run ends
before a message that is not sound: the pass takes that step by itself, and may begin another run in another scale.
"""

from __future__ import annotations

import math
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from cai.models.common.numerics import BITS, NATS

if TYPE_CHECKING:
    from cai.inference.kernels.soft_backward import SoftPass

__all__ = ["Run", "column", "exact_run", "fill", "finish", "fixed_run", "is_sound", "open_scale", "run_levels"]

FEW = 8  # steps: after a run that is shorter some go one by one, twice as many each time
TRIED = 8  # steps under fixed dynamics that are taken before any is looked at
HIGHEST = 200.0  # nats above c that a terminal state, whose value is 0, may come to lie


class Run(NamedTuple):
    """Rows in one scale.

    Attributes:
        first: the earliest row that was written; the row that was known, if none was.
        levels: c in nats of the rows from there to the known one.
    """

    first: int
    levels: list[float]


class Scale(NamedTuple):
    """How a run of the exact backup begins.

    Attributes:
        known: e^{v - c} [S] of the row that is known.
        level: its c.
        hopeless: bool [S], states that are and stay at -inf; None where there is none.
    """

    known: Tensor
    level: float
    hopeless: Tensor | None


def fill(soft: SoftPass, rows: Tensor, begin: int = 0, *, linear: bool = False) -> list[float] | None:
    """Writes values from the last row on, in runs where possible.

    Args:
        soft: the pass.
        rows: [n + 1, S] or [n + 1, S, B], nats, of which the last is known.
        begin: the step of the first row.
        linear: whether all rows, the known one too, may be left as e^{v - c} where one run of the exact backup does.

    Returns:
        c of every row if they were left so.
    """
    last, pause = len(rows) - 1, 1
    together = soft.allows_runs and rows.dim() == 2
    while last > 0:
        singly = last
        if together:
            run = soft.run(rows, last)
            if linear and soft.kind == "exact" and run.first == 0 and last == len(rows) - 1:
                rows[-1].sub_(run.levels[-1]).mul_(BITS).exp2_()
                return run.levels
            finish(soft, rows[run.first : last], run.levels)
            short = last - run.first < FEW
            last, singly = run.first, pause if short else 0
            pause = 2 * pause if short else 1
        for _ in range(min(last, singly)):
            soft.step(rows[last], begin + last - 1, rows[last - 1])
            last -= 1
    return None


def finish(soft: SoftPass, rows: Tensor, levels: list[float]) -> Tensor:
    """Turns rows of a run into values in nats, in place; a few rows at a time, which stay in the cache."""
    shifts = column(levels[: len(rows)], rows)
    for part, shift in zip(*(table.split(soft.rows_at_once) for table in (rows, shifts)), strict=True):
        if soft.kind == "exact":
            part.log2_()
        part.mul_(NATS).add_(shift)
    if len(soft.terminal):
        rows.index_fill_(1, soft.terminal, 0.0)
    return rows


def column(numbers: list[float], like: Tensor) -> Tensor:
    """[n, 1], one number for each row, where `like` is."""
    return torch.tensor(numbers, dtype=like.dtype, device=like.device)[:, None]


def run_levels(soft: SoftPass, level: float, steps: int) -> list[float]:
    """C in nats of a row and of up to `steps` rows before it, as far as e^{-c} is a sound number where it matters.

    It does where chains fall or end: what they are worth then is 0, whatever the scale.
    """
    levels = [level + number * soft.rise for number in range(steps + 1)]
    if soft.model.discount == 1 and not len(soft.terminal):
        return levels
    return levels[:1] + list(takewhile(lambda later: later >= -HIGHEST, levels[1:]))


def open_scale(soft: SoftPass, values: Tensor, room: Tensor) -> Scale | None:
    """The scale of a run of the exact backup; None where states come to be at -inf, or cease to be.

    Args:
        soft: the pass.
        values: [S] of the row that is known.
        room: [S], memory for what follows from them.
    """
    level, complete = soft.peak(values)
    hopeless = None
    if not complete:
        hopeless = torch.isinf(values)
        arrives = ~hopeless if soft.model.discount == 1 else torch.ones_like(hopeless)  # who falls is never lost
        reached = torch.empty_like(values)
        soft.exact_sums(arrives.to(values.dtype), soft.constants(0), reached)
        reached.index_fill_(0, soft.terminal, 1.0)
        if not torch.equal(reached == 0, hopeless):
            return None
    known = torch.sub(values, level, out=room).mul_(BITS).exp2_()
    return Scale(known, level, hopeless)


def exact_run(soft: SoftPass, rows: Tensor, last: int) -> Run:
    """Writes e^{v - c} into rows before the last, whose values are known, as long as one scale serves."""
    made, discount, terminal = soft.constants(0), soft.model.discount, soft.terminal
    scale = open_scale(soft, rows[last], _room(soft, rows, last))
    if scale is None:
        return Run(last, [])
    arrived, levels = scale.known, run_levels(soft, scale.level, last)
    for done, (before, level) in enumerate(pairwise(levels)):
        if discount < 1:
            goes_on = torch.mul(arrived, discount, out=soft.whole("discounted", arrived))
            arrived = goes_on.add_((1 - discount) * math.exp(-before))
        row = rows[last - 1 - done]
        soft.scaled_sums(arrived, made, row)
        if len(terminal):
            row.index_fill_(0, terminal, math.exp(-level))
        if not is_sound(row, soft.smallest, 1 / soft.smallest, scale.hopeless):
            levels = levels[: done + 1]
            break
        arrived = row
    return Run(last + 1 - len(levels), levels[::-1])


def is_sound(rows: Tensor, least: float, most: float, hopeless: Tensor | None) -> bool:
    """Whether every number lies between `least` and `most`, but for those of states without hope, which may be 0."""
    low, high = (float(bound) for bound in torch.aminmax(rows))
    if low >= least and high <= most:
        return True
    return hopeless is not None and high <= most and bool(((rows >= least) | hopeless).all())


def fixed_run(soft: SoftPass, rows: Tensor, last: int) -> Run:
    """Writes v - c in bits into rows before the last, whose values are known, as long as one scale serves."""
    made, discount, terminal = soft.constants(0), soft.model.discount, soft.terminal
    level, complete = soft.peak(rows[last])
    if not complete:
        return Run(last, [])
    arrived = torch.sub(rows[last], level, out=_room(soft, rows, last)).mul_(BITS)
    levels, first = [level], last
    while first > 0:
        begin = max(0, first - TRIED)
        for t in reversed(range(begin, first)):
            arrived = soft.fixed_logs(arrived, made, rows[t])
            levels.append(discount * levels[-1] + soft.shared_prior)
            if len(terminal):
                arrived.index_fill_(0, terminal, -levels[-1] * BITS)
        sound = _sound_logs(soft, rows[begin:first])
        first -= sound
        if sound < TRIED:
            break
    return Run(first, levels[: last - first + 1][::-1])


def _sound_logs(soft: SoftPass, rows: Tensor) -> int:
    """How many of the rows, counted from the last, are logarithms of sums that neither under- nor overflow."""
    sound = (rows.amin(1) >= math.log2(soft.smallest)) & torch.isfinite(rows.amax(1))  # aminmax is slow along an axis
    return next((number for number, one in enumerate(reversed(sound.tolist())) if not one), len(rows))


def _room(soft: SoftPass, rows: Tensor, last: int) -> Tensor:
    """Memory [S] for one step: the first row, whose own values come last, unless it is the next."""
    return rows[0] if last > 1 else soft.whole("arrivals", rows[last])
