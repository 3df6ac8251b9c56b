"""What every figure of the course must hold; a notebook under test imports this and has its figures looked at.

Numbers that are compared stand on one scale, shares add up to 1, and every line says what it is.
"""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

FAULTS: list[str] = []
APART = 1e-9  # of a scale's length


def faults(figure: Figure) -> list[str]:
    """What a reader would be misled by, in words; empty where nothing is."""
    panels = [ax for ax in figure.axes if ax.get_label() != "<colorbar>" and ax.get_visible()]
    name = figure.get_suptitle() or " | ".join(ax.get_title().replace("\n", " ") for ax in panels)
    found = [*_scales(panels), *_axes(panels), *(text for ax in panels for text in (*_lines(ax), *_shares(ax)))]
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
