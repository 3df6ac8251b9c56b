"""What a class of states earns a step under hard control: Howard's algorithm for the average criterion, with bounds.

Policies are made to lead to the best of their closed classes (Haviv and Puterman 1991).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from cai.inference.tabular.markov.graphs import surely_reaching
from cai.inference.tabular.stationary.gain import Rate, bound_on_values, concluded, of_ties, soft_rate
from cai.inference.tabular.stationary.gain_steps import classes_of, gain_of, law_of, seen_state, until_return
from cai.inference.tabular.stationary.hard import Merged
from cai.inference.tabular.stationary.newton import NOISE, Chains, as_good, better, policy_iteration
from cai.inference.tabular.stationary.problem.moves import TINY, Values
from cai.inference.tabular.stationary.problem.searches import ending, staying
from cai.inference.tabular.stationary.problem.steps import Steps

__all__ = ["hard_rate"]

Array = np.ndarray[Any, Any]
POLICIES = 1_000  # at most, of a problem that bounds others
SELDOM = 1e-3  # of how often a chain is elsewhere


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
    rate = concluded(steps, chains, values, count, count, steps.moves(values, chosen))
    rate = replace(rate, tight=steps.of_pairs(kept))
    if len(np.unique(labels[labels >= 0])) < 2:
        if np.isfinite(rate.width).all():
            return rate
        return replace(rate, width=_width_of_ties(steps, chains, rate, chosen, kept))
    return of_ties(steps, rate, limit, _drift)


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


def _leading(steps: Steps, chains: Chains, chosen: Array, reference: int) -> tuple[Array, int]:
    """The pairs of a policy [N], made to lead to the best of its closed classes, and a state of that one."""
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
    if not led.all():
        nearer = surely_reaching(steps.states, steps.pairs, steps.targets, steps.chances, goal)[1][:-1]
        chosen = np.where(led, chosen, nearer)
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
