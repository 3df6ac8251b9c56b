"""Problems in which something is hidden: behind a door, or in a head. Each has a model, and what is seen of it.

    model, seen = tiger(), tiger_observations()
    agent = cai.extract_policy(cai.infer(model, "variational")).filtered(model, seen)
    beliefs = cai.inference.filter_states(model, seen, [None, "growl left"], ["listen"])

The model alone is the problem of someone who sees the state.
"""

from __future__ import annotations

from typing import Literal

import torch

from cai.models.common.checks import as_probability
from cai.models.processes.mdp import MDP
from cai.models.processes.observation import ObservationModel
from cai.models.rewards.goals import Goal
from cai.models.rewards.tables import StepCost, TableReward
from cai.models.trajectory.model import TrajectoryModel
from cai.models.zoo.grid_process import Cell, Moves, grid_process, read_map, sideways

__all__ = ["kitchen", "kitchen_observations", "tiger", "tiger_observations"]

KITCHEN_MAP = """
K.#.F
.....
..S..
"""


def tiger(
    *,
    listen_cost: float = 1.0,
    treasure_reward: float = 10.0,
    tiger_reward: float = -100.0,
    horizon: int | float = 10,
    temperature: float = 1.0,
    discount: float = 1.0,
) -> TrajectoryModel:
    """A tiger waits behind one of two doors, a treasure behind the other; `listen` first, or open one.

    Kaelbling, Littman and Cassandra 1998, "Planning and acting in partially observable stochastic domains", section
    5.1, where the discount is 0.95. Opening a door pays, and puts the tiger behind either door anew. The state is
    hidden: what is heard of it is `tiger_observations()`. The model alone is the problem of someone who sees through
    doors, who never listens.

    Args:
        listen_cost: in reward units.
        treasure_reward: for opening the other door.
        tiger_reward: for opening the tiger's.
        horizon: T.
        temperature: alpha.
        discount: in (0, 1].
    """
    stay, anew = torch.eye(2, dtype=torch.float64), torch.full((2, 2), 0.5, dtype=torch.float64)
    mdp = MDP(
        torch.stack([stay, anew, anew], 1),
        [0.5, 0.5],
        state_names=["tiger left", "tiger right"],
        action_names=["listen", "open left", "open right"],
    )
    table = [[-listen_cost, tiger_reward, treasure_reward], [-listen_cost, treasure_reward, tiger_reward]]
    return TrajectoryModel(mdp, TableReward(table), horizon, temperature, discount, name="tiger")


def tiger_observations(accuracy: float = 0.85) -> ObservationModel:
    """What is heard in `tiger`: after `listen` a growl from the right side with probability `accuracy`.

    After a door was opened either growl is heard evenly, and tells nothing; before the first action nothing is heard.

    Args:
        accuracy: probability that the growl seems to come from where the tiger is.

    Returns:
        [A, S, Z] = [3, 2, 2], with the observations "growl left" and "growl right".
    """
    as_probability(accuracy, "accuracy")
    heard = [[accuracy, 1 - accuracy], [1 - accuracy, accuracy]]
    return ObservationModel([heard, [[0.5, 0.5]] * 2, [[0.5, 0.5]] * 2], ["growl left", "growl right"])


def kitchen(
    slip: float = 0.0,
    *,
    text: str = KITCHEN_MAP,
    kettle_probability: float = 0.5,
    wants: Literal["kettle", "fridge"] | None = None,
    goal_reward: float = 10.0,
    step_cost: float = 1.0,
    horizon: int | float = 8,
    temperature: float = 1.0,
    discount: float = 1.0,
) -> TrajectoryModel:
    """Someone walks to the kettle or to the fridge; which of the two is to be inferred from their steps.

    Goal inference by planning as inference (Baker, Saxe and Tenenbaum 2009, "Action understanding as inverse planning";
    Ziebart et al. 2008, section 5, for destinations of drivers). The state is (intent, cell): the picture shows the
    kitchen twice, on the left of who wants the kettle, on the right of who wants the fridge, and nobody changes from
    one to the other. The wanted place pays and ends the episode; the other one is floor. That somebody who acts well
    (O = 1) took some steps is evidence about the intent:

        known = condition(kitchen(), {"a_1": "left", "a_2": "left"})
        intent = cai.infer(known, "enumeration").state_marginals[0]  # p(s_1 | a_1, a_2, O)

    and `kitchen_observations()` shows the cell without the intent. The steps up to the middle tell nothing.

    Args:
        slip: probability that a move goes to one of its two sides, half each.
        text: the map of one kitchen, of `#`, `.`, `S` (one or several), `K` and `F`.
        kettle_probability: of the intent, beforehand.
        wants: somebody of whom the intent is known, "kettle" or "fridge": states then are the cells of one kitchen,
            alike for both, so that two such models can be told apart by steps (`cai.inverse.goals`).
        goal_reward: paid on reaching the wanted place, in reward units.
        step_cost: charged for each live step.
        horizon: T.
        temperature: alpha; the lower, the more each step tells.
        discount: in (0, 1].

    Returns:
        The model; with `wants` its regions are "kettle" and "fridge", the two cells, of which the wanted one ends the
        episode. Else with the regions "wants kettle" and "wants fridge" (its two halves), "kettle" and "fridge" (the
        terminal cells).
    """
    rows = read_map(text, "#.SKF")
    as_probability(slip, "slip")
    if wants is not None:
        return _of_one(rows, slip, wants, kettle_probability, goal_reward, step_cost, (horizon, temperature, discount))
    as_probability(kettle_probability, "kettle_probability")
    if not {"K", "F"} <= set("".join(rows)):
        raise ValueError("the map lacks a K (kettle) or an F (fridge); someone who wants it could never get it")
    width = len(rows[0])

    def step(cell: Cell, move: Cell, kind: str) -> Moves:
        return sideways(move, slip)

    def ends(cell: Cell, kind: str) -> bool:
        return kind == ("K" if cell[1] < width else "F")

    both = grid_process([f"{row}#{row}" for row in rows], step, terminal=ends)
    assert both.layout is not None  # it is made of a map
    left = torch.tensor([cell is not None and cell[1] < width for cell in both.layout.cells])
    names = []
    for state, here in enumerate(left.tolist()):
        i, j = both.layout.cells[state] or (0, 0)
        names.append(f"kettle: ({i},{j})" if here else f"fridge: ({i},{j - width - 1})")
    mdp = MDP.from_successors(
        both.next_states,
        both.probabilities,
        2 * both.initial * torch.where(left, kettle_probability, 1 - kettle_probability),
        terminal=both.terminal,
        state_names=names,
        action_names=both.action_names,
        layout=both.layout,
        regions={
            "wants kettle": left,
            "wants fridge": ~left,
            "kettle": left & both.terminal,
            "fridge": ~left & both.terminal,
        },
    )
    reward = StepCost(step_cost) + Goal("kettle", goal_reward) + Goal("fridge", goal_reward)
    return TrajectoryModel(mdp, reward, horizon, temperature, discount, name="kitchen")


def _of_one(
    rows: list[str],
    slip: float,
    wants: str,
    kettle_probability: float,
    goal_reward: float,
    step_cost: float,
    numbers: tuple[int | float, float, float],
) -> TrajectoryModel:
    """The kitchen of somebody of whom it is known what they want."""
    if wants not in ("kettle", "fridge"):
        raise ValueError(f"wants is {wants!r}; expected 'kettle' or 'fridge', or None for a hidden intent")
    if kettle_probability != 0.5:
        raise ValueError("kettle_probability is of a hidden intent, and wants says what it is; give one of the two")
    letter = "K" if wants == "kettle" else "F"
    if letter not in "".join(rows):
        raise ValueError(f"the map lacks a {letter} ({wants}); someone who wants it could never get it")

    def step(cell: Cell, move: Cell, kind: str) -> Moves:
        return sideways(move, slip)

    mdp = grid_process(rows, step, terminal=letter, regions={"kettle": "K", "fridge": "F"})
    reward = Goal(wants, goal_reward) + StepCost(step_cost)
    return TrajectoryModel(mdp, reward, *numbers, name=f"kitchen, {wants}")


def kitchen_observations(text: str = KITCHEN_MAP) -> ObservationModel:
    """What an onlooker sees in `kitchen`: the cell, and not the intent.

    Args:
        text: the map that the model was made of.

    Returns:
        [S, Z], each row certain, with cells such as "(2,2)" as observations.
    """
    rows = read_map(text, "#.SKF")
    cells = [(i, j) for i, row in enumerate(rows) for j, kind in enumerate(row) if kind != "#"]
    index = {cell: number for number, cell in enumerate(cells)}
    double = [(i, j) for i, row in enumerate(rows) for j, kind in enumerate(f"{row}#{row}") if kind != "#"]
    seen = torch.zeros(len(double), len(cells), dtype=torch.float64)
    for state, (i, j) in enumerate(double):
        seen[state, index[i, j % (len(rows[0]) + 1)]] = 1.0
    return ObservationModel(seen, [f"({i},{j})" for i, j in cells])
