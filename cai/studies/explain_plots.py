"""The picture of what a reward says."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from cai.pictures.drawing import FEW_STATES, REAL_COLOR, TARGET_COLORS, VALUE_MAP, draw_grid
from cai.studies.explain import COSTS, RewardExplanation
from cai.studies.explain_continuous import ContinuousExplanation

__all__ = ["plot_continuous_explanation", "plot_explanation"]

TERM_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's palette


def plot_explanation(explanation: RewardExplanation, *, figsize: tuple[float, float] | None = None) -> Figure:
    """Optimality over time; shares of the evidence as a waterfall; gradients of evidence and visits by state.

    Args:
        explanation: from `cai.explain_reward`.
        figsize: in inches.
    """
    maps = 1 + (explanation.visit_gradient is not None)
    rows = 1 + (maps == 2)  # one row of four would be too wide for a page
    size = figsize or (5.2 * (2 + maps) / rows, 4.6 * rows)
    figure, grid = plt.subplots(rows, (2 + maps) // rows, figsize=size, layout="constrained", squeeze=False)
    axes = grid.flatten()
    _optimality(axes[0], explanation)
    _waterfall(axes[1], explanation)
    exact = str(explanation.posterior.target) == "exact"
    of_what = "log evidence" if exact else "bound"
    _map(
        axes[2],
        explanation,
        explanation.evidence_gradient,
        f"Gradient of the {of_what},\nby where one reward unit is added",
        "nats per reward unit",
    )
    if explanation.visit_gradient is not None and explanation.visits is not None:
        title = f"Gradient of visits to the chosen states\n(they get {explanation.visits:.3g})"
        _map(axes[3], explanation, explanation.visit_gradient, title, "visits per reward unit", signed=True)
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.12)
    figure.suptitle(
        f"What the reward of {explanation.model.name} says, along the answer of {explanation.posterior.backend!r}"
    )
    return figure


def _optimality(ax: Axes, explanation: RewardExplanation) -> None:
    time = np.arange(1, explanation.model.steps + 1)
    color = TARGET_COLORS[explanation.posterior.target.value]
    lines = (
        (explanation.prior_optimality, "along the prior", REAL_COLOR, "s"),
        (explanation.sequential_optimality, "given those before", "#CC79A7", "v"),
        (explanation.posterior_optimality, "along the answer", color, "o"),
    )
    for values, label, shade, marker in lines:
        shown = np.where(values.numpy() > 0, values.numpy(), np.nan)
        ax.plot(time, shown, color=shade, label=label, marker=marker, markersize=4, linewidth=1.4)
    low = min(float(values[values > 0].min()) if bool((values > 0).any()) else 1.0 for values, *_ in lines)
    if low < 0.01:
        ax.set_yscale("log")
    ax.set_xlabel("time t")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set_ylabel(r"probability that step t is optimal")
    ax.set_title(f"exp((r - r_max) / temperature), r_max = {explanation.model.r_max:g}")
    ax.legend(fontsize=9, framealpha=0.9, edgecolor="none")
    ax.grid(alpha=0.3)


def _waterfall(ax: Axes, explanation: RewardExplanation) -> None:
    nats = explanation.shares.sum(0).tolist()
    names = [*explanation.terms, *COSTS]
    kept = [i for i, value in enumerate(nats) if i < len(explanation.terms) or abs(value) > 1e-12]
    start, places = 0.0, list(range(len(kept) + 1))
    color = TARGET_COLORS[explanation.posterior.target.value]
    for place, i in zip(places, kept, strict=False):
        value = nats[i] if math.isfinite(nats[i]) else 0.0
        shade = color if i < len(explanation.terms) else "0.6"
        ax.barh(place, value, 0.6, left=start, color=shade)
        ax.annotate(f" {round(nats[i], 2) + 0.0:.2f}", (max(start, start + value), place), va="center", fontsize=9)
        start += value
    total = "log p(O)" if str(explanation.posterior.target) == "exact" else "bound"
    ax.barh(places[-1], start, 0.6, color="0.2")
    ax.annotate(f" {explanation.total:.2f}", (max(start, 0.0), places[-1]), va="center", fontsize=9)
    ax.set_yticks(places, [*(names[i] if len(names[i]) < 30 else f"{names[i][:28]}.." for i in kept), total])
    ax.invert_yaxis()
    ax.use_sticky_edges = False
    ax.margins(x=0.2)
    ax.axvline(0, color="0.2", linewidth=0.8)
    ax.set_xlabel("nats")
    ax.set_title("Where the evidence comes from\n(colour: factors / temperature; grey: what they cost)")


def _map(
    ax: Axes, explanation: RewardExplanation, gradient: Tensor, title: str, label: str, signed: bool = False
) -> None:
    model = explanation.model
    shown = explanation.state_map(gradient).clone()
    if model.mdp.layout is not None:
        shown[model.mdp.host.terminal] = math.nan  # nothing is paid there: the cell stays light
        draw_grid(ax, model.mdp.layout, shown, label, "PuOr" if signed else VALUE_MAP)
        if signed:
            reach = max(float(shown.nan_to_num().abs().max()), 1e-12)
            ax.images[0].set_clim(-reach, reach)
        ax.set_title(title)
        return
    table = gradient.sum((0, 3))
    order = torch.argsort(table.abs().amax(-1), descending=True)[:FEW_STATES].sort().values
    reach = max(float(table.abs().max()), 1e-12)
    colors, low = ("PuOr", -reach) if signed else (VALUE_MAP, 0.0)
    picture = ax.imshow(table[order].numpy(), aspect="auto", cmap=colors, vmin=low, vmax=reach, interpolation="nearest")
    ax.set_yticks(range(len(order)), [model.mdp.state_name(int(s)) for s in order])
    actions = range(model.mdp.num_actions)
    ax.set_xticks(actions, [model.mdp.action_name(action) for action in actions])
    ax.tick_params(axis="x", rotation=90 if len(actions) > 8 else 0)
    ax.set_xlabel("action")
    ax.set_ylabel("state")
    figure: Any = ax.get_figure(root=True)
    figure.colorbar(picture, ax=ax, label=label)
    ax.set_title(title)


def plot_continuous_explanation(
    explanation: ContinuousExplanation, *, figsize: tuple[float, float] | None = None
) -> Figure:
    """Each term of a reward, as the answer expects it beside what its policy gets in the true world.

    Left the sums over all steps, with two standard errors where they are estimates; right each step, the end apart.

    Args:
        explanation: from `cai.explain_reward` of a continuous model.
        figsize: in inches.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=figsize or (11.0, 4.2), layout="constrained")
    color = TARGET_COLORS[explanation.posterior.target.value]
    places = np.arange(len(explanation.terms), dtype=float)
    kinds = [("in the true world", explanation.real, explanation.real_error, REAL_COLOR, "--", 0.2)]
    if explanation.believed is not None:
        kinds.insert(0, ("believed", explanation.believed, explanation.believed_error, color, "-", -0.2))
    for label, table, error, shade, _, shift in kinds:
        bars = None if error is None else 2 * np.where(np.isfinite(error.numpy()), error.numpy(), 0.0)
        left.barh(places + shift, table.sum(0).numpy(), 0.38, color=shade, label=label, xerr=bars)
    left.set_yticks(places, list(explanation.terms))
    left.invert_yaxis()
    left.axvline(0, color="0.2", linewidth=0.8)
    left.set_xlabel("expected sum over all steps (reward units)")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=9, frameon=False)
    time = np.arange(1, len(explanation.real) + 1)
    shown = [i for i, term in enumerate(explanation.terms) if term != "final"]
    for i in shown:
        for label, table, _, _, style, _ in kinds:
            name = explanation.terms[i] if label == kinds[0][0] else None
            right.plot(time, table[:, i].numpy(), style, color=TERM_COLORS[i % len(TERM_COLORS)], label=name)
    right.set_xlabel("time t")
    right.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    right.set_ylabel("expected reward of a step (reward units)")
    right.set_title("each step" + (" (solid: believed, dashed: true world)" if len(kinds) == 2 else ""), fontsize=11)
    if shown:
        right.legend(loc="best", fontsize=9)
    figure.suptitle(f"What the reward pays along the answer of {explanation.posterior.backend!r}")
    return figure
