"""Routes through a network to a destination as a decision problem: nodes or edges are states, costs negative rewards.

With edges as states and turns as actions, soft values over an infinite horizon are those of the recursive logit model
of route choice (Fosgerau, Frejinger and Karlstrom 2013, "A link based network route choice model with unrestricted
choice set"), but for the action prior: their model is the entropy form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cai.models.processes.from_graph import GraphEdges, edge_values, members, read_initial, unique_names
from cai.models.processes.mdp import MDP
from cai.models.rewards.tables import TableReward

__all__ = ["road_network"]


def road_network(
    graph: Any,
    destination: Any,
    *,
    cost: str = "length",
    states: Literal["nodes", "edges"] = "nodes",
    turn_cost: Callable[[Any, Any], float] | None = None,
    initial: Any = None,
    regions: Mapping[str, Any] | None = None,
) -> tuple[MDP, TableReward]:
    """The process and the reward of travelling through a directed graph until a destination is reached.

    With nodes as states, action i takes the i-th edge out of a node, at the cost of that edge. With edges as states,
    action i turns onto the i-th edge out of the node where the present edge ends, at the cost of the edge that it turns
    onto plus that of the turn; the first edge is not paid. Destinations absorb: edges out of them are left out. Nothing
    larger than [S, A] is made, A being the largest number of edges out of a node.

        mdp, reward = road_network(graph, "station", cost="minutes")
        model = TrajectoryModel(mdp, reward, horizon=math.inf)

    Args:
        graph: networkx DiGraph or MultiDiGraph.
        destination: a node, or several. With states="edges" also edges, (u, v) or (u, v, key) in a multigraph; a node
            then stands for every edge into it.
        cost: the edge attribute that is paid, in reward units: finite and >= 0. An infinite horizon with discount 1
            needs costs above 0.
        states: "nodes" or "edges"; the second lets turns be forbidden or charged, and has a state for each edge.
        turn_cost: with states="edges", a function of (edge, next edge) that returns what the turn costs, or math.inf
            where it is forbidden; called once for each turn. Edges are given as in `destination`.
        initial: a state (a node or an edge), {state: probability}, or [S]; every state that is no destination alike,
            unless given.
        regions: named sets of states, as in `MDP`.

    Returns:
        The process, with states named by the str() of their node, or "u -> v" ("u -> v (key)" in a multigraph); and
        the reward [S, A], 0 in destinations and where there is no action.

    Raises:
        TypeError, ValueError: as `MDP.from_graph`; and if a cost is missing, negative or not finite, the destination
            does not exist, or it cannot be reached from a state.
    """
    if states not in ("nodes", "edges"):
        raise ValueError(f"states is {states!r}; expected 'nodes' or 'edges'")
    if turn_cost is not None and (states == "nodes" or not callable(turn_cost)):
        raise ValueError(
            f"turn_cost is {turn_cost!r} with states={states!r}; turns are actions with states='edges', and their cost "
            "a function of (edge, next edge)"
        )
    edges = GraphEdges.of(graph)
    costs = edge_values(edges, cost, "cost")
    network = _nodes(edges, costs, destination) if states == "nodes" else _turns(edges, costs, destination, turn_cost)
    if not network.absorbs.any():
        raise ValueError("destination is empty; give a node of the graph, or with states='edges' an edge")
    _check_reachable(network)
    here = np.arange(len(network.index))[:, None]
    moves = network.exists & ~network.absorbs[:, None]
    mdp = MDP.from_successors(
        np.where(moves, network.following, here)[..., None],
        np.ones((*moves.shape, 1)),
        read_initial(initial, network.index, ~network.absorbs),
        available=moves | network.absorbs[:, None],
        terminal=network.absorbs,
        state_names=network.names,
        regions=regions,
    )
    return mdp, TableReward(np.where(moves, -network.paid, 0.0))


@dataclass(frozen=True, eq=False)
class _Network:
    """Arrays over S states and A actions.

    Attributes:
        index: the number of each state, by its node or edge.
        names: of the states.
        following: int64 [S, A], where an action leads.
        exists: bool [S, A], which actions there are.
        paid: [S, A], what an action costs.
        absorbs: bool [S], the destinations.
        advice: what to do about states from which no destination can be reached.
    """

    index: dict[Any, int]
    names: list[str]
    following: np.ndarray
    exists: np.ndarray
    paid: np.ndarray
    absorbs: np.ndarray
    advice: str


def _nodes(edges: GraphEdges, costs: np.ndarray, destination: Any) -> _Network:
    listed, exists = edges.outgoing(np.arange(len(edges.nodes)))
    absorbs = np.zeros(len(edges.nodes), dtype=bool)
    absorbs[members(destination, edges.index, "destination")] = True
    return _Network(
        index=edges.index,
        names=unique_names(edges.nodes, "nodes"),
        following=edges.heads[listed],
        exists=exists,
        paid=costs[listed],
        absorbs=absorbs,
        advice="keep what leads there: graph.subgraph(networkx.ancestors(graph, destination) | {destination})",
    )


def _turns(
    edges: GraphEdges, costs: np.ndarray, destination: Any, turn_cost: Callable[[Any, Any], float] | None
) -> _Network:
    num_edges = len(edges.labels)
    index: dict[Any, int] = {label: i for i, label in enumerate(edges.labels)}
    listed, exists = edges.outgoing(edges.heads)
    # A node is asked for by a number of its own, after those of the edges. What names both is taken for the edge.
    asked: dict[Any, int] = {node: num_edges + i for node, i in edges.index.items()}
    asked.update(index)
    chosen = np.array(members(destination, asked, "destination"), dtype=np.int64)
    absorbs = np.isin(np.arange(num_edges), chosen) | np.isin(edges.heads, chosen - num_edges)
    if len(chosen) and not absorbs.any():
        raise ValueError(f"destination is {destination!r}, and no edge leads to it; give a node that can be entered")
    paid = costs[listed]
    if turn_cost is not None:
        leaves = exists & ~absorbs[:, None]
        extra = _turn_costs(edges, listed, leaves, turn_cost)
        exists = exists & ~np.isinf(extra)
        paid = paid + np.where(exists, extra, 0.0)
    names = (f"{label[0]} -> {label[1]}" + (f" ({label[2]})" if len(label) > 2 else "") for label in edges.labels)
    return _Network(
        index=index,
        names=unique_names(names, "edges"),
        following=listed,
        exists=exists,
        paid=paid,
        absorbs=absorbs,
        advice="remove such edges from the graph, or allow the turns that lead on from them",
    )


def _turn_costs(
    edges: GraphEdges, listed: np.ndarray, leaves: np.ndarray, turn_cost: Callable[[Any, Any], float]
) -> np.ndarray:
    """[S, A], what each turn out of a nonterminal edge costs beside its edge: finite or inf; 0 elsewhere."""
    result = np.zeros(listed.shape)
    edge, action = np.nonzero(leaves)
    for at, turn, onto in zip(edge.tolist(), action.tolist(), listed[edge, action].tolist(), strict=True):
        value = turn_cost(edges.labels[at], edges.labels[onto])
        try:
            result[at, turn] = value
        except (TypeError, ValueError):
            raise TypeError(
                f"turn_cost({edges.labels[at]!r}, {edges.labels[onto]!r}) returned {value!r}; expected one number"
            ) from None
    bad = np.isnan(result) | (result < 0)
    if bad.any():
        at, turn = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"turn_cost({edges.labels[at]!r}, {edges.labels[listed[at, turn]]!r}) returned {result[at, turn]:g}; "
            "expected a number >= 0, or math.inf for a turn that is forbidden"
        )
    return result


def _check_reachable(network: _Network) -> None:
    """Refuses states from which no destination can be reached: travelling from there would never end."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order

    num_states = len(network.index)
    state, action = np.nonzero(network.exists & ~network.absorbs[:, None])
    ends = np.flatnonzero(network.absorbs)
    # Backwards, from one more vertex that leads to every destination.
    starts = np.concatenate([network.following[state, action], np.full(len(ends), num_states)])
    stops = np.concatenate([state, ends])
    shape = (num_states + 1, num_states + 1)
    backwards = coo_array((np.ones(len(starts)), (starts, stops)), shape=shape).tocsr()
    reached = np.zeros(num_states + 1, dtype=bool)
    reached[breadth_first_order(backwards, num_states, return_predecessors=False)] = True
    lost = np.flatnonzero(~reached[:num_states])
    if len(lost):
        raise ValueError(
            f"no destination can be reached from {network.names[lost[0]]!r} ({len(lost)} such states in all); "
            f"{network.advice}"
        )
