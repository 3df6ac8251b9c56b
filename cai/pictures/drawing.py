"""What pictures share: colours, axes, maps of numbers by state, and how numbers are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection, PolyCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from cai.inference.core.status import Target
from cai.models.processes.layout import GridLayout
from cai.models.processes.mdp import MDP
from cai.models.trajectory.model import TrajectoryModel
from cai.pictures.rooms import rooms_of, walls_between

__all__ = [
    "FEW_STATES",
    "LUCK_MAP",
    "MASS_MAP",
    "REAL_COLOR",
    "TARGET_COLORS",
    "VALUE_MAP",
    "cell_borders",
    "check_limits",
    "draw_grid",
    "draw_over_time",
    "grid_size",
    "label_legend",
    "make_axes",
    "nats_text",
    "share_scale",
    "spread_out",
    "target_title",
]

# Okabe and Ito's palette, which colour-blind readers tell apart; one colour for each target in every picture.
TARGET_COLORS = {Target.EXACT.value: "#D55E00", Target.FIXED_DYNAMICS.value: "#0072B2", Target.OTHER.value: "#009E73"}
REAL_COLOR = "0.35"
VALUE_MAP, LUCK_MAP, MASS_MAP = "cividis", "magma_r", "viridis"
FEW_CELLS = 16  # up to which a table says its numbers
FEW_STATES = 40  # up to which every state gets its name on an axis


def make_axes(ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """The axes that were given and their figure, or new ones of a size in inches."""
    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    figure: Any = ax.get_figure(root=True)
    return figure, ax


def grid_size(layout: GridLayout) -> tuple[float, float]:
    """Inches for a map with its colour bar, two lines of title and two under it."""
    return min(14.0, 0.75 * layout.columns + 1.9), min(10.0, 0.75 * layout.rows + 1.6)


def check_limits(limits: Sequence[float] | None) -> tuple[float, float] | None:
    """The ends of a colour scale, unless none are given.

    Raises:
        ValueError: unless they are two finite numbers, the lower one first.
    """
    if limits is None:
        return None
    ends = [float(end) for end in limits]
    if len(ends) != 2 or not all(np.isfinite(ends)) or not ends[0] < ends[1]:
        raise ValueError(
            f"limits are {limits!r}; give two finite numbers, the lower one first, or None for the data's own"
        )
    return ends[0], ends[1]


def share_scale(*axes: Axes | Iterable[Axes]) -> tuple[float, float]:
    """One colour scale for maps that are read side by side: from the lowest of all their numbers to the highest.

    Args:
        axes: that hold maps (of `plot_values`, `plot_luck`, `plot_map`, `imshow`), one by one or in lists and arrays.

    Returns:
        The ends of the scale.

    Raises:
        ValueError: if none of them holds a map.
    """
    flat: list[Any] = []
    for part in axes:
        flat += [part] if isinstance(part, Axes) else list(np.array(list(part), dtype=object).flat)
    drawn = [[*ax.images, *(one for one in ax.collections if isinstance(one, PatchCollection))] for ax in flat]
    pictures = [picture for one in drawn for picture in one if picture.get_array() is not None]
    if not pictures:
        raise ValueError("none of the axes holds a map (an image), so there is no scale to share")
    ends = [picture.get_clim() for picture in pictures]
    low, high = min(float(end[0] or 0.0) for end in ends), max(float(end[1] or 0.0) for end in ends)
    for picture in pictures:
        picture.set_norm(Normalize(low, high))
    return low, high


def label_legend(mdp: MDP) -> str:
    """What the letters in the cells of a map stand for, by the names of states or regions: "S start, G goal"."""
    labels = mdp.layout.labels if mdp.layout is not None else ()
    found = []
    for label in dict.fromkeys(text for text in labels if text):
        states = {state for state, text in enumerate(labels) if text == label}
        words = {mdp.state_name(state).partition("(")[0].strip() for state in states}
        if len(words) != 1 or not next(iter(words)).replace(" ", "").isalpha():
            regions = {name: set(mask.nonzero()[:, 0].tolist()) for name, mask in mdp.regions.items()}
            words = {name for name, held in regions.items() if held and held <= states}
            words |= {"start"} if set(mdp.initial.nonzero()[:, 0].tolist()) == states else set()
        found += [f"{label} {'/'.join(sorted(words))}"] if words else []
    return ",  ".join(found)


def draw_over_time(
    ax: Axes,
    table: Tensor,
    model: TrajectoryModel,
    label: str,
    colors: str,
    limits: tuple[float, float] | None = None,
    size: float | None = None,
) -> None:
    """A table [time, state] with time to the right; -inf is left white. `size` is that of all letters, in points."""
    shown = np.ma.masked_invalid(table.numpy().T)
    norm = None if limits is None else Normalize(*limits)
    picture = ax.imshow(shown, aspect="auto", cmap=colors, norm=norm, interpolation="nearest", origin="upper")
    picture.set_extent((0.5, table.shape[0] + 0.5, table.shape[1] - 0.5, -0.5))
    ax.set_xlabel("time t", fontsize=size)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set_ylabel("state", fontsize=size)
    figure: Any = ax.get_figure(root=True)
    bar = figure.colorbar(picture, ax=ax, label=label)
    if size is not None:
        bar.set_label(label, fontsize=size)
        for axes in (ax, bar.ax):
            axes.tick_params(labelsize=size)
    if shown.size <= FEW_CELLS:
        for (state, time), value in np.ndenumerate(table.numpy().T):
            if np.isfinite(value):
                color = "white" if np.asarray(picture.norm(value)) < 0.5 else "black"
                words = f"{value if abs(value) > 5e-4 else 0:.3g}"
                ax.text(time + 1, state, words, color=color, ha="center", va="center", fontsize=size or 9)
    if model.mdp.num_states <= FEW_STATES:
        names = [model.mdp.state_name(state) for state in range(model.mdp.num_states)]
        ax.set_yticks(range(len(names)), names, fontsize=size or (8 if len(names) <= 12 else 6))


def draw_grid(
    ax: Axes,
    layout: GridLayout,
    values: Tensor,
    label: str,
    colors: str | Colormap,
    lowest: float | None = None,
    borders: str = "white",
    limits: tuple[float, float] | None = None,
    mdp: MDP | None = None,
    bar: bool = True,
) -> None:
    """One number for each state in its cell: walls dark, what has no number light, -inf hatched.

    Colours go from `limits[0]` to `limits[1]`, else from `lowest` or the least number to the largest. Of an `mdp`, what
    the letters in cells are stands under the map, lines part cells between which a wall stands, and rooms are named.
    `bar` draws the colour bar, which one of several maps on a shared scale needs.
    """
    grid = np.full((layout.rows, layout.columns), np.nan)
    present = np.zeros_like(grid, dtype=bool)
    for state, cell in enumerate(layout.cells):
        if cell is not None:
            grid[cell], present[cell] = float(values[state]), True
    finite = grid[np.isfinite(grid)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    low = low if lowest is None else lowest
    low, high = limits or (low, high)
    picture = ax.imshow(
        np.ma.masked_invalid(grid), cmap=colors, norm=Normalize(low, high if high > low else low + 1), zorder=1
    )
    _fill(ax, present & np.isnan(grid), "0.9", 1.5)
    _fill(ax, ~present, "0.25", 2)
    for i, j in np.argwhere(present & np.isneginf(grid)):
        ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="xxx", edgecolor="0.5", zorder=2))
    for state, text in enumerate(layout.labels):
        cell = layout.cells[state]
        if text and cell is not None:
            style = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
            ax.text(cell[1] - 0.33, cell[0] - 0.3, text, fontsize=8, ha="center", va="center", bbox=style, zorder=4)
    ax.add_collection(cell_borders(layout.rows, layout.columns, borders), autolim=False)
    ax.set_xticks(_ticks(layout.columns))
    ax.set_yticks(_ticks(layout.rows))
    legend = "" if mdp is None else label_legend(mdp)
    ax.set_xlabel(f"column\n{legend}" if legend else "column")
    if mdp is not None:
        ax.add_collection(LineCollection(walls_between(mdp, layout), colors="0.25", linewidths=3.0, zorder=2), False)
        _name_rooms(ax, mdp, layout)
    ax.set_ylabel("row")
    if bar:
        figure: Any = ax.get_figure(root=True)
        figure.colorbar(picture, ax=ax, label=label, shrink=0.85)


def _ticks(number: int) -> range:
    """Rows or columns that have a number beside them: all of up to ten, every second of up to twenty, and so on."""
    return range(0, number, 1 + (number - 1) // 10)


def _name_rooms(ax: Axes, mdp: MDP, layout: GridLayout) -> None:
    """Names of rooms, in the wall above each."""
    for room, states in rooms_of(mdp).items():
        cells = [cell for cell in (layout.cells[state] for state in states) if cell is not None]
        top = min((row for row, _ in cells), default=0)
        if top > 0:
            middle = (min(column for _, column in cells) + max(column for _, column in cells)) / 2
            ax.text(middle, top - 1, room, color="white", fontsize=9, ha="center", va="center", zorder=4)


def _fill(ax: Axes, cells: np.ndarray, color: str, order: float) -> None:
    """Paints whole cells in one colour, all of them as one artist."""
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    squares = [corners + np.array([j, i]) for i, j in np.argwhere(cells)]
    if squares:
        ax.add_collection(PolyCollection(squares, color=color, zorder=order), autolim=False)


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
