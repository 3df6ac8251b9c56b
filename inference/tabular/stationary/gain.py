"""What a class of states earns a step: Howard's algorithm for the average criterion, soft and hard, with bounds.

Soft: Newton's method on g + h = F(h), whose slope is the chain of the policy and dynamics at h (policy iteration; where
F is convex, eta >= 0, its gains never fall). Where that is of no use (weights so small that the chain falls apart in
floats, or F not convex), averaged backups h <- (h + F(h) - g) / 2 bring h nearer: F never expands the spread of h, so
they converge to a solution wherever there is one, whatever the period (Krasnoselskii and Mann).

Hard: policy iteration whose policies lead to the best of their closed classes (Haviv and Puterman 1991).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cai.inference.tabular.markov.graphs import closed_classes, surely_reaching
from cai.inference.tabular.markov.linear_systems import LinearSystem
from cai.inference.tabular.stationary.newton import NOISE, Chains, as_good, better
from cai.inference.tabular.stationary.problem.moves import TINY, Moves, Values
from cai.inference.tabular.stationary.problem.searches import staying
from cai.inference.tabular.stationary.problem.steps import Steps

__all__ = ["Rate", "hard_rate", "soft_rate"]

Array = np.ndarray[Any, Any]
NEWTON = 60  # of Newton's steps in a row
WIDENINGS = 6  # of the bound on values
SETTLE = 10_000  # backups in which values are to settle that the equation leaves open
STALLS = 10  # attempts in a row that do not bring the bounds on the gain to half of what they were
LOOK = 200  # steps of a chain by which a state is found that it is in often
STILL = 1e-9  # what a step changes of where it is, below which more of them show nothing
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


def soft_rate(steps: Steps, limit: int, newton: bool = True) -> Rate:
    """Gain and values of a soft choice, or of any backup.

    Args:
        steps: of a class that no edge leaves; every state leads to every other.
        limit: the most backups and policies.
        newton: whether linear systems may be solved.
    """
    chains, values = Chains(steps), steps.values(np.zeros(steps.number))
    count, jumps, rounds, stalls, before = 0, 0, 16, 0, np.inf
    while True:
        if newton:
            values, moves, taken = _newton(steps, chains, values, min(NEWTON, limit - count))
            count, jumps = count + taken, jumps + taken
        else:
            moves = steps.moves(values)
        stalls, before = stalls + 1 if _spread(moves) > before / 2 else 0, _spread(moves)
        stuck = newton and (stalls == STALLS or _near(steps, moves))
        if _even(moves) or count >= limit or stuck:
            break
        for _ in range(min(rounds, limit - count)):
            moves = steps.moves(values)
            count += 1
            if _even(moves):
                break
            values = values.moved((moves.delta - _middle(moves)) / 2)
        rounds = min(2 * rounds, MANY)
    return _concluded(steps, chains, values, count, jumps)


def _even(moves: Moves) -> bool:
    """Whether the gain is known as well as floats allow."""
    return bool((np.abs(moves.delta - _middle(moves)) <= 4 * moves.rounding).all())


def _near(steps: Steps, moves: Moves) -> bool:
    """Whether what is left is rounding but for a factor, so that it is not worth going on where it falls no more."""
    rounding = moves.rounding.max() * (64 if steps.dtype is np.float64 else 1e4)
    return bool(np.abs(moves.delta - _middle(moves)).max() <= rounding)


def _middle(moves: Moves) -> Any:
    return (moves.delta.max() + moves.delta.min()) / 2


def _spread(moves: Moves) -> float:
    spread = float(moves.delta.max() - moves.delta.min())
    return spread if spread == spread else np.inf


def _newton(steps: Steps, chains: Chains, values: Values, limit: int) -> tuple[Values, Moves, int]:
    """Newton's steps while they are of use: the best values met, their moves, and how many steps were taken."""
    reference = -1
    best = (values, steps.moves(values))
    at, since = best, 0
    for count in range(limit):
        if _even(at[1]) or since >= (1 if _near(steps, best[1]) else 20):
            return *best, count
        if reference < 0 or count % 8 == 1:
            reference = _often(steps, chains, at[1])
            if reference < 0:
                return *best, count
        system = _until_return(steps, chains, at[1], np.array([reference]))
        ones = np.ones(steps.number)
        found = system.answer(np.stack([at[1].delta.astype(np.float64), ones], -1))
        if found is None or not np.isfinite(found).all() or found[reference, 1] <= 0:
            return *best, count
        gain = found[reference, 0] / found[reference, 1]
        step = system.answer((at[1].delta - gain).astype(np.float64)[:, None])  # not x - g y, which cancels
        if step is None or not np.isfinite(step).all():
            return *best, count
        step = step[:, 0]
        step[reference] = 0.0
        # Where nearly all weight leaves the reference for ever, all others move far, and together.
        moved = at[0].moved(step).relative(int(np.abs(step).argmax()))
        at = (moved, steps.moves(moved))
        if not np.isfinite(at[1].delta).all():
            return *best, count + 1
        since = 0 if _spread(at[1]) < 0.9 * _spread(best[1]) else since + 1
        best = at if _spread(at[1]) < _spread(best[1]) else best
    return *best, limit


def _often(steps: Steps, chains: Chains, moves: Moves) -> int:
    """A state that the chain is in often; -1 if in floats it has several closed classes."""
    classes = _classes(steps, moves)
    if len(classes) != 1:
        return -1
    reference = _seen(steps, moves, classes[0])
    law = _law(steps, chains, moves, reference)
    return -1 if law is None else int(law.argmax())


def _classes(steps: Steps, moves: Moves) -> list[Array]:
    """The closed classes that the chain has in floats."""
    every = np.ones(steps.number, dtype=bool)
    if steps.table is not None:
        sources, outcomes = np.nonzero(moves.chain > 0)
        return closed_classes(sources, steps.table.columns[outcomes], every)
    used = moves.weights.astype(np.float64) > 0
    return closed_classes(steps.sources[used], steps.targets[used], every)


def _seen(steps: Steps, moves: Moves, states: Array) -> int:
    """The state that a chain begun anywhere in a closed class is the likeliest to be in after a while."""
    here = np.zeros(steps.number)
    here[states] = 1 / len(states)
    weights = moves.weights.astype(np.float64) if steps.table is None else moves.chain
    for _ in range(LOOK):  # a state that is seldom seen tells nothing of the others in floats
        if steps.table is None:
            sent, targets = weights * here[steps.sources], steps.targets
        else:
            sent, targets = here @ weights, steps.table.columns
        before, here = here, (here + np.bincount(targets, sent, steps.number)[: steps.number]) / 2  # none ends
        if np.abs(here - before).sum() < STILL:
            break
    return int(here.argmax())


def _law(steps: Steps, chains: Chains, moves: Moves, reference: int) -> Array | None:
    """[N], the long run of a chain that always comes back to a state."""
    side = np.zeros((steps.number, 1))
    side[reference] = 1.0
    found = _until_return(steps, chains, moves, np.array([reference])).answer(side, True)
    if found is None or not np.isfinite(found).all() or not found.sum() > 0:
        return None
    return np.asarray(found[:, 0] / found.sum())


def _until_return(steps: Steps, chains: Chains, moves: Moves, references: Array) -> LinearSystem:
    """The system of a chain that ends where it comes to one of some states."""
    return chains.system(moves, np.isin(np.arange(steps.number + 1), references))


def _concluded(
    steps: Steps, chains: Chains, values: Values, count: int, jumps: int, chain: Moves | None = None
) -> Rate:
    """Bounds on the gain and on the values, these along a chain (that of the choice unless given)."""
    values = values.relative(0)
    moves = steps.moves(values)
    low, high = (moves.delta - moves.rounding).min(), (moves.delta + moves.rounding).max()
    gain = (low + high) / 2
    chain = chain or moves
    law, width = np.full(steps.number, 1 / steps.number), np.full(steps.number, np.inf)
    reference = _often(steps, chains, chain)
    if reference >= 0:
        found = _law(steps, chains, chain, reference)
        if found is not None:
            law = found
            width = _bound(steps, chains, values, moves, chain, np.array([reference]), low, high)
    apart = not np.isfinite(width).all() and not _near(steps, moves) and float(high - low) > 1e-6 * float(abs(gain))
    why = "what a step earns in the long run may depend on the state, so that there is no one gain" if apart else ""
    tight = None if np.isfinite(steps.eta) and not steps.hard else chain.weights > 0
    return Rate(gain, low, high, values, width, law, count, jumps, tight, why)


def _bound(
    steps: Steps, chains: Chains, values: Values, moves: Moves, chain: Moves, references: Array, low: Any, high: Any
) -> Array:
    """[N], how far h may be from the solution that is the same at the references; inf where no bound is found."""
    side = 1.25 * (np.abs(moves.delta - low) + (high - low) + moves.rounding)
    system = _until_return(steps, chains, chain, references)
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
        system = _until_return(steps, chains, up, references)
    return np.full(steps.number, np.inf)


def hard_rate(steps: Steps, limit: int, newton: bool = True) -> Rate:
    """Gain and values of the best action of expected outcomes; arguments as in `soft_rate`."""
    chains, values = Chains(steps), steps.values(np.zeros(steps.number))
    if not newton:
        return soft_rate(steps, limit, False)
    chosen = steps.first_pairs.copy()
    count, reference, least, since = 0, -1, np.inf, 0
    while count < limit:
        count += 1
        chosen, reference = _leading(steps, chains, chosen, reference)
        values = _valued(steps, chains, values, chosen, reference)
        following, gap = better(steps, steps.moves(values), chosen)
        least, since = (gap, 0) if gap < 0.5 * least else (least, since + 1)
        if gap <= 1 or (gap < NOISE and since >= 2):
            break
        chosen = following
    tight = as_good(steps, steps.moves(values), values)
    labels, kept = staying(steps, tight)
    rate = _concluded(steps, chains, values, count, count, steps.moves(values, chosen))
    rate = replace(rate, tight=steps.of_pairs(kept))
    if len(np.unique(labels[labels >= 0])) < 2:
        if np.isfinite(rate.width).all():
            return rate
        return replace(rate, width=_width_of_ties(steps, chains, rate, chosen, kept))
    found = _settled(steps, rate.gain, min(SETTLE, limit))  # what these are worth relative to each other is open
    if found is None:
        why = "several sets of states earn as much a step, and what they are worth to each other does not settle"
        return replace(rate, width=np.full(steps.number, np.inf), why=why)
    values, backups = found
    width = backups * float(np.finfo(steps.dtype).eps) * np.abs(values.total)
    return replace(rate, values=values, width=width, count=rate.count + backups)


def _width_of_ties(steps: Steps, chains: Chains, rate: Rate, chosen: Array, kept: Array) -> Array:
    """[N], a bound on the error of h where pairs that are as good, bool [R], join states into one set; inf without one.

    Let P be a chain that takes any of these pairs, u the error, 0 in one state, and d what a pair may fall short of the
    gain. As no pair is better than its state, u >= P u - d. So u >= -d T, with T the steps until that state is come to;
    and as u - P u is 0 in the long run m, it is d / m at most, so that u <= max T d / min m. What leads there is bound
    as elsewhere.
    """
    moves, width = steps.moves(rate.values), np.full(steps.number, np.inf)
    inside, policy = np.zeros(steps.number, dtype=bool), kept.astype(steps.dtype)
    if not kept.any():
        return width
    inside[steps.states[kept]] = True
    policy[chosen[~inside]] = 1
    policy /= np.add.reduceat(policy, steps.first_pairs)[steps.states]
    joined = replace(moves, policy=policy)
    reference = _seen(steps, joined, np.flatnonzero(inside))
    law = _law(steps, chains, joined, reference)
    times = _until_return(steps, chains, joined, np.array([reference])).answer(np.ones((steps.number, 1)))
    if law is None or times is None or not np.isfinite(times).all() or not law[inside].min() > 0:
        return width
    short = rate.high - moves.advantages[kept].min() + moves.rounding.max()
    joint = 1.25 * float(short) * times[inside].max() / law[inside].min()
    chain = steps.moves(rate.values, chosen)
    return joint + _bound(steps, chains, rate.values, moves, chain, np.flatnonzero(inside), rate.low, rate.high)


def _settled(steps: Steps, gain: Any, limit: int) -> tuple[Values, int] | None:
    """Values of finite horizons from 0 less the gain of each step, once they stand still, and after how many."""
    values = steps.values(np.zeros(steps.number))
    for count in range(limit):
        moves = steps.moves(values)
        if (np.abs(moves.delta - gain) <= 4 * moves.rounding).all():
            return values, count + 1
        values = values.moved(moves.delta - gain)
    return None


def _leading(steps: Steps, chains: Chains, chosen: Array, reference: int) -> tuple[Array, int]:
    """The pairs of a policy [N], made to lead to the best of its closed classes, and a state of that one."""
    moves = steps.moves(steps.values(np.zeros(steps.number)), chosen)
    classes = _classes(steps, moves)
    best = classes[0]
    if len(classes) > 1:
        heads = np.array([states[0] for states in classes])
        sides = np.stack([steps.rewards[chosen].astype(np.float64), np.ones(steps.number)], -1)
        found = _until_return(steps, chains, moves, heads).answer(sides)
        gains = np.zeros(len(heads)) if found is None else found[heads, 0] / found[heads, 1]
        size = float(np.abs(steps.rewards).max(initial=0.0))
        good = np.flatnonzero(gains >= gains.max() - 1e-13 * size)
        best = next((classes[k] for k in good if reference in classes[k]), classes[int(gains.argmax())])
    if len(classes) == 1:
        return chosen, _seen(steps, moves, best)
    goal = np.zeros(steps.number + 1, dtype=bool)
    goal[best] = True
    if steps.table is not None:
        goal = steps.by(chosen).reaching(goal)
    else:
        goal = steps.reaching(goal, steps.of_pairs(np.isin(np.arange(len(steps.states)), chosen)))
    led = goal[:-1]
    if not led.all():
        nearer = surely_reaching(steps.states, steps.pairs, steps.targets, steps.chances, goal)[1][:-1]
        chosen = np.where(led, chosen, nearer)
    return chosen, _seen(steps, moves, best)


def _valued(steps: Steps, chains: Chains, values: Values, chosen: Array, reference: int) -> Values:
    """The relative values of a policy, 0 in the reference, worked off until rounding is left."""
    moves = steps.moves(values, chosen)
    system, best = _until_return(steps, chains, moves, np.array([reference])), np.inf
    for _ in range(8):
        moves = steps.moves(values, chosen)
        found = system.answer(np.stack([moves.delta.astype(np.float64), np.ones(steps.number)], -1))
        if found is None or not np.isfinite(found).all():
            break
        gain = found[reference, 0] / found[reference, 1]
        left = float((np.abs(moves.delta - gain) / np.maximum(moves.rounding, TINY)).max())
        if left <= 1 or left > 0.5 * best:
            break
        step = system.answer((moves.delta - gain).astype(np.float64)[:, None])
        if step is None:
            break
        step[reference] = 0.0
        best, values = left, values.moved(step[:, 0])
    return values
