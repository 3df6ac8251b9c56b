"""The objective of a policy, and the means of the estimators of its gradient."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from cai.inference.learning.exact.tables import ExactTables, exact_tables, require_finite
from cai.models.common.numerics import expectation, weighted
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["objective", "policy_gradient"]

Estimator = Literal["return", "baseline", "split", "gae", "gae-without-entropy", "entropy-bonus"]
ESTIMATORS = ("return", "baseline", "split", "gae", "gae-without-entropy", "entropy-bonus")


def _logits(tables: ExactTables, logits: Any, steps: int) -> Tensor:
    """[T, S, A] of logits [S, A] or [T, S, A], checked, their history kept."""
    given = torch.as_tensor(logits, dtype=torch.float64)
    shape = tuple(tables.prior.shape)
    if tuple(given.shape) not in (shape, (steps, *shape)):
        raise ValueError(
            f"logits have shape {list(given.shape)}; expected {list(shape)}, or {[steps, *shape]} for each step"
        )
    if not bool(torch.isfinite(given.detach())[..., tables.allowed].all()):
        raise ValueError("logits hold NaN or inf where an action is available; give finite numbers")
    return given.expand(steps, *shape)


def _policy(tables: ExactTables, logits: Tensor) -> tuple[Tensor, Tensor]:
    """(pi, log pi / p) [..., S, A], the softmax over allowed actions; both 0 for others."""
    masked = torch.where(tables.allowed, logits, torch.full_like(logits, -torch.inf))
    log_policy = torch.log_softmax(masked, -1)
    zero = torch.zeros_like(log_policy)
    ratio = torch.where(tables.allowed, log_policy, zero) - tables.log_prior
    return log_policy.exp(), torch.where(tables.allowed, ratio, zero)


def objective(model: TrajectoryModel, logits: Any) -> Tensor:
    """The temperature times the bound of a policy: E[sum_t gamma^t (r_t - alpha log pi / p)], Levine 2018, section 4.1.

    Args:
        model: of a finite horizon T.
        logits: [S, A] for every step, or [T, S, A]; pi is their softmax over the available actions.

    Returns:
        0-dim, reward units, a function of the logits through which gradients pass.

    Raises:
        TypeError, ValueError: if the model is no such one, or the logits do not fit it.
    """
    tables = exact_tables(model, "the objective")
    steps = require_finite(tables.model, "the objective")
    every = _logits(tables, logits, steps)
    values = torch.zeros_like(tables.prior[:, 0])
    for t in reversed(range(steps)):
        policy, ratio = _policy(tables, every[t])
        worth = tables.rewards(t) - tables.temperature * ratio + tables.discount * tables.ahead(values)
        values = torch.where(tables.nonterminal, weighted(policy, worth).sum(-1), torch.zeros_like(values))
    start = expectation(tables.model.mdp.initial.detach(), values)
    return start + tables.temperature * tables.model.evidence_offset


def policy_gradient(
    model: TrajectoryModel, logits: Any, *, estimator: Estimator = "gae", gae_lambda: float = 0.95
) -> Tensor:
    """The mean of an estimator of the objective's gradient over every trajectory, each step weighted gamma^t.

    A step adds grad log pi(a_t | s_t) times, by estimator, with V the exact soft value of the policy and KL that of
    pi(. | s_t) from the prior (Schulman, Chen and Abbeel 2017, sections 2.3 and 3.3):

    - "return": the return of r - alpha log pi / p from t on;
    - "baseline": the same minus V(s_t);
    - "split": r_t plus the later r - alpha log pi / p; and - alpha grad KL beside it;
    - "gae": the sum of (gamma lambda)^l delta_{t+l}, delta_t = r_t - alpha log pi / p + gamma V(s') - V(s).

    These four have the gradient of `objective` for their mean. Two do not, on purpose:

    - "gae-without-entropy": deltas r_t + gamma V(s') - V(s), and - alpha grad KL beside them: right at lambda 0 alone;
    - "entropy-bonus": the return of rewards alone, and - alpha grad KL: later entropies are not asked for.

    Args:
        model: of a finite horizon T.
        logits: [S, A] for every step, or [T, S, A].
        estimator: which.
        gae_lambda: in [0, 1], of the two "gae".

    Returns:
        The logits' shape, in reward units.

    Raises:
        TypeError, ValueError: if the model is no such one, the logits do not fit it, there is no such estimator, or
            the policy can meet a reward of -inf.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator is {estimator!r}; expected one of {', '.join(map(repr, ESTIMATORS))}")
    if not 0 <= gae_lambda <= 1:
        raise ValueError(f"gae_lambda is {gae_lambda}; give a number in [0, 1]")
    tables = exact_tables(model, "the policy gradient")
    steps = require_finite(tables.model, "the policy gradient")
    every = _logits(tables, logits, steps).detach()
    if not bool(torch.isfinite(objective(tables.model, every))):
        raise ValueError("the policy can meet a reward of -inf, where the bound has no gradient; forbid the action")
    alpha, gamma = tables.temperature, tables.discount
    policies, ratios = _policy(tables, every)
    values = tables.prior.new_zeros(steps + 1, len(tables.nonterminal))
    tail = tables.prior.new_zeros(len(tables.nonterminal))  # what the estimator's sum from t on is worth in s_t
    scores = torch.zeros_like(policies)
    for t in reversed(range(steps)):
        rewards, paid = tables.rewards(t), alpha * ratios[t]
        worth = rewards - paid + gamma * tables.ahead(values[t + 1])
        values[t] = torch.where(tables.nonterminal, weighted(policies[t], worth).sum(-1), 0.0)
        later = gamma * tables.ahead(tail)
        delta = rewards + gamma * tables.ahead(values[t + 1]) - values[t][:, None]
        if estimator in ("return", "baseline"):
            scores[t] = later = rewards - paid + later
        elif estimator == "split":
            scores[t], later = rewards + later, rewards - paid + later
        elif estimator == "entropy-bonus":
            scores[t] = later = rewards + later
        elif estimator == "gae":
            scores[t] = later = delta - paid + gae_lambda * later
        else:
            scores[t] = later = delta + gae_lambda * later
        if estimator == "baseline":
            scores[t] = scores[t] - values[t][:, None]
        if estimator in ("split", "gae-without-entropy", "entropy-bonus"):  # grad KL = sum of grad pi log pi / p
            scores[t] = scores[t] - paid
        tail = torch.where(tables.nonterminal, weighted(policies[t], later).sum(-1), 0.0)
    mass = torch.where(tables.nonterminal, tables.model.mdp.initial.detach(), 0.0)
    result = torch.zeros_like(policies)
    for t in range(steps):
        mean = weighted(policies[t], scores[t]).sum(-1, keepdim=True)
        result[t] = gamma**t * mass[:, None] * weighted(policies[t], scores[t] - mean)
        mass = tables.forward(mass, policies[t])
    return result if torch.as_tensor(logits).dim() == 3 else result.sum(0)
