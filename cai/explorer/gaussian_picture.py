"""The picture of the panel where the world is Gaussian: bands over time, the luck of each step, and the returns."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cai.explorer.boards import TITLE, Board, Boards, Line
from cai.explorer.picture import COLUMN, RETURNS
from cai.inference.gaussian.posterior import GaussianPosterior
from cai.pictures.gaussian_pictures import coordinate_names, draw_band, plot_luck_over_time
from cai.studies.comparison import Comparison
from cai.studies.plots import draw_returns

__all__ = ["draw_gaussian_answers"]

HEIGHTS = (2.9, 1.9)  # inches of the two lines of panels


def draw_gaussian_answers(
    comparison: Comparison, names: Sequence[str], *, returns: bool = True, boards: Boards | None = None
) -> Figure:
    """Of every answer the first coordinate over time, believed and real, and its luck by step; below, the returns.

    Drawn without pyplot (threads may draw at once). Answers share their scales. An answer that failed has its status
    instead; over an infinite horizon there are the returns alone.

    Args:
        comparison: of a `LinearGaussianModel`.
        names: how its rows are called.
        returns: draw the bars of the returns, too.
        boards: figures to be drawn in again; a new one, unless given.
    """
    rows, finite = comparison.rows, comparison.model.is_finite
    size = COLUMN * max(len(rows), 2)
    lines = [Line(0.5 if place == 0 else 0.35, high, 0.55, 0.85, 0.85, 0.15, len(rows))
             for place, high in enumerate(HEIGHTS) if finite]  # fmt: skip
    lines += [RETURNS] if returns or not finite else []
    kind = (size, *lines, *(row.status.ok for row in rows))
    board = (boards or Boards()).board(kind, lambda: Board.of(size, lines))
    if returns or not finite:
        draw_returns(board.lines[-1][0], rows, names, "reward units")
        board.lines[-1][0].set_title("Believed (coloured) and real (grey) return", y=TITLE)
    if not finite:
        return board.figure
    above, below = board.lines[:2]
    shown: list[tuple[Axes, Axes]] = []
    for row, name, top, middle in zip(rows, names, above, below, strict=True):
        answer = row.posterior
        if not isinstance(answer, GaussianPosterior) or not row.status.ok:
            top.set_axis_off()
            middle.set_axis_off()
            top.text(0.5, 0.5, f"{name}\n{row.status.label}", ha="center", va="center", transform=top.transAxes)
            continue
        draw_band(top, answer, 0)
        top.set_ylabel(coordinate_names(answer)[0])
        top.set_title(f"{name}\nmean and two standard deviations", fontsize=11, y=TITLE)
        plot_luck_over_time(answer, ax=middle)
        luck = 0.0 if answer.luck is None else float(answer.luck)
        middle.set_title(f"luck by step, {luck:.2f} nats in all", fontsize=11, y=TITLE)
        shown.append((top, middle))
    for top, _ in shown[:1]:
        top.legend(loc="best", fontsize=9)
    _share(shown)
    return board.figure


def _share(shown: Sequence[tuple[Axes, Axes]]) -> None:
    """The same heights in every column, so that what looks the same is the same."""
    if not shown:
        return
    low, high = (pick(top.get_ylim()[k] for top, _ in shown) for k, pick in ((0, min), (1, max)))
    bars = [bar.get_height() for _, middle in shown for bar in middle.patches if isinstance(bar, Rectangle)]
    highest = max(bars, default=0.0)
    for top, middle in shown:
        top.set_ylim(low, high)
        middle.set_ylim(0, 1.05 * highest if highest > 1e-12 else 1.0)
