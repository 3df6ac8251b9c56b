"""The figure of a run: what each library takes over the floor, and how `cai` grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.report import JOBS, job_title
from benchmarks.scaling import AXES

__all__ = ["draw_report"]

# Okabe and Ito's colours; every library has a shape of its own, too.
LOOKS = {
    "cai": ("#0072B2", "o"),
    "cai, torch": ("#000000", "X"),
    "quantecon": ("#D55E00", "s"),
    "jax": ("#009E73", "^"),
    "scipy": ("#E69F00", "v"),
    "imitation": ("#CC79A7", "P"),
    "loop": ("#56B4E9", "D"),
}
JOB_LOOKS = {
    "fixed": ("#0072B2", "o", "-"),
    "exact": ("#D55E00", "s", "--"),
    "fixed, torch": ("#000000", "X", "-"),
    "exact, torch": ("#009E73", "^", "--"),
}
FIXED_SIZES = {"S": "A=4, K=3, T=20", "T": "S=10,000, A=4, K=4", "K": "S=10,000, A=4, T=20"}


def draw_report(report: dict[str, Any], path: Path) -> Figure:
    """Draws both panels and saves them as PNG.

    Args:
        report: of a run.
        path: where to.
    """
    curves = report["curves"]
    figure = plt.figure(figsize=(11.5, 7.2 if curves else 6.0), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1)) if curves else (figure, None)
    _draw_ratios(left.subplots(), report["workloads"])
    if right is not None:
        for axes, curve in zip(np.atleast_1d(right.subplots(len(curves), 1)), curves, strict=True):
            _draw_curve(axes, curve, report["machine"]["caches"])
    figure.savefig(path, dpi=130)
    return figure


def _draw_ratios(axes: Axes, workloads: dict[str, Any]) -> None:
    labels: list[str] = []
    for name, result in workloads.items():
        for job, title in JOBS.items():
            rows = [row for row in result["rows"] if row["job"] == job and row["median_s"] is not None]
            if not rows:
                continue
            if len(labels) % 2:
                axes.axhspan(len(labels) - 0.5, len(labels) + 0.5, color="0.95", zorder=0)
            for number, row in enumerate(rows):
                color, marker = LOOKS[row["contender"]]
                place = len(labels) + 0.7 * ((number + 0.5) / len(rows) - 0.5)
                scale = row["floor_ratio"] / row["median_s"]
                low, high = (value * scale for value in row["quartiles_s"])
                axes.plot([low, high], [place, place], color=color, linewidth=2, zorder=1)
                axes.plot(row["floor_ratio"], place, marker, color=color, markersize=7, markeredgecolor="white")
            labels.append(f"{name}, {title}")
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    _plain_numbers(axes.xaxis)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="x", which="major", alpha=0.3)
    axes.set_xlabel("median time / memory floor (log scale; bars: quartiles; line: the floor)")
    axes.set_title("Time over the floor: further left is faster", loc="left")
    present = {row["contender"] for result in workloads.values() for row in result["rows"] if row["median_s"]}
    handles = [
        plt.Line2D([], [], color=c, marker=m, linestyle="", label=n) for n, (c, m) in LOOKS.items() if n in present
    ]
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=4, frameon=False, columnspacing=1
    )


def _plain_numbers(axis: Axis) -> None:
    """1, 2, 5, 10 and so on, not powers; few of them over many decades."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 500 * low else (1.0,)))
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axis.set_minor_formatter("")


def _draw_curve(axes: Axes, curve: dict[str, Any], caches: dict[str, int]) -> None:
    axis = curve["axis"]
    sizes, fitted = np.array(curve["sizes"], dtype=float), np.array(curve["fitted"])
    for job, (color, marker, style) in JOB_LOOKS.items():
        seconds = np.array(curve["seconds"][job])
        label = f"{job_title(job)}: slope {curve['slopes'][job]:.3f}"
        axes.plot(sizes, seconds * 1e3, marker, color=color, markersize=5, label=label)
        used = sizes[fitted]
        middle = np.exp(np.log(seconds[fitted]).mean() - curve["slopes"][job] * np.log(used).mean())
        axes.plot(used, 1e3 * middle * used ** curve["slopes"][job], style, color=color, linewidth=1.2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_numbers(axes.xaxis)
    _plain_numbers(axes.yaxis)
    if axis != "T":
        for name, size in caches.items():
            edge = np.interp(size, curve["step_bytes"], sizes, left=np.nan, right=np.nan)
            axes.axvline(edge, color="0.5", linewidth=1, linestyle=":")
            if np.isfinite(edge):
                axes.annotate(name, (edge, 0.04), xycoords=("data", "axes fraction"), color="0.35", fontsize=8)
    axes.grid(which="major", alpha=0.25)
    axes.set_xlabel(f"{AXES[axis]} ({FIXED_SIZES[axis]})")
    axes.set_ylabel("time, ms")
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    if axis == "S":
        axes.set_title("Growth; lines are fits, dotted: a step's data fill a cache", loc="left", fontsize=11)
