"""Stationary messages: the values of an infinite horizon, the policy and the beliefs that go with them, and gradients.

Values are solved for on the list of what may happen (`solve`, `hard`), as is every recursion of this library. One of a
plug-in's own is backed up as it is, until an interval that its backup maps into itself encloses the answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.inference.core.status import Status
from cai.inference.kernels.backups import hard_choice
from cai.inference.tabular.backward import Messages
from cai.inference.tabular.markov.chains import ChainSystems, ended_states
from cai.inference.tabular.markov.solve_gradient import ORDERS, Again
from cai.inference.tabular.recursion import Recursion
from cai.inference.tabular.stationary.classify import usable
from cai.inference.tabular.stationary.equals import as_good
from cai.inference.tabular.stationary.hard import by_outcome, put_delays, solve_hard
from cai.inference.tabular.stationary.own import solve_own
from cai.inference.tabular.stationary.problem.listing import steps_of
from cai.inference.tabular.stationary.problem.steps import Steps
from cai.inference.tabular.stationary.solve import Solution, solve_by_backups, solve_soft
from cai.models.common.numerics import certainty_equivalent, plain_number, rounding
from cai.models.trajectory.model import TrajectoryModel

__all__ = [
    "ConvergenceCriterion",
    "Fits",
    "Stationary",
    "policy_at",
    "q_values_at",
    "solve_group",
    "stationary_messages",
]

Array = np.ndarray[Any, Any]
LEAST = 1e-280  # nats: values below have no relative accuracy, as float64 ends at 1e-308
EIGENVALUE_LIMIT = 200  # states up to which rho(F') is computed


@dataclass(frozen=True)
class ConvergenceCriterion:
    """How well the values of an infinite horizon must be known.

    Attributes:
        tolerance: the largest error of a value, relative to the largest value or reward that the start leads to; where
            all rewards have one sign, relative to the value itself.
        max_iterations: the most backups and policies.
        accelerate: whether values are solved for by policy iteration; else by backups alone.
    """

    tolerance: float = 1e-10
    max_iterations: int = 1_000_000
    accelerate: bool = True


@dataclass(frozen=True)
class Stationary:
    """Stationary messages and how they were found.

    Attributes:
        messages: with one step.
        status: SUCCESS if the error is within the tolerance.
        details: "steps" (backups and policies), "newton_steps" (linear systems solved), "error_bound" (on the
            error of every value that the start leads to by what is not forbidden, reward units; values are rounded to
            the dtype, and that is in it), "changes" (the largest change of a value by each backup, nats, up to 10,000;
            none where values were solved for), "change" (the last of them, or 0),
            "rate" and "contracts" (the rate at which backups settle, gamma or rho(F') where there were backups, and
            whether it bounds every one of them); "why", where there is no answer.
        chosen: int64 [S], an action by which a hard value is reached, -1 where nothing does; None for soft ones.
        known: further parts of the answer, by name.
    """

    messages: Messages
    status: Status
    details: dict[str, Any]
    chosen: Tensor | None = None
    known: dict[str, Any] = field(default_factory=dict)


def stationary_messages(model: TrajectoryModel, recursion: Recursion, settling: ConvergenceCriterion) -> Stationary:
    """The values that a backup leaves as they are and that finite horizons tend to, with their gradients."""
    if not recursion.is_listed:
        return _of_own(model, recursion, settling)
    hard = recursion.choice is hard_choice
    steps = steps_of(model, recursion.eta, hard)
    sure = steps.count == len(steps.states)  # then the worst outcome is the best, and the only one
    expands = hard and settling.accelerate and (recursion.eta == math.inf or (sure and recursion.eta != 0))
    steps = by_outcome(steps) if expands else steps
    start = (model.mdp.initial.detach() > 0).cpu().numpy()
    _, ways, _ = usable(steps, np.append(np.full(steps.number, np.nan), 0.0))  # what is forbidden leads nowhere
    met = steps.reached(np.append(start, False), ways)[:-1]
    fits = Fits(steps, met, settling.tolerance)
    solution = Solution(steps, settling.max_iterations, fits, temperature=plain_number(model.temperature))
    if hard and settling.accelerate:
        solution.chosen = np.full(steps.number, -1)
    for group in (met, ~met):
        if group.any():
            solve_group(solution, group, settling.accelerate)
    if hard and steps.eta == 0 and model.discount == 1:
        put_delays(solution, met & model.nonterminal.cpu().numpy())
    return _assemble(model, recursion, solution, met)


class Fits:
    """Whether errors [N] of values [N] are within the tolerance; see `ConvergenceCriterion`."""

    def __init__(self, steps: Steps, met: Array, tolerance: float) -> None:
        paid = steps.rewards[met[steps.states]] if steps.eta == 0 else steps.gains_of(met)  # others are 0
        paid = paid[np.isfinite(paid)]
        self.tolerance, self.largest = tolerance, float(np.abs(paid).max(initial=0.0))
        self.one_sign = bool((paid >= 0).all() or (paid <= 0).all())

    def __call__(self, errors: Array, values: Array) -> bool:
        size = np.abs(values)
        if not self.one_sign:
            size = np.maximum(size.max(initial=0.0), self.largest)
        return bool((errors <= self.tolerance * np.maximum(size, LEAST)).all())


def solve_group(solution: Solution, group: Array, accelerate: bool) -> None:
    """Solves for a group of states, bool [N], in the way that fits the backup."""
    eta, hard = solution.steps.eta, solution.steps.hard
    if accelerate and hard and eta == 0:
        solve_hard(solution, group)
    elif accelerate and not hard and 0 <= eta < math.inf:
        solve_soft(solution, group)
    else:
        solve_by_backups(solution, group, accelerate)


def _assemble(model: TrajectoryModel, recursion: Recursion, solution: Solution, met: Array) -> Stationary:
    """Tables from what was solved: values, q-values, the policy, and their gradients."""
    worth, nonterminal = solution.worth[:-1], model.nonterminal.cpu().numpy()
    status, why = _status(model, solution, met & nonterminal)
    start = model.mdp.initial.detach()
    values = torch.from_numpy(np.where(nonterminal & ~np.isnan(worth), worth, 0.0)).to(start)
    policy = policy_at(model, solution)
    q_values = q_values_at(model, recursion, values)
    if status.ok and (q_values.requires_grad or model.log_action_prior.requires_grad):
        values = with_gradients(model, recursion, values, policy)
        q_values = q_values_at(model, recursion, values)
    if q_values.requires_grad and recursion.choice is not hard_choice:  # the slope of the choice, at the policy found
        finite = torch.isfinite(values)[:, None]
        known = torch.where(finite, q_values, torch.zeros_like(q_values))
        chosen = recursion.choice(model, known, model.log_action_prior)[1]
        policy = policy + torch.where(finite, chosen - chosen.detach(), torch.zeros_like(chosen))
    bound = solution.error[met & nonterminal]
    rounded = np.abs(worth[met & nonterminal])  # to the dtype of tables in nats, and again in reward units
    bound = (bound + torch.finfo(values.dtype).eps * 1.01 * np.where(np.isfinite(rounded), rounded, 0.0)).max(
        initial=0.0
    )
    details: dict[str, Any] = {
        "steps": solution.count,
        "newton_steps": solution.jumps,
        "error_bound": float(bound) * solution.temperature,
        "change": solution.changes[-1] if solution.changes else 0.0,
        "changes": tuple(solution.changes),
        "rate": _rate(model, solution),
        "contracts": recursion.eta == 0 and model.discount < 1,
    }
    if why:
        details["why"] = why
    messages = Messages(
        values=torch.stack([values, values]),
        q_values=q_values[None],
        policy=policy[None],
        start=_start(model, recursion, values),
    )
    chosen_actions = None
    if solution.chosen is not None:
        actions = np.append(solution.steps.actions, -1)[solution.chosen]
        chosen_actions = torch.from_numpy(actions).to(start.device)
    return Stationary(messages, status, details, chosen_actions)


def _status(model: TrajectoryModel, solution: Solution, met: Array) -> tuple[Status, str]:
    """How it ended, by the states that the start leads to, and why no answer is there."""
    worth, mdp, eta = solution.worth[:-1], model.mdp, solution.steps.eta
    for states, status, what in (
        (worth == np.inf, Status.DIVERGED, "on values grow without end"),
        (solution.unsure, Status.NOT_ASSURED, "on the values of finite horizons have no limit that a policy attains"),
    ):
        if (met & states).any():
            return status, f"from state {mdp.state_name(int(np.flatnonzero(met & states)[0]))} {what}"
    start = (mdp.initial.detach() > 0).cpu().numpy()
    lost = start & (worth == -np.inf)
    if lost.any() and (eta <= 0 or not (start & ~lost).any()):
        steps, ends = solution.steps, np.append(solution.free, True)
        _, edges, _ = usable(steps, np.append(np.where(solution.free, 0.0, np.nan), 0.0))
        open_to = [steps.reaching(ends, some)[:-1] for some in (edges, None)]
        fell = lost & ~solution.barred & ~(open_to[1] & ~open_to[0])  # not since -inf bars the way to every end
        if not fell.any():
            return Status.SUCCESS, ""  # whoever asks looks for the reward of -inf
        return Status.DIVERGED, f"from state {mdp.state_name(int(np.flatnonzero(fell)[0]))} on values fall without end"
    finite = met & np.isfinite(worth)
    if np.isnan(worth[met]).any() or not solution.fits(solution.error[finite], worth[finite]):
        return Status.NOT_CONVERGED, ""
    return Status.SUCCESS, ""


def policy_at(model: TrajectoryModel, solution: Solution, gain: float = 0.0) -> Tensor:
    """[S, A]: the choice at the values; the action prior where no value is finite, and where nothing is ever paid.

    Args:
        model: the trajectory model.
        solution: the values.
        gain: nats, of which rewards are less there.
    """
    steps, prior = solution.steps, model.action_prior.detach()
    pairs, edges = solution.allowed(np.zeros(steps.number, dtype=bool))
    states = np.zeros(steps.number, dtype=bool)
    states[steps.states[pairs]] = True
    states &= np.isfinite(solution.worth[:-1]) & ~solution.free
    if not states.any():
        return prior
    part = steps.select(pairs, edges, states, np.nan_to_num(solution.worth))
    values = solution.values(states, part.dtype)
    moves = part.moves(values)
    ties = rounding(prior)  # of what was given, which may be float32
    good = as_good(part, moves, values, ties, abs(gain)) if steps.hard else None
    weights = moves.policy if good is None else np.where(good, part.prior, 0.0)
    table = np.zeros(prior.shape)
    np.add.at(table, (np.flatnonzero(states)[part.states], part.actions), weights.astype(np.float64))
    found = torch.from_numpy(table).to(prior)
    total = found.sum(-1, keepdim=True)
    return torch.where(total > 0, found / torch.where(total > 0, total, torch.ones_like(total)), prior)


def _start(model: TrajectoryModel, recursion: Recursion, values: Tensor) -> Tensor:
    """What the start is worth, nats, 0-dim; right to rounding where values are tiny, too."""
    possible = model.mdp.initial.detach() > 0
    weights = model.mdp.initial[possible]
    return certainty_equivalent(weights / weights.sum(), values[possible], recursion.eta)


def _rate(model: TrajectoryModel, solution: Solution) -> float | None:
    """The rate at which backups settle: gamma for fixed dynamics, else rho(F'); None where that takes too long."""
    steps = solution.steps
    if steps.eta == 0 and model.discount < 1:
        return float(model.discount)
    pairs, edges = solution.allowed(np.zeros(steps.number, dtype=bool))
    states = np.isfinite(solution.worth[:-1]) & ~solution.free
    if not solution.changes or not 0 < states.sum() <= EIGENVALUE_LIMIT:
        return None
    part = steps.select(pairs, edges, states, np.nan_to_num(solution.worth))
    weights = part.moves(solution.values(states, part.dtype)).weights.astype(np.float64)
    matrix = np.zeros((part.number, part.number + 1))
    np.add.at(matrix, (part.sources, part.targets), weights)
    return float(np.abs(np.linalg.eigvals(matrix[:, :-1])).max())


def q_values_at(model: TrajectoryModel, recursion: Recursion, values: Tensor) -> Tensor:
    """[S, A], one backup, of values that may be +inf where the start does not lead."""
    endless = values == torch.inf
    if not bool(endless.any()):
        return recursion.backup(model, values, 0)
    q_values = recursion.backup(model, torch.where(endless, torch.zeros_like(values), values), 0)
    leads = (model.mdp.probabilities > 0) & model.mdp.gather(endless) & model.nonterminal[:, None, None]
    rises = leads.any(-1) & ~torch.isinf(q_values)
    return torch.where(rises, torch.full_like(q_values, torch.inf), q_values)


def with_gradients(model: TrajectoryModel, recursion: Recursion, values: Tensor, policy: Tensor) -> Tensor:
    """The fixed point v = F(v) with its first and second derivatives.

    By the implicit function theorem dv = (1 - F')^-1 dF. Each step v + (1 - F')^-1 (F(v) - v), with the matrix of the
    answer, adds an order to the derivatives that v has; without their v in its place it adds the first.

    Args:
        model: the trajectory model.
        recursion: whose fixed point it is.
        values: v [S], nats.
        policy: [S, A], the choice at v; with the dynamics that go with v it is the chain F'.

    Raises:
        ValueError: if 1 - F' is singular as far as float64 can tell, so that v has no derivative.
    """
    if not torch.is_grad_enabled():
        return values
    finite, system = torch.isfinite(values), None
    for _ in range(ORDERS):
        known = Again.apply(values)
        moved = recursion.choice(model, recursion.backup(model, known, 0), model.log_action_prior)[0]
        if not moved.requires_grad:
            return values
        if system is None:
            with torch.no_grad():
                alive, fallen = recursion.beliefs(model, torch.stack([values, values]))[1].outcomes(0)
                ended = ended_states(model, policy, alive + fallen, fallen)
                chains = ChainSystems(model, model.nonterminal & finite & ~ended)
                system = chains.system(policy[..., None] * alive, policy[..., None] * fallen)
        left = (moved - known)[chains.counts]
        try:
            values = known + chains.spread(system.solve(left - left.detach()))
        except ArithmeticError as error:
            raise ValueError(
                f"the gradient over this infinite horizon is not known: {error}; give a lower discount or a finite "
                "horizon, or ask under torch.no_grad()"
            ) from None
    return values


def _of_own(model: TrajectoryModel, recursion: Recursion, settling: ConvergenceCriterion) -> Stationary:
    """Messages of a recursion that a plug-in brings."""
    values, status, details = solve_own(model, recursion, settling.tolerance, settling.max_iterations)
    q_values = recursion.backup(model, values, 0)
    policy = recursion.choice(model, q_values, model.log_action_prior)[1]
    if status.ok:
        values = with_gradients(model, recursion, values, policy.detach())
        q_values = recursion.backup(model, values, 0)
        policy = recursion.choice(model, q_values, model.log_action_prior)[1]
    start = recursion.start(model, values)
    messages = Messages(values=torch.stack([values, values]), q_values=q_values[None], policy=policy[None], start=start)
    return Stationary(messages, status, details)
