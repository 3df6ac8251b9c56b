"""The box of actions that an action prior sets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from cai.models.continuous.priors import Flat, LinearNormal
from cai.models.continuous.world import World

__all__ = ["box_of_prior", "score_of_prior"]

TRIED = 16  # states at which the box of a prior is looked at


def box_of_prior(model: World) -> tuple[Tensor, Tensor] | None:
    """The bounds (low [m], high [m]) that an action prior sets; None where it sets none.

    Raises:
        ValueError: if they change with state or time, or bound some coordinates alone.
    """
    prior = model.action_prior
    if isinstance(prior, (Flat, LinearNormal)):
        return None
    states = model.reset(TRIED, torch.Generator().manual_seed(0))
    found = [_bounds(model.prior(states, t)) for t in sorted({0, model.steps - 1})]
    if all(bounds is None for bounds in found):
        return None
    first = found[0]
    if first is None or any(bounds is None for bounds in found):
        raise ValueError("the action prior is bounded at some times alone; give a box by low= and high= to the policy")
    rows = torch.cat(
        [torch.stack([low, high], -2).reshape(-1, 2, model.action_dim) for low, high in filter(None, found)]
    )
    if bool((rows != rows[:1]).any()) or not bool(rows.isfinite().all()):
        raise ValueError(
            "the bounds of the action prior change with state or time, or are not finite; give low= and high= to the "
            "policy, a box within them"
        )
    return rows[0, 0], rows[0, 1]


def _bounds(distribution: Any) -> tuple[Tensor, Tensor] | None:
    support = distribution.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if not hasattr(support, "lower_bound") or not hasattr(support, "upper_bound"):
        return None
    shape = (*distribution.batch_shape, *distribution.event_shape)
    low, high = (torch.as_tensor(part, dtype=torch.float64) for part in (support.lower_bound, support.upper_bound))
    return low.expand(shape), high.expand(shape)


def score_of_prior(model: World, states: Tensor, actions: Tensor, t: int) -> Tensor:
    """[...], log p(a | s) of actions [..., m] that a policy has drawn, nats; the prior is not flat.

    Raises:
        ValueError: if the prior allows no such actions.
    """
    try:
        score: Tensor = model.prior(states, t).log_prob(actions)
    except ValueError as error:
        if "support" not in str(error):
            raise
        raise ValueError(
            "the policy draws actions outside the support of the action prior, where p(a | s) = 0 and the bound is "
            "-inf; use TanhGaussianPolicy(), MixturePolicy() or FlowPolicy(), which keep to a box of the prior (low= "
            "and high= give a smaller one), a module that does, or a prior that allows every action"
        ) from error
    return score
