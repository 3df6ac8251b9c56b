"""Pictures of answers. Every function returns its figure and neither shows nor saves it.

In a notebook end the line with a semicolon: the figure is drawn once by the cell, and would be again as its value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target
from cai.inference.gaussian.posterior import GaussianPosterior
from cai.inference.tabular.forward_messages import forward_messages
from cai.models.continuous.world import World
from cai.models.processes.layout import GridLayout
from cai.models.processes.mdp import MDP
from cai.models.trajectory.model import TrajectoryModel
from cai.models.zoo.registry import state_places
from cai.pictures.drawing import (
    FEW_STATES,
    LUCK_MAP,
    MASS_MAP,
    REAL_COLOR,
    TARGET_COLORS,
    VALUE_MAP,
    check_limits,
    draw_grid,
    draw_over_time,
    grid_size,
    make_axes,
    nats_text,
    spread_out,
    target_title,
)
from cai.pictures.gaussian_pictures import plot_luck_over_time, plot_value_contours
from cai.pictures.message_maps import draw_message_maps
from cai.pictures.rooms import one_room
from cai.pictures.value_graphs import draw_value_graph

__all__ = [
    "REAL_COLOR",
    "TARGET_COLORS",
    "plot_luck",
    "plot_map",
    "plot_messages",
    "plot_values",
]

MESSAGE_FLOOR = -12.0  # nats
BELOW_BLACK = 1.25  # the darkest luck must not look like a wall


def plot_values(
    posterior: Posterior,
    *,
    t: int = 0,
    limits: Sequence[float] | None = None,
    colors: str = VALUE_MAP,
    ax: Axes | None = None,
    bar: bool = True,
    room: str | None = None,
) -> Figure:
    """Soft values as a map, with the policy as arrows; without a layout, values over states and time.

    Of a network of the zoo whose states have places (`small-roads`), the map is the network.

    Of a Gaussian answer: contours over two coordinates of the state (`cai.pictures.plot_value_contours`).

    Args:
        posterior: an answer that knows its values.
        t: the time index whose values and policy are shown on a map.
        limits: the ends of the colour scale, in reward units; those of the data, unless given. Maps that are read side
            by side get the same here, or by `cai.pictures.share_scale` afterwards.
        colors: a colour map of matplotlib.
        ax: where to draw; a new figure, unless given.
        bar: whether a map gets a colour bar; of maps side by side on one scale, one is enough.
        room: of a map with rooms (`cai.pictures.rooms.rooms_of`), the one to show; all of them, unless given.

    Raises:
        ValueError: if the backend does not know values, or limits are no two ends of a scale.
    """
    if isinstance(posterior, GaussianPosterior):
        return plot_value_contours(posterior, t=t, limits=limits, colors=colors, ax=ax)
    model, ends = _model(posterior), check_limits(limits)
    if posterior.values is None:
        raise ValueError(f"backend {posterior.backend!r} does not know values; use 'exact' or 'variational'")
    layout = one_room(model.mdp, room)
    streets = state_places(model) if layout is None and model.host is model else None
    if layout is None and streets is None:
        figure, ax = make_axes(ax, (7.0, 4.2))
        draw_over_time(ax, posterior.values.detach(), model, "value (reward units)", colors, ends)
        over = "over time" if model.is_finite else "at every t"
        ax.set_title(f"{_values(posterior)} {over}, {_name(posterior)}")
        return figure
    steps = posterior.values.shape[0]
    if not -steps <= t < steps:
        raise IndexError(f"time index {t} is outside the answer; it has indices 0 to {steps - 1}")
    t %= steps
    values = posterior.values[t].detach().clone()
    values[model.mdp.terminal] = math.nan  # nothing is decided there: the cell stays light
    when = f"t = {t + 1}" if model.is_finite else "every t"
    label = f"value at {when} (reward units)"
    policy = posterior.action_probs[t].detach()
    if layout is None:
        size = 8.0 if ax is None else 5.5
        figure, ax = make_axes(ax, (9.2, 6.4))
        draw_value_graph(ax, model, streets or (), values, policy, label, colors, ends, bar=bar, size=size)
    else:
        figure, ax = make_axes(ax, grid_size(layout))
        draw_grid(ax, layout, values, label, colors, limits=ends, mdp=model.mdp, bar=bar)
        _draw_policy(ax, layout, policy, model.mdp)
    ax.set_title(f"{_values(posterior)} and policy at {when}\n{_name(posterior)}{_of(room)}")
    return figure


def plot_map(
    model: TrajectoryModel,
    numbers: Any,
    label: str,
    *,
    limits: Sequence[float] | None = None,
    colors: str = VALUE_MAP,
    ax: Axes | None = None,
    room: str | None = None,
) -> Figure:
    """One number for each state: in its cell of the map, or as a bar where there is no layout.

    Args:
        model: whose states they are.
        numbers: [S]; NaN where there is none, which stays light, and -inf, which is hatched.
        label: what they are, with their unit.
        limits: the ends of the colour scale, or of the bars' axis; those of the data, unless given.
        colors: a colour map of matplotlib.
        ax: where to draw; a new figure, unless given.
        room: of a map with rooms, the one to show; all of them, unless given.

    Raises:
        ValueError: if there is not one number for each state.
    """
    table = torch.as_tensor(numbers, dtype=torch.float64).detach()
    if tuple(table.shape) != (model.mdp.num_states,):
        raise ValueError(
            f"numbers has shape {list(table.shape)}; expected one for each state, [{model.mdp.num_states}]: pick a time"
        )
    layout, ends = one_room(model.mdp, room), check_limits(limits)
    if layout is not None:
        figure, ax = make_axes(ax, grid_size(layout))
        draw_grid(ax, layout, table, label, colors, limits=ends, mdp=model.mdp)
    else:
        figure, ax = make_axes(ax, (7.0, 4.0))
        states = list(range(model.mdp.num_states))
        ax.bar(states, torch.where(torch.isfinite(table), table, math.nan).numpy(), color=REAL_COLOR)
        if len(states) <= FEW_STATES:
            ax.set_xticks(states, [model.mdp.state_name(s) for s in states], rotation=90 if len(states) > 8 else 0)
        ax.set_xlabel("state")
        ax.set_ylabel(label)
        if ends is not None:
            ax.set_ylim(ends)
    ax.set_title(f"{label[:1].upper()}{label[1:]} by state, {model.name}{_of(room)}")
    return figure


def plot_luck(
    posterior: Posterior,
    *,
    limits: Sequence[float] | None = None,
    colors: str = LUCK_MAP,
    ax: Axes | None = None,
    bar: bool = True,
    room: str | None = None,
) -> Figure:
    """Where the plan counts on luck: KL of its dynamics from the true ones, by state, summed along q.

    The cells add up to `posterior.luck` less the luck of the start. Of a Gaussian answer: by step, the start apart.

    Args:
        posterior: an answer of a backend that knows its dynamics step by step.
        limits: the ends of the colour scale or of the bars' axis, in nats; from 0 to somewhat above the largest, unless
            given. Maps that are read side by side get the same here, or by `cai.pictures.share_scale` afterwards.
        colors: a colour map of matplotlib.
        ax: where to draw; a new figure, unless given.
        bar: whether a map gets a colour bar; of maps side by side on one scale, one is enough.
        room: of a map with rooms (`cai.pictures.rooms.rooms_of`), the one to show; all of them, unless given.
    """
    if isinstance(posterior, GaussianPosterior):
        return plot_luck_over_time(posterior, limits=limits, ax=ax)
    model, ends = _model(posterior), check_limits(limits)
    luck = posterior.luck_by_state()
    layout = one_room(model.mdp, room)
    total = float(posterior.luck.detach()) if posterior.luck is not None else float(luck.sum())
    start = total - float(luck.sum())
    title = f"Luck assumed in each state, {_name(posterior)}{_of(room)}\n{nats_text(total)} nats in all"
    title += f", {start:.2f} of them in the choice of the start" if start > 0.005 else ""
    if layout is not None:
        figure, ax = make_axes(ax, grid_size(layout))
        most = float(luck[torch.isfinite(luck)].max())
        ends = ends or (0.0, BELOW_BLACK * most if most > 0 else 1.0)
        draw_grid(ax, layout, luck, "luck (nats)", colors, limits=ends, mdp=model.mdp, bar=bar)
    else:
        figure, ax = make_axes(ax, (7.0, 4.0))
        shown = torch.argsort(luck, descending=True)[:FEW_STATES]
        shown = shown[luck[shown] > 1e-12].sort().values
        names = [model.mdp.state_name(int(s)) for s in shown]
        places = list(range(len(names)))  # a bar by name would make its axes remember every name it ever held
        ax.bar(places, luck[shown].numpy(), color=_color(posterior))
        ax.set_xticks(places, names)
        ax.set_xlabel("state")
        ax.set_ylabel("luck (nats)")
        ax.tick_params(axis="x", rotation=90 if len(names) > 8 else 0)
        if not len(shown):
            ax.text(0.5, 0.5, "no luck is assumed in any state", ha="center", transform=ax.transAxes)
            ax.set(xticks=[], yticks=[])
        elif len(shown) < 3:
            ax.set_xlim(-1.5, len(shown) + 0.5)  # one bar is no wall
        if ends is not None:
            ax.set_ylim(ends)
    ax.set_title(title)
    return figure


def plot_messages(posterior: Posterior, *, floor: float = MESSAGE_FLOOR, colors: str = MASS_MAP) -> Figure:
    """Forward messages, backward messages and their product, the state marginals, over time.

    Forward and backward messages are shown in nats below the largest of their time step, down to a floor; the product
    is p(s_t | O). A map of more than 40 states is drawn at four times, from the first to the last.

    Args:
        posterior: an answer of target `exact` over a finite horizon that knows its values.
        floor: the lower end of the scale of both messages, in nats, below 0.
        colors: a colour map of matplotlib.

    Raises:
        ValueError: for other targets, whose marginals are no product of the two; or if the floor is not below 0.
    """
    model = _model(posterior)
    if posterior.target is not Target.EXACT or posterior.values is None or not model.is_finite:
        raise ValueError(
            "messages multiply to marginals for the exact posterior over a finite horizon only; "
            f"this answer is of {posterior.backend!r} (target {posterior.target}): use 'exact'"
        )
    if not -math.inf < floor < 0:
        raise ValueError(f"floor is {floor!r}; it is a finite number of nats below 0")
    with torch.no_grad():
        ahead = forward_messages(model)
        last = torch.zeros(1, model.mdp.num_states, dtype=torch.float64)
        back = torch.cat([posterior.values.detach() / model.temperature, last])
    states = model.mdp.num_states
    tables = (_below_peak(ahead, floor), _below_peak(back, floor), posterior.state_marginals.detach())
    if model.mdp.layout is not None and states > FEW_STATES:
        return draw_message_maps(model, tables, floor, colors, _name(posterior))
    height = max(4.4, 2.2 + 0.3 * states) if states <= FEW_STATES else 6.0  # a line for each name that is written
    figure, axes = plt.subplots(1, 3, figsize=(14.0, height), sharey=True, layout="constrained")
    below = f"nats below the largest (clipped at {floor:g})"
    parts = (
        (tables[0], "forward\n$p(s_t, O_{1:t-1})$", below, (floor, 0.0)),
        (tables[1], "backward\n$p(O_{t:T} \\mid s_t)$", below, (floor, 0.0)),
        (tables[2], "product\n$p(s_t \\mid O_{1:T})$", "probability", (0.0, 1.0)),
    )
    for axis, (table, title, label, ends) in zip(axes, parts, strict=True):
        draw_over_time(axis, table, model, label, colors, ends, size=13)
        axis.set_title(title, fontsize=17)
    for axis in axes[1:]:
        axis.set_ylabel("")
    spread_out(figure)
    figure.suptitle(f"Messages over time, {_name(posterior)}", fontsize=18)
    return figure


def _model(posterior: Posterior) -> TrajectoryModel:
    if not isinstance(posterior, Posterior):
        raise TypeError(f"expected the posterior that cai.infer returns, got {type(posterior).__name__}")
    if isinstance(posterior.model, World):
        raise ValueError(
            f"this picture needs numbered states, and the answer of {posterior.backend!r} is about the continuous "
            f"model {posterior.model.name!r}; take plot_bands or plot_value_contours of a Gaussian answer, plot_plan "
            "of a planner's, or ask about cai.models.discretize(model, ...)"
        )
    if not isinstance(posterior.model, TrajectoryModel):
        raise ValueError(
            "this picture needs the states of a TrajectoryModel; the answer is about a Pyro program: draw "
            "cai.compare(program, [...]).plot() or cai.draw_factor_graph(program), or read posterior.action_probs"
        )
    return posterior.model


def _name(posterior: Posterior) -> str:
    eta = posterior.details.get("eta")
    return target_title(
        posterior.backend if eta is None else f"{posterior.backend}, eta = {eta:g}", str(posterior.target)
    )


def _of(room: str | None) -> str:
    return "" if room is None else f"; {room}"


def _values(posterior: Posterior) -> str:
    return "Values" if posterior.backend in ("value-iteration", "max-product", "boltzmann") else "Soft values"


def _color(posterior: Posterior) -> str:
    return TARGET_COLORS[posterior.target.value]


def _below_peak(log_messages: Tensor, floor: float) -> Tensor:
    """Every time's messages relative to their largest, clipped from below; -inf stays."""
    largest = log_messages.amax(-1, keepdim=True)
    relative = log_messages - torch.where(torch.isfinite(largest), largest, torch.zeros_like(largest))
    return torch.where(torch.isinf(relative), relative, relative.clamp(min=floor))


def _draw_policy(ax: Axes, layout: GridLayout, policy: Tensor, mdp: MDP) -> None:
    """An arrow for each action of more than 3 percent, the longer the more probable; one that points nowhere by name.

    The name stands where the action has more than half of the probability.
    """
    x, y, u, v = [], [], [], []
    nonterminal = ((~mdp.terminal) & (mdp.available.sum(-1) > 0)).tolist()
    small = 8.0 if layout.columns <= 12 else 4.0
    for state, (cell, weights) in enumerate(zip(layout.cells, policy.tolist(), strict=True)):
        if cell is None or not nonterminal[state]:
            continue
        for action, arrow in enumerate(layout.arrows):
            if arrow is None and weights[action] > 0.5:
                style = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
                place, name = (cell[1], cell[0] + 0.1), mdp.action_name(action)
                ax.text(*place, name, ha="center", va="center", fontsize=small, bbox=style, zorder=4)
            elif arrow is not None and weights[action] > 0.03:
                x.append(cell[1])
                y.append(cell[0])
                length = 0.2 + 0.26 * weights[action]  # a floor, or the head would hide under a longer arrow
                u.append(length * arrow[1])
                v.append(length * arrow[0])
    if x:
        ax.quiver(
            x,
            y,
            u,
            v,
            angles="xy",
            scale_units="xy",
            scale=1,
            units="xy",
            width=0.065,
            headwidth=3.0,
            headlength=3.2,
            headaxislength=3.0,
            color="black",
            edgecolor="white",
            linewidth=0.7,
            minlength=0.1,
            zorder=3,
        )
