"""Values of a network whose states have places in the plane: circles coloured by value, arrows as the policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.patches import Circle
from torch import Tensor

from cai.models.trajectory.model import TrajectoryModel
from cai.pictures.model_graphs import Place, draw_arrow, fit_axes, model_arrows, nearest, state_text

__all__ = ["draw_value_graph"]

RARE = 0.01  # outcomes of less probability under the policy have no arrow


def draw_value_graph(
    ax: Axes,
    model: TrajectoryModel,
    places: Sequence[Place],
    values: Tensor,
    action_probs: Tensor,
    label: str,
    colors: str,
    limits: tuple[float, float] | None,
    *,
    bar: bool,
    size: float,
) -> None:
    """Draws one number for each state where it lies, and where its policy leads.

    Args:
        ax: where to.
        model: the problem.
        places: (x, y) of each state.
        values: [S]; NaN, which stays light, where there is none, as is -inf, which is hatched.
        action_probs: [S, A], the policy.
        label: what the numbers are, with their unit.
        colors: a colour map of matplotlib.
        limits: the ends of the colour scale; those of the numbers, unless given.
        bar: whether there is a colour bar.
        size: of the letters, in points.
    """
    radius = 0.36 * nearest(places)
    numbers = np.ma.masked_invalid(values.numpy())
    low, high = limits or ((float(numbers.min()), float(numbers.max())) if numbers.count() else (0.0, 1.0))
    scale = Normalize(low, high if high > low else low + 1)
    circles = PatchCollection([Circle(place, radius) for place in places], cmap=colors, norm=scale, zorder=3)
    circles.set_array(numbers)
    circles.cmap = circles.cmap.with_extremes(bad="0.92")
    circles.set_edgecolor("black")
    circles.set_linewidth([2.4 if chance > 0 else 0.8 for chance in model.mdp.initial.tolist()])
    ax.add_collection(circles)
    flow: dict[tuple[int, int], float] = {}
    for arrow in model_arrows(model):
        pair = (arrow.state, arrow.following)
        flow[pair] = flow.get(pair, 0.0) + arrow.probability * float(action_probs[arrow.state, arrow.action])
    for (state, following), share in flow.items():
        if share >= RARE:
            draw_arrow(ax, places[state], places[following], radius, 0.2, 0.5, "0.25", 0.3 + 2.2 * share)
    for state, place in enumerate(places):
        if bool(model.mdp.terminal[state]):
            ax.add_patch(Circle(place, 0.85 * radius, fill=False, edgecolor="black", linewidth=0.8, zorder=3.1))
        if float(values[state]) == -math.inf:
            ax.add_patch(Circle(place, radius, fill=False, hatch="xxxx", edgecolor="0.5", zorder=3.05))
        shade = circles.cmap(scale(values[state].item())) if math.isfinite(float(values[state])) else (1.0, 1.0, 1.0)
        dark = 0.3 * shade[0] + 0.59 * shade[1] + 0.11 * shade[2] < 0.5
        style: dict[str, Any] = {"fontsize": size, "linespacing": 0.9, "color": "white" if dark else "black"}
        ax.text(*place, state_text(model, state), ha="center", va="center", zorder=3.5, **style)
    fit_axes(ax, places, nearest(places))
    ax.set_xlabel("width of arrows: the policy\nbold circle: start, double circle: terminal", fontsize=9)
    if bar:
        figure: Any = ax.get_figure(root=True)
        figure.colorbar(circles, ax=ax, label=label, shrink=0.85)
