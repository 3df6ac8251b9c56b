"""Policy gradient on tables: soft advantages by generalised advantage estimation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cai.inference.learning.tables.exploring import behaviour, first_search, search
from cai.inference.learning.tables.replay import first_memory, known_entries, remember, replay
from cai.inference.learning.tables.rules import (
    POWER,
    Array,
    Losses,
    Tables,
    half_square,
    mean_share,
    normalised,
    pair_keys,
    relative_entropy,
    shift_level,
    state_keys,
)
from cai.inference.learning.tables.world import Met, TableWorld

__all__ = ["PolicyGradientRule", "soft_advantages"]

EARLY = 50  # visits of a state after which a third of its actions are still drawn evenly; the share dies out
LARGEST = 3.0  # nats that an entry of the policy may move at once


class Estimates(NamedTuple):
    """What rollouts say of their steps, [L, N] each, reward units.

    Attributes:
        advantages: of the actions, over the values of the states.
        corrections: of these values; their mean under the behaviour is 0 where values are those of the policy.
    """

    advantages: Array
    corrections: Array


def soft_advantages(
    world: TableWorld,
    tables: Tables,
    met: Met,
    log_ratio: Array,
    weights: Array,
    lam: float,
    after: Array | None = None,
) -> Estimates:
    """GAE of the soft problem: sum_k (gamma lambda)^k delta_{t+k}, delta = r - alpha log pi/p + gamma V(s') - V(s).

    Schulman 2016, "High-dimensional continuous control using generalized advantage estimation", equation (16), with
    the soft reward r - alpha log pi/p in place of r. Actions were not all drawn by pi, so later terms are weighted by
    pi over the chances that actions were drawn by, as in V-trace (Espeholt 2018, "IMPALA", section 4.1), whose traces
    are cut at 1; weights of a step's own error are not, since that would change which policy V is of.

    Args:
        world: the world.
        tables: "v", [T, S].
        met: steps [L, N].
        log_ratio: [L, N], log pi(a|s) / p(a|s) of the actions taken.
        weights: [L, N], pi(a|s) over the chance by which the action was drawn.
        lam: lambda, in [0, 1].
        after: [L, N], the corrections at the step after each, if they are known; else those of the next row.
    """
    values, following = tables["v"][met.times, met.states], tables["v"][met.later, met.next_states]
    following = np.where(met.terminated, 0.0, following)
    deltas = met.rewards - world.temperature * log_ratio + world.discount * following - values
    goes_on = world.discount * lam * ~(met.terminated | met.cut)
    traces = np.minimum(1.0, weights)
    tails, running = np.empty_like(deltas), np.zeros(deltas.shape[1])
    for row in range(len(deltas) - 1, -1, -1):
        tails[row] = goes_on[row] * (running if after is None else after[row])
        running = weights[row] * deltas[row] + traces[row] * tails[row]
    return Estimates(deltas + tails, weights * deltas + traces * tails)


@dataclass(frozen=True)
class PolicyGradientRule:
    """Logits move along the mean soft advantage of each action that was taken, values towards lambda-returns.

    That is the natural gradient of the soft objective, action by action, as far as samples show it. What copies do that
    explore is weighted by the policy's chances over theirs.

    Args:
        gae_lambda: in [0, 1].
        explore, search: how copies are spread, see `behaviour`; used where the policy observes time. One that does not
            weighs states by how often itself meets them, so all copies act by it, and in states that were seldom met
            take a share (1 + visits / 50)^-1.5 of their actions evenly.
        observe_time: whether the policy sees t over a finite horizon; its critic does.
        length: L.
    """

    gae_lambda: float
    explore: float
    search: float
    observe_time: bool = True
    length: int = 8

    def start(self, world: TableWorld) -> Tables:
        shape = (world.steps, world.num_states, world.num_actions)
        seen = shape if self.observe_time else (1, *shape[1:])
        tables = {name: np.zeros(shape[:2]) for name in ("v", "v_mean", "v_visits")}
        tables |= {name: np.zeros(seen) for name in ("logits", "logits_mean", "visits")}
        tables |= {"rows": np.zeros(seen[:2]), "level": np.zeros(2), "turn": np.zeros(1)} | first_search(world)
        return tables | first_memory(shape) | {"known": np.zeros(shape)}

    def log_policy(self, world: TableWorld, tables: Tables, times: Array, states: Array) -> Array:
        return self._log_rows(world, tables["logits"], times, states)

    def log_answer(self, world: TableWorld, tables: Tables, times: Array, states: Array) -> Array:
        return self._log_rows(world, tables["logits_mean"], times, states)

    def _log_rows(self, world: TableWorld, logits: Array, times: Array, states: Array) -> Array:
        return normalised(world.log_prior[states] + logits[times if self.observe_time else 0, states])

    def chances(self, world: TableWorld, tables: Tables, times: Array, states: Array) -> Array:
        if self.observe_time:
            return behaviour(self, world, tables, times, states, self.explore, self.search)
        share = ((1 + tables["v_visits"][times, states] / EARLY) ** -1.5)[:, None]
        return (1 - share) * np.exp(self.log_policy(world, tables, times, states)) + share * world.even[states]

    def learn(self, world: TableWorld, tables: Tables, met: Met) -> Losses:
        drawn = [self.chances(world, tables, *row) for row in zip(met.times, met.states, strict=True)]
        chances = np.take_along_axis(np.stack(drawn), met.actions[..., None], -1)[..., 0]
        self._judge_again(world, tables, met.flat())
        later, losses = np.zeros(met.states.shape), []  # corrections, a time later
        for now in world.at_times(met, tables["turn"]):
            after = None if now is met else np.concatenate([later[1:], np.zeros_like(later[:1])])
            found, loss = self._judge(world, tables, now, chances, after)
            if now is not met:
                later = found.corrections
            if self.observe_time:
                self._ascend(world, tables, now.flat(), found.advantages.reshape(-1) / world.temperature)
            losses.append((loss, -float(found.advantages.mean())))
        if not self.observe_time:  # its gradient weighs states by how often they are met, and when
            found = self._estimates(world, tables, met, chances, None)[0]
            self._ascend(world, tables, met.flat(), found.advantages.reshape(-1) / world.temperature)
        search(world, tables, met)
        return Losses(*np.mean(losses, 0).tolist())

    def _judge_again(self, world: TableWorld, tables: Tables, met: Met) -> None:
        """Moves values of states whose actions have all had one outcome to what the present policy makes of these."""
        remember(tables, pair_keys(world, met.times, met.states, met.actions), met)
        if world.finite:
            return
        every = np.arange(world.num_states)
        ratio, probs = relative_entropy(world, every, self.log_policy(world, tables, 0 * every, every))
        spent, known = world.temperature * (probs * ratio).sum(1), tables["known"][0]
        sure = (known_entries(tables) | (world.prior == 0)).all(1) & world.nonterminal

        def values() -> Array:
            found: Array = np.where(sure, (probs * known).sum(1) - spent, tables["v"][0])
            return found

        if replay(world, tables, met.states.size, ("known",), values):
            tables["v"][0, sure] = tables["v_mean"][0, sure] = values()[sure]

    def _judge(
        self, world: TableWorld, tables: Tables, met: Met, chances: Array, after: Array | None
    ) -> tuple[Estimates, float]:
        """Moves values towards what was met; what is estimated under them then, and half the mean square of errors."""
        found, weights = self._estimates(world, tables, met, chances, after)
        keys = state_keys(world, met.times, met.states).reshape(-1)
        entries, inverse = np.unique(keys, return_inverse=True)
        values, means, visits = (tables[name].reshape(-1) for name in ("v", "v_mean", "v_visits"))
        total = np.bincount(inverse, weights.reshape(-1))
        visits[entries] += total
        share = np.minimum(1.0, total * np.maximum(visits[entries], 1e-300) ** -POWER)
        values[entries] += share * np.bincount(inverse, found.corrections.reshape(-1)) / np.maximum(total, 1.0)
        means[entries] += mean_share(visits[entries], total) * (values[entries] - means[entries])
        shift_level(world, tables, met, found.corrections, ("v", "v_mean"))
        # Under values that are behind, whatever was tried would look good: the actor looks at them as they are now.
        return self._estimates(world, tables, met, chances, after)[0], half_square(found.corrections.reshape(-1))

    def _estimates(
        self, world: TableWorld, tables: Tables, met: Met, chances: Array, after: Array | None
    ) -> tuple[Estimates, Array]:
        """What rollouts say under the present values, and weights [L, N]: pi over the chances of the behaviour."""
        rows = self.log_policy(world, tables, met.times.reshape(-1), met.states.reshape(-1))
        taken = rows[np.arange(met.actions.size), met.actions.reshape(-1)].reshape(met.actions.shape)
        weights = np.exp(taken) / chances
        log_ratio = taken - world.log_prior[met.states, met.actions]
        return soft_advantages(world, tables, met, log_ratio, weights, self.gae_lambda, after), weights

    def _ascend(self, world: TableWorld, tables: Tables, met: Met, advantages: Array) -> None:
        """Moves every entry that was taken along its mean advantage (nats)."""
        logits, visits = (tables[name].reshape(-1) for name in ("logits", "visits"))
        weights = np.ones(len(advantages)) if self.observe_time else world.discount**met.ages
        keys = pair_keys(world, met.times * self.observe_time, met.states, met.actions)
        entries, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        visits[entries] += counts
        total = np.bincount(inverse, weights)
        share = np.minimum(1.0, total * visits[entries] ** -POWER)
        steps = share * np.bincount(inverse, weights * advantages) / np.maximum(total, 1e-300)
        logits[entries] += np.clip(steps, -LARGEST, LARGEST)
        # An action that lost its probability is hardly taken again, so its mean is one over the visits of its state.
        rows, counts = np.unique(keys // world.num_actions, return_counts=True)
        met_rows = tables["rows"].reshape(-1)
        met_rows[rows] += counts
        share = mean_share(met_rows[rows], counts)[:, None]
        means, present = (tables[name].reshape(-1, world.num_actions) for name in ("logits_mean", "logits"))
        means[rows] += share * (present[rows] - means[rows])

    def critic(self, world: TableWorld, tables: Tables) -> dict[str, Array]:
        return {"values": tables["v_mean"]}

    def temperature(self, world: TableWorld, tables: Tables) -> float:
        return world.temperature

    def at_bound(self, world: TableWorld, tables: Tables) -> bool:
        return False
