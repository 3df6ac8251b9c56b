"""What a class of states earns a step: Newton's method for the average criterion, with bounds.

Newton's method on g + h = F(h), whose slope is the chain of the policy and dynamics at h (policy iteration; where
F is convex, eta >= 0, its gains never fall). Where that is of no use (weights so small that the chain falls apart in
floats, or F not convex), averaged backups h <- (h + F(h) - g) / 2 bring h nearer: F never expands the spread of h, so
they converge to a solution wherever there is one, whatever the period (Krasnoselskii and Mann).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cai.inference.tabular.markov.graphs import closed_classes
from cai.inference.tabular.markov.linear_systems import LinearSystem
from cai.inference.tabular.stationary.newton import Chains
from cai.inference.tabular.stationary.problem.moves import Moves, Tilted, Values
from cai.inference.tabular.stationary.problem.steps import Steps

__all__ = [
    "Rate",
    "bound_on_values",
    "classes_of",
    "concluded",
    "drift_of_chain",
    "gain_of",
    "law_of",
    "of_ties",
    "seen_state",
    "soft_rate",
    "until_return",
]

Array = np.ndarray[Any, Any]
NEWTON = 60  # of Newton's steps in a row
WIDENINGS = 6  # of the bound on values
SETTLE = 10_000  # backups in which values are to settle that the equation leaves open
STALLS = 10  # attempts in a row that do not bring the bounds on the gain to half of what they were
LOOKS = 4  # tries at a state that is seen often
LOOK = 200  # steps of a chain by which a state is found that it is in often
FULL = 0.1  # of a table: chains of fewer entries are listed
STILL = 1e-4  # what a step changes of where it is, below which more of them show nothing
UNDONE = 1e-6  # of a step: values that are less have lost too many digits of theirs to it
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
        moves = steps.moves(values)
        if newton:
            found, reached, taken = _newton(steps, chains, values, min(NEWTON, limit - count))
            count, jumps = count + taken, jumps + taken
            if steps.eta >= 0 or _near(steps, reached):  # else a step may lead far away, and backups bring h nearer
                values, moves = found, reached
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
    rate = concluded(steps, chains, values, count, jumps)
    tied = np.isinf(steps.eta) and not rate.why and not np.isfinite(rate.width).all()
    return of_ties(steps, rate, limit, drift_of_chain) if tied else rate


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
    reference, system, gain = -1, None, steps.dtype(0)
    best = (values, steps.moves(values))
    at, since = best, 0
    for count in range(limit):
        if _even(at[1]) or since >= (1 if _near(steps, best[1]) else 20):
            return *best, count
        if reference < 0 or count % 8 == 1:
            often = _often(steps, chains, at[1])
            if often is None:
                return *best, count
            reference, system = often.reference, often.system
        if system is None:
            system = until_return(steps, chains, at[1], np.array([reference]))
        found, system = _evaluated(steps, system, at, reference, gain), None
        if found is None:
            return *best, count
        values, gain = found
        at = (values, steps.moves(values))
        if not np.isfinite(at[1].delta).all():
            return *best, count + 1
        since = 0 if _spread(at[1]) < 0.9 * _spread(best[1]) else since + 1
        best = at if _spread(at[1]) < _spread(best[1]) else best
    return *best, limit


def _evaluated(
    steps: Steps, system: LinearSystem, at: tuple[Values, Moves], reference: int, gain: Any
) -> tuple[Values, Any] | None:
    """Values and gain of the chain that moves values; None where floats do not tell.

    Args:
        steps: the problem.
        system: of the chain until it comes to the reference.
        at: values, and their moves.
        reference: the state at which values are told from.
        gain: near that of the chain; what is left of it is small, and so is its rounding.
    """
    values, moves = at
    rise = gain_of(system, moves.delta - gain, reference)
    if rise is None:
        return None
    gain = gain + rise
    found = system.answer((moves.delta - gain).astype(np.float64)[:, None])  # not x - g y, which cancels
    if found is None or not np.isfinite(found).all():
        return None
    step = found[:, 0]
    step[reference] = 0.0
    leap = int(np.abs(step).argmax())
    # Where nearly all weight leaves the reference for ever, all others move far, and together.
    moved = values.moved(step).relative(leap)
    if np.abs(moved.relative(reference).total).max() < UNDONE * np.abs(step[leap]) and steps.table is None:
        earned = system.answer((_earned(steps, moves) - gain).astype(np.float64)[:, None])  # what a leap undoes is lost
        if earned is not None and np.isfinite(earned).all():
            earned[reference] = 0.0
            moved = steps.values(earned[:, 0])
    return moved, gain


def gain_of(system: LinearSystem, earned: Array, reference: int) -> Any:
    """What a chain earns a step in the long run, of what states earn [N]; None where floats do not tell."""
    found = system.answer(np.stack([earned.astype(np.float64), np.ones(len(earned))], -1))
    if found is None or not np.isfinite(found).all() or found[reference, 1] <= 0:
        return None
    return found[reference, 0] / found[reference, 1]


def _earned(steps: Steps, moves: Moves) -> Array:
    """[N], what a step of the chain that moves values is paid, less what its policy and dynamics diverge by."""
    assert not isinstance(moves.outcomes, Tilted)  # of a table
    edges = moves.outcomes * steps.paid
    pairs = moves.policy * steps.rewards
    with np.errstate(divide="ignore", invalid="ignore"):
        if steps.eta != 0 and np.isfinite(steps.eta):
            tilt = moves.outcomes * np.log(moves.outcomes / steps.weighed) / steps.eta
            edges = edges - np.where(moves.outcomes > 0, tilt, 0)
        if not steps.hard:
            pairs = pairs - np.where(moves.policy > 0, moves.policy * np.log(moves.policy / steps.prior), 0)
    pairs = pairs + moves.policy * np.add.reduceat(edges, steps.first_edges)
    return np.asarray(np.add.reduceat(pairs, steps.first_pairs))


@dataclass(frozen=True)
class _Often:
    """A state that a chain is in often.

    Attributes:
        reference: the state.
        system: of the chain until it comes there.
        law: [N], how often the chain is where in the long run.
    """

    reference: int
    system: LinearSystem
    law: Array


def _often(steps: Steps, chains: Chains, moves: Moves) -> _Often | None:
    """A state that the chain is in about as often as in any; None if in floats it has several closed classes."""
    classes = classes_of(steps, moves)
    if len(classes) != 1:
        return None
    reference = seen_state(steps, moves, classes[0])
    for tries in range(1, LOOKS + 1):
        system = until_return(steps, chains, moves, np.array([reference]))
        law = law_of(system, reference)
        if law is None or law[reference] >= 0.5 * law.max() or tries == LOOKS:
            break
        reference = int(law.argmax())
    return None if law is None else _Often(reference, system, law)


def classes_of(steps: Steps, moves: Moves) -> list[Array]:
    """The closed classes that the chain has in floats."""
    every = np.ones(steps.number, dtype=bool)
    if steps.table is not None:
        leads = moves.chain > 0
        if leads.all():
            return [np.arange(steps.number)]
        sources, outcomes = np.nonzero(leads)
        return closed_classes(sources, steps.table.columns[outcomes], every)
    used = moves.weights.astype(np.float64) > 0
    return closed_classes(steps.sources[used], steps.targets[used], every)


def seen_state(steps: Steps, moves: Moves, states: Array) -> int:
    """The state that a chain begun anywhere in a closed class is the likeliest to be in after a while."""
    here = np.zeros(steps.number)
    here[states] = 1 / len(states)
    table = None
    if steps.table is None:
        weights, sources, targets = moves.weights.astype(np.float64), steps.sources, steps.targets
    elif np.count_nonzero(moves.chain) > FULL * moves.chain.size:
        table, targets = moves.chain, steps.table.columns
    else:
        sources, outcomes = np.nonzero(moves.chain)
        weights, targets = moves.chain[sources, outcomes], steps.table.columns[outcomes]
    for _ in range(LOOK):  # a state that is seldom seen tells nothing of the others in floats
        sent = weights * here[sources] if table is None else here @ table
        before, here = here, (here + np.bincount(targets, sent, steps.number)[: steps.number]) / 2  # none ends
        if np.abs(here - before).sum() < STILL:
            break
    return int(here.argmax())


def law_of(system: LinearSystem, reference: int) -> Array | None:
    """[N], the long run of a chain that always comes back to a state, of its system until then."""
    side = np.zeros((system.pattern.number, 1))
    side[reference] = 1.0
    found = system.answer(side, True)
    if found is None or not np.isfinite(found).all() or not found.sum() > 0:
        return None
    return np.asarray(found[:, 0] / found.sum())


def until_return(steps: Steps, chains: Chains, moves: Moves, references: Array) -> LinearSystem:
    """The system of a chain that ends where it comes to one of some states."""
    return chains.system(moves, np.isin(np.arange(steps.number + 1), references))


def concluded(steps: Steps, chains: Chains, values: Values, count: int, jumps: int, chain: Moves | None = None) -> Rate:
    """Bounds on the gain and on the values, these along a chain (that of the choice unless given)."""
    values = values.relative(0)
    moves = steps.moves(values)
    low, high = (moves.delta - moves.rounding).min(), (moves.delta + moves.rounding).max()
    gain = (low + high) / 2
    chain = chain or moves
    law, width = np.full(steps.number, 1 / steps.number), np.full(steps.number, np.inf)
    often = _often(steps, chains, chain)
    if often is not None:
        law, references = often.law, np.array([often.reference])
        width = bound_on_values(steps, chains, values, moves, chain, references, low, high, often.system)
    unknown = (steps.eta < 0 or np.isinf(steps.eta)) and not np.isfinite(width).all()
    apart = unknown and not _near(steps, moves) and float(high - low) > 1e-6 * float(abs(gain))
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
