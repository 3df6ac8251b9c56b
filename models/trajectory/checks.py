"""What a trajectory model asks of its action prior, its horizon and the outcomes that its rewards tell apart."""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch
from torch import Tensor

from cai.models.common.checks import check_distribution, check_shape, float_tensor
from cai.models.common.labels import by_name
from cai.models.processes.mdp import MDP

__all__ = ["check_bernoulli", "check_horizon", "check_numbers", "normalised_prior", "outcomes_disagree"]


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


def check_bernoulli(model: Any) -> None:
    """Raises ValueError if the evidence of Bernoulli optimality vanishes over an infinite horizon."""
    if not model.is_finite and not model.is_average and model.optimality == "bernoulli" and model.r_max != 0:
        raise ValueError(
            f"optimality='bernoulli' subtracts r_max = {model.r_max:g} at each of infinitely many steps, and the "
            "evidence vanishes; use optimality='factor'"
        )


def check_horizon(model: Any) -> None:
    """Raises ValueError if the criterion is unknown or has no meaning here, or a reward has no stationary table."""
    if model.criterion not in ("total", "average"):
        raise ValueError(
            f"criterion is {model.criterion!r}; expected 'total' (sums of rewards) or 'average' (the reward of a step "
            "in the long run)"
        )
    if not model.is_finite and model.reward.reads_time:
        raise ValueError(
            "the horizon is infinite and the reward reads t; a stationary answer needs a reward without time "
            "(CallableReward(function, reads_time=False) if it ignores t)"
        )
    if not model.is_average:
        return
    if model.is_finite:
        raise ValueError(
            f"criterion='average' is about the long run, and the horizon is {model.horizon}; give horizon=math.inf, or "
            "leave the criterion out"
        )
    if model.discount != 1:
        raise ValueError(
            f"criterion='average' takes no discount, and this one is {model.discount:g}; leave out one of the two"
        )
    ends = model.mdp.terminal
    if bool(ends.any()):
        state = model.mdp.state_name(int(torch.nonzero(ends)[0]))
        raise ValueError(
            f"criterion='average' needs a chain that goes on for ever, and state {state} is terminal; let it lead on, "
            "say back to the start, or leave the criterion out"
        )


def check_numbers(temperature: Any, discount: Any) -> None:
    """Raises ValueError unless the temperature is a number > 0 and the discount one in (0, 1]."""
    for what, value in (("temperature", temperature), ("discount", discount)):
        if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
            raise ValueError(f"{what} is {value!r}; expected a finite number above 0")
    if temperature <= 0:
        raise ValueError(
            f"temperature is {temperature}; it must be > 0 (towards 0 the policy becomes the hard optimum)"
        )
    if not 0 < discount <= 1:
        raise ValueError(f"discount is {discount}; it must lie in (0, 1]")


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
