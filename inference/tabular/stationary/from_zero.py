"""What finite horizons tend to where a backup has many fixed points: shown from V_T itself, which begins at 0.

A backup F is monotone and F(v + c) <= F(v) + c for c >= 0. Where no reward is above 0, V_T = F^T(0) falls, and stays
above every u <= 0 with F(u) >= u: so the limit is between u and V_T. Where none is below 0 it rises, and stays below
every u >= 0 with F(u) <= u (Puterman 1994, sections 7.2 and 7.3). The chain P of the choice at v has P v = v - r + KL,
so u = (1 + e) v is such a one to first order where V_T falls; states of equal values are given the same u.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cai.inference.tabular.stationary.problem.moves import Values
from cai.inference.tabular.stationary.problem.steps import Steps

__all__ = ["bound_from_zero", "goes_round"]

Array = np.ndarray[Any, Any]
BEYOND = (1e-15, 1e-13, 3e-12, 3e-11)  # e of the u that are tried
EQUAL = 0.1  # of e: values that are as near to each other get the same u
SAME = 16.0  # roundings a backup may leave, of the largest value or reward


def bound_from_zero(steps: Steps, values: Values, count: int) -> Array | None:
    """[N], a bound on how far the backups of 0 are from their limit; None where none was found.

    Args:
        steps: the problem.
        values: after so many backups of 0, as they are rounded.
        count: how many.
    """
    paid = steps.rewards if steps.eta == 0 else steps.gains_of(np.ones(steps.number, dtype=bool))
    sure = not steps.lost.any()  # else F(0) may be above 0 where eta < 0
    falls = bool((paid <= 0).all()) and (sure or steps.eta >= 0)
    if not falls and not (sure and not steps.refused.any() and (paid >= 0).all()):
        return None
    sign = -1.0 if falls else 1.0
    total = values.high + values.low
    if (sign * total < 0).any():
        return None
    rounded = count * float(steps.moves(values).rounding.max(initial=0.0))
    for beyond in BEYOND:
        limit = _apart(sign * total, EQUAL * beyond) * (1 + beyond) * sign
        begin = steps.values(np.zeros(steps.number)).moved(limit)
        moves = steps.moves(begin)
        exact = (np.maximum.reduceat(moves.sizes, steps.first_pairs) == 0) & (moves.delta == 0) & (steps.refused == 0)
        if (exact | (sign * moves.delta <= -moves.rounding)).all():
            found = begin.high + begin.low
            return np.maximum(np.abs(found - total), np.minimum(np.abs(total), rounded)).astype(np.float64)
    return None


def _apart(sizes: Array, apart: float) -> Array:
    """Sizes [N] >= 0, of which those that are near each other, relative to the larger, are the same: the largest."""
    order = np.argsort(-sizes)
    ranked = sizes[order]
    first = np.append(True, ranked[1:] < ranked[:-1] * (1 - apart))
    same = np.empty_like(sizes)
    same[order] = ranked[np.flatnonzero(first)][np.cumsum(first) - 1]
    return same


def goes_round(steps: Steps, before: Values, after: Values, period: int) -> bool:
    """Whether backups go round for ever: they are where they were, but for rounding, and what moves never ends.

    Args:
        steps: the problem.
        before: the values then.
        after: the values some backups later.
        period: how many.
    """
    apart, rounding, values = np.abs((after.high - before.high) + (after.low - before.low)), 0.0, before
    size = float(np.abs(after.total).max())
    if float(apart.max()) > SAME * period * float(np.finfo(steps.dtype).eps) * size:
        return False
    used, change = np.zeros(steps.count, dtype=bool), np.zeros(steps.number)
    for _ in range(period):
        moves = steps.moves(values)
        used |= np.asarray(moves.weights > 0)
        rounding += float(moves.rounding.max())
        values = values.moved(moves.delta)
        change = np.maximum(change, np.abs(moves.delta).astype(np.float64))
    end = np.append(np.zeros(steps.number, dtype=bool), True)
    ends = steps.reaching(end, used)[:-1]
    return bool((apart <= 2 * rounding).all() and (change[~ends] >= 0.5 * change.max()).any())
