"""Path consistency learning on tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cai.inference.learning.tables.exploring import behaviour, first_search, search
from cai.inference.learning.tables.replay import first_memory, remember, replay
from cai.inference.learning.tables.rules import Array, Losses, Tables, half_square, pair_keys
from cai.inference.learning.tables.world import Met, TableWorld

__all__ = ["PathConsistencyRule"]


@dataclass(frozen=True)
class PathConsistencyRule:
    """Values and policy move so that C = -V(s_0) + gamma^n V(s_n) + sum_i gamma^i (r - alpha log pi/p) vanishes.

    Nachum 2017, equation (14), relative to the action prior, with V and pi of one table Q (there "unified" path
    consistency): V = alpha log sum_a p exp(Q / alpha) and alpha log pi/p = Q - V. So C is the sum of gamma^i C_i, C_i =
    r + gamma V(s_i+1) - Q(s_i, a_i) being that of one step. Steps are set last first, Q(s_i, a_i) by all of C_i: then
    every path within the rollout is consistent, and what its end is worth has come to its beginning. (Tables of V and
    of log pi/p would be moved by C as if it were linear; it is not, and where rewards are many alpha they diverge.)
    Steps of earlier rollouts are remembered, and made consistent again.

    Args:
        path_length: L, the steps of a rollout.
        explore, search: how copies are spread, see `behaviour`.
    """

    path_length: int
    explore: float
    search: float

    @property
    def length(self) -> int:
        return self.path_length

    def start(self, world: TableWorld) -> Tables:
        shape = (world.steps, world.num_states, world.num_actions)
        return {"q": np.zeros(shape), "turn": np.zeros(1)} | first_memory(shape) | first_search(world)

    def log_policy(self, world: TableWorld, tables: Tables, times: Array, states: Array) -> Array:
        return world.soft_values(tables["q"][times, states], states, world.temperature)[1]

    log_answer = log_policy

    def chances(self, world: TableWorld, tables: Tables, times: Array, states: Array) -> Array:
        return behaviour(self, world, tables, times, states, self.explore, self.search)

    def learn(self, world: TableWorld, tables: Tables, met: Met) -> Losses:
        found: list[Array] = []
        for now in world.at_times(met, tables["turn"]):
            # looked at from one time alone, no step begins where another ends
            parts = [Met(*step) for step in zip(*now, strict=True)][::-1] if now is met else [now.flat()]
            found += [self._settle(world, tables, part) for part in parts]
        residuals = np.concatenate(found)
        every = np.arange(world.num_states)
        replay(
            world,
            tables,
            residuals.size,
            ("q",),
            lambda: world.soft_values(tables["q"][0], every, world.temperature)[0],
        )
        search(world, tables, met)
        return Losses(half_square(residuals))

    def _settle(self, world: TableWorld, tables: Tables, met: Met) -> Array:
        """Makes N steps consistent; their C before, [N]."""
        following = tables["q"][met.later, met.next_states]
        values, _ = world.soft_values(following, met.next_states, world.temperature)
        targets = met.rewards + world.discount * np.where(met.terminated, 0.0, values)
        q_values, keys = tables["q"].reshape(-1), pair_keys(world, met.times, met.states, met.actions)
        remember(tables, keys, met)
        residuals = targets - q_values[keys]
        q_values[keys] = targets
        return residuals

    def critic(self, world: TableWorld, tables: Tables) -> dict[str, Array]:
        states = np.tile(np.arange(world.num_states), world.steps)
        values, _ = world.soft_values(tables["q"].reshape(len(states), -1), states, world.temperature)
        return {"values": np.where(world.nonterminal, values.reshape(world.steps, -1), 0.0)}

    def temperature(self, world: TableWorld, tables: Tables) -> float:
        return world.temperature

    def at_bound(self, world: TableWorld, tables: Tables) -> bool:
        return False
