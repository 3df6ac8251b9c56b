"""Maximises the exact bound over linear-Gaussian policies by Gauss-Newton steps, and makes the Gaussian answer."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.learner import Info, State, status_of
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status
from cai.inference.gaussian.posterior import GaussianPosterior, detached
from cai.inference.gaussian.read import read_problem
from cai.inference.gaussian.worth import true_belief
from cai.inference.restricted.continuous.linear_bound import LinearBound

__all__ = ["RELATIVE", "LinearAscent", "LinearAscentState"]

RELATIVE = "bound, divergence and entropy are relative to da, the action prior being flat"
NO_GRADIENTS = "none: a search found the policy; ask 'variational' about a LinearGaussianModel"
UNKNOWN = ("elbo", "believed_return", "luck", "policy_divergence", "policy_entropy")
ARMIJO = 1e-4  # the share of what is promised that a step must keep
ROUNDING = 1e-13  # falls of the bound below this, relative to its size, are those of rounding
HALVINGS = 40  # of a step, before it is given up
QUIET = 2  # steps in a row that promise less than the tolerance, after which the fit has settled
ADVICE = "scale states, noise and rewards down, give a shorter horizon, or ask 'variational'"


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearAscentState(State):
    """Where the ascent is.

    Attributes:
        gains: [..., T or 1, m, n + 1], [K, k] as the bound counts them.
        covariance: [..., T or 1, m, m], Sigma.
        bound: [...], nats.
        promised: nats, the most that the last step was to gain, over the members of a batch.
        quiet: how many steps in a row promised less than the tolerance.
        history: the bound of every policy so far, nats; of a batch its mean.
        failure: kind, step, eigenvalue and member of the matrix that should be positive definite; None where all are.
    """

    gains: Tensor
    covariance: Tensor
    bound: Tensor
    promised: float = math.inf
    quiet: int = 0
    history: tuple[float, ...] = ()
    failure: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class LinearAscent:
    """Policy improvement with the exact bound of every policy on the way.

    Where each time has a policy of its own, a full step never lowers the bound (soft policy improvement), and after T
    steps nothing is left to gain. A stationary policy changes where it is seen, so its steps are halved as long as they
    gain less than they should.

    Args:
        backend: the options.
        model: the linear-Gaussian model.
        stationary: whether one policy serves all times.
    """

    backend: Any
    model: Any
    stationary: bool
    label: str = "fitting the policy"

    @property
    def limit(self) -> int:
        return int(self.backend.max_iterations)

    @torch.no_grad()
    def init(self, model: Any, *, seed: int) -> LinearAscentState:
        problem = LinearBound(detached(read_problem(model)), self.stationary)
        gains, covariance = problem.start()
        bound = problem.measure(gains, covariance)
        return LinearAscentState(
            problem=problem,
            status=None if bool(bound.isfinite().all()) else Status.OUT_OF_RANGE,
            gains=gains,
            covariance=covariance,
            bound=bound,
            history=(float(bound.mean()),),
        )

    @torch.no_grad()
    def step(self, state: LinearAscentState) -> tuple[LinearAscentState, Info]:
        problem: LinearBound = state.problem
        found, failure = problem.improve(state.gains, state.covariance)
        if found is None:
            assert failure is not None
            ended = Status.OUT_OF_RANGE if failure.kind == "overflow" else Status.INFINITE
            kept = dataclasses.asdict(failure) | {"why": failure.sentence()}
            return dataclasses.replace(state, status=ended, failure=kept), Info({}, improved=False)
        share = found.promised / state.bound.abs().clamp(min=1.0)
        quiet = state.quiet + 1 if bool((share <= self.backend.tolerance).all()) else 0
        gains, covariance, bound = self._moved(state, found)
        if not bool(bound.isfinite().all()):
            return dataclasses.replace(state, status=Status.OUT_OF_RANGE), Info({}, improved=False)
        stalled = torch.equal(gains, state.gains) and torch.equal(covariance, state.covariance)
        status: Status | None = None
        if quiet >= QUIET or (not self.stationary and state.steps >= problem.problem.horizon):
            status = Status.SUCCESS
        elif stalled:  # nothing but rounding is left to gain, if the promise says so too
            status = Status.SUCCESS if bool((share <= 1e-6).all()) else Status.NOT_CONVERGED
        following = dataclasses.replace(
            state,
            status=status,
            gains=gains,
            covariance=covariance,
            bound=bound,
            promised=float(found.promised.max()),
            quiet=quiet,
            history=(*state.history, float(bound.mean())),
        )
        return following, Info({"bound": following.history[-1]})

    def _moved(self, state: LinearAscentState, found: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The next policy and its bound; a member of a batch that no step length raises stays where it is."""
        problem: LinearBound = state.problem
        if not self.stationary:
            gains = state.gains + found.direction
            return gains, found.covariance, problem.measure(gains, found.covariance)
        least = state.bound - ROUNDING * state.bound.abs().clamp(min=1.0)
        here, there = torch.linalg.inv(state.covariance), torch.linalg.inv(found.covariance)
        length, kept = torch.ones_like(state.bound), (state.gains, state.covariance, state.bound)
        waiting = torch.ones_like(state.bound, dtype=torch.bool)
        for _ in range(HALVINGS):
            part = length[..., None, None, None]
            gains = state.gains + part * found.direction
            precision = here + part * (there - here)
            covariance = torch.linalg.inv((precision + precision.mT) / 2)
            covariance = (covariance + covariance.mT) / 2
            bound = problem.measure(gains, covariance)
            taken = waiting & (bound >= least + ARMIJO * length * found.promised)
            mask = taken[..., None, None, None]
            tried = (torch.where(mask, gains, kept[0]), torch.where(mask, covariance, kept[1]))
            kept = (*tried, torch.where(taken, bound, kept[2]))
            waiting = waiting & ~taken
            if not bool(waiting.any()):
                break
            length = torch.where(waiting, length / 2, length)
        return kept

    @torch.no_grad()
    def posterior(self, state: LinearAscentState) -> Posterior:
        problem, status = state.problem.problem, status_of(state)
        details: dict[str, Any] = {"history": state.history, "steps": state.steps, "gradients": NO_GRADIENTS}
        if self.model.is_flat:
            details["note"] = RELATIVE
        common: dict[str, Any] = {"backend": self.backend.name, "target": self.backend.target, "model": self.model}
        common |= {"horizon": self.model.horizon, "problem": problem, "status": status}
        if status in (Status.INFINITE, Status.OUT_OF_RANGE):
            why = "the bound of a policy on the way left the range of floats"
            details |= {"why": f"{why}; {ADVICE}"} if state.failure is None else state.failure
            return GaussianPosterior(**common, **dict.fromkeys(UNKNOWN), details=details)
        policy = state.problem.policy(state.gains, state.covariance)
        details |= {"promised": state.promised, "stationary": self.stationary}
        belief = true_belief(problem)
        return GaussianPosterior(**common, conduct=policy, belief=belief, elbo=state.bound, details=details)
