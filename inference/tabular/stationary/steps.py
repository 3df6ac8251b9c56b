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

__all__ = ["TINY", "Moves", "Steps", "Values", "log_mean_exp", "summed"]

Array = np.ndarray[Any, Any]
TINY = float(np.finfo(np.float64).tiny)  # nats: what is less is 0 to whoever reads the answer
BLOCK = 1 << 14  # edges that are looked at together
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
        outcomes: [E], the probability of an edge given its pair.
        pairs: int [E], the pair of each edge.
    """

    delta: Array
    rounding: Array
    advantages: Array
    policy: Array
    outcomes: Array
    pairs: Array

    @cached_property
    def weights(self) -> Array:
        """[E], the probability of an edge given its state."""
        return self.policy[self.pairs] * self.outcomes

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
    def blocks(self) -> list[tuple[slice, slice]]:
        """(pairs, edges) of blocks: whole pairs, and about as many edges as a core's cache holds numbers of."""
        firsts = np.searchsorted(self.first_edges, np.arange(0, len(self.pairs), BLOCK))
        bounds = np.unique(np.append(firsts, len(self.states)))
        ends = np.append(self.first_edges, len(self.pairs))[bounds]
        return [(slice(*bounds[i : i + 2].tolist()), slice(*ends[i : i + 2].tolist())) for i in range(len(bounds) - 1)]

    @cached_property
    def dtype(self) -> Any:
        """What is computed in: long double up to 100,000 edges, else float64."""
        return np.longdouble if len(self.pairs) <= LONG_LIMIT else np.float64

    @cached_property
    def weighed(self) -> Array:
        """[E], `chances` in the numbers that are computed in."""
        return self.chances.astype(self.dtype, copy=False)

    @cached_property
    def paid(self) -> Array:
        """[E], `gains` in the numbers that are computed in."""
        return self.gains.astype(self.dtype, copy=False)

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
        apart = bool(low.any())
        advantages, size = np.empty(len(self.states), dtype), np.empty(len(self.states), dtype)
        outcomes = self.weighed if self.eta == 0 else np.empty(len(self.pairs), dtype)
        for pairs, edges in self.blocks:
            x = high[self.targets[edges]]
            x -= high[self.sources[edges]]
            if apart:
                x += low[self.targets[edges]] - low[self.sources[edges]]
            if self.eta == 0:  # gains are 0
                x *= outcomes[edges]
                first = self.first_edges[pairs] - edges.start
                advantages[pairs] = np.add.reduceat(x, first)
                size[pairs] = np.add.reduceat(np.abs(x, out=x), first)
            else:
                advantages[pairs], outcomes[edges], size[pairs] = self._weighed_by_worth(x, pairs, edges)
        if self.eta == 0:
            rewards = self.rewards.astype(dtype)
            advantages, size = rewards + advantages, np.abs(rewards) + size
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
        return Moves(delta, 3 * eps * rounding + least, advantages, policy, outcomes, self.pairs)

    def _weighed_by_worth(self, x: Array, pairs: slice, edges: slice) -> tuple[Array, Array, Array]:
        """(advantages, outcomes, numbers whose rounding is in the advantages) of a block, where eta is not 0.

        Args:
            x: v(s') - v(s) on its edges; overwritten.
            pairs: of the block.
            edges: of the block.
        """
        first, groups, chances = (
            self.first_edges[pairs] - edges.start,
            self.pairs[edges] - pairs.start,
            self.weighed[edges],
        )
        apart = np.abs(x) + np.abs(self.paid[edges])
        x += self.paid[edges]
        if math.isinf(self.eta):
            sign = 1.0 if self.eta > 0 else -1.0
            advantages = sign * np.maximum.reduceat(sign * x, first)
            tight = np.where(sign * x >= (sign * advantages)[groups], chances, 0)
            outcomes = tight / np.add.reduceat(tight, first)[groups]
            return advantages, outcomes, np.abs(advantages) + np.add.reduceat(outcomes * apart, first)
        x *= self.eta
        logs, outcomes, size = log_mean_exp(x, chances, groups, first, self.lost[pairs].astype(self.dtype))
        return logs / self.eta, outcomes, size / abs(self.eta) + np.add.reduceat(outcomes * apart, first)


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
