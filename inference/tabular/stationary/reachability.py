"""Where a graph of moves leads: breadth-first searches (scipy), each edge seen once however long the paths are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["drains", "edges_of", "leads_to", "reached_from"]


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


def drains(leads: Tensor, following: Tensor, offered: Tensor, inside: Tensor) -> bool:
    """Whether no states inside can be stayed in for ever by some choice: each choice ends, whatever it is.

    A state is out once every action that it offers may lead out. Each edge is looked at once, when its target is out.

    Args:
        leads: bool [S, A, K], the outcomes that may happen.
        following: int64 that broadcasts with it, where they lead.
        offered: bool [S, A], the actions that may be taken.
        inside: bool [S].
    """
    inside_now = inside.cpu().numpy().copy()
    num_actions = offered.shape[1]
    pairs = torch.nonzero(leads & (offered & inside[:, None])[..., None])
    rows = (pairs[:, 0] * num_actions + pairs[:, 1]).cpu().numpy()  # s * A + a
    heads = following.expand(leads.shape)[tuple(pairs.T)].cpu().numpy()
    order = np.argsort(heads, kind="stable")
    rows, heads = rows[order], heads[order]
    starts = np.searchsorted(heads, np.arange(len(inside_now) + 1))
    keeps = (offered & inside[:, None]).cpu().numpy().reshape(-1).copy()
    left = keeps.reshape(-1, num_actions).sum(-1)  # actions of each state that surely stay inside
    fresh = np.concatenate([np.flatnonzero(~inside_now), np.flatnonzero(inside_now & (left == 0))])
    inside_now[fresh] = False
    while len(fresh):
        sizes = starts[fresh + 1] - starts[fresh]
        index = np.repeat(starts[fresh] - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes) + np.arange(sizes.sum())
        broken = np.unique(rows[index])
        broken = broken[keeps[broken]]
        keeps[broken] = False
        touched = np.unique(broken // num_actions)
        np.subtract.at(left, broken // num_actions, 1)
        fresh = touched[inside_now[touched] & (left[touched] == 0)]
        inside_now[fresh] = False
    return not bool(inside_now.any())
