"""Infinite horizons: backups run to a tolerance, under the conditions that make them settle.

Fixed dynamics: gamma < 1 (the soft backup is then a contraction, Haarnoja 2017, appendix A.2), or strictly negative
live rewards and a terminal state within reach. Exact target: gamma rho(M) < 1 on the live states, where
M(s, s') = sum_a p(a|s) p(s'|s,a) e^{r / alpha}, because e^v solves a linear system in M.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cai.inference.messages import (
    Backup,
    Messages,
    OutcomeDynamics,
    optimistic_backup,
    soft_policy,
    start_message,
)
from cai.inference.status import Status
from cai.models.numerics import weighted
from cai.models.trajectory import TrajectoryModel

__all__ = ["expected_visits", "has_trap", "spectral_radius", "stationary_messages"]

EIGENVALUE_LIMIT = 1000  # live states up to which rho(M) is computed; beyond, growth is watched instead


def stationary_messages(
    model: TrajectoryModel, backup: Backup, tolerance: float, max_steps: int
) -> tuple[Messages, Status, dict[str, Any]]:
    """Iterates a backup until its values stand still.

    Stops when the error left, the last change times c / (1 - c) for a contraction by c a step, is below `tolerance`
    times the larger of 1 and the largest value, in nats.

    Returns:
        Messages with one step, the status, and details: "steps", "rate" (c, None where it was only estimated).
    """
    optimistic = backup is optimistic_backup
    num_states = model.mdp.num_states
    values = torch.zeros(num_states, dtype=torch.float64)
    rate: float | None = model.discount if model.discount < 1 else None
    reaches = _reaches_terminal(model) if model.discount == 1 else torch.ones(num_states, dtype=torch.bool)
    diverges = False
    if optimistic:
        rate = spectral_radius(model) if int(model.live.sum()) <= EIGENVALUE_LIMIT else None
        diverges = rate is not None and rate >= 1 - 1e-12
    elif model.discount == 1:
        diverges = not _live_rewards_negative(model)
    values = torch.where(reaches, values, torch.full_like(values, -torch.inf))
    status, step, change, checkpoint = Status.NOT_CONVERGED, 0, math.inf, math.inf
    while not diverges and step < max_steps:
        following = soft_policy(model, backup(model, values, 0))[0]
        previous, change = change, _largest_change(following, values)
        values, step = following, step + 1
        finite = values.detach()[torch.isfinite(values)]
        size = max(1.0, float(finite.abs().max()) if finite.numel() else 1.0)
        speed = rate if rate is not None else (change / previous if 0 < previous < math.inf else 1.0)
        left = change * speed / (1 - speed) if speed < 1 else math.inf
        if change == 0 or left <= tolerance * size or change <= 8 * torch.finfo(torch.float64).eps * size:
            status = Status.SUCCESS
            break
        if step >= 2 * num_states and step & (step - 1) == 0:  # at powers of two: no progress means growth
            diverges, checkpoint = change >= checkpoint, change
    if diverges:
        status = Status.DIVERGED
    q_values = backup(model, values, 0)
    values, policy = soft_policy(model, q_values)
    messages = Messages(
        torch.stack([values, values]), q_values[None], policy[None], start_message(model, backup, values)
    )
    return messages, status, {"steps": step, "rate": rate, "change": change}


def _largest_change(left: Tensor, right: Tensor) -> float:
    change = (left - right).detach().abs()
    return float(
        torch.where(left.detach() == right.detach(), torch.zeros_like(change), change).nan_to_num(torch.inf).max()
    )


def spectral_radius(model: TrajectoryModel) -> float:
    """Gamma rho(M) on the live states, the rate at which exact messages settle over an infinite horizon."""
    with torch.no_grad():
        live = model.live
        if not live.any():
            return 0.0
        mdp = model.mdp
        weights = model.action_prior[..., None] * mdp.probabilities
        scores = (model.reward_table(0) / model.temperature).expand_as(weights)
        possible = (weights > 0) & live[:, None, None]
        if not possible.any():
            return 0.0
        shift = float(scores[possible].max())
        if shift == -math.inf:
            return 0.0
        matrix = mdp.to_next_states(weighted(weights, (scores - shift).exp())).sum(1)[live][:, live]
        radius = float(torch.linalg.eigvals(matrix).abs().max())
        return model.discount * radius * math.exp(min(shift, 700.0))


def expected_visits(
    model: TrajectoryModel,
    initial: Tensor,
    policy: Tensor,
    dynamics: OutcomeDynamics,
    tolerance: float,
    max_steps: int,
) -> tuple[Tensor, Tensor]:
    """Expected visits of the live states [1, S], and the probability of ending in the absorbing state [1].

    Raises:
        ValueError: if the chain has not ended after `max_steps`, so that visits do not add up to a number.
    """
    alive, fallen = dynamics.outcomes(0)
    live = model.live
    joint = policy[0][..., None]
    visits = torch.zeros_like(initial)
    lost = torch.zeros((), dtype=torch.float64)
    mass = torch.where(live, initial, torch.zeros_like(initial))
    for _ in range(max_steps):
        visits = visits + mass
        lost = lost + (mass[:, None, None] * joint * fallen).sum()
        mass = model.mdp.scatter(mass[:, None, None] * joint * alive)
        mass = torch.where(live, mass, torch.zeros_like(mass))
        if float(mass.detach().sum()) <= 1e-3 * tolerance:
            return visits[None], lost[None]
    raise ValueError(
        f"after {max_steps} steps the chain is still running with probability {float(mass.detach().sum()):.3g}, so "
        "expectations over an infinite horizon do not exist; give a discount < 1 or a finite horizon"
    )


def _live_rewards_negative(model: TrajectoryModel) -> bool:
    weights = model.action_prior[..., None] * model.mdp.probabilities
    rewards = model.reward_table(0).expand_as(weights).detach()
    paid = rewards[(weights > 0) & model.live[:, None, None]]
    return bool((paid < 0).all())


def has_trap(model: TrajectoryModel) -> bool:
    """Whether, without a discount, the start can lead to a live state from which no terminal state is within reach."""
    if model.discount < 1:
        return False
    mdp = model.mdp
    possible = (model.action_prior[..., None] * mdp.probabilities).detach() > 0
    met = mdp.initial.detach() > 0
    while True:
        more = met | (mdp.scatter((possible & met[:, None, None]).double()) > 0)
        if bool((more == met).all()):
            break
        met = more
    return bool((met & model.live & ~_leads_to(model, possible)).any())


def _reaches_terminal(model: TrajectoryModel) -> Tensor:
    """Bool [S]: states from which some actions lead to a terminal state with positive probability, without -inf."""
    mdp = model.mdp
    weights = model.action_prior[..., None] * mdp.probabilities
    possible = (weights > 0) & ~torch.isinf(model.reward_table(0).detach())
    return _leads_to(model, possible)


def _leads_to(model: TrajectoryModel, possible: Tensor) -> Tensor:
    """Bool [S]: states with a path to a terminal state along possible outcomes [S, A, K]."""
    reached = model.mdp.terminal.clone()
    while True:
        more = reached | (possible & model.mdp.gather(reached)).any(-1).any(-1)
        if bool((more == reached).all()):
            return reached
        reached = more
