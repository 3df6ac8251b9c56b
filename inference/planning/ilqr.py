"""The iterative linear-quadratic regulator, and its stochastic kind (iLQG)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from cai.inference.core.driver import drive
from cai.inference.core.learner import status_of
from cai.inference.core.memory import Need
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.planning.around import world_around
from cai.inference.planning.derivatives import expand, first_unknown
from cai.inference.planning.local_posterior import local_posterior
from cai.inference.planning.problem import PlanningProblem
from cai.inference.planning.read_model import as_size, planning_problem, require_smooth
from cai.inference.planning.search import PlanSearch, SearchState
from cai.inference.planning.size import local_need
from cai.inference.planning.warm_start import first_actions
from cai.models.common.checks import as_count

__all__ = ["IterativeLQR"]


@dataclass(frozen=True)
class IterativeLQR:
    """A plan that is improved until it is a local minimum; the answer acts in closed loop around it.

    It minimises -sum r - alpha sum log p(a|s) along the mean dynamics (without the last term where the action prior is
    flat). Each step linearises the dynamics around the trajectory, takes the costs to second order, projects the
    Hessian of every stage, state and action together, on the positive semi-definite matrices, solves that problem
    backward, and follows the solution at ten step lengths in one batch, of which the cheapest is kept (Li and Todorov
    2004; Tassa, Erez and Todorov 2012). Where none is cheaper, the curvature of actions is raised (Levenberg 1944).
    `restarts` trajectories are improved side by side, each from noise of its own. Where the covariance of the noise
    changes with state or action, what it costs is counted (Todorov and Li 2005, iLQG); noise that does not change moves
    no plan.

    Such steps may end at a saddle, as do controls of zero in a swing-up. Where they promise little, Newton's take over,
    with the curvature of the dynamics in the Hessian of the cost in all actions (Jacobson and Mayne 1970); where that
    Hessian has a negative direction, which the backward pass tells, a step along it is tried both ways (More and
    Sorensen 1979). So SUCCESS says that the plan is a local minimum to second order: the cost bends down nowhere (by
    more than 1e-8 of its curvature), and Newton's step promises no more than the tolerance. Which of several minima it
    is depends on where restarts begin.

    The last local model is a linear-Gaussian one, and the answer is its answer with the dynamics held fixed: a policy
    N(K_t s + k_t, alpha Haa^-1) for each time, quadratic values. On a `LinearGaussianModel` that is the answer of
    `variational`, all its numbers included. Elsewhere the plan is a local optimum, `details["costs"]` holds what every
    restart reached, and returns and bounds are not known: what the policy earns is for `evaluate` to tell.

    Target `other`: a local optimum of the plan; on a `LinearGaussianModel` that of `variational`.

    Args:
        restarts: R, trajectories that are improved side by side.
        noise: standard deviation of their first controls, beyond the mean of the prior.
        max_iterations: the most steps.
        tolerance: a trajectory has converged when Newton's step promises to lower the cost by no more than this share
            of the temperature, or than 1e-12 of the cost, which rounding hides.
        warm_start: where the first restart begins: the answer of any backend to this model, a policy, or controls
            [T, m]. The others begin as without it, so that another optimum can be found; restarts=1 refines alone.

    `details` holds "costs" ([R], reward units, inf for a trajectory that left the finite numbers), "cost" (the lowest),
    "history" (it, after every step), "step" (the time index at which a rollout left the finite numbers, where all did,
    or from which the cost of a plan that is no minimum bends down) and "why", in words.
    """

    restarts: int = 8
    noise: float = 1.0
    max_iterations: int = 500
    tolerance: float = 1e-5
    warm_start: Any = None

    name: ClassVar[str] = "ilqr"
    target: ClassVar[Target] = Target.OTHER
    accepts: ClassVar[str] = "a continuous model of finite horizon with derivatives, no terminal states"
    cost: ClassVar[str] = "R T ((n + m)^3 + steps of the model) an iteration"

    def __post_init__(self) -> None:
        for name in ("restarts", "max_iterations"):
            as_count(getattr(self, name), name)
        for name in ("noise", "tolerance"):
            as_size(getattr(self, name), name)

    def supports(self, model: Any) -> None:
        """Raises ValueError unless the model is continuous, of finite horizon, and has derivatives."""
        require_smooth(model, self.name)

    def memory(self, model: Any) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        return local_need(model, int(self.restarts), "lower restarts, or give a shorter horizon")

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers the model; everything drawn depends on the seed alone."""
        self.supports(model)
        return drive(self.learner(model), model, seed=seed)

    def learner(self, model: Any) -> PlanSearch:
        """A linear-quadratic step of all restarts is one step."""
        return PlanSearch(
            label="improving the plan",
            limit=int(self.max_iterations),
            tolerance=float(self.tolerance),
            prepare=planning_problem,
            start=self._start,
            answer=partial(self._answer, model),
        )

    def _start(self, problem: PlanningProblem, seed: int) -> Tensor:
        """[R, T, m], controls around the mean of the prior; the first are those of a warm start, where there is one."""
        shape = (int(self.restarts), problem.horizon, problem.action_dim)
        draws = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=problem.start.dtype)
        actions = first_actions(problem, None, seed) + self.noise * draws
        if self.warm_start is not None:
            actions[0] = first_actions(problem, self.warm_start, seed)
        return actions

    def _answer(self, model: Any, state: SearchState) -> Posterior:
        problem: PlanningProblem = state.problem
        best, status = state.best, status_of(state)
        if state.status is None and state.is_verified:
            status = Status.SUCCESS
        details: dict[str, Any] = {"costs": state.costs, "cost": float(state.costs[best]), "history": state.history}
        if not math.isfinite(details["cost"]):
            step = int(state.diverged.max())
            details["step"] = step
            details["why"] = (
                f"every rollout left the finite numbers, or met a forbidden reward, by time index {step}: lower noise, "
                "give warm_start, or take smaller time steps"
            )
            return local_posterior(self, model, Status.NOT_CONVERGED, None, 0.0, details)
        if status is not Status.SUCCESS:
            details |= _what_is_left(state)
        states, actions = state.states[best], state.actions[best]
        curvature = None if state.curvature is None else state.curvature[best]
        local = expand(problem, states, actions, curvature)
        if (unknown := first_unknown(local)) is not None:
            details["step"] = unknown
            details["why"] = (
                f"a derivative of dynamics or reward is not finite at time index {unknown}, as that of a norm at 0: "
                "smooth it, or begin elsewhere by noise or warm_start"
            )
            return local_posterior(self, model, Status.NOT_CONVERGED, None, 0.0, details)
        around = world_around(problem, states, actions, local)
        return local_posterior(self, model, status, around, 0.0, details, (states, actions))


def _what_is_left(state: SearchState) -> dict[str, Any]:
    """What keeps the best trajectory from being a minimum, as far as it is known."""
    best, step = state.best, int(state.bends[state.best])
    if step < state.problem.horizon:
        way = "" if bool(state.going[best]) else ", and no step that way lowers it"
        why = f"the best plan is no minimum: its cost bends down along actions from time index {step} on{way}"
        remedy = "raise max_iterations, give another seed, noise or warm_start, or, where costs fall without end, "
        return {"step": step, "why": f"{why}; {remedy}let actions and states cost more"}
    if bool(state.going[best]):
        return {}
    return {"why": "no step lowers the cost of the best plan, although its local model promises that"}
