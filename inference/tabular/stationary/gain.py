"""What a class of states earns a step: Newton's method for the average criterion, with bounds.

Newton's steps (`gain_steps`) solve g + h = F(h). Where they are of no use (weights so small that the chain falls apart
in floats), averaged backups h <- (h + F(h) - g) / 2 bring h nearer: F never expands the spread of h, so
they converge to a solution wherever there is one, whatever the period (Krasnoselskii and Mann).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cai.inference.tabular.markov.linear_systems import LinearSystem
from cai.inference.tabular.stationary.gain_steps import (
    classes_of,
    falls_apart,
    is_even,
    is_near,
    middle,
    newton_against,
    often_seen,
    spread,
    until_return,
)
from cai.inference.tabular.stationary.gain_steps import newton as newton_steps
from cai.inference.tabular.stationary.newton import Chains
from cai.inference.tabular.stationary.problem.moves import Moves, Values
from cai.inference.tabular.stationary.problem.steps import Steps

__all__ = [
    "Rate",
    "bound_on_values",
    "concluded",
    "drift_of_chain",
    "never_settles",
    "of_ties",
    "soft_rate",
]

Array = np.ndarray[Any, Any]
NEWTON = 60  # of Newton's steps in a row
WIDENINGS = 6  # of the bound on values
SETTLE = 10_000  # backups in which values are to settle that the equation leaves open
STALLS = 10  # attempts in a row that do not bring the bounds on the gain to half of what they were
TRIES = 3  # the same where each attempt holds many policies
MANY = 1_000  # backups in a row at most, between attempts at Newton's steps


@dataclass(frozen=True)
class Rate:
    """Gain and relative values of a class.

    Attributes:
        gain: nats a step.
        low: a bound on the gain from below.
        high: from above.
        values: h.
        width: [N], a bound on the error of h less that of one state; inf where none was found.
        law: [N], how often its policy and dynamics are where in the long run.
        count: backups and policies.
        jumps: how many of them solved a linear system.
        tight: bool [E], the edges that count, where the choice or the backup takes the best or the worst; else None.
        why: what is odd, where something is.
    """

    gain: Any
    low: Any
    high: Any
    values: Values
    width: Array
    law: Array
    count: int
    jumps: int
    tight: Array | None = None
    why: str = ""


def soft_rate(steps: Steps, limit: int, newton: bool = True, values: Values | None = None) -> Rate:
    """Gain and values of a soft choice, or of any backup.

    Args:
        steps: of a class that no edge leaves; every state leads to every other.
        limit: the most backups and policies.
        newton: whether linear systems may be solved.
        values: where to begin; at 0 unless given.
    """
    chains, values = Chains(steps), values or steps.values(np.zeros(steps.number))
    count, jumps, rounds, stalls, before = 0, 0, 16, 0, np.inf
    against = steps.eta < 0 and np.isfinite(steps.eta)
    while True:
        moves = steps.moves(values)
        if newton:
            if against:
                found, reached, taken, solved = newton_against(steps, chains, values, limit - count)
            else:
                found, reached, taken = newton_steps(steps, chains, values, min(NEWTON, limit - count))
                solved = taken
            count, jumps = count + taken, jumps + solved
            if steps.eta > -np.inf or is_near(steps, reached):  # else a step may lead far, and backups bring h nearer
                values, moves = found, reached
        stalls, before = stalls + 1 if spread(moves) > before / 2 else 0, spread(moves)
        stalled = newton and (stalls == (TRIES if against else STALLS) or is_near(steps, moves))
        stalled = stalled or (steps.eta < 0 and falls_apart(steps, values, moves))
        if is_even(moves) or count >= limit or stalled:
            break
        for _ in range(min(rounds, limit - count)):
            moves = steps.moves(values)
            count += 1
            if is_even(moves):
                break
            values = values.moved((moves.delta - middle(moves)) / 2)
        rounds = min(2 * rounds, MANY)
    rate = concluded(steps, chains, values, count, jumps)
    tied = np.isinf(steps.eta) and not rate.why and not np.isfinite(rate.width).all()
    return of_ties(steps, rate, limit, drift_of_chain) if tied else rate


def never_settles(steps: Steps, values: Values, limit: int) -> bool:
    """Whether all values of longer and longer horizons were shown to grow (eta > 0) or fall (eta < 0) for ever.

    Let F0 be the backup without what ends. There is less to sum up, so F >= F0 if eta > 0. If then F0(h) >= h + g with
    g > 0, V_T >= h - max h + T g; and V_T <= h - min h + T g if eta < 0 and F0(h) <= h + g with g < 0.

    Args:
        steps: of a soft choice, eta finite. Where it is 0 nothing is shown: a mean does not grow with its terms.
        values: where to begin.
        limit: the most steps.
    """
    if steps.eta == 0:
        return False
    end = np.append(np.zeros(steps.number, dtype=bool), True)
    stays = ~steps.edges_into(end)
    pairs = steps.some(stays)
    held = np.bincount(steps.states[pairs], minlength=steps.number) > 0
    if not (pairs if steps.eta < 0 else held).all():
        return False
    inner = steps.select(pairs, stays & steps.of_pairs(pairs), np.ones(steps.number, dtype=bool), np.zeros(len(end)))
    if steps.eta < 0:
        moves = newton_against(inner, Chains(inner), values, limit)[1]
        return bool((moves.delta + moves.rounding).max() < 0)
    moves = newton_steps(inner, Chains(inner), values, limit)[1]
    return bool((moves.delta - moves.rounding).min() > 0)


def concluded(steps: Steps, chains: Chains, values: Values, count: int, jumps: int, chain: Moves | None = None) -> Rate:
    """Bounds on the gain and on the values, these along a chain (that of the choice unless given)."""
    values = values.relative(0)
    moves = steps.moves(values)
    low, high = (moves.delta - moves.rounding).min(), (moves.delta + moves.rounding).max()
    gain = (low + high) / 2
    chain = chain or moves
    law, width = np.full(steps.number, 1 / steps.number), np.full(steps.number, np.inf)
    often = often_seen(steps, chains, chain)
    if often is not None:
        law, references = often.law, np.array([often.reference])
        width = bound_on_values(steps, chains, values, moves, chain, references, low, high, often.system)
    unknown = (steps.eta < 0 or np.isinf(steps.eta)) and not np.isfinite(width).all()
    apart = unknown and not is_near(steps, moves) and float(high - low) > 1e-6 * float(abs(gain))
    why = "what a step earns in the long run may depend on the state, so that there is no one gain" if apart else ""
    tight = None if np.isfinite(steps.eta) and not steps.hard else chain.weights > 0
    return Rate(gain, low, high, values, width, law, count, jumps, tight, why)


def bound_on_values(
    steps: Steps,
    chains: Chains,
    values: Values,
    moves: Moves,
    chain: Moves,
    references: Array,
    low: Any,
    high: Any,
    system: LinearSystem | None = None,
) -> Array:
    """[N], how far h may be from the solution that is the same at the references; inf where no bound is found.

    The system is that of the chain until it comes to one of the references, where it is there already.
    """
    side = 1.25 * (np.abs(moves.delta - low) + (high - low) + moves.rounding)
    system = system or until_return(steps, chains, chain, references)
    others = ~np.isin(np.arange(steps.number), references)
    for _ in range(WIDENINGS):
        found = system.answer(side.astype(np.float64)[:, None])
        if found is None or not np.isfinite(found).all() or (found < 0).any():
            break
        width = np.where(others, found[:, 0], 0.0)
        up, down = steps.moves(values.moved(width)), steps.moves(values.moved(-width))
        above, below = up.delta + up.rounding <= low, down.delta - down.rounding >= high
        if above[others].all() and below[others].all():
            return width
        side = 1.5 * side
        system = until_return(steps, chains, up, references)
    return np.full(steps.number, np.inf)


def of_ties(
    steps: Steps,
    rate: Rate,
    limit: int,
    drift: Callable[[Steps, Values, Any, Any], Array | None],
) -> Rate:
    """The same where the equation leaves open what several sets of states are worth relative to each other.

    Args:
        steps: the problem.
        rate: what is known of it.
        limit: the most backups.
        drift: how far [N] values may move on from where they seem to stand still, of the problem, them, the gain and
            what a step may be off by; None where nothing is known.
    """
    why = "several sets of states earn as much a step, and what they are worth to each other does not settle"
    found = _settled(steps, rate, min(SETTLE, limit))
    if found is None:
        return replace(rate, width=np.full(steps.number, np.inf), why=why)
    values, backups, lost, off = found
    moved = drift(steps, values, rate.gain, off)
    width = np.full(steps.number, np.inf if moved is None else lost) + (0.0 if moved is None else moved)
    return replace(rate, values=values, width=width, count=rate.count + backups, why=why)


def drift_of_chain(steps: Steps, values: Values, gain: Any, off: Any) -> Array | None:
    """[N], how far values may move on while the chain at them gets to where it stays; see `of_ties`."""
    chains, moves = Chains(steps), steps.moves(values)
    stays = np.concatenate(classes_of(steps, moves))
    side = np.full((steps.number, 1), float(off))
    found = until_return(steps, chains, moves, stays).answer(side)
    if found is None or not (np.isfinite(found).all() and (found >= 0).all()):
        return None
    return np.where(np.isin(np.arange(steps.number), stays), 0.0, found[:, 0])


def _settled(steps: Steps, rate: Rate, limit: int) -> tuple[Values, int, float, Any] | None:
    """Values of finite horizons from 0 less the gain of each step, once they seem to stand still.

    Returns:
        (values, after how many backups, what rounding may have made of them, what a step may be off by); None if they
        go on.
    """
    values, lost = steps.values(np.zeros(steps.number)), 0.0
    known = (rate.high - rate.low) / 2  # all states move by what the gain is off by
    for count in range(limit):
        moves = steps.moves(values)
        lost += 2 * float(moves.rounding.max())
        if (np.abs(moves.delta - rate.gain) <= 4 * moves.rounding + known).all():
            return values, count + 1, lost, 5 * moves.rounding.max() + 2 * known
        values = values.moved(moves.delta - rate.gain)
    return None
