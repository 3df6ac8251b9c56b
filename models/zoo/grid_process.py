"""Processes on maps of characters: where a move leads on a grid, and what the cells are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from cai.models.processes.layout import GridLayout
from cai.models.processes.mdp import MDP

__all__ = ["KINDS", "KING_MOVES", "MOVES", "Cell", "Moves", "grid_process", "read_map", "sideways"]

Cell = tuple[int, int]
"""(row, column), from the top left; or a step of so many rows and columns."""
Moves = Sequence[tuple[Cell, float]]
"""(step, probability), in any order."""

MOVES: Mapping[str, Cell] = {"up": (-1, 0), "right": (0, 1), "down": (1, 0), "left": (0, -1)}
KING_MOVES: Mapping[str, Cell] = {
    "up": (-1, 0),
    "up right": (-1, 1),
    "right": (0, 1),
    "down right": (1, 1),
    "down": (1, 0),
    "down left": (1, -1),
    "left": (0, -1),
    "up left": (-1, -1),
}
KINDS: Mapping[str, str] = {
    "S": "start",
    "G": "goal",
    "~": "chasm",
    "=": "bridge",
    ".": "",
    "K": "kettle",
    "F": "fridge",
}
"""What the characters of a map mean, for the names of states."""


def read_map(text: Any, known: str) -> list[str]:
    """The rows of a map.

    Args:
        text: leading and trailing blank lines are dropped, and all rows are equally long.
        known: the characters that it may hold.

    Raises:
        ValueError: if the map is empty, ragged, holds unknown characters or no start.
    """
    characters = " ".join(known)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"the map is empty; draw it with {characters} characters, one row a line")
    rows = [line.strip() for line in text.strip().splitlines()]
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise ValueError(f"the rows of the map are {sorted(widths)} characters long; make them equally long")
    unknown = sorted(set("".join(rows)) - set(known))
    if unknown:
        raise ValueError(f"the map holds {unknown[0]!r}; known characters are {characters}")
    if "S" not in "".join(rows):
        raise ValueError("the map has no start; mark at least one cell S")
    return rows


def sideways(move: Cell, slip: float) -> Moves:
    """A move of one cell that goes to one of the two sides instead with probability `slip`, half each."""
    down, right = move
    return [((down, right), 1 - slip), ((right, down), slip / 2), ((-right, -down), slip / 2)]


def grid_process(
    rows: Sequence[str],
    step: Callable[[Cell, Cell, str], Moves],
    *,
    moves: Mapping[str, Cell] = MOVES,
    terminal: str | Callable[[Cell, str], bool] = "G",
    jumps: Mapping[str, Cell] | None = None,
    regions: Mapping[str, str] | None = None,
) -> MDP:
    """A process whose states are the cells of a map that are no wall (`#`).

    A step over the edge or into a wall stays where it is.

    Args:
        rows: of the map. Cells marked S share the start evenly.
        step: of (cell, move, character of the cell), where the move may lead, as steps and their probabilities.
        moves: the actions, by name, as steps.
        terminal: the characters of the cells that end the episode, or whether one does by (cell, character).
        jumps: for some characters, the cell that every action leads to from there.
        regions: name -> characters, for `MDP.regions`; left out where the map has none.
    """
    cells = [(i, j) for i, row in enumerate(rows) for j, kind in enumerate(row) if kind != "#"]
    index = {cell: state for state, cell in enumerate(cells)}
    kinds = [rows[i][j] for i, j in cells]
    if callable(terminal):
        ends = [terminal(cell, kind) for cell, kind in zip(cells, kinds, strict=True)]
    else:
        ends = [kind in terminal for kind in kinds]
    next_states, probabilities = [], []
    for state, (cell, kind) in enumerate(zip(cells, kinds, strict=True)):
        outcomes: list[dict[int, float]] = []
        for move in moves.values():
            if ends[state]:
                outcomes.append({state: 1.0})
            elif jumps and kind in jumps:
                outcomes.append({index[jumps[kind]]: 1.0})
            else:
                outcomes.append(_land(cell, step(cell, move, kind), index))
        next_states.append([list(outcome) for outcome in outcomes])
        probabilities.append([list(outcome.values()) for outcome in outcomes])
    starts = [kind == "S" for kind in kinds]
    named = {key: [kind in wanted for kind in kinds] for key, wanted in (regions or {}).items()}
    return MDP.from_successors(
        next_states,
        probabilities,
        torch.tensor(starts, dtype=torch.float64) / sum(starts),
        terminal=ends,
        state_names=[f"{KINDS[kind]}({i},{j})" for (i, j), kind in zip(cells, kinds, strict=True)],
        action_names=list(moves),
        layout=GridLayout(
            len(rows),
            len(rows[0]),
            tuple(cells),
            tuple(moves.values()),
            tuple(kind if kind != "." else "" for kind in kinds),
        ),
        regions={key: mask for key, mask in named.items() if any(mask)},
    )


def _land(cell: Cell, steps: Moves, index: Mapping[Cell, int]) -> dict[int, float]:
    """Next state -> probability, equal next states added up."""
    result: dict[int, float] = {}
    for (down, right), probability in steps:
        target = index.get((cell[0] + down, cell[1] + right), index[cell])
        if probability > 0:
            result[target] = math.fsum((result.get(target, 0.0), probability))
    return result
