"""Pictures of what an estimate says: flows on a map, destinations as a trip unfolds, a reward beside the true one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cai.inverse.estimation.estimate import Estimate
from cai.inverse.predictions.destinations import destinations, network_problem
from cai.models.demonstrations.network_tables import spelled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_destinations", "plot_flows", "plot_reward"]

Array = np.ndarray[Any, Any]
WIDEST = 6.0  # of a line, in points
ASIDE = 0.12  # of the median length of a link, by which it is drawn to its right, apart from the way back
NAMED = 6  # destinations with lines of their own
LINES = ("o-", "s--", "^-.", "D:", "v-", "P--")  # a style for each of them
UNIT = 1e-9  # of the longest direction, from which on a coefficient is part of it


def plot_flows(est: Estimate, flows: pd.DataFrame | None = None, ax: Axes | None = None) -> Figure:
    """The map of a network, each link as wide and as dark as it is often entered; returns the figure.

    A link of a two-way street is drawn on its right side.

    Args:
        est: a fit on a network whose links have x0, y0, x1 and y1.
        flows: columns from, to, expected, as of `remaining_flows`; unless given what the fit expects of all its trips,
            each with its own origin and destination.
        ax: where to draw, or None for a new figure.

    Raises:
        ValueError: if links have no places, or flows are not those of the network's turns.
        TypeError: if the estimate is not of a network.
    """
    from matplotlib.collections import LineCollection

    from cai.pictures.drawing import MASS_MAP, make_axes

    problem = network_problem(est)
    network = problem.network
    places = network.positions
    if places is None or not np.isfinite(places).all():
        raise ValueError("links have no places to draw them at; give links the columns x0, y0, x1 and y1")
    if flows is None:
        expected, what = problem.counts(est.vector)["expected"].to_numpy(), "expected counts of all trips"
    else:
        same = {"from", "to", "expected"} <= set(flows) and len(flows) == network.num_turns
        if not same or any(list(flows[end]) != list(network.turns[end]) for end in ("from", "to")):
            raise ValueError("flows are not those of this network; give what remaining_flows(est, prefix) returns")
        expected, what = flows["expected"].to_numpy(dtype=np.float64), "expected counts"
    entered = np.bincount(network.heads, expected, network.num_links)
    figure, ax = make_axes(ax, (6.4, 5.4))
    along = places[:, 2:] - places[:, :2]
    lengths = np.hypot(*along.T)
    right = np.stack([along[:, 1], -along[:, 0]], -1) / np.where(lengths > 0, lengths, 1.0)[:, None]
    shift = ASIDE * float(np.median(lengths)) * right
    order = np.argsort(entered, kind="stable")  # the busiest on top
    ends = np.stack([places[:, :2] + shift, places[:, 2:] + shift], 1)
    top = float(entered.max(initial=0.0)) or 1.0
    lines = LineCollection(
        list(ends[order]), cmap=f"{MASS_MAP}_r", linewidths=0.6 + WIDEST * entered[order] / top, capstyle="round"
    )
    lines.set_array(entered[order])
    lines.set_clim(0.0, top)
    ax.add_collection(lines)
    ax.autoscale_view()
    ax.set_aspect("equal")
    ax.set_xlabel("x (units of the links)")
    ax.set_ylabel("y (units of the links)")
    ax.set_title(f"How often each link is entered: {what}")
    figure.colorbar(lines, ax=ax, label="expected entries of a link")
    return figure


def plot_destinations(
    est: Estimate, prefix: Any, prior: Mapping[Any, float] | None = None, ax: Axes | None = None
) -> Figure:
    """The probability of each destination as a trip unfolds, link by link; returns the figure.

    The six that ever are the most probable have lines of their own, the others one line for their sum.

    Args:
        est: a fit on a network.
        prefix: links from the origin to the present one, the origin at least.
        prior: as in `destinations`.
        ax: where to draw, or None for a new figure.

    Raises:
        ValueError, TypeError: as `destinations`.
    """
    from cai.pictures.drawing import REAL_COLOR, make_axes

    links = list(prefix)
    if not links:
        raise ValueError("prefix is empty; give the origin at least")
    table = pd.DataFrame(destinations(est, [links[: i + 1] for i in range(len(links))], prior))
    figure, ax = make_axes(ax, (7.0, 3.6))
    steps = np.arange(len(links))
    top = table.max(axis=0).sort_values(ascending=False, kind="stable").index[:NAMED]
    for place, key in enumerate(top):  # equally probable ones show through each other
        ax.plot(steps, table[key], LINES[place], markersize=8 - place, label=str(key))
    others = table.shape[1] - len(top)
    if others:
        rest = 1.0 - table[top].to_numpy().sum(1)
        ax.plot(steps, rest, "--", color=REAL_COLOR, label=f"{others} others together")
    ax.set_xticks(steps, [str(link) for link in links], rotation=45 if len(links) > 8 else 0)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel("link that is taken")
    ax.set_ylabel("probability of the destination")
    ax.set_title("Where a trip goes, as it unfolds")
    ax.legend(title="destination", fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    ax.grid(alpha=0.3)
    return figure


def plot_reward(est: Estimate, truth: Any, ax: Axes | None = None) -> Figure:
    """Recovered coefficients beside the true ones, without what no demonstration tells; returns the figure.

    What the demonstrations leave open (`Estimate.null_space`; of a table of rewards its shaping by potentials) is taken
    off both, so that points lie on the line of equality where all that can be known was found.

    Args:
        est: a fit.
        truth: the true coefficients: {name: value}, a Series, or [F] in the order of the coefficients.
        ax: where to draw, or None for a new figure.

    Raises:
        ValueError: if truth does not name the coefficients, or none of them can be told.
    """
    from cai.pictures.drawing import REAL_COLOR, TARGET_COLORS, make_axes

    free = list(est.free)
    true = _true(est, truth)[free].to_numpy()
    found, errors = est.coefficients[free].to_numpy(), est.standard_errors[free].to_numpy()
    rows = est.null_space().to_numpy(dtype=np.float64)
    open_here = np.zeros(len(free), dtype=bool)
    if len(rows):
        sizes = np.ones(len(free)) if est.scales is None else est.scales.numpy()
        open_here = (np.abs(rows * sizes) > UNIT * np.abs(rows * sizes).max(1, keepdims=True)).any(0)
        if np.isfinite(found).all():
            true, found = true - rows.T @ (rows @ true), found - rows.T @ (rows @ found)
    shown = np.isfinite(found)
    if not shown.any():
        raise ValueError(f"a fit with status {est.status.label!r} has no coefficients to show; fit as its status says")
    figure, ax = make_axes(ax, (5.4, 4.8))
    low, high = (float(end(np.concatenate([true[shown], found[shown]]))) for end in (np.min, np.max))
    room = 0.08 * (high - low) or 0.5
    ax.plot([low - room, high + room], [low - room, high + room], color="0.2", linewidth=0.9, label="equal")
    color = TARGET_COLORS["fixed-dynamics"]
    for mask, tint, label in (
        (shown & ~open_here, color, "settled"),
        (shown & open_here, REAL_COLOR, "but for what is left open"),
    ):
        if mask.any():
            bars = 1.96 * np.where(np.isfinite(errors[mask]), errors[mask], 0.0)
            ax.errorbar(true[mask], found[mask], bars, fmt="o", color=tint, label=label)
    ax.set_xlabel("true coefficient")
    ax.set_ylabel("recovered coefficient, with 95% intervals")
    lost = int((~shown).sum())
    ax.set_title("The reward as recovered" + (f" ({lost} coefficients left open)" if lost else ""))
    ax.legend(fontsize=10, loc="upper left")
    ax.grid(alpha=0.3)
    return figure


def _true(est: Estimate, truth: Any) -> pd.Series:
    """True values by name.

    Raises:
        ValueError: if one is missing.
    """
    names = list(est.coefficients.index)
    if isinstance(truth, Mapping | pd.Series):
        known = pd.Series({str(key): float(value) for key, value in truth.items()}, dtype=np.float64)
    else:
        values = np.asarray(truth, dtype=np.float64).reshape(-1)
        if len(values) != len(names):
            raise ValueError(f"truth has {len(values)} entries; expected {len(names)}, in the order {', '.join(names)}")
        known = pd.Series(values, index=names)
    lacking = [name for name in est.free if name not in known.index]
    if lacking:
        raise ValueError(f"truth does not say what {spelled(lacking[0])} is; give {', '.join(est.free)}")
    return known
