"""What every figure of the course must hold; a notebook under test imports this and has its figures looked at.

Numbers that are compared stand on one scale, shares add up to 1, every line says what it is and can be seen, amounts of
reward have units, and no legend lies on a line.
"""

from __future__ import annotations

import re
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

FAULTS: list[str] = []
APART = 1e-9  # of a scale's length
AMOUNT = re.compile(r"\b(returns?|rewards?|costs?|prices?|values?)\b")
UNIT = re.compile(r"\(.+\)|\bunits?\b|\bnats?\b|/")


def faults(figure: Figure) -> list[str]:
    """What a reader would be misled by, in words; empty where nothing is."""
    panels = [ax for ax in figure.axes if ax.get_label() != "<colorbar>" and ax.get_visible()]
    name = figure.get_suptitle() or " | ".join(ax.get_title().replace("\n", " ") for ax in panels)
    figure.canvas.draw()  # lays everything out
    found = [*_scales(panels), *_axes(panels), *_windows(panels)]
    for ax in panels:
        found += [*_lines(ax), *_shares(ax), *_units(ax), *_hidden(ax), *_covered(ax)]
    return [f"{name!r}: {text}" for text in found]


def _alike(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return bool(np.allclose(one, other, rtol=0, atol=APART + APART * max(map(abs, one))))


def _scales(panels: list[Axes]) -> list[str]:
    """Maps whose colour bars have the same label must have the same ends."""
    scales: dict[str, list[tuple[float, float]]] = {}
    for ax in panels:
        maps = (part for part in (*ax.images, *ax.collections) if isinstance(part, (AxesImage, QuadMesh)))
        for image in (part for part in maps if part.colorbar is not None):
            label = str(image.colorbar.ax.get_ylabel() or image.colorbar.ax.get_xlabel())
            scales.setdefault(label, []).append(tuple(float(end) for end in image.get_clim()))
    return [
        f"maps of {label!r} have the scales {ends}; use share_scale"
        for label, ends in scales.items()
        if not all(_alike(ends[0], other) for other in ends)
    ]


def _axes(panels: list[Axes]) -> list[str]:
    """Bars side by side of one quantity must have one axis: the same label, or none beside one that has it."""
    found = []
    bars = [ax for ax in panels if any(isinstance(part, BarContainer) for part in ax.containers)]
    for i, ax in enumerate(bars):
        for other in bars[:i]:
            said, before = ax.get_ylabel(), other.get_ylabel()
            upright = all(_upright(panel) for panel in (ax, other))
            if upright and said and said == before and not _alike(ax.get_ylim(), other.get_ylim()):
                found.append(f"bars of {said!r} have the axes {other.get_ylim()} and {ax.get_ylim()}; use sharey")
    return found


def _windows(panels: list[Axes]) -> list[str]:
    """Maps and contours of the same two coordinates must show the same part of them."""
    found, seen = [], {}
    for ax in panels:
        drawn = ax.images or any(isinstance(part, (QuadMesh, ContourSet)) for part in ax.collections)
        said, window = (ax.get_xlabel(), ax.get_ylabel()), (*ax.get_xlim(), *ax.get_ylim())
        if drawn and all(said):
            first = seen.setdefault(said, window)
            if not _alike(first, window):
                found.append(
                    f"maps over {said} show {np.round(first, 3)} and {np.round(window, 3)}; give them one window"
                )
    return found


def _units(ax: Axes) -> list[str]:
    """An axis of returns, rewards, costs, prices or values names their unit."""
    said = [text for text in (ax.get_xlabel(), ax.get_ylabel()) if AMOUNT.search(text) and not UNIT.search(text)]
    return [f"the axis {text!r} has no unit" for text in said]


def _on_screen(line: Line2D) -> Any:
    return line.get_transform().transform(np.column_stack([np.asarray(d, float) for d in line.get_data(orig=False)]))


def _hidden(ax: Axes) -> list[str]:
    """A line must not lie under another one, of another colour, that is drawn alike and as wide."""
    lines = [
        line for line in ax.lines if line.get_visible() and line.get_label()[:1] != "_" and len(line.get_xdata()) > 1
    ]
    found = []
    for place, below in enumerate(lines):
        for above in lines[place + 1 :]:
            same = mpl.colors.same_color(below.get_color(), above.get_color())
            covers = (
                above.get_linestyle() in ("-", below.get_linestyle()) and above.get_linewidth() >= below.get_linewidth()
            )
            shows = below.get_marker() not in ("None", "", None) and above.get_marker() != below.get_marker()
            under, over = _on_screen(below), _on_screen(above)
            if same or not covers or shows or not (np.diff(over[:, 0]) > 0).all():
                continue
            gap = np.abs(np.interp(under[:, 0], over[:, 0], over[:, 1], np.inf, np.inf) - under[:, 1])
            if gap.max() < max(1.0, below.get_linewidth() / 2):
                found.append(f"{below.get_label()!r} lies under {above.get_label()!r} in {ax.get_title()!r}")
    return found


def _covered(ax: Axes) -> list[str]:
    """No legend may lie on a line: words on it cannot be read, and a frame hides it."""
    legend = ax.get_legend()
    if legend is None:
        return []
    if legend.get_frame_on() and (legend.get_frame().get_alpha() or 1.0) > 0.5:
        boxes = [legend.get_frame().get_window_extent()]
    else:
        boxes = [text.get_window_extent() for text in legend.get_texts()]
    inside = ax.get_window_extent()
    paths = [
        (line.get_label(), line.get_path().transformed(line.get_transform()).clip_to_bbox(inside))
        for line in ax.lines
        if line.get_visible() and line.get_linestyle() not in ("None", "", " ") and np.size(line.get_xdata()) > 1
    ]
    return [
        f"the legend of {ax.get_title()!r} lies on {label!r}"
        for label, path in paths
        if any(path.intersects_bbox(Bbox(box.get_points()).padded(-1), filled=False) for box in boxes)
    ]


def _upright(ax: Axes) -> bool:
    return all(part.orientation == "vertical" for part in ax.containers if isinstance(part, BarContainer))


def _lines(ax: Axes) -> list[str]:
    """Each way of drawing a line needs a name in the legend, unless there is one alone, which the axes name."""
    held = {line for part in ax.containers if isinstance(part, ErrorbarContainer) for line in _flat(part.lines)}
    held |= {line for part in ax.get_children() if isinstance(part, ErrorbarContainer) for line in _flat(part.lines)}
    legend = ax.get_legend()
    texts = {text.get_text() for text in legend.get_texts()} if legend is not None else set()
    for other in (*ax.get_figure(root=True).axes, *ax.get_figure(root=True).legends):
        shared = other if not isinstance(other, Axes) else other.get_legend()
        texts |= {text.get_text() for text in shared.get_texts()} if shared is not None else set()
    written = [text for text in ax.texts if text.get_text().strip()]
    styles: dict[Any, list[Line2D]] = {}
    for line in ax.lines:
        if line in held or not line.get_visible() or _is_zero(line) or line.get_label() == "_halo":
            continue
        if line.get_linestyle() in ("None", "", " ") and line.get_marker() in ("None", "", " ", None):
            continue
        style = (mpl.colors.to_hex(line.get_color()), line.get_linestyle(), line.get_marker())
        styles.setdefault(style, []).append(line)
    unnamed = [
        style
        for style, lines in styles.items()
        if not any(line.get_label() in texts and not line.get_label().startswith("_") for line in lines)
    ]
    named = {mpl.colors.to_hex(line.get_color()) for line in ax.lines if line.get_label() in texts}
    named |= {mpl.colors.to_hex(bar.get_facecolor()) for bar in ax.patches}
    unnamed = [
        style for style in unnamed if not (style[1] == "None" and style[0] in named)
    ]  # points on what has a name
    faint = {style for style, lines in styles.items() if all((line.get_alpha() or 1.0) < 1 for line in lines)}
    unnamed = [
        style for style in unnamed if not (style in faint and style[0] in named)
    ]  # single runs behind their mean
    if "dashed" in ax.get_title():  # the title says what dashes mean, the colours have names
        unnamed = [style for style in unnamed if not (style[1] == "--" and style[0] in named)]
    if len(styles) <= 1 or written:  # one alone is what the axes say; written words are read by whoever looks
        return []
    return [f"lines drawn as {style} have no name in a legend of {ax.get_title()!r}" for style in unnamed]


def _flat(parts: Any) -> list[Any]:
    return [
        line for part in parts if part is not None for line in (part if isinstance(part, (tuple, list)) else [part])
    ]


def _is_zero(line: Line2D) -> bool:
    """A thin line along 0 is part of the axes."""
    data = [np.asarray(side, dtype=float) for side in (line.get_xdata(), line.get_ydata())]
    return any(side.size > 0 and not side.any() for side in data) and line.get_marker() in ("None", "", None)


def _shares(ax: Axes) -> list[str]:
    """Bars that are stacked on an axis of probabilities must end at 1."""
    said = ax.get_xlabel() if not _upright(ax) else ax.get_ylabel()
    if not said.startswith(("probability", "share")):
        return []
    ends: dict[float, list[tuple[float, float]]] = {}
    for bar in (bar for part in ax.containers if isinstance(part, BarContainer) for bar in part.patches):
        across, from_, length = (
            (bar.get_x(), bar.get_y(), bar.get_height())
            if _upright(ax)
            else (bar.get_y(), bar.get_x(), bar.get_width())
        )
        ends.setdefault(round(float(across), 9), []).append((float(from_), float(length)))
    stacked = [parts for parts in ends.values() if any(from_ > 1e-12 for from_, _ in parts)]
    sums = [sum(length for _, length in parts) for parts in stacked]
    return [f"shares add up to {total:.4f}, not to 1, in {ax.get_title()!r}" for total in sums if abs(total - 1) > 1e-3]


def watch() -> None:
    """Looks at every figure when a cell ends, before the kernel shows and closes it."""
    import matplotlib.pyplot as plt
    from IPython.core.getipython import get_ipython

    def look() -> None:
        for number in plt.get_fignums():
            FAULTS.extend(faults(plt.figure(number)))

    shell: Any = get_ipython()
    shell.events.register("post_execute", look)
    shown = shell.events.callbacks["post_execute"]
    shown.insert(0, shown.pop())  # the kernel's own closes the figures
