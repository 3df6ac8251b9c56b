"""What a class of states earns a step under hard control: Howard's algorithm for the average criterion, with bounds.

Policies are made to lead to the best of their closed classes (Haviv and Puterman 1991). Against the worst outcomes a
policy is held while those are chosen by the same algorithm, and then made better (Hoffman and Karp 1966).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from cai.inference.tabular.markov.graphs import surely_reaching
from cai.inference.tabular.stationary.equals import as_good
from cai.inference.tabular.stationary.gain import Rate, bound_on_values, concluded, of_ties, soft_rate
from cai.inference.tabular.stationary.gain_steps import classes_of, gain_of, law_of, seen_state, until_return
from cai.inference.tabular.stationary.hard import Merged
from cai.inference.tabular.stationary.newton import NOISE, Chains, better, policy_iteration
from cai.inference.tabular.stationary.problem.edges import EdgeList
from cai.inference.tabular.stationary.problem.moves import TINY, Values
from cai.inference.tabular.stationary.problem.searches import ending, staying
from cai.inference.tabular.stationary.problem.steps import Steps

__all__ = ["hard_rate", "worst_rate"]

Array = np.ndarray[Any, Any]
GRAIN = 16  # roundings of the largest value: policies that move values apart by no more are as good
HELD = 50  # policies against the worst outcomes at most
POLICIES = 1_000  # at most, of a problem that bounds others
SELDOM = 1e-3  # of how often a chain is elsewhere


def hard_rate(steps: Steps, limit: int, newton: bool = True) -> Rate:
    """Gain and values of the best action of expected outcomes; arguments as in `soft_rate`."""
    if not newton:
        return soft_rate(steps, limit, False)
    chains = Chains(steps)
    found = _howard(steps, chains, steps.first_pairs.copy(), limit)
    assert found is not None  # all states lead to each other
    values, chosen, count = found
    tight = as_good(steps, steps.moves(values), values)
    labels, kept = staying(steps, tight)
    rate = concluded(steps, chains, values, count, count, steps.moves(values, chosen))
    rate = replace(rate, tight=steps.of_pairs(kept))
    if len(np.unique(labels[labels >= 0])) < 2:
        if np.isfinite(rate.width).all():
            return rate
        return replace(rate, width=_width_of_ties(steps, chains, rate, chosen, kept))
    return of_ties(steps, rate, limit, _drift)


def worst_rate(steps: Steps, limit: int, newton: bool = True) -> Rate:
    """Gain and values of the best action against the worst outcomes; arguments as in `soft_rate`."""
    values = steps.values(np.zeros(steps.number))
    if not newton or steps.table is not None:
        return soft_rate(steps, limit, newton)
    chosen, picked, count = better(steps, steps.moves(values), steps.first_pairs)[0], None, 0
    for _ in range(HELD):
        against, edges = _outcomes(steps, chosen)
        first = against.first_pairs.copy()
        if picked is not None:  # of pairs that are held still
            kept = np.flatnonzero(np.isin(edges, picked))
            first[against.states[kept]] = kept
        found = _howard(against, Chains(against), first, limit - count)
        if found is None:
            break
        values, picked, count = Values(-found[0].high, -found[0].low), edges[found[1]], count + found[2]
        following, gap = better(steps, steps.moves(values), chosen)
        if gap <= 1 or count >= limit:
            break
        chosen = following
    rate = soft_rate(steps, limit - count, newton, values)
    return replace(rate, count=rate.count + count, jumps=rate.jumps + count)


def _outcomes(steps: Steps, chosen: Array) -> tuple[Steps, Array]:
    """(what the outcomes of the chosen pairs [N] may be picked for: what they cost; int [R], the edge of each)."""
    edges = np.flatnonzero(np.isin(steps.pairs, chosen))
    number, nothing = len(edges), np.zeros(len(edges))
    every = EdgeList(np.arange(number), steps.targets[edges], np.ones(number), nothing)
    found = Steps(
        steps.number,
        0.0,
        True,
        steps.sources[edges],
        np.arange(number),
        steps.chances[edges],
        -(steps.rewards[steps.pairs[edges]] + steps.gains[edges]),
        every,
        nothing,
        np.zeros(steps.number),
    )
    return found, edges


def _howard(steps: Steps, chains: Chains, chosen: Array, limit: int) -> tuple[Values, Array, int] | None:
    """(values, the pairs [N] that are best, policies); None where not all states can be led to the best class."""
    values, reference, least, since, still = steps.values(np.zeros(steps.number)), -1, np.inf, 0, 0
    last = chosen
    for count in range(1, limit + 1):
        led = _leading(steps, chains, chosen, reference, last)
        if led is None:
            return None
        (chosen, reference), before = led, values
        last = chosen
        values = _valued(steps, chains, values, chosen, reference)
        following, gap = better(steps, steps.moves(values), chosen)
        least, since = (gap, 0) if gap < 0.5 * least else (least, since + 1)
        # Where nothing is paid on the way between alike states, any rounding of values is many of a move's.
        apart = np.ptp((values.high - before.high) + (values.low - before.low))
        still = still + 1 if apart <= GRAIN * np.finfo(steps.dtype).eps * np.abs(values.high).max() else 0
        if gap <= 1 or (gap < NOISE and since >= 2) or still >= 2:
            return values, chosen, count
        chosen = following
    return values, chosen, limit


def _drift(steps: Steps, values: Values, gain: Any, off: Any) -> Array | None:
    """[N], how far finite horizons' values may move on from where they seem to stand still; see `of_ties`.

    Sets of states that can be stayed in for the gain stay where they are, unless they are left for more by pairs that
    seem as good. So values rise by what can be had of that before the chain stays for good, if each step brings what it
    may be off by: a problem of sums, in which every such set may stop. They fall by as much on the way to these sets.
    """
    moves = steps.moves(values)
    extra = moves.advantages - gain
    labels, kept = staying(steps, extra >= -off)
    if not kept.any():
        return None
    paid = np.where(kept, 0.0, np.where(extra + off == 0, off, extra + off))
    every = (np.ones(len(steps.states), dtype=bool), np.ones(steps.count, dtype=bool))
    merged = Merged(replace(steps, rewards=paid), *every, np.ones(steps.number, dtype=bool), np.zeros(steps.number + 1))
    part = merged.steps
    sure, chosen = ending(part, np.append(np.zeros(part.number, dtype=bool), True))
    if not sure.all():
        return None
    found = policy_iteration(part, chosen[:-1], POLICIES)
    chains = Chains(steps)
    system = until_return(steps, chains, moves, np.flatnonzero(labels[:-1] >= 0))
    falls = system.answer(np.full((steps.number, 1), float(off)))
    if found.grew is not None or falls is None or not (np.isfinite(falls).all() and (falls >= 0).all()):
        return None
    return np.maximum(np.maximum(found.values.total[merged.place], 0.0), np.where(labels[:-1] >= 0, 0.0, falls[:, 0]))


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
    reference = seen_state(steps, joined, np.flatnonzero(inside))
    system = until_return(steps, chains, joined, np.array([reference]))
    law, times = law_of(system, reference), system.answer(np.ones((steps.number, 1)))
    if law is None or times is None or not np.isfinite(times).all() or not law[inside].min() > 0:
        return width
    short = rate.high - moves.advantages[kept].min() + moves.rounding.max()
    joint = 1.25 * float(short) * times[inside].max() / law[inside].min()
    chain = steps.moves(rate.values, chosen)
    return joint + bound_on_values(
        steps, chains, rate.values, moves, chain, np.flatnonzero(inside), rate.low, rate.high
    )


def _leading(steps: Steps, chains: Chains, chosen: Array, reference: int, last: Array) -> tuple[Array, int] | None:
    """The pairs of a policy [N], made to lead to the best of its closed classes, and a state of that one.

    Pairs of the last policy do so if its reference is in that class: others may be worse, and would be given up again.
    None if some states cannot be led there.
    """
    moves = steps.moves(steps.values(np.zeros(steps.number)), chosen)
    classes = classes_of(steps, moves)
    best = classes[0]
    if len(classes) > 1:
        heads = np.array([states[0] for states in classes])
        sides = np.stack([steps.rewards[chosen].astype(np.float64), np.ones(steps.number)], -1)
        found = until_return(steps, chains, moves, heads).answer(sides)
        gains = np.zeros(len(heads)) if found is None else found[heads, 0] / found[heads, 1]
        size = float(np.abs(steps.rewards).max(initial=0.0))
        good = np.flatnonzero(gains >= gains.max() - 1e-13 * size)
        best = next((classes[k] for k in good if reference in classes[k]), classes[int(gains.argmax())])
    if len(classes) == 1:
        return chosen, seen_state(steps, moves, best)
    goal = np.zeros(steps.number + 1, dtype=bool)
    goal[best] = True
    if steps.table is not None:
        goal = steps.by(chosen).reaching(goal)
    else:
        goal = steps.reaching(goal, steps.of_pairs(np.isin(np.arange(len(steps.states)), chosen)))
    led = goal[:-1]
    if not led.all() and reference >= 0 and goal[reference]:
        chosen = np.where(led, chosen, last)
    elif not led.all():
        nearer = surely_reaching(steps.states, steps.pairs, steps.targets, steps.chances, goal)[1][:-1]
        chosen = np.where(led, chosen, nearer)
        if (chosen < 0).any():
            return None
    return chosen, seen_state(steps, moves, best)


def _valued(steps: Steps, chains: Chains, values: Values, chosen: Array, reference: int) -> Values:
    """The relative values of a policy, worked off until rounding is left; the reference is a state that it comes to."""
    moves = steps.moves(values, chosen)
    system = until_return(steps, chains, moves, np.array([reference]))
    law = law_of(system, reference)
    if law is not None and law[reference] < SELDOM * law.max():  # the gain's rounding is in its values that often
        reference = int(law.argmax())
        system = until_return(steps, chains, moves, np.array([reference]))
    best, gain = np.inf, steps.dtype(0)
    for _ in range(8):
        moves = steps.moves(values, chosen)
        rise = gain_of(system, moves.delta - gain, reference)
        if rise is None:
            break
        gain = gain + rise  # what is left of it has less rounding than the whole
        left = float((np.abs(moves.delta - gain) / np.maximum(moves.rounding, TINY)).max())
        if left <= 1 or left > 0.5 * best:
            break
        step = system.answer((moves.delta - gain).astype(np.float64)[:, None])
        if step is None:
            break
        step[reference] = 0.0
        best, values = left, values.moved(step[:, 0])
    return values
