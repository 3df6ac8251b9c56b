"""What a policy under given dynamics is worth, and where it leads, by plain sums over a whole horizon."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cai.inference.tabular.believed_dynamics import OutcomeDynamics
from cai.models.common.numerics import categorical_divergence, expectation
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["CHUNK", "forward", "in_chunks", "policy_backward", "with_absorbed"]

CHUNK = 2**22  # numbers of the largest table that is made at a time


def in_chunks(make: Callable[[slice], Tensor], steps: int, numbers: int) -> Tensor:
    """A table [T, ...] made of as many steps at a time as memory should hold.

    Args:
        make: returns the part of some steps.
        steps: T.
        numbers: that one step takes on the way.
    """
    size = max(1, CHUNK // numbers)
    parts = [make(slice(begin, begin + size)) for begin in range(0, steps, size)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def policy_backward(model: TrajectoryModel, policy: Tensor, dynamics: OutcomeDynamics) -> tuple[Tensor, Tensor]:
    """What q's own tail is worth in nats, KL terms counted: values [T, S] and q_values [T, S, A]."""
    values = torch.zeros_like(model.mdp.initial)
    rows = []
    for t in reversed(range(model.steps)):
        alive, fallen, divergence = dynamics.step(t)
        chances = alive if fallen is None else alive + fallen
        rewards = expectation(chances, model.log_potential(t))
        q_values = rewards + expectation(alive, model.mdp.gather(values))
        q_values = q_values if divergence is None else q_values - divergence
        q_values = torch.where(model.live[:, None], q_values, torch.zeros_like(q_values))
        values = expectation(policy[t], q_values) - categorical_divergence(policy[t], model.action_prior)
        values = torch.where(model.live, values, torch.zeros_like(values))
        rows.append((values, q_values))
    stacked = [torch.stack(part) for part in zip(*reversed(rows), strict=True)]
    return stacked[0], stacked[1]


def forward(
    model: TrajectoryModel, initial: Tensor, policy: Tensor, dynamics: OutcomeDynamics
) -> tuple[Tensor, Tensor]:
    """State marginals [T + 1, S] of q, and the probability of having been absorbed [T + 1]."""
    rows = [initial]
    for t in range(model.steps):
        alive, _ = dynamics.outcomes(t)
        rows.append(model.mdp.scatter((rows[-1][:, None] * policy[t])[..., None] * alive))
    return with_absorbed(model, torch.stack(rows))


def with_absorbed(model: TrajectoryModel, marginals: Tensor) -> tuple[Tensor, Tensor]:
    """(q(s_t) [T + 1, S], the rest of the probability [T + 1], which a discount has taken)."""
    if model.discount == 1:
        return marginals, marginals.new_zeros(len(marginals))
    return marginals, (1 - marginals.sum(-1)).clamp(min=0)
