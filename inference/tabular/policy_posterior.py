"""The answer that one policy is: what it amounts to under the true dynamics, over any horizon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from cai.inference.core.status import Status
from cai.inference.kernels.values import asks_for_gradients
from cai.inference.tabular.backward import policy_backward
from cai.inference.tabular.believed_dynamics import FixedDynamics
from cai.inference.tabular.markov.chains import ChainSystems, ended_states, expected_visits
from cai.inference.tabular.markov.reachability import edges_of, leads_to
from cai.inference.tabular.posterior import ModelPosterior, tabular_posterior
from cai.models.common.numerics import categorical_divergence, expectation, weighted
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["NO_GRADIENTS", "asks_anywhere", "policy_posterior", "policy_values"]

NO_GRADIENTS = "none: a search found the policy and recorded nothing of it; ask 'exact', 'variational' or 'risk'"
BOUND_ALONE = "of elbo alone: the policy maximises it, and was held fixed; ask 'variational' for those of other numbers"


def policy_values(model: TrajectoryModel, policy: Tensor) -> tuple[Tensor, Tensor]:
    """What q's own tail is worth in nats under the true dynamics, values [T, S] and q_values [T, S, A].

    Over an infinite horizon the values solve v = c + P v on the nonterminal states, c being what a step earns and
    pays, P where the chain goes on to; -inf where q can run into it.

    Args:
        model: the trajectory model.
        policy: [T, S, A]; [1, S, A] over an infinite horizon.

    Raises:
        ArithmeticError: if over an infinite horizon the sums have no limit.
    """
    fixed = FixedDynamics(model)
    if model.is_finite:
        return policy_backward(model, policy, fixed)
    alive, fallen = fixed.outcomes(0)
    rewards = expectation(alive + fallen, model.log_potential(0))
    earned = expectation(policy[0], rewards) - categorical_divergence(policy[0], model.action_prior)
    moves = policy[0][..., None] * alive * model.nonterminal[:, None, None]
    forbidden = model.nonterminal & torch.isinf(earned)
    infeasible = leads_to(*edges_of(moves.detach() > 0, model.mdp.successors()), forbidden)
    free = ended_states(model, policy[0].detach(), alive.detach(), fallen.detach()) & (earned.detach() == 0)
    chains = ChainSystems(model, model.nonterminal & ~infeasible & ~free)
    falls = policy[0][..., None] * fallen * model.nonterminal[:, None, None]
    values = chains.spread(chains.system(moves, falls).solve(earned[chains.counts]))
    values = torch.where(infeasible, torch.full_like(values, -torch.inf), values)
    q_values = rewards + weighted(alive, model.mdp.gather(values).expand_as(alive)).sum(-1)
    return values[None], torch.where(model.nonterminal[:, None], q_values, torch.zeros_like(q_values))[None]


def asks_anywhere(model: TrajectoryModel) -> bool:
    """Whether gradients are recorded, and some tensor of the model asks for them, that of the start included."""
    return asks_for_gradients(model) or (torch.is_grad_enabled() and model.mdp.initial.requires_grad)


def policy_posterior(
    backend: Any,
    model: TrajectoryModel,
    policy: Tensor,
    status: Status = Status.SUCCESS,
    details: Mapping[str, Any] | None = None,
    *,
    gradients: Literal["all", "bound", "none"] = "all",
) -> ModelPosterior:
    """What a policy amounts to under the true dynamics: values, returns, and the bound that it attains.

    Args:
        backend: whose answer it is; its name and target are read.
        model: the trajectory model, of any horizon.
        policy: [T, S, A], or [1, S, A] over an infinite horizon (T = `model.steps`); rows sum to 1.
        status: how the search for it ended.
        details: further numbers of the search.
        gradients: which of the answer's numbers have gradients where the model's do: "all", for a policy that is a
            function of the model's tensors and keeps their history, or does not depend on them; "bound", for one that
            maximises the bound over its class, so that a small change of it counts for nothing there and for something
            elsewhere; "none", for one that a search found, which records nothing.

    Returns:
        The answer; its `elbo` is -inf where the policy can meet a reward of -inf. Over an infinite horizon its status
        is DIVERGED where the policy never ends, so that nothing adds up, and `details["why"]` says where.
    """
    if gradients != "all" and asks_anywhere(model):
        bound = _measured(backend, model, policy, status, {}).elbo if gradients == "bound" else None
        found = {**(details or {}), "gradients": NO_GRADIENTS if bound is None else BOUND_ALONE}
        with torch.no_grad():
            return _measured(backend, model, policy.detach(), status, found, bound)
    return _measured(backend, model, policy, status, dict(details or {}))


def _measured(
    backend: Any,
    model: TrajectoryModel,
    policy: Tensor,
    status: Status,
    found: dict[str, Any],
    elbo: Tensor | None = None,
) -> ModelPosterior:
    """The answer, its elbo the one that is given."""
    visits = None
    try:
        if not model.is_finite:  # first, since it says in words where a policy never ends
            visits = expected_visits(model, model.mdp.initial, policy, FixedDynamics(model))
        values, q_values = policy_values(model, policy)
    except (ArithmeticError, ValueError) as error:
        found["why"], zero = str(error).split(",")[0], torch.zeros_like(model.mdp.initial)
        unknown = ("values", "q_values", "elbo", "believed_return", "luck", "policy_divergence", "policy_entropy")
        parts: dict[str, Any] = dict.fromkeys(unknown) | {"visits": (zero[None], zero.new_zeros(1))}
        parts |= {"model": model, "horizon": model.horizon, "action_probs": policy, "initial": model.mdp.initial}
        parts |= {"backend": backend.name, "target": backend.target, "world": FixedDynamics(model)}
        return ModelPosterior(**parts, status=Status.DIVERGED, details=found)
    return tabular_posterior(
        model,
        backend=backend.name,
        target=backend.target,
        status=status,
        log_evidence=None,
        elbo=expectation(model.mdp.initial, values[0]) + model.evidence_offset if elbo is None else elbo,
        values=values,
        q_values=q_values,
        policy=policy,
        initial=model.mdp.initial,
        visits=visits,
        details=found,
    )
