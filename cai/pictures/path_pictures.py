"""The paths that answers bet on: the most probable trajectory of each, on one map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from cai.inference.core.most_probable import most_probable_trajectory
from cai.inference.core.posterior import Posterior
from cai.models.processes.layout import GridLayout
from cai.models.trajectory.model import TrajectoryModel
from cai.pictures.drawing import TARGET_COLORS, draw_grid, grid_size, make_axes, target_title

__all__ = ["plot_paths"]

STYLES = ("-", "--", ":", "-.")
FLOOR = ListedColormap(["0.97"], name="floor")
APART = 0.13  # of a cell, between paths that share cells


def plot_paths(
    posteriors: Posterior | Sequence[Posterior],
    *,
    labels: Sequence[str] | None = None,
    colors: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """The most probable trajectory of each answer as a line on the map: what its plan bets on.

    Paths are drawn a little apart, so that none hides another; a dot marks each step, a square the last cell.

    Args:
        posteriors: answers over a finite horizon about models on one map.
        labels: a text for each in the legend; its backend and target, unless given.
        colors: a colour for each; that of its target, unless given.
        ax: where to draw; a new figure, unless given.

    Raises:
        ValueError: without an answer or a map, over an infinite horizon, or where labels or colours are not one each.
    """
    answers = [posteriors] if isinstance(posteriors, Posterior) else list(posteriors)
    layout = _layout(answers)
    for what, given in (("labels", labels), ("colors", colors)):
        if given is not None and len(given) != len(answers):
            raise ValueError(f"{what} holds {len(given)} entries for {len(answers)} answers; give one each")
    mdp = answers[0].model.mdp
    wide, high = grid_size(layout)
    alone = ax is None
    figure, ax = make_axes(ax, (max(7.0, wide), high + 0.3 * len(answers) + 0.4))
    draw_grid(ax, layout, torch.zeros(mdp.num_states), "", FLOOR, borders="0.8", mdp=mdp)
    bar = ax.images[-1].colorbar
    if bar is not None:
        bar.remove()  # the floor has one colour, which means nothing
    for place, answer in enumerate(answers):
        target = str(answer.target)
        color = colors[place] if colors is not None else TARGET_COLORS[target]
        label = labels[place] if labels is not None else target_title(answer.backend, target)
        shift = APART * (place - (len(answers) - 1) / 2)
        x, y = _steps(answer, layout, shift)
        twice = sum(str(other.target) == target for other in answers[:place])
        ax.plot(x, y, STYLES[twice % len(STYLES)], color="white", linewidth=5.5, label="_halo", zorder=4.5)
        ax.plot(
            x, y, STYLES[twice % len(STYLES)], color=color, linewidth=3, marker="o", markersize=5, label=label, zorder=5
        )
        ax.plot(x[-1:], y[-1:], "s", color=color, markersize=10, zorder=5)
    ax.set_title("The most probable path of each plan")
    if alone:
        figure.legend(loc="outside lower center", frameon=False, fontsize=11)
    else:
        ax.legend(loc="best", fontsize=9)
    return figure


def _layout(answers: Sequence[Posterior]) -> GridLayout:
    """The map that all answers are about."""
    if not answers:
        raise ValueError("there is no answer to draw a path of; give at least one posterior")
    for answer in answers:
        model = answer.model
        layout = model.mdp.layout if isinstance(model, TrajectoryModel) else None
        if layout is None:
            raise ValueError(
                f"the answer of {answer.backend!r} is about a problem without a map; "
                "cai.inference.most_probable_trajectory(posterior) gives its most probable states as numbers"
            )
        if layout != answers[0].model.mdp.layout:
            raise ValueError("the answers are about different maps; draw them in pictures of their own")
    found: GridLayout = answers[0].model.mdp.layout
    return found


def _steps(answer: Posterior, layout: GridLayout, shift: float) -> tuple[list[float], list[float]]:
    """Columns and rows of the most probable states, up to where it stays for good or leaves the map."""
    states, _, _ = most_probable_trajectory(answer)
    cells = [layout.cells[s] for s in states.tolist() if s < len(layout.cells)]
    visited = [cell for cell in cells if cell is not None]
    while len(visited) > 1 and visited[-1] == visited[-2]:
        visited.pop()
    return [column + shift for _, column in visited], [row + shift for row, _ in visited]
