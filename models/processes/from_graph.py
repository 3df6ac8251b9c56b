"""What a networkx graph says, as arrays: its edges in order, and the processes that they make."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["GraphEdges", "edge_values", "graph_successors", "members", "read_initial", "unique_names"]


@dataclass(frozen=True, eq=False)
class GraphEdges:
    """The nodes of a graph and its N edges, those of a node together and in the graph's order.

    Attributes:
        nodes: in the order of the graph.
        index: the number of each node.
        tails: int64 [N], where an edge begins.
        heads: int64 [N], where it ends.
        labels: (u, v), or (u, v, key) in a multigraph, of each edge.
        data: the attributes of each edge.
        degrees: int64 [nodes], how many edges begin at a node.
        first: int64 [nodes], the first of them; the others follow.
    """

    nodes: list[Hashable]
    index: dict[Hashable, int]
    tails: np.ndarray
    heads: np.ndarray
    labels: list[tuple[Hashable, ...]]
    data: list[dict[str, Any]]
    degrees: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, graph: Any) -> GraphEdges:
        """Reads a directed graph.

        Raises:
            TypeError, ValueError: if it is none, or has no node or edge.
        """
        import networkx

        if not isinstance(graph, networkx.Graph):
            raise TypeError(f"the graph is a {type(graph).__name__}; expected a networkx DiGraph or MultiDiGraph")
        if not graph.is_directed():
            raise TypeError(
                f"the graph is an undirected {type(graph).__name__}; make each edge two with graph.to_directed()"
            )
        if graph.number_of_edges() == 0:
            raise ValueError(f"the graph has {graph.number_of_nodes()} nodes and no edge; there is nothing to decide")
        nodes = list(graph)
        index = {node: i for i, node in enumerate(nodes)}
        view: Any = graph.edges
        listed = list(view(keys=True, data=True) if graph.is_multigraph() else view(data=True))
        tails = np.fromiter((index[edge[0]] for edge in listed), dtype=np.int64, count=len(listed))
        heads = np.fromiter((index[edge[1]] for edge in listed), dtype=np.int64, count=len(listed))
        order = np.argsort(tails, kind="stable")  # no promise of networkx that edges come in the order of nodes
        degrees = np.bincount(tails, minlength=len(nodes))
        return cls(
            nodes=nodes,
            index=index,
            tails=tails[order],
            heads=heads[order],
            labels=[listed[i][:-1] for i in order],
            data=[listed[i][-1] for i in order],
            degrees=degrees,
            first=np.cumsum(degrees) - degrees,
        )

    def outgoing(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The edges that begin at each of some nodes, padded to the largest number anywhere.

        Args:
            nodes: int64 [M].

        Returns:
            Edge numbers, int64 [M, A], 0 in the padding; and bool [M, A], where there is an edge.
        """
        width = np.arange(int(self.degrees.max()))
        exists = width < self.degrees[nodes][:, None]
        return np.where(exists, self.first[nodes][:, None] + width, 0), exists


def edge_values(edges: GraphEdges, attribute: str, what: str) -> np.ndarray:
    """[N], an attribute of every edge: finite numbers >= 0.

    Args:
        edges: the graph's.
        attribute: its name.
        what: what it stands for, in messages.

    Raises:
        ValueError, TypeError: naming the edge without it, or with something else.
    """
    values = np.empty(len(edges.data))
    for i, data in enumerate(edges.data):
        if attribute not in data:
            known = ", ".join(sorted(map(str, data))) or "no attributes"
            raise ValueError(
                f"edge {edges.labels[i]!r} has no attribute {attribute!r}, which is its {what} (it has {known}); "
                f"set it, e.g. networkx.set_edge_attributes(graph, values, {attribute!r})"
            )
        try:
            values[i] = data[attribute]
        except (TypeError, ValueError):
            raise TypeError(
                f"edge {edges.labels[i]!r} has {attribute} = {data[attribute]!r}; expected one number, its {what}"
            ) from None
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"edge {edges.labels[i]!r} has {attribute} = {values[i]:g}; expected a finite {what} >= 0 "
            "(remove edges that may not be used)"
        )
    return values


def unique_names(objects: Iterable[Any], what: str) -> list[str]:
    """str() of each; refuses two that are written alike."""
    seen: dict[str, Any] = {}
    for item in objects:
        name = str(item)
        if name in seen:
            raise ValueError(
                f"{what} {seen[name]!r} and {item!r} are both written {name!r}, and names must differ; rename them, "
                "e.g. with networkx.relabel_nodes"
            )
        seen[name] = item
    return list(seen)


def members(given: Any, index: Mapping[Any, int], what: str) -> list[int]:
    """The numbers of one object, or of several; None is none.

    Raises:
        ValueError: if one is not known.
    """
    if given is None:
        return []
    if _knows(index, given):
        return [index[given]]
    several = isinstance(given, Iterable) and not isinstance(given, (str, bytes))
    found = []
    for item in given if several else [given]:
        if not _knows(index, item):
            example = next(iter(index))
            raise ValueError(f"{what}: {item!r} is not in the graph; give what it holds, such as {example!r}")
        found.append(index[item])
    return sorted(set(found))


def read_initial(given: Any, index: Mapping[Any, int], allowed: np.ndarray) -> Any:
    """[S], p(s_1): of one object, of a mapping from objects to probabilities, or as it is given.

    Args:
        given: an object of the graph, a mapping, [S], or None for all that are `allowed`, alike.
        index: numbers of the objects.
        allowed: bool [S].
    """
    result = np.zeros(len(index))
    if given is None:
        result[allowed] = 1.0 / max(int(allowed.sum()), 1)
        return result
    if isinstance(given, Mapping):
        for item, probability in given.items():
            (number,) = members([item], index, "initial")
            result[number] += probability
        return result
    if _knows(index, given) or not (hasattr(given, "shape") or isinstance(given, (list, tuple))):
        result[members(given, index, "initial")[0]] = 1.0
        return result
    return given


def graph_successors(
    graph: Any, terminal: Any, probability: str | None, action: str
) -> tuple[GraphEdges, dict[str, Any]]:
    """The arrays of `MDP.from_graph`: next_states, probabilities, available, terminal, state_names, action_names."""
    edges = GraphEdges.of(graph)
    num_nodes = len(edges.nodes)
    absorbs = np.zeros(num_nodes, dtype=bool)
    absorbs[members(terminal, edges.index, "terminal")] = True
    without_edges = (edges.degrees == 0) & ~absorbs
    if without_edges.any():
        node = edges.nodes[int(np.flatnonzero(without_edges)[0])]
        raise ValueError(
            f"node {node!r} has no edge out of it ({int(without_edges.sum())} such in all) and is not terminal; "
            "list it in terminal, remove it from the graph, or give it an edge to itself"
        )
    if probability is None:
        listed, available = edges.outgoing(np.arange(num_nodes))
        next_states, weights, labels = edges.heads[listed][..., None], np.ones((*listed.shape, 1)), None
    else:
        next_states, weights, available, labels = _grouped(edges, probability, action)
    here = np.broadcast_to(np.arange(num_nodes)[:, None, None], next_states.shape)
    moves = available & ~absorbs[:, None]
    next_states = np.where(moves[..., None], next_states, here)
    stays = np.zeros(next_states.shape[-1])
    stays[0] = 1.0
    return edges, {
        "next_states": next_states,
        "probabilities": np.where(moves[..., None], weights, stays),
        "available": available | absorbs[:, None],
        "terminal": absorbs,
        "state_names": unique_names(edges.nodes, "nodes"),
        "action_names": labels,
    }


def _grouped(edges: GraphEdges, probability: str, action: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """(next_states [S, A, K], probabilities [S, A, K], available [S, A], action names) of edges grouped by action."""
    values = edge_values(edges, probability, "probability")
    numbers: dict[Any, int] = {}
    chosen = np.empty(len(edges.data), dtype=np.int64)
    for i, data in enumerate(edges.data):
        if action not in data:
            raise ValueError(
                f"edge {edges.labels[i]!r} has no attribute {action!r}, the action that it may be an outcome of; set "
                "it, or leave out probability if every edge is an action of its own"
            )
        chosen[i] = numbers.setdefault(data[action], len(numbers))
    num_nodes, num_actions = len(edges.nodes), len(numbers)
    rows = edges.tails * num_actions + chosen
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=num_nodes * num_actions)
    place = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows[order]]
    next_states = np.repeat(np.arange(num_nodes), num_actions)[:, None].repeat(int(counts.max()), 1)
    weights = np.zeros(next_states.shape)
    next_states[rows[order], place] = edges.heads[order]
    weights[rows[order], place] = values[order]
    sums = weights.sum(-1)
    wrong = np.flatnonzero((counts > 0) & (np.abs(sums - 1) > 1e-9))
    if len(wrong):
        node, label = edges.nodes[wrong[0] // num_actions], list(numbers)[wrong[0] % num_actions]
        raise ValueError(
            f"the edges of action {label!r} out of node {node!r} have probabilities that sum to {sums[wrong[0]]:.10g}, "
            "not to 1; divide them by their sum, or add the missing outcome"
        )
    shape = (num_nodes, num_actions, -1)
    available = (counts > 0).reshape(num_nodes, num_actions)
    return next_states.reshape(shape), weights.reshape(shape), available, unique_names(numbers, "actions")


def _knows(index: Mapping[Any, int], item: Any) -> bool:
    try:
        return item in index
    except TypeError:  # what cannot be hashed is no node
        return False
