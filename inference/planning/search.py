"""Iterated linear-quadratic steps from several starts side by side, as a learner."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.learner import Info, State
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status
from cai.inference.planning.derivatives import expand
from cai.inference.planning.local import improvement, line_search
from cai.inference.planning.problem import PlanningProblem

__all__ = ["PlanSearch", "SearchState", "no_curvature"]

FIRST, LAST = 1e-4, 1e8  # damping, as a share of the curvature of an action: the least one, and the one that gives up
SETTLED = 1e-6  # relative change of what noise costs, below which it counts as settled


@dataclass(frozen=True, eq=False, kw_only=True)
class SearchState(State):
    """Where a search is: R trajectories, each with a damping of its own.

    Attributes:
        actions: [R, T, m].
        states: [R, T + 1, n].
        costs: [R], reward units; inf where a rollout left the finite numbers.
        damping: [R], as a share of the mean curvature of an action.
        going: bool [R], whether a trajectory is still improved.
        converged: bool [R], whether the local model promises no more than the tolerance.
        diverged: int64 [R], the time index at which the first rollout left the finite numbers; T where none did.
        curvature: [R, T, n, n], P by which noise is paid for, where it changes with state and action; else None.
        history: the lowest cost after every step, the first one included.
    """

    actions: Tensor
    states: Tensor
    costs: Tensor
    damping: Tensor
    going: Tensor
    converged: Tensor
    diverged: Tensor
    curvature: Tensor | None
    history: tuple[float, ...]

    @property
    def best(self) -> int:
        """Which trajectory costs least."""
        return int(self.costs.argmin())


@dataclass(frozen=True, eq=False)
class PlanSearch:
    """Each step linearises, solves and searches along the line for all trajectories that have not converged.

    Args:
        label: for the progress bar.
        limit: the most steps.
        tolerance: a trajectory has converged when its local model promises to lower the cost by less than this share of
            it (of 1, where the cost is smaller).
        prepare: (model) -> the planning problem.
        start: (problem, seed) -> first actions [R, T, m].
        answer: (state) -> the answer that a state stands for.
        starts: [R, n], states in which the trajectories begin; all begin in the mean start if None.
    """

    label: str
    limit: int
    tolerance: float
    prepare: Callable[[Any], PlanningProblem]
    start: Callable[[PlanningProblem, int], Tensor]
    answer: Callable[[SearchState], Posterior]
    starts: Tensor | None = None

    @torch.no_grad()
    def init(self, model: Any, *, seed: int) -> SearchState:
        problem = self.prepare(model)
        actions = self.start(problem, seed)
        found = problem.rollout(actions, self.starts)
        going = torch.isfinite(found.costs)
        return SearchState(
            problem=problem,
            status=None if bool(going.any()) else Status.NOT_CONVERGED,
            actions=actions,
            states=found.states,
            costs=found.costs,
            damping=torch.zeros_like(found.costs),
            going=going,
            converged=torch.zeros_like(going),
            diverged=found.diverged,
            curvature=no_curvature(problem, found.states, actions),
            history=(float(found.costs.min()),),
        )

    @torch.no_grad()
    def step(self, state: SearchState) -> tuple[SearchState, Info]:
        problem: PlanningProblem = state.problem
        rows = torch.nonzero(state.going)[:, 0]
        states, actions, share = state.states[rows], state.actions[rows], state.damping[rows]
        curvature = None if state.curvature is None else state.curvature[rows]
        local = expand(problem, states, actions, curvature)
        scale = local.hessian.diagonal(dim1=-2, dim2=-1)[..., problem.state_dim :].mean((-2, -1)).clamp(min=1e-12)
        advice = improvement(problem, local, share * scale)
        following, settled = _following(advice.curvature, curvature)
        tried, found = line_search(problem, states, actions, advice, curvature)
        costs = state.costs[rows] if curvature is None else _with_noise(problem, states, actions, curvature)
        better = advice.sound & (found.costs < costs)
        ready = advice.sound & settled & (share == 0)
        converged = ready & (advice.promised <= self.tolerance * costs.abs().clamp(min=1.0))
        share = torch.where(better, _lower(share), _higher(share))
        taken, reached = _chosen(better, tried, actions), _chosen(better, found.states, states)
        lowered = torch.where(better, found.costs, costs)
        if curvature is not None:  # what noise costs is not part of what the plan itself does
            lowered = problem.measured(reached, taken).costs
        kept = dataclasses.replace(
            state,
            actions=state.actions.index_copy(0, rows, taken),
            states=state.states.index_copy(0, rows, reached),
            costs=state.costs.index_copy(0, rows, lowered),
            damping=state.damping.index_copy(0, rows, torch.where(converged, torch.zeros_like(share), share)),
            going=state.going.index_copy(0, rows, ~converged & (share <= LAST)),
            converged=state.converged.index_copy(0, rows, converged),
            curvature=None if state.curvature is None else state.curvature.index_copy(0, rows, following),
        )
        lowest = float(kept.costs.min())
        over = not bool(kept.going.any())
        status = (Status.SUCCESS if bool(kept.converged[kept.best]) else Status.NOT_CONVERGED) if over else None
        kept = dataclasses.replace(kept, status=status, history=(*state.history, lowest))
        return kept, Info({"cost": lowest}, improved=lowest < state.history[-1])

    def posterior(self, state: SearchState) -> Posterior:
        return self.answer(state)


def _chosen(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(mask[:, None, None], new, old)


def _higher(share: Tensor) -> Tensor:
    return torch.where(share == 0, FIRST, 10 * share)


def _lower(share: Tensor) -> Tensor:
    return torch.where(share <= FIRST, torch.zeros_like(share), share / 10)


def no_curvature(problem: PlanningProblem, states: Tensor, actions: Tensor) -> Tensor | None:
    """Zeros to begin with where the covariance of the noise changes with state and action; else None."""
    if problem.noise is None:
        return None
    spread = problem.over_time(problem.noise, "noise")(states[:, :-1], actions)
    spread = torch.where(spread.isfinite(), spread, torch.zeros_like(spread))
    if bool(torch.isclose(spread, spread[:1]).all()):
        return None
    return torch.zeros(*actions.shape[:2], problem.state_dim, problem.state_dim, dtype=actions.dtype)


def _following(P: Tensor, before: Tensor | None) -> tuple[Any, Tensor]:
    """P by which noise is paid for from now on, where it is, and bool [R], whether it has settled."""
    if before is None:
        return None, torch.ones(len(P), dtype=torch.bool)
    change = (P - before).abs().amax((-3, -2, -1))
    return P, change <= SETTLED * P.abs().amax((-3, -2, -1))


def _with_noise(problem: PlanningProblem, states: Tensor, actions: Tensor, curvature: Tensor) -> Tensor:
    return problem.measured(states, actions).costs + problem.paid_for_noise(states, actions, curvature)
