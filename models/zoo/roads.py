"""Routes: the three paths that show label bias, and a small town whose streets are states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from cai.models.rewards.goals import LinearReward
from cai.models.trajectory.model import TrajectoryModel
from cai.models.zoo.road_networks import road_network
from cai.models.zoo.tabulated import Outcomes, tabulate

if TYPE_CHECKING:
    import networkx

__all__ = ["ROAD_FEATURES", "small_roads", "street_places", "three_paths", "town", "turn_angle"]

ROAD_FEATURES = ("minutes", "left turns", "U-turns", "streets")
SIDE_STREET, MAIN_STREET = 2.0, 1.0  # minutes for a kilometre, at 30 and at 60 km/h


def three_paths(
    *,
    entropy_form: bool = True,
    backwards: bool = False,
    path_cost: float = 2.0,
    horizon: int | float = 2,
    temperature: float = 1.0,
    discount: float = 1.0,
) -> TrajectoryModel:
    """Three ways from A to B that cost the same, two of which share their first street: label bias.

    Ziebart et al. 2008, "Maximum Entropy Inverse Reinforcement Learning", figure 2. The maximum-entropy distribution
    gives each path 1/3. A distribution made of choices at each node, which compete with their siblings only, gives
    path 3 a half and the others a quarter each. Here the first is the entropy form, and the second the KL form with its
    uniform prior over the actions of a node. On the way back, from B to A, both give 1/3.

    Args:
        entropy_form: reward entropy (Ziebart; Levine 2018, section 2.3); False counts relative to uniform actions.
        backwards: travel from B to A.
        path_cost: of each path, in reward units; half of it for each of its two streets where it has two.
        horizon: T; two steps suffice.
        temperature: alpha.
        discount: in (0, 1].

    Returns:
        A model with states A, C (where paths 1 and 2 part) and B. In the entropy form its rewards, also in pictures,
        are minus the costs plus alpha times the log of the number of ways on.
    """
    half: float = -path_cost / 2
    there: dict[str, dict[str, Outcomes]] = {
        "A": {"to C": [(1.0, "C", half)], "path 3": [(1.0, "B", -path_cost)]},
        "C": {"path 1": [(1.0, "B", half)], "path 2": [(1.0, "B", half)]},
        "B": {},
    }
    back: dict[str, dict[str, Outcomes]] = {
        "A": {},
        "C": {"to A": [(1.0, "A", half)]},
        "B": {"path 1": [(1.0, "C", half)], "path 2": [(1.0, "C", half)], "path 3": [(1.0, "A", -path_cost)]},
    }
    mdp, reward = tabulate(back if backwards else there, "B" if backwards else "A")
    model = TrajectoryModel(mdp, reward, horizon, temperature, discount, name="three-paths")
    return model.entropy_form() if entropy_form else model


def small_roads(
    weights: Sequence[float] = (-1.0, -0.5, -5.0, -0.2),
    *,
    horizon: int | float = 12,
    temperature: float = 1.0,
    discount: float = 1.0,
) -> TrajectoryModel:
    """From home to work through nine crossings: streets are states, and turns are actions.

    A link-based route choice model (Fosgerau, Frejinger and Karlstrom 2013, "A link based network route choice model
    with unrestricted choice set"), with attributes like those of its section 4: travel time, left turns (of more than
    40 and less than 177 degrees), U-turns (of 177 or more) and a constant for each street. The town and the weights are
    ours. `entropy_form()` makes it the recursive logit model itself. The reward is a `LinearReward`, so that weights
    can be learned.

    Args:
        weights: [4], in reward units for a minute, a left turn, a U-turn and a street; a tensor keeps its gradient.
        horizon: T, in streets; math.inf where every weight is negative.
        temperature: alpha.
        discount: in (0, 1].

    Returns:
        A model whose states are called "home -> a1", "a1 -> a2", ...; its reward holds features [S, A, 4].
    """
    graph = town()
    mdp, _ = road_network(
        graph,
        "work",
        cost="minutes",
        states="edges",
        initial=("home", "a1"),
        regions={"main street": [i for i, edge in enumerate(_edges(graph)) if _is_main(*edge)]},
    )
    features = torch.zeros(mdp.num_states, mdp.num_actions, len(ROAD_FEATURES), dtype=torch.float64)
    edges = _edges(graph)
    following = mdp.successors()[..., 0]
    for state, action in torch.nonzero(mdp.available & ~mdp.terminal[:, None]).tolist():
        onto = edges[int(following[state, action])]
        angle = turn_angle(graph, edges[state], onto)
        left, around = 40 < angle < 177, abs(angle) >= 177
        minutes = graph.edges[onto]["minutes"]
        features[state, action] = torch.tensor([minutes, left, around, 1.0], dtype=torch.float64)
    reward = LinearReward(features, weights)
    return TrajectoryModel(mdp, reward, horizon, temperature, discount, name="small-roads")


def town() -> networkx.DiGraph[Any]:
    """The network of `small_roads`: crossings a1 to c3, a kilometre apart, with home before a1 and work behind c3.

    Nodes have `place`, (x, y) in kilometres; edges have `minutes`. Row b is a main street.
    """
    import networkx

    graph: networkx.DiGraph[Any] = networkx.DiGraph()
    places = {f"{row}{column}": (float(column), -float("abc".index(row))) for row in "abc" for column in (1, 2, 3)}
    places |= {"home": (0.0, 0.0), "work": (4.0, -2.0)}
    for node, place in places.items():
        graph.add_node(node, place=place)
    graph.add_edge("home", "a1")
    for node in places:
        for other in places:
            near = math.dist(places[node], places[other]) == 1
            if near and "home" not in (node, other) and "work" not in (node, other):
                graph.add_edge(node, other)
    graph.add_edge("c3", "work")
    for edge in graph.edges:
        graph.edges[edge]["minutes"] = MAIN_STREET if _is_main(*edge) else SIDE_STREET
    return graph


def street_places(model: TrajectoryModel) -> list[tuple[float, float]] | None:
    """Where the streets of `small_roads` lie, in kilometres: a little to the right of their middle, as one drives.

    Returns:
        (x, y) of each state; None if the states of the model are not these streets.
    """
    graph = town()
    places = {}
    for tail, head in graph.edges:
        (x, y), (u, v) = graph.nodes[tail]["place"], graph.nodes[head]["place"]
        places[f"{tail} -> {head}"] = ((x + u) / 2 + 0.17 * (v - y), (y + v) / 2 - 0.17 * (u - x))
    names = model.mdp.state_names or ()
    return [places[name] for name in names] if set(names) == set(places) else None


def turn_angle(graph: networkx.DiGraph[Any], edge: tuple[Any, Any], onto: tuple[Any, Any]) -> float:
    """The turn from one edge onto the next, in degrees: 0 straight on, positive to the left, 180 back.

    Args:
        graph: whose nodes have `place`, (x, y) with y upwards.
        edge: (u, v).
        onto: (v, w).
    """
    headings = []
    for tail, head in (edge, onto):
        (x, y), (u, v) = graph.nodes[tail]["place"], graph.nodes[head]["place"]
        headings.append(math.degrees(math.atan2(v - y, u - x)))
    angle = (headings[1] - headings[0]) % 360
    return angle if angle <= 180 else angle - 360


def _edges(graph: networkx.DiGraph[Any]) -> list[tuple[Any, Any]]:
    """In the order in which `road_network` makes states of them: by their first node."""
    return [edge for node in graph for edge in graph.out_edges(node)]


def _is_main(tail: str, head: str) -> bool:
    return tail[0] == head[0] == "b"
