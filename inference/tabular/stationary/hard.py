"""Hard control over an infinite horizon: max over actions of expected or of best outcomes.

With a discount, Howard's algorithm (1960). Without one, values are the limit of those of finite horizons, which may
stop anywhere: sets of states that can be stayed in for nothing (end components all of whose moves pay 0) become one
state each, with one more action that stops there for ever and earns 0. What cannot surely reach an end or such a set
stays in other end components for ever, and is worth +-inf by the sign of the best rate that these earn. Elsewhere a
policy that ends is improved until nothing is better. That its value is the limit is checked: it is, unless moves as
good as the best can go round for ever through a state that is worth less than 0, where a finite horizon would do better
by being cut off, or one stays for nothing until what costs would come after the end (`put_delays`;
Puterman 1994, sections 7.2 and 7.3; de Alfaro 1997 for end components).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from cai.inference.tabular.markov.graphs import attracted, next_hops
from cai.inference.tabular.stationary.classify import earns_nothing, nothing_to_choose, worth_of_closed
from cai.inference.tabular.stationary.equals import TIES, as_good
from cai.inference.tabular.stationary.newton import Chains, policy_iteration
from cai.inference.tabular.stationary.problem.edges import EdgeList
from cai.inference.tabular.stationary.problem.searches import ending, staying
from cai.inference.tabular.stationary.problem.steps import Steps
from cai.inference.tabular.stationary.problem.tables import undominated
from cai.inference.tabular.stationary.solve import Solution, conclude

__all__ = ["Merged", "by_outcome", "put_delays", "solve_hard"]

Array = np.ndarray[Any, Any]
DELAYS = 200  # steps up to which delays are looked for, in problems of more edges than
LOOKS = 10_000_000  # divided by that number


def by_outcome(steps: Steps) -> Steps:
    """The same problem where the best outcome is believed in: every edge is a pair of its own.

    Of a table those are left out that another of the same state to the same place beats: no finite horizon takes them.
    """
    if steps.table is None:
        pairs, targets, chances, gains = steps.pairs, steps.targets, steps.chances, steps.gains
    else:
        kept = undominated(steps.table, steps.states)
        pairs, outcomes = np.nonzero(kept)
        targets, chances = steps.table.columns[outcomes], steps.table.table[kept]
        gains = steps.table.gains_at(pairs, outcomes)
    number = len(pairs)
    return replace(
        steps,
        eta=0.0,
        states=steps.states[pairs],
        actions=steps.actions[pairs],
        prior=steps.prior[pairs] * chances,
        rewards=gains,
        edges=EdgeList(np.arange(number), targets, np.ones(number), np.zeros(number)),
        lost=np.zeros(number),
    )


def _stopping(steps: Steps, where: Array) -> tuple[Steps, Array]:
    """The same problem where some states may also stop, which pays 0 and ends; its pairs need be in no order before.

    Args:
        steps: the problem.
        where: int, the states that may stop, each once.

    Returns:
        (the problem, int [R], which pair each of its pairs was, -1 for those that stop).
    """
    count, number = len(steps.states), len(where)
    if not number:  # then nothing was merged, and all is in order
        return steps, np.arange(count)
    states, ones, nothing = np.append(steps.states, where), np.ones(number), np.zeros(number)
    order = np.argsort(states, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    pairs = rank[np.append(steps.pairs, np.arange(count, count + number))]
    by_pair = np.argsort(pairs, kind="stable")
    found = replace(
        steps,
        states=states[order],
        actions=np.append(steps.actions, np.full(number, -1))[order],
        prior=np.append(steps.prior, ones)[order],
        rewards=np.append(steps.rewards, nothing)[order],
        edges=EdgeList(
            pairs[by_pair],
            np.append(steps.targets, np.full(number, steps.number))[by_pair],
            np.append(steps.chances, ones)[by_pair],
            np.append(steps.gains, nothing)[by_pair],
        ),
        lost=np.append(steps.lost, nothing)[order],
    )
    return found, np.where(order < count, order, -1)


def solve_hard(solution: Solution, group: Array) -> None:
    """The best action, of expected outcomes.

    Args:
        solution: takes down what is found, and by which pairs (`chosen`).
        group: bool [N], the states to solve for; they lead to each other and to what is known.
    """
    steps = solution.steps
    while True:
        pairs, edges = solution.allowed(group)
        unknown = solution.unknown(group)
        if not unknown.any() or not _put_idle(solution, pairs, edges, unknown).any():
            return
        unknown = solution.unknown(group)
        merged = Merged(steps, pairs, edges, unknown, solution.worth)
        part, end = merged.steps, np.append(np.zeros(merged.steps.number, dtype=bool), True)
        sure, chosen = ending(part, end)
        if not sure.all():
            _put_endless(solution, merged, ~sure[:-1])
            continue
        found = policy_iteration(part, chosen[:-1], solution.left())
        solution.count, solution.jumps = solution.count + found.steps, solution.jumps + found.steps
        if found.grew is not None:
            solution.put(merged.spread(found.grew), np.inf, 0.0)
            continue
        merged.put(solution, found)
        return


def _put_idle(solution: Solution, pairs: Array, edges: Array, unknown: Array) -> Array:
    """Puts down 0 where nothing above 0 can come and 0 can be had for ever: of a solve, rounding would be left there.

    Args:
        solution: takes it down.
        pairs: bool [R], those that may be used.
        edges: bool [E], likewise.
        unknown: bool [N], the states looked at.

    Returns:
        Bool [N], those that are unknown still.
    """
    steps, worth = solution.steps, solution.worth
    rising = worth > 0
    rising[steps.states[pairs & (steps.rewards > 0)]] = True
    level = unknown & ~steps.reaching(rising, edges)[:-1]
    present = np.flatnonzero(pairs & (steps.rewards == 0) & level[steps.states])
    if not len(present):
        return unknown
    within = np.append(level, False) | (worth == 0)
    closed = ~within
    closed[:-1][level] = True
    closed[steps.states[present]] = False
    if steps.table is not None:
        part = steps.table.part(present).listed
        ways = (part.pairs, part.targets)
    else:
        rank = np.full(len(steps.states), -1)
        rank[present] = np.arange(len(present))
        some = rank[steps.pairs] >= 0
        ways = (rank[steps.pairs[some]], steps.targets[some])
    lost = attracted(steps.states[present], *ways, closed, by_any=True)
    idle = level & ~lost[:-1]
    if not idle.any():
        return unknown
    left = steps.into(lost)
    own = present[~left[present] & idle[steps.states[present]]][::-1]  # of equals the first
    assert solution.chosen is not None
    solution.chosen[steps.states[own]] = own
    solution.put(idle, 0.0, 0.0)
    return unknown & ~idle


class Merged:
    """A problem in which every set of states that can be stayed in for nothing is one state that may stop.

    Attributes:
        steps: over the merged states.
        origin: int [R], the pair that each pair was, in the problem as it was; -1 for one that stops.
        place: int [N], the merged state of each state; -1 for those that are not unknown.
        inner: bool, of the pairs as they were: those that stay in a set for nothing.
    """

    def __init__(self, steps: Steps, pairs: Array, edges: Array, unknown: Array, worth: Array) -> None:
        self.whole, self.unknown = steps, unknown
        whole = steps.select(pairs, edges, unknown, worth)
        kept = np.flatnonzero(pairs & unknown[steps.states])
        labels, inner = staying(whole, earns_nothing(whole))
        labels = labels[:-1]
        self.inner = np.zeros(len(steps.states), dtype=bool)
        self.inner[kept[inner]] = True
        if not inner.any():
            self.steps, self.origin = replace(whole, refused=np.zeros(whole.number)), kept
            self.place = np.full(steps.number, -1)
            self.place[unknown] = np.arange(whole.number)
            return
        sets, first = np.unique(labels[labels >= 0], return_index=True)
        leader = np.arange(whole.number)
        leader[labels >= 0] = np.flatnonzero(labels >= 0)[first][np.searchsorted(sets, labels[labels >= 0])]
        leaders, place = np.unique(leader, return_inverse=True)
        self.place = np.full(steps.number, -1)
        self.place[unknown] = place
        used = ~inner[whole.pairs]
        part = replace(
            whole,
            number=len(leaders),
            states=place[whole.states[~inner]],
            actions=whole.actions[~inner],
            prior=whole.prior[~inner],
            rewards=whole.rewards[~inner],
            edges=EdgeList(
                (np.cumsum(~inner) - 1)[whole.pairs[used]],
                np.append(place, len(leaders))[whole.targets[used]],
                whole.chances[used],
                whole.gains[used],
            ),
            lost=whole.lost[~inner],
            refused=np.zeros(len(leaders)),
        )
        self.steps, origin = _stopping(part, np.unique(place[labels >= 0]))
        self.origin = np.append(kept[~inner], -1)[origin]

    def spread(self, states: Array) -> Array:
        """Int, the states as they were of merged ones, bool [N]."""
        return np.flatnonzero(np.append(states, False)[self.place])

    def put(self, solution: Solution, found: Any) -> None:
        """Puts down values, moves that are as good as the best, and whether a finite horizon would do better."""
        unknown = self.unknown
        part, found = conclude(solution, self.steps, unknown, found, Chains(self.steps), self.place[unknown])
        ties = as_good(part, part.moves(found.values), found.values)
        self._follow(solution, found.chosen)
        tight = ties & (self.origin >= 0)
        labels, _ = staying(part, tight)
        values = found.values.total
        rounds = labels[:-1] >= 0
        cut = rounds & (values < -TIES * np.abs(values).max(initial=0.0))
        below = np.isin(labels[:-1], labels[:-1][cut]) & rounds
        if below.any():
            gain = part.reaching(np.append(below, False))[:-1]
            solution.unsure[self.spread(gain)] = True

    def _follow(self, solution: Solution, chosen: Array) -> None:
        """Puts down one pair of each state by which its value is reached: the set's own, or one that leads to it."""
        whole, inner = self.whole, np.flatnonzero(self.inner)
        picks = self.origin[chosen]
        own = picks[picks >= 0]
        assert solution.chosen is not None
        solution.chosen[whole.states[own]] = own
        if not len(inner):
            return
        edges = self.inner[whole.pairs]
        goal = np.append(np.zeros(whole.number, dtype=bool), False)
        goal[whole.states[own]] = True
        hops = next_hops(whole.sources[edges], whole.targets[edges], goal)
        nearer = edges & (hops[whole.sources] == whole.targets)
        found = np.full(whole.number, -1)
        found[whole.states[inner][::-1]] = inner[::-1]
        found[whole.sources[nearer][::-1]] = whole.pairs[nearer][::-1]
        states = (self.place >= 0) & ~goal[:-1] & (found >= 0)
        solution.chosen[states] = found[states]


def _put_endless(solution: Solution, merged: Merged, endless: Array) -> None:
    """What states are worth that cannot surely end: by the best rate of the end components that can be stayed in.

    A policy that may also stop anywhere, for 0, is improved: it goes on for ever where that earns more than 0, and is
    as good where it earns 0.
    """
    part = merged.steps
    labels, kept = staying(part, endless[part.states])
    inside = labels[:-1] >= 0
    if inside.any():
        alone = part.select(kept, part.of_pairs(kept), inside, np.zeros(part.number + 1))
        number = alone.number
        stopping, origin = _stopping(alone, np.arange(number))
        found = policy_iteration(stopping, np.flatnonzero(origin < 0), solution.left())
        solution.count += found.steps
        places = np.flatnonzero(inside)
        if found.grew is not None:
            solution.put(merged.spread(np.isin(np.arange(part.number), places[found.grew])), np.inf, 0.0)
            return
        tight = as_good(stopping, stopping.moves(found.values), found.values)
        goes_on = tight & (origin >= 0)
        rounds, _ = staying(stopping, goes_on)
        level = rounds[:-1] >= 0
        if level.any():
            _put_level(solution, merged, part, places[level])
            return
    solution.put(merged.spread(endless), -np.inf, 0.0)


def _put_level(solution: Solution, merged: Merged, part: Steps, places: Array) -> None:
    """States that can go round for ever for nothing on average, though not for 0 at every step."""
    inside = np.isin(np.arange(part.number), places)
    leaves = part.into(~np.append(inside, False))
    alone = part.select(~leaves, part.of_pairs(~leaves), inside, np.zeros(part.number + 1))
    settles = not bool((leaves & inside[part.states]).any()) and nothing_to_choose(alone)
    worth, unsure = worth_of_closed(replace(alone, hard=False)) if settles else (np.zeros(len(places)), True)
    where = merged.spread(inside)
    order = np.searchsorted(places, merged.place[where])
    solution.put(where, np.nan_to_num(np.asarray(worth))[order], 0.0)
    solution.unsure[where] |= np.broadcast_to(unsure, len(places))[order]


def put_delays(solution: Solution, met: Array) -> None:
    """Puts down where finite horizons wait until what costs would come only after their end.

    Where moves that are as good as the best lead round for ever, they pay nothing in sum: so T steps are worth at least
    what k are, for every k. If that is above the value, so is the limit of V_T, and no stationary policy attains it.

    Args:
        solution: of hard control of expected outcomes; takes down what is `unsure`.
        met: bool [N], the states that the start leads to.
    """
    steps, worth = solution.steps, solution.worth[:-1]
    states = met & np.isfinite(worth) & ~solution.free
    if not (worth[states] < 0).any() or (worth[met] == np.inf).any():
        return
    pairs, edges = solution.allowed(np.zeros(steps.number, dtype=bool))
    part = steps.select(pairs, edges, states, solution.worth)
    found = solution.values(states, part.dtype)
    rings = (earns_nothing(part), as_good(part, part.moves(found), found))
    waits = np.any([staying(part, ring)[0][:-1] >= 0 for ring in rings], 0)
    if not waits.any():
        return
    error = np.where(np.isfinite(solution.error[states]), solution.error[states], 0.0)
    highest = worth[states] + error + TIES * np.abs(worth[states]).max()
    values, above = part.values(np.zeros(part.number)), np.zeros(part.number, dtype=bool)
    for _ in range(min(2 * part.number, max(DELAYS, LOOKS // part.count))):
        values = values.moved(part.moves(values).delta)
        above |= waits & (values.total > highest)
    solution.unsure[states] |= part.reaching(np.append(above, False))[:-1]
