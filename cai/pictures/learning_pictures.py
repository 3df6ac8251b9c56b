"""Pictures of what was learned from samples: curves over seeds, and values of two actions at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cai.inference.core.posterior import Posterior
from cai.models.common.random_draws import seeded
from cai.models.continuous.world import World
from cai.pictures.drawing import VALUE_MAP, make_axes
from cai.pictures.scenes import scene_of

__all__ = ["plot_action_values", "plot_learning"]

CURVES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's palette, by learner
STYLES = ("-", "--", "-.", ":")
TITLES = {
    "episode_return": "Return of episodes while learning",
    "elbo": "Bound of the policy while learning",
    "entropy": "Entropy of the policy while learning",
    "temperature": "Temperature while learning",
}


def plot_learning(
    answers: Posterior | Iterable[Posterior] | Mapping[str, Iterable[Posterior]],
    *,
    what: str = "episode_return",
    exact: Posterior | float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """How something moved while learners learned: a thin line for each seed, a wide one for the mean of a learner's.

    Args:
        answers: of learners: one; those of several seeds, which lines of one colour are by backend; or lists by name.
        what: a column of `details["history"]`: "episode_return", "entropy", "temperature", ..., and of answers on a
            `TrajectoryModel` "elbo", the exact bound of the policy so far.
        exact: the answer of an exact backend, or a number in the unit of `what`, drawn as a level; of an answer the
            bound where `what` is "elbo", else the return that it believes in.
        ax: where to draw; a new figure, unless given.

    Raises:
        ValueError: if there is nothing to draw, or an answer has no such history.
    """
    groups = _groups(answers)
    figure, ax = make_axes(ax, (7.5, 4.6))
    unit = ""
    for place, (name, members) in enumerate(groups.items()):
        color = CURVES[place % len(CURVES)]
        style = STYLES[place % len(STYLES)]  # a curve below another one shows in its gaps
        lines = []
        for answer in members:
            steps, values, unit = _curve(answer, what)
            ax.plot(steps, values, color=color, alpha=0.4, linewidth=1.0)
            lines.append((steps, values))
        grid, mean = _mean(lines)
        number = f", {len(members)} seeds" if len(members) > 1 else ""
        ax.plot(grid, mean, style, color=color, linewidth=2.4, label=f"{name}{number}")
    if isinstance(exact, Posterior):
        level: Any = exact.elbo if what == "elbo" else exact.believed_return
        _draw_level(ax, float(level), f"{exact.backend} (exact)")
    elif exact is not None:
        _draw_level(ax, exact, "exact")
    ax.set_xlabel("transitions")
    ax.set_ylabel(f"{what.replace('_', ' ')} ({unit})")
    ax.set_title(TITLES.get(what, f"{what.replace('_', ' ').capitalize()} while learning"))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return figure


def _draw_level(ax: Axes, level: float, name: str) -> None:
    ax.axhline(level, color="0.25", linewidth=1.6, linestyle=(0, (6, 3)), label=name)


def _groups(answers: Any) -> dict[str, list[Posterior]]:
    """Answers by the name of their line."""
    groups: dict[str, list[Posterior]] = {}
    if isinstance(answers, Mapping):
        for name, members in answers.items():
            groups[str(name)] = [members] if isinstance(members, Posterior) else list(members)
    else:
        for answer in [answers] if isinstance(answers, Posterior) else answers:
            groups.setdefault(answer.backend, []).append(answer)
    if not groups or not all(groups.values()):
        raise ValueError("there is nothing to draw; give at least one answer of a learner for each name")
    return groups


def _curve(answer: Posterior, what: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Transitions, values where they are known, and their unit."""
    history: Any = answer.details.get("history")
    if not hasattr(history, "data_vars"):
        raise ValueError(f"the answer of {answer.backend!r} was not learned from samples, and has no history of steps")
    if what not in history:
        raise ValueError(f"the history of {answer.backend!r} has no {what!r}; it has {', '.join(map(str, history))}")
    values = history[what].values
    known = np.isfinite(values)
    if not known.any():
        raise ValueError(f"{what!r} is not known at any step of {answer.backend!r}")
    return history["step"].values[known], values[known], str(history[what].attrs["units"])


def _mean(lines: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The mean of curves, between the last of their first steps and the first of their last ones."""
    grid = np.unique(np.concatenate([steps for steps, _ in lines]))
    first, last = max(steps[0] for steps, _ in lines), min(steps[-1] for steps, _ in lines)
    grid = grid[(grid >= first) & (grid <= last)]
    return grid, np.mean([np.interp(grid, steps, values) for steps, values in lines], axis=0)


def plot_action_values(
    answer: Any,
    states: Any,
    *,
    t: int = 0,
    draws: int = 150,
    num_paths: int = 30,
    resolution: int = 61,
    seed: int = 0,
    axes: Sequence[Axes] | None = None,
) -> Figure:
    """What a critic thinks of two actions at once, and where the policy acts; Haarnoja 2017, figure 1.

    One panel for each state: level curves of Q over the box of actions, draws of the policy on top. Where the world is
    a continuous model with a map in a plane, there is first one with trajectories of the policy from the start, and
    the states as numbered diamonds.

    Args:
        answer: learned in a world with two continuous actions, with `q_value` and `policy()`.
        states: [P, n], observations of an environment, or states of a continuous model.
        t: the time index, of a continuous model over a finite horizon.
        draws: of the policy in each panel.
        num_paths: trajectories.
        resolution: values of Q along each side.
        seed: of what is drawn; the global random state is left alone.
        axes: where to draw, one for each panel; a new figure, unless given.

    Raises:
        NotKnown: if the answer has values of observations alone.
        ValueError: if there are not two actions, or not one of the axes for each panel.
    """
    interface = getattr(getattr(answer, "learned_policy", None), "interface", None)
    if interface is None or interface.num_actions or len(interface.low) != 2:
        raise ValueError(
            f"level curves need two continuous actions and a critic; the answer of {answer.backend!r} has others"
        )
    places = np.atleast_2d(np.asarray(states, dtype=np.float64))
    scene = scene_of(answer.model) if isinstance(answer.model, World) else None
    has_map = scene is not None and scene.axes[0] != scene.axes[1] and answer.model.is_finite
    panels = len(places) + has_map
    if axes is None:
        _, made = plt.subplots(1, panels, figsize=(4.3 * panels, 4.4), layout="constrained", squeeze=False)
        axes = list(made[0])
    if len(axes) != panels:
        raise ValueError(f"there are {len(axes)} axes for {panels} panels")
    if has_map:
        _draw_paths(axes[0], answer, places, num_paths, seed)
    (x0, y0), (x1, y1) = interface.low.tolist(), interface.high.tolist()
    across, up = np.meshgrid(np.linspace(x0, x1, resolution), np.linspace(y0, y1, resolution))
    grid = np.stack([across.ravel(), up.ravel()], -1)
    policy, generator = answer.policy(), seeded(seed)
    for number, (ax, place) in enumerate(zip(axes[has_map:], places, strict=True)):
        seen = place if answer.model.horizon == float("inf") else np.append(place, t / answer.model.horizon)
        worth = answer.q_value(np.tile(seen, (len(grid), 1)), grid).reshape(across.shape).numpy()
        levels = ax.contourf(across, up, worth, 14, cmap=VALUE_MAP, alpha=0.85)
        ax.contour(across, up, worth, 14, colors="white", linewidths=0.5)
        actions = policy.act(np.tile(place, (draws, 1)), t, generator=generator).numpy()
        ax.plot(
            actions[:, 0],
            actions[:, 1],
            "o",
            color="black",
            markersize=3.2,
            markeredgecolor="white",
            markeredgewidth=0.5,
        )
        figure: Any = ax.get_figure(root=True)
        figure.colorbar(levels, ax=ax, label="Q (reward units)", shrink=0.8)
        ax.set_aspect("equal" if np.isclose(x1 - x0, y1 - y0) else "auto")
        ax.set_xlabel("first action")
        ax.set_ylabel("second action")
        ax.set_title(f"state {number + 1}: ({', '.join(f'{part:.3g}' for part in place)})")
    whole: Any = axes[0].get_figure(root=True)
    whole.suptitle(f"{answer.backend} on {answer.model.name}: Q over both actions, and {draws} draws of the policy")
    return whole


def _draw_paths(ax: Axes, answer: Any, places: np.ndarray, number: int, seed: int) -> None:
    """Trajectories of the policy over the map of a continuous model, and where its critic is asked."""
    scene = scene_of(answer.model)
    if scene.shows_map:
        scene.stage(ax)
    found = answer.model.rollout(answer.policy(), number, seeded(seed))
    i, j = scene.axes
    for path in found.states.numpy():
        ax.plot(path[:, i], path[:, j], color="#0072B2", alpha=0.6, linewidth=1.0)
    left, right, bottom, top = scene.limits()
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    for k, place in enumerate(places):
        ax.plot(place[i], place[j], "D", color="#D55E00", markersize=8, zorder=7)
        ax.annotate(f" {k + 1}", (place[i], place[j]), fontsize=12, zorder=8)
    ax.set_xlabel(scene.labels[0])
    ax.set_ylabel(scene.labels[1])
    ax.set_title(f"{number} trajectories")
