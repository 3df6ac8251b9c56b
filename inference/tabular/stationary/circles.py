"""A bound on hard values where moves as good as the best lead round in circles that pay nothing in sum.

There no w > 0 has F(v + w) <= v + w (see `newton`), as it would have to fall all around the circle. But where every
move is sure of its outcome, and no circle pays more than nothing, a best way to the end meets each of N states once at
most: a circle on it can be left out. If no move has r + v(s') - v(s) > d, the rewards of such a way sum up to v + N d
at most; and the policy found, which ends, is worth at least v - w for the w of its own chain.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from cai.inference.tabular.stationary.newton import CHECKS, GRAIN, Chains, Found
from cai.inference.tabular.stationary.problem.moves import TINY
from cai.inference.tabular.stationary.problem.searches import staying
from cai.inference.tabular.stationary.problem.steps import Steps

__all__ = ["bound_over_circles"]

Array = np.ndarray[Any, Any]
LOOKS = 1_000_000  # sums of fractions at most


def bound_over_circles(steps: Steps, found: Found, chains: Chains, temperature: float) -> Array | None:
    """[N], a bound on how far values are from those of the best ways to the end; None where this way finds none.

    Args:
        steps: a problem of hard control.
        found: where policy iteration ended.
        chains: of the problem.
        temperature: by which rewards were divided, so that they can be summed up without rounding.
    """
    if found.chosen is None or steps.eta != 0 or steps.count != len(steps.states):
        return None
    values = found.values
    moves, below = steps.moves(values), _below(steps, found, chains)
    if below is None:
        return None
    eps = float(np.finfo(steps.dtype).eps)
    rounding = 3 * eps * float(moves.sizes.max()) + eps * eps * float(np.abs(values.total).max())
    above = 1.01 * steps.number * (max(float(moves.delta.max()), 0.0) + rounding)
    labels, kept = staying(steps, moves.advantages >= -above)  # around others less is paid than N d makes up for
    if _pays(steps, labels, np.flatnonzero(kept), temperature):
        return None
    return np.maximum(below, above)


def _below(steps: Steps, found: Found, chains: Chains) -> Array | None:
    """[N], how much less than v the policy found may be worth; None if that is not found."""
    values = found.values
    own = steps.moves(values, found.chosen)
    side = 1.25 * (np.abs(own.delta) + own.rounding)
    for _ in range(CHECKS):
        width = chains.solve(own, side)
        if width is None or (width < 0).any():
            return None
        down = steps.moves(values.moved(-width), found.chosen)
        if (down.delta >= down.rounding - TINY).all():
            return width
        side = np.maximum(1.5 * side, GRAIN * float(width.max()))
    return None


def _pays(steps: Steps, labels: Array, pairs: Array, temperature: float) -> bool:
    """Whether some circle of pairs, int, pays more than nothing, without rounding; True where that takes too long.

    Sums along ways stand still after as many looks at each pair as there are states on a circle, or they never do.
    """
    sources, targets = steps.states[pairs], steps.targets[pairs]
    sizes = np.bincount(labels[np.unique(sources)])
    rounds = int(sizes.max(initial=0))
    if rounds * len(pairs) > LOOKS:
        return True
    paid = [_exact(reward, temperature) for reward in steps.rewards[pairs].astype(np.longdouble)]
    scale = max((part.denominator for part in paid), default=1)  # powers of 2
    ways = list(zip(sources.tolist(), targets.tolist(), (int(part * scale) for part in paid), strict=True))
    sums = dict.fromkeys(sources.tolist(), 0)
    for _ in range(rounds + 1):
        grew = False
        for source, target, reward in ways:
            if reward + sums[target] > sums[source]:
                sums[source], grew = reward + sums[target], True
        if not grew:
            return False
    return bool(ways)


def _exact(nats: np.longdouble, temperature: float) -> Fraction:
    """A reward as it was given: the float64 that divided by the temperature makes these nats."""
    given = float(nats * np.longdouble(temperature))
    if np.longdouble(given) / np.longdouble(temperature) == nats:
        return Fraction(given)
    return Fraction(*nats.as_integer_ratio()) * Fraction(temperature)
