"""What a trajectory model asks of its action prior, its horizon and the outcomes that its rewards tell apart."""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch
from torch import Tensor

from cai.models.common.checks import check_distribution, check_shape, float_tensor, whole_horizon
from cai.models.processes.mdp import MDP

__all__ = [
    "check_bernoulli",
    "check_horizon",
    "check_numbers",
    "outcomes_disagree",
    "settled",
    "settled_temperature",
]


def settled(model: Any) -> dict[str, Any]:
    """Horizon, temperature, discount and action prior of a model, by name, as they are computed with; and its steps.

    Raises:
        TypeError, ValueError: if one of them, or its optimality, makes no sense.
    """
    horizon = whole_horizon(model.horizon)
    temperature = settled_temperature(model.temperature, model.discount)
    if model.optimality not in ("factor", "bernoulli"):
        raise ValueError(f"optimality is {model.optimality!r}; expected 'factor' or 'bernoulli'")
    prior = _normalised_prior(model.action_prior, model.mdp)
    found = {"horizon": horizon, "temperature": temperature, "discount": float(model.discount), "action_prior": prior}
    return found | {"is_finite": horizon != math.inf, "steps": 1 if horizon == math.inf else int(horizon)}


def settled_temperature(alpha: Any, discount: Any) -> float | Tensor:
    """The temperature beside a discount: a float, or a 0-dim float64 tensor where it requires grad; checks both."""
    if not isinstance(alpha, Tensor) or alpha.dim():
        check_numbers(alpha, discount)
        return float(alpha)
    check_numbers(alpha.item(), discount)
    return alpha.double() if alpha.requires_grad else float(alpha.item())


def _normalised_prior(prior: Any, mdp: MDP) -> Tensor:
    """[S, A], p(a | s): uniform unless given, without the mass on actions that are not available.

    Raises:
        TypeError, ValueError: if it does not fit the process, or some state keeps no mass.
    """
    shape = (mdp.num_states, mdp.num_actions)
    if prior is None:
        return mdp.available.double() / mdp.available.sum(-1, keepdim=True)
    states, actions = (mdp.state_names, "state"), (mdp.action_names, "action")
    axes = [actions] if getattr(prior, "ndim", 0) == 1 else [states, actions]
    tensor, source = float_tensor(prior, "action_prior", axes)
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
    if not model.is_finite and not model.is_average and model.r_max != 0:
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
    finite = model.horizon != math.inf
    if not finite and model.reward.reads_time:
        raise ValueError(
            "the horizon is infinite and the reward reads t; a stationary answer needs a reward without time "
            "(CallableReward(function, reads_time=False) if it ignores t)"
        )
    if model.criterion == "total":
        return
    if finite:
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
    if isinstance(discount, Tensor) and discount.requires_grad:
        raise ValueError(
            "discount is a tensor that requires grad, and nothing has a gradient by the discount; give float(discount)"
        )
    temperature, discount = (
        value.item() if getattr(value, "shape", None) == () else value  # of a tensor or an array
        for value in (temperature, discount)
    )
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
