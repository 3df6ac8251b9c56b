"""One backup of a stationary problem as a list of what may happen, and how far values are from standing still.

The list holds pairs (s, a) of positive prior in live states and the edges (s, a) -> s' of positive probability; a
discount's fall is one more edge, into the end, whose value is 0. With x = rho + v(s') - v(s) on an edge,

    delta(s) = F(v)(s) - v(s) = choice over a of  (1 / eta) log sum_k p_k e^{eta x_k}

is taken from differences of values alone. So it is right to the rounding of what a step changes, not to that of v: with
a discount of 1 - 1e-9 values are a billion times as large as that. For this, values are pairs of arrays (high, low)
whose sum they are, and a row of probabilities says by its *other* entries what stays where it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from cai.models.trajectory.model import TrajectoryModel

__all__ = ["TINY", "Moves", "Steps", "Values", "log_mean_exp", "steps_of", "summed"]

Array = np.ndarray[Any, Any]
TINY = float(np.finfo(np.float64).tiny)  # nats: what is less is 0 to whoever reads the answer
LONG_LIMIT = 100_000  # edges up to which everything is computed in long double


@dataclass(frozen=True)
class Values:
    """Values [N] in nats as a sum, of which the low part holds what the high one cannot.

    Attributes:
        high: [N].
        low: [N].
    """

    high: Array
    low: Array

    @np.errstate(over="ignore", invalid="ignore")
    def moved(self, step: Array) -> Values:
        """The values and a step [N] more."""
        added = self.low + step
        total = self.high + added
        part = total - self.high  # the sum's rounding, whichever is the larger (Knuth)
        return Values(total, (self.high - (total - part)) + (added - part))

    @property
    def total(self) -> Array:
        """[N], float64."""
        return (self.high + self.low).astype(np.float64)


@dataclass(frozen=True)
class Moves:
    """Where a choice leads: delta, and the chain of the policy and dynamics that attain it.

    Attributes:
        delta: [N], F(v) - v, nats.
        rounding: [N], what delta may be wrong by.
        advantages: [R], of the pairs: the certainty equivalent of x.
        policy: [R], pi(a | s) of the pairs.
        weights: [E], the probability of an edge given its state.
    """

    delta: Array
    rounding: Array
    advantages: Array
    policy: Array
    weights: Array

    @property
    def left(self) -> float:
        """The largest |delta|, in units of its rounding."""
        return float((np.abs(self.delta) / np.maximum(self.rounding, TINY)).max(initial=0.0))


@dataclass(frozen=True)
class Steps:
    """A stationary problem over N unknown states; state N is the end, of value 0.

    Attributes:
        number: N.
        eta: how outcomes are weighed, see `cai.inference.kernels.backups`.
        hard: whether the best action counts alone, instead of the soft choice.
        states: int [R], ascending: the state of each pair.
        actions: int [R], the action of each pair.
        prior: [R], p(a | s).
        rewards: [R], expected rewards of the pairs where eta is 0, else 0; nats.
        pairs: int [E], ascending: the pair of each edge.
        targets: int [E], where it leads.
        chances: [E], its probability given the pair.
        gains: [E], its reward where eta is not 0, else 0; nats.
        lost: [R], the probability of what was left out of a pair's edges.
        refused: [N], the prior of what was left out of a state's pairs.
    """

    number: int
    eta: float
    hard: bool
    states: Array
    actions: Array
    prior: Array
    rewards: Array
    pairs: Array
    targets: Array
    chances: Array
    gains: Array
    lost: Array
    refused: Array

    @cached_property
    def sources(self) -> Array:
        """Int [E], the state of each edge."""
        return self.states[self.pairs]

    @cached_property
    def first_edges(self) -> Array:
        """Int [R], the first edge of each pair."""
        return np.searchsorted(self.pairs, np.arange(len(self.states)))

    @cached_property
    def first_pairs(self) -> Array:
        """Int [N], the first pair of each state."""
        return np.searchsorted(self.states, np.arange(self.number))

    @cached_property
    def dtype(self) -> Any:
        """What is computed in: long double up to 100,000 edges, else float64."""
        return np.longdouble if len(self.pairs) <= LONG_LIMIT else np.float64

    def at(self, dtype: Any) -> Steps:
        """The same, computed in long double or float64."""
        found = replace(self)
        found.__dict__["dtype"] = dtype
        return found

    def values(self, values: Array) -> Values:
        """Values [N] for `moves`."""
        high = np.asarray(values, dtype=self.dtype)
        return Values(high, np.zeros_like(high))

    def select(self, pairs: Array, edges: Array, states: Array, worth: Array) -> Steps:
        """The problem over fewer states, of which some pairs and edges count.

        Args:
            pairs: bool [R], those that are kept.
            edges: bool [E], those that are kept, of pairs that are.
            states: bool [N], those that stay unknown; pairs of others go.
            worth: [N + 1], the known values of the others, nats.
        """
        pairs = pairs & states[self.states]
        edges = edges & pairs[self.pairs]
        if states.all() and pairs.all() and edges.all():
            return self
        inside = np.append(states, False)
        place = np.append(np.cumsum(states) - 1, 0)
        number = int(states.sum())
        lost = self.lost + summed(self.pairs[~edges], self.chances[~edges], len(self.states))
        refused = self.refused + summed(self.states[~pairs], self.prior[~pairs], self.number)
        targets, chances = self.targets[edges], self.chances[edges]
        known = np.where(inside[targets], 0.0, worth[targets])
        row = np.cumsum(pairs) - 1
        rows = row[self.pairs[edges]]
        rewards, gains = self.rewards[pairs], self.gains[edges]
        if self.eta == 0:
            rewards = rewards + summed(rows, chances * known, int(pairs.sum()))
        else:
            gains = gains + known
        return Steps(
            number,
            self.eta,
            self.hard,
            place[self.states[pairs]],
            self.actions[pairs],
            self.prior[pairs],
            rewards,
            rows,
            np.where(inside[targets], place[targets], number),
            chances,
            gains,
            lost[pairs],
            refused[states],
        )

    @np.errstate(over="ignore", invalid="ignore")  # of values that are pushed far: whoever asks sees what is not finite
    def moves(self, values: Values, chosen: Array | None = None) -> Moves:
        """How far values are from standing still, and the chain that moves them.

        Args:
            values: of the N states.
            chosen: int [N], the pair that each state takes, in place of the choice.
        """
        dtype = self.dtype
        eps = float(np.finfo(dtype).eps)
        high, low = np.append(values.high, 0).astype(dtype), np.append(values.low, 0).astype(dtype)
        x = (high[self.targets] - high[self.sources]) + (low[self.targets] - low[self.sources])
        apart = np.abs(x) + np.abs(self.gains)
        x += self.gains
        chances = self.chances.astype(dtype)
        if self.eta == 0:
            weights = chances
            rewards = self.rewards.astype(dtype)
            advantages = rewards + np.add.reduceat(weights * x, self.first_edges)
            size = np.abs(rewards) + np.add.reduceat(weights * np.abs(x), self.first_edges)
        elif math.isinf(self.eta):
            sign = 1.0 if self.eta > 0 else -1.0
            advantages = sign * np.maximum.reduceat(sign * x, self.first_edges)
            tight = np.where(sign * x >= (sign * advantages)[self.pairs], chances, 0)
            weights = tight / np.add.reduceat(tight, self.first_edges)[self.pairs]
            size = np.abs(advantages) + np.add.reduceat(weights * apart, self.first_edges)
        else:
            advantages, weights, size = log_mean_exp(
                self.eta * x, chances, self.pairs, self.first_edges, self.lost.astype(dtype)
            )
            advantages, size = advantages / self.eta, size / abs(self.eta)
            size = size + np.add.reduceat(weights * apart, self.first_edges)
        if chosen is not None:
            policy = np.zeros(len(self.states), dtype)
            policy[chosen] = 1
            delta = advantages[chosen]
        elif self.hard:
            delta = np.maximum.reduceat(advantages, self.first_pairs)
            tight = np.where(advantages >= delta[self.states], self.prior, 0)
            policy = tight / np.add.reduceat(tight, self.first_pairs)[self.states]
        else:
            prior = self.prior.astype(dtype)
            refused = self.refused.astype(dtype)
            delta, policy, own = log_mean_exp(advantages, prior, self.states, self.first_pairs, refused)
        rounding = np.add.reduceat(policy * size, self.first_pairs) + (0 if chosen is not None or self.hard else own)
        # Among states of one value, differences shrink with every step: no digit is left below those of high and low.
        least = eps * eps * np.abs(high[:-1])
        return Moves(delta, 3 * eps * rounding + least, advantages, policy, policy[self.pairs] * weights)


def summed(places: Array, parts: Array, number: int) -> Array:
    """[N], parts [E] added up at their places, in long double."""
    found = np.zeros(number, dtype=np.longdouble)
    np.add.at(found, places, parts)
    return found


def log_mean_exp(x: Array, weights: Array, groups: Array, first: Array, lost: Array) -> tuple[Array, Array, Array]:
    """Log sum_k w_k e^{x_k} of each group, right to rounding where it is near 0, too.

    Args:
        x: [E].
        weights: [E], positive, of sum 1 in each group but for what was lost.
        groups: int [E], ascending: the group of each.
        first: int [R], the first of each group.
        lost: [R], 1 less the sum of the weights.

    Returns:
        (the logarithms [R]; the weights tilted by e^x [E]; [R], numbers whose rounding is in the logarithms).
    """
    largest = np.maximum.reduceat(x, first)
    with np.errstate(over="ignore", invalid="ignore"):
        changes = weights * np.expm1(x)
        less = np.add.reduceat(changes, first) - lost
    near = (less > -0.5) & (less < 1.0)  # false for NaN
    if near.all():
        found, size = np.log1p(less), (np.add.reduceat(np.abs(changes), first) + lost) / (1 + less)
        return found, weights * np.exp(x) / (1 + less)[groups], size + np.abs(found)
    terms = weights * np.exp(x - largest[groups])
    sums = np.add.reduceat(terms, first)
    logs, close = np.log(sums), np.where(near, less, 0.0)
    with np.errstate(invalid="ignore"):
        apart = (np.add.reduceat(np.abs(changes), first) + lost) / (1 + close)
    found = np.where(near, np.log1p(close), largest + logs)
    size = np.where(near, apart, 1 + np.abs(largest) + np.abs(logs)) + np.abs(found)
    return found, terms / sums[groups], size


def steps_of(model: TrajectoryModel, eta: float, hard: bool) -> Steps:
    """The list of what may happen in a model over an infinite horizon; pairs and edges of -inf are still in it.

    A pair whose expected reward is -inf has `rewards` of -inf; an edge that is forbidden has `gains` of -inf.
    """
    mdp, discount = model.mdp, float(model.discount)
    with torch.no_grad():
        possible = (model.action_prior > 0)[..., None] & (mdp.probabilities > 0) & model.live[:, None, None]
        states, actions, _ = (part.cpu().numpy() for part in torch.nonzero(possible, as_tuple=True))
        chances = mdp.probabilities[possible].double().cpu().numpy()
        targets = mdp.successors().expand(possible.shape)[possible].cpu().numpy()
        rewards = model.log_potential(0).expand(possible.shape)[possible].double().cpu().numpy()
        prior = model.action_prior.double().cpu().numpy()
        terminal = mdp.terminal.cpu().numpy()
    number = mdp.num_states
    targets = np.where(terminal[targets], number, targets)
    key = states * mdp.num_actions + actions
    fresh = np.ones(len(key), dtype=bool)
    fresh[1:] = key[1:] != key[:-1]
    pairs = np.cumsum(fresh) - 1
    of_state, of_action = states[fresh], actions[fresh]
    count = len(of_state)
    chances, offered = _whole(chances, pairs), _whole(prior[of_state, of_action], of_state)
    means = np.zeros(count)
    if eta == 0:
        with np.errstate(invalid="ignore"):
            means = np.add.reduceat(chances * rewards, np.flatnonzero(fresh)) if count else means
        rewards = np.zeros_like(rewards)
    parts = (pairs, targets, chances, rewards)
    if discount < 1:
        parts = _falling(*parts, np.flatnonzero(fresh), number, discount)
    nothing = np.zeros(count)
    return Steps(number, float(eta), hard, of_state, of_action, offered, means, *parts, nothing, np.zeros(number))


def _falling(
    pairs: Array, targets: Array, chances: Array, gains: Array, first: Array, number: int, discount: float
) -> tuple[Array, Array, Array, Array]:
    """Edges [E] and those of a discount, which fall into the end: one behind each pair's, or one behind each edge.

    One is enough where all edges of every pair have the same gain.

    Args:
        pairs: int [E], ascending.
        targets: int [E].
        chances: [E].
        gains: [E].
        first: int [R], the first edge of each pair.
        number: N, the number of the end.
        discount: below 1.
    """
    alike = bool((gains == gains[first][pairs]).all())
    rows = np.arange(len(first)) if alike else pairs
    missing = np.full(len(rows), 1 - discount) if alike else (1 - discount) * chances
    old = np.arange(len(pairs)) + (pairs if alike else np.arange(len(pairs)))
    new = np.append(first[1:], len(pairs)) + rows if alike else old + 1
    falls = (rows, np.full(len(rows), number), missing, gains[first] if alike else gains)

    def both(edges: Array, others: Array) -> Array:
        found = np.empty(len(old) + len(new), dtype=edges.dtype)
        found[old], found[new] = edges, others
        return found

    kept = (pairs, targets, discount * chances, gains)
    return both(kept[0], falls[0]), both(kept[1], falls[1]), both(kept[2], falls[2]), both(kept[3], falls[3])


def _whole(chances: Array, groups: Array) -> Array:
    """Probabilities in long double, the largest of each group being what the others leave of 1.

    Args:
        chances: [E], float64, positive.
        groups: int [E], ascending: the group of each.
    """
    found = chances.astype(np.longdouble)
    if not len(found):
        return found
    fresh = np.append(True, groups[1:] != groups[:-1])
    first, rank = np.flatnonzero(fresh), np.cumsum(fresh) - 1
    missing = 1 - np.add.reduceat(found, first)
    places = np.flatnonzero(chances >= np.maximum.reduceat(chances, first)[rank])[::-1]
    largest = np.empty_like(first)
    largest[rank[places]] = places  # of equals the first
    found[largest] += missing
    return found
