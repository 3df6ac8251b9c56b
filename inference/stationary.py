"""Infinite horizons: backups run to a tolerance, under the conditions that make them settle.

Fixed dynamics: gamma < 1 (the soft backup is then a contraction, Haarnoja 2017, appendix A.2), or strictly negative
live rewards and a terminal state within reach. Exact target: gamma rho(M) < 1 on the live states, where
M(s, s') = sum_a p(a|s) p(s'|s,a) e^{r / alpha}, because e^v solves a linear system in M. Other tilts have no condition
that is easy to check: there the growth of the values is watched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.inference.chain import SOLVE_LIMIT, always_ends, reaches_terminal, transition_matrix
from cai.inference.messages import Messages, Recursion, soft_policy
from cai.inference.status import Status
from cai.models.numerics import safe_log, safe_logsumexp
from cai.models.trajectory import TrajectoryModel

__all__ = ["Settling", "spectral_radius", "stationary_messages"]

ROUNDING = 1e-13  # changes below this, relative to the largest value, are those of rounding
PATIENCE = 200  # plain backups before Newton steps are tried
EIGENVALUE_LIMIT = 1000  # live states up to which rho(M) is computed; beyond, growth is watched instead
HISTORY = 10_000  # changes that are kept
NARROW = 30.0  # nats between the entries of M, up to which its eigenvalues need no scaling
STEADY = 1 - 1e-9  # a change that shrinks by less than this while the number of backups doubles does not shrink


@dataclass(frozen=True)
class Settling:
    """When an iteration over an infinite horizon stops.

    Attributes:
        tolerance: in nats, relative to the largest value once that exceeds 1.
        max_steps: the most backups.
        accelerate: whether Newton steps may shorten what has not settled after 200 backups.
    """

    tolerance: float = 1e-10
    max_steps: int = 1_000_000
    accelerate: bool = True


def stationary_messages(
    model: TrajectoryModel, recursion: Recursion, settling: Settling
) -> tuple[Messages, Status, dict[str, Any]]:
    """Iterates a backup until its values stand still, then attaches their gradients.

    Discounted fixed dynamics contract by gamma, so the error left is at most the last change times gamma / (1 - gamma).
    Elsewhere every state's own ratio of successive changes stands for the rate: a state that has only begun to change
    has none yet, so nothing stops before news has been everywhere. (A backup never enlarges the largest change, so what
    has once become negligible stays so.)

    Newton steps solve the linear system that the backup is at the current policy and dynamics (soft policy iteration).
    They decide nothing: the same criterion is met by plain backups afterwards, and a step that does not shrink the
    largest change is taken back.

    Returns:
        Messages with one step, the status, and details: "steps" (backups), "newton_steps", "rate" (the bound on the
        linear rate: gamma, or gamma rho(M); None where it is not known), "contracts" (whether the rate bounds every
        backup, and not just the end), "change" (the largest of the last backup) and "changes" (those of all backups,
        up to 10,000).
    """
    rate, contracts, diverges = _conditions(model, recursion)
    num_states = model.mdp.num_states
    reaches = reaches_terminal(model) if model.discount == 1 else torch.ones(num_states, dtype=torch.bool)
    values = torch.zeros(num_states, dtype=torch.float64)
    values = torch.where(reaches, values, torch.full_like(values, -torch.inf))
    status, step, checkpoint, newton = Status.NOT_CONVERGED, 0, math.inf, 0
    accelerate, before_jump = settling.accelerate and num_states <= SOLVE_LIMIT, (values, math.inf)
    change = torch.full_like(values, math.inf)
    changes: list[float] = []
    while not diverges and step < settling.max_steps:
        with torch.no_grad():
            following = _advance(model, recursion, values)
            previous, change = change, _change(following, values)
        largest, step = float(change.max()), step + 1
        if largest > before_jump[1]:  # the Newton step made it worse
            values, change, accelerate, before_jump = (
                before_jump[0],
                torch.full_like(values, math.inf),
                False,
                (values, math.inf),
            )
            continue
        values, before_jump = following, (values, math.inf)
        changes.append(largest)
        finite = values[torch.isfinite(values)]
        size = max(1.0, float(finite.abs().max()) if finite.numel() else 1.0)
        speed = torch.full_like(change, rate or 0.0) if contracts else _ratio(change, previous)
        left = torch.where(speed < 1, change * speed / (1 - speed), torch.full_like(change, math.inf))
        left = torch.where(change <= ROUNDING * size, torch.zeros_like(left), left)
        if float(left.nan_to_num(math.inf).max()) <= settling.tolerance * size:
            status = Status.SUCCESS
            break
        if rate is None and step >= 2 * num_states and step & (step - 1) == 0:
            # At powers of two, from one to the next: no progress means growth.
            diverges, checkpoint = largest >= STEADY * checkpoint, largest
        if accelerate and not diverges and step >= PATIENCE and step % 2 == 0:
            jump = _newton_step(model, recursion, values)
            if jump is None:
                accelerate = False
            else:
                before_jump, values, newton = (values, largest), jump, newton + 1
                change = torch.full_like(values, math.inf)  # a jump says nothing of the rate
    if diverges:
        status = Status.DIVERGED
    values = _with_gradients(model, recursion, values) if status.ok else values
    q_values = recursion.backup(model, values, 0)
    policy = recursion.choice(model, q_values, model.log_action_prior)[1]
    start = recursion.start(model, values)
    details = {
        "steps": step,
        "newton_steps": newton,
        "rate": rate,
        "contracts": contracts,
        "change": float(change.max()),
        "changes": tuple(changes[:HISTORY]),
    }
    return Messages(torch.stack([values, values]), q_values[None], policy[None], start), status, details


def _conditions(model: TrajectoryModel, recursion: Recursion) -> tuple[float | None, bool, bool]:
    """(bound on the rate or None, whether the sup norm contracts by it, whether no stationary answer is assured)."""
    soft = recursion.choice is soft_policy
    if recursion.eta == 1 and soft:
        rate = spectral_radius(model) if int(model.live.sum()) <= EIGENVALUE_LIMIT else None
        return rate, False, rate is not None and rate >= 1 - 1e-12
    if recursion.eta <= 0 and model.discount == 1:
        return None, False, not (_live_rewards_negative(model) or always_ends(model))
    if recursion.eta == 0:
        return model.discount, True, False
    return None, False, False


def _advance(model: TrajectoryModel, recursion: Recursion, values: Tensor) -> Tensor:
    """One backup of values [S] and the choice on it."""
    return recursion.choice(model, recursion.backup(model, values, 0), model.log_action_prior)[0]


def _slope(model: TrajectoryModel, recursion: Recursion, values: Tensor) -> tuple[Tensor, Tensor]:
    """(F'(v) on the states that count, bool [S] which these are).

    F'(s, s') is the probability under q of going on from s to s', so it serves Newton steps and every gradient.
    """
    q_values = recursion.backup(model, values, 0)
    policy = recursion.choice(model, q_values, model.log_action_prior)[1]
    dynamics = recursion.beliefs(model, torch.stack([values, values]), q_values[None])[1]
    counts = model.live & torch.isfinite(values)
    return transition_matrix(model, policy, dynamics)[counts][:, counts], counts


def _newton_step(model: TrajectoryModel, recursion: Recursion, values: Tensor) -> Tensor | None:
    """The values v + (1 - F'(v))^-1 (F(v) - v), or None where that is no step."""
    with torch.no_grad():
        slope, counts = _slope(model, recursion, values)
        difference = (_advance(model, recursion, values) - values)[counts]
        system = torch.eye(slope.shape[0], dtype=torch.float64) - slope
        solved, info = torch.linalg.solve_ex(system, difference[:, None])
        if int(info) != 0 or not bool(torch.isfinite(solved).all()):
            return None
        return values.index_add(0, torch.nonzero(counts).flatten(), solved[:, 0])


def _with_gradients(model: TrajectoryModel, recursion: Recursion, values: Tensor) -> Tensor:
    """The fixed point v = F(v) with the derivative that the implicit function theorem gives it, (1 - F')^-1 dF."""
    if not torch.is_grad_enabled():
        return values
    moved = _advance(model, recursion, values)
    if not moved.requires_grad:
        return values
    if model.mdp.num_states > SOLVE_LIMIT:
        raise ValueError(
            f"gradients over an infinite horizon solve a system of [S, S], and S = {model.mdp.num_states} is above "
            f"{SOLVE_LIMIT}; give a finite horizon, or ask under torch.no_grad()"
        )
    with torch.no_grad():
        slope, counts = _slope(model, recursion, values)
    difference = moved[counts] - moved[counts].detach()
    shift = torch.linalg.solve(torch.eye(int(counts.sum()), dtype=torch.float64) - slope, difference[:, None])[:, 0]
    return values.index_add(0, torch.nonzero(counts).flatten(), shift)


def _change(left: Tensor, right: Tensor) -> Tensor:
    """[S], |left - right|, 0 where both are the same infinity."""
    return torch.where(left == right, torch.zeros_like(left), (left - right).abs()).nan_to_num(torch.inf)


def _ratio(change: Tensor, previous: Tensor) -> Tensor:
    """[S], how fast each state settles; infinite where there is nothing to compare with yet."""
    known = torch.isfinite(previous) & (previous > 0)
    unknown = torch.where(change > 0, torch.full_like(change, math.inf), torch.zeros_like(change))
    return torch.where(known, change / torch.where(known, previous, torch.ones_like(previous)), unknown)


def spectral_radius(model: TrajectoryModel) -> float:
    """Gamma rho(M) on the live states, the rate at which exact messages settle over an infinite horizon.

    M's entries may lie further apart than floats do, so M is scaled to a similar matrix e^{h(s') - h(s) - c} M(s, s')
    of entries up to 1 that are 1 along a cycle: what vanishes in it does not count.
    """
    with torch.no_grad():
        log_matrix = _log_matrix(model)
        finite = log_matrix[torch.isfinite(log_matrix)]
        if not finite.numel():
            return 0.0
        shift, height = float(finite.max()), torch.zeros(len(log_matrix), dtype=torch.float64)
        if float(finite.max() - finite.min()) > NARROW:
            shift = _largest_cycle_mean(log_matrix)
            if shift == -math.inf:
                return 0.0
            height = _longest_paths(log_matrix - shift)
        matrix = (log_matrix + height - height[:, None] - shift).exp()
        radius = float(torch.linalg.eigvals(matrix).abs().max())
        return model.discount * radius * math.exp(min(shift, 700.0))


def _largest_cycle_mean(log_matrix: Tensor) -> float:
    """The largest mean log weight of a cycle (Karp 1978), -inf where there is no cycle."""
    number = len(log_matrix)
    walks = [torch.zeros(number, dtype=torch.float64)]
    for _ in range(number):
        walks.append((log_matrix + walks[-1]).amax(-1))
    table = torch.stack(walks[:-1])
    means = (walks[-1] - table) / torch.arange(number, 0, -1)[:, None]
    means = torch.where(torch.isfinite(table), means, torch.full_like(means, math.inf))
    return float(torch.where(torch.isfinite(walks[-1]), means.amin(0), torch.full_like(walks[-1], -math.inf)).max())


def _longest_paths(log_matrix: Tensor) -> Tensor:
    """[S], the largest log weight of a path from each state, where no cycle has more than 0 up to rounding."""
    height = torch.zeros(len(log_matrix), dtype=torch.float64)
    for _ in range(len(log_matrix)):
        longer = torch.maximum((log_matrix + height).amax(-1), torch.zeros(()))
        if bool((longer <= height + 1e-9 * height.clamp(min=1.0)).all()):
            break
        height = longer
    return height


def _log_matrix(model: TrajectoryModel) -> Tensor:
    """[L, L], log M(s, s') on the L live states."""
    mdp, live, size = model.mdp, model.live, model.mdp.num_states
    weights = model.action_prior[..., None] * mdp.probabilities
    scores = safe_log(weights) + model.reward_table(0) / model.temperature
    if mdp.next_states is None:
        return safe_logsumexp(scores, 1)[live][:, live]
    cells = (torch.arange(size)[:, None, None] * size + mdp.next_states).reshape(-1)
    flat = scores.reshape(-1)
    largest = torch.full((size * size,), -torch.inf, dtype=torch.float64).scatter_reduce(0, cells, flat, "amax")
    largest = torch.where(torch.isfinite(largest), largest, torch.zeros_like(largest))
    sums = torch.zeros_like(largest).scatter_add(0, cells, (flat - largest[cells]).exp())
    return (safe_log(sums) + largest).reshape(size, size)[live][:, live]


def _live_rewards_negative(model: TrajectoryModel) -> bool:
    weights = model.action_prior[..., None] * model.mdp.probabilities
    rewards = model.reward_table(0).expand_as(weights).detach()
    paid = rewards[(weights > 0) & model.live[:, None, None]]
    return bool((paid < 0).all())
