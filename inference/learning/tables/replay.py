"""What was met is remembered, and steps whose outcome has shown no noise are learned from again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cai.inference.learning.tables.world import Array, Met, TableWorld

__all__ = ["first_memory", "known_entries", "remember", "replay"]

UNMET = -1.0  # in place of a state that an entry has led to
AGAIN = 64  # entries that are looked at again for each transition that is learned from, at most
SWEEPS = 50  # times that all of them are, at most
STILL = 1e-12  # relative, below which a sweep has moved nothing


def first_memory(shape: tuple[int, ...]) -> dict[str, Array]:
    """The first tables [T, S, A] of a memory: where an entry has led to, what it paid, and whether that has varied."""
    return {"following": np.full(shape, UNMET), "reward": np.zeros(shape), "varied": np.zeros(shape)}


def remember(tables: dict[str, Array], keys: Array, met: Met) -> Array:
    """Takes N steps into the memory; bool [N], whether their entries have had one outcome so far.

    Args:
        tables: those of `first_memory`, changed in place.
        keys: int [N], places of the entries in the flat tables.
        met: the steps.
    """
    following, reward, varied = (tables[name].reshape(-1) for name in ("following", "reward", "varied"))
    new = following[keys] == UNMET
    following[keys[new]], reward[keys[new]] = met.next_states[new], met.rewards[new]
    varied[keys[(following[keys] != met.next_states) | (reward[keys] != met.rewards)]] = 1
    alike: Array = varied[keys] == 0
    return alike


def known_entries(tables: dict[str, Array]) -> Array:
    """Bool [S, A], whether an entry was met and has had one outcome so far, where there is no time."""
    known: Array = (tables["following"][0] != UNMET) & (tables["varied"][0] == 0)
    return known


def replay(
    world: TableWorld,
    tables: dict[str, Array],
    steps: int,
    names: tuple[str, ...],
    values: Callable[[], Array],
    bonus: Array | None = None,
) -> bool:
    """Takes the whole backup, over and over, of entries that have had one outcome: Q(s, a) = r + gamma V(s').

    Over an infinite horizon an error dies out by gamma with each backup alone, and a step that is taken is one; near
    gamma = 1 a budget of steps holds too few. What was met once is all that there is to know of such an entry, so it
    needs not be met again (a replay memory, Lin 1992, "Self-improving reactive agents"). Where that is so of everything
    that may be done, and nothing ends, the level that all values share is found at once: if every residual of a backup
    is at least c > 0, all values are at least gamma c / (1 - gamma) too low, and the like from above (MacQueen 1966).

    Args:
        world: the world; over a finite horizon nothing is done, as a pass over the times is a whole backup.
        tables: those of `first_memory`, and of values; changed in place.
        steps: that were learned from just now; the work is a multiple of them.
        names: of the tables of values, [1, S, A], the first of which is backed up into all.
        values: V [S] of the present tables.
        bonus: [S], what is paid in a state besides, reward units; None for nothing.

    Returns:
        Whether it was done: not where nothing is known, or the table is too large for the steps.
    """
    sweeps = min(SWEEPS, AGAIN * steps // tables["reward"].size)
    known = known_entries(tables)
    if world.finite or not sweeps or not known.any():
        return False
    at = np.nonzero(known)
    after, paid = tables["following"][0][at].astype(np.int64), tables["reward"][0][at]
    paid = paid if bonus is None else paid + bonus[at[0]]
    goes_on = world.nonterminal[after]
    everything = (known | (world.prior == 0))[world.nonterminal].all()
    shared = world.discount < 1 and everything and goes_on.all()
    for _ in range(sweeps):
        targets = paid + world.discount * np.where(goes_on, values()[after], 0.0)
        residuals = targets - tables[names[0]][0][at]
        for name in names:
            tables[name][0][at] = targets
        if shared:
            common = max(residuals.min(), 0.0) + min(residuals.max(), 0.0)
            for name in names:
                tables[name][0, world.nonterminal] += common * world.discount / (1 - world.discount)
        if np.abs(residuals).max() <= STILL * np.abs(targets).max():
            break
    return True
