"""Graphs of states: circles for states, arrows for what actions do, laid out from the start to the ends."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import networkx
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.offsetbox import AnnotationBbox, TextArea, VPacker
from matplotlib.patches import Circle, FancyArrowPatch

from cai.models.trajectory.model import TrajectoryModel

__all__ = [
    "REWARD_MAP",
    "Arrow",
    "draw_arrow",
    "draw_state_graph",
    "fit_axes",
    "graph_places",
    "model_arrows",
    "nearest",
    "reward_text",
    "state_text",
]

# Okabe and Ito's palette without its yellow, which is too light for words.
ACTION_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
REWARD_MAP = "RdBu"
RADIUS = 0.2
CONVERGES = 3  # arrows into a state from which on their words move towards where they come from

Place = tuple[float, float]


@dataclass(frozen=True)
class Arrow:
    """One thing that an action may do in a nonterminal state: with which probability, and at which mean reward."""

    state: int
    action: int
    following: int
    probability: float
    reward: float


def model_arrows(model: TrajectoryModel) -> list[Arrow]:
    """What actions do in every nonterminal state, outcomes with the same next state together; of t = 1."""
    mdp = model.host.mdp
    probabilities = mdp.probabilities.detach()
    rewards = model.host.reward_table(0).detach().expand_as(probabilities)
    following = mdp.successors().expand_as(probabilities)
    real = (probabilities > 0) & mdp.available[..., None] & ~mdp.terminal[:, None, None]
    found: dict[tuple[int, int, int], list[tuple[float, float]]] = {}
    for s, a, k in torch.nonzero(real).tolist():
        key = (s, a, int(following[s, a, k]))
        found.setdefault(key, []).append((float(probabilities[s, a, k]), float(rewards[s, a, k])))
    arrows = []
    for key, outcomes in found.items():
        total = math.fsum(probability for probability, _ in outcomes)
        arrows.append(Arrow(*key, total, math.fsum(p * r for p, r in outcomes) / total))
    return arrows


def reward_text(value: float) -> str:
    """A reward in a few characters, with its sign."""
    digits = f"{value:+.3g}" if abs(value) < 1000 or not math.isfinite(value) else f"{value:+,.0f}"
    return digits.replace("-", "−") if value else "0"


def draw_state_graph(
    ax: Axes, model: TrajectoryModel, arrows: Sequence[Arrow], places: Sequence[Place], *, spelled: bool
) -> None:
    """Draws states and what leads from one to the other.

    Args:
        ax: where to.
        model: the problem.
        arrows: of `model_arrows`.
        places: (x, y) of each state.
        spelled: describe arrows in words; else colour them by reward.
    """
    pairs: dict[tuple[int, int], list[Arrow]] = {}
    for arrow in arrows:
        pairs.setdefault((arrow.state, arrow.following), []).append(arrow)
    converging = Counter(following for state, following in pairs if state != following)
    near = nearest(places)
    radius = RADIUS if spelled else 0.36 * near
    rewards = [arrow.reward for arrow in arrows if math.isfinite(arrow.reward)] or [0.0]
    shade = ScalarMappable(Normalize(min(rewards), max(max(rewards), min(rewards) + 1e-9)), "plasma")
    words: list[Place] = []
    for (state, following), group in pairs.items():
        if spelled:
            color: Any = ACTION_COLORS[group[0].action % len(ACTION_COLORS)] if len(group) == 1 else "0.35"
            width = 1.6
        else:
            likely = max(group, key=lambda arrow: arrow.probability)
            color = shade.to_rgba(np.array(max(likely.reward, min(rewards))))
            width = 0.5 + 1.5 * likely.probability
        bend = _bend(places, state, following, (following, state) in pairs, radius) if spelled else 0.2
        share = 0.35 if converging[following] > CONVERGES and (following, state) not in pairs else 0.5
        here = draw_arrow(ax, places[state], places[following], radius, bend, share, color, width)
        if spelled:
            words.append(here)
            _describe(ax, model, group, here, above=state == following)
    for state, place in enumerate(places):
        _draw_state(ax, model, state, place, radius, spelled)
    room = 0.6 if spelled else near
    fit_axes(ax, (*places, *words), room)
    note = "arrows: action, probability, reward (reward units)" if spelled else "arrows: actions; width: probability"
    ax.set_xlabel(f"{note}\nbold circle: start, double circle: terminal", fontsize=9)
    if not spelled:
        figure: Any = ax.get_figure(root=True)
        figure.colorbar(shade, ax=ax, label="reward of an arrow (reward units)", shrink=0.8)


def nearest(places: Sequence[Place]) -> float:
    """The distance of the two places that are nearest to each other."""
    return min((math.dist(a, b) for i, a in enumerate(places) for b in places[:i]), default=1.0)


def fit_axes(ax: Axes, places: Sequence[Place], room: float) -> None:
    """Axes without a frame, just wide enough for places and some room around them."""
    xs, ys = [x for x, _ in places], [y for _, y in places]
    ax.set_xlim(min(xs) - room, max(xs) + room)
    ax.set_ylim(min(ys) - room, max(ys) + room)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def graph_places(model: TrajectoryModel, arrows: Sequence[Arrow]) -> list[Place]:
    """(x, y) of each state: from left to right by the number of steps from the first one, by `networkx`.

    Terminal states come last; those that many states lead to, above and below the middle.
    """
    mdp = model.mdp
    graph: networkx.DiGraph[int] = networkx.DiGraph()
    graph.add_nodes_from(range(mdp.num_states))
    graph.add_edges_from((arrow.state, arrow.following) for arrow in arrows)
    ends = mdp.terminal.tolist()
    first = 0 if not ends[0] else int(torch.nonzero(mdp.initial > 0)[0])
    steps = networkx.single_source_shortest_path_length(graph, first)
    nonterminal = [state for state in graph if not ends[state]]
    last = max((steps[state] for state in nonterminal if state in steps), default=0)
    lost = last + 1 if any(state not in steps for state in nonterminal) else last
    layers: dict[int, list[int]] = {}
    central = [state for state in graph if ends[state] and graph.in_degree(state) > CONVERGES]
    for state in graph:
        if state not in central:
            layers.setdefault(lost + 1 if ends[state] else steps.get(state, lost), []).append(state)
    places: dict[int, Place] = {}
    across = max(1.7, 1.3 * max(map(len, layers.values())))  # as wide as high where there are few layers
    for layer, states in layers.items():
        for i, state in enumerate(states):
            places[state] = (across * layer, 1.9 * ((len(states) - 1) / 2 - i))
    edge = max((abs(y) for _, y in places.values()), default=0.0)
    for i, state in enumerate(central):
        middle = sum(places[before][0] for before in graph.predecessors(state)) / graph.in_degree(state)
        places[state] = (middle, (edge + 2.4 + 1.2 * (i // 2)) * (-1) ** i)
    return [places[state] for state in range(mdp.num_states)]


def _bend(places: Sequence[Place], state: int, following: int, both: bool, radius: float) -> float:
    """How far an arrow leaves the straight line to the right, as a part of its length.

    The least that keeps clear of other states, and of the arrow the other way if there is one.
    """
    if state == following:
        return 0.0
    start, end = places[state], places[following]
    others = [place for i, place in enumerate(places) if i not in (state, following)]
    if not others:
        return 0.34 if both else 0.0

    def clearance(bend: float) -> float:
        return min(math.dist(place, _on_curve(start, end, bend, k / 20)) for k in range(1, 20) for place in others)

    ways = (0.34, 0.5) if both else (0.0, 0.3, -0.3, 0.45, -0.45, 0.15, -0.15, 0.6, -0.6)
    return next((way for way in ways if clearance(way) > 1.15 * radius), max(ways, key=clearance))


def _on_curve(start: Place, end: Place, bend: float, share: float) -> Place:
    """A point of the quadratic curve whose control point lies bend * length to the right of the middle."""
    (x, y), (u, v) = start, end
    control = ((x + u) / 2 + bend * (v - y), (y + v) / 2 - bend * (u - x))
    weights = ((1 - share) ** 2, 2 * share * (1 - share), share**2)
    points = (start, control, end)
    return (
        sum(w * point[0] for w, point in zip(weights, points, strict=True)),
        sum(w * point[1] for w, point in zip(weights, points, strict=True)),
    )


def draw_arrow(
    ax: Axes, start: Place, end: Place, radius: float, bend: float, share: float, color: Any, width: float
) -> Place:
    """Draws one arrow; returns where its words go, at a share of its way."""
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 11, "color": color, "lw": width, "zorder": 2}
    (x, y), (u, v) = start, end
    length = math.dist(start, end)
    if length == 0:
        left, right = (x - 0.6 * radius, y + 0.8 * radius), (x + 0.6 * radius, y + 0.8 * radius)
        ax.add_patch(FancyArrowPatch(left, right, connectionstyle="arc3,rad=-1.9", shrinkA=0, shrinkB=0, **style))
        return x, y + 2.1 * radius
    # Between the rims of the circles, so that arrows of every length begin and stop at them.
    along = (radius * (u - x) / length, radius * (v - y) / length)
    begins, stops = (x + along[0], y + along[1]), (u - along[0], v - along[1])
    ax.add_patch(FancyArrowPatch(begins, stops, connectionstyle=f"arc3,rad={bend}", shrinkA=1, shrinkB=1, **style))
    return _on_curve(begins, stops, bend, share)


def _describe(ax: Axes, model: TrajectoryModel, group: Sequence[Arrow], here: Place, above: bool) -> None:
    lines: list[Any] = []
    for arrow in group:
        pays = f", {reward_text(arrow.reward)}" if arrow.reward else ""
        text = f"{model.mdp.action_name(arrow.action)}: {arrow.probability:.3g}{pays}"
        color = ACTION_COLORS[arrow.action % len(ACTION_COLORS)]
        lines.append(TextArea(text, textprops={"color": color, "fontsize": 8}))
    packed = VPacker(children=lines, pad=0, sep=1, align="center")
    corner = (0.5, 0.0 if above else 0.5)
    box = AnnotationBbox(packed, here, frameon=True, pad=0.1, zorder=4, box_alignment=corner)
    box.patch.set(facecolor="white", edgecolor="none")
    ax.add_artist(box)


def state_text(model: TrajectoryModel, state: int) -> str:
    """The name of a state in short lines."""
    return model.mdp.state_name(state).replace(" -> ", "→\n").replace(" ", "\n")


def _draw_state(ax: Axes, model: TrajectoryModel, state: int, place: Place, radius: float, spelled: bool) -> None:
    starts = float(model.mdp.initial[state]) > 0
    rim = 2.6 if starts else 1.0
    ax.add_patch(Circle(place, radius, facecolor="#f4f4f4", edgecolor="black", linewidth=rim, zorder=3))
    if bool(model.mdp.terminal[state]):
        ax.add_patch(Circle(place, 0.85 * radius, fill=False, edgecolor="black", linewidth=1.0, zorder=3.1))
    name = state_text(model, state)
    longest = max(len(line) for line in name.split("\n"))
    size = min(9.0, 46 / max(longest, 4)) if spelled else 6.5
    ax.text(*place, name, ha="center", va="center", fontsize=size, linespacing=0.9, zorder=3.5)
