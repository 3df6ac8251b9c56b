"""Soft Q-learning on tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cai.inference.learning.tables.exploring import behaviour, first_search, search
from cai.inference.learning.tables.replay import replay
from cai.inference.learning.tables.rules import (
    Array,
    Losses,
    Tables,
    first_critic,
    half_square,
    move_critic,
)
from cai.inference.learning.tables.world import Met, TableWorld

__all__ = ["SoftQRule"]


@dataclass(frozen=True)
class SoftQRule:
    """Q(s, a) moves towards r + gamma V(s'), V(s) = alpha log sum_a p(a|s) exp(Q(s, a) / alpha).

    Args:
        explore, search: how copies are spread, see `behaviour`.
    """

    explore: float
    search: float
    length: int = 8

    def start(self, world: TableWorld) -> Tables:
        shape = (world.steps, world.num_states, world.num_actions)
        return first_critic(shape) | first_search(world)

    def log_policy(self, world: TableWorld, tables: Tables, times: Array, states: Array) -> Array:
        return world.soft_values(tables["q_mean"][times, states], states, world.temperature)[1]

    log_answer = log_policy

    def chances(self, world: TableWorld, tables: Tables, times: Array, states: Array) -> Array:
        return behaviour(self, world, tables, times, states, self.explore, self.search)

    def learn(self, world: TableWorld, tables: Tables, met: Met) -> Losses:
        losses = [half_square(self._back_up(world, tables, now)) for now in world.at_times(met.flat(), tables["turn"])]
        replay(world, tables, met.states.size, ("q", "q_mean"), lambda: self._values(world, tables))
        search(world, tables, met)
        return Losses(sum(losses) / len(losses))

    def _back_up(self, world: TableWorld, tables: Tables, met: Met) -> Array:
        """Moves Q towards what was met [N]; the errors [N] before."""
        values, _ = world.soft_values(tables["q"][met.later, met.next_states], met.next_states, world.temperature)
        targets = met.rewards + world.discount * np.where(met.terminated, 0.0, values)
        return move_critic(world, tables, met, targets)

    def _values(self, world: TableWorld, tables: Tables) -> Array:
        """[S], V of all states where there is no time."""
        return world.soft_values(tables["q"][0], np.arange(world.num_states), world.temperature)[0]

    def critic(self, world: TableWorld, tables: Tables) -> dict[str, Array]:
        return {"q_values": tables["q_mean"]}

    def temperature(self, world: TableWorld, tables: Tables) -> float:
        return world.temperature

    def at_bound(self, world: TableWorld, tables: Tables) -> bool:
        return False
