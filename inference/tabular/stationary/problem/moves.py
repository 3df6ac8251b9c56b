"""Values of a stationary problem, and where a choice moves them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cai.inference.tabular.stationary.problem.edges import EdgeList, EdgeTable

__all__ = ["TINY", "Moves", "Tilted", "Values", "log_mean_exp"]

Array = np.ndarray[Any, Any]
TINY = float(np.finfo(np.float64).tiny)  # nats: what is less is 0 to whoever reads the answer


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

    @np.errstate(over="ignore", invalid="ignore")
    def relative(self, state: int) -> Values:
        """The values less that of one state: nothing is lost of what states differ by, however large they are."""
        apart = self.high - self.high[state]
        part = apart - self.high
        lost = (self.high - (apart - part)) - (self.high[state] + part)
        return Values(apart, np.zeros_like(apart)).moved(lost + (self.low - self.low[state]))

    @property
    def total(self) -> Array:
        """[N], float64."""
        return (self.high + self.low).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Tilted:
    """Probabilities P(r, k) w(s, k) c(r) of the outcomes of a table that each state weighs alike in all its pairs.

    Attributes:
        table: P [R, K].
        scale: c [R].
        weights: w [N, K].
    """

    table: Array
    scale: Array
    weights: Array

    def of(self, states: Array) -> Array:
        """The probabilities [R, K] of pairs, given the state of each, int [R]."""
        return np.asarray(self.table * self.scale[:, None] * self.weights[states])


@dataclass(frozen=True)
class Moves:
    """Where a choice leads: delta, and the chain of the policy and dynamics that attain it.

    Attributes:
        delta: [N], F(v) - v, nats.
        rounding: [N], what delta may be wrong by.
        advantages: [R], of the pairs: the certainty equivalent of x.
        policy: [R], pi(a | s) of the pairs.
        outcomes: [E], the probability of an edge given its pair; of a table [R, K], or what they are products of.
        sizes: [R], numbers whose rounding is in the advantages.
        edges: of the pairs; where a policy was given, and edges are a table, all of this is of its pairs alone.
        first_pairs: int [N], the first pair of each state.
    """

    delta: Array
    rounding: Array
    advantages: Array
    policy: Array
    outcomes: Array | Tilted
    sizes: Array
    edges: EdgeList | EdgeTable
    first_pairs: Array

    @cached_property
    def weights(self) -> Array:
        """[E], the probability of an edge given its state."""
        edges, outcomes = self.edges, self.outcomes
        if isinstance(outcomes, Tilted):
            counts = np.diff(np.append(self.first_pairs, len(self.policy)))
            outcomes = outcomes.of(np.repeat(np.arange(len(counts)), counts))
        if isinstance(edges, EdgeTable) and outcomes.ndim == 2:
            return np.asarray((self.policy[:, None] * outcomes)[edges.positive])
        return np.asarray(self.policy[edges.listed.pairs] * outcomes)

    @cached_property
    def chain(self) -> Array:
        """[N, K], the probability of the outcomes of a table given the state."""
        outcomes = self.outcomes
        if isinstance(outcomes, Tilted):
            return mixed(outcomes.table, self.policy * outcomes.scale, self.first_pairs) * outcomes.weights
        return mixed(outcomes, self.policy, self.first_pairs)

    @property
    def left(self) -> float:
        """The largest |delta|, in units of its rounding."""
        return float((np.abs(self.delta) / np.maximum(self.rounding, TINY)).max(initial=0.0))


def mixed(table: Array, policy: Array, first_pairs: Array) -> Array:
    """[N, K], what follows a state by a policy.

    Args:
        table: [R, K], the probability of each outcome of each pair.
        policy: [R].
        first_pairs: int [N], the first pair of each state; each has one.
    """
    number, (rows, width) = len(first_pairs), table.shape
    if number and rows % number == 0 and (np.diff(first_pairs) == rows // number).all():
        return np.asarray(np.matmul(policy.reshape(number, 1, -1), table.reshape(number, -1, width))[:, 0])
    return np.asarray(np.add.reduceat(table * policy[:, None], first_pairs, 0))


def log_mean_exp(
    x: Array,
    weights: Array,
    lost: Array,
    total: Callable[[Array], Array],
    largest: Callable[[Array], Array],
    spread: Callable[[Array], Array],
) -> tuple[Array, Array, Array]:
    """Log sum_k w_k e^{x_k} of each group, right to rounding where it is near 0, too.

    Args:
        x: [E], or [R, K] with a group a row; -inf where there is no edge.
        weights: likewise, of sum 1 in each group but for what was lost.
        lost: [R], 1 less the sum of the weights.
        total: the sums of groups [R] of numbers like x.
        largest: the largest of each group [R].
        spread: numbers [R] in the places of their groups.

    Returns:
        (the logarithms [R]; the weights tilted by e^x, like x; [R], numbers whose rounding is in the logarithms).
    """
    with np.errstate(over="ignore", invalid="ignore"):
        changes = np.expm1(x)
        changes *= weights
        less = total(changes) - lost
    near = (less > -0.5) & (less < 1.0)  # false for NaN
    if near.all():
        terms = np.exp(x)
        terms *= weights
        terms /= spread(1 + less)
        found, size = np.log1p(less), (total(np.abs(changes, out=changes)) + lost) / (1 + less)
        return found, terms, size + np.abs(found)
    best = largest(x)
    terms = weights * np.exp(x - spread(best))
    sums = total(terms)
    logs, close = np.log(sums), np.where(near, less, 0.0)
    with np.errstate(invalid="ignore"):
        apart = (total(np.abs(changes)) + lost) / (1 + close)
    found = np.where(near, np.log1p(close), best + logs)
    size = np.where(near, apart, 1 + np.abs(best) + np.abs(logs)) + np.abs(found)
    return found, terms / spread(sums), size
