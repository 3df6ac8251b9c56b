"""The picture of the panel: a column for each answer (policy above, luck below), and the returns under them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
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
from cai.pictures.drawing import FEW_STATES
from cai.pictures.model_graphs import ACTION_COLORS
from cai.pictures.plots import BELOW_BLACK, plot_luck, plot_values
from cai.pictures.rooms import one_room, rooms_of
from cai.studies.comparison import Comparison, Row
from cai.studies.plots import draw_returns

__all__ = ["action_legend", "cut_columns", "draw_answers", "draw_policy_table", "lay_out", "shown_room"]

COLUMN = 12.5 / 3  # inches of one answer
RETURNS = 1.9  # inches of the bars below
MARGIN = 0.12  # inches between the axes of a column and where it is cut off
WIDEST = 20  # columns of a map whose rooms are shown all at once
TERMINAL_COLOR = (0.9, 0.9, 0.9)
MOST_PLACES = 64  # kinds of pictures
PLACES: dict[Any, list[Bbox]] = {}
"""Where the panels of a kind of picture are, by its heights, rows that are answered, and the longest name."""


def draw_answers(comparison: Comparison, names: Sequence[str], *, returns: bool = True) -> Figure:
    """Policy, luck, and believed against real return of every answer, drawn without pyplot (threads may draw at once).

    On a map the policy is drawn as arrows on the soft values, elsewhere as the most probable action of each state and
    time. Answers share their scales, so that what looks the same is the same. An answer that failed, or does not know
    one of these, has words instead.

    Args:
        comparison: of a `TrajectoryModel`.
        names: how its rows are called.
        returns: draw the bars of the returns and the legend of the actions, too.
    """
    model: TrajectoryModel = comparison.model
    rows = comparison.rows
    room = shown_room(model)
    layout = one_room(model.mdp, room)
    heights: tuple[float, ...] = _heights(model, layout)
    kind = (
        heights,
        tuple(row.status.ok and row.posterior is not None for row in rows),
        max(map(len, names)),
        model.is_finite,
        returns,
    )
    kept = PLACES.get(kind)
    heights = (*heights, RETURNS) if returns else heights
    size = (COLUMN * max(len(rows), 2), sum(heights) + 0.3)
    figure = Figure(figsize=size, layout=None if kept else "constrained")
    grid = figure.add_gridspec(len(heights), len(rows), height_ratios=heights)
    above = [figure.add_subplot(grid[0, i]) for i in range(len(rows))]
    below = [figure.add_subplot(grid[1, i]) for i in range(len(rows))]
    when = "t = 1" if model.is_finite else "every t"
    for place, (row, name, top, middle) in enumerate(zip(rows, names, above, below, strict=True)):
        if row.posterior is None or not row.status.ok:
            _say(top, f"{name}\n{row.status.label}")
            middle.set_axis_off()
            continue
        if layout is not None and row.posterior.values is not None:
            plot_values(
                row.posterior, ax=top, room=room, bar=place == _last(rows, lambda answer: answer.values is not None)
            )
            where = "" if room is None else f"; {room}"
            top.set_title(f"{name}\npolicy and soft values, {when}{where}", fontsize=11)
        else:
            draw_policy_table(top, row.posterior)
            top.set_title(f"{name}\nmost probable action", fontsize=11)
        _draw_luck(middle, row.posterior, room, place == _last(rows, lambda answer: answer.has_outcomes))
    _share_scales(above, below, layout is not None)
    if layout is not None:
        _say_once(above, below)
    if returns:
        bottom = figure.add_subplot(grid[2, :])
        draw_returns(bottom, rows, names, "reward units")
        bottom.set_title("Believed (coloured) and real (grey) return")
    if returns and layout is None:
        handles = [Patch(color=color, label=name) for name, color in action_legend(model)]
        columns = min(8, len(handles))
        place_of: Any = "upper center" if kept else "outside upper center"
        figure.legend(handles=handles, title="action", loc=place_of, ncols=columns, frameon=False)
    lay_out(figure, kind)
    return figure


def shown_room(model: TrajectoryModel) -> str | None:
    """Of a map that is too wide for its cells to be read, the first room that a run may start in."""
    if model.mdp.layout is None or model.mdp.layout.columns <= WIDEST:
        return None
    starts = model.mdp.initial > 0
    return next((name for name, states in rooms_of(model.mdp).items() if bool(starts[states].any())), None)


def cut_columns(figure: Figure, columns: int) -> list[slice]:
    """Where the pixels of each answer begin and stop, so that a narrow page can stack what a wide one shows in a row.

    Args:
        figure: of which the first axes are those of the upper row.
        columns: the number of answers.
    """
    width = figure.get_figwidth()
    boxes = [ax.get_position() for ax in figure.axes[:columns]]
    edges = [0.0]
    for left, right in pairwise(boxes):
        edges.append(left.x1 + min((right.x0 - left.x1) / 2, MARGIN / width))
    pixels = [round(edge * width * figure.dpi) for edge in (*edges, 1.0)]
    return [slice(*ends) for ends in pairwise(pixels)]


def _last(rows: Sequence[Row], knows: Callable[[Posterior], bool]) -> int:
    """The last row whose answer knows what is drawn: it gets the colour bar of all of them."""
    answers = [row.posterior if row.status.ok else None for row in rows]
    return max((place for place, answer in enumerate(answers) if answer is not None and knows(answer)), default=-1)


def lay_out(figure: Figure, kind: Any) -> None:
    """Lays the panels out, which takes as long as drawing them; their places are kept for the next picture alike."""
    kept = PLACES.get(kind, [])
    if len(kept) == len(figure.axes):
        figure.set_layout_engine("none")
        for ax, box in zip(figure.axes, kept, strict=True):
            ax.set_position(box)
        return
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


def action_legend(model: TrajectoryModel) -> list[tuple[str, str]]:
    """Each action, or some of very many, with the colour of its cells in a policy table."""
    number = model.mdp.num_actions
    handles = [(model.mdp.action_name(a), color) for a, color in enumerate(action_colors(number))]
    if number > 16:
        handles = [handles[round(i)] for i in np.linspace(0, number - 1, 8)]
    return [*handles, ("the end", to_hex(TERMINAL_COLOR))] if bool(model.mdp.terminal.any()) else handles


def _heights(model: TrajectoryModel, layout: GridLayout | None) -> tuple[float, float]:
    """Of the two lines of panels, in inches."""
    if layout is None:
        states = min(max(2.4, 0.18 * model.mdp.num_states), 5.0)
        return states, 2.4
    cell = (COLUMN - 0.9) / layout.columns
    maps = min(max(1.3, cell * layout.rows), 4.5) + 0.8
    return maps, maps


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
        for bar in (picture.colorbar for picture in pictures if picture.colorbar is not None):
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


def _draw_luck(ax: Axes, posterior: Posterior, room: str | None, bar: bool) -> None:
    """The luck by state, and of the start in words."""
    if not posterior.has_outcomes:
        _say(ax, f"{posterior.backend} does not know\nits luck by state")
        return
    plot_luck(posterior, ax=ax, bar=bar, room=room)
    what = "bad luck feared" if posterior.details.get("eta", 0.0) < 0 else "luck assumed"
    amount, _, start = ax.get_title().split("\n")[-1].partition(" in all")
    ax.set_title(f"{what}: {amount}" + (f"\n({start.removeprefix(', ')})" if start else ""), fontsize=11)
    if not ax.patches and not ax.images:
        ax.set_axis_off()  # there are no bars, only words
