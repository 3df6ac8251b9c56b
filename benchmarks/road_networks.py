"""A road network as a first-exit problem: a perturbed planar grid with one-way streets, its edges as states.

A state is a directed edge (a driver on it), an action a turn onto an edge that begins where this one ends. A turn costs
the length of the edge that it enters and a penalty for the angle. One edge is the destination, and absorbs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

__all__ = ["RoadNetwork", "road_network"]

ONE_WAY = 0.4  # share of the segments
MISSING = 0.05  # share of the grid's segments that are no street
SHIFT = 0.3  # how far a crossing may lie from its place in the grid, in blocks, along either axis
BEND = 0.2  # standard deviation of the log of an edge's length over the distance
TURN_PENALTY = 0.2  # of a right angle, in blocks; it grows with the square of the angle
U_TURN_PENALTY = 1.0


@dataclass(frozen=True, eq=False)
class RoadNetwork:
    """Arrays over S edges and A turns.

    Attributes:
        next_states: int64 [S, A, 1], the edge that a turn enters; the edge itself where there is no such turn.
        available: bool [S, A], which turns there are. The destination has all, which lead to itself.
        reward: [S, A], minus the cost of a turn, in blocks; 0 where there is none.
        initial: [S], the share of the drivers that begin on an edge.
        destination: the edge that absorbs.
        positions: [S, 4], x and y of both ends of each edge, in blocks.
    """

    next_states: np.ndarray
    available: np.ndarray
    reward: np.ndarray
    initial: np.ndarray
    destination: int
    positions: np.ndarray

    @property
    def num_edges(self) -> int:
        """S."""
        return len(self.next_states)

    @property
    def num_turns(self) -> int:
        """How many turns there are, those of the destination not counted."""
        return int(self.available.sum()) - self.available.shape[1]


def road_network(side: int = 317, *, origins: int = 1000, seed: int = 0) -> RoadNetwork:
    """Draws a network of side * side crossings; every edge of it leads to every other.

    With side = 317 there are about 300,000 edges and 900,000 turns. What is not in the largest strongly connected part
    is left out, under 1% of the streets.

    Args:
        side: crossings along each side of the square, at least 3.
        origins: how many edges drivers begin on, alike and drawn without replacement (all edges if there are fewer).
        seed: of everything drawn.

    Raises:
        ValueError: if the grid is smaller than 3 by 3, or there is no origin.
    """
    if side < 3:
        raise ValueError(f"side is {side}; a network has at least 3 crossings a side")
    if origins < 1:
        raise ValueError(f"origins is {origins}; drivers begin on at least 1 edge")
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2)
    places = places + rng.uniform(-SHIFT, SHIFT, size=places.shape)
    tails, heads = _streets(side, rng)
    order = np.argsort(tails, kind="stable")  # so the edges that begin at a crossing stand together
    tails, heads = tails[order], heads[order]
    num_edges = len(tails)
    vectors = places[heads] - places[tails]
    distance = np.hypot(*vectors.T)
    lengths = distance * np.exp(np.abs(rng.normal(0.0, BEND, size=num_edges)))

    degrees = np.bincount(tails, minlength=side * side)
    first = np.concatenate([[0], np.cumsum(degrees)[:-1]])
    width = int(degrees.max())
    available = np.arange(width) < degrees[heads][:, None]
    here = np.arange(num_edges)[:, None]
    following = np.where(available, first[heads][:, None] + np.arange(width), here)

    cosine = (vectors[:, None, :] * vectors[following]).sum(-1) / (distance[:, None] * distance[following])
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    penalty = TURN_PENALTY * (angle / (math.pi / 2)) ** 2
    penalty = penalty + U_TURN_PENALTY * (heads[following] == tails[:, None])
    reward = np.where(available, -(lengths[following] + penalty), 0.0)

    destination = int(np.argmax(places[heads].sum(-1)))  # into the far corner
    available[destination], following[destination], reward[destination] = True, destination, 0.0
    begins = rng.choice(np.delete(np.arange(num_edges), destination), min(origins, num_edges - 1), replace=False)
    initial = np.zeros(num_edges)
    initial[begins] = 1.0 / len(begins)
    positions = np.concatenate([places[tails], places[heads]], -1)
    return RoadNetwork(following[..., None], available, reward, initial, destination, positions)


def _streets(side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(tails [E], heads [E]): the crossings that each edge joins, of the largest strongly connected part."""
    cells = np.arange(side * side).reshape(side, side)
    one = np.concatenate([cells[:, :-1].ravel(), cells[:-1].ravel()])
    other = np.concatenate([cells[:, 1:].ravel(), cells[1:].ravel()])
    kept = rng.random(len(one)) >= MISSING
    one, other = one[kept], other[kept]
    one_way, back = rng.random(len(one)) < ONE_WAY, rng.random(len(one)) < 0.5
    there, and_back = ~one_way | ~back, ~one_way | back
    tails = np.concatenate([one[there], other[and_back]])
    heads = np.concatenate([other[there], one[and_back]])
    graph = csr_matrix((np.ones(len(tails)), (tails, heads)), shape=(side * side, side * side))
    _, parts = connected_components(graph, connection="strong")
    largest = np.bincount(parts).argmax()
    inside = (parts[tails] == largest) & (parts[heads] == largest)
    return tails[inside], heads[inside]
