"""Approximate inference control: Gaussian messages around belief means, repeated until these stand still."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cai.inference.core.driver import drive
from cai.inference.core.learner import Info, State, status_of
from cai.inference.core.memory import Need
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.gaussian.messages import Messages, backward
from cai.inference.gaussian.moments import Moments, believe, forward
from cai.inference.gaussian.problem import GaussianPrior, GaussianProblem
from cai.inference.planning.around import world_around
from cai.inference.planning.derivatives import expand
from cai.inference.planning.local_posterior import local_posterior
from cai.inference.planning.problem import PlanningProblem
from cai.inference.planning.read_model import as_size, planning_problem, require_smooth
from cai.inference.planning.size import local_need
from cai.inference.planning.warm_start import first_actions
from cai.models.common.checks import as_count

__all__ = ["ApproximateInference"]

LEAST = 0.05  # of the way to the new beliefs, that is always gone
FASTER, SLOWER = 1.5, 0.5  # by which the share changes with success and without


@dataclass(frozen=True)
class ApproximateInference:
    """Approximate inference control (AICO): the exact target with Gaussian messages, linearised at its own beliefs.

    At a trajectory of belief means the dynamics are linearised and the costs -r - alpha log p(a|s) taken to second
    order (their Hessians projected on the positive semi-definite matrices). Messages backward and beliefs forward are
    exact for that problem; noise is conditioned on optimality as in `exact`. The next trajectory lies a share of the
    way to the new means, and the share shrinks when they move further than before (damping; Toussaint 2009). Unlike
    `ilqr` it follows no rollout and lowers no cost: it has converged when the means stand still, and often that does
    not happen; the status then is NOT_CONVERGED, and the last beliefs come back.

    Target `exact`, by local Gaussians; on a `LinearGaussianModel` the answer of `exact`, all its numbers included.
    Elsewhere returns and evidences are not known.

    Args:
        noise: standard deviation of the first controls, beyond the mean of the prior.
        max_iterations: the most passes.
        tolerance: of the means of states and actions, in their units, relative to their size once that exceeds 1.
        warm_start: the answer of any backend to this model, or controls [T, m], from which to begin.

    `details` holds "changes" (how far the means were from the trajectory in each pass), "cost" (of the controls in a
    rollout without noise, with alpha log p(a|s) where the prior is proper) and, where numbers left the finite ones,
    "step".
    """

    noise: float = 1.0
    max_iterations: int = 300
    tolerance: float = 1e-6
    warm_start: Any = None

    name: ClassVar[str] = "aico"
    target: ClassVar[Target] = Target.EXACT
    accepts: ClassVar[str] = "a continuous model of finite horizon with derivatives, no discount or terminal states"
    cost: ClassVar[str] = "T ((n + m)^3 + steps of the model) a pass"

    def __post_init__(self) -> None:
        as_count(self.max_iterations, "max_iterations")
        for name in ("noise", "tolerance"):
            as_size(getattr(self, name), name)

    def supports(self, model: Any) -> None:
        """Raises ValueError unless the model is continuous, finite, without discount, and has derivatives."""
        require_smooth(model, self.name)
        if model.discount < 1:
            raise ValueError(
                f"backend {self.name!r} has the exact target, and the end that the discount {model.discount:g} brings "
                "is no Gaussian; leave the discount out, or ask 'ilqr'"
            )

    def memory(self, model: Any) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        return local_need(model, 1, "give a shorter horizon")

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers the model; everything drawn depends on the seed alone."""
        self.supports(model)
        return drive(self.learner(model), model, seed=seed)

    def learner(self, model: Any) -> _Passes:
        """A pass of messages and beliefs is one step."""
        return _Passes(self, model, int(self.max_iterations))


@dataclass(frozen=True, eq=False, kw_only=True)
class BeliefState(State):
    """Where the beliefs are.

    Attributes:
        states: [T + 1, n], at which the problem is linearised.
        actions: [T, m].
        share: of the way to the new means that is gone.
        changes: how far the means were from the trajectory in each pass so far.
        failed: the time index at which there were no finite messages; None where that did not happen.
    """

    states: Tensor
    actions: Tensor
    share: float
    changes: tuple[float, ...]
    failed: int | None


@dataclass(frozen=True, eq=False)
class _Passes:
    """Messages and beliefs at the last means, again and again.

    Args:
        backend: the options.
        model: what is asked about.
        limit: the most passes.
    """

    backend: ApproximateInference
    model: Any
    limit: int
    label: str = "passing messages"

    @torch.no_grad()
    def init(self, model: Any, *, seed: int) -> BeliefState:
        problem = planning_problem(model)
        shape = (problem.horizon, problem.action_dim)
        draws = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=problem.start.dtype)
        warm = self.backend.warm_start
        actions = first_actions(problem, warm, seed) + (self.backend.noise * draws if warm is None else 0)
        found = problem.rollout(actions)
        failed = None if bool(torch.isfinite(found.costs)) else int(found.diverged)
        return BeliefState(
            problem=problem,
            status=None if failed is None else Status.NOT_CONVERGED,
            states=found.states,
            actions=actions,
            share=1.0,
            changes=(),
            failed=failed,
        )

    @torch.no_grad()
    def step(self, state: BeliefState) -> tuple[BeliefState, Info]:
        _, messages, beliefs = _beliefs(state)
        if not bool(messages.chosen.all()) or not bool(beliefs.state_means.isfinite().all()):
            lost = torch.nonzero(~messages.chosen)[:, 0]
            failed = int(lost[-1]) if len(lost) else _first_lost(beliefs.state_means)
            return dataclasses.replace(state, status=Status.NOT_CONVERGED, failed=failed), Info({}, improved=False)
        pairs = ((beliefs.state_means, state.states), (beliefs.action_means, state.actions))
        change = max(float(((new - old).abs() / old.abs().clamp(min=1)).max()) for new, old in pairs)
        further = bool(state.changes) and change > state.changes[-1]
        share = max(LEAST, SLOWER * state.share) if further else min(1.0, FASTER * state.share)
        states, actions = (old + share * (new - old) for new, old in pairs)
        made = dataclasses.replace(
            state,
            status=Status.SUCCESS if change <= self.backend.tolerance else None,
            states=states,
            actions=actions,
            share=share,
            changes=(*state.changes, change),
        )
        return made, Info({"change": change})

    @torch.no_grad()
    def posterior(self, state: BeliefState) -> Posterior:
        problem: PlanningProblem = state.problem
        details: dict[str, Any] = {"changes": state.changes}
        if state.failed is not None:
            details["step"] = state.failed
            details["why"] = (
                f"numbers are not finite, or no action is best, at time index {state.failed}: lower noise, or give "
                "warm_start, e.g. the answer of 'ilqr'"
            )
            return local_posterior(self.backend, self.model, status_of(state), None, 1.0, details)
        world, _, beliefs = _beliefs(state)
        rollout, status = problem.rollout(beliefs.action_means), status_of(state)
        details["cost"] = float(rollout.costs)
        if status is Status.SUCCESS and details["cost"] == math.inf:
            status, details["step"] = Status.NOT_CONVERGED, int(rollout.diverged)
            details["why"] = (
                f"means stand still, and their controls meet what is forbidden at time index {details['step']}: a "
                "reward of -inf, an action of density 0, or numbers that are not finite; ask 'mppi', which weighs that"
            )
        plan = (beliefs.state_means, beliefs.action_means)
        return local_posterior(self.backend, self.model, status, world, 1.0, details, plan)


def _beliefs(state: BeliefState) -> tuple[GaussianProblem, Messages, Moments]:
    """The world around the trajectory, and what the exact target says of it."""
    problem: PlanningProblem = state.problem
    world = world_around(problem, state.states, state.actions, expand(problem, state.states, state.actions))
    messages = backward(world, 1.0)
    policy = GaussianPrior(messages.gain, messages.offset, messages.covariance)
    return world, messages, forward(believe(world, messages), policy)


def _first_lost(means: Tensor) -> int:
    return int(torch.nonzero(~means.isfinite().all(-1))[0, 0])
