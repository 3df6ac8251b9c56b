"""Curves: one option of a backend from end to end, and how an iteration settles."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cai.inference.core.posterior import Posterior
from cai.models.trajectory.model import TrajectoryModel
from cai.pictures.drawing import REAL_COLOR, TARGET_COLORS

if TYPE_CHECKING:
    from cai.studies.sweep import Sweep

__all__ = ["plot_convergence", "plot_sweep"]

WORST_COLOR = "#CC79A7"  # Okabe and Ito's purple


def plot_sweep(sweep: Sweep, *, figsize: tuple[float, float] | None = None) -> Figure:
    """Believed and real return and the mean of the worst returns; the optimism gap; the luck; against one option.

    Values beyond +-1 are spread on a logarithmic axis where the option covers more than two decades.

    Args:
        sweep: from `cai.sweep`, over an option of numbers.
        figsize: in inches.

    Raises:
        ValueError: if the option's values are not numbers.
    """
    if any(isinstance(value, (bool, str)) or not isinstance(value, (int, float)) for value in sweep.values):
        raise ValueError(f"{sweep.option} takes values that are not numbers; use sweep.comparison.plot()")
    order = sorted(range(len(sweep.values)), key=lambda i: sweep.values[i])
    rows = [sweep.comparison.rows[i] for i in order]
    x = np.array([float(sweep.values[i]) for i in order])
    color = TARGET_COLORS.get(rows[0].target, REAL_COLOR)
    figure, axes = plt.subplots(1, 3, figsize=figsize or (13.5, 4.2), layout="constrained")
    unit = "reward units" if isinstance(sweep.comparison.model, TrajectoryModel) else "nats"
    outcomes = [row.outcome for row in rows]
    left, middle, right = axes
    _line(left, x, (row.believed_return for row in rows), color, "believed", "o")
    _line(left, x, (row.real_return for row in rows), REAL_COLOR, "real", "s")
    tail = next((outcome.tail for outcome in outcomes if outcome), 0.05)
    worst = f"real, mean of the worst {tail:.0%}"
    _line(left, x, (outcome.cvar if outcome else None for outcome in outcomes), WORST_COLOR, worst, "v")
    left.set_ylabel(f"return ({unit})")
    left.set_title("Return")
    left.legend(fontsize=9, framealpha=0.9, edgecolor="none")
    _line(middle, x, (row.optimism_gap for row in rows), color, "", "o")
    middle.axhline(0, color="0.2", linewidth=0.8)
    middle.set_ylabel(f"believed minus real return ({unit})")
    middle.set_title("Optimism gap")
    _line(right, x, (row.luck for row in rows), color, "", "o")
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
    note = f"; {len(failed)} of {len(rows)} values have no answer" if failed else ""
    name = sweep.comparison.model.name if isinstance(sweep.comparison.model, TrajectoryModel) else "a program"
    figure.suptitle(f"{sweep.backend} on {name}, over {sweep.option}{note}")
    return figure


def plot_convergence(posteriors: Posterior | Iterable[Posterior], *, ax: Axes | None = None) -> Figure:
    """The largest change of a value at every backup of an infinite horizon, and the linear rate that bounds it.

    Wide lines fall at that rate: from the first change where every backup contracts by it (gamma, fixed dynamics), and
    through the last where it is the rate in the end (gamma rho(M), exact target).

    Args:
        posteriors: answers over an infinite horizon, each of a backend that backs up.
        ax: where to draw; a new figure, unless given.

    Raises:
        ValueError: if an answer has no such history.
    """
    every = [posteriors] if isinstance(posteriors, Posterior) else list(posteriors)
    if ax is None:
        _, ax = plt.subplots(figsize=(7.0, 4.4), layout="constrained")
    figure: Any = ax.get_figure(root=True)
    if not every:
        raise ValueError("there is nothing to draw; give at least one posterior over an infinite horizon")
    for place, posterior in enumerate(every):
        changes = np.array(posterior.details.get("changes", ()))
        if not changes.size:
            raise ValueError(
                f"the answer of {posterior.backend!r} has no history of backups; infer with horizon=math.inf"
            )
        color = TARGET_COLORS[posterior.target.value]
        steps = np.arange(1, len(changes) + 1)
        style = ("-", "--", ":", "-.")[place % 4]
        shown = np.where((changes > 0) & np.isfinite(changes), changes, np.nan)
        ax.plot(steps, shown, style, color=color, label=_describe(posterior))
        rate = posterior.details.get("rate")
        if rate and np.isfinite(shown).any():
            # A contraction is bounded from its first change on; a spectral radius tells how the last ones fall.
            known = np.flatnonzero(np.isfinite(shown))
            anchor = int(known[0] if posterior.details["contracts"] else known[-1])
            bound = shown[anchor] * float(rate) ** (steps - 1 - anchor)
            bound[(bound < 0.1 * np.nanmin(shown)) | (bound > 10 * np.nanmax(shown))] = np.nan
            ax.plot(steps, bound, color=color, alpha=0.35, linewidth=4)
    ax.set_yscale("log")
    ax.set_xlabel("backup")
    ax.set_ylabel("largest change of a value (nats)")
    ax.set_title("Backups over an infinite horizon; wide lines fall at the stated rate")
    ax.legend(frameon=False, fontsize=9)
    ax.grid(alpha=0.3)
    return figure


def _describe(posterior: Posterior) -> str:
    rate = posterior.details.get("rate")
    model = posterior.model
    discount = f", discount {model.discount:g}" if isinstance(model, TrajectoryModel) else ""
    return f"{posterior.backend}{discount}" + (f", rate {rate:.3g}" if rate is not None else "")


def _line(ax: Axes, x: np.ndarray, values: Iterable[float | None], color: str, label: str, marker: str) -> None:
    y = [value if value is not None and math.isfinite(value) else math.nan for value in values]
    ax.plot(x, y, color=color, label=label, marker=marker, markersize=4, linewidth=1.4)
