"""Newton's steps for the average criterion: the chain of a choice, and the gain and values that it has.

Newton's method on g + h = F(h), whose slope is the chain of the policy and dynamics at h (policy iteration; where
F is convex, eta >= 0, its gains never fall). Where eta < 0 the dynamics work against the policy, and steps of both may
go round. But of u = e^{eta h} a backup is G(u)(s) = (sum_a p(a|s) (sum_s' p(s'|s,a) e^{eta r} u(s'))^{1 / eta})^eta, a
mean of negative order of linear maps: homogeneous and concave, so that G(u) <= L u with its slope L at any u. With
k = max G(u) / u, which is rho(L) or more, (k - L) z = u has a solution z > 0, and G(z) <= k z - u: k falls with every
such step, from anywhere, and near the end by squares (Noda 1971 for matrices; Elsner 1976). Where u is orders of orders
apart that takes too many steps. Then a policy is held while the dynamics are iterated against it (its F is concave, and
its gains never rise), and then made better (Hoffman and Karp 1966); some backups on the way take what was learned
further than one state, and where a few steps of both arrive, they are all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cai.inference.tabular.markov.graphs import closed_classes
from cai.inference.tabular.markov.linear_systems import LinearSystem
from cai.inference.tabular.stationary.newton import Chains
from cai.inference.tabular.stationary.problem.earned import UNDONE, earned_by
from cai.inference.tabular.stationary.problem.moves import Moves, Values
from cai.inference.tabular.stationary.problem.steps import Steps

__all__ = [
    "classes_of",
    "falls_apart",
    "gain_of",
    "is_even",
    "is_near",
    "law_of",
    "middle",
    "newton",
    "newton_against",
    "often_seen",
    "seen_state",
    "spread",
    "until_return",
]

Array = np.ndarray[Any, Any]
LOOKS = 4  # tries at a state that is seen often
LOOK = 200  # steps of a chain by which a state is found that it is in often
FULL = 0.1  # of a table: chains of fewer entries are listed
STILL = 1e-4  # what a step changes of where it is, below which more of them show nothing
STALLS = 20  # steps in a row that do not bring values nearer
MIXES = 0.7  # of what is left: where a backup leaves less it is worth more than its price, a fourth of a step's
COLD = 100.0  # of eta times what states gain apart: too much for Noda's steps
NODA = 30  # of Noda's steps in a row
SLOW = 8  # of them that bring values no nearer
SHORT = 0.01  # a step of Noda's, times eta, from which on Newton's are as good
AHEAD = 16  # backups between two policies that are held
POLICIES = 30  # that are held at most
STUCK = 10  # of them in a row that bring values no nearer
DIRECT = 8  # of Newton's own steps before a policy is held
GAPS = 8  # between what states gain, at which they may fall into two sets
INNER = 60  # steps of the dynamics against one of them
REACH = 50.0  # of eta times what such a step may move states apart, besides what backups do: e^-800 is no float


def is_even(moves: Moves) -> bool:
    """Whether the gain is known as well as floats allow."""
    return bool((np.abs(moves.delta - middle(moves)) <= 4 * moves.rounding).all())


def is_near(steps: Steps, moves: Moves) -> bool:
    """Whether what is left is rounding but for a factor, so that it is not worth going on where it falls no more."""
    rounding = moves.rounding.max() * (64 if steps.dtype is np.float64 else 1e4)
    return bool(np.abs(moves.delta - middle(moves)).max() <= rounding)


def middle(moves: Moves) -> Any:
    """Half way between what states gain least and most by a backup, nats."""
    return (moves.delta.max() + moves.delta.min()) / 2


def spread(moves: Moves) -> float:
    """How far what states gain by a backup may be apart, nats, with its rounding; inf where that is not known."""
    found = float(moves.delta.max() - moves.delta.min() + moves.rounding.max())
    return found if found == found else np.inf


def newton(
    steps: Steps, chains: Chains, values: Values, limit: int, policy: Array | None = None
) -> tuple[Values, Moves, int]:
    """Newton's steps while they are of use: the best values met, their moves, and how many steps were taken.

    Args:
        steps: the problem.
        chains: of it.
        values: where to begin.
        limit: the most steps.
        policy: [R], held in place of the choice.
    """

    def seen(values: Values) -> Moves:
        moves = steps.moves(values)
        return moves if policy is None else _held(steps, moves, policy)

    reference, system, gain = -1, None, steps.dtype(0)
    best = (values, seen(values))
    at, since, stalls = best, 0, STALLS if policy is None else limit
    for count in range(limit):
        if is_even(at[1]) or since >= (1 if is_near(steps, best[1]) else stalls):
            return *best, count
        if reference < 0 or count % 8 == 1:
            often = often_seen(steps, chains, at[1])
            if often is None:
                return *best, count
            reference, system = often.reference, often.system
        if system is None:
            system = until_return(steps, chains, at[1], np.array([reference]))
        found, system = _evaluated(steps, system, at, reference, gain, policy is not None), None
        if found is None:
            return *best, count
        values, gain = found
        at = (values, seen(values))
        if not np.isfinite(at[1].delta).all():
            return *best, count + 1
        since = 0 if spread(at[1]) < 0.9 * spread(best[1]) else since + 1
        best = at if spread(at[1]) < spread(best[1]) else best
    return *best, limit


def newton_against(steps: Steps, chains: Chains, values: Values, limit: int) -> tuple[Values, Moves, int, int]:
    """The same for a soft choice where dynamics work against it, -inf < eta < 0.

    Returns:
        (values, their moves, backups and policies, how many of them solved a linear system).
    """
    at, count = _mixed(steps, values, limit)
    solved, step, cold = 0, 0.5, abs(steps.eta) * spread(at[1]) >= COLD
    while not (cold or is_near(steps, at[1]) or count >= limit or falls_apart(steps, *at)):
        nearer, taken = _noda(steps, chains, at)
        found, reached, more = newton(steps, chains, nearer[0], DIRECT)
        count, solved = count + taken + more, solved + taken + more
        cold = spread(reached) > 0.1 * spread(at[1])
        at = (found, reached)
    best, since = at, 0
    for _ in range(POLICIES):
        if is_near(steps, at[1]) or count >= limit or since == STUCK or falls_apart(steps, *at):
            break
        for _ in range(AHEAD):
            values = at[0].moved(step * (at[1].delta - middle(at[1])))
            at = (values, steps.moves(values))
        ahead, beyond, taken = newton(steps, chains, at[0], DIRECT)
        count, solved = count + AHEAD + taken, solved + taken
        if is_near(steps, beyond):
            return ahead, beyond, count, solved
        values, _, taken = newton(steps, chains, at[0], INNER, at[1].policy)
        count, solved, step = count + taken, solved + taken, 1.0
        moves = steps.moves(values)
        if np.isfinite(moves.delta).all():
            at = (values, moves)
        since = 0 if spread(at[1]) < 0.9 * spread(best[1]) else since + 1
        best = at if spread(at[1]) < spread(best[1]) else best
    return *best, count, solved


def _mixed(steps: Steps, values: Values, limit: int) -> tuple[tuple[Values, Moves], int]:
    """Values after as many backups as bring them much nearer, with their moves, and how many were made."""
    at = (values, steps.moves(values))
    for count in range(limit):
        following = at[0].moved(at[1].delta - middle(at[1]))
        moves = steps.moves(following)
        if not spread(moves) < MIXES * spread(at[1]):
            return at, count + 1
        at = (following, moves)
    return at, limit


def _noda(steps: Steps, chains: Chains, at: tuple[Values, Moves]) -> tuple[tuple[Values, Moves], int]:
    """Noda's steps until they are short, and how many they were.

    With delta = F(h) - h and the chain P at h, z / u is (I - P')^-1 1 but for a factor, where the chain P' goes on with
    probability e^{eta (delta - min delta)} times that of P.
    """
    best, since = at, 0
    for count in range(NODA):
        moves = at[1]
        falls = -np.expm1(steps.eta * (moves.delta - moves.delta.min())).astype(np.float64)
        found = chains.system(moves, falls=falls).answer(np.ones((steps.number, 1)))
        if found is None or not np.isfinite(found).all() or not (found > 0).all():
            return best, count
        step = np.log(found[:, 0] / found.max()) / steps.eta
        values = at[0].moved(step)
        at = (values, steps.moves(values))
        since = 0 if spread(at[1]) < 0.9 * spread(best[1]) else since + 1
        best = at if spread(at[1]) < spread(best[1]) else best
        if since == SLOW or float(np.ptp(step)) * abs(steps.eta) < SHORT:
            return best, count + 1
    return best, NODA


def falls_apart(steps: Steps, values: Values, moves: Moves) -> bool:
    """Whether no one gain fits all states where dynamics work against the choice, eta < 0.

    So it is where actions hold one set of states whatever the dynamics do, these hold another whatever the actions are,
    and a step earns more in the first by F(h) - h with h = -inf outside than in the second with h = +inf outside.
    """
    order = np.sort(moves.delta)
    gaps = np.diff(order)
    bounds = order[:-1][np.argsort(-gaps)[:GAPS]]
    return any(_earns_more(steps, values, moves.delta > bound, moves.delta <= bound) for bound in bounds)


def _earns_more(steps: Steps, values: Values, high: Array, low: Array) -> bool:
    """Whether what actions can hold of some states [N] surely earns more than what the dynamics can hold of others."""
    while True:
        kept = high[steps.states] & ~steps.into(np.append(~high, True))
        able = np.bincount(steps.states[kept], minlength=steps.number) > 0
        if (able == high).all():
            break
        high = able
    while low.any():
        led = ~steps.into(np.append(low, False)) & low[steps.states]
        if not led.any():
            break
        low = low & ~(np.bincount(steps.states[led], minlength=steps.number) > 0)
    if not (high.any() and low.any()):
        return False
    known, pairs = np.zeros(steps.number + 1), np.ones(len(steps.states), dtype=bool)
    top = steps.select(kept, steps.of_pairs(pairs), high, known)
    bottom = steps.select(pairs, ~steps.edges_into(np.append(~low, True)), low, known)
    upper = top.moves(Values(values.high[high], values.low[high]))
    lower = bottom.moves(Values(values.high[low], values.low[low]))
    return bool((upper.delta - upper.rounding).min() > (lower.delta + lower.rounding).max())


def _held(steps: Steps, moves: Moves, policy: Array) -> Moves:
    """The same where a policy [R] is held in place of the soft choice."""
    taken = policy > 0
    logs = np.log(np.where(taken, policy, 1) / np.where(taken, steps.prior, 1))
    paid = np.where(taken, policy * (moves.advantages - logs), 0)
    size = np.where(taken, policy * (moves.sizes + np.abs(logs)), 0)
    rounding = 3 * float(np.finfo(steps.dtype).eps) * np.add.reduceat(size, steps.first_pairs)
    return replace(moves, policy=policy, delta=np.add.reduceat(paid, steps.first_pairs), rounding=rounding)


def _evaluated(
    steps: Steps, system: LinearSystem, at: tuple[Values, Moves], reference: int, gain: Any, bounded: bool
) -> tuple[Values, Any] | None:
    """Values and gain of the chain that moves values; None where floats do not tell.

    Args:
        steps: the problem.
        system: of the chain until it comes to the reference.
        at: values, and their moves.
        reference: the state at which values are told from.
        gain: near that of the chain; what is left of it is small, and so is its rounding.
        bounded: whether states may move apart by no more than `REACH` allows.
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
    furthest = int(np.abs(step).argmax())
    # Where nearly all weight leaves the reference for ever, all others move far, and together.
    moved = values.moved(step).relative(furthest)
    if np.abs(moved.relative(reference).total).max() < UNDONE * np.abs(step[furthest]) and steps.table is None:
        # What a large step undoes is lost.
        earned = system.answer((earned_by(steps, moves) - gain).astype(np.float64)[:, None])
        if earned is not None and np.isfinite(earned).all():
            earned[reference] = 0.0
            moved = steps.values(earned[:, 0])
    if bounded:
        apart, reach = float(np.ptp(moved.total - values.total)), REACH / abs(steps.eta) + 4 * spread(moves)
        if apart > reach:
            return values.moved(step * (reach / apart)), gain
    return moved, gain


def gain_of(system: LinearSystem, earned: Array, reference: int) -> Any:
    """What a chain earns a step in the long run, of what states earn [N]; None where floats do not tell."""
    found = system.answer(np.stack([earned.astype(np.float64), np.ones(len(earned))], -1))
    if found is None or not np.isfinite(found).all() or found[reference, 1] <= 0:
        return None
    return found[reference, 0] / found[reference, 1]


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


def often_seen(steps: Steps, chains: Chains, moves: Moves) -> _Often | None:
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
