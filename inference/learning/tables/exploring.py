"""How copies are spread over a tabular world: by the policy, by even choices, and towards what was tried least."""

from __future__ import annotations

import numpy as np

from cai.inference.learning.tables.rules import Array, Rule, Tables
from cai.inference.learning.tables.world import Met, TableWorld

__all__ = ["behaviour", "first_search", "search"]

FAR = 0.95  # by how much less a step further away is worth to what searches: it looks about twenty steps ahead
EVEN = 0.25  # the share of its actions that it takes evenly
SWEEPS = 4  # times that what was met is looked at again; what is new some steps ahead is then known at once


def first_search(world: TableWorld) -> Tables:
    """The first tables of a search: how new what can be reached is, and how often each action was tried; [S, A]."""
    shape = (world.num_states, world.num_actions)
    return {"novelty": np.full(shape, 1 / (1 - FAR)), "tried": np.zeros(shape)}


def search(world: TableWorld, tables: Tables, met: Met) -> None:
    """Takes steps into account: novelty N(s, a) moves towards n(s, a)^-1/2 + FAR max_a' N(s', a'), n the tries.

    That is optimistic Q-learning for a reward that pays for what was tried seldom (Strehl and Littman 2008, "An
    analysis of model-based interval estimation for Markov decision processes", have this bonus). Entries that were
    never tried keep the largest value that there is, so what is not known draws from afar. No answer looks at it.

    Args:
        world: the world.
        tables: those of `first_search`, changed in place.
        met: steps, of any shape.
    """
    met = met.flat()
    novelty, tried = tables["novelty"].reshape(-1), tables["tried"].reshape(-1)
    keys = met.states * world.num_actions + met.actions
    entries, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    tried[entries] += counts
    share = np.minimum(0.5, counts * tried[entries] ** -0.5)
    goes_on, open_ = world.nonterminal[met.next_states], world.even[met.next_states] > 0
    for _ in range(SWEEPS):
        ahead = np.where(open_, tables["novelty"][met.next_states], -np.inf).max(1)
        worth = tried[keys] ** -0.5 + FAR * np.where(goes_on, ahead, 0.0)
        novelty[entries] += share * (np.bincount(inverse, worth) / counts - novelty[entries])


def behaviour(
    rule: Rule, world: TableWorld, tables: Tables, times: Array, states: Array, explore: float, search: float
) -> Array:
    """[N, A], chances of the next actions of N copies.

    A share of them takes all actions evenly: not by the prior, as what that hardly ever takes may be worth much, and
    would be learned from a handful of outcomes. A share of the others goes to what was tried least, as even choices
    reach what lies behind many steps too seldom. The rest acts by the policy.

    Args:
        rule: whose policy acts.
        world: the world.
        tables: of the rule, and of `first_search`.
        times: int [N].
        states: int [N].
        explore: share of the copies that take all actions evenly.
        search: share of the other copies that go to what was tried least.
    """
    evenly = round(explore * len(states))
    searching = evenly + round(search * (len(states) - evenly))
    chances = world.even[states]
    new = np.where(chances > 0, tables["novelty"][states], -np.inf)[evenly:searching]
    newest = (new == new.max(1, keepdims=True)).astype(np.float64)
    newest *= (1 - EVEN) / newest.sum(1, keepdims=True)
    chances[evenly:searching] = EVEN * chances[evenly:searching] + newest
    chances[searching:] = np.exp(rule.log_policy(world, tables, times[searching:], states[searching:]))
    return chances
