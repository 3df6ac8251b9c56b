"""The gradient of soft Q-learning, and that it is one of a policy and one of values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.inference.learning.exact.tables import boltzmann, checked, exact_tables, nonterminal_weights, require_infinite
from cai.models.common.numerics import weighted
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["soft_q_gradient"]


def soft_q_gradient(
    model: TrajectoryModel, q_values: Any, *, steps: int = 1, state_weights: Any = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of soft Q-learning and the two that it is made of (Schulman, Chen and Abbeel 2017, section 3.1).

    From Q follow V = alpha log sum_a p exp(Q / alpha) and pi = p exp((Q - V) / alpha). The target of n steps along pi,
    y = sum_{i < n} gamma^i r_i - alpha sum_{0 < i < n} gamma^i log pi / p + gamma^n V(s_n), is frozen. Then

        soft_q = grad sum_s w sum_a pi (Q - y)^2 / 2, pi frozen too
        value  = grad sum_s w (V - E_pi y + alpha KL)^2 / 2, y and KL frozen
        policy = grad sum_s w (sum_a pi (E y - V) - alpha KL), y and V frozen

    and soft_q = value - alpha policy.

    Args:
        model: of an infinite horizon.
        q_values: [S, A], reward units.
        steps: n >= 1.
        state_weights: [S], w >= 0; uniform over the nonterminal states, unless given. Terminal states count nothing.

    Returns:
        (soft_q, policy, value), each [S, A].

    Raises:
        TypeError, ValueError: if the model is no such one, an argument does not fit it, or the policy can meet a
            reward of -inf.
    """
    tables = exact_tables(model, "the soft Q gradient")
    require_infinite(tables.model, "the soft Q gradient")
    q_values = checked(q_values, tuple(tables.prior.shape), "q_values")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps!r}; give a whole number of at least 1")
    weights = nonterminal_weights(tables, state_weights)[:, None]
    alpha = tables.temperature
    policy, ratio, values = boltzmann(tables, q_values)
    target = tables.rewards(0) + tables.discount * tables.ahead(values)
    for _ in range(steps - 1):
        follows = weighted(policy, target - alpha * ratio).sum(-1)
        target = tables.rewards(0) + tables.discount * tables.ahead(follows)
    mean = weighted(policy, target).sum(-1, keepdim=True)
    divergence = weighted(policy, ratio).sum(-1, keepdim=True)
    soft_q = weights * weighted(policy, q_values - target)
    value = weights * (values[:, None] - mean + alpha * divergence) * policy
    advantage = target - alpha * ratio
    centred = advantage - weighted(policy, advantage).sum(-1, keepdim=True)
    found = soft_q, weights * weighted(policy, centred) / alpha, value
    if not all(bool(torch.isfinite(part).all()) for part in found):
        raise ValueError(
            "the gradient is not finite: the policy of q_values can meet a reward of -inf, or has a nonterminal state "
            "without any finite q; forbid actions that pay -inf (prior 0), or give them alone a q of -inf"
        )
    return found
