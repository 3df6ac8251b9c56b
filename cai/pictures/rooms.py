"""Maps that show a process more than once: a room for each thing that its states know besides the place."""

from __future__ import annotations

import dataclasses

import torch

from cai.models.common.names import did_you_mean
from cai.models.processes.layout import GridLayout
from cai.models.processes.mdp import MDP

__all__ = ["one_room", "rooms_of", "walls_between"]

Line = list[tuple[float, float]]


def rooms_of(mdp: MDP) -> dict[str, list[int]]:
    """Name of a room -> its states, by what stands before the colon in the names of states: "kettle: (0,1)".

    None where there is no map, or names have no colon.
    """
    rooms: dict[str, list[int]] = {}
    for state, cell in enumerate(mdp.layout.cells if mdp.layout is not None else ()):
        room, colon, _ = mdp.state_name(state).partition(": ")
        if cell is not None and colon:
            rooms.setdefault(room, []).append(state)
    return rooms


def one_room(mdp: MDP, room: str | None) -> GridLayout | None:
    """The map of a process, or the part of it that shows one room.

    Raises:
        ValueError: if there is no room of that name.
    """
    layout = mdp.layout
    if room is None:
        return layout
    rooms = rooms_of(mdp)
    if room not in rooms or layout is None:
        known = f"; its rooms are {', '.join(rooms)}" if rooms else ", whose map has no rooms"
        raise ValueError(f"no room is called {room!r}{did_you_mean(room, rooms)} in this problem{known}")
    shown = set(rooms[room])
    places = [cell for state, cell in enumerate(layout.cells) if cell is not None and state in shown]
    top, left = min(row for row, _ in places), min(column for _, column in places)
    cells = [
        (cell[0] - top, cell[1] - left) if cell is not None and state in shown else None
        for state, cell in enumerate(layout.cells)
    ]
    rows, columns = max(row for row, _ in places) - top + 1, max(column for _, column in places) - left + 1
    return dataclasses.replace(layout, rows=rows, columns=columns, cells=tuple(cells))


def walls_between(mdp: MDP, layout: GridLayout) -> list[Line]:
    """Borders of nonterminal neighbours of which each stays where it is by the action that points at the other one."""
    steps = {step: action for action, step in enumerate(layout.arrows) if step is not None}
    states = {cell: state for state, cell in enumerate(layout.cells) if cell is not None}
    if len(states) < sum(cell is not None for cell in layout.cells):
        return []  # places that several states share have no one border
    following = mdp.successors().expand_as(mdp.probabilities)
    staying = torch.where(following == torch.arange(mdp.num_states)[:, None, None], mdp.probabilities, 0.0).sum(-1) == 1
    held, nonterminal = staying.tolist(), (~mdp.terminal).tolist()
    lines: list[Line] = []
    for (row, column), state in states.items():
        for down, right in ((0, 1), (1, 0)):
            other = states.get((row + down, column + right))
            ahead, back = steps.get((down, right)), steps.get((-down, -right))
            if other is None or ahead is None or back is None or not (nonterminal[state] and nonterminal[other]):
                continue
            if held[state][ahead] and held[other][back]:
                x, y = column + right / 2, row + down / 2
                lines.append([(x - down / 2, y - right / 2), (x + down / 2, y + right / 2)])
    return lines
