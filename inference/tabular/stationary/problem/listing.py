"""A stationary problem as a list of what may happen, made of a model's tables; where most may happen, as a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cai.inference.tabular.stationary.problem.edges import BLOCK, EdgeList, EdgeTable, Outcomes, computes_long, serves
from cai.inference.tabular.stationary.problem.steps import Steps
from cai.models.common.numerics import plain_number
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["steps_of"]

Array = np.ndarray[Any, Any]


def steps_of(model: TrajectoryModel, eta: float, hard: bool) -> Steps:
    """The list of what may happen in a model over an infinite horizon; pairs and edges of -inf are still in it.

    A pair whose expected reward is -inf has `rewards` of -inf; an edge that is forbidden has `gains` of -inf.
    """
    whole = _table_of(model, eta, hard)
    if whole is not None:
        return whole
    mdp, discount = model.mdp, float(model.discount)
    with torch.no_grad():
        possible = (model.action_prior > 0)[..., None] & (mdp.probabilities > 0) & model.nonterminal[:, None, None]
        rewards = model.reward_table(0).detach().expand(possible.shape)
        table: tuple[Tensor, ...] = (
            possible,
            mdp.probabilities.expand(possible.shape),
            rewards,
            mdp.successors().expand(possible.shape),
        )
        falling = 0 if discount == 1 else 1 if eta == 0 or _alike(possible, rewards) else possible.shape[-1]
        if falling:
            table = _with_falls(table, falling)
        possible = table[0]
        states, actions, outcomes = (part.cpu().numpy() for part in torch.nonzero(possible, as_tuple=True))
        key = states * mdp.num_actions + actions
        place = key * possible.shape[-1] + outcomes
        chances, rewards, targets = (part.cpu().numpy().reshape(-1)[place] for part in table[1:])
        prior = model.action_prior.double().cpu().numpy()
        terminal = mdp.terminal.cpu().numpy()
    number = mdp.num_states
    targets = np.where(terminal[targets], number, targets)
    first, pairs = _groups(key)
    of_state, of_action = states[first], actions[first]
    offered = prior[of_state, of_action]
    chances, offered = _whole(chances, first, pairs), _whole(offered, *_groups(of_state))
    # In nats to the last digit of long double: what cancels on a cycle of rewards must cancel once divided, too.
    means, gains = (
        np.zeros(len(first)),
        rewards.astype(np.longdouble) / plain_number(model.temperature),
    )
    if eta == 0:
        with np.errstate(invalid="ignore"):
            means = np.add.reduceat(chances * gains, first) if len(first) else means
        gains = np.zeros(len(gains))
    if falling:  # behind the edge, or the last of the edges, with which it falls
        falls = np.flatnonzero(outcomes == possible.shape[-1] - 1 if falling == 1 else outcomes % 2 == 1)
        missing = (1 - discount) * (np.ones(len(falls)) if falling == 1 else chances[falls - 1])
        chances *= discount
        chances[falls], gains[falls], targets[falls] = missing, gains[falls - 1], number
    nothing = np.zeros(len(first))
    edges = EdgeList(pairs, targets, chances, gains)
    return Steps(number, float(eta), hard, of_state, of_action, offered, means, edges, nothing, np.zeros(number))


@torch.no_grad()
def _table_of(model: TrajectoryModel, eta: float, hard: bool) -> Steps | None:
    """The same where most outcomes of every pair may happen, as a table; None elsewhere, or where a reward is -inf."""
    mdp, discount = model.mdp, float(model.discount)
    number = mdp.num_states
    offered = ((model.action_prior > 0) & model.nonterminal[:, None]).cpu().numpy()
    states, actions = np.nonzero(offered)
    if mdp.next_states is not None or computes_long(len(states) * number):
        return None
    given = mdp.probabilities.double().cpu().numpy()
    given = given.reshape(-1, number) if offered.all() else given[offered]
    count = int(np.count_nonzero(given))
    paid = model.reward_table(0).detach().double().cpu().numpy()
    if not serves(count, given.size) or not np.isfinite(paid.sum()):
        return None
    paid = np.broadcast_to(paid, (number, mdp.num_actions, paid.shape[-1]))
    paid = paid.reshape(-1, paid.shape[-1]) if offered.all() else paid[offered]
    alike = paid.shape[1] == 1 or bool(
        (np.where(given > 0, paid, np.inf).min(1) >= paid.max(1, where=given > 0, initial=-np.inf)).all()
    )
    if alike and paid.shape[1] > 1:
        paid = paid.max(1, keepdims=True, where=given > 0, initial=-np.inf)
    falling = 0 if discount == 1 else 1 if eta == 0 or alike else number
    missing, largest = 1 - given.sum(1, dtype=np.longdouble), given.argmax(1)
    temperature = plain_number(model.temperature)
    source = Outcomes(given, missing, largest, discount, falling, paid if eta != 0 else None, temperature)
    targets = np.where(mdp.terminal.cpu().numpy(), number, np.arange(number))
    if falling == 1:
        targets = np.append(targets, number)
    elif falling:
        targets = np.stack([targets, np.full(number, number)], -1).ravel()
    rows, nothing = np.arange(len(states)), np.zeros(len(states))
    edges = EdgeTable(source, rows, targets, source.chances(np.float64), np.zeros(len(targets)))
    means = _means(source, paid) if eta == 0 else nothing
    prior = _whole(model.action_prior.double().cpu().numpy()[states, actions], *_groups(states))
    return Steps(number, float(eta), hard, states, actions, prior, means, edges, nothing, np.zeros(number))


def _means(source: Outcomes, paid: Array) -> Array:
    """[R], what pairs are paid on average, nats, in long double; rewards [R, K] or [R, 1]."""
    if paid.shape[1] == 1:
        return paid[:, 0].astype(np.longdouble) / source.temperature
    found, size = np.empty(len(paid), np.longdouble), max(BLOCK // paid.shape[1], 1)
    every = replace(source, discount=1.0, falling=0)
    for low in range(0, len(paid), size):
        rows = slice(low, low + size)
        chances = every.chances(np.longdouble, rows)
        found[rows] = (chances * (paid[rows].astype(np.longdouble) / source.temperature)).sum(1)
    return found


def _alike(possible: Tensor, rewards: Tensor) -> bool:
    """Whether all outcomes of every pair (s, a) that may happen are paid the same; both are [S, A, K]."""
    least = torch.where(possible, rewards, torch.inf).amin(-1)
    return bool((least >= torch.where(possible, rewards, -torch.inf).amax(-1)).all())


def _with_falls(table: tuple[Tensor, ...], falling: int) -> tuple[Tensor, ...]:
    """Tables [S, A, K] with places for a discount's falls, 0 as yet: one behind all outcomes, or one behind each.

    Args:
        table: which outcomes may happen, bool, and what there is of each.
        falling: 1 for the first way, else the second.
    """
    possible, *others = table
    if falling == 1:
        falls = possible.any(-1, keepdim=True)
        return (torch.cat([possible, falls], -1), *(functional.pad(part, (0, 1)) for part in others))
    placed = (torch.stack([part, torch.zeros_like(part)], -1).flatten(-2) for part in others)
    return (torch.stack([possible, possible], -1).flatten(-2), *placed)


def _groups(key: Array) -> tuple[Array, Array]:
    """(the first place of each run of equal numbers [R]; the run of each place [E]) of ascending numbers [E]."""
    fresh = np.ones(len(key), dtype=bool)
    np.not_equal(key[1:], key[:-1], out=fresh[1:])
    return np.flatnonzero(fresh), np.cumsum(fresh) - 1


def _whole(chances: Array, first: Array, groups: Array) -> Array:
    """Probabilities in long double, the largest of each group being what the others leave of 1.

    Args:
        chances: [E], float64, 0 or more.
        first: int [R], the first of each group.
        groups: int [E], ascending: the group of each, by its place in `first`.
    """
    found = chances.astype(np.longdouble)
    if not len(found):
        return found
    missing = 1 - np.add.reduceat(found, first)
    places = np.flatnonzero(chances >= np.maximum.reduceat(chances, first)[groups])[::-1]
    largest = np.empty_like(first)
    largest[groups[places]] = places  # of equals the first
    found[largest] += missing
    return found
