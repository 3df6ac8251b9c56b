"""Pictures of plans over the scene: the trajectory that a planner follows, and what it was weighed against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cai.inference.core.posterior import Posterior
from cai.inference.planning.plans import Plan
from cai.models.common.random_draws import seeded
from cai.models.continuous.world import World
from cai.pictures.drawing import make_axes
from cai.pictures.scenes import Scene, scene_of

__all__ = ["has_plan", "plot_plan"]

PLAN_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # Okabe and Ito's palette
STYLES = ("-", "--", ":", "-.")  # plans may lie on each other
PATH_COLOR = "0.45"


def has_plan(posterior: Posterior) -> bool:
    """Whether an answer has a plan that `plot_plan` can draw: a trajectory through a plane or more."""
    plan = posterior.__dict__.get("plan")
    return isinstance(plan, Plan) and plan.states.shape[-1] > 1


def plot_plan(
    posteriors: Posterior | Iterable[Posterior] | Mapping[str, Posterior],
    *,
    time: int = 0,
    num_paths: int = 100,
    seed: int = 0,
    ax: Axes | None = None,
) -> Figure:
    """Plans over the scene of a continuous problem, on the two coordinates that its map shows.

    Of one answer there are thin lines besides its plan: of `mppi` the trajectories that it weighs from the plan's state
    at a time on, the darker the more they count; of `ilqr` runs of its policy in the true world; of `aico`, `smc` and
    other answers that know no plan, trajectories of q. Of several answers there are the plans alone.

    Args:
        posteriors: answers about one continuous model over a finite horizon: one, several, or several by the names that
            the legend gives them. Without names they are called by their backends, numbered where one occurs again.
        time: the time index, from 0, at which `mppi` is watched.
        num_paths: how many thin lines, at most.
        seed: of what is drawn; the global random state is left alone.
        ax: where to draw; a new figure, unless given.

    Raises:
        TypeError, ValueError: if there is no answer, or none about a continuous model, or several without plans.
    """
    named = _by_name(posteriors)
    every = list(named.values())
    if not every:
        raise ValueError("there is nothing to draw; give the answer of 'ilqr', 'mppi' or 'aico'")
    model = every[0].model
    if not isinstance(model, World) or model.batch_shape or not model.is_finite:
        raise TypeError(
            f"the answer of {every[0].backend!r} is about a {type(model).__name__}; plans are drawn of one continuous "
            "model over a finite horizon"
        )
    scene = scene_of(model)
    if scene.axes[0] == scene.axes[1]:
        raise ValueError("the state has one coordinate, and plans are drawn in a plane of two")
    figure, ax = make_axes(ax, (8.6, 5.6))
    _draw_stage(ax, scene)
    handles, _ = ax.get_legend_handles_labels()
    if len(every) == 1:
        handles += _draw_paths(ax, scene, every[0], time, num_paths, seed)
    for place, (name, posterior) in enumerate(named.items()):
        color, style = PLAN_COLORS[place % len(PLAN_COLORS)], STYLES[place % len(STYLES)]
        width = 2.6 + 1.4 * (len(every) - 1 - place)  # so that a plan below another one shows at its sides
        handles += _draw_plan(ax, scene, name, posterior, (color, style, width), required=len(every) > 1)
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False, fontsize=10)
    ax.set_title(f"{model.name}: {'the plan' if len(every) == 1 else 'plans'} of {', '.join(named)}")
    return figure


def _by_name(posteriors: Posterior | Iterable[Posterior] | Mapping[str, Posterior]) -> dict[str, Posterior]:
    if isinstance(posteriors, Mapping):
        return {str(name): posterior for name, posterior in posteriors.items()}
    every = [posteriors] if isinstance(posteriors, Posterior) else list(posteriors)
    backends = [posterior.backend for posterior in every]
    numbers = [
        f" {backends[: i + 1].count(name)}" if backends.count(name) > 1 else "" for i, name in enumerate(backends)
    ]
    return {name + number: posterior for name, number, posterior in zip(backends, numbers, every, strict=True)}


def _draw_stage(ax: Axes, scene: Scene) -> None:
    if scene.shows_map:
        scene.stage(ax)
    left, right, bottom, top = scene.limits()
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    ax.set_xlabel(scene.labels[0])
    ax.set_ylabel(scene.labels[1])
    scene.start(ax)


def _draw_plan(
    ax: Axes, scene: Scene, name: str, posterior: Posterior, look: tuple[str, str, float], *, required: bool
) -> list[Any]:
    """The plan of an answer as a line; handles for the legend."""
    color, style, width = look
    plan = posterior.__dict__.get("plan")
    if not isinstance(plan, Plan):
        if required:
            raise ValueError(f"the answer of {posterior.backend!r} has no plan; give it alone to see its trajectories")
        return []
    i, j = scene.axes
    states = plan.states.numpy()
    Scene.widen(scene, ax, states)  # the map's axes, also where the stage is another picture
    (line,) = ax.plot(states[:, i], states[:, j], style, color=color, linewidth=width, zorder=6)
    cost = posterior.details.get("cost")
    line.set_label(f"plan of {name}" + (f", cost {cost:.4g}" if cost is not None else ""))
    return [line]


def _draw_paths(ax: Axes, scene: Scene, posterior: Posterior, time: int, count: int, seed: int) -> list[Any]:
    """Thin lines beside a plan; handles for the legend."""
    states, weights, words = _paths(posterior, time, count, seed)
    i, j = scene.axes
    lines = states[..., [i, j]]
    equal = float(weights.min()) == float(weights.max())
    share = np.full(len(weights), 0.3) if equal else weights / float(weights.max())
    order = np.argsort(share)
    drawn = LineCollection(list(lines[order]), linewidths=0.8 + 0.8 * share[order], zorder=3)
    drawn.set_color([(*_grey(part), 0.25 + 0.7 * part) for part in share[order]])
    ax.add_collection(drawn)
    finite = states[np.isfinite(states).all((-2, -1))]
    if len(finite):
        Scene.widen(scene, ax, finite)
    return [Line2D([], [], color=PATH_COLOR, linewidth=1.2, label=words)]


def _grey(share: float) -> tuple[float, float, float]:
    """From light to dark with the weight."""
    level = 0.6 - 0.6 * float(share)
    return level, level, level


def _paths(posterior: Posterior, time: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, str]:
    """States [P, steps, n], weights [P], and what they are."""
    generator = seeded(seed)
    acting: Any = posterior.__dict__.get("acting")
    if hasattr(acting, "bundle"):
        plan: Any = posterior.__dict__["plan"]
        if not 0 <= time < len(plan.actions):
            raise ValueError(f"time is {time}; the plan has time indices 0 to {len(plan.actions) - 1}")
        with torch.no_grad():
            bundle = acting.bundle(plan.states[time], time, generator=generator)
        chosen = bundle.log_weights.argsort(descending=True)[:: max(1, len(bundle.log_weights) // count)][:count]
        chosen = torch.cat([chosen, bundle.log_weights.argsort(descending=True)[:5]])
        states, weights = bundle.states[chosen], bundle.weights[chosen]
        words = f"weighed from step {time} on (darker: counts more)"
        return states.numpy(), weights.numpy(), words
    states, _ = posterior.sample(count, seed=seed)
    held = posterior.__dict__.get("holds_dynamics", False)
    words = "runs of the policy" if held else "trajectories of q"
    return states.detach().numpy(), np.ones(len(states)), words
