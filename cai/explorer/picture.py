"""The picture of the panel: a column for each answer (policy above, luck below), and the returns under them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from cai.explorer.boards import TITLE, Board, Boards, Line
from cai.inference.core.posterior import Posterior
from cai.models.processes.layout import GridLayout
from cai.models.trajectory.model import TrajectoryModel
from cai.pictures.drawing import FEW_STATES
from cai.pictures.model_graphs import ACTION_COLORS
from cai.pictures.plots import BELOW_BLACK, plot_luck, plot_values
from cai.pictures.rooms import one_room, rooms_of
from cai.studies.comparison import Comparison
from cai.studies.plots import draw_returns

__all__ = ["COLUMN", "RETURNS", "action_legend", "cut_columns", "draw_answers", "draw_policy_table", "shown_room"]

COLUMN = 12.5 / 3  # inches of one answer
RETURNS = Line(0.4, 1.1, 0.5, 1.5, 0.0, 0.2, 1)  # the bars below
MARGIN = 0.12  # inches between the axes of a column and where it is cut off
WIDEST = 20  # columns of a map whose rooms are shown all at once
TERMINAL_COLOR = (0.9, 0.9, 0.9)
MAP_LEFT, MAP_GAP, MAP_RIGHT = 0.65, 0.15, 1.05  # inches beside maps, whose rows are numbered once


def draw_answers(
    comparison: Comparison, names: Sequence[str], *, returns: bool = True, boards: Boards | None = None
) -> Figure:
    """Policy, luck, and believed against real return of every answer, drawn without pyplot (threads may draw at once).

    On a map the policy is drawn as arrows on the soft values, elsewhere as the most probable action of each state and
    time. Answers share their scales, so that what looks the same is the same. An answer that failed, or does not know
    one of these, has words instead.

    Args:
        comparison: of a `TrajectoryModel`.
        names: how its rows are called.
        returns: draw the bars of the returns and the legend of the actions, too.
        boards: figures to be drawn in again; a new one, unless given.
    """
    model: TrajectoryModel = comparison.model
    rows = comparison.rows
    room = shown_room(model)
    layout = one_room(model.mdp, room)
    width, lines, top = _sizes(model, layout, len(rows), returns)
    answers = [row.posterior if row.status.ok else None for row in rows]
    known = tuple(answer and (answer.values is not None, answer.has_outcomes) for answer in answers)
    kind = (width, lines, top, known, model.is_finite, room, model.mdp.num_states)
    board = (boards or Boards()).board(kind, lambda: Board.of(width, lines, top))
    above, below = board.lines[:2]
    when = "t = 1" if model.is_finite else "every t"
    for row, answer, name, upper, lower in zip(rows, answers, names, above, below, strict=True):
        if answer is None:
            _say(upper, f"{name}\n{row.status.label}")
            lower.set_axis_off()
            continue
        if layout is not None and answer.values is not None:
            plot_values(answer, ax=upper, room=room, bar=False)
            where = "" if room is None else f"; {room}"
            upper.set_title(f"{name}\npolicy and soft values, {when}{where}", fontsize=11, y=TITLE)
        else:
            draw_policy_table(upper, answer)
            upper.set_title(f"{name}\nmost probable action", fontsize=11, y=TITLE)
        _draw_luck(lower, answer, room)
    if layout is None:
        _share_heights(below)
    else:
        _share_colors(board)
        _say_once(above, below)
    if returns:
        (bottom,) = board.lines[2]
        draw_returns(bottom, rows, names, "reward units")
        bottom.set_title("Believed (coloured) and real (grey) return", y=TITLE)
    if returns and layout is None:
        handles = [Patch(color=color, label=name) for name, color in action_legend(model)]
        columns = min(8, len(handles))
        board.figure.legend(handles=handles, title="action", loc="upper center", ncols=columns, frameon=False)
    return board.figure


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


def _sizes(
    model: TrajectoryModel, layout: GridLayout | None, columns: int, returns: bool
) -> tuple[float, tuple[Line, ...], float]:
    """The width of the picture, its lines of panels, and the room above them, in inches, whatever they will hold."""
    width = COLUMN * max(columns, 2)
    top = 0.0
    if layout is None:
        longest = max(len(model.mdp.state_name(state)) for state in range(model.mdp.num_states))
        few = model.mdp.num_states <= FEW_STATES
        left = 0.75 + (min(0.065 * max(longest - 4, 0), 1.6) if few else 0.1)
        turned = min(0.08 * longest, 1.6) if model.mdp.num_states > 8 else 0.15
        high = min(max(1.6, 0.17 * model.mdp.num_states), 4.2)
        upper = Line(0.5, high, 0.6, left, left, 0.15, columns)
        lower = Line(0.35, 1.4, 0.45 + turned, left, left, 0.15, columns)
        top = 0.35 + 0.25 * -(-min(len(action_legend(model)), 16) // 8) if returns else 0.0
    else:
        cell = (width - MAP_LEFT - MAP_RIGHT - MAP_GAP * (columns - 1)) / columns / layout.columns
        high = min(max(1.0, cell * layout.rows), 4.5)
        upper = Line(0.5, high, 0.1, MAP_LEFT, MAP_GAP, MAP_RIGHT, columns)
        lower = Line(0.5, high, 0.7, MAP_LEFT, MAP_GAP, MAP_RIGHT, columns)
    return width, (upper, lower, RETURNS) if returns else (upper, lower), top


def _share_heights(below: Sequence[Axes]) -> None:
    """The same heights in every column, so that what looks the same is the same."""
    highest = max((bar.get_height() for ax in below for bar in ax.patches if isinstance(bar, Rectangle)), default=0.0)
    for ax in below:
        if ax.patches:
            ax.set_ylim(0, 1.05 * highest)


def _share_colors(board: Board) -> None:
    """The same colours in every column of maps, and one colour bar that says it all."""
    for place, (lowest, label) in enumerate(((None, "soft value\n(reward units)"), (0.0, "luck\n(nats)"))):
        pictures = [ax.images[-1] for ax in board.lines[place] if ax.images]
        shown = np.concatenate([_finite(picture) for picture in pictures] or [np.zeros(0)])
        low = float(shown.min()) if lowest is None and shown.size else lowest or 0.0
        high = float(shown.max()) if shown.size else low
        high *= BELOW_BLACK if lowest is not None else 1.0
        for picture in pictures:
            picture.set_norm(Normalize(low, high if high > low else low + 1))
        if pictures:
            board.show_bar(place, pictures[-1], label)


def _finite(picture: AxesImage) -> np.ndarray:
    shown = picture.get_array()
    return np.zeros(0) if shown is None else np.ma.compressed(np.ma.masked_invalid(shown))


def _say(ax: Axes, text: str) -> None:
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, wrap=True)


def _draw_luck(ax: Axes, posterior: Posterior, room: str | None) -> None:
    """The luck by state, and of the start in words."""
    if not posterior.has_outcomes:
        _say(ax, f"{posterior.backend} does not know\nits luck by state")
        return
    plot_luck(posterior, ax=ax, bar=False, room=room)
    what = "bad luck feared" if posterior.details.get("eta", 0.0) < 0 else "luck assumed"
    amount, _, start = ax.get_title().split("\n")[-1].partition(" in all")
    ax.set_title(f"{what}: {amount}" + (f"\n({start.removeprefix(', ')})" if start else ""), fontsize=11, y=TITLE)
    if not ax.patches and not ax.images:
        ax.set_axis_off()  # there are no bars, only words
