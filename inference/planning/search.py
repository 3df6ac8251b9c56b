"""Iterated linear-quadratic steps from several starts side by side, as a learner.

Steps far from an optimum leave out the curvature of the dynamics and project that of the costs, which makes them
robust; but where they promise nothing the plan can be a saddle, too. So the last ones take the whole Hessian of the
cost in the actions (Newton's), and where the cost bends down they leave along a direction in which it does.
"""

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
from cai.inference.planning.derivatives import Expansion, expand, semi_definite, with_dynamics
from cai.inference.planning.local import Improvement, improvement, last_bend, line_search, search_bend
from cai.inference.planning.problem import PlanningProblem, Rollout

__all__ = ["PlanSearch", "SearchState", "no_curvature"]

FIRST, LAST = 1e-4, 1e8  # damping, as a share of the curvature of an action: the least one, and the one that gives up
FLAT = 1e-8  # of that curvature: a cost that bends down by less counts as flat
NEAR = 1e-3  # of the cost, and of what was gained so far: steps that promise less are Newton's
ROUNDING = 1e-12  # of the cost: less is not told from rounding errors
SETTLED = 1e-6  # relative change of what noise costs, below which it counts as settled


@dataclass(frozen=True, eq=False, kw_only=True)
class SearchState(State):
    """Where a search is: R trajectories, each with a damping of its own.

    Attributes:
        actions: [R, T, m].
        states: [R, T + 1, n].
        costs: [R], reward units, with what noise costs where that changes; inf where a rollout left the finite numbers.
        begun: [R], the costs at the start.
        damping: [R], as a share of the mean curvature of an action.
        going: bool [R], whether a trajectory is still improved.
        whole: bool [R], whether it is improved by the whole Hessian, the curvature of the dynamics included.
        bends: int64 [R], the latest time index from which the cost bends down by that Hessian; T where there is none.
        converged: bool [R], whether it is a minimum to second order: the cost bends down nowhere, and Newton's step
            promises no more than the tolerance.
        diverged: int64 [R], the time index at which the first rollout left the finite numbers; T where none did.
        curvature: [R, T, n, n], P by which noise is paid for, where it changes with state and action; else None.
        history: the lowest cost after every step, the first one included.
    """

    actions: Tensor
    states: Tensor
    costs: Tensor
    begun: Tensor
    damping: Tensor
    going: Tensor
    whole: Tensor
    bends: Tensor
    converged: Tensor
    diverged: Tensor
    curvature: Tensor | None
    history: tuple[float, ...]

    @property
    def best(self) -> int:
        """Which trajectory costs least."""
        return int(self.costs.argmin())

    @property
    def is_verified(self) -> bool:
        """Whether that one is a minimum to second order, where it is."""
        return bool(self.converged[self.best] & ~self.going[self.best])


@dataclass(frozen=True, eq=False)
class PlanSearch:
    """Each step linearises, solves and searches along the line for all trajectories that have not converged.

    Args:
        label: for the progress bar.
        limit: the most steps.
        tolerance: a trajectory has converged when Newton's step promises to lower the cost by no more than this share
            of the temperature, or than rounding hides.
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
            begun=found.costs,
            damping=torch.zeros_like(found.costs),
            going=going,
            whole=torch.zeros_like(going),
            bends=torch.full_like(found.diverged, problem.horizon),
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
        whole, costs = state.whole[rows], state.costs[rows]
        size = costs.abs().clamp(min=problem.temperature)
        little = (ROUNDING * size).clamp(min=self.tolerance * problem.temperature)
        local, scale, following = _local_models(problem, states, actions, share, whole, curvature)
        plain, advice, share = _advice(problem, local, scale, share, whole)
        tried, found = line_search(problem, states, actions, advice, curvature)
        bends = torch.where(whole, last_bend(plain)[0], problem.horizon)
        idle = ~(found.costs < costs) | (advice.promised <= little)
        if len(lost := torch.nonzero((bends < problem.horizon) & idle)[:, 0]):
            tried, found = _off_saddles(problem, states, actions, plain, lost, size, curvature, (tried, found))
        ready = plain.sound & _settled(following, curvature)
        converged = ready & whole & (plain.promised <= little)
        still = state.converged[rows] | (plain.promised <= ROUNDING * size)
        over = converged & still  # one more step was taken since, or none would bring anything
        better = (advice.sound | whole) & (found.costs < costs) & ~over
        gained = state.begun[rows] - costs + advice.promised
        near = ready & (share == 0) & (advice.promised <= torch.maximum(NEAR * torch.minimum(size, gained), little))
        share = torch.where(better, lower(share), higher(share))
        turned = ~whole & (near | (share > LAST))  # from robust steps to Newton's
        taken, reached = chosen(better, tried, actions), chosen(better, found.states, states)
        lowered = torch.where(better, found.costs, costs)
        if following is not None:
            lowered = problem.measured(reached, taken).costs + problem.paid_for_noise(reached, taken, following)
        paid = state.curvature
        kept = dataclasses.replace(
            state,
            actions=state.actions.index_copy(0, rows, taken),
            states=state.states.index_copy(0, rows, reached),
            costs=state.costs.index_copy(0, rows, lowered),
            damping=state.damping.index_copy(0, rows, torch.where(turned, 0.0, share)),
            going=state.going.index_copy(0, rows, turned | (~over & (share <= LAST))),
            whole=state.whole.index_copy(0, rows, whole | turned),
            bends=state.bends.index_copy(0, rows, bends),
            converged=state.converged.index_copy(0, rows, converged),
            curvature=None if paid is None or following is None else paid.index_copy(0, rows, following),
        )
        lowest = float(kept.costs.min())
        status = None
        if not bool(kept.going.any()):
            status = Status.SUCCESS if kept.is_verified else Status.NOT_CONVERGED
        kept = dataclasses.replace(kept, status=status, history=(*state.history, lowest))
        return kept, Info({"cost": lowest}, improved=lowest < state.history[-1])

    def posterior(self, state: SearchState) -> Posterior:
        return self.answer(state)


def chosen(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Of trajectories [R, ...] the new ones where the mask [R] says so, else the old ones."""
    return torch.where(mask[:, None, None], new, old)


def higher(share: Tensor) -> Tensor:
    """More damping, after a step that brought nothing."""
    return torch.where(share == 0, FIRST, 4 * share)


def lower(share: Tensor) -> Tensor:
    """Less damping, after one that did."""
    return torch.where(share <= FIRST, torch.zeros_like(share), share / 4)


def no_curvature(problem: PlanningProblem, states: Tensor, actions: Tensor) -> Tensor | None:
    """Zeros to begin with where the covariance of the noise changes with state and action; else None."""
    if problem.noise is None:
        return None
    spread = problem.over_time(problem.noise, "noise")(states[:, :-1], actions)
    spread = torch.where(spread.isfinite(), spread, torch.zeros_like(spread))
    if bool(torch.isclose(spread, spread[:1]).all()):
        return None
    return torch.zeros(*actions.shape[:2], problem.state_dim, problem.state_dim, dtype=actions.dtype)


def _local_models(
    problem: PlanningProblem, states: Tensor, actions: Tensor, share: Tensor, whole: Tensor, curvature: Tensor | None
) -> tuple[Expansion, Tensor, Tensor | None]:
    """Local models, whole or robust, the curvature [R] of an action, and P by which noise is paid for, if it is."""
    bare = expand(problem, states, actions, curvature, projected=False)
    scale = bare.hessian.diagonal(dim1=-2, dim2=-1)[..., problem.state_dim :].abs().mean((-2, -1)).clamp(min=1e-12)
    robust = semi_definite(bare)
    following = None if curvature is None else improvement(problem, robust, share * scale).curvature
    if not bool(whole.any()):
        return robust, scale, following
    bent = with_dynamics(problem, states, actions, bare)
    hessian = torch.where(whole[:, None, None, None], bent.hessian, robust.hessian)
    final = torch.where(whole[:, None, None], bent.final_hessian, robust.final_hessian)
    return robust._replace(hessian=hessian, final_hessian=final), scale, following


def _advice(
    problem: PlanningProblem, local: Expansion, scale: Tensor, share: Tensor, whole: Tensor
) -> tuple[Improvement, Improvement, Tensor]:
    """What the models advise undamped and damped, and the damping, raised where whole ones are not sound else."""
    plain = advice = improvement(problem, local, torch.where(whole, FLAT, share) * scale)
    share = share.clone()
    rows = torch.nonzero(whole & ((share > 0) | ~plain.sound))[:, 0]
    while len(rows):
        share[rows] = torch.where(share[rows] == 0, FIRST, share[rows])
        part = Expansion(*(term if term is local.noise else term[rows] for term in local))
        damped = improvement(problem, part, share[rows] * scale[rows])
        advice = Improvement(*(old.index_copy(0, rows, new) for old, new in zip(advice, damped, strict=True)))
        rows = rows[~damped.sound & (share[rows] <= LAST)]
        share[rows] = higher(share[rows])
    return plain, advice, share


def _off_saddles(
    problem: PlanningProblem,
    states: Tensor,
    actions: Tensor,
    advice: Improvement,
    rows: Tensor,
    size: Tensor,
    curvature: Tensor | None,
    others: tuple[Tensor, Rollout],
) -> tuple[Tensor, Rollout]:
    """The neighbours [R] of trajectories, those of some rows along their last bends if these are cheaper."""
    tried, found = others
    of_rows = Improvement(*(part[rows] for part in advice))
    paid = None if curvature is None else curvature[rows]
    bent, there = search_bend(problem, states[rows], actions[rows], of_rows, size[rows], paid)
    cheaper = there.costs < found.costs[rows]
    rows, bent = rows[cheaper], bent[cheaper]
    parts = ((found.states, there.states), (found.costs, there.costs), (found.diverged, there.diverged))
    return tried.index_copy(0, rows, bent), Rollout(*(old.index_copy(0, rows, new[cheaper]) for old, new in parts))


def _settled(P: Tensor | None, before: Tensor | None) -> Tensor | bool:
    """Whether P by which noise is paid for has settled, bool [R]; True where it is not paid for."""
    if P is None or before is None:
        return True
    return (P - before).abs().amax((-3, -2, -1)) <= SETTLED * P.abs().amax((-3, -2, -1))
