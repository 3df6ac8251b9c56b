"""Where a graph of moves leads: breadth-first searches (scipy), each edge seen once however long the paths are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["edges_of", "leads_to", "reached_from"]


def edges_of(possible: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
    """(origins [E], targets [E]), int64: the edges of a graph of moves.

    Args:
        possible: bool [S, ...], which moves of a state there are.
        following: int64 that broadcasts with it, the state that each leads to; as [1, 1, S] it names every state in
            turn, and moves of one state that lead to the same are counted once.
    """
    if possible.dim() == 3 and following.shape == (1, 1, possible.shape[0]):
        possible, following = possible.any(1), following[0]
    origins = torch.nonzero(possible)[:, 0]
    return origins, following.expand(possible.shape)[possible]


def leads_to(origins: Tensor, targets: Tensor, goal: Tensor) -> Tensor:
    """Bool [S]: states with a path to the goal, bool [S], along edges (origins [E], targets [E]); the goal included."""
    return reached_from(targets, origins, goal)


def reached_from(origins: Tensor, targets: Tensor, start: Tensor) -> Tensor:
    """Bool [S]: states on a path from the start, bool [S], along edges as in `leads_to`; the start included."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import breadth_first_order

    number = len(start)
    first = np.flatnonzero(start.cpu().numpy())
    # One more node leads to every start, so that one search serves all.
    tails = np.concatenate([origins.cpu().numpy(), np.full(len(first), number)])
    heads = np.concatenate([targets.cpu().numpy(), first])
    graph = csr_matrix((np.ones(len(tails)), (tails, heads)), shape=(number + 1, number + 1))
    found = np.zeros(number + 1, dtype=bool)
    found[breadth_first_order(graph, number, return_predecessors=False)] = True
    return torch.from_numpy(found[:-1]).to(start.device)
