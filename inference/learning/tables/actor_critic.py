"""Soft actor-critic on tables, with exact expectations over actions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cai.inference.learning.tables.exploring import behaviour, first_search, search
from cai.inference.learning.tables.replay import replay
from cai.inference.learning.tables.rules import (
    POWER,
    Array,
    Losses,
    Tables,
    first_critic,
    half_square,
    move_critic,
    normalised,
    relative_entropy,
)
from cai.inference.learning.tables.world import Met, TableWorld

__all__ = ["HIGHEST", "LOWEST", "ActorCriticRule"]

ACTOR_RATE = 0.1  # by how much of the way a visited row of the policy moves to the one that its critic asks for
TEMPERATURE_RATE = 0.05  # nats of log alpha for a nat of distance to the target, each time that is learned
LOWEST, HIGHEST = 1e-4, 1e4  # of a learned temperature


@dataclass(frozen=True)
class ActorCriticRule:
    """Q(s, a) moves towards r + gamma E_pi[Q(s', .) - alpha log pi/p]; the policy towards p exp(Q / alpha).

    The actor's step is the natural gradient of E_pi[Q - alpha log pi/p] in the logits, which points from them straight
    to log p + Q / alpha. A policy that does not observe time moves towards the mean of that over the times at which it
    meets a state, each weighted gamma^t, which is where its exact gradient vanishes.

    Args:
        explore, search: how copies are spread, see `behaviour`.
        observe_time: whether the policy sees t over a finite horizon.
        target_entropy: nats, that of the policy, averaged over the states met; None for a fixed temperature.
        target_kl: nats, the mean KL of the policy from the prior, in place of the entropy; or None.
    """

    explore: float
    search: float
    observe_time: bool = True
    target_entropy: float | None = None
    target_kl: float | None = None
    length: int = 8

    def start(self, world: TableWorld) -> Tables:
        shape = (world.steps, world.num_states, world.num_actions)
        seen = shape if self.observe_time else (1, *shape[1:])
        tables = first_critic(shape) | first_search(world) | {"logits": np.zeros(seen), "rows": np.zeros(seen[:2])}
        return tables | {"log_temperature": np.array([np.log(world.temperature)])}

    def log_policy(self, world: TableWorld, tables: Tables, times: Array, states: Array) -> Array:
        return normalised(world.log_prior[states] + tables["logits"][times if self.observe_time else 0, states])

    log_answer = log_policy

    def chances(self, world: TableWorld, tables: Tables, times: Array, states: Array) -> Array:
        explore, search = (self.explore, self.search) if self.observe_time else (0.0, 0.0)
        return behaviour(self, world, tables, times, states, explore, search)

    def learn(self, world: TableWorld, tables: Tables, met: Met) -> Losses:
        flat = met.flat()
        losses = []
        for now in world.at_times(flat, tables["turn"]):
            losses.append(half_square(self._judge(world, tables, now)))
            if self.observe_time:
                self._improve(world, tables, now)
        if not self.observe_time:  # its gradient weighs states by how often they are met, and when
            self._improve(world, tables, flat)
        self._judge_again(world, tables, met.states.size)
        search(world, tables, met)
        alpha, worth = self.temperature(world, tables), tables["q_mean"][flat.times, flat.states]
        ratio, probs = relative_entropy(world, flat.states, self.log_policy(world, tables, flat.times, flat.states))
        self._adapt(world, tables, flat.states, ratio, probs)
        return Losses(sum(losses) / len(losses), float((probs * (alpha * ratio - worth)).sum() / len(worth)))

    def _judge(self, world: TableWorld, tables: Tables, met: Met) -> Array:
        """Moves Q towards what was met [N]; the errors [N] before."""
        alpha = self.temperature(world, tables)
        following = self.log_policy(world, tables, met.later, met.next_states)
        ratio, probs = relative_entropy(world, met.next_states, following)
        values = (probs * (tables["q"][met.later, met.next_states] - alpha * ratio)).sum(1)
        bonus = (alpha - world.temperature) * world.bonus[met.states]  # of the entropy form, at this temperature
        targets = met.rewards + bonus + world.discount * np.where(met.terminated, 0.0, values)
        return move_critic(world, tables, met, targets)

    def _judge_again(self, world: TableWorld, tables: Tables, steps: int) -> None:
        """Moves Q where it is known what follows to what the present policy makes of that."""
        if world.finite:
            return
        alpha, every = self.temperature(world, tables), np.arange(world.num_states)
        ratio, probs = relative_entropy(world, every, self.log_policy(world, tables, 0 * every, every))
        spent = alpha * (probs * ratio).sum(1)
        bonus = (alpha - world.temperature) * world.bonus

        def values() -> Array:
            found: Array = (probs * tables["q"][0]).sum(1) - spent
            return found

        replay(world, tables, steps, ("q", "q_mean"), values, bonus)

    def _improve(self, world: TableWorld, tables: Tables, met: Met) -> None:
        """Moves the rows that were met, [N], towards what the critic asks for."""
        wanted = tables["q_mean"][met.times, met.states] / self.temperature(world, tables)
        logits, rows = (tables[name].reshape(world.num_states * len(tables[name]), -1) for name in ("logits", "rows"))
        weights = np.ones(len(wanted)) if self.observe_time else world.discount**met.ages
        keys, inverse, counts = np.unique(
            met.times * self.observe_time * world.num_states + met.states, return_inverse=True, return_counts=True
        )
        rows[keys, 0] += counts
        rates = np.full(len(keys), ACTOR_RATE) if self.observe_time else rows[keys, 0] ** -POWER
        total = np.bincount(inverse, weights)
        sums = np.stack([np.bincount(inverse, weights * column) for column in wanted.T], -1)
        share = 1 - (1 - rates) ** total
        logits[keys] += share[:, None] * (sums / np.maximum(total, 1e-300)[:, None] - logits[keys])

    def _adapt(self, world: TableWorld, tables: Tables, states: Array, ratio: Array, probs: Array) -> None:
        """Lets a learned temperature follow its target: colder while the policy is more random than it should be."""
        if self.target_kl is not None:
            excess = self.target_kl - float((probs * ratio).sum() / len(probs))
        elif self.target_entropy is not None:
            logs = np.where(probs > 0, ratio + np.where(probs > 0, world.log_prior[states], 0.0), 0.0)
            excess = -float((probs * logs).sum() / len(probs)) - self.target_entropy
        else:
            return
        moved = tables["log_temperature"] - TEMPERATURE_RATE * excess
        tables["log_temperature"][:] = np.clip(moved, np.log(LOWEST), np.log(HIGHEST))

    def critic(self, world: TableWorld, tables: Tables) -> dict[str, Array]:
        return {"q_values": tables["q_mean"]}

    def temperature(self, world: TableWorld, tables: Tables) -> float:
        return float(np.exp(tables["log_temperature"][0]))

    def at_bound(self, world: TableWorld, tables: Tables) -> bool:
        return tables["log_temperature"][0] in (np.log(LOWEST), np.log(HIGHEST))
