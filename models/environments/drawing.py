"""A state of a process with a layout as an image: its cells, where episodes end, and who is where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cai.models.trajectory.model import TrajectoryModel

__all__ = ["draw_cells"]

SIZE = 32  # pixels of a cell
WALL, FLOOR, LINE = (60, 60, 60), (245, 245, 245), (200, 200, 200)
END, START, AGENT = (230, 159, 0), (190, 220, 240), (0, 90, 180)  # colours that the colour-blind can tell apart


def draw_cells(model: TrajectoryModel) -> Callable[[Any], np.ndarray]:
    """A function from a state's number to an image uint8 [height, width, 3].

    Cells where no state lies are dark; terminal states orange, first states light blue, the present one a blue disc. A
    state without a place in the layout shows no disc.

    Args:
        model: of a process with a layout.
    """
    mdp = model.host.mdp
    layout = mdp.layout
    assert layout is not None
    board = np.full((layout.rows * SIZE, layout.columns * SIZE, 3), WALL, dtype=np.uint8)
    for state, cell in enumerate(layout.cells):
        if cell is None:
            continue
        colour = END if mdp.terminal[state] else START if mdp.initial[state] > 0 else FLOOR
        square = board[cell[0] * SIZE : (cell[0] + 1) * SIZE, cell[1] * SIZE : (cell[1] + 1) * SIZE]
        square[:] = LINE
        square[1:-1, 1:-1] = colour
    across = np.arange(SIZE) - (SIZE - 1) / 2
    disc = across[:, None] ** 2 + across[None, :] ** 2 < (0.35 * SIZE) ** 2

    def draw(state: Any) -> np.ndarray:
        image, cell = board.copy(), layout.cells[int(state)]
        if cell is not None:
            image[cell[0] * SIZE : (cell[0] + 1) * SIZE, cell[1] * SIZE : (cell[1] + 1) * SIZE][disc] = AGENT
        return image

    return draw
