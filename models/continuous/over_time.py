"""Whether a continuous model changes with time, as seen at some nodes of a grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.models.continuous.grid import Grid
from cai.models.continuous.moves import is_certain
from cai.models.continuous.world import World

__all__ = ["refuse_time", "reward_reads_time", "some_pairs"]

ROWS = 64  # pairs of nodes that are looked at


def some_pairs(states: Grid, actions: Grid) -> tuple[Tensor, Tensor]:
    """Some pairs of a state [N, n] and an action [N, m], the same ones whenever it is asked."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(states), (ROWS,), generator=generator)
    columns = torch.randint(len(actions), (ROWS,), generator=generator)
    return states.nodes[rows], actions.nodes[columns]


def _numbers(distribution: Any, at: Tensor) -> Tensor:
    """What a distribution says, as one row: mean and variances, or else its density at some points."""
    if is_certain(distribution):
        return distribution.v
    try:
        parts = [distribution.mean, distribution.variance, getattr(distribution, "covariance_matrix", at.new_zeros(1))]
    except (NotImplementedError, AttributeError):
        parts = [distribution.log_prob(at)]
    return torch.cat([part.reshape(-1) for part in parts])


@torch.no_grad()
def refuse_time(model: World, states: Grid, actions: Grid) -> None:
    """Raises ValueError if dynamics or prior depend on the time index, naming it."""
    s, a = some_pairs(states, actions)
    for t in range(1, model.steps):
        for what, here, first in (
            ("dynamics", model.transition(s, a, t), model.transition(s, a, 0)),
            *([] if model.is_flat else [("the action prior", model.prior(s, t), model.prior(s, 0))]),
        ):
            at = s if what == "dynamics" else a
            same = is_certain(here) == is_certain(first) and torch.equal(_numbers(here, at), _numbers(first, at))
            if not same:
                raise ValueError(
                    f"{what} at time index {t} differ from those at 0; a TrajectoryModel has one process for all "
                    "steps: make time a coordinate of the state, or use 'smc' or 'ilqr'"
                )


@torch.no_grad()
def reward_reads_time(model: World, states: Grid, actions: Grid) -> bool:
    """Whether the reward of a step, without the final one, depends on the time index."""
    s, a = some_pairs(states, actions)
    first = model.step_reward(s, a, 0)
    return any(not torch.equal(model.step_reward(s, a, t), first) for t in range(1, model.steps))
