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
    FixedDynamics,
    Messages,
    OutcomeDynamics,
    PosteriorDynamics,
    optimistic_backup,
    soft_policy,
    start_message,
)
from cai.inference.status import Status
from cai.models.numerics import weighted
from cai.models.trajectory import TrajectoryModel

__all__ = ["expected_visits", "has_trap", "spectral_radius", "stationary_messages"]

ROUNDING = 1e-13  # changes below this, relative to the largest value, are those of rounding
SOLVE_LIMIT = 3000  # states up to which [S, S] systems are formed and solved; beyond, sums are run to their end
SOLVE_STEPS = 10**6
EIGENVALUE_LIMIT = 1000  # live states up to which rho(M) is computed; beyond, growth is watched instead


def stationary_messages(
    model: TrajectoryModel, backup: Backup, tolerance: float, max_steps: int
) -> tuple[Messages, Status, dict[str, Any]]:
    """Iterates a backup until its values stand still, then attaches their gradients.

    Discounted fixed dynamics contract by gamma, so the error left is at most the last change times gamma / (1 - gamma).
    Elsewhere every state's own ratio of successive changes stands for the rate: a state that has only begun to change
    has none yet, so nothing stops before news has been everywhere. (A backup never enlarges the largest change, so what
    has once become negligible stays so.)

    Returns:
        Messages with one step, the status, and details: "steps", "rate" (gamma, or gamma rho(M); None where it is not
        known) and "change".
    """
    optimistic = backup is optimistic_backup
    num_states = model.mdp.num_states
    rate: float | None = model.discount if model.discount < 1 else None
    contracts = rate is not None and not optimistic
    diverges = False
    if optimistic:
        rate = spectral_radius(model) if int(model.live.sum()) <= EIGENVALUE_LIMIT else None
        diverges = rate is not None and rate >= 1 - 1e-12
    elif model.discount == 1:
        diverges = not _live_rewards_negative(model)
    reaches = _reaches_terminal(model) if model.discount == 1 else torch.ones(num_states, dtype=torch.bool)
    values = torch.zeros(num_states, dtype=torch.float64)
    values = torch.where(reaches, values, torch.full_like(values, -torch.inf))
    status, step, checkpoint = Status.NOT_CONVERGED, 0, math.inf
    change = torch.full_like(values, math.inf)
    while not diverges and step < max_steps:
        with torch.no_grad():
            following = soft_policy(model, backup(model, values, 0))[0]
            previous, change = change, _change(following, values)
        values, step = following, step + 1
        finite = values[torch.isfinite(values)]
        size = max(1.0, float(finite.abs().max()) if finite.numel() else 1.0)
        speed = torch.full_like(change, rate or 0.0) if contracts else _ratio(change, previous)
        left = torch.where(speed < 1, change * speed / (1 - speed), torch.full_like(change, math.inf))
        left = torch.where(change <= ROUNDING * size, torch.zeros_like(left), left)
        largest = float(change.max())
        if float(left.nan_to_num(math.inf).max()) <= tolerance * size:
            status = Status.SUCCESS
            break
        if step >= 2 * num_states and step & (step - 1) == 0:  # at powers of two: no progress means growth
            diverges, checkpoint = largest >= checkpoint, largest
    if diverges:
        status = Status.DIVERGED
    values = _with_gradients(model, backup, values) if status.ok else values
    q_values = backup(model, values, 0)
    policy = soft_policy(model, q_values)[1]
    start = start_message(model, backup, values)
    details = {"steps": step, "rate": rate, "change": float(change.max())}
    return Messages(torch.stack([values, values]), q_values[None], policy[None], start), status, details


def _with_gradients(model: TrajectoryModel, backup: Backup, values: Tensor) -> Tensor:
    """The fixed point v = F(v) with the derivative that the implicit function theorem gives it, (1 - F')^-1 dF.

    F'(s, s') is the probability under q of going on from s to s', so one linear solve serves every parameter.
    """
    if not torch.is_grad_enabled():
        return values
    moved = soft_policy(model, backup(model, values, 0))[0]
    if not moved.requires_grad:
        return values
    if model.mdp.num_states > SOLVE_LIMIT:
        raise ValueError(
            f"gradients over an infinite horizon solve a system of [S, S], and S = {model.mdp.num_states} is above "
            f"{SOLVE_LIMIT}; give a finite horizon, or ask under torch.no_grad()"
        )
    with torch.no_grad():
        q_values = backup(model, values, 0)
        policy = soft_policy(model, q_values)[1]
        messages = Messages(torch.stack([values, values]), q_values[None], policy[None], values.new_zeros(()))
        exact = backup is optimistic_backup
        dynamics: OutcomeDynamics = PosteriorDynamics(model, messages) if exact else FixedDynamics(model)
        counts = model.live & torch.isfinite(values)
        slope = _transition_matrix(model, policy, dynamics)[counts][:, counts]
    difference = moved[counts] - moved[counts].detach()
    shift = torch.linalg.solve(torch.eye(int(counts.sum()), dtype=torch.float64) - slope, difference[:, None])[:, 0]
    return values.index_add(0, torch.nonzero(counts).flatten(), shift)


def _transition_matrix(model: TrajectoryModel, policy: Tensor, dynamics: OutcomeDynamics) -> Tensor:
    """[S, S], the probability under a policy [S, A] and stationary dynamics of going on from s to s'."""
    weights = policy[..., None] * dynamics.outcomes(0)[0]
    num_states = model.mdp.num_states
    following = model.mdp.successors().expand_as(weights)
    matrix = torch.zeros(num_states, num_states, dtype=torch.float64)
    return matrix.scatter_add(1, following.reshape(num_states, -1), weights.reshape(num_states, -1))


def _change(left: Tensor, right: Tensor) -> Tensor:
    """[S], |left - right|, 0 where both are the same infinity."""
    return torch.where(left == right, torch.zeros_like(left), (left - right).abs()).nan_to_num(torch.inf)


def _ratio(change: Tensor, previous: Tensor) -> Tensor:
    """[S], how fast each state settles; infinite where there is nothing to compare with yet."""
    known = torch.isfinite(previous) & (previous > 0)
    unknown = torch.where(change > 0, torch.full_like(change, math.inf), torch.zeros_like(change))
    return torch.where(known, change / torch.where(known, previous, torch.ones_like(previous)), unknown)


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
    model: TrajectoryModel, initial: Tensor, policy: Tensor, dynamics: OutcomeDynamics
) -> tuple[Tensor, Tensor]:
    """Expected visits of the live states [1, S], and the probability of ending in the absorbing state [1].

    They solve d = p(s_1) + P^T d on the live states, P being where the chain goes on to.

    Raises:
        ValueError: if the chain can get to where it never ends, so that visits do not add up to a number.
    """
    mdp, live = model.mdp, model.live
    alive, fallen = dynamics.outcomes(0)
    moves = policy[0][..., None] * alive * live[:, None, None]
    falls = (policy[0][..., None] * fallen).sum((1, 2))
    met = _met(model, moves.detach() > 0)
    ends = _leads_to(model, moves.detach() > 0, ~live | (falls.detach() > 0))
    if bool((met & ~ends).any()):
        state = int(torch.nonzero(met & ~ends)[0])
        raise ValueError(
            f"the policy can get to state {mdp.state_name(state)} and never end from there, so expectations over "
            "an infinite horizon do not exist; give a discount < 1 or a finite horizon"
        )
    counts = live & met
    here = torch.where(counts, initial, torch.zeros_like(initial))
    if mdp.num_states <= SOLVE_LIMIT:
        inside = _transition_matrix(model, policy[0], dynamics)[counts][:, counts]
        eye = torch.eye(int(counts.sum()), dtype=torch.float64)
        solved = torch.linalg.solve(eye - inside.T, here[counts][:, None])[:, 0]
        visits = torch.zeros_like(initial).index_add(0, torch.nonzero(counts).flatten(), solved.clamp(min=0))
    else:
        visits = here
        for _ in range(SOLVE_STEPS):
            here = torch.where(counts, mdp.scatter(here[:, None, None] * moves), torch.zeros_like(here))
            visits = visits + here
            if float(here.detach().sum()) <= 1e-14 * float(visits.detach().sum()):
                break
    return visits[None], (visits * falls).sum()[None]


def _met(model: TrajectoryModel, possible: Tensor) -> Tensor:
    """Bool [S]: states that the start can get to along possible outcomes [S, A, K]."""
    met = model.mdp.initial.detach() > 0
    while True:
        more = met | (model.mdp.scatter((possible & met[:, None, None]).double()) > 0)
        if bool((more == met).all()):
            return met
        met = more


def _live_rewards_negative(model: TrajectoryModel) -> bool:
    weights = model.action_prior[..., None] * model.mdp.probabilities
    rewards = model.reward_table(0).expand_as(weights).detach()
    paid = rewards[(weights > 0) & model.live[:, None, None]]
    return bool((paid < 0).all())


def has_trap(model: TrajectoryModel) -> bool:
    """Whether, without a discount, the start can lead to a live state from which no terminal state is within reach."""
    if model.discount < 1:
        return False
    possible = (model.action_prior[..., None] * model.mdp.probabilities).detach() > 0
    return bool((_met(model, possible) & model.live & ~_leads_to(model, possible, model.mdp.terminal)).any())


def _reaches_terminal(model: TrajectoryModel) -> Tensor:
    """Bool [S]: states from which some actions lead to a terminal state with positive probability, without -inf."""
    mdp = model.mdp
    weights = model.action_prior[..., None] * mdp.probabilities
    possible = (weights > 0) & ~torch.isinf(model.reward_table(0).detach())
    return _leads_to(model, possible, mdp.terminal)


def _leads_to(model: TrajectoryModel, possible: Tensor, goal: Tensor) -> Tensor:
    """Bool [S]: states with a path to the goal, bool [S], along possible outcomes [S, A, K]."""
    reached = goal
    while True:
        more = reached | (possible & model.mdp.gather(reached)).any(-1).any(-1)
        if bool((more == reached).all()):
            return reached
        reached = more
