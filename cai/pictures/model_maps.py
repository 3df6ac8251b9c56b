"""Maps of problems on grids: what cells pay, where they end, and how moves go astray."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from cai.models.processes.layout import GridLayout
from cai.models.trajectory.model import TrajectoryModel
from cai.pictures.drawing import draw_grid
from cai.pictures.model_graphs import REWARD_MAP, Arrow, reward_text

__all__ = ["draw_map"]

GLYPHS = {(0, 0): "stay", (-1, 0): "↑", (1, 0): "↓", (0, -1): "←", (0, 1): "→",
          (-1, -1): "↖", (-1, 1): "↗", (1, -1): "↙", (1, 1): "↘"}  # fmt: skip


def draw_map(ax: Axes, model: TrajectoryModel, layout: GridLayout, arrows: list[Arrow]) -> None:
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
    draw_grid(ax, layout, entering, "reward of entering (reward units)", REWARD_MAP, borders="0.75", mdp=mdp)
    ax.images[-1].set_norm(Normalize(-most, most))
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
        carried = [arrow for arrow in _likeliest(arrows).values() if drift.get(arrow.state, (0, 0)) != (0, 0)]
        least = min(arrow.probability for arrow in carried)
        if least < 1 - 1e-9:
            lines[-1] += f"\nor less, or more: the likeliest outcome there has {100 * least:.3g} %"
    places: dict[tuple[str, str], int] = Counter(
        (layout.labels[state] if layout.labels else mdp.state_name(state), there) for state, there in jumps.items()
    )
    lines += [f"from {label or 'floor'} every action leads to {there}" for label, there in places]
    lines += _rules(model, layout, arrows, drift)
    lines += _deeds(model, layout, arrows)
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
    """For each nonterminal state on the map, by how many rows and columns its moves miss their aim, in the median.

    A wall stops one or two of the moves and leaves the median at 0; a wind moves them all.
    """
    missed: dict[int, list[tuple[int, int]]] = {}
    for (state, action), arrow in _likeliest(arrows).items():
        here, there = layout.cells[state], layout.cells[arrow.following]
        points = layout.arrows[action] if layout.arrows else None
        if here is not None and there is not None and points is not None:
            missed.setdefault(state, []).append((there[0] - here[0] - points[0], there[1] - here[1] - points[1]))
    return {
        state: (int(np.trunc(np.median([d for d, _ in steps]))), int(np.trunc(np.median([r for _, r in steps]))))
        for state, steps in missed.items()
    }


def _likeliest(arrows: list[Arrow]) -> dict[tuple[int, int], Arrow]:
    """(state, action) -> what most probably happens."""
    likely: dict[tuple[int, int], Arrow] = {}
    for arrow in arrows:
        key = (arrow.state, arrow.action)
        if key not in likely or arrow.probability > likely[key].probability:
            likely[key] = arrow
    return likely


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
    name = f"'{model.mdp.action_name(action)}'"
    name = f"elsewhere {name}" if any(step != (0, 0) for step in drift.values()) else name
    plain = len(by_rule) == 1
    return [f"{name}{'' if plain else ' on ' + ', '.join(kinds)} leads: {rule}" for rule, kinds in by_rule.items()]


def _deeds(model: TrajectoryModel, layout: GridLayout, arrows: list[Arrow]) -> list[str]:
    """In words, what the actions pay that point nowhere on the map: whether they change the state, or end the run."""
    lines = []
    for action, step in enumerate(layout.arrows):
        if step is not None:
            continue
        paid: dict[str, set[str]] = {}
        for arrow in arrows:
            if arrow.action == action and layout.cells[arrow.state] is not None:
                ends = bool(model.mdp.terminal[arrow.following])
                kind = "at the end" if ends else "in vain" if arrow.state == arrow.following else "where it counts"
                paid.setdefault(kind, set()).add(reward_text(arrow.reward))
        parts = [f"{'…'.join(sorted(rewards))} {kind}" for kind, rewards in sorted(paid.items(), reverse=True)]
        if parts:
            lines.append(f"'{model.mdp.action_name(action)}' pays {', '.join(parts)}")
    return lines


def _tells(found: dict[tuple[int, int], float]) -> tuple[int, float]:
    """How much one sees from what an action does: many outcomes, and few that are stopped by a wall."""
    return len(found), -found.get((0, 0), 0.0)
