"""The most probable trajectory of an answer, by Viterbi's recursion on its tables."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.status import Status
from cai.models.common.numerics import rounding, safe_log
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["first_largest", "most_probable_trajectory", "shared_successors"]


def most_probable_trajectory(posterior: Any) -> tuple[Tensor, Tensor, float]:
    """The mode of q over trajectories, by Viterbi's recursion on its tables.

    Args:
        posterior: a `TabularPosterior` over a finite horizon.

    Returns:
        States int64 [T + 1] (S once fallen into the discount's absorbing state), actions int64 [T], and log q of it in
        nats. What is done in terminal and absorbing states does not count, and stands as action 0.

    Raises:
        ValueError: if the horizon is infinite, or there is no posterior.
    """
    if posterior.horizon == math.inf:
        raise ValueError("a trajectory of an infinite horizon has no end; infer with horizon=N to plan ahead")
    if posterior.status is Status.IMPOSSIBLE:
        raise ValueError(f"the posterior of {posterior.backend!r} holds no tables of a trajectory ({posterior.status})")
    num_states = posterior.action_prior.shape[-2]
    model = posterior.model if isinstance(posterior.model, TrajectoryModel) else None
    ended = torch.zeros(num_states, dtype=torch.bool) if model is None else ~model.nonterminal
    value = torch.zeros(num_states + 1, dtype=torch.float64)
    best: list[tuple[Tensor, Tensor]] = []
    groups = None if model is None else shared_successors(model)
    with torch.no_grad():
        for t in reversed(range(posterior.action_probs.shape[0])):
            chances, leads = _moves(posterior, model, groups, t)
            scores = safe_log(chances) + value[leads]
            following = leads.expand_as(scores).gather(-1, first_largest(scores)[..., None])[..., 0]
            scores = safe_log(posterior.action_probs[t]) + scores.amax(-1)
            action = torch.where(ended, torch.zeros_like(scores[:, 0], dtype=torch.int64), first_largest(scores))
            following = following.gather(1, action[:, None])[:, 0]
            following = torch.where(ended, torch.arange(num_states), following)
            best.append((action, following))
            value = torch.cat([torch.where(ended, torch.zeros_like(scores[:, 0]), scores.amax(-1)), value[-1:]])
        start = safe_log(posterior.initial) + value[:-1]
        states, actions = [int(first_largest(start))], []
        for action, following in reversed(best):
            inside = states[-1] < num_states
            actions.append(int(action[states[-1]]) if inside else 0)
            states.append(int(following[states[-1]]) if inside else num_states)
    return torch.tensor(states), torch.tensor(actions), float(start.max())


def _moves(posterior: Any, model: TrajectoryModel | None, groups: Tensor | None, t: int) -> tuple[Tensor, Tensor]:
    """(q's probabilities of where each (s, a) leads [S, A, N], which states these are; S where it falls)."""
    if model is None or not posterior.has_outcomes:
        moves = posterior.dynamics(t)
        if model is not None and model.discount < 1:
            moves = torch.cat([moves, (1 - moves.sum(-1, keepdim=True)).clamp(min=0)], -1)
        return moves, torch.arange(moves.shape[-1])[None, None, :]
    alive, fallen = (part.detach() for part in posterior.outcomes(t))
    if groups is not None:
        alive = torch.zeros_like(alive).scatter_add(-1, groups, alive)
    fall = torch.full((*alive.shape[:-1], 1), model.mdp.num_states)
    leads = torch.cat([model.mdp.successors().expand_as(alive), fall], -1)
    return torch.cat([alive, fallen.sum(-1, keepdim=True)], -1), leads


def shared_successors(model: TrajectoryModel) -> Tensor | None:
    """int64 [S, A, K], the first outcome with the same next state; None where no two outcomes share one."""
    successors = model.mdp.next_states
    if successors is None:
        return None
    ordered, places = torch.sort(successors, dim=-1, stable=True)
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    if bool(fresh.all()):
        return None
    heads = torch.where(fresh, torch.arange(ordered.shape[-1]), torch.zeros_like(ordered)).cummax(-1).values
    return torch.zeros_like(successors).scatter(-1, places, places.gather(-1, heads))


def first_largest(scores: Tensor) -> Tensor:
    """Index of the largest along the last axis; of equals, up to rounding, the first."""
    largest = scores.detach().amax(-1, keepdim=True)
    slack = rounding(scores) * torch.where(torch.isfinite(largest), largest.abs(), torch.zeros_like(largest)).clamp(
        min=1.0
    )
    return (scores.detach() >= largest - slack).to(torch.uint8).argmax(-1)
