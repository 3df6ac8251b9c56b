"""The two closed forms, read off the messages: the exact posterior, and the best policy under fixed dynamics."""

from __future__ import annotations

import math
from typing import Any

import torch

from cai.inference.messages import (
    FixedDynamics,
    Messages,
    OutcomeDynamics,
    PosteriorDynamics,
    backward,
    fixed_backup,
    optimistic_backup,
)
from cai.inference.posterior import Posterior, tabular_posterior
from cai.inference.stationary import expected_visits, has_trap, stationary_messages
from cai.inference.status import Status, Target
from cai.models.numerics import safe_log
from cai.models.trajectory import TrajectoryModel

__all__ = ["closed_form_posterior", "require_model"]


def require_model(model: Any, backend: str, instead: str) -> None:
    """Raises ValueError unless `model` is a `TrajectoryModel`."""
    if not isinstance(model, TrajectoryModel):
        kind = "a Pyro program" if callable(model) else f"a {type(model).__name__}"
        raise ValueError(
            f"backend {backend!r} works on the tables of a TrajectoryModel, and this is {kind}; "
            f"for a program use {instead}"
        )


def closed_form_posterior(
    model: TrajectoryModel, *, backend: str, target: Target, tolerance: float, max_steps: int
) -> Posterior:
    """Answers a model by dynamic programming, for target `exact` or `fixed-dynamics`."""
    exact = target is Target.EXACT
    backup = optimistic_backup if exact else fixed_backup
    details: dict[str, Any] = {}
    status = Status.SUCCESS
    if model.is_finite:
        messages = backward(model, backup)
    else:
        messages, status, details = stationary_messages(model, backup, tolerance, max_steps)
    start = messages.start
    if status.ok and not math.isfinite(float(start.detach())):
        if not model.is_finite and has_trap(model):
            return _without_expectations(model, backend, target, Status.DIVERGED, messages, details)
        impossible = exact or not math.isfinite(_log_evidence(model, tolerance, max_steps))
        status = Status.IMPOSSIBLE if impossible else Status.UNAVOIDABLE
    initial = model.mdp.initial
    if not model.is_finite and not status.ok:
        return _without_expectations(model, backend, target, status, messages, details)
    dynamics: OutcomeDynamics = FixedDynamics(model)
    if exact and status.ok:
        dynamics = PosteriorDynamics(model, messages)
        initial = (safe_log(initial) + messages.values[0] - start).exp()
        initial = initial / initial.sum()
    visits = None if model.is_finite else expected_visits(model, initial, messages.policy, dynamics)
    bound = start + model.evidence_offset
    return tabular_posterior(
        model,
        backend=backend,
        target=target,
        status=status,
        log_evidence=bound if exact else None,
        elbo=bound,
        values=messages.values[: model.steps],
        q_values=messages.q_values,
        policy=messages.policy,
        initial=initial,
        dynamics=dynamics,
        visits=visits,
        details=details,
    )


def _log_evidence(model: TrajectoryModel, tolerance: float, max_steps: int) -> float:
    """Log p(O) under the optimistic backup, to tell what is impossible from what cannot be avoided."""
    with torch.no_grad():
        if model.is_finite:
            return float(backward(model, optimistic_backup).start.detach())
        messages: Messages = stationary_messages(model, optimistic_backup, tolerance, max_steps)[0]
        return float(messages.start)


def _without_expectations(
    model: TrajectoryModel, backend: str, target: Target, status: Status, messages: Messages, details: dict[str, Any]
) -> Posterior:
    """What is left where an infinite horizon has no answer: the status, and messages unless they diverged."""
    fixed, settled = FixedDynamics(model), status is not Status.DIVERGED
    hopeless = status in (Status.IMPOSSIBLE, Status.UNAVOIDABLE)
    nothing = messages.start if hopeless else None
    return Posterior(
        backend=backend,
        target=target,
        status=status,
        horizon=model.horizon,
        log_evidence=nothing if target is Target.EXACT else None,
        elbo=nothing,
        values=model.temperature * messages.values[:1] if settled else None,
        q_values=model.temperature * messages.q_values if settled else None,
        action_probs=messages.policy if settled else model.action_prior[None],
        action_prior=model.action_prior,
        initial=model.mdp.initial,
        state_marginals=torch.zeros(1, model.mdp.num_states, dtype=torch.float64),
        absorbed=torch.zeros(1, dtype=torch.float64),
        believed_return=nothing,
        luck=None,
        policy_divergence=None,
        policy_entropy=None,
        model=model,
        step_dynamics=lambda t: model.mdp.to_next_states(fixed.outcomes(t)[0]),
        details=details,
    )
