"""Pictures of Gaussian answers: bands over time beside the true world, value contours, gains against temperature."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from cai.inference.core.posterior import Posterior
from cai.inference.gaussian.moments import Moments, forward
from cai.inference.gaussian.posterior import GaussianPosterior
from cai.inference.gaussian.worth import true_belief
from cai.inference.registry import infer
from cai.models.continuous.linear_gaussian import LinearGaussianModel
from cai.models.continuous.priors import Flat
from cai.models.continuous.world import World
from cai.pictures.drawing import REAL_COLOR, TARGET_COLORS, VALUE_MAP, check_limits, make_axes, nats_text, target_title
from cai.pictures.scenes import scene_of

__all__ = [
    "coordinate_names",
    "draw_band",
    "plot_bands",
    "plot_gains",
    "plot_luck_over_time",
    "plot_value_contours",
]

PRIOR_COLORS = {"as the model has it": "#0072B2", "Flat()": "#E69F00"}
STYLES = ("-", "--", ":", "-.")


def plot_bands(posterior: Posterior, *, actions: bool = True, axes: Sequence[Axes] | None = None) -> Figure:
    """Mean and two standard deviations of q over time, beside those of its policy in the true world.

    Where q is the exact posterior the two differ: it believes in dynamics that are kind.

    Args:
        posterior: a Gaussian answer about one `LinearGaussianModel` over a finite horizon.
        actions: whether to draw the actions, too.
        axes: where to draw, one for each coordinate of the state, and then of the action; a new figure, unless given.

    Raises:
        TypeError, ValueError: if the answer is another, or failed, or the number of axes does not fit.
    """
    answer = _gaussian(posterior)
    if not isinstance(answer.horizon, int):
        raise ValueError("over an infinite horizon states have no marginals at a time; infer with horizon=N")
    names = coordinate_names(answer) + (_names("action", answer.problem.num_actions) if actions else [])
    if axes is None:
        columns = min(3, len(names))
        rows = -(-len(names) // columns)
        size = (4.6 * columns, 3.2 * rows + 0.6)
        figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
        axes = list(grid.reshape(-1))
        for ax in axes[len(names) :]:
            ax.set_visible(False)
        title = target_title(answer.backend, answer.target.value)
        figure.suptitle(f"Believed and real, mean and two standard deviations: {title}")
    elif len(axes) != len(names):
        raise ValueError(f"there are {len(axes)} axes; expected {len(names)}: {', '.join(names)}")
    for place, (ax, name) in enumerate(zip(axes, names, strict=False)):
        draw_band(ax, answer, place)
        ax.set_ylabel(name)
    axes[0].legend(loc="best", fontsize=9)
    return _figure(axes[0])


def draw_band(ax: Axes, answer: GaussianPosterior, place: int) -> None:
    """Mean and two standard deviations over time of one coordinate, believed and in the true world.

    Args:
        ax: where to draw.
        answer: over a finite horizon.
        place: which coordinate, those of the state first.
    """
    with torch.no_grad():
        believed, real = answer.moments, forward(true_belief(answer.problem), answer.conduct)
    color = TARGET_COLORS[answer.target.value]
    kinds = ((real, "in the true world", REAL_COLOR, "--"), (believed, "believed", color, "-"))
    for moments, label, shade, style in kinds:
        mean, deviation = _over_time(moments, place, answer.problem.num_states)
        t = np.arange(1, len(mean) + 1)
        ax.fill_between(t, mean - 2 * deviation, mean + 2 * deviation, color=shade, alpha=0.22, linewidth=0)
        ax.plot(t, mean, color=shade, linewidth=1.8, linestyle=style, label=label)
    ax.axhline(0, color="0.6", linewidth=0.8, linestyle=":", zorder=1)
    ax.set_xlabel("time t")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def plot_luck_over_time(
    posterior: Posterior, *, limits: Sequence[float] | None = None, ax: Axes | None = None
) -> Figure:
    """Where the plan counts on luck: KL of its start and of the dynamics of each step from the true ones.

    Args:
        posterior: a Gaussian answer about one model over a finite horizon.
        limits: the ends of the axis of luck, in nats; those of the data, unless given.
        ax: where to draw; a new figure, unless given.

    Raises:
        TypeError, ValueError: if the answer is another, or failed, or the horizon is infinite.
    """
    answer = _gaussian(posterior)
    luck = answer.luck_by_step().detach().cpu().numpy()
    figure, ax = make_axes(ax, (7.0, 4.0))
    color = TARGET_COLORS[answer.target.value]
    ax.bar([0], luck[:1], 0.8, color="white", edgecolor=color, hatch="///", label="the start")
    ax.bar(np.arange(1, len(luck)), luck[1:], 0.8, color=color, label="the outcome of step t")
    ax.set_xlabel("time t")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set_ylabel("luck (nats)")
    if luck.sum() <= 1e-12:
        ax.set_ylim(0, 1)
        ax.text(0.5, 0.5, "no luck is assumed at any step", ha="center", transform=ax.transAxes)
    else:
        ax.legend(loc="best", fontsize=9)
    if limits is not None:
        ax.set_ylim(check_limits(limits))
    name = target_title(answer.backend, answer.target.value)
    ax.set_title(f"Luck assumed at each step, {name}\n{nats_text(float(luck.sum()))} nats in all")
    return figure


def plot_value_contours(
    posterior: Posterior,
    *,
    t: int = 0,
    coordinates: tuple[int, int] = (0, 1),
    window: Sequence[Sequence[float]] | None = None,
    limits: Sequence[float] | None = None,
    colors: str = VALUE_MAP,
    ax: Axes | None = None,
) -> Figure:
    """The soft value as contours over two coordinates of the state, the others at q's mean, with q's path on it.

    Args:
        posterior: a Gaussian answer with messages about one model of at least two state coordinates.
        t: the time index, 0 .. T.
        coordinates: which two are the axes.
        window: the ends of both axes, as ((left, right), (bottom, top)), for pictures that are read side by side; what
            q's path and its start take up, unless given.
        limits: the ends of the colour scale, in reward units; those of the data, unless given.
        colors: a colour map of matplotlib.
        ax: where to draw; a new figure, unless given.

    Raises:
        TypeError, ValueError: if the answer is another, or failed, or there are no such coordinates, or no such window.
    """
    answer = _gaussian(posterior)
    n = answer.problem.num_states
    i, j = coordinates
    if n < 2 or i == j or not (0 <= i < n and 0 <= j < n):
        raise ValueError(f"coordinates are {coordinates}, and the state has {n}; name two different ones from 0")
    with torch.no_grad():
        if isinstance(answer.horizon, int):
            means, spreads = answer.moments.state_means.cpu(), answer.moments.state_covariances.cpu()
        else:
            means, spreads = (part[None].cpu() for part in answer.initial)
        now = min(t, len(means) - 1)
        ends_of_axes = _reach(means, spreads[now], now, (i, j)) if window is None else _check_window(window)
        x, y = (torch.linspace(*ends, 121).double() for ends in ends_of_axes)
        states = means[now].expand(len(y), len(x), n).clone()
        states[..., i], states[..., j] = x, y[:, None]
        values = answer.value(states, t).cpu().numpy()
    figure, ax = make_axes(ax, (6.4, 4.8))
    ends = check_limits(limits)
    levels: Any = 16 if ends is None else np.linspace(*ends, 17)
    filled = ax.contourf(x, y, values, levels=levels, cmap=colors, extend="neither" if ends is None else "both")
    ax.contour(x, y, values, levels=levels, colors="white", linewidths=0.5)
    figure.colorbar(filled, ax=ax, label="value (reward units)")
    path = means.numpy()
    ax.plot(path[:, i], path[:, j], "-", color="white", linewidth=3.2, label="_halo")
    ax.plot(path[:, i], path[:, j], ".-", color="black", linewidth=1.4, markersize=5, label="mean of q")
    ax.add_patch(_ellipse(path[now], spreads[now].numpy(), i, j))
    names = coordinate_names(answer)
    ax.set(xlabel=names[i], ylabel=names[j])
    if window is not None:  # however far q's path goes
        ax.set(xlim=ends_of_axes[0], ylim=ends_of_axes[1])
    local = "" if getattr(answer, "is_whole", True) else " of the model around its plan"
    ax.set_title(f"Soft value{local} at t = {t + 1}, {target_title(answer.backend, answer.target.value)}")
    ax.legend(loc="best", fontsize=9)
    return figure


def _reach(means: Tensor, spread: Tensor, now: int, coordinates: tuple[int, int]) -> list[tuple[float, float]]:
    """What the path of means and three and a half standard deviations around one of them take up, with some room."""
    reach = 3.5 * spread.diagonal().sqrt()
    low = torch.minimum(means.amin(0), means[now] - reach)
    high = torch.maximum(means.amax(0), means[now] + reach)
    room = 0.1 * (high - low).clamp(min=1e-9)
    return [(float(low[k] - room[k]), float(high[k] + room[k])) for k in coordinates]


def _check_window(window: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    found = np.asarray(window, dtype=float)
    if found.shape != (2, 2) or not np.isfinite(found).all() or not (found[:, 0] < found[:, 1]).all():
        raise ValueError(f"window is {window}; give the ends of both axes as ((left, right), (bottom, top))")
    return [(float(low), float(high)) for low, high in found]


def plot_gains(
    model: LinearGaussianModel,
    temperatures: Iterable[float] = tuple(np.logspace(-2, 2, 25)),
    *,
    t: int = 0,
    backend: str = "variational",
    axes: Sequence[Axes] | None = None,
) -> Figure:
    """Gains and deviations of the policy against temperature, under the model's prior and under a flat one.

    The left axes hold the entries of K, the right ones the standard deviations. Under fixed dynamics the gain of a flat
    prior does not move, and its covariance grows in proportion; a Gaussian prior draws both to itself as the
    temperature grows.

    Args:
        model: one linear-Gaussian model.
        temperatures: alpha > 0, on a logarithmic axis.
        t: the time index.
        backend: whose answer.
        axes: where to draw, gains and deviations; a new figure, unless given.

    Raises:
        TypeError, ValueError: if the model is another, or a batch.
    """
    if not isinstance(model, LinearGaussianModel) or model.batch_shape:
        raise TypeError(f"gains are drawn of one LinearGaussianModel, got {model!r}")
    alphas = np.array(sorted(float(alpha) for alpha in temperatures))
    if axes is None:
        figure, axes = plt.subplots(1, 2, figsize=(10.0, 4.0), layout="constrained")
        figure.suptitle(f"Policy at t = {t + 1} against temperature: {model.name}, {backend}")
    left, right = axes
    priors = {"Flat()": Flat()} | ({} if model.is_flat else {"as the model has it": model.action_prior})
    for label, prior in priors.items():
        gains, deviations = [], []
        for alpha in alphas:
            answer = infer(model.replace(temperature=float(alpha), action_prior=prior), backend, throw=False)
            if not isinstance(answer, GaussianPosterior):
                raise ValueError(f"backend {backend!r} gives no Gaussian answer; ask 'variational', 'exact' or 'risk'")
            ok = answer.status.ok
            gains.append(answer.gain(t).reshape(-1).tolist() if ok else [np.nan] * model.state_dim * model.action_dim)
            deviations.append(answer.covariance(t).diagonal().sqrt().tolist() if ok else [np.nan] * model.action_dim)
        for ax, rows, symbol in ((left, gains, "K"), (right, deviations, "sd")):
            for k, line in enumerate(np.array(rows).T):
                name = f"{symbol}{_index(k, model, symbol)}, prior {label}"
                ax.plot(alphas, line, STYLES[k % len(STYLES)], color=PRIOR_COLORS[label], linewidth=1.8, label=name)
    left.axhline(0, color="0.6", linewidth=0.8, linestyle=":", zorder=1)
    right.set_yscale("log")
    for ax, label in ((left, "entries of the gain K"), (right, "standard deviation of the action")):
        ax.set_xscale("log")
        ax.set_xlabel("temperature (reward units per nat)")
        ax.set_ylabel(label)
        ax.legend(loc="best", fontsize=8)
    return _figure(left)


def _gaussian(posterior: Posterior) -> GaussianPosterior:
    if not isinstance(posterior, GaussianPosterior):
        raise TypeError(
            f"the answer of {posterior.backend!r} is no Gaussian one; ask 'exact' or 'variational' about a "
            "LinearGaussianModel"
        )
    if posterior.problem.batch:
        raise ValueError(f"the answer is a batch of shape {list(posterior.problem.batch)}; infer model.member(0)")
    posterior.policy()  # refuses what failed
    return posterior


def coordinate_names(answer: GaussianPosterior) -> list[str]:
    """How the coordinates of the state are called, from 0."""
    names = _names("state", answer.problem.num_states)
    if isinstance(answer.model, World) and answer.problem.num_states > 1:
        scene = scene_of(answer.model)
        if not scene.labels[0].startswith("first"):
            for place, label in zip(scene.axes, scene.labels, strict=True):
                names[place] = label
    return names


def _names(kind: str, number: int) -> list[str]:
    return [kind] if number == 1 else [f"{kind}[{k}]" for k in range(number)]


def _index(k: int, model: LinearGaussianModel, symbol: str) -> str:
    if symbol == "K":
        return f"[{k // model.state_dim}, {k % model.state_dim}]"
    return f"[{k}]" if model.action_dim > 1 else ""


def _over_time(moments: Moments, place: int, num_states: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over time of one coordinate, states first."""
    inside = place < num_states
    means = moments.state_means if inside else moments.action_means
    covariances = moments.state_covariances if inside else moments.action_covariances
    k = place if inside else place - num_states
    deviation: Tensor = covariances[:, k, k].clamp(min=0).sqrt()
    return means[:, k].cpu().numpy(), deviation.cpu().numpy()


def _ellipse(mean: np.ndarray, covariance: np.ndarray, i: int, j: int) -> Ellipse:
    """Two standard deviations of two coordinates."""
    values, vectors = np.linalg.eigh(covariance[np.ix_([i, j], [i, j])])
    size = 4 * np.sqrt(values.clip(0))
    angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
    place = (float(mean[i]), float(mean[j]))
    ellipse = Ellipse(place, float(size[1]), float(size[0]), angle=angle)
    ellipse.set(fill=False, edgecolor="black", linewidth=1.6, linestyle="--", label="q, two standard deviations")
    return ellipse


def _figure(ax: Axes) -> Figure:
    figure, _ = make_axes(ax, (1.0, 1.0))
    return figure
