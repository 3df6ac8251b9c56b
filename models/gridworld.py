"""Gridworlds drawn as text, among them the bridge on which exact inference is too optimistic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from cai.models.layout import GridLayout
from cai.models.mdp import MDP
from cai.models.reward_factors import Goal
from cai.models.rewards import RewardFactor, StepCost
from cai.models.trajectory import TrajectoryModel

__all__ = ["BRIDGE_MAP", "GRID_MAP", "bridge", "gridworld"]

MOVES = {"up": (-1, 0), "right": (0, 1), "down": (1, 0), "left": (0, -1)}

BRIDGE_MAP = """
#.....#
#.~~~.#
S.===.G
#.~~~.#
"""


GRID_MAP = """
S..#...
.#.#.#.
.#...#.
.####~.
......G
"""


def gridworld(
    text: str = GRID_MAP,
    slip: float = 0.1,
    *,
    goal_reward: float = 20.0,
    fall_reward: float = -20.0,
    step_cost: float = 1.0,
    slippery: str = "S.=G",
    horizon: int | float = 20,
    temperature: float = 1.0,
    discount: float = 1.0,
    name: str = "gridworld",
) -> TrajectoryModel:
    """A gridworld from a map of characters.

    `#` wall, `.` floor, `S` start (several share the start evenly), `G` goal (terminal), `~` chasm (terminal),
    `=` bridge, a floor of its own name. Four actions (up, right, down, left) move one cell; into a wall or over the
    edge they stay. On a slippery cell the move goes to one of the two sides instead with probability `slip`, half
    each.

    Args:
        text: the map; leading and trailing blank lines are dropped, and all rows are equally long.
        slip: probability of moving sideways, 0 to 1.
        goal_reward: paid on entering a goal, in reward units.
        fall_reward: paid on entering the chasm; -inf forbids it.
        step_cost: charged for each live step.
        slippery: the characters of the cells on which moves slip.
        horizon: T.
        temperature: alpha, in reward units per nat.
        discount: in (0, 1].
        name: for tables and pictures.

    Returns:
        The trajectory model; its process has the regions "goal", "chasm" and "bridge" that the map shows.

    Raises:
        ValueError: if the map is empty, ragged, holds unknown characters or no start, or slip is no probability.
    """
    rows = _rows(text)
    if not 0 <= slip <= 1:
        raise ValueError(f"slip is {slip}; it is a probability: give a number from 0 to 1")
    cells = [(i, j) for i, row in enumerate(rows) for j, char in enumerate(row) if char != "#"]
    index = {cell: state for state, cell in enumerate(cells)}
    kinds = [rows[i][j] for i, j in cells]
    terminal = [kind in "G~" for kind in kinds]
    starts = [kind == "S" for kind in kinds]
    names = [
        f"{_KIND[kind]}({i},{j})" if kind != "." else f"({i},{j})" for (i, j), kind in zip(cells, kinds, strict=True)
    ]
    next_states, probabilities = [], []
    for state, cell in enumerate(cells):
        slips = slip if kinds[state] in slippery else 0.0
        outcomes = [_outcomes(cell, move, slips, index, terminal[state]) for move in MOVES.values()]
        next_states.append([list(outcome) for outcome in outcomes])
        probabilities.append([list(outcome.values()) for outcome in outcomes])
    regions = {
        what: [kind == char for kind in kinds]
        for what, char in (("bridge", "="), ("chasm", "~"), ("goal", "G"))
        if char in kinds
    }
    mdp = MDP.from_successors(
        next_states,
        probabilities,
        torch.tensor(starts, dtype=torch.float64) / sum(starts),
        terminal=terminal,
        state_names=names,
        action_names=list(MOVES),
        layout=GridLayout(
            len(rows), len(rows[0]), tuple(cells), tuple(MOVES.values()), tuple(k if k != "." else "" for k in kinds)
        ),
        regions=regions,
    )
    reward: RewardFactor = StepCost(step_cost)
    if "G" in kinds:
        reward = reward + Goal(regions["goal"], goal_reward)
    if "~" in kinds:
        reward = reward + Goal(regions["chasm"], fall_reward)
    return TrajectoryModel(mdp, reward, horizon, temperature, discount, name=name)


def bridge(
    slip: float = 0.2,
    *,
    text: str = BRIDGE_MAP,
    goal_reward: float = 10.0,
    fall_reward: float = -20.0,
    step_cost: float = 1.0,
    horizon: int | float = 20,
    temperature: float = 1.0,
    discount: float = 1.0,
) -> TrajectoryModel:
    """A short slippery bridge over a chasm against a long safe way round: the optimism problem as a map.

    Only the bridge is slippery. Exact inference believes that the moves on it will go well (Levine 2018,
    section 2.3) and crosses; with the dynamics fixed (section 3.1) the way round is worth its length. With a uniform
    action prior its belief does not even change with the slip: slipping sideways is as good as having chosen so, and a
    move towards the chasm may "slip" ahead.

    Args:
        slip: probability of slipping off sideways on a cell of the bridge.
        text: another map, as in `gridworld`.
        goal_reward: paid on entering the goal.
        fall_reward: paid on entering the chasm.
        step_cost: charged for each live step.
        horizon: T.
        temperature: alpha.
        discount: in (0, 1].
    """
    return gridworld(
        text,
        slip,
        goal_reward=goal_reward,
        fall_reward=fall_reward,
        step_cost=step_cost,
        slippery="=",
        horizon=horizon,
        temperature=temperature,
        discount=discount,
        name="bridge",
    )


_KIND: Mapping[str, str] = {"S": "start", "G": "goal", "~": "chasm", "=": "bridge", ".": ""}


def _rows(text: Any) -> list[str]:
    if not isinstance(text, str) or not text.strip():
        raise ValueError("the map is empty; draw it with # . S G ~ = characters, one row a line")
    rows = [line.strip() for line in text.strip().splitlines()]
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise ValueError(f"the rows of the map are {sorted(widths)} characters long; make them equally long")
    unknown = sorted(set("".join(rows)) - set(_KIND) - {"#"})
    if unknown:
        raise ValueError(f"the map holds {unknown[0]!r}; known characters are # . S G ~ =")
    if "S" not in "".join(rows):
        raise ValueError("the map has no start; mark at least one cell S")
    return rows


def _outcomes(
    cell: tuple[int, int], move: tuple[int, int], slip: float, index: Mapping[tuple[int, int], int], ends: bool
) -> dict[int, float]:
    """Next state -> probability, equal next states added up."""
    if ends:
        return {index[cell]: 1.0}
    down, right = move
    result: dict[int, float] = {}
    for step, probability in (((down, right), 1 - slip), ((right, down), slip / 2), ((-right, -down), slip / 2)):
        target = index.get((cell[0] + step[0], cell[1] + step[1]), index[cell])
        if probability > 0:
            result[target] = math.fsum((result.get(target, 0.0), probability))
    return result
