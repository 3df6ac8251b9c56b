"""How an iteration over an infinite horizon converges."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cai.inference.core.posterior import Posterior
from cai.models.trajectory.model import TrajectoryModel
from cai.pictures.drawing import TARGET_COLORS

__all__ = ["plot_convergence"]


def plot_convergence(posteriors: Posterior | Iterable[Posterior], *, ax: Axes | None = None) -> Figure:
    """The largest change of a value at every backup of an infinite horizon, and the linear rate that bounds it.

    Wide lines fall at that rate: from the first change where every backup contracts by it (gamma, fixed dynamics), and
    through the last where it is the rate in the end (gamma rho(M), exact target).

    Args:
        posteriors: answers over an infinite horizon by backups alone (`accelerate=False`).
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
                f"the answer of {posterior.backend!r} has no history of backups; infer with horizon=math.inf and "
                "accelerate=False"
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
            ax.plot(
                steps, bound, style, color=color, alpha=0.35, linewidth=4, label=f"falls by {float(rate):.3g} a backup"
            )
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
