"""What pictures share: colours, axes, maps of numbers by state, and how numbers are written."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from cai.inference.core.status import Target
from cai.models.processes.layout import GridLayout
from cai.models.trajectory.model import TrajectoryModel

__all__ = [
    "FEW_STATES",
    "LUCK_MAP",
    "MASS_MAP",
    "REAL_COLOR",
    "TARGET_COLORS",
    "VALUE_MAP",
    "cell_borders",
    "draw_grid",
    "draw_over_time",
    "grid_size",
    "make_axes",
    "nats_text",
    "spread_out",
    "target_title",
]

# Okabe and Ito's palette, which colour-blind readers tell apart; one colour for each target in every picture.
TARGET_COLORS = {Target.EXACT.value: "#D55E00", Target.FIXED_DYNAMICS.value: "#0072B2", Target.OTHER.value: "#009E73"}
REAL_COLOR = "0.35"
VALUE_MAP, LUCK_MAP, MASS_MAP = "cividis", "magma_r", "viridis"
FEW_STATES = 40  # up to which every state gets its name on an axis


def make_axes(ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """The axes that were given and their figure, or new ones of a size in inches."""
    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    figure: Any = ax.get_figure(root=True)
    return figure, ax


def grid_size(layout: GridLayout) -> tuple[float, float]:
    """Inches for a map with its colour bar."""
    return min(14.0, 0.75 * layout.columns + 1.9), min(10.0, 0.75 * layout.rows + 1.2)


def draw_over_time(ax: Axes, table: Tensor, model: TrajectoryModel, label: str, colors: str) -> None:
    """A table [time, state] with time to the right; -inf is left white."""
    shown = np.ma.masked_invalid(table.numpy().T)
    picture = ax.imshow(shown, aspect="auto", cmap=colors, interpolation="nearest", origin="upper")
    picture.set_extent((0.5, table.shape[0] + 0.5, table.shape[1] - 0.5, -0.5))
    ax.set_xlabel("time t")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set_ylabel("state")
    if model.mdp.num_states <= FEW_STATES:
        names = [model.mdp.state_name(state) for state in range(model.mdp.num_states)]
        ax.set_yticks(range(len(names)), names, fontsize=8 if len(names) <= 12 else 6)
    figure: Any = ax.get_figure(root=True)
    figure.colorbar(picture, ax=ax, label=label)


def draw_grid(
    ax: Axes,
    layout: GridLayout,
    values: Tensor,
    label: str,
    colors: str,
    lowest: float | None = None,
    borders: str = "white",
) -> None:
    """One number for each state in its cell: walls dark, what has no number light, -inf hatched."""
    grid = np.full((layout.rows, layout.columns), np.nan)
    present = np.zeros_like(grid, dtype=bool)
    for state, cell in enumerate(layout.cells):
        if cell is not None:
            grid[cell], present[cell] = float(values[state]), True
    finite = grid[np.isfinite(grid)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    low = low if lowest is None else lowest
    picture = ax.imshow(
        np.ma.masked_invalid(grid), cmap=colors, norm=Normalize(low, high if high > low else low + 1), zorder=1
    )
    for i in range(layout.rows):
        for j in range(layout.columns):
            if present[i, j] and np.isnan(grid[i, j]):
                ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, color="0.9", zorder=1.5))
            elif not present[i, j]:
                ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, color="0.25", zorder=2))
            elif np.isneginf(grid[i, j]):
                ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="xxx", edgecolor="0.5", zorder=2))
    for state, text in enumerate(layout.labels):
        cell = layout.cells[state]
        if text and cell is not None:
            style = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
            ax.text(cell[1] - 0.33, cell[0] - 0.3, text, fontsize=8, ha="center", va="center", bbox=style, zorder=4)
    ax.add_collection(cell_borders(layout.rows, layout.columns, borders), autolim=False)
    ax.set_xticks(range(layout.columns))
    ax.set_yticks(range(layout.rows))
    ax.set_xlabel("column")
    ax.set_ylabel("row")
    figure: Any = ax.get_figure(root=True)
    figure.colorbar(picture, ax=ax, label=label, shrink=0.85)


def cell_borders(rows: int, columns: int, color: str = "white") -> LineCollection:
    """Lines around the cells of a table; one artist, where minor ticks with a grid would make hundreds."""
    lines = [[(x, -0.5), (x, rows - 0.5)] for x in np.arange(-0.5, columns)]
    lines += [[(-0.5, y), (columns - 0.5, y)] for y in np.arange(-0.5, rows)]
    return LineCollection(lines, colors=color, linewidths=1.0, zorder=1.4)


def nats_text(value: float) -> str:
    """A number of nats with two digits, or as a power of ten where that would say 0."""
    return f"{value:.2f}" if value >= 0.005 or value <= 1e-12 else f"{value:.1e}"


def spread_out(figure: Figure) -> None:
    """Room between panels, so that the labels of one are not read as the next one's."""
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.12)


def target_title(backend: str, target: str) -> str:
    """A backend's name, with its target where the two differ."""
    return backend if backend == target else f"{backend} ({target})"
