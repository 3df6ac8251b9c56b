"""Stationary values: closed sets are classified, the rest is solved, and a bound on the error says how well.

What is known beforehand (`classify`) is taken out, and policy iteration (`newton`) solves the rest: first where the
start leads, then elsewhere. Where a backup is not convex (eta < 0), or an extreme over outcomes is inside a soft
choice, backups run from 0 as a finite horizon's do, and Newton's steps only shorten their way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cai.inference.tabular.stationary.circles import bound_over_circles
from cai.inference.tabular.stationary.classify import free_of_reward, usable, worth_of_closed
from cai.inference.tabular.stationary.from_zero import bound_from_zero, goes_round
from cai.inference.tabular.stationary.gain import never_settles
from cai.inference.tabular.stationary.newton import (
    Chains,
    Found,
    error_bound,
    grows,
    policy_iteration,
    soft_policy_iteration,
    value_of_prior,
)
from cai.inference.tabular.stationary.path_sums import path_sums
from cai.inference.tabular.stationary.problem.moves import Values
from cai.inference.tabular.stationary.problem.steps import Steps

__all__ = ["Solution", "conclude", "solve_by_backups", "solve_soft"]

Array = np.ndarray[Any, Any]
ROUND = 128  # backups before growth is looked for over whole rounds
HISTORY = 10_000  # changes that are kept
LONG_DOUBLE_EDGES = 2_000_000  # edges up to which long double is tried where float64 does not do
SMALL = 1000  # edges up to which backups are made in long double
POLISH = 50  # Newton's steps near the answer
SHAKY = 1e-6  # of the largest value: what changes by less may be rounding that goes round
NEGLIGIBLE = 1e-9  # of the largest value: what all backups that may follow change, below which none brings a bound
SETTLED = 100.0  # of the rounding of delta: what is left where values are as good as they get


@dataclass
class Solution:
    """Stationary values of N states and the end, as they become known.

    Attributes:
        steps: all of what may happen.
        limit: the most backups or policies.
        fits: whether errors [N] of values [N] are within the tolerance.
        worth: [N + 1], nats; NaN while unknown, 0 at the end.
        low: [N], what float64 cannot hold of them.
        free: bool [N], states from which nothing but 0 can ever be paid.
        barred: bool [N], states that cannot but meet a reward of -inf.
        error: [N], a bound on the error of each value; inf where none is known.
        unsure: bool [N], states whose finite horizons have no limit, or none that a stationary policy attains.
        count: backups and policies so far.
        jumps: how many of them solved a linear system.
        changes: the largest change of every backup.
        chosen: int [N], the pair that attains a hard value, -1 where nothing does; None unless control is hard.
        temperature: by which rewards were divided.
    """

    steps: Steps
    limit: int
    fits: Callable[[Array, Array], bool]
    worth: Array = field(init=False)
    low: Array = field(init=False)
    free: Array = field(init=False)
    barred: Array = field(init=False)
    error: Array = field(init=False)
    unsure: Array = field(init=False)
    count: int = 0
    jumps: int = 0
    changes: list[float] = field(default_factory=list)
    chosen: Array | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        number = self.steps.number
        self.free = free_of_reward(self.steps)
        self.worth = np.append(np.where(self.free, 0.0, np.nan), 0.0)
        self.error, self.low = np.zeros(number), np.zeros(number, dtype=np.longdouble)
        self.unsure = np.zeros(number, dtype=bool)
        self.barred = usable(self.steps, self.worth)[2][:-1]

    def allowed(self, group: Array) -> tuple[Array, Array]:
        """(pairs [R], edges [E]) that may be used, once what follows from -inf and +inf is put down; bool.

        Args:
            group: bool [N], the states looked at.
        """
        pairs, edges, dead = usable(self.steps, self.worth)
        self.worth[np.isnan(self.worth) & dead] = -np.inf
        steps, within = self.steps, np.append(group, False)
        if steps.eta >= 0:
            endless = steps.reaching(self.worth == np.inf, edges)
            self.worth[np.isnan(self.worth) & endless & within] = np.inf
            return pairs, edges
        while True:  # unkind dynamics go elsewhere if they can
            led = steps.some(edges)
            endless = np.zeros(steps.number + 1, dtype=bool)
            endless[steps.states[pairs & ~led]] = True
            endless &= np.isnan(self.worth) & within
            pairs = pairs & led
            if not endless.any():
                return pairs, edges
            self.worth[endless] = np.inf
            pairs = pairs & ~endless[steps.states]
            edges = edges & ~steps.edges_into(endless) & steps.of_pairs(pairs)

    def unknown(self, group: Array) -> Array:
        """Bool [N], those of a group that are unknown yet."""
        return np.isnan(self.worth[:-1]) & group

    def left(self) -> int:
        """Backups and policies that may still follow."""
        return max(self.limit - self.count, 0)

    def put(self, states: Array, values: Values | Array | float, error: Array | float) -> None:
        """Puts down what states (bool [N], or their numbers) are worth, and how far that may be wrong."""
        if isinstance(values, Values):
            total = values.total
            self.low[states], values = (values.high - total) + values.low, total
        self.worth[:-1][states] = values
        self.error[states] = error

    def values(self, states: Array, dtype: Any) -> Values:
        """What states, bool [N], are worth, as accurately as it is known."""
        return Values(self.worth[:-1][states].astype(dtype), self.low[states].astype(dtype))


def solve_soft(solution: Solution, group: Array) -> None:
    """The soft choice at a finite eta >= 0.

    Args:
        solution: takes down what is found.
        group: bool [N], the states to solve for; they lead to each other and to what is known.
    """
    while True:
        pairs, edges, unknown = _that_ends(solution, group)
        if not unknown.any():
            return
        part = solution.steps.select(pairs, edges, unknown, solution.worth)
        chains = Chains(part)
        begin = path_sums(part)
        if begin is not None:
            values = part.values(begin)
        elif part.eta == 0 and part.into(np.append(np.zeros(part.number, dtype=bool), True)).all():
            values = part.values(np.zeros(part.number))  # whatever is chosen may end at once
        else:
            values = value_of_prior(part, chains) or part.values(np.zeros(part.number))
        found = soft_policy_iteration(part, values, solution.left() - 1, chains)
        solution.count, solution.jumps = solution.count + found.steps + 1, solution.jumps + found.steps + 1
        if found.grew is None:
            conclude(solution, part, unknown, found, chains)
            if part.eta > 0 and np.isinf(solution.error[unknown]).all() and never_settles(part, found.values, POLISH):
                solution.put(unknown, np.inf, 0.0)
            return
        solution.put(np.flatnonzero(unknown)[found.grew], np.inf, 0.0)


def _that_ends(solution: Solution, group: Array) -> tuple[Array, Array, Array]:
    """(pairs, edges, states) that are left once closed classes of what never ends are put down; bool."""
    steps = solution.steps
    while True:
        pairs, edges = solution.allowed(group)
        unknown = solution.unknown(group)
        ends = steps.reaching(np.isfinite(solution.worth), edges)[:-1]
        endless = unknown & ~ends
        if not endless.any():
            return pairs, edges, unknown
        worth, unsure = worth_of_closed(steps.select(pairs, edges, endless, np.zeros(steps.number + 1)))
        solution.put(endless, worth, 0.0)
        solution.unsure[endless] |= unsure


def conclude(
    solution: Solution, part: Steps, unknown: Array, found: Found, chains: Chains, place: Array | None = None
) -> tuple[Steps, Found]:
    """Puts down what policy iteration found, and its bound; in long double where float64 leaves too wide a one.

    Args:
        solution: takes it down.
        part: the problem that was solved.
        unknown: bool [N], its states.
        found: what was found.
        chains: of the problem.
        place: int, the state in `part` of each of these states; in their order unless given.

    Returns:
        The problem and what was found, as they are now.
    """
    bound, values = _bound(solution, part, found, chains), found.values.total
    if (
        part.count <= LONG_DOUBLE_EDGES
        and part.dtype is np.float64
        and (bound is None or not solution.fits(bound, values))
    ):
        part = part.at(np.longdouble)
        begin = Values(found.values.high.astype(np.longdouble), found.values.low.astype(np.longdouble))
        if found.chosen is None:
            found = soft_policy_iteration(part, begin, POLISH)
        else:
            found = policy_iteration(part, found.chosen, POLISH, begin)
        bound, values = _bound(solution, part, found, Chains(part)), found.values.total
    every = np.arange(part.number) if place is None else place
    parts = Values(found.values.high[every], found.values.low[every])
    solution.put(unknown, parts, np.inf if bound is None else bound[every])
    return part, found


def _bound(solution: Solution, part: Steps, found: Found, chains: Chains) -> Array | None:
    bound = error_bound(part, found, chains)
    return bound_over_circles(part, found, chains, solution.temperature) if bound is None else bound


def _same(left: Values, right: Values) -> bool:
    """Whether values are the same to the last digit."""
    return np.array_equal(left.high, right.high) and np.array_equal(left.low, right.low)


def solve_by_backups(solution: Solution, group: Array, accelerate: bool) -> None:
    """Any backup, from 0 as finite horizons begin; Newton's steps are tried from time to time unless told not to.

    Args:
        solution: takes down what is found.
        group: bool [N], the states to solve for; they lead to each other and to what is known.
        accelerate: whether Newton's steps may shorten the way.
    """
    steps = solution.steps
    every = not steps.hard and math.isfinite(steps.eta)  # whatever is allowed has some probability
    while True:
        if every:
            pairs, edges, unknown = _that_ends(solution, group)
        else:
            (pairs, edges), unknown = solution.allowed(group), solution.unknown(group)
        if not unknown.any():
            return
        part = steps.select(pairs, edges, unknown, solution.worth)
        chains, values, wait = Chains(part), part.values(np.zeros(part.number)), 8
        quick = part if part.count <= SMALL else part.at(np.float64)
        change, first, count = math.inf, values.total, 0
        seen, begun = values, 0
        while solution.left():
            count += 1
            delta = quick.moves(values).delta
            values, before, change = values.moved(delta), change, float(np.abs(delta).max())
            solution.count += 1
            if len(solution.changes) < HISTORY:
                solution.changes.append(change)
            if change == 0:  # every longer horizon has the same values
                solution.put(unknown, values, count * np.finfo(quick.dtype).eps * np.abs(values.total))
                return
            if change > SHAKY * np.abs(values.total).max():
                period = count - begun  # Brent's way to find a cycle
                if _same(values, seen) or (period <= ROUND and goes_round(quick, seen, values, period)):
                    solution.put(unknown, values, np.inf)
                    solution.unsure[unknown] = True
                    return
            if count & (count - 1) == 0:
                seen, begun = values, count
            rate = change / before if math.isfinite(before) else math.inf
            near = rate < 1 and solution.fits(np.full(part.number, change * rate / (1 - rate)), values.total)
            if count < wait and not near:
                continue
            wait = max(wait, math.ceil(1.25 * count) if near else 2 * count)
            grew = None if near else grows(quick, values, count >= ROUND)
            if grew is not None:
                rising = float(values.total[grew][0] - first[grew][0]) > 0
                solution.put(np.flatnonzero(unknown)[grew], np.inf if rising else -np.inf, 0.0)
                break
            if every and count >= ROUND and not near and never_settles(part, values, POLISH):
                solution.put(unknown, -np.inf if part.eta < 0 else np.inf, 0.0)
                break
            found = Found(values, 0)
            if accelerate:
                found = soft_policy_iteration(part, values, min(POLISH, solution.left()), chains)
                solution.count, solution.jumps = solution.count + found.steps, solution.jumps + found.steps
            bound = error_bound(part, found, chains)
            if bound is None:
                bound, found = bound_from_zero(quick, values, count), Found(values, found.steps)
            if bound is not None:
                # What long double leaves no digit to mend is put down with its bound: more backups bring no better one.
                finest = part.dtype is np.longdouble and part.moves(found.values).left <= SETTLED
                if finest or solution.fits(bound, found.values.total):
                    solution.put(unknown, found.values, bound)
                    return
            if accelerate and count >= ROUND and change * solution.left() <= NEGLIGIBLE * np.abs(values.total).max():
                solution.put(unknown, values, np.inf)  # no backup changes more than the one before it
                return
        else:
            solution.put(unknown, values, np.inf)
            return
