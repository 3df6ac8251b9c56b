"""Pictures of continuous problems: the scene, what a step pays where, and where the world drifts by itself."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cai.models.continuous.world import World
from cai.pictures.drawing import VALUE_MAP, make_axes
from cai.pictures.scenes import BODY, Scene, scene_of

__all__ = ["plot_world"]

CELLS = 161  # of a map, in each direction
ARROWS = 17  # of the drift, in each direction


def plot_world(model: World, *, ax: Axes | None = None) -> Figure:
    """A continuous problem: its stage with the start, what a step pays where, and where it drifts without action.

    The colour is the reward of the first step with action 0, in reward units; arrows show the mean motion of one step
    with action 0, where states not shown are 0. A mechanism stands beside that map, in the pose of its start.

    Args:
        model: a `LinearGaussianModel` or a `ContinuousModel`; of a batch the first member is drawn.
        ax: where to draw the map alone; a new figure, unless given.
    """
    if model.batch_shape:
        member: Any = model
        model = member.member(*[0] * len(model.batch_shape))
    scene = scene_of(model)
    if ax is None and not scene.shows_map:
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(12.0, 5.2), layout="constrained", gridspec_kw={"width_ratios": (1.0, 1.25)}
        )
        scene.stage(left)
        state = _start(model)
        scene.body(left, BODY).move(state, state[None])
        left.set_title("the start", fontsize=11)
        _draw_map(right, model, scene)
        right.set_title("reward and drift", fontsize=11)
        figure.suptitle(_title(model))
        return figure
    figure, ax = make_axes(ax, (8.2, 6.0))
    _draw_map(ax, model, scene)
    ax.set_title(_title(model))
    return figure


def _title(model: World) -> str:
    steps = f"T = {model.horizon}" if model.is_finite else "T infinite"
    return f"{model.name}: states in $R^{model.state_dim}$, actions in $R^{model.action_dim}$, {steps}"


def _start(model: World) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = model.start_distribution().mean.numpy()
    return found


def _draw_map(ax: Axes, model: World, scene: Scene) -> None:
    if scene.axes[0] == scene.axes[1]:
        _draw_line(ax, model, scene)
        return
    left, right, bottom, top = scene.limits()
    xs, ys = np.linspace(left, right, CELLS), np.linspace(bottom, top, CELLS)
    rewards, _ = _ask(model, scene, xs, ys)
    shown = np.ma.masked_invalid(rewards)
    picture = ax.contourf(xs, ys, shown, levels=24, cmap=VALUE_MAP, zorder=0)
    figure: Any = ax.get_figure(root=True)
    figure.colorbar(picture, ax=ax, label="reward of a step with action 0 (reward units)", shrink=0.85)
    xs, ys = (np.linspace(low, high, ARROWS + 2)[1:-1] for low, high in ((left, right), (bottom, top)))
    _, drift = _ask(model, scene, xs, ys)
    if np.abs(drift).max() > 0:
        scaled = drift / np.array([right - left, top - bottom])
        longest = np.linalg.norm(scaled, axis=-1).max()
        size = drift * (0.9 / ARROWS / longest)
        ax.quiver(xs, ys, size[..., 0], size[..., 1], angles="xy", scale_units="xy", scale=1, color="white",
                  width=0.004, edgecolor="0.3", linewidth=0.4, zorder=1)  # fmt: skip
    if scene.shows_map:
        scene.stage(ax)
    scene.start(ax)
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    ax.set_xlabel(scene.labels[0])
    ax.set_ylabel(scene.labels[1])
    handles = ax.get_legend_handles_labels()[0]
    if np.abs(drift).max() > 0:
        handles.append(Line2D([], [], color="white", marker=">", linewidth=1.5, label="drift with action 0"))
    place: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12)}
    ax.legend(handles=handles, ncols=3, frameon=True, facecolor="0.75", fontsize=9, **place)


def _draw_line(ax: Axes, model: World, scene: Scene) -> None:
    left, right, _, _ = scene.limits()
    xs = torch.linspace(left, right, CELLS, dtype=torch.float64)
    with torch.no_grad():
        rewards = model.step_reward(xs[:, None], xs.new_zeros(CELLS, model.action_dim), 0)
    ax.plot(xs.numpy(), rewards.numpy(), color="0.2")
    scene.start(ax)
    ax.set_xlabel(scene.labels[0])
    ax.set_ylabel("reward of a step with action 0 (reward units)")
    ax.legend(loc="best", fontsize=9)


def _ask(model: World, scene: Scene, xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rewards [Y, X], mean motion [Y, X, 2]) with action 0; coordinates that are not shown are 0."""
    i, j = scene.axes
    grid_y, grid_x = torch.meshgrid(torch.as_tensor(ys), torch.as_tensor(xs), indexing="ij")
    states = torch.zeros(*grid_x.shape, model.state_dim, dtype=torch.float64)
    states[..., i], states[..., j] = grid_x, grid_y
    actions = states.new_zeros(*grid_x.shape, model.action_dim)
    with torch.no_grad():
        rewards = model.step_reward(states, actions, 0)
        moved = model.transition(states, actions, 0).mean
    return rewards.numpy(), (moved - states)[..., [i, j]].numpy()
