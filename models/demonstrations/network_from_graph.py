"""Tables of links, turns and exits from a networkx graph: edges are links, and a turn is one edge after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import pandas as pd

__all__ = ["graph_tables"]


def graph_tables(
    graph: Any, exits: Any, turns: Callable[[Any, Any], Mapping[str, float] | None] | None
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """(links, turns, exits); see `RouteNetwork.from_graph`.

    Raises:
        TypeError: if it is no directed graph, or `turns` returns no mapping.
        ValueError: if the graph has no edge, or a node of `exits` no edge into it.
    """
    if not (hasattr(graph, "is_directed") and graph.is_directed()):
        raise TypeError(
            f"the graph is a {type(graph).__name__}; expected a networkx DiGraph or MultiDiGraph: graph.to_directed() "
            "makes one"
        )
    keys = {"keys": True} if graph.is_multigraph() else {}
    edges = [(edge[:-1], edge[-1]) for edge in graph.edges(data=True, **keys)]
    if not edges:
        raise ValueError("the graph has no edge; a link is an edge")
    named = all("link" in data for _, data in edges)
    labels = [data["link"] if named else edge for edge, data in edges]
    rows = []
    places = {node: data.get("pos") for node, data in graph.nodes(data=True)}
    for label, (edge, data) in zip(labels, edges, strict=True):
        row = {"link": label}
        row |= {name: value for name, value in data.items() if isinstance(value, Real) and name != "link"}
        ends = [places[node] for node in edge[:2]]
        if all(place is not None and len(place) == 2 for place in ends):
            row |= dict(zip(("x0", "y0", "x1", "y1"), (*ends[0], *ends[1]), strict=True))
        rows.append(row)
    return _frame(rows), _turns(edges, labels, turns), _exits(edges, labels, exits)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a frame; keys may be tuples, and what a row lacks is nan."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pd.DataFrame({name: _column([row.get(name, math.nan) for row in rows]) for name in names})


def _column(values: list[Any]) -> pd.Series:
    if all(isinstance(value, Real) for value in values):
        return pd.Series(values)
    made = pd.Series([None] * len(values), dtype=object)
    for i, value in enumerate(values):
        made.iat[i] = value
    return made


def _turns(edges: list[Any], labels: list[Any], turns: Any) -> pd.DataFrame:
    following: dict[Any, list[int]] = {}
    for i, (edge, _) in enumerate(edges):
        following.setdefault(edge[0], []).append(i)
    rows = []
    for i, (edge, _) in enumerate(edges):
        for j in following.get(edge[1], ()):
            more: Any = {} if turns is None else turns(edge, edges[j][0])
            if more is None:
                continue
            if not isinstance(more, Mapping):
                raise TypeError(
                    f"turns({edge!r}, {edges[j][0]!r}) returned {more!r}; expected a mapping of attributes, or None "
                    "where the turn is forbidden"
                )
            rows.append({"from": labels[i], "to": labels[j], **more})
    return _frame(rows) if rows else pd.DataFrame({"from": [], "to": []}, dtype=object)


def _exits(edges: list[Any], labels: list[Any], exits: Any) -> pd.DataFrame:
    if isinstance(exits, pd.DataFrame):
        return exits
    wanted = None if exits is None else list(exits)
    rows = [
        {"link": label, "destination": edge[1]}
        for label, (edge, _) in zip(labels, edges, strict=True)
        if wanted is None or edge[1] in wanted
    ]
    missing = [node for node in wanted or () if node not in {row["destination"] for row in rows}]
    if missing:
        raise ValueError(f"exits names {missing[0]!r}, and no edge leads there; give nodes that can be entered")
    return _frame(rows)
