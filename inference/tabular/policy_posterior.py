"""The answer of a search for policies: one policy under the true dynamics, and what its own tail is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status
from cai.inference.tabular.believed_dynamics import FixedDynamics
from cai.inference.tabular.policy_evaluation import policy_backward
from cai.inference.tabular.posterior import tabular_posterior
from cai.inference.tabular.stationary.chains import expected_visits, transition_matrix
from cai.models.common.numerics import categorical_divergence, expectation
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["policy_posterior", "policy_values"]


def policy_values(model: TrajectoryModel, policy: Tensor) -> tuple[Tensor, Tensor]:
    """What q's own tail is worth in nats under the true dynamics, values [T, S] and q_values [T, S, A].

    Over an infinite horizon the values solve v = c + P v on the live states, c being what a step earns and pays, P
    where the chain goes on to; -inf where q can run into it.

    Args:
        model: the trajectory model.
        policy: [T, S, A].
    """
    fixed = FixedDynamics(model)
    if model.is_finite:
        return policy_backward(model, policy, fixed)
    alive, fallen = fixed.outcomes(0)
    rewards = expectation(alive + fallen, model.log_potential(0))
    earned = expectation(policy[0], rewards) - categorical_divergence(policy[0], model.action_prior)
    moves = transition_matrix(model, policy[0], fixed)
    lost = model.live & torch.isinf(earned)
    for _ in range(model.mdp.num_states):
        more = lost | (model.live & (moves[:, lost] > 0).any(-1))
        if bool((more == lost).all()):
            break
        lost = more
    counts = model.live & ~lost
    system = torch.eye(int(counts.sum()), dtype=torch.float64) - moves[counts][:, counts]
    solved = torch.linalg.solve(system, earned[counts][:, None])[:, 0]
    values = torch.where(lost, torch.full_like(earned, -torch.inf), torch.zeros_like(earned))
    values = values.index_add(0, torch.nonzero(counts).flatten(), solved)
    q_values = rewards + expectation(alive, model.mdp.gather(values))
    return values[None], torch.where(model.live[:, None], q_values, torch.zeros_like(q_values))[None]


def policy_posterior(
    backend: Any, model: TrajectoryModel, policy: Tensor, status: Status, details: Mapping[str, Any]
) -> Posterior:
    """What a policy [T, S, A] ([1, S, A] over an infinite horizon) amounts to under the true dynamics.

    Args:
        backend: whose answer it is; its name and target are read.
        model: the trajectory model.
        policy: the policy.
        status: how the search for it ended.
        details: further numbers of the search.
    """
    dynamics = FixedDynamics(model)
    values, q_values = policy_values(model, policy)
    visits = None if model.is_finite else expected_visits(model, model.mdp.initial, policy, dynamics)
    return tabular_posterior(
        model,
        backend=backend.name,
        target=backend.target,
        status=status,
        log_evidence=None,
        elbo=expectation(model.mdp.initial, values[0]) + model.evidence_offset,
        values=values,
        q_values=q_values,
        policy=policy,
        initial=model.mdp.initial,
        dynamics=dynamics,
        visits=visits,
        details=details,
    )
