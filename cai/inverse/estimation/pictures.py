"""Pictures of a fit: coefficients with their intervals, and observed against expected counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cai.pictures.drawing import REAL_COLOR, TARGET_COLORS, make_axes

if TYPE_CHECKING:
    from cai.inverse.estimation.estimate import Estimate

__all__ = ["plot_coefficients", "plot_counts"]

COLOR = TARGET_COLORS["fixed-dynamics"]


def plot_coefficients(estimate: Estimate, level: float = 0.95, ax: Axes | None = None) -> Figure:
    """One line a coefficient: a point, and a bar for its interval; fixed ones and those without errors are hollow.

    Args:
        estimate: a fit.
        level: of the intervals, in (0, 1).
        ax: where to draw, or None for a new figure.
    """
    shown = estimate.coefficients
    figure, ax = make_axes(ax, (6.4, 2.3 + 0.42 * max(len(shown), 1)))
    places = np.arange(len(shown))[::-1]
    intervals = estimate.intervals(level)
    known = estimate.standard_errors.notna().to_numpy()
    values = shown.to_numpy()
    low, high = intervals["lower"].to_numpy(), intervals["upper"].to_numpy()
    ax.hlines(places[known], low[known], high[known], color=COLOR, linewidth=2.5, label=f"{level:.0%} interval")
    ax.plot(values[known], places[known], "o", color=COLOR, markersize=7, label="coefficient")
    hollow = ~known & np.isfinite(values)
    if hollow.any():
        ax.plot(
            values[hollow],
            places[hollow],
            "o",
            markerfacecolor="white",
            color=REAL_COLOR,
            markersize=7,
            label="without a standard error",
        )
    for place in places[~np.isfinite(values)]:
        ax.text(0.0, place, " no estimate", va="center", color=REAL_COLOR, fontsize=10)
    ax.axvline(0.0, color="0.2", linewidth=0.8)
    ax.set_yticks(places, [str(name) for name in shown.index], fontsize=11)
    ax.set_ylim(-0.7, len(shown) - 0.3)
    unit = "nats" if estimate.problem.kind == "network" else "reward units"
    ax.set_xlabel(f"coefficient ({unit} per unit of the feature)", fontsize=11)
    ax.set_title(f"Fitted to {estimate.num_demonstrations:,.6g} demonstrations, {estimate.objective}", fontsize=12)
    ax.grid(axis="x", alpha=0.3)
    ax.legend(
        fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.4 / (0.42 * max(len(shown), 1))), ncols=3, frameon=False
    )
    return figure


def plot_counts(estimate: Estimate, ax: Axes | None = None) -> Figure:
    """Observed against expected counts, one point a turn or a pair of state and action, with the line of equality.

    Args:
        estimate: a fit.
        ax: where to draw, or None for a new figure.
    """
    counts = estimate.problem.counts(estimate.vector)
    figure, ax = make_axes(ax, (5.6, 5.2))
    observed, expected = counts["observed"].to_numpy(), counts["expected"].to_numpy()
    top = float(max(observed.max(initial=0.0), expected.max(initial=0.0), 1.0)) * 1.05
    ax.plot([0, top], [0, top], color="0.2", linewidth=0.9, label="observed = expected")
    what = "turn" if estimate.problem.kind == "network" else "state and action"
    ax.plot(expected, observed, "o", color=COLOR, alpha=0.55, markersize=5, markeredgewidth=0, label=f"a {what}")
    ax.set_xlim(-0.02 * top, top)
    ax.set_ylim(-0.02 * top, top)
    ax.set_aspect("equal")
    ax.set_xlabel(f"expected count of a {what}", fontsize=11)
    ax.set_ylabel(f"observed count of a {what}", fontsize=11)
    ax.set_title(f"Counts in {estimate.num_demonstrations:,.6g} demonstrations", fontsize=12)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=10, loc="upper left")
    return figure
