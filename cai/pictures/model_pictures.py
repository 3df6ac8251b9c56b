"""Pictures of problems themselves: a map, a graph of states, or the tables, whichever can be read.

Every function returns its figure and neither shows nor saves it.
"""

from __future__ import annotations

import math
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from cai.models.continuous.world import World
from cai.models.trajectory.model import TrajectoryModel
from cai.models.zoo.registry import state_places
from cai.pictures.drawing import cell_borders, grid_size, make_axes
from cai.pictures.model_graphs import Arrow, draw_state_graph, graph_places, model_arrows, reward_text
from cai.pictures.model_maps import draw_map
from cai.pictures.rooms import one_room
from cai.pictures.world_pictures import plot_world

__all__ = ["plot_model"]

FEW_ARROWS = 24  # up to which every arrow of a graph gets its words
FEW_STATES = 12  # up to which the cells of a table get their numbers
MOST_STATES = 2000  # of a picture


def plot_model(
    model: TrajectoryModel | World,
    *,
    kind: Literal["map", "graph", "tables"] | None = None,
    room: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """A problem's states, actions, probabilities and rewards.

    A map shows each state in its cell, coloured by what entering it pays; framed cells are terminal, grey arrows show
    where the world carries every move, and the lines below it how moves go astray. A graph shows states as circles
    (framed twice where terminal, bold where a run may start) and what the actions do as arrows: with the action, its
    probability and its reward in words; or, where there are too many, with the reward as colour and the probability as
    width. Tables show p(s' | s, a), a panel for each action, with the numbers and rewards in words where they fit.
    Rewards are those of t = 1 where they read the time. Of a continuous model its scene is drawn (`plot_world`).

    Args:
        model: the problem.
        kind: "map" (needs a `GridLayout`), "graph" or "tables"; the first that can be read, unless given.
        room: of a map with rooms (`cai.pictures.rooms.rooms_of`), the one to show; all of them, unless given.
        ax: where to draw a map or a graph; a new figure, unless given.

    Raises:
        TypeError, ValueError: if it is no model, is too large to be drawn, or the kind does not fit.
    """
    if isinstance(model, World):
        if kind is not None:
            raise ValueError(f"kind is {kind!r}, and the {model.name} model is continuous; leave it out")
        return plot_world(model, ax=ax)
    if not isinstance(model, TrajectoryModel):
        raise TypeError(f"expected a TrajectoryModel, got {type(model).__name__}; of programs draw the factor graph")
    if kind not in (None, "map", "graph", "tables"):
        raise ValueError(f"kind is {kind!r}; expected 'map', 'graph' or 'tables'")
    num_states, layout = model.mdp.num_states, one_room(model.mdp, room)
    if num_states > MOST_STATES:
        raise ValueError(
            f"the model has {num_states} states; pictures show up to {MOST_STATES}: draw its answers instead"
        )
    if kind == "map" and layout is None:
        raise ValueError("a map needs places for the states: give the MDP a GridLayout, or draw kind='graph'")
    arrows = model_arrows(model)
    places = state_places(model)
    if kind is None:
        readable = places is not None or (len(arrows) <= FEW_ARROWS and num_states <= FEW_STATES)
        kind = "map" if layout is not None else "graph" if readable else "tables"
    if kind == "tables":
        if ax is not None:
            raise ValueError("tables have a panel for each action, and take no ax; leave it out")
        return _plot_tables(model, arrows)
    if kind == "map":
        assert layout is not None
        figure, ax = make_axes(ax, grid_size(layout))
        draw_map(ax, model, layout, arrows)
    else:
        places = graph_places(model, arrows) if places is None else places
        spelled = len(arrows) <= FEW_ARROWS
        own = ax is None
        figure, ax = make_axes(ax, (9.0, 6.0))
        draw_state_graph(ax, model, arrows, places, spelled=spelled)
        if own:
            figure.set_size_inches(_graph_size(ax, spelled))
    ax.set_title(_title(model) + ("" if room is None else f"\n{room}"))
    return figure


def _graph_size(ax: Axes, spelled: bool) -> tuple[float, float]:
    """In inches, with room for the title and the lines below; words need a scale that stays the same."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    bar = 0.0 if spelled else 1.3
    scale = min(1.35 if spelled else 1.9, (15.0 - bar) / (right - left))
    return max(5.5, scale * (right - left) + bar), scale * (high - low) + 1.2


def _title(model: TrajectoryModel) -> str:
    mdp = model.mdp
    steps = f"T = {model.horizon}" if model.is_finite else "T infinite"
    states, actions = (
        f"{n} {what}{'s' * (n != 1)}" for n, what in ((mdp.num_states, "state"), (mdp.num_actions, "action"))
    )
    return f"{model.name}: {states}, {actions}, {steps}"


# ---- tables --------------------------------------------------------------------------------------------------------


def _plot_tables(model: TrajectoryModel, arrows: list[Arrow]) -> Figure:
    mdp = model.mdp
    size, panels = mdp.num_states, mdp.num_actions
    columns = panels if panels <= 3 else math.ceil(math.sqrt(panels))
    rows = -(-panels // columns)
    few = size <= FEW_STATES
    names = [mdp.state_name(s) for s in range(size)]
    upright = max(map(len, names)) <= 3
    side = max(3.2, 0.62 * size) if few else 4.2
    height = side * rows + 1.4 + (0 if upright or not few else 0.08 * rows * max(map(len, names)))
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(side * columns + 1.2, height),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    rewards = [arrow.reward for arrow in arrows if math.isfinite(arrow.reward)] or [0.0]
    norm = Normalize(0, 1) if few else Normalize(min(rewards), max(max(rewards), min(rewards) + 1e-9))
    shades = "Blues" if few else "plasma"
    for action, ax in enumerate(axes.flat):
        if action >= panels:
            ax.set_axis_off()
            continue
        shown = [arrow for arrow in arrows if arrow.action == action]
        if few:
            _draw_table(ax, size, shown)
            ax.set_xticks(range(size), names, rotation=0 if upright else 90, fontsize=8)
            ax.set_yticks(range(size), names, fontsize=8)
        else:
            chances = np.array([arrow.probability for arrow in shown])
            paid = [max(arrow.reward, norm.vmin or 0.0) for arrow in shown]  # -inf counts as the least
            x, y = [arrow.following for arrow in shown], [arrow.state for arrow in shown]
            ax.scatter(x, y, c=paid, cmap=shades, norm=norm, s=chances * max(6.0, (200 / size) ** 2), marker="s")
            ax.set_xlim(-0.5, size - 0.5)
            ax.set_ylim(size - 0.5, -0.5)
        ax.set_aspect("equal")
        ax.set_title(f"action {mdp.action_name(action)}", fontsize=10)
        if action + columns >= panels:
            ax.set_xlabel("next state s'")
    for ax in axes[:, 0]:
        ax.set_ylabel("state s")
    label = "p(s' | s, a)" if few else "reward (reward units)"
    figure.colorbar(ScalarMappable(norm, shades), ax=axes, shrink=0.8, label=label)
    words = "probability, below it the reward (reward units)\ngrey: the action does not exist there, or the end"
    figure.suptitle(f"{_title(model)}\nwhere each action leads: {words if few else 'size is probability'}", fontsize=10)
    return figure


def _draw_table(ax: Axes, size: int, arrows: list[Arrow]) -> None:
    table = np.zeros((size, size))
    for arrow in arrows:
        table[arrow.state, arrow.following] = arrow.probability
    ax.imshow(table, cmap="Blues", vmin=0, vmax=1)
    for state in set(range(size)) - {arrow.state for arrow in arrows}:
        ax.axhspan(state - 0.5, state + 0.5, color="0.88")
    for arrow in arrows:
        text = f"{arrow.probability:.2g}" + (f"\n{reward_text(arrow.reward)}" if arrow.reward else "")
        color = "white" if arrow.probability > 0.6 else "black"
        ax.text(arrow.following, arrow.state, text, ha="center", va="center", fontsize=7, color=color)
    ax.add_collection(cell_borders(size, size, "0.85"), autolim=False)
