"""Pictures of problems themselves: a map, a graph of states, or the tables, whichever can be read.

Every function returns its figure and neither shows nor saves it.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cai.model_graphs import REWARD_MAP, Arrow, draw_state_graph, graph_places, model_arrows, reward_text
from cai.models.layout import GridLayout
from cai.models.trajectory import TrajectoryModel
from cai.models.zoo import state_places
from cai.plots import _axes, _draw_grid, _grid_size

__all__ = ["plot_model"]

FEW_ARROWS = 24  # up to which every arrow of a graph gets its words
FEW_STATES = 12  # up to which the cells of a table get their numbers
MOST_STATES = 2000  # of a picture
GLYPHS = {(0, 0): "stay", (-1, 0): "↑", (1, 0): "↓", (0, -1): "←", (0, 1): "→",
          (-1, -1): "↖", (-1, 1): "↗", (1, -1): "↙", (1, 1): "↘"}  # fmt: skip


def plot_model(
    model: TrajectoryModel, *, kind: Literal["map", "graph", "tables"] | None = None, ax: Axes | None = None
) -> Figure:
    """A problem's states, actions, probabilities and rewards.

    A map shows each state in its cell, coloured by what entering it pays; framed cells are terminal, grey arrows show
    where the world carries every move, and the lines below it how moves go astray. A graph shows states as circles
    (framed twice where terminal, bold where a run may start) and what the actions do as arrows: with the action, its
    probability and its reward in words; or, where there are too many, with the reward as colour and the probability as
    width. Tables show p(s' | s, a), a panel for each action, with the numbers and rewards in words where they fit.
    Rewards are those of t = 1 where they read the time.

    Args:
        model: the problem.
        kind: "map" (needs a `GridLayout`), "graph" or "tables"; the first that can be read, unless given.
        ax: where to draw a map or a graph; a new figure, unless given.

    Raises:
        TypeError, ValueError: if it is no model, is too large to be drawn, or the kind does not fit.
    """
    if not isinstance(model, TrajectoryModel):
        raise TypeError(f"expected a TrajectoryModel, got {type(model).__name__}; of programs draw the factor graph")
    if kind not in (None, "map", "graph", "tables"):
        raise ValueError(f"kind is {kind!r}; expected 'map', 'graph' or 'tables'")
    num_states, layout = model.mdp.num_states, model.mdp.layout
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
        figure, ax = _axes(ax, _grid_size(layout))
        _draw_map(ax, model, layout, arrows)
    else:
        places = graph_places(model, arrows) if places is None else places
        spelled = len(arrows) <= FEW_ARROWS
        figure, ax = _axes(ax, _graph_size(places, 1.15 if spelled else 1.8))
        draw_state_graph(ax, model, arrows, places, spelled=spelled)
    ax.set_title(_title(model))
    return figure


def _graph_size(places: list[tuple[float, float]], inches: float) -> tuple[float, float]:
    xs, ys = zip(*places, strict=True)
    return min(13.0, inches * (max(xs) - min(xs)) + 3.5), min(10.0, inches * (max(ys) - min(ys)) + 3.0)


def _title(model: TrajectoryModel) -> str:
    mdp = model.mdp
    steps = f"T = {model.horizon}" if model.is_finite else "T infinite"
    states, actions = (
        f"{n} {what}{'s' * (n != 1)}" for n, what in ((mdp.num_states, "state"), (mdp.num_actions, "action"))
    )
    return f"{model.name}: {states}, {actions}, {steps}"


# ---- maps ----------------------------------------------------------------------------------------------------------


def _draw_map(ax: Axes, model: TrajectoryModel, layout: GridLayout, arrows: list[Arrow]) -> None:
    """Cells coloured by what entering them pays on average, with the number where it is not the usual one."""
    mdp = model.mdp
    paid: dict[int, list[float]] = {}
    for arrow in arrows:
        if arrow.state != arrow.following:
            paid.setdefault(arrow.following, []).append(arrow.reward)
    entering = torch.full((mdp.num_states,), math.nan, dtype=torch.float64)
    for state, rewards in paid.items():
        entering[state] = sum(rewards) / len(rewards)
    finite = entering[torch.isfinite(entering)].abs()
    most = float(finite.max()) if len(finite) and float(finite.max()) > 0 else 1.0
    _draw_grid(ax, layout, entering, "reward of entering (reward units)", REWARD_MAP)
    ax.images[-1].set_norm(Normalize(-most, most))
    ax.grid(which="minor", color="0.75", linewidth=0.8)
    texts = {state: _span(rewards) for state, rewards in paid.items()}
    usual = Counter(texts.values()).most_common(1)[0][0] if texts else "0"
    for state, cell in enumerate(layout.cells):
        if cell is None:
            continue
        if texts.get(state, usual) != usual:
            dark = 0.55 * most < abs(float(entering[state])) < math.inf
            color, size = "white" if dark else "black", 8 if len(texts[state]) < 6 else 6
            ax.text(
                cell[1], cell[0] + 0.2, texts[state], ha="center", va="center", fontsize=size, zorder=4, color=color
            )
        if bool(mdp.terminal[state]):
            frame = Rectangle((cell[1] - 0.44, cell[0] - 0.44), 0.88, 0.88, fill=False, edgecolor="black", linewidth=2)
            ax.add_patch(frame).set_zorder(3)
        if float(mdp.initial[state]) > 0:
            ax.plot(cell[1], cell[0] - 0.1, marker="o", markersize=7, mfc="none", mec="black", mew=1.6, zorder=3)
    jumps = _jumps(model, layout, arrows)
    drift = {
        state: step
        for state, step in _drift(layout, arrows).items()
        if state not in jumps and _visited(model, entering, state)
    }
    for state, (down, right) in drift.items():
        cell = layout.cells[state]
        if cell is not None and (down or right):
            norm = math.hypot(down, right)
            x, y = (0.22 * max(abs(down), abs(right)) * part / norm for part in (right, down))
            style = {"arrowstyle": "-|>", "color": "0.45", "lw": 1.8}
            ax.annotate("", (cell[1] + x, cell[0] + y), (cell[1] - x, cell[0] - y), arrowprops=style, zorder=3)
    lines = [f"circle: start; thick frame: terminal; entering any other cell pays {usual}"]
    if bool(entering.isnan()[[c is not None for c in layout.cells]].any()):
        lines.append("grey cell: no move from elsewhere leads there")
    if any(down or right for down, right in drift.values()):
        lines.append("grey arrow: the world carries every move on, by 1 cell, or by 2 where it is longer")
    places: dict[tuple[str, str], int] = Counter(
        (layout.labels[state] if layout.labels else mdp.state_name(state), there) for state, there in jumps.items()
    )
    lines += [f"from {label or 'floor'} every action leads to {there}" for label, there in places]
    lines += _rules(model, layout, arrows, drift)
    ax.set_xlabel("column\n" + "\n".join(lines), fontsize=9)
    figure: Any = ax.get_figure(root=True)
    if len(figure.axes) <= 2:  # ours and its colour bar: make room for the lines
        width, height = figure.get_size_inches()
        figure.set_size_inches(max(width, 7.0), height + 0.2 * len(lines) + 0.4)


def _visited(model: TrajectoryModel, entering: torch.Tensor, state: int) -> bool:
    """Whether a run can come to be there: it starts there, or something leads there."""
    return float(model.mdp.initial[state]) > 0 or not bool(entering[state].isnan())


def _span(rewards: list[float]) -> str:
    low, high = reward_text(min(rewards)), reward_text(max(rewards))
    return low if low == high else f"{low}…{high}"


def _jumps(model: TrajectoryModel, layout: GridLayout, arrows: list[Arrow]) -> dict[int, str]:
    """State -> the name of the one other state that every action leads to, for certain."""
    targets: dict[int, set[int]] = {}
    for arrow in arrows:
        targets.setdefault(arrow.state, set()).add(arrow.following)
    several = model.mdp.available.sum(-1) > 1
    names = {}
    for state, found in targets.items():
        (there, *rest) = found
        if not rest and there != state and bool(several[state]):
            cell = layout.cells[there]
            names[state] = f"row {cell[0]}, column {cell[1]}" if cell is not None else model.mdp.state_name(there)
    return names


def _drift(layout: GridLayout, arrows: list[Arrow]) -> dict[int, tuple[int, int]]:
    """For each live state on the map, by how many rows and columns its moves miss where they point, in the median.

    A wall stops one or two of the moves and leaves the median at 0; a wind moves them all.
    """
    likely: dict[tuple[int, int], Arrow] = {}
    for arrow in arrows:
        key = (arrow.state, arrow.action)
        if key not in likely or arrow.probability > likely[key].probability:
            likely[key] = arrow
    missed: dict[int, list[tuple[int, int]]] = {}
    for (state, action), arrow in likely.items():
        here, there = layout.cells[state], layout.cells[arrow.following]
        points = layout.arrows[action] if layout.arrows else None
        if here is not None and there is not None and points is not None:
            missed.setdefault(state, []).append((there[0] - here[0] - points[0], there[1] - here[1] - points[1]))
    return {
        state: (int(np.trunc(np.median([d for d, _ in steps]))), int(np.trunc(np.median([r for _, r in steps]))))
        for state, steps in missed.items()
    }


def _rules(
    model: TrajectoryModel, layout: GridLayout, arrows: list[Arrow], drift: dict[int, tuple[int, int]]
) -> list[str]:
    """In words, where the action that points right leads: for each kind of cell, from the one where most can happen."""
    points = {step: action for action, step in enumerate(layout.arrows) if step is not None}
    if not points:
        return []
    action = points.get((0, 1), next(iter(points.values())))
    outcomes: dict[int, dict[tuple[int, int], float]] = {}
    for arrow in arrows:
        here, there = layout.cells[arrow.state], layout.cells[arrow.following]
        if arrow.action == action and here is not None and there is not None and drift.get(arrow.state) == (0, 0):
            step = (there[0] - here[0], there[1] - here[1])
            found = outcomes.setdefault(arrow.state, {})
            found[step] = found.get(step, 0.0) + arrow.probability
    widest: dict[str, dict[tuple[int, int], float]] = {}
    for state, found in outcomes.items():
        label = layout.labels[state] if layout.labels else ""
        if all(step in GLYPHS for step in found) and (label not in widest or _tells(found) > _tells(widest[label])):
            widest[label] = found
    free = {label: found for label, found in widest.items() if (0, 0) not in found}  # no wall, no border
    widest = free or dict([max(widest.items(), key=lambda item: _tells(item[1]))] if widest else [])
    by_rule: dict[str, list[str]] = {}
    for label, found in widest.items():
        ranked = sorted(found.items(), key=lambda item: -item[1])
        rule = ", ".join(f"{GLYPHS[step]} {100 * chance:.3g} %" for step, chance in ranked)
        by_rule.setdefault(rule, []).append(label or "floor")
    name = model.mdp.action_name(action)
    plain = len(by_rule) == 1
    return [f"'{name}'{'' if plain else ' on ' + ', '.join(kinds)} leads: {rule}" for rule, kinds in by_rule.items()]


def _tells(found: dict[tuple[int, int], float]) -> tuple[int, float]:
    """How much one sees from what an action does: many outcomes, and few that are stopped by a wall."""
    return len(found), -found.get((0, 0), 0.0)


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
    ax.set_xticks(np.arange(-0.5, size), minor=True)
    ax.set_yticks(np.arange(-0.5, size), minor=True)
    ax.grid(which="minor", color="0.85", linewidth=0.8)
    ax.tick_params(which="minor", length=0)
