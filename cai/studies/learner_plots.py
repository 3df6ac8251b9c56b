"""Pictures of learners in their worlds: bounds and returns, which are estimates, and where a policy goes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cai.evaluation.evaluate import evaluate
from cai.models.trajectory.model import TrajectoryModel
from cai.pictures.drawing import MASS_MAP, REAL_COLOR, TARGET_COLORS, spread_out, target_title
from cai.pictures.plots import plot_map
from cai.policies.policy import Policy
from cai.policies.tabulated import tabulated

if TYPE_CHECKING:
    from cai.studies.comparison import Comparison, Row

__all__ = ["plot_learners", "plot_occupancy"]

WIDEST = 34  # letters of a name in one line


def plot_learners(comparison: Comparison, *, figsize: tuple[float, float] | None = None) -> Figure:
    """Bounds and returns of learners in an environment, with two standard errors to each side.

    Args:
        comparison: from `cai.compare`, of an `EnvironmentModel`.
        figsize: in inches.
    """
    rows = comparison.rows
    figure, axes = plt.subplots(
        1, 2, figsize=figsize or (9.5, 1.7 + 0.7 * len(rows)), sharey=True, layout="constrained"
    )
    left, right = axes
    colors = [TARGET_COLORS.get(row.target, REAL_COLOR) for row in rows]
    played = [row.of_episodes() for row in rows]
    for place, row in enumerate(rows):
        _point(left, place, row.elbo, row.elbo_error, colors[place], "o", "" if row.status.ok else row.status.label)
        for shift, name, marker in ((-0.12, "stochastic_return", "o"), (0.12, "deterministic_return", "D")):
            color = colors[place] if marker == "o" else REAL_COLOR
            why = "" if row.status.ok or marker == "o" else row.status.label
            _point(right, place + shift, played[place][name], played[place][f"{name}_error"], color, marker, why)
    left.set_xlabel("bound (nats)")
    left.set_title("Bound of the policy")
    right.set_xlabel("sum of rewards of an episode (reward units)")
    right.set_title("Return of its episodes")
    kinds = ((colors[0], "o", "actions drawn"), (REAL_COLOR, "D", "mean or most probable actions"))
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="none", label=label) for color, marker, label in kinds
    ]
    right.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, frameon=False, fontsize=9)
    left.set_yticks(np.arange(len(rows)), _names(rows))
    left.set_ylim(len(rows) - 0.5, -0.5)
    for ax in axes:
        ax.grid(axis="x", alpha=0.3)
    spread_out(figure)
    name = "an environment" if comparison.model is None else comparison.model.name
    figure.suptitle(f"Learners in {name}; bars: two standard errors")
    return figure


def _names(rows: Sequence[Row]) -> list[str]:
    """Of backends and targets; with the options of a backend where it was asked more than once."""
    plain = [row.backend.split("(")[0] for row in rows]
    names = [
        name if plain.count(name) == 1 else textwrap.fill(row.backend, WIDEST)
        for name, row in zip(plain, rows, strict=True)
    ]
    return [target_title(name, row.target).replace(" (", "\n(") for name, row in zip(names, rows, strict=True)]


def _point(ax: Axes, place: float, mean: float | None, error: float | None, color: str, marker: str, why: str) -> None:
    """An estimate with its error; in its place why there is none."""
    if mean is None or not math.isfinite(mean):
        ax.annotate(why, (0.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=9, color="0.3")
        return
    spread = 2 * error if error is not None and math.isfinite(error) else 0.0
    ax.errorbar([mean], [place], xerr=[spread], fmt=marker, color=color, capsize=4, markersize=6)


def plot_occupancy(policy: Any, model: TrajectoryModel, *, observe: Any = "one-hot", ax: Axes | None = None) -> Figure:
    """How often a policy is in each state of a model in expectation, exactly: on its map, or as bars.

    Args:
        policy: over states; or of networks that were learned in `vector_environment(model, ...)`.
        model: the model.
        observe: how such networks see its states.
        ax: where to draw; a new figure, unless given.
    """
    acts = policy if isinstance(policy, Policy) else tabulated(policy, model, observe=observe)
    visits = evaluate(acts, model).occupancy.sum(0)
    figure = plot_map(model, visits, "expected visits", colors=MASS_MAP, ax=ax)
    drawn = ax if ax is not None else figure.axes[0]
    drawn.set_title(f"Expected visits of {acts.source or 'the policy'} on {model.name}")
    return figure
