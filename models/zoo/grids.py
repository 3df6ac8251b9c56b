"""Gridworlds of the literature: wind, a cliff, four rooms and a maze."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Literal

from cai.models.common.checks import as_probability
from cai.models.rewards.goals import Goal
from cai.models.rewards.tables import RewardFactor, StepCost
from cai.models.trajectory.model import TrajectoryModel
from cai.models.zoo.grid_process import KING_MOVES, MOVES, Cell, Moves, grid_process, read_map, sideways
from cai.models.zoo.gridworld import gridworld

__all__ = ["cliff", "four_rooms", "maze", "windy"]

WINDY_MAP = """
..........
..........
..........
S......G..
..........
..........
..........
"""
WIND = (0, 0, 0, 1, 1, 1, 2, 2, 1, 0)

CLIFF_MAP = """
............
............
............
S~~~~~~~~~~G
"""

ROOMS_MAP = """
S....#.....
.....#.....
...........
.....#.....
.....#.....
#.####.....
.....###G##
.....#.....
.....#.....
...........
.....#.....
"""

MAZE_MAP = """
.......#G
..#....#.
S.#....#.
..#......
.....#...
.........
"""


def windy(
    slip: float = 0.0,
    *,
    text: str = WINDY_MAP,
    wind: Sequence[int] = WIND,
    moves: Literal["four", "king"] = "four",
    goal_reward: float = 20.0,
    step_cost: float = 1.0,
    horizon: int | float = 25,
    temperature: float = 1.0,
    discount: float = 1.0,
) -> TrajectoryModel:
    """A grid with a wind that blows upwards in some columns, by which every move from there is carried on.

    Sutton and Barto 2018, "Reinforcement Learning", example 6.5; its exercises 6.9 (king's moves) and 6.10 (where
    there is wind it blows one cell more or less in a third of the cases each: slip=2/3). They pay -1 a step and
    nothing at the goal: goal_reward=0. The shortest way takes 15 steps, with king's moves 7.

    Args:
        slip: probability that the wind, where there is any, blows one cell more or less, half each.
        text: the map, of `#`, `.`, `S` and `G`.
        wind: for each column, how many cells upwards a move from there is carried.
        moves: "four" directions or the eight of a "king".
        goal_reward: paid on reaching the goal, in reward units.
        step_cost: charged for each live step.
        horizon: T.
        temperature: alpha.
        discount: in (0, 1].
    """
    rows = read_map(text, "#.SG")
    as_probability(slip, "slip")
    if moves not in ("four", "king"):
        raise ValueError(f"moves is {moves!r}; expected 'four' or 'king'")
    if len(wind) != len(rows[0]):
        raise ValueError(f"wind has {len(wind)} numbers, and the map {len(rows[0])} columns; give one for each")
    if any(isinstance(blows, bool) or not isinstance(blows, numbers.Integral) for blows in wind):
        raise ValueError(f"wind is {list(wind)}; give whole numbers of cells, negative where it blows downwards")
    height = len(rows)

    def step(cell: Cell, move: Cell, kind: str) -> Moves:
        blows = wind[cell[1]]
        gusts = ((blows, 1 - slip), (blows + 1, slip / 2), (blows - 1, slip / 2)) if blows else ((0, 1.0),)
        right = move[1] if 0 <= cell[1] + move[1] < len(wind) else 0  # at a border the other half of the move counts
        steps = []
        for gust, chance in gusts:
            row = min(max(cell[0] + move[0] - gust, 0), height - 1)
            steps.append(((row - cell[0], right), chance))
        return steps

    mdp = grid_process(rows, step, moves=MOVES if moves == "four" else KING_MOVES, terminal="G", regions={"goal": "G"})
    reward = StepCost(step_cost) + Goal("goal", goal_reward)
    return TrajectoryModel(mdp, reward, horizon, temperature, discount, name="windy")


def cliff(
    slip: float = 0.1,
    *,
    text: str = CLIFF_MAP,
    goal_reward: float = 20.0,
    fall_reward: float = -100.0,
    step_cost: float = 1.0,
    horizon: int | float = 30,
    temperature: float = 1.0,
    discount: float = 1.0,
) -> TrajectoryModel:
    """The shortest way runs along a cliff; a fall costs 100 and leads back to the start.

    Sutton and Barto 2018, "Reinforcement Learning", example 6.6, with moves that may slip: there they do not (slip=0),
    and the goal pays nothing (goal_reward=0), so that the way along the edge returns -13. The cliff's cells are states
    here, from which every action leads to the start, so that falls can be counted. Exact inference walks along the edge
    whatever the slip; with the dynamics fixed the plan keeps its distance.

    Args:
        slip: probability that a move goes to one of its two sides, half each.
        text: the map, of `#`, `.`, `S` (one), `G` and `~` (the cliff).
        goal_reward: paid on reaching the goal, in reward units.
        fall_reward: paid on falling off the cliff; -inf forbids it.
        step_cost: charged for each live step, the one back to the start among them.
        horizon: T.
        temperature: alpha.
        discount: in (0, 1].
    """
    rows = read_map(text, "#.SG~")
    as_probability(slip, "slip")
    starts = [(i, j) for i, row in enumerate(rows) for j, kind in enumerate(row) if kind == "S"]
    if len(starts) > 1:
        raise ValueError(f"the map has {len(starts)} starts; mark one cell S, to which a fall leads back")
    mdp = grid_process(
        rows,
        lambda cell, move, kind: sideways(move, slip),
        terminal="G",
        jumps={"~": starts[0]},
        regions={"cliff": "~", "goal": "G"},
    )
    reward: RewardFactor = StepCost(step_cost)
    for region, value in (("goal", goal_reward), ("cliff", fall_reward)):
        reward = reward + Goal(region, value) if region in mdp.regions else reward
    return TrajectoryModel(mdp, reward, horizon, temperature, discount, name="cliff")


def four_rooms(
    slip: float = 1 / 3,
    *,
    text: str = ROOMS_MAP,
    goal_reward: float = 20.0,
    step_cost: float = 1.0,
    horizon: int | float = 40,
    temperature: float = 1.0,
    discount: float = 1.0,
) -> TrajectoryModel:
    """Four rooms that are joined by four doors; the goal is the eastern door.

    Sutton, Precup and Singh 1999, "Between MDPs and semi-MDPs": 104 cells, and a move goes to one of the
    three other directions with probability 1/3, evenly. They pay 1 at the goal, no cost, and discount by 0.9.

    Args:
        slip: probability that a move goes in one of the three other directions, a third of it each.
        text: the map, of `#`, `.`, `S` and `G`.
        goal_reward: paid on reaching the goal, in reward units.
        step_cost: charged for each live step.
        horizon: T.
        temperature: alpha.
        discount: in (0, 1].
    """
    rows = read_map(text, "#.SG")
    as_probability(slip, "slip")

    def step(cell: Cell, move: Cell, kind: str) -> Moves:
        return [(other, 1 - slip if other == move else slip / 3) for other in MOVES.values()]

    mdp = grid_process(rows, step, terminal="G", regions={"goal": "G"})
    reward = StepCost(step_cost) + Goal("goal", goal_reward)
    return TrajectoryModel(mdp, reward, horizon, temperature, discount, name="four-rooms")


def maze(
    slip: float = 0.0,
    *,
    text: str = MAZE_MAP,
    goal_reward: float = 20.0,
    step_cost: float = 1.0,
    horizon: int | float = 25,
    temperature: float = 1.0,
    discount: float = 1.0,
) -> TrajectoryModel:
    """A maze of 47 cells whose shortest way takes 14 steps.

    The Dyna maze of Sutton and Barto 2018, "Reinforcement Learning", example 8.1 (Sutton 1990), where moves do not
    slip, the goal pays 1, steps cost nothing, and the discount is 0.95.

    Args:
        slip: probability that a move goes to one of its two sides, half each.
        text: the map, as in `gridworld`.
        goal_reward: paid on reaching the goal, in reward units.
        step_cost: charged for each live step.
        horizon: T.
        temperature: alpha.
        discount: in (0, 1].
    """
    return gridworld(
        text,
        slip,
        goal_reward=goal_reward,
        step_cost=step_cost,
        slippery=".SG=",
        horizon=horizon,
        temperature=temperature,
        discount=discount,
        name="maze",
    )
