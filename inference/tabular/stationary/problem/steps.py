"""One backup of a stationary problem as a list of what may happen, and how far values are from standing still.

The list holds pairs (s, a) of positive prior in nonterminal states and the edges (s, a) -> s' of positive probability
(as a list or, where most of them are there, as a table, see `edges`); a discount's fall is one more edge, into the end,
whose value is 0. With x = rho + v(s') - v(s) on an edge,

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

from cai.inference.tabular.markov.graphs import reaching, reaching_table
from cai.inference.tabular.stationary.problem.edges import EdgeList, EdgeTable, computes_long, summed
from cai.inference.tabular.stationary.problem.moves import Moves, Tilted, Values, log_mean_exp
from cai.inference.tabular.stationary.problem.tables import expected, sources_of, tilted

__all__ = ["Steps"]

Array = np.ndarray[Any, Any]
BLOCK = 1 << 14  # edges that are looked at together


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
        edges: what the pairs may lead to: E edges. A mask over them, bool [E], is in the order of the list.
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
    edges: EdgeList | EdgeTable
    lost: Array
    refused: Array

    @property
    def pairs(self) -> Array:
        """Int [E], ascending: the pair of each edge."""
        return self.edges.listed.pairs

    @property
    def targets(self) -> Array:
        """Int [E], where each edge leads."""
        return self.edges.listed.targets

    @property
    def chances(self) -> Array:
        """[E], the probability of each edge given its pair."""
        return self.edges.listed.chances

    @property
    def gains(self) -> Array:
        """[E], the reward of each edge where eta is not 0, else 0; nats."""
        return self.edges.listed.gains

    @property
    def count(self) -> int:
        """E."""
        return self.edges.count

    @property
    def table(self) -> EdgeTable | None:
        """The edges, where they are a table and computed with as one."""
        return self.edges if isinstance(self.edges, EdgeTable) else None

    @cached_property
    def leads(self) -> Array:
        """Bool [N, N + 1], of a table: which states lead to which."""
        assert isinstance(self.edges, EdgeTable)
        return sources_of(self.edges, self.states, self.number)

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
        """What is computed in: long double up to 100,000 edges of a list, else float64."""
        return np.longdouble if self.table is None and computes_long(self.count) else np.float64

    @cached_property
    def weighed(self) -> Array:
        """[E], `chances` in the numbers that are computed in."""
        return self.chances.astype(self.dtype, copy=False)

    @cached_property
    def paid(self) -> Array:
        """[E], `gains` in the numbers that are computed in."""
        return self.gains.astype(self.dtype, copy=False)

    def at(self, dtype: Any) -> Steps:
        """The same, computed in long double, by the list, or in float64."""
        table = self.table
        found = replace(self) if table is None or dtype is np.float64 else replace(self, edges=table.listed)
        found.__dict__["dtype"] = dtype
        return found

    def ways(self, edges: Array | None = None) -> tuple[Array, Array]:
        """(sources, targets) of some edges, bool [E]; of a table each once."""
        if self.table is None:
            return (self.sources, self.targets) if edges is None else (self.sources[edges], self.targets[edges])
        sources, targets = np.nonzero(self._leads_by(edges))
        return sources, targets

    def some(self, edges: Array) -> Array:
        """Bool [R], the pairs of some edges, bool [E]."""
        if self.table is not None:
            return np.asarray(self.table.placed(edges).any(1))
        return np.bincount(self.pairs[edges], minlength=len(self.states)) > 0

    def into(self, goal: Array) -> Array:
        """Bool [R], the pairs that may lead into the goal, bool [N + 1]."""
        if self.table is not None:
            outcomes = goal[self.table.columns]
            if self.table.full:
                return np.full(len(self.states), outcomes.any())
            return np.asarray(self.table.positive[:, outcomes].any(1))
        return np.bincount(self.pairs[goal[self.targets]], minlength=len(self.states)) > 0

    def edges_into(self, goal: Array) -> Array:
        """Bool [E], the edges that lead into the goal, bool [N + 1]."""
        if self.table is None:
            return np.asarray(goal[self.targets])
        return np.broadcast_to(goal[self.table.columns], self.table.table.shape)[self.table.positive]

    def of_pairs(self, pairs: Array) -> Array:
        """Bool [E], the edges of some pairs, bool [R]."""
        if self.table is None:
            return np.asarray(pairs[self.pairs])
        return np.repeat(pairs, np.count_nonzero(self.table.positive, 1))

    def gains_of(self, states: Array) -> Array:
        """`gains` of the edges of some states, bool [N], in any order; of a table 0 for what there is none of."""
        table = self.table
        if table is None:
            return np.asarray(self.gains[states[self.sources]])
        if table.paid is None:
            return np.zeros(0)
        paid = table.paid[states[self.states]]
        return np.asarray(paid if paid.shape[1] == 1 else np.where(table.positive[states[self.states]], paid, 0.0))

    def reaching(self, goal: Array, edges: Array | None = None) -> Array:
        """Bool [N + 1]: states with a path to the goal, bool [N + 1], along some edges, bool [E]; the goal included."""
        if self.table is not None:
            return reaching_table(self._leads_by(edges), goal)
        return reaching(*self.ways(edges), goal)

    def reached(self, start: Array, edges: Array | None = None) -> Array:
        """Bool [N + 1]: states on a path from the start, bool [N + 1], along some edges; the start included."""
        if self.table is not None:
            ways = np.zeros((self.number + 1, self.number + 1), dtype=bool)
            ways[:, :-1] = self._leads_by(edges).T
            return reaching_table(ways, start)
        return reaching(*self.ways(edges)[::-1], start)

    def _leads_by(self, edges: Array | None) -> Array:
        """`leads`, by some edges of a table."""
        if edges is None or edges.all():
            return self.leads
        assert self.table is not None
        return sources_of(self.table, self.states, self.number, self.table.placed(edges))

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
        refused = self.refused
        if not pairs.all():
            refused = refused + summed(self.states[~pairs], self.prior[~pairs], self.number)
        elif states.all() and edges.all():
            return self
        if self.table is not None:
            found = self._select_table(self.table, pairs, edges, states, worth, refused[states])
            if found is not None:
                return found
        edges = edges & pairs[self.pairs]
        inside = np.append(states, False)
        place = np.append(np.cumsum(states) - 1, 0)
        number = int(states.sum())
        lost = self.lost + summed(self.pairs[~edges], self.chances[~edges], len(self.states))
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
            EdgeList(rows, np.where(inside[targets], place[targets], number), chances, gains),
            lost[pairs],
            refused[states],
        )

    def _select_table(
        self, table: EdgeTable, pairs: Array, edges: Array, states: Array, worth: Array, refused: Array
    ) -> Steps | None:
        """What `select` finds, of a table; None where the list does as well."""
        out = np.append(~states, True)[table.columns]
        placed, lost = None, self.lost
        if not edges.all():
            placed = table.placed(edges)
            lost = lost + np.where(placed, 0.0, table.table).sum(1)
        known = np.where(out, worth[table.columns], 0.0)
        if not np.isfinite(known).all():
            if (table.part(pairs, placed).table[:, ~np.isfinite(known)] > 0).any():
                return None
            known[~np.isfinite(known)] = 0.0
        part = table.part(None if pairs.all() else pairs, placed)
        if not part.pays:
            return None
        number, place = int(states.sum()), np.append(np.cumsum(states) - 1, 0)
        columns = np.where(out, number, place[table.columns])
        rewards = self.rewards[pairs]
        if self.eta != 0:
            part = replace(part, added=part.added + known)
        elif known.any():
            rewards = rewards + part.exactly(known)
        part = replace(part, columns=columns)
        chosen = (self.states[pairs], self.actions[pairs], self.prior[pairs])
        return Steps(number, self.eta, self.hard, place[chosen[0]], *chosen[1:], rewards, part, lost[pairs], refused)

    def by(self, chosen: Array) -> Steps:
        """The same problem with one pair for each state, int [N], and nothing to choose; of edges that are a table."""
        assert isinstance(self.edges, EdgeTable)
        each, nothing = np.arange(self.number), np.zeros(self.number)
        kept = (self.actions[chosen], np.ones(self.number), self.rewards[chosen], self.edges.part(chosen))
        return Steps(self.number, self.eta, True, each, *kept, self.lost[chosen], nothing)

    @np.errstate(over="ignore", invalid="ignore")  # of values pushed far: whoever asks sees what is not finite
    def moves(self, values: Values, chosen: Array | None = None) -> Moves:
        """How far values are from standing still, and the chain that moves them.

        Args:
            values: of the N states.
            chosen: int [N], the pair that each state takes, in place of the choice.
        """
        table = self.table
        if table is not None and chosen is not None:
            return self.by(chosen).moves(values)
        dtype = self.dtype
        eps = float(np.finfo(dtype).eps)
        high, low = np.append(values.high, 0).astype(dtype), np.append(values.low, 0).astype(dtype)
        outcomes: Array | Tilted
        if table is None:
            advantages, outcomes, size = self._listed_moves(high, low)
        elif self.eta == 0:
            outcomes = table.table
            advantages, size = expected(table, high, low, self.states)
        else:
            advantages, outcomes, size = tilted(table, high, low, self.states, self.eta, self.lost)
        if self.eta == 0:
            rewards = self.rewards.astype(dtype)
            advantages, size = rewards + advantages, np.abs(rewards) + size
        if chosen is not None:
            policy = np.zeros(len(self.states), dtype)
            policy[chosen] = 1
            delta = advantages[chosen]
        elif self.hard:
            delta = np.maximum.reduceat(advantages, self.first_pairs)
            tight = np.where(advantages >= delta[self.states], self.prior.astype(dtype), 0)
            policy = tight / np.add.reduceat(tight, self.first_pairs)[self.states]
        else:
            prior = self.prior.astype(dtype)
            refused = self.refused.astype(dtype)
            delta, policy, own = log_mean_exp(
                advantages,
                prior,
                refused,
                lambda parts: np.add.reduceat(parts, self.first_pairs),
                lambda parts: np.maximum.reduceat(parts, self.first_pairs),
                lambda numbers: numbers[self.states],
            )
        rounding = np.add.reduceat(policy * size, self.first_pairs) + (0 if chosen is not None or self.hard else own)
        # Among states of one value, differences shrink with every step: no digit is left below those of high and low.
        least = eps * eps * np.abs(high[:-1])
        return Moves(
            delta, 3 * eps * rounding + least, advantages, policy, outcomes, size, self.edges, self.first_pairs
        )

    def _listed_moves(self, high: Array, low: Array) -> tuple[Array, Array, Array]:
        """(advantages [R] but for `rewards`, outcomes [E], sizes [R]) of the list, at values [N + 1]."""
        dtype, apart = self.dtype, bool(low.any())
        advantages, size = np.empty((2, len(self.states)), dtype)
        outcomes = self.weighed if self.eta == 0 else np.empty(len(self.pairs), dtype)
        if self.eta == 0 and len(self.pairs) == len(self.states):  # each pair has one outcome
            x = high[self.targets] - high[self.states]
            x = (x + (low[self.targets] - low[self.states]) if apart else x) * outcomes
            return x, outcomes, np.abs(x)
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
        return advantages, outcomes, size

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
        logs, outcomes, size = log_mean_exp(
            x,
            chances,
            self.lost[pairs].astype(self.dtype),
            lambda parts: np.add.reduceat(parts, first),
            lambda parts: np.maximum.reduceat(parts, first),
            lambda numbers: numbers[groups],
        )
        return logs / self.eta, outcomes, size / abs(self.eta) + np.add.reduceat(outcomes * apart, first)
