"""Policy iteration, soft and hard, and a bound on the error of what it found.

A backup F is monotone and F(v + c) <= F(v) + c for c >= 0; its slope at v is the chain P of the policy and dynamics
that attain it. Newton's step (I - P)^-1 (F(v) - v) is therefore policy iteration. Where F is convex (eta >= 0) it
rises, without end or to the fixed point, from any v <= F(v): from the value of a policy that ends (Puterman 1994,
section 6.4).

Bound: if F(v + w) <= v + w and F(v - w) >= v - w for some w >= 0, then F maps what lies between into itself, and the
fixed point is there. (I - P) w = 1.25 (|delta| + rounding) gives such a w near v, and both sides are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from cai.inference.tabular.markov.full_systems import FullPattern
from cai.inference.tabular.markov.graphs import closed_classes, reaching, reaching_table
from cai.inference.tabular.markov.linear_systems import DENSE_LIMIT, LinearSystem, SystemPattern
from cai.inference.tabular.stationary.problem.earned import UNDONE, earned_by
from cai.inference.tabular.stationary.problem.moves import TINY, Moves, Values
from cai.inference.tabular.stationary.problem.steps import Steps

__all__ = [
    "CHECKS",
    "GRAIN",
    "NOISE",
    "Chains",
    "Found",
    "better",
    "error_bound",
    "grows",
    "policy_iteration",
    "soft_policy_iteration",
    "value_of_prior",
]

Array = np.ndarray[Any, Any]
EARNED = 1e-12  # of what is paid on a round, that it brings in all at least
PATIENCE = 1000  # steps without progress after which there is none, whatever is left
STALLS = 6  # steps without progress after which rounding is all that is left
FLOOR = 1e6  # of the rounding of delta: what is left below which progress may end
NEAR = 4.0  # of the rounding of delta: what is left at which no step is worth its price
FAR = 1e12  # how far values are pushed, relative to their size, to see whether they would move on
LOOKS = (25, 100, 300)  # steps after which growth is looked for
PEELS = 50  # times that states are taken out which do not move on with the others
LONG_STEP = 1e6  # the length of a step, relative to the values, before which growth is looked for
ROUND = 128  # backups over which growth is looked for
LARGE = 50_000  # edges beyond which it is fewer
NOISE = 1e4  # of the rounding of delta: what a better pair may bring that is no more than an error of values
CHECKS = 6  # attempts at a bound
GRAIN = 16 * float(np.finfo(np.float64).eps)  # of the widest: what widths, which are float64, must fall by at least
AHEAD = 8  # backups after which the next policy is looked for
LATE = 8  # policies after which the value of the prior is looked at


@dataclass(frozen=True)
class Found:
    """Where policy iteration ended.

    Attributes:
        values: of the N states.
        steps: policies evaluated.
        grew: bool [N], states whose values were shown to grow for ever; None if none were.
        chosen: int [N], the pair that each state takes, of hard control.
    """

    values: Values
    steps: int
    grew: Array | None = None
    chosen: Array | None = None


class Chains:
    """The systems I - P of the chains of one problem, which share their places."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.last: LinearSystem | None = None

    @cached_property
    def _listed(self) -> tuple[Array, Array, Array | None, SystemPattern]:
        """(edges that stay, int; edges into the end, int; the places of the first; their pattern).

        Places are those in the full table, where most of it is listed, and more than once; else None.
        """
        steps, number = self.steps, self.steps.number
        inside, out = np.flatnonzero(steps.targets < number), np.flatnonzero(steps.targets == number)
        rows, columns = steps.sources[inside], steps.targets[inside]
        if number <= DENSE_LIMIT and len(rows) > number**2:
            return inside, out, rows * number + columns, FullPattern(number)
        return inside, out, None, SystemPattern(torch.from_numpy(rows), torch.from_numpy(columns), number)

    def system(self, moves: Moves, cut: Array | None = None, falls: Array | None = None) -> LinearSystem:
        """I - P of a chain.

        Args:
            moves: whose policy and dynamics it follows.
            cut: bool [N + 1], states at which the chain ends, besides the end.
            falls: [N], the probability with which it ends before it moves on; 0 unless given.
        """
        number = self.steps.number
        ends = np.append(np.zeros(number, dtype=bool), True) if cut is None else cut | (np.arange(number + 1) == number)
        falls = np.zeros(number) if falls is None else falls
        if self.steps.table is not None:
            columns = self.steps.table.columns
            chain, stays = moves.chain, columns < number
            table = np.zeros((number, number))
            table[:, columns[stays]] = chain[:, stays]
            table[:, ends[:-1]] = 0.0
            exits = chain[:, ends[columns]].sum(1)
            if falls.any():
                table *= (1 - falls)[:, None]
                exits = falls + (1 - falls) * exits
            return FullPattern(number).system(torch.from_numpy(table.ravel()), _tensor(exits))
        inside, out, places, pattern = self._listed
        weights = moves.weights.astype(np.float64, copy=False)
        if falls.any():
            weights = weights * (1 - falls)[self.steps.sources]
        inner: Array = weights[inside]
        if cut is not None:
            stopped = cut[self.steps.targets[inside]]
            out = np.append(out, inside[stopped])
            inner = np.where(stopped, 0.0, inner)
        exits = falls + np.bincount(self.steps.sources[out], weights[out], number)
        if places is not None:
            inner = np.bincount(places, inner, number**2)
        return pattern.system(_tensor(inner), _tensor(exits))

    def solve(self, moves: Moves, side: Array) -> Array | None:
        """(I - P)^-1 b [N]; None if the chain does not end."""
        self.last = self.system(moves)
        return self.solve_last(side)

    def solve_last(self, side: Array) -> Array | None:
        """The same for the chain of the last solve."""
        found = None if self.last is None else self.last.answer(side.astype(np.float64)[:, None])
        return None if found is None or not np.isfinite(found).all() else found[:, 0]

    def moved(self, moves: Moves, values: Values, step: Array) -> Values:
        """Values after a step of the last solve; where it undoes most of them, what its chain earns in all."""
        following = values.moved(step)
        if self.steps.table is None and (np.abs(following.total) < UNDONE * np.abs(step)).any():
            found = self.solve_last(earned_by(self.steps, moves))
            following = following if found is None else self.steps.values(found)
        return following


def _tensor(numbers: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers))


def soft_policy_iteration(steps: Steps, values: Values, limit: int, chains: Chains | None = None) -> Found:
    """Newton's method on the soft choice from values v <= F(v) (eta >= 0), or from near the fixed point.

    Args:
        steps: the problem; every state leads to the end.
        values: where it begins.
        limit: the most steps.
        chains: of the problem, where they are there already.
    """
    chains = chains or Chains(steps)
    best, since = np.inf, 0
    near = NEAR if steps.dtype is np.float64 else 0.5
    for count in range(limit):
        moves = steps.moves(values)
        left = moves.left
        best, since = (left, 0) if left < 0.5 * best else (best, since + 1)
        patience = 1 if best < 100 * NEAR else STALLS if best < FLOOR else PATIENCE
        if left <= near or since >= patience:
            return Found(values, count)
        step = chains.solve(moves, moves.delta)
        following = None if step is None else chains.moved(moves, values, step)
        if step is not None and not step.any():
            return Found(values, count)
        lost = following is None or not np.isfinite(following.high).all()
        is_long = step is not None and np.abs(step).max() > LONG_STEP * (1 + np.abs(values.high).max())
        if lost or is_long or count in LOOKS:
            thorough = lost or not is_long or (steps.count <= LARGE and count & (count - 1) == 0)
            grew = grows(steps, values, thorough)
            if grew is not None:
                return Found(values, count, grew)
        if following is None or lost:
            break
        values = following
    return Found(values, limit)


def policy_iteration(steps: Steps, chosen: Array, limit: int, values: Values | None = None) -> Found:
    """Howard's algorithm from a policy that ends; a pair is given up for one that is better by more than rounding.

    If the new policy does not end, its closed class earns more than it did with every round, so values grow for ever.
    Else the next policy is the best some backups later, if that one ends (modified policy iteration); and where there
    are many, values go on from the larger of the policy's and the prior's: v <= F(v) holds for all of these.

    Args:
        steps: the problem.
        chosen: int [N], the pair that each state takes at first.
        limit: the most policies.
        values: near those of the policy, where they are known.
    """
    chains = Chains(steps)
    values = steps.values(np.zeros(steps.number)) if values is None else values
    least, since, last = np.inf, 0, chosen
    for count in range(1, limit + 1):
        ends = _ends(steps, chosen)
        if not ends.all():
            if _earns(steps, chains, chosen, ~ends):
                return Found(values, count, ~ends, chosen)
            return Found(values, count, None, last)  # taken for better by rounding
        evaluated = _value_of(steps, chains, chosen, values)
        if evaluated is None:
            return Found(values, count, None, chosen)
        last = chosen
        values = evaluated if count != LATE else _larger(evaluated, value_of_prior(steps, chains))
        following, gap = better(steps, steps.moves(values), chosen)
        least, since = (gap, 0) if gap < 0.5 * least else (least, since + 1)
        if gap <= 1 or (gap < NOISE and since >= 2):  # values are off by more than moves are, so ties flip
            return Found(values, count, None, chosen)
        later = values
        for _ in range(AHEAD):
            later = later.moved(steps.moves(later).delta)
        ahead, _ = better(steps, steps.moves(later), chosen)
        if _ends(steps, ahead).all():
            following, values = ahead, later
        chosen = following
    return Found(values, limit, None, chosen)


def _ends(steps: Steps, chosen: Array) -> Array:
    """Bool [N], the states from which the pairs [N] that are chosen lead to the end."""
    end = np.append(np.zeros(steps.number, dtype=bool), True)
    if steps.table is not None:
        return reaching_table(steps.by(chosen).leads, end)[:-1]
    edges = np.isin(np.arange(len(steps.states)), chosen)[steps.pairs]
    return reaching(steps.sources[edges], steps.targets[edges], end)[:-1]


def _earns(steps: Steps, chains: Chains, chosen: Array, endless: Array) -> bool:
    """Whether each closed class of a policy among states that never end, bool [N], earns more than nothing a round."""
    taken = np.isin(np.arange(len(steps.states)), chosen)
    ways = steps.ways(steps.of_pairs(taken)) if steps.table is None else steps.by(chosen).ways()
    moves, paid = steps.moves(steps.values(np.zeros(steps.number)), chosen), steps.rewards[chosen]
    for states in closed_classes(*ways, np.append(endless, False)):
        cut, side = np.ones(steps.number + 1, dtype=bool), np.zeros((steps.number, 1))
        cut[states[1:]], side[states[0]] = False, 1.0
        visits = chains.system(moves, cut).answer(side, True)
        if visits is None or not np.isfinite(visits).all():
            return False
        if not visits[states, 0] @ (paid - EARNED * np.abs(paid))[states] > 0:
            return False
    return True


def _value_of(steps: Steps, chains: Chains, chosen: Array, values: Values) -> Values | None:
    """The values of a policy that ends, worked off from others until rounding is left; None if it ends too late."""
    best, most = np.inf, np.inf
    for _ in range(8):
        moves = steps.moves(values, chosen)
        left, change = moves.left, float(np.abs(moves.delta).max(initial=0.0))
        if left <= 0.5 or (left > 0.5 * best and change > 0.5 * most):
            break
        step = chains.solve(moves, moves.delta) if best == np.inf else chains.solve_last(moves.delta)  # one policy
        if step is None:
            return None
        best, most, values = left, change, values.moved(step)
    return values


def better(steps: Steps, moves: Moves, chosen: Array) -> tuple[Array, float]:
    """(int [N], the best pair where it beats the chosen one by more than rounding; by how many roundings at most)."""
    gaps = (moves.delta - moves.advantages[chosen]) / np.maximum(moves.rounding, TINY)
    first = np.flatnonzero(moves.advantages >= moves.delta[steps.states])[::-1]
    top = np.zeros(steps.number, dtype=np.int64)
    top[steps.states[first]] = first
    return np.where(gaps > 1, top, chosen), float(gaps.max(initial=0.0))


def value_of_prior(steps: Steps, chains: Chains) -> Values | None:
    """What the prior is worth under the true dynamics, as far as both are allowed; v <= F(v). None if it never ends."""
    nothing = np.zeros(steps.number)
    kept, taken = 1 - steps.lost, 1 - steps.refused
    policy = steps.prior / np.add.reduceat(steps.prior, steps.first_pairs)[steps.states]
    paid = steps.rewards
    if steps.table is None:
        chances = steps.chances / np.add.reduceat(steps.chances, steps.first_edges)[steps.pairs]
        paid = paid + np.add.reduceat(chances * steps.gains, steps.first_edges)
    else:
        policy, gains = policy.astype(np.float64), steps.table.paid
        chances = steps.table.table
        if steps.lost.any():
            chances = chances / chances.sum(1)[:, None]
        if gains is not None:
            paid = paid + (gains[:, 0] if gains.shape[1] == 1 else np.einsum("rk,rk->r", chances, gains))
    if steps.eta != 0:
        paid = paid + np.log(kept) / steps.eta
    side = np.add.reduceat(policy * paid, steps.first_pairs) + np.log(taken)
    found = chains.solve(Moves(nothing, nothing, paid, policy, chances, paid, steps.edges, steps.first_pairs), side)
    return None if found is None else steps.values(found)


def _larger(values: Values, others: Values | None) -> Values:
    """The larger of both, state by state."""
    if others is None:
        return values
    first = values.total >= others.total
    return Values(np.where(first, values.high, others.high), np.where(first, values.low, others.low))


def grows(steps: Steps, values: Values, rounds: bool = True) -> Array | None:
    """Bool [N], states that move on and on however far along they are pushed; else None.

    What leads elsewhere weighs nothing against a push so long, so a backup that moves all of them moves them for ever.
    Tried are all states, less those that do not move on when all of these are pushed; then those that move most.
    Values are looked at after one backup and after many: in a circle of states each may fall in turn while all rise.

    Args:
        steps: the problem.
        values: where to look.
        rounds: whether to look at many backups, too.
    """
    end = np.append(np.zeros(steps.number, dtype=bool), True)
    if steps.eta == 0 and steps.into(end).all():  # whatever is chosen may end at once
        return None
    unit = 1.0
    if steps.hard and (steps.eta == 0 or np.isinf(steps.eta)):  # a maximum knows no nats, only the size of rewards
        paid = np.abs(steps.gains_of(np.ones(steps.number, dtype=bool)) if steps.eta else steps.rewards)
        unit = float(paid[np.isfinite(paid)].max(initial=0.0))
    for count in (1, ROUND if steps.count <= LARGE else ROUND // 8) if rounds else (1,):
        if count > 1 and steps.dtype is not np.float64:  # long double takes ten times as long
            steps, high = steps.at(np.float64), values.high.astype(np.float64)
            values = Values(high, ((values.high - high) + values.low).astype(np.float64))
        moved = _moved(steps, values, count)
        largest = float(np.abs(moved).max(initial=0.0))
        if not 0 < largest < np.inf:
            continue
        sign = float(np.sign(moved[np.argmax(np.abs(moved))]))
        far = sign * FAR * (float(np.abs(values.total).max()) + unit + largest)
        fastest, every = sign * moved >= 0.5 * largest, np.ones(steps.number, dtype=bool)
        for leading, tries in (every, PEELS if count == 1 else 2), (fastest, 1):
            for _ in range(tries):
                if not leading.any():
                    break
                pushed = values.moved(np.where(leading, far, 0.0))
                least = 100 * count * steps.moves(pushed).rounding
                goes_on = leading & (sign * _moved(steps, pushed, count) > least)
                if (goes_on == leading).all():
                    return leading
                leading = goes_on
    return None


def _moved(steps: Steps, values: Values, count: int) -> Array:
    """[N], what so many backups change."""
    total = np.zeros(steps.number, dtype=steps.dtype)
    for _ in range(count):
        delta = steps.moves(values).delta
        total, values = total + delta, values.moved(delta)
    return total


def error_bound(steps: Steps, found: Found, chains: Chains | None = None) -> Array | None:
    """[N], a bound on how far each value is from the fixed point, as above; None where none was found.

    Where moves are as good as the best, they may lead along other ways than the policy found, and need wider bounds
    there: the widths are taken along the moves that go beyond (policy iteration for them), or in proportion to values.
    """
    chains, values = chains or Chains(steps), found.values
    moves = steps.moves(values)
    side = 1.25 * (np.abs(moves.delta) + moves.rounding)

    def encloses(width: Array) -> tuple[bool, Moves]:
        up, down = steps.moves(values.moved(width)), steps.moves(values.moved(-width))
        return bool((up.delta <= TINY - up.rounding).all() and (down.delta >= down.rounding - TINY).all()), up

    if chains.last is not None:  # the chain of a step before is as good, if what it gives does
        width = chains.solve_last(side)
        if width is not None and (width >= 0).all() and encloses(width)[0]:
            return width
    chain = moves if found.chosen is None else steps.moves(values, found.chosen)
    for attempt in range(CHECKS):
        width = chains.solve(chain, side)
        if width is None or (width < 0).any():
            return None
        fine, chain = encloses(width)
        if fine:
            return width
        if attempt == 0 and found.chosen is not None:
            paid = np.abs(steps.rewards[found.chosen])
            if paid.all():
                width = (np.abs(values.total) * float((2 * side / paid).max())).astype(np.float64)
                if encloses(width)[0]:
                    return width
        side = np.maximum(1.5 * side, GRAIN * float(width.max(initial=0.0)))
    return None
