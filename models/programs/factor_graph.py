"""The factor graph of any trajectory program, found by running it, and its picture laid out in time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pyro.distributions import Delta
from pyro.infer.inspect import get_dependencies
from pyro.poutine.messenger import Messenger

from cai.models.continuous.world import World
from cai.models.programs.inspect import Program, inspect_program, site_time
from cai.models.programs.session import pyro_session

if TYPE_CHECKING:
    import networkx as nx
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_factor_graph", "factor_graph"]

_TIME = re.compile(r"^(.*?)_(\d+)$")
_EVIDENCE = re.compile(r"^evidence\.(.*?)_\d+$")
LONGEST_WORD = 6  # letters that a circle has room for
HEIGHTS = {"state": 0.0, "action": 1.1, "optimality": 2.2, "further": -1.0}
SHIFTS = {"state": 0.0, "action": 0.5, "further": 0.9, "optimality": 1.2}
NAMES = {"state": "state", "action": "action", "optimality": "optimality (observed)", "further": "further latent"}


def factor_graph(program: Program) -> nx.Graph[str]:
    """The bipartite graph of variables and factors of a trajectory program.

    Every site is a variable node with `bipartite=0`, `kind` ("state", "action", "optimality" or "further"), `time`
    (from 1, or None) and `observed`. Every conditional or potential is a factor node `f(site)` with `bipartite=1` and
    `kind="factor"`, joined to its site and to the variables that its value was computed from, as Pyro's provenance
    tracking finds them. A state that is certain given what is before it has a factor like any other.

    Args:
        program: a `TrajectoryModel` or any trajectory program. A model whose action prior is `Flat()` is drawn too: its
            factor f(a_t), a constant, is joined to a_t alone.

    Raises:
        ValueError: if the program does not follow the naming of sites.
    """
    import networkx as nx

    is_flat = isinstance(program, World) and program.is_flat
    program = program.with_stand_in() if isinstance(program, World) else program
    info = inspect_program(program)
    with pyro_session(program=program):
        parents = get_dependencies(_CertainStates()(program))["prior_dependencies"]
    graph: nx.Graph[str] = nx.Graph()
    for name in parents:
        match = _TIME.match(name)
        kind = "optimality" if name in info.factors else "further"
        if kind == "further" and match and match.group(1) in ("s", "a"):
            kind = {"s": "state", "a": "action"}[match.group(1)]
        time = int(match.group(2)) if match else None
        graph.add_node(name, bipartite=0, kind=kind, time=time, observed=name in info.factors)
    for name, sources in parents.items():
        factor = f"f({name})"
        graph.add_node(factor, bipartite=1, kind="factor", time=graph.nodes[name]["time"], observed=False)
        joined = {name} if is_flat and graph.nodes[name]["kind"] == "action" else {name, *sources}
        for variable in joined:
            graph.add_edge(factor, variable)
    return graph


class _Certain(Delta):
    """A `Delta` under another name, by which Pyro leaves out the sites that it looks at."""


class _CertainStates(Messenger):
    """Has states that are certain looked at like any other site."""

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if type(fn) is Delta and (site_time(msg["name"]) or ("",))[0] == "s":
            msg["fn"] = _Certain(fn.v, fn.log_density, event_dim=fn.event_dim)


def draw_factor_graph(program: Program | nx.Graph[str], *, max_steps: int = 4, ax: Axes | None = None) -> Figure:
    """Draws a factor graph: variables as circles, factors as squares, optimality shaded, time to the right.

    Args:
        program: a trajectory program, or its `factor_graph`.
        max_steps: how many steps to show at most.
        ax: where to draw; a new figure, unless given.

    Returns:
        The figure.
    """
    import matplotlib.pyplot as plt
    import networkx as nx
    from matplotlib.lines import Line2D

    if max_steps < 1:
        raise ValueError(f"max_steps is {max_steps}; show at least 1")
    graph = program if isinstance(program, nx.Graph) else factor_graph(program)
    horizon = max((data["time"] for _, data in graph.nodes(data=True) if data["kind"] == "action"), default=1)
    steps = min(max_steps, horizon)
    shown = graph.subgraph(
        [name for name, data in graph.nodes(data=True) if _is_shown(graph, name, data, steps)]
    ).copy()
    places = _places(shown)
    if ax is None:
        _, ax = plt.subplots(figsize=(2.2 * steps + 1.6, 3.8), layout="constrained")
    figure: Figure = ax.get_figure(root=True)  # type: ignore[assignment]
    nx.draw_networkx_edges(shown, places, ax=ax, edge_color="0.55")
    styles: dict[str, dict[str, Any]] = {
        "state": {"color": "white"},
        "action": {"color": "#cfe8f7"},
        "further": {"color": "#fdeacc"},
        "optimality": {"color": "0.72"},
    }
    handles = []
    for kind, style in styles.items():
        nodes = [name for name, data in shown.nodes(data=True) if data["kind"] == kind]
        if not nodes:
            continue
        nx.draw_networkx_nodes(
            shown, places, nodelist=nodes, node_size=780, node_color=style["color"], edgecolors="0.2", ax=ax
        )
        _name_nodes(ax, nodes, places, above=kind != "further")
        handles.append(
            Line2D([], [], marker="o", linestyle="", markersize=10, mec="0.2", mfc=style["color"], label=NAMES[kind])
        )
    factors = [name for name, data in shown.nodes(data=True) if data["kind"] == "factor"]
    nx.draw_networkx_nodes(shown, places, nodelist=factors, node_size=70, node_color="0.2", node_shape="s", ax=ax)
    handles.append(Line2D([], [], marker="s", linestyle="", markersize=6, color="0.2", label="factor"))
    ax.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=max(2, steps + 1),
        frameon=False,
        fontsize=9,
    )
    span = f"the first {steps} of {horizon} steps" if steps < horizon else f"{horizon} step{'s' * (horizon > 1)}"
    ax.set_title(f"Factor graph: {span}, time to the right")
    ax.set_axis_off()
    ax.margins(0.08)
    return figure


def _is_shown(graph: nx.Graph[str], name: str, data: dict[str, Any], steps: int) -> bool:
    time = data["time"]
    kind = graph.nodes[name[2:-1]]["kind"] if data["kind"] == "factor" else data["kind"]
    return time is None or time <= steps or (time == steps + 1 and kind == "state")


def _name_nodes(ax: Axes, nodes: list[str], places: dict[str, tuple[float, float]], *, above: bool) -> None:
    """Names of one letter stand in their circles, short words small, and longer ones beside them, where no edge is."""
    for name in nodes:
        label = _label(name)
        size = 11 if label.startswith("$") else 7 if len(label) <= LONGEST_WORD else 9
        about: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": size, "zorder": 4}
        shift = (0, 0)
        if size == 9:
            shift, about["ha"] = ((18, 0), "left") if above else ((0, -20), "center")
        ax.annotate(label, places[name], shift, textcoords="offset points", **about)


def _label(name: str) -> str:
    known = _EVIDENCE.match(name)
    if known:
        return f"evidence of {_label(name.removeprefix('evidence.'))}"
    match = _TIME.match(name)
    return rf"${match.group(1)}_{{{match.group(2)}}}$" if match and len(match.group(1)) == 1 else name


def _places(graph: nx.Graph[str]) -> dict[str, tuple[float, float]]:
    """Variables on a row for each kind, a factor between the variables it joins; s_1's own factor to its left."""
    places: dict[str, tuple[float, float]] = {}
    crowd: dict[tuple[str, int | None], int] = {}
    for name, data in graph.nodes(data=True):
        if data["bipartite"] == 1:
            continue
        known = _EVIDENCE.match(name)
        if known:  # above what it is evidence of
            kind = {"s": "state", "a": "action"}.get(known.group(1), "further")
            column = 2.0 * ((data["time"] or 1) - 1) + SHIFTS[kind]
            places[name] = (column, HEIGHTS["optimality"] + 0.9)
            continue
        key = (data["kind"], data["time"])
        crowd[key] = crowd.get(key, 0) + 1
        column = 2.0 * ((data["time"] or 1) - 1) + SHIFTS[data["kind"]]
        places[name] = (column, HEIGHTS[data["kind"]] - 0.9 * (crowd[key] - 1))
    for name in [name for name, data in graph.nodes(data=True) if data["bipartite"] == 1]:
        joined = [places[other] for other in graph.neighbors(name) if other in places]
        own = places.get(name[2:-1])
        if own is None or not joined:
            graph.remove_node(name)
        elif graph.nodes[name[2:-1]]["kind"] == "optimality":
            places[name] = (own[0], own[1] - 0.75)  # beside the action, whose circle no edge should cross
        elif len(joined) == 1:
            places[name] = (own[0] - 0.55, own[1])
        else:
            others = [place for place in joined if place != own]
            mean = (sum(x for x, _ in others) / len(others), sum(y for _, y in others) / len(others))
            places[name] = (0.45 * mean[0] + 0.55 * own[0], 0.45 * mean[1] + 0.55 * own[1])
    return places
