"""Gridworlds drawn as text, among them the bridge on which exact inference is too optimistic."""

from __future__ import annotations

from cai.models.common.checks import as_probability
from cai.models.rewards.goals import Goal
from cai.models.rewards.tables import RewardFactor, StepCost
from cai.models.trajectory.model import TrajectoryModel
from cai.models.zoo.grid_process import Cell, Moves, grid_process, read_map, sideways

__all__ = ["BRIDGE_MAP", "GRID_MAP", "bridge", "gridworld"]

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
    rows = read_map(text, "#.SG~=")
    as_probability(slip, "slip")

    def step(cell: Cell, move: Cell, kind: str) -> Moves:
        return sideways(move, slip if kind in slippery else 0.0)

    regions = {"bridge": "=", "chasm": "~", "goal": "G"}
    mdp = grid_process(rows, step, terminal="G~", regions=regions)
    reward: RewardFactor = StepCost(step_cost)
    if "goal" in mdp.regions:
        reward = reward + Goal("goal", goal_reward)
    if "chasm" in mdp.regions:
        reward = reward + Goal("chasm", fall_reward)
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
