"""Figures that are kept between moves: axes, ticks and colour bars stay where they are, what they hold is replaced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import AutoLocator, ScalarFormatter

from cai.explorer.letters import LetterCanvas

__all__ = ["TITLE", "Board", "Boards", "Line"]

BAR, BAR_GAP = 0.13, 0.12  # inches: the width of a colour bar, and between it and the maps
MOST = 6  # figures that are kept
TITLE = 1.0  # where titles stand: just above; unless it is said, every drawing measures all ticks to find that out


@dataclass(frozen=True)
class Line:
    """Panels side by side, in inches: the room above and below each, what they are high, and the columns' margins.

    Attributes:
        above: for the titles.
        height: of the panels.
        below: for ticks and labels.
        left: of the first panel, for its ticks and labels.
        gap: between panels.
        right: of the last panel, for its colour bar.
        columns: how many panels there are.
    """

    above: float
    height: float
    below: float
    left: float
    gap: float
    right: float
    columns: int


@dataclass(eq=False)
class Board:
    """A figure with its panels, line by line.

    Attributes:
        figure: to be drawn on `canvas`.
        lines: the axes of each line.
        bars: the colour bars, by the place of their line.
    """

    figure: Figure
    lines: list[list[Axes]]
    bars: dict[int, Colorbar] = field(default_factory=dict)

    @classmethod
    def of(cls, width: float, lines: Sequence[Line], top: float = 0.0) -> Board:
        """An empty one; sizes in inches, `top` for what stands above all lines."""
        height = top + sum(line.above + line.height + line.below for line in lines)
        figure = Figure(figsize=(width, height))
        LetterCanvas(figure)
        axes, upper = [], height - top
        for line in lines:
            wide = (width - line.left - line.right - line.gap * (line.columns - 1)) / line.columns
            low = upper - line.above - line.height
            places = [line.left + k * (wide + line.gap) for k in range(line.columns)]
            shares = [(x / width, low / height, wide / width, line.height / height) for x in places]
            axes.append([figure.add_axes(share) for share in shares])
            upper = low - line.below
        return cls(figure, axes)

    def show_bar(self, place: int, picture: AxesImage, label: str) -> None:
        """The colour bar of a line of maps on one scale, to the right of the last of them.

        Args:
            place: of the line.
            picture: one of the maps.
            label: of the bar.
        """
        if place in self.bars:
            self.bars[place].update_normal(picture)
            return
        box, width = self.lines[place][-1].get_position(original=True), self.figure.get_figwidth()
        share = (box.x1 + BAR_GAP / width, box.y0 + 0.08 * box.height, BAR / width, 0.84 * box.height)
        self.bars[place] = self.figure.colorbar(picture, cax=self.figure.add_axes(share), label=label)

    def empty(self) -> None:
        """Takes out what the panels hold; colour bars stay."""
        for legend in [*self.figure.legends]:
            legend.remove()
        for ax in (ax for line in self.lines for ax in line):
            for bars in [*ax.containers]:  # a legend would name them again
                bars.remove()
            for artist in [*ax.images, *ax.collections, *ax.lines, *ax.patches, *ax.texts]:
                artist.remove()
            named = ax.get_legend()
            if named is not None:
                named.remove()
            ax.set_axis_on()
            ax.relim()
            ax.set_autoscale_on(True)
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_locator(AutoLocator())
                axis.set_major_formatter(ScalarFormatter())


class Boards:
    """The figures that were drawn last, by what kind of picture they hold. One thread draws at a time."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._kept: dict[Hashable, Board] = {}

    def board(self, kind: Hashable, make: Callable[[], Board]) -> Board:
        """The figure of a kind, emptied; a new one where there is none.

        Args:
            kind: whatever decides the panels, their sizes, and which of them get ticks, words and a colour bar.
            make: makes one.
        """
        board = self._kept.pop(kind, None)
        if board is None:
            if len(self._kept) >= MOST:
                del self._kept[next(iter(self._kept))]  # that of the longest ago
            board = make()
        else:
            board.empty()
        self._kept[kind] = board
        return board
