"""Pictures of comparisons and sweeps. Every function returns its figure and neither shows nor saves it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cai.models.continuous.world import World
from cai.models.environments.world import EnvironmentModel
from cai.models.trajectory.model import TrajectoryModel
from cai.pictures.drawing import REAL_COLOR, TARGET_COLORS, spread_out, target_title
from cai.studies.rows import mean_of

if TYPE_CHECKING:
    from cai.studies.comparison import Comparison, Row
    from cai.studies.sweep import Sweep

__all__ = ["draw_returns", "plot_comparison", "plot_sweep"]

KNOWN = (TrajectoryModel, World, EnvironmentModel)  # of these the unit of rewards and the name are known
WORST_COLOR = "#CC79A7"  # Okabe and Ito's purple


def plot_comparison(comparison: Comparison, *, figsize: tuple[float, float] | None = None) -> Figure:
    """Believed against real return, luck, and where the policies end, a bar for each backend.

    Args:
        comparison: from `cai.compare`.
        figsize: in inches.
    """
    rows = comparison.rows
    endings = [dict(row.outcome.ends_in or {}) for row in rows if row.outcome is not None]
    regions = sorted({key for chances in endings for key, chance in chances.items() if chance >= 0.005})
    panels = 2 + bool(regions)
    figure, axes = plt.subplots(
        1,
        panels,
        figsize=figsize or (4.3 * panels, 1.5 + (0.75 if len(rows) <= 6 else 0.55) * len(rows)),
        sharey=True,
        layout="constrained",
    )
    places = np.arange(len(rows))
    colors = [TARGET_COLORS.get(row.target, REAL_COLOR) for row in rows]
    names = [target_title(row.backend, row.target).replace(" (", "\n(") for row in rows]
    left, middle = axes[0], axes[1]
    draw_returns(left, rows, names, _unit(comparison.model))
    for place, row in enumerate(rows):
        if row.luck is None or not math.isfinite(row.luck):
            _mark_missing(middle, place, row.luck, "" if not row.status.ok else "unknown")
        if row.luck is not None and math.isfinite(row.luck):
            middle.annotate(f" {row.luck:.3g}" if row.luck > 1e-9 else " 0", (row.luck, place), va="center", fontsize=9)
    middle.barh(places, _bars([row.luck for row in rows]), 0.55, color=colors)
    middle.set_xlabel("luck (nats)")
    most = max([row.luck for row in rows if row.luck is not None and math.isfinite(row.luck)], default=0.0)
    middle.set_xlim(0, 1.2 * most if most > 1e-9 else 1.0)
    middle.set_title("Luck that the plan counts on")
    if regions:
        _endings(axes[2], places, comparison, regions)
    name = comparison.model.name if isinstance(comparison.model, (TrajectoryModel, World)) else "a program"
    spread_out(figure)
    figure.suptitle(f"Backends on {name}")
    return figure


def _unit(model: object) -> str:
    """Of returns."""
    return "reward units" if isinstance(model, KNOWN) else "nats"


def draw_returns(ax: Axes, rows: Sequence[Row], names: Sequence[str], unit: str) -> None:
    """Believed against real return, a pair of bars for each row of a comparison.

    Args:
        ax: where to draw.
        rows: of the comparison.
        names: how they are called.
        unit: of the returns.
    """
    places = np.arange(len(rows))
    colors = [TARGET_COLORS.get(row.target, REAL_COLOR) for row in rows]
    ax.barh(places - 0.2, _bars([r.believed_return for r in rows]), 0.38, color=colors, label="believed")
    ax.barh(places + 0.2, _bars([r.real_return for r in rows]), 0.38, color=REAL_COLOR, label="real")
    ax.set_xlabel(f"return ({unit})")
    ax.set_title("Believed (coloured)\nand real (grey) return")
    ax.axvline(0, color="0.2", linewidth=0.8)
    for place, row in enumerate(rows):
        _mark_missing(ax, place - 0.2, row.believed_return, row.status.label if not row.status.ok else "unknown")
        _mark_missing(ax, place + 0.2, row.real_return, "" if not row.status.ok else "unknown")
    ax.set_yticks(places, names)
    ax.set_ylim(len(rows) - 0.4, -0.6)


def plot_sweep(sweep: Sweep, *, figsize: tuple[float, float] | None = None) -> Figure:
    """Believed and real return and the mean of the worst returns; the optimism gap; the luck; against one option.

    Of several seeds the means are drawn, and bars of one standard error to each side. Values beyond +-1 are spread on a
    logarithmic axis where the option covers more than two decades.

    Args:
        sweep: from `cai.sweep`, over an option of numbers.
        figsize: in inches.

    Raises:
        ValueError: if the option's values are not numbers.
    """
    if any(isinstance(value, (bool, str)) or not isinstance(value, (int, float)) for value in sweep.values):
        raise ValueError(f"{sweep.option} takes values that are not numbers; use sweep.comparison.plot()")
    order = sorted(range(len(sweep.values)), key=lambda i: sweep.values[i])
    groups = [sweep.rows(i) for i in order]
    rows = [row for group in groups for row in group]
    x = np.array([float(sweep.values[i]) for i in order])
    color = TARGET_COLORS.get(rows[0].target, REAL_COLOR)
    figure, axes = plt.subplots(1, 3, figsize=figsize or (13.5, 4.2), layout="constrained")
    unit = _unit(sweep.comparison.model)
    left, middle, right = axes
    _line(left, x, groups, "believed_return", color, "believed", "o")
    _line(left, x, groups, "real_return", REAL_COLOR, "real", "s")
    outcomes = [row.outcome for row in rows if row.outcome]
    if outcomes:
        _line(left, x, groups, "cvar", WORST_COLOR, f"real, mean of the worst {outcomes[0].tail:.0%}", "v")
    left.set_ylabel(f"return ({unit})")
    left.set_title("Return")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, columnspacing=1.0, fontsize=9, frameon=False)
    _line(middle, x, groups, "optimism_gap", color, "", "o")
    middle.axhline(0, color="0.2", linewidth=0.8)
    middle.set_ylabel(f"believed minus real return ({unit})")
    middle.set_title("Optimism gap")
    _line(right, x, groups, "luck", color, "", "o")
    right.set_ylabel("KL from the true dynamics (nats)")
    right.set_title("How far the believed dynamics are bent")
    sizes = np.abs(x[np.isfinite(x) & (x != 0)])
    wide = sizes.size > 0 and sizes.max() > 100 * min(1.0, sizes.min() if sizes.min() > 1 else 1.0)
    for axis in axes:
        axis.set_xlabel(sweep.option)
        if wide:
            axis.set_xscale("symlog", linthresh=1.0)
        axis.grid(alpha=0.3)
    failed = [row for row in rows if not row.status.ok]
    what = "values" if sweep.seeds is None else "pairs of value and seed"
    note = f"; {len(failed)} of {len(rows)} {what} have no answer" if failed else ""
    name = sweep.comparison.model.name if isinstance(sweep.comparison.model, KNOWN) else "a program"
    figure.suptitle(f"{sweep.backend} on {name}, over {sweep.option}{note}")
    return figure


def _endings(ax: Axes, places: np.ndarray, comparison: Comparison, regions: list[str]) -> None:
    hatches = ("", "///", "...", "xxx", "\\\\\\")
    start = np.zeros(len(places))
    every = sorted({key for row in comparison.rows if row.outcome for key in row.outcome.ends_in or {}})
    for region in regions:
        i = every.index(region)  # a region keeps its shade whatever else is shown
        shares = np.array([(r.outcome.ends_in or {}).get(region, 0.0) if r.outcome else 0.0 for r in comparison.rows])
        grey = str(0.85 - 0.6 * i / max(1, len(every) - 1))
        ax.barh(
            places, shares, 0.55, left=start, color=grey, edgecolor="0.2", hatch=hatches[i % len(hatches)], label=region
        )
        start += shares
    answered = np.array([row.outcome is not None and row.outcome.ends_in is not None for row in comparison.rows])
    rest = np.where(answered, 1 - start, 0.0)
    if (rest >= 5e-4).any():  # bars end at 1, and what is in no region has a name
        ax.barh(places, rest, 0.55, left=start, color="white", edgecolor="0.2", label="elsewhere")
    ax.set_xlim(0, 1)
    ax.set_xlabel("probability in the true world")
    ax.set_title("Where the policy ends")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _bars(values: list[float | None]) -> list[float]:
    return [value if value is not None and math.isfinite(value) else 0.0 for value in values]


def _mark_missing(ax: Axes, place: float, value: float | None, text: str) -> None:
    if value is None or not math.isfinite(value):
        ax.text(0, place, f" {text if value is None else '-inf'}", va="center", fontsize=8, color="0.3")
    elif abs(value) < 5e-3:  # a bar that nobody sees
        ax.text(0, place, " 0", va="center", fontsize=8, color="0.3")


def _line(
    ax: Axes, x: np.ndarray, groups: Sequence[Sequence[Row]], name: str, color: str, label: str, marker: str
) -> None:
    """Means over the rows of each place, with one standard error to each side where it is known."""
    found = [mean_of(group, name) for group in groups]
    y = [mean if mean is not None and math.isfinite(mean) else math.nan for mean, _ in found]
    errors = [error if error is not None and math.isfinite(error) else 0.0 for _, error in found]
    ax.plot(x, y, color=color, label=label, marker=marker, markersize=4, linewidth=1.4)
    if any(errors):
        ax.errorbar(x, y, yerr=errors, fmt="none", ecolor=color, capsize=3, linewidth=1.0)
