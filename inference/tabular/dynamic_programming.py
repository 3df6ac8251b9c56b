"""Answers read off backward messages: one function for every backend that is a recursion on tables."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.lazy import Later, mapped, resolved, stored_fields
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.kernels.choose import KERNELS
from cai.inference.tabular.backward_sampling import sample_backward
from cai.inference.tabular.believed_dynamics import FixedDynamics, OutcomeDynamics
from cai.inference.tabular.messages import EXACT, KEEP, Choice, Messages, Recursion, backward, occupancies
from cai.inference.tabular.posterior import tabular_posterior
from cai.inference.tabular.stationary.chains import can_succeed, expected_visits, has_trap
from cai.inference.tabular.stationary.iteration import Settling, stationary_messages
from cai.models.trajectory.model import TrajectoryModel

__all__ = [
    "check_keep",
    "check_settling",
    "closed_form_posterior",
    "failure_status",
    "messages_posterior",
    "optimality_possible",
    "require_finite",
    "require_model",
]


def require_model(model: Any, backend: str, instead: str) -> None:
    """Raises ValueError unless `model` is a `TrajectoryModel`."""
    if not isinstance(model, TrajectoryModel):
        kind = "a Pyro program" if callable(model) else f"a {type(model).__name__}"
        raise ValueError(
            f"backend {backend!r} works on the tables of a TrajectoryModel, and this is {kind}; "
            f"for a program use {instead}"
        )


def require_finite(model: Any, backend: str, instead: str) -> None:
    """Raises ValueError unless `model` is a `TrajectoryModel` with a finite horizon."""
    require_model(model, backend, "'enumeration'")
    if not model.is_finite:
        raise ValueError(
            f"backend {backend!r} needs a finite horizon, and this model's is infinite; give horizon=N, "
            f"or use {instead}"
        )


def check_settling(tolerance: float, max_steps: int, name: str = "max_steps") -> None:
    """Refuses a tolerance or a number of backups that make no sense."""
    if max_steps < 1:
        raise ValueError(f"{name} is {max_steps}; it must be >= 1")
    if not tolerance > 0:
        raise ValueError(f"tolerance is {tolerance}; it must be > 0")


def check_keep(keep: str, kernel: str) -> None:
    """Refuses words that say nothing about what to keep, or how to compute."""
    if keep in ("all", "policy"):
        raise ValueError(
            f"keep={keep!r} is gone: leave it out, or say keep='values'; q-values and policies are computed "
            "when they are first looked at, and then held"
        )
    if keep not in KEEP:
        raise ValueError(f"keep is {keep!r}; expected one of {', '.join(KEEP)}")
    if kernel not in KERNELS:
        raise ValueError(f"kernel is {kernel!r}; expected one of {', '.join(KERNELS)}")


def closed_form_posterior(
    model: TrajectoryModel,
    recursion: Recursion,
    *,
    backend: str,
    target: Target,
    settling: Settling,
    acts: Choice | None = None,
    details: dict[str, Any] | None = None,
    keep: str = "values",
    kernel: str = "auto",
) -> Posterior:
    """Answers a model by dynamic programming.

    Args:
        model: the trajectory model.
        recursion: how to back up and choose.
        backend: the name of the backend.
        target: for `exact` and `fixed-dynamics` the last message is the bound; for others the bound is what q attains.
        settling: when an infinite horizon stops.
        acts: how q chooses actions on the recursion's q-values, where that is not the recursion's own choice.
        details: further numbers of the backend.
        keep: what of a finite horizon stays in memory, see `backward`.
        kernel: see `backward`.
    """
    found, status = dict(details or {}), Status.SUCCESS
    if model.is_finite:
        messages = backward(model, recursion, keep=keep, kernel=kernel)
    else:
        messages, status, iteration = stationary_messages(model, recursion, settling)
        found |= iteration
    policy = None
    if acts is not None:
        policy = torch.stack([acts(model, q_values, model.log_action_prior)[1] for q_values in messages.q_values])
    start = messages.start
    if status.ok and not math.isfinite(float(start.detach())):
        if not model.is_finite and has_trap(model):
            status, found["why"] = Status.DIVERGED, "the start can lead to where nothing ends"
        else:
            status = failure_status(model, recursion)
    return messages_posterior(
        model,
        recursion,
        messages,
        status,
        backend=backend,
        target=target,
        policy=policy,
        details=found,
        keep=keep,
        kernel=kernel,
    )


def messages_posterior(
    model: TrajectoryModel,
    recursion: Recursion,
    messages: Messages,
    status: Status,
    *,
    backend: str,
    target: Target,
    policy: Tensor | None = None,
    details: dict[str, Any] | None = None,
    keep: str = "values",
    kernel: str = "auto",
) -> Posterior:
    """The answer that backward messages stand for; over an infinite horizon that failed, what is left of it.

    Args:
        model: the trajectory model.
        recursion: which dynamics the messages believe in.
        messages: over the whole horizon.
        status: how their computation ended.
        backend: the name of the backend.
        target: see `closed_form_posterior`.
        policy: [T, S, A], of q; that of the messages unless given.
        details: further numbers of the backend.
        keep: as the messages were made; what they did not keep is computed again whenever it is looked at.
        kernel: likewise.
    """
    found, start = dict(details or {}), messages.start
    stored = stored_fields(messages)
    if policy is not None:
        stored["policy"] = policy
    if not model.is_finite and not status.ok:
        return _without_expectations(model, backend, target, status, messages, resolved(stored["policy"]), found)
    initial: Tensor | Later = model.mdp.initial
    dynamics: OutcomeDynamics | Later = FixedDynamics(model)
    if status.ok:
        initial = Later(lambda: recursion.believed_start(model, messages.first_values))
        dynamics = Later(lambda: recursion.beliefs(model, messages.values)[1], held=keep != "evidence")
    visits: tuple[Tensor, Tensor] | Later | None = None
    if not model.is_finite:
        try:
            visits = expected_visits(model, resolved(initial), resolved(stored["policy"]), resolved(dynamics))
        except ValueError as error:  # values settle, but what q believes never ends
            found["why"] = str(error).split(",")[0]
            return _without_expectations(
                model, backend, target, Status.DIVERGED, messages, resolved(stored["policy"]), found
            )
    elif status.ok and policy is None and recursion.is_soft and not start.requires_grad:
        visits = Later(
            lambda: occupancies(model, recursion, resolved(initial), messages.values, kernel)[0],
            held=keep != "evidence",
        )
    bound = start + model.evidence_offset
    exactly = target is Target.EXACT and status.ok and model.is_finite
    sampler = (lambda num_samples, seed: sample_backward(model, num_samples, seed)) if exactly else None
    found["start"] = start.detach()
    return tabular_posterior(
        model,
        backend=backend,
        target=target,
        status=status,
        log_evidence=bound if target is Target.EXACT else None,
        elbo=None if target is Target.OTHER and status.ok else bound,
        values=mapped(stored["values"], lambda values: values[: model.steps]),
        q_values=stored["q_values"],
        policy=stored["policy"],
        initial=initial,
        dynamics=dynamics,
        visits=visits,
        details=found,
        sampler=sampler,
    )


def failure_status(model: TrajectoryModel, recursion: Recursion) -> Status:
    """Why the start is worth -inf: the dynamics are held fixed, or optimality is impossible."""
    possible = recursion.eta <= 0 and optimality_possible(model)
    return Status.UNAVOIDABLE if possible else Status.IMPOSSIBLE


def optimality_possible(model: TrajectoryModel) -> bool:
    """Whether p(O) > 0, to tell what is impossible from what cannot be avoided."""
    if not model.is_finite:
        return can_succeed(model)
    with torch.no_grad():
        return math.isfinite(float(backward(model, EXACT).start))


def _without_expectations(
    model: TrajectoryModel,
    backend: str,
    target: Target,
    status: Status,
    messages: Messages,
    policy: Tensor,
    details: dict[str, Any],
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
        action_probs=policy if settled else model.action_prior[None],
        action_prior=model.action_prior,
        initial=model.mdp.initial,
        state_marginals=torch.zeros_like(model.mdp.initial)[None],
        absorbed=model.mdp.initial.new_zeros(1),
        believed_return=nothing,
        luck=None,
        policy_divergence=None,
        policy_entropy=None,
        model=model,
        step_dynamics=lambda t: model.mdp.to_next_states(fixed.outcomes(t)[0]),
        details=details,
    )
