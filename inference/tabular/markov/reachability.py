"""Where tables of moves lead: the searches of `graphs` for torch's bool tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from cai.inference.tabular.markov.graphs import reaching

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
    found = reaching(origins.cpu().numpy(), targets.cpu().numpy(), goal.cpu().numpy())
    return torch.from_numpy(found).to(goal.device)


def reached_from(origins: Tensor, targets: Tensor, start: Tensor) -> Tensor:
    """Bool [S]: states on a path from the start, bool [S], along edges as in `edges_of`; the start included."""
    return leads_to(targets, origins, start)
