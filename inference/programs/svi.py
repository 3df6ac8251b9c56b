"""Fits a structured guide by SVI: one learner for the policy alone and for policy, dynamics and start together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.learner import Info, State, status_of, stood_still
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status
from cai.inference.programs.enumerated import EnumeratedProgram, Term
from cai.inference.programs.guide import (
    POLICY,
    PREFIX,
    StructuredGuide,
    enumerate_guide,
    enumerate_program,
    free_name,
)
from cai.inference.programs.supports import find_supports
from cai.models.common.numerics import safe_log
from cai.models.programs.inspect import Program, ProgramInfo, site_time
from cai.models.programs.session import pyro_session

__all__ = ["Fit", "FitOptions", "GuideLearner", "GuideState"]


@dataclass(frozen=True)
class FitOptions:
    """Hyper-parameters.

    Attributes:
        max_iterations: the most gradient steps.
        learning_rate: of steps along the natural gradient; 1 is a full soft greedy step. Halved whenever a step
            would lower the bound.
        tolerance: in nats; stop when no entry of the natural gradient exceeds it, or when the bound has grown by less
            over (10 + 2 T) / learning_rate steps.
    """

    max_iterations: int
    learning_rate: float
    tolerance: float


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted guide.

    Attributes:
        run: its enumerated run at the best parameters, without gradients.
        contexts: for every site that was redistributed, the sites that its table is indexed by.
        bound: the best bound, nats.
        status: SUCCESS, NOT_CONVERGED, or IMPOSSIBLE / UNAVOIDABLE where no q avoids -inf.
        details: "history" (the bound at every step), "steps" and "gradient" (its largest last entry).
    """

    run: EnumeratedProgram
    contexts: dict[str, tuple[str, ...]]
    bound: Tensor
    status: Status
    details: dict[str, Any]


@dataclass(frozen=True, eq=False)
class _Problem:
    """What a fit works on: the guide as it was enumerated once, at the program's own conditionals.

    Attributes:
        run: its enumerated run, without gradients; steps put other tables into it.
        contexts: for every redistributed site, the sites that its table is indexed by.
        supports: for sites by name, bool tables [*context, N]; what is false has probability 0.
        sizes: of all sites.
    """

    run: EnumeratedProgram
    contexts: dict[str, tuple[str, ...]]
    supports: dict[str, Tensor]
    sizes: dict[str, int]

    def at(self, place: dict[str, Tensor]) -> EnumeratedProgram:
        """The run of the guide with these parameters."""
        log_q = dict(self.run.log_q)
        for name, context in self.contexts.items():
            dims = "".join(self.run.symbols[site] for site in (*context, name))
            logits = Term(_table(place, name), dims)
            if free_name(name) in place:
                own = self.run.log_p[name]
                dims = "".join(sorted({*dims, *own.dims}))
                logits = Term(own.aligned(dims) + logits.aligned(dims), dims)
            if name in self.supports:
                allowed = Term(self.supports[name], "".join(self.run.symbols[site] for site in (*context, name)))
                logits = Term(logits.tensor.masked_fill(~allowed.aligned(dims), -math.inf), dims)
            log_q[name] = Term(logits.tensor.log_softmax(dims.index(self.run.symbols[name])), dims)
        return dataclasses.replace(self.run, log_q=log_q)


def _table(place: dict[str, Tensor], name: str) -> Tensor:
    """The parameter [*context, N] of a site."""
    return place[free_name(name)] if free_name(name) in place else place[POLICY][int(name[2:]) - 1]


@dataclass(frozen=True, eq=False, kw_only=True)
class GuideState(State):
    """Where a fit of a guide is.

    Attributes:
        place: the guide's parameters that the next step evaluates, by name: the policy's logits [T, S, A], and for each
            freed site logits [*context, N] that are added to the program's own.
        best: those of the highest bound so far.
        slopes: the natural gradient there.
        bound: the highest bound, nats; -inf before the first step.
        gradient: the largest entry of `slopes`, nats.
        rate: the length of a step.
        history: the bound at every step, nats.
    """

    place: dict[str, Tensor]
    best: dict[str, Tensor]
    slopes: dict[str, Tensor]
    bound: float
    gradient: float
    rate: float
    history: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class GuideLearner:
    """Maximises the enumerated bound of a program's structured guide by steps along its natural gradient.

    The program is enumerated once; what it draws while it is, is drawn then. Pyro's parameter store and torch's global
    random state are left as they were.

    Args:
        info: of the program.
        free_dynamics: whether start and dynamics move too.
        options: hyper-parameters.
        answer: makes the posterior of (program, info, fit).
    """

    info: ProgramInfo
    free_dynamics: bool
    options: FitOptions
    answer: Callable[[Any, ProgramInfo, Fit], Posterior]
    label: str = "fitting the guide"

    @property
    def limit(self) -> int:
        return self.options.max_iterations

    def init(self, model: Program, *, seed: int) -> GuideState:
        guide = StructuredGuide(model, free_dynamics=self.free_dynamics, info=self.info)
        with pyro_session(seed, model) as store, torch.no_grad():
            run = enumerate_guide(guide).detach()
            place = {key: value.detach().clone() for key, value in store.items() if key.startswith(PREFIX)}
        assert guide.handler is not None
        supports, safe = find_supports(run, guide.handler.contexts)
        _start_at_prior(run, place[POLICY])
        return GuideState(
            problem=(model, _Problem(run, dict(guide.handler.contexts), supports, self.info.sizes)),
            status=None if safe else _why_blocked(model, seed),
            place=place,
            best=place,
            slopes={},
            bound=-math.inf,
            gradient=math.inf,
            rate=self.options.learning_rate,
            history=(),
        )

    def step(self, state: GuideState) -> tuple[GuideState, Info]:
        best, slopes, bound, gradient, rate = state.best, state.slopes, state.bound, state.gradient, state.rate
        problem = state.problem[1]
        reached, advantages = problem.at(state.place).advantages(problem.contexts, problem.sizes)
        history = (*state.history, float(reached))
        if float(reached) >= bound - 1e-12 * max(1.0, abs(bound)):
            bound, best = max(bound, float(reached)), state.place
            slopes = _slopes(best, advantages)
            gradient = max((float(slope.abs().max()) for slope in slopes.values()), default=0.0)
        else:  # too far: go back, and take half the step
            rate /= 2
        place = {key: value + rate * slopes[key] for key, value in best.items()}
        tolerance = self.options.tolerance
        # Changes travel one step of the program for each step of the fit, so a shorter wait would prove nothing.
        patience = math.ceil((10 + 2 * self.info.horizon) / self.options.learning_rate)
        ended = gradient <= tolerance or stood_still(history, bound, patience, tolerance * max(1.0, abs(bound)))
        following = dataclasses.replace(
            state,
            status=Status.SUCCESS if ended else None,
            place=place,
            best=best,
            slopes=slopes,
            bound=bound,
            gradient=gradient,
            rate=rate,
            history=history,
        )
        return following, Info({"bound": bound}, improved=best is state.place)

    def posterior(self, state: GuideState) -> Posterior:
        (program, problem), blocked = state.problem, state.status in (Status.IMPOSSIBLE, Status.UNAVOIDABLE)
        run = problem.at(state.best)
        bound = torch.full((), -math.inf, dtype=torch.float64) if blocked else run.bound()
        details = {"history": state.history, "steps": state.steps, "gradient": state.gradient}
        found = Fit(run, problem.contexts, bound, status_of(state), {} if blocked else details)
        return self.answer(program, self.info, found)


def _slopes(parameters: dict[str, Tensor], advantages: dict[str, Tensor]) -> dict[str, Tensor]:
    """Advantages by site, as slopes of the parameters by name."""
    slopes = {key: torch.zeros_like(value) for key, value in parameters.items()}
    for name, table in advantages.items():
        site = site_time(name)
        if site and site[0] == "a":
            slopes[POLICY][site[1] - 1] = table
        else:
            slopes[free_name(name)] = table
    return slopes


def _why_blocked(program: Program, seed: int) -> Status:
    """IMPOSSIBLE if p(O) = 0, else UNAVOIDABLE."""
    with pyro_session(seed, program), torch.no_grad():
        evidence, _ = enumerate_program(program).conditioned()
    return Status.UNAVOIDABLE if bool(torch.isfinite(evidence)) else Status.IMPOSSIBLE


def _start_at_prior(run: EnumeratedProgram, policy: Tensor) -> None:
    """Sets the policy's logits to the program's own, so that rows which cannot matter keep the action prior."""
    with torch.no_grad():
        for t in range(policy.shape[0]):
            name = f"a_{t + 1}"
            log_p, order = run.log_p[name], run.symbols[f"s_{t + 1}"] + run.symbols[name]
            dims = "".join(sorted(set(log_p.dims) | set(order)))
            unseen = [i for i, dim in enumerate(dims) if dim not in order]
            probabilities = log_p.aligned(dims).exp()
            probabilities = probabilities.mean(unseen) if unseen else probabilities
            logits = safe_log(Term(probabilities, "".join(d for d in dims if d in order)).aligned(order))
            policy[t] = torch.where(torch.isinf(logits), torch.zeros_like(logits), logits)
