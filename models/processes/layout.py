"""Where the states of a problem lie in the plane, for pictures only."""

from __future__ import annotations

from dataclasses import dataclass

from cai.models.common.storage import storable

__all__ = ["GridLayout"]


@storable("grid-layout")
@dataclass(frozen=True)
class GridLayout:
    """Cells of a grid, and the direction in which each action points.

    Attributes:
        rows: number of rows of the picture.
        columns: number of columns of the picture.
        cells: for every state its (row, column), or None where the state has no place (an added absorbing state).
        arrows: for every action its (row step, column step), or None where the action does not move.
        labels: for every state a short text to print in its cell, "" for none.
    """

    rows: int
    columns: int
    cells: tuple[tuple[int, int] | None, ...]
    arrows: tuple[tuple[int, int] | None, ...]
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for state, cell in enumerate(self.cells):
            if cell is not None and not (0 <= cell[0] < self.rows and 0 <= cell[1] < self.columns):
                raise ValueError(
                    f"layout: state {state} lies at {cell}, outside the {self.rows} x {self.columns} grid; "
                    "cells are (row, column), counted from 0 at the top left"
                )
        if self.labels and len(self.labels) != len(self.cells):
            raise ValueError(f"layout: {len(self.labels)} labels for {len(self.cells)} states; give one each")

    def check(self, num_states: int, num_actions: int) -> None:
        """Raises ValueError unless it is one for a process of that size."""
        if len(self.cells) != num_states:
            raise ValueError(f"layout places {len(self.cells)} states; the process has {num_states}")
        if len(self.arrows) not in (0, num_actions):
            raise ValueError(f"layout holds {len(self.arrows)} arrows for {num_actions} actions; give one each")
