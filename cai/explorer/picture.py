"""The picture of the panel: a column for each answer (policy above, luck below), and the returns under them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from cai.inference.core.posterior import Posterior
from cai.models.processes.layout import GridLayout
from cai.models.trajectory.model import TrajectoryModel
from cai.pictures.drawing import FEW_STATES, nats_text
from cai.pictures.model_graphs import ACTION_COLORS
from cai.pictures.plots import BELOW_BLACK, plot_luck, plot_values
from cai.studies.comparison import Comparison
from cai.studies.plots import draw_returns

__all__ = ["draw_answers", "draw_policy_table"]

WIDTH = 12.5  # inches
TERMINAL_COLOR = (0.9, 0.9, 0.9)
MOST_PLACES = 64  # kinds of pictures
PLACES: dict[Any, list[Bbox]] = {}
"""Where the panels of a kind of picture are, by its heights, rows that are answered, and the longest name."""


def draw_answers(comparison: Comparison, names: Sequence[str]) -> Figure:
    """Policy, luck, and believed against real return of every answer, drawn without pyplot (threads may draw at once).

    On a map the policy is drawn as arrows on the soft values, elsewhere as the most probable action of each state and
    time. Answers share their scales, so that what looks the same is the same. An answer that failed has its status
    instead of maps.

    Args:
        comparison: of a `TrajectoryModel`.
        names: how its rows are called.
    """
    model: TrajectoryModel = comparison.model
    rows = comparison.rows
    layout = model.mdp.layout
    heights = _heights(model, layout)
    kind = (
        heights,
        tuple(row.status.ok and row.posterior is not None for row in rows),
        max(map(len, names)),
        model.is_finite,
    )
    kept = PLACES.get(kind)
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.3), layout=None if kept else "constrained")
    grid = figure.add_gridspec(3, len(rows), height_ratios=heights)
    above = [figure.add_subplot(grid[0, i]) for i in range(len(rows))]
    below = [figure.add_subplot(grid[1, i]) for i in range(len(rows))]
    bottom = figure.add_subplot(grid[2, :])
    when = "t = 1" if model.is_finite else "every t"
    for row, name, top, middle in zip(rows, names, above, below, strict=True):
        if row.posterior is None or not row.status.ok:
            _say(top, f"{name}\n{row.status.label}")
            middle.set_axis_off()
            continue
        if layout is not None:
            plot_values(row.posterior, ax=top)
            top.set_title(f"{name}\npolicy and soft values, {when}", fontsize=11)
        else:
            draw_policy_table(top, row.posterior)
            top.set_title(f"{name}\nmost probable action", fontsize=11)
        _draw_luck(middle, row.posterior)
    _share_scales(above, below, layout is not None)
    if layout is not None:
        _say_once(above, below)
    draw_returns(bottom, rows, names, "reward units")
    bottom.set_title("Believed (coloured) and real (grey) return")
    if layout is None:
        handles = _legend(model)
        columns = min(8, len(handles))
        place: Any = "upper center" if kept else "outside upper center"
        figure.legend(handles=handles, title="action", loc=place, ncols=columns, frameon=False)
    if kept and len(kept) == len(figure.axes):
        for ax, box in zip(figure.axes, kept, strict=True):
            ax.set_position(box)
    else:
        _keep_places(figure, kind)
    return figure


def _keep_places(figure: Figure, kind: Any) -> None:
    """Lays the panels out, which takes as long as drawing them, and keeps where they are for the next picture alike."""
    figure.set_layout_engine("constrained", w_pad=0.05, h_pad=0.1)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    if len(PLACES) >= MOST_PLACES:
        PLACES.clear()
    PLACES[kind] = [ax.get_position() for ax in figure.axes]


def _say_once(above: Sequence[Axes], below: Sequence[Axes]) -> None:
    """Rows are numbered in the first column, columns and letters under the lower maps alone."""
    for ax in (*above[1:], *below[1:]):
        ax.set_ylabel("")
        ax.set_yticks([])
    for ax in above:
        ax.set_xlabel("")
        ax.set_xticks([])
    for ax in below[1:]:
        ax.set_xlabel("column")


def draw_policy_table(ax: Axes, posterior: Posterior) -> None:
    """The most probable action of each state and time, the paler the less certain; grey where nothing is decided.

    Args:
        ax: where to draw.
        posterior: an answer about a `TrajectoryModel`.
    """
    model: TrajectoryModel = posterior.model
    policy = posterior.action_probs.detach()  # [T, S, A]
    chances, actions = policy.max(-1)
    colors = np.array([to_rgb(color) for color in action_colors(policy.shape[-1])])
    choices = model.mdp.available.sum(-1)
    even = 1 / choices.clamp(min=2).double()
    certain = torch.where(choices > 1, ((chances - even) / (1 - even)).clamp(0, 1), torch.ones_like(chances)).numpy()
    strength = (0.3 + 0.7 * certain)[..., None]
    table = strength * colors[actions.numpy()] + (1 - strength)  # towards white
    table[:, model.mdp.terminal.numpy()] = TERMINAL_COLOR
    steps, size = table.shape[:2]
    picture = ax.imshow(table.transpose(1, 0, 2), aspect="auto", interpolation="nearest", origin="upper")
    picture.set_extent((0.5, steps + 0.5, size - 0.5, -0.5))
    if size <= FEW_STATES:
        names = [model.mdp.state_name(state) for state in range(size)]
        ax.set_yticks(range(size), names, fontsize=8 if size <= 12 else 6)
    ax.set_ylabel("state")
    ax.set_xlabel("time t" if model.is_finite else "at every t")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if not model.is_finite:
        ax.set_xticks([])


def action_colors(number: int) -> Sequence[str]:
    """A colour for each action, which colour-blind readers tell apart; of many, at least the order."""
    if number <= len(ACTION_COLORS):
        return ACTION_COLORS[:number]
    return [to_hex(color) for color in mpl.colormaps["cividis"](np.linspace(0, 1, number))]


def _legend(model: TrajectoryModel) -> list[Patch]:
    number = model.mdp.num_actions
    handles = [
        Patch(color=color, label=model.mdp.action_name(a)) for a, color in enumerate(action_colors(number))
    ]  # fmt: skip
    if number > 16:
        handles = [handles[round(i)] for i in np.linspace(0, number - 1, 8)]
    if bool(model.mdp.terminal.any()):
        handles.append(Patch(color=TERMINAL_COLOR, label="the end"))
    return handles


def _heights(model: TrajectoryModel, layout: GridLayout | None) -> tuple[float, float, float]:
    """Of the three lines of panels, in inches."""
    returns = 1.9
    if layout is None:
        states = min(max(2.4, 0.18 * model.mdp.num_states), 5.0)
        return states, 2.4, returns
    cell = (WIDTH / 3 - 0.9) / layout.columns
    maps = min(max(1.3, cell * layout.rows), 4.5) + 0.8
    return maps, maps, returns


def _share_scales(above: Sequence[Axes], below: Sequence[Axes], maps: bool) -> None:
    """The same colours and heights in every column, and one colour bar where one says it all."""
    kinds = ((above, None, "soft value\n(reward units)"), (below, 0.0, "luck\n(nats)"))
    for axes, lowest, label in kinds if maps else ():
        pictures = [ax.images[-1] for ax in axes if ax.images]
        shown = np.concatenate([_finite(picture) for picture in pictures] or [np.zeros(0)])
        low = float(shown.min()) if lowest is None and shown.size else lowest or 0.0
        high = float(shown.max()) if shown.size else low
        high *= BELOW_BLACK if lowest is not None else 1.0
        for picture in pictures:
            picture.set_norm(Normalize(low, high if high > low else low + 1))
        bars = [picture.colorbar for picture in pictures if picture.colorbar is not None]
        for bar in bars[:-1]:
            bar.remove()
        for bar in bars[-1:]:
            bar.set_label(label)
    if not maps:
        highest = max(
            (bar.get_height() for ax in below for bar in ax.patches if isinstance(bar, Rectangle)), default=0.0
        )
        for ax in below:
            if ax.patches:
                ax.set_ylim(0, 1.05 * highest)


def _finite(picture: AxesImage) -> np.ndarray:
    shown = picture.get_array()
    return np.zeros(0) if shown is None else np.ma.compressed(np.ma.masked_invalid(shown))


def _say(ax: Axes, text: str) -> None:
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, wrap=True)


def _draw_luck(ax: Axes, posterior: Posterior) -> None:
    """The luck by state, and of the start in words."""
    plot_luck(posterior, ax=ax)
    by_state = float(posterior.luck_by_state().sum())
    total = by_state if posterior.luck is None else float(posterior.luck.detach())
    what = "bad luck feared" if posterior.details.get("eta", 0.0) < 0 else "luck assumed"
    title = f"{what}: {nats_text(total)} nats"
    if total - by_state > 5e-3:
        title += f"\n({nats_text(total - by_state)} of them in the choice of the start)"
    ax.set_title(title, fontsize=11)
    if not ax.patches and not ax.images:
        ax.set_axis_off()  # there are no bars, only words
