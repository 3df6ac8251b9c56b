"""Policy gradient on tables: soft advantages by generalised advantage estimation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cai.inference.learning.tables.rules import (
    POWER,
    Array,
    Losses,
    Tables,
    half_square,
    mean_share,
    move_towards,
    normalised,
    pair_keys,
    shift_level,
    state_keys,
)
from cai.inference.learning.tables.world import Met, TableWorld

__all__ = ["PolicyGradientRule", "soft_advantages"]

SHARE = 0.1  # the most of its mean advantage that an entry is moved by at once
DELAY = 20  # visits by which the actor's steps begin small, since the first returns say little
EARLY = 50  # visits of a state after which a third of its actions are still drawn evenly; the share dies out
LARGEST = 1.0  # nats that an entry of the policy may move at once


def soft_advantages(world: TableWorld, tables: Tables, met: Met, log_ratio: Array, lam: float) -> tuple[Array, Array]:
    """GAE of the soft problem: sum_k (gamma lambda)^k delta_{t+k}, delta = r - alpha log pi/p + gamma V(s') - V(s).

    Schulman 2016, "High-dimensional continuous control using generalized advantage estimation", equation (16), with
    the soft reward r - alpha log pi/p in place of r.

    Args:
        world: the world.
        tables: "v", [T, S].
        met: steps [L, N].
        log_ratio: [L, N], log pi(a|s) / p(a|s) of the actions taken.
        lam: lambda, in [0, 1].

    Returns:
        Advantages [L, N] and the values [L, N] of the states in which the steps began.
    """
    values, following = tables["v"][met.times, met.states], tables["v"][met.later, met.next_states]
    following = np.where(met.terminated, 0.0, following)
    deltas = met.rewards - world.temperature * log_ratio + world.discount * following - values
    goes_on = world.discount * lam * ~(met.terminated | met.cut)
    advantages, running = np.empty_like(deltas), np.zeros(deltas.shape[1])
    for row in range(len(deltas) - 1, -1, -1):
        running = deltas[row] + goes_on[row] * running
        advantages[row] = running
    return advantages, values


@dataclass(frozen=True)
class PolicyGradientRule:
    """Logits move along the mean soft advantage of each action that was taken, values towards lambda-returns.

    That is the natural gradient of the soft objective, action by action, as far as samples show it. In states that were
    seldom met a share of the actions is drawn evenly, so that neither the noise of the first returns nor a small prior
    rules one out; the share dies out as (1 + visits / 50)^-1.5, and what it bends with it.

    Args:
        gae_lambda: in [0, 1].
        observe_time: whether the policy sees t over a finite horizon; its critic does.
        length: L.
    """

    gae_lambda: float
    observe_time: bool = True
    length: int = 8

    def start(self, world: TableWorld) -> Tables:
        shape = (world.steps, world.num_states, world.num_actions)
        seen = shape if self.observe_time else (1, *shape[1:])
        tables = {name: np.zeros(shape[:2]) for name in ("v", "v_mean", "v_visits")} | {"level": np.zeros(2)}
        return (
            tables
            | {name: np.zeros(seen) for name in ("logits", "logits_mean", "visits")}
            | {"rows": np.zeros(seen[:2])}
        )

    def log_policy(self, world: TableWorld, tables: Tables, times: Array, states: Array) -> Array:
        return self._log_rows(world, tables["logits"], times, states)

    def log_answer(self, world: TableWorld, tables: Tables, times: Array, states: Array) -> Array:
        return self._log_rows(world, tables["logits_mean"], times, states)

    def _log_rows(self, world: TableWorld, logits: Array, times: Array, states: Array) -> Array:
        return normalised(world.log_prior[states] + logits[times if self.observe_time else 0, states])

    def chances(self, world: TableWorld, tables: Tables, times: Array, states: Array) -> Array:
        share = ((1 + tables["v_visits"][times, states] / EARLY) ** -1.5)[:, None]
        return (1 - share) * np.exp(self.log_policy(world, tables, times, states)) + share * world.even[states]

    def learn(self, world: TableWorld, tables: Tables, met: Met) -> Losses:
        taken = np.arange(met.actions.size)
        rows = self.log_policy(world, tables, met.times.reshape(-1), met.states.reshape(-1))
        log_ratio = rows[taken, met.actions.reshape(-1)] - world.log_prior[met.states, met.actions].reshape(-1)
        log_ratio = log_ratio.reshape(met.actions.shape)
        advantages, values = soft_advantages(world, tables, met, log_ratio, self.gae_lambda)
        keys = state_keys(world, met.times, met.states).reshape(-1)
        returns = (advantages + values).reshape(-1)
        errors = move_towards(tables["v"], tables["v_mean"], tables["v_visits"], keys, returns)
        shift_level(world, tables, met, errors, ("v", "v_mean"))
        # Under values that are behind, whatever was tried would look good: the actor looks at them as they are now.
        advantages = soft_advantages(world, tables, met, log_ratio, self.gae_lambda)[0].reshape(-1)
        self._ascend(world, tables, met.flat(), advantages / world.temperature)
        return Losses(half_square(errors), -float(advantages.mean()))

    def _ascend(self, world: TableWorld, tables: Tables, met: Met, advantages: Array) -> None:
        """Moves every entry that was taken along its mean advantage (nats)."""
        logits, visits = (tables[name].reshape(-1) for name in ("logits", "visits"))
        weights = np.ones(len(advantages)) if self.observe_time else world.discount**met.ages
        keys = pair_keys(world, met.times * self.observe_time, met.states, met.actions)
        entries, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        visits[entries] += counts
        total = np.bincount(inverse, weights)
        share = np.minimum(SHARE, total * (visits[entries] + DELAY) ** -POWER)
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
