"""What a trajectory model asks of its action prior, its horizon and the outcomes that its rewards tell apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.models.common.checks import check_distribution, check_shape, float_tensor
from cai.models.common.labels import by_name
from cai.models.processes.mdp import MDP
from cai.models.rewards.base import RewardFactor

__all__ = ["check_infinite", "normalised_prior", "outcomes_disagree"]


def normalised_prior(prior: Any, mdp: MDP) -> Tensor:
    """[S, A], p(a | s): uniform unless given, without the mass on actions that are not available.

    Raises:
        TypeError, ValueError: if it does not fit the process, or some state keeps no mass.
    """
    shape = (mdp.num_states, mdp.num_actions)
    if prior is None:
        return mdp.available.double() / mdp.available.sum(-1, keepdim=True)
    states, actions = (mdp.state_names, "state"), (mdp.action_names, "action")
    axes = [actions] if getattr(prior, "ndim", 0) == 1 else [states, actions]
    tensor, source = float_tensor(by_name(prior, axes, "action_prior"), "action_prior")
    if tensor.dim() == 1:
        check_shape(tensor, (mdp.num_actions,), "action_prior", "[A]")
        tensor = tensor.expand(shape)
    check_shape(tensor, shape, "action_prior", "[S, A]")
    allowed = check_distribution(tensor, "action_prior", source) * mdp.available
    total = allowed.sum(-1, keepdim=True)
    if (total.detach() == 0).any():
        state = int(torch.nonzero(total.detach()[..., 0] == 0)[0])
        raise ValueError(
            f"action_prior gives no mass to any available action of state {mdp.state_name(state)}; "
            "give some to at least one of them"
        )
    return allowed / total


def check_infinite(reward: RewardFactor) -> None:
    """Raises ValueError if a reward has no stationary table."""
    if reward.reads_time:
        raise ValueError(
            "the horizon is infinite and the reward reads t; a stationary answer needs a reward without time "
            "(CallableReward(function, reads_time=False) if it ignores t)"
        )


def outcomes_disagree(mdp: MDP, rewards: Tensor) -> bool:
    """Whether two possible outcomes of one (s, a) share a next state and pay differently; rewards [S, A, K]."""
    successors = mdp.next_states
    if successors is None:
        return False
    possible = mdp.probabilities > 0
    for k in range(1, successors.shape[-1]):
        same = (successors[..., :k] == successors[..., k : k + 1]) & possible[..., :k] & possible[..., k : k + 1]
        if (same & (rewards[..., :k] != rewards[..., k : k + 1])).any():
            return True
    return False
