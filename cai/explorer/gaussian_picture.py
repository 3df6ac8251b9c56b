"""The picture of the panel where the world is Gaussian: bands over time, the luck of each step, and the returns."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cai.explorer.picture import COLUMN, RETURNS, lay_out
from cai.inference.gaussian.posterior import GaussianPosterior
from cai.pictures.gaussian_pictures import coordinate_names, draw_band, plot_luck_over_time
from cai.studies.comparison import Comparison
from cai.studies.plots import draw_returns

__all__ = ["draw_gaussian_answers"]

HEIGHTS = (4.0, 2.9)  # inches of the two lines of panels


def draw_gaussian_answers(comparison: Comparison, names: Sequence[str], *, returns: bool = True) -> Figure:
    """Of every answer the first coordinate over time, believed and real, and its luck by step; below, the returns.

    Drawn without pyplot (threads may draw at once). Answers share their scales. An answer that failed has its status
    instead; over an infinite horizon there are the returns alone.

    Args:
        comparison: of a `LinearGaussianModel`.
        names: how its rows are called.
        returns: draw the bars of the returns, too.
    """
    rows = comparison.rows
    width = COLUMN * max(len(rows), 2)
    if not comparison.model.is_finite:
        figure = Figure(figsize=(width, RETURNS + 0.3), layout="constrained")
        draw_returns(figure.add_subplot(), rows, names, "reward units")
        return figure
    heights = (*HEIGHTS, RETURNS) if returns else HEIGHTS
    figure = Figure(figsize=(width, sum(heights) + 0.2))
    grid = figure.add_gridspec(len(heights), len(rows), height_ratios=heights)
    above = [figure.add_subplot(grid[0, i]) for i in range(len(rows))]
    below = [figure.add_subplot(grid[1, i]) for i in range(len(rows))]
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
        top.set_title(f"{name}\nmean and two standard deviations", fontsize=11)
        plot_luck_over_time(answer, ax=middle)
        luck = 0.0 if answer.luck is None else float(answer.luck)
        middle.set_title(f"luck by step, {luck:.2f} nats in all", fontsize=11)
        shown.append((top, middle))
    for top, _ in shown[:1]:
        top.legend(loc="best", fontsize=9)
    _share(shown)
    if returns:
        draw_returns(figure.add_subplot(grid[2, :]), rows, names, "reward units")
    ends = [len(f"{end:.2g}") for top, middle in shown[:1] for end in (*top.get_ylim(), *middle.get_ylim())]
    lay_out(figure, ("gaussian", returns, len(shown), max(map(len, names)), *ends))  # numbers as wide as these
    return figure


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
