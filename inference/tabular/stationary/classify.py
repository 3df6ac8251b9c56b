"""What is known of a stationary problem before it is solved: what pays nothing, what is forbidden, what never ends.

A state from which nothing but 0 can ever be paid counts as an end of value 0. A state that cannot but meet -inf is
worth -inf. Without a discount there may be closed classes of the rest, which never end: such a class earns or loses a
rate a step for ever (its gain), and is worth +-inf by its sign. Where the gain is 0 and nothing can be chosen, rewards
are differences of a potential h, and the values of finite horizons tend to h less its mean, if the class has no period.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cai.inference.tabular.markov.graphs import attracted, closed_classes, period
from cai.inference.tabular.stationary.gain import soft_rate
from cai.inference.tabular.stationary.problem.steps import Steps

__all__ = ["earns_nothing", "free_of_reward", "nothing_to_choose", "usable", "worth_of_closed"]

Array = np.ndarray[Any, Any]
GAIN_STEPS = 5000  # backups and policies by which a gain is looked for
NO_GAIN = 1e-12  # of the size of rewards: a gain below is 0 up to rounding


def earns_nothing(steps: Steps) -> Array:
    """Bool [R], the pairs that pay 0 whatever happens (where eta is 0, on average)."""
    if steps.table is None:
        paying = np.bincount(steps.pairs[steps.gains != 0], minlength=len(steps.states)) > 0
    elif steps.table.paid is None:
        return np.asarray(steps.rewards == 0)
    else:
        paying = ((steps.table.paid != 0) & steps.table.positive).any(1)
    return ~paying & (steps.rewards == 0)


def free_of_reward(steps: Steps) -> Array:
    """Bool [N], states from which nothing but 0 can ever be paid."""
    pays = np.zeros(steps.number + 1, dtype=bool)
    pays[steps.states[~earns_nothing(steps)]] = True
    return ~steps.reaching(pays)[:-1]


def usable(steps: Steps, worth: Array) -> tuple[Array, Array, Array]:
    """What optimality allows, given what is known to be worth -inf.

    Args:
        steps: all of what may happen.
        worth: [N + 1], nats, NaN where unknown.

    Returns:
        (bool [R] pairs, bool [E] edges, bool [N + 1] states that are worth -inf because nothing else is allowed).
    """
    dead = worth == -np.inf
    barring = dead.any() or (steps.table is None and np.isinf(steps.gains).any()) or np.isinf(steps.rewards).any()
    if not barring and (steps.eta >= 0 or not (worth == np.inf).any()):
        return np.ones(len(steps.states), dtype=bool), np.ones(steps.count, dtype=bool), dead
    if steps.table is not None:
        return _usable_by_table(steps, worth, dead)
    if steps.eta > 0:  # an outcome of -inf is lost, and the others stand
        allowed = np.isfinite(steps.gains)
        kept = steps.pairs[allowed]
        present = np.unique(kept)  # pairs without an edge are none
        rank = np.searchsorted(present, kept)
        dead = attracted(
            steps.states[present], rank, steps.targets[allowed], _closed(steps, present, dead), by_any=False
        )
        edges = allowed & ~dead[steps.targets]
        pairs = np.bincount(steps.pairs[edges], minlength=len(steps.states)) > 0
        return pairs, edges, dead
    barred = np.isinf(steps.rewards) | (
        np.bincount(steps.pairs[np.isinf(steps.gains)], minlength=len(steps.states)) > 0
    )
    present = np.flatnonzero(~barred)
    allowed = ~barred[steps.pairs]
    rank = np.searchsorted(present, steps.pairs[allowed])
    dead = attracted(steps.states[present], rank, steps.targets[allowed], _closed(steps, present, dead), by_any=True)
    pairs = ~barred & ~(np.bincount(steps.pairs[dead[steps.targets]], minlength=len(steps.states)) > 0)
    edges = pairs[steps.pairs]
    if steps.eta < 0:  # what is worth +inf has no weight beside the rest
        edges = edges & ~(worth[steps.targets] == np.inf)
    return pairs, edges, dead


def _usable_by_table(steps: Steps, worth: Array, dead: Array) -> tuple[Array, Array, Array]:
    """The same of edges that are a table, whose rewards are finite."""
    pairs = np.isfinite(steps.rewards)
    dead = _closed(steps, np.flatnonzero(pairs), dead)
    while True:
        pairs = pairs & (steps.into(~dead) if steps.eta > 0 else ~steps.into(dead))
        following = _closed(steps, np.flatnonzero(pairs), dead)
        if (following == dead).all():
            break
        dead = following
    lost = dead if steps.eta > 0 else worth == np.inf if steps.eta < 0 else np.zeros_like(dead)
    return pairs, steps.of_pairs(pairs) & ~steps.edges_into(lost), dead


def _closed(steps: Steps, present: Array, dead: Array) -> Array:
    """Bool [N + 1]: `dead`, and the states that are left without a pair."""
    without = np.zeros(steps.number + 1, dtype=bool)
    without[steps.states] = True
    without[steps.states[present]] = False
    return dead | without


def worth_of_closed(steps: Steps) -> tuple[Array, Array]:
    """What states are worth that never end, as far as their closed classes say.

    Args:
        steps: of these states alone; no edge leaves them.

    Returns:
        (worth [N], nats, NaN for states outside closed classes; bool [N], states whose finite horizons have no limit,
        or none that is known to be attained).
    """
    worth, unsure = np.full(steps.number, np.nan), np.zeros(steps.number, dtype=bool)
    pairs, edges = np.ones(len(steps.states), dtype=bool), np.ones(steps.count, dtype=bool)
    for states in closed_classes(*steps.ways(), np.ones(steps.number, dtype=bool)):
        inside = np.zeros(steps.number, dtype=bool)
        inside[states] = True
        part = steps.select(pairs, edges, inside, np.zeros(steps.number + 1))
        rate = soft_rate(part, GAIN_STEPS)
        gains = part.gains_of(np.ones(part.number, dtype=bool))
        size = max(float(np.abs(part.rewards).max(initial=0.0)), float(np.abs(gains).max(initial=0.0)))
        if rate.low > NO_GAIN * size or rate.high < -NO_GAIN * size:
            worth[states] = np.inf if rate.low > 0 else -np.inf
            continue
        settles = steps.eta == 0 and nothing_to_choose(part) and period(*part.ways(), part.number) == 1
        unsure[states] = not settles
        worth[states] = rate.values.total - rate.law @ rate.values.total
    return worth, unsure


def nothing_to_choose(steps: Steps) -> bool:
    """Whether all pairs of a state pay the same on average, and lead to the same states."""
    first = steps.first_pairs[steps.states]
    if not np.array_equal(steps.rewards, steps.rewards[first]):
        return False
    if steps.table is not None:
        table = steps.table.table
        return all(bool(np.abs(table[k] - table[first[k]]).max() <= 1e-15) for k in range(len(table)))
    from scipy.sparse import csr_matrix

    table = csr_matrix((steps.chances, (steps.pairs, steps.targets)), shape=(len(steps.states), steps.number))
    return bool(abs(table - table[first]).max() <= 1e-15)
