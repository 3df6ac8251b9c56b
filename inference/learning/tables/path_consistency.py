"""Path consistency learning on tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cai.inference.learning.tables.exploring import behaviour, first_search, search
from cai.inference.learning.tables.rules import (
    Array,
    Losses,
    Tables,
    half_square,
    normalised,
    shift_level,
    state_keys,
)
from cai.inference.learning.tables.world import Met, TableWorld

__all__ = ["PathConsistencyRule"]


@dataclass(frozen=True)
class PathConsistencyRule:
    """Values and policy move so that C = -V(s_0) + gamma^n V(s_n) + sum_i gamma^i (r - alpha log pi/p) vanishes.

    Nachum 2017, equation (14), relative to the action prior. Every step of a rollout begins a path, which ends after
    `path_length` steps, at the end of the episode or at that of the rollout. All C of a rollout are lowered at once:
    each is divided by the sum of the sizes of its derivatives, and what an entry is moved by all paths together by the
    sum of the sizes of its own (simultaneous iterative reconstruction), which settles however paths overlap.

    Args:
        path_length: the most steps of a path.
        explore, search: how copies are spread, see `behaviour`.
        length: L.
    """

    path_length: int
    explore: float
    search: float
    length: int = 32
    sweeps: int = 8

    def start(self, world: TableWorld) -> Tables:
        shape = (world.steps, world.num_states, world.num_actions)
        return {"v": np.zeros(shape[:2]), "logits": np.zeros(shape), "level": np.zeros(2)} | first_search(world)

    def log_policy(self, world: TableWorld, tables: Tables, times: Array, states: Array) -> Array:
        return normalised(world.log_prior[states] + tables["logits"][times, states])

    log_answer = log_policy

    def chances(self, world: TableWorld, tables: Tables, times: Array, states: Array) -> Array:
        return behaviour(self, world, tables, times, states, self.explore, self.search)

    def learn(self, world: TableWorld, tables: Tables, met: Met) -> Losses:
        losses = [self._sweep(world, tables, met) for _ in range(self.sweeps)]
        search(world, tables, met)
        return Losses(losses[0])

    def _sweep(self, world: TableWorld, tables: Tables, met: Met) -> float:
        alpha, length, shape = world.temperature, len(met.states), met.states.shape
        flat = met.flat()
        log_policy = self.log_policy(world, tables, flat.times, flat.states)
        taken = np.arange(flat.actions.size), flat.actions
        ratio = (log_policy[taken] - world.log_prior[flat.states, flat.actions]).reshape(shape)
        probs = np.exp(log_policy)
        others = 1 - probs[taken].reshape(shape)  # sum of the sizes of the derivatives of log pi(a|s), halved
        earned = met.rewards / alpha - ratio
        values = tables["v"][met.times, met.states] / alpha
        following = np.where(met.terminated, 0.0, tables["v"][met.later, met.next_states]) / alpha
        stops = met.terminated | met.cut

        # residuals and sizes of all paths, by how many steps they have had so far
        residual, size = -values, np.ones(shape)
        going, weight = np.ones(shape, dtype=bool), 1.0
        ends = np.zeros(shape, dtype=np.int64)
        at = np.arange(length)[:, None] + np.zeros(shape, dtype=np.int64)
        columns = np.arange(shape[1])[None] + np.zeros(shape, dtype=np.int64)
        tails = np.zeros(shape)
        for offset in range(self.path_length):
            row = np.minimum(at + offset, length - 1)
            here = (row, columns)
            residual = residual + np.where(going, weight * earned[here], 0.0)
            size = size + np.where(going, 2 * weight * others[here], 0.0)
            weight *= world.discount
            last = going & (stops[here] | (row == length - 1) | (offset == self.path_length - 1))
            residual = residual + np.where(last, weight * following[here], 0.0)
            tails = np.where(last, np.where(met.terminated[here], 0.0, weight), tails)
            ends = np.where(last, row, ends)
            going = going & ~last
        size = size + tails
        pushed = residual / size

        # what each step, and each end, of a path is moved by
        pushes, sizes, going, weight = np.zeros(shape), np.zeros(shape), np.ones(shape, dtype=bool), 1.0
        for offset in range(self.path_length):
            row = at + offset
            inside = going & (row <= ends)
            where = row[inside], columns[inside]
            pushes[where] += weight * pushed[inside]
            sizes[where] += weight
            weight *= world.discount
        moves, total = np.zeros(tables["v"].size), np.full(tables["v"].size, 1e-300)
        begin = state_keys(world, flat.times, flat.states)
        np.add.at(moves, begin, pushed.reshape(-1))
        np.add.at(total, begin, 1.0)
        end = state_keys(world, met.later, met.next_states)[ends, columns].reshape(-1)
        np.add.at(moves, end, -(tails * pushed).reshape(-1))
        np.add.at(total, end, tails.reshape(-1))
        tables["v"] += alpha * (moves / total).reshape(tables["v"].shape)

        slopes = -probs
        slopes[taken] += 1
        logits = tables["logits"].reshape(-1, world.num_actions)
        moves, totals = np.zeros_like(logits), np.full_like(logits, 1e-300)
        np.add.at(moves, begin, pushes.reshape(-1, 1) * slopes)
        np.add.at(totals, begin, sizes.reshape(-1, 1) * np.abs(slopes))
        logits += moves / totals
        errors = alpha * residual.reshape(-1)
        shift_level(world, tables, flat, errors, ("v",))
        return half_square(errors)

    def critic(self, world: TableWorld, tables: Tables) -> dict[str, Array]:
        return {"values": tables["v"]}

    def temperature(self, world: TableWorld, tables: Tables) -> float:
        return world.temperature

    def at_bound(self, world: TableWorld, tables: Tables) -> bool:
        return False
