"""Maximises the exact bound over the parameters of a policy, by natural gradients.

Rows that are shown for sure, to states that may do the same, climb along the advantage averaged over visits, a full
step of which is the soft greedy policy. Everything else, mixtures of rows and modules, takes Gauss-Newton steps: with J
the derivative of log q(a | s) in the parameters, centred under q, the Fisher information F = sum_{t,s} d_t(s) J^T
diag(q) J and the gradient g = sum_{t,s} d_t(s) J^T diag(q) f give the natural step F^-1 g by conjugate gradients, kept
within a trust region of the policy's own divergence, x^T F x / 2. No step is taken that lowers the bound, so the last
parameters are the best.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.learner import Info, State, generator_at, generator_state, status_of, stood_still
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status
from cai.inference.restricted.objective import Measured, PolicyBound, Problem
from cai.inference.restricted.parameters import PolicyParameters, flat

__all__ = ["AscentLearner", "AscentOptions", "AscentState", "exact_gradient"]

ROUNDING = 1e-13  # falls of the bound below this, relative to its size, are those of rounding
ARMIJO = 1e-4  # the share of what the slope promises that a step must keep
SHORTEST = 1e-12  # the length at which a step is given up
RADIUS = 0.1  # nats, the divergence that the first step in a trust region may make
CG_STEPS = 100
SLIGHT = 1e-6  # the damping from which on a step is as good as the full natural one
WAIT = 40  # steps in a trust region without gain that end it
QUIET = 5  # of these in a row, steps that promise less than the tolerance end it too


@dataclass(frozen=True)
class AscentOptions:
    """Hyper-parameters.

    Attributes:
        max_iterations: the most steps of one start.
        learning_rate: in (0, 1], the length of a step; 1 is a full natural step.
        tolerance: nats, relative to the bound once that exceeds 1.
        restarts: further starts from random places; the best counts.
    """

    max_iterations: int
    learning_rate: float
    tolerance: float
    restarts: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class AscentState(State):
    """Where an ascent is.

    Attributes:
        place: [P], the parameters.
        here: what they say of the policy; None where no policy of the class rules out a reward of -inf.
        gradient: the largest entry of the last natural gradient (of the plain one in a trust region), nats.
        history: the bounds of all places of this start, nats; that of `place` is the last.
        damping: of the Fisher information in a trust region.
        radius: of the trust region, nats.
        quiet: how many steps in a row promised less than the tolerance.
        best: the "place", "gradient", "history", "bound" and "status" (its name) of the best start that has ended.
        starts: the bounds that all starts so far came to, nats.
        random: the state of the generator of further starts.
    """

    place: Tensor
    here: Measured | None
    gradient: float = math.inf
    history: tuple[float, ...] = ()
    damping: float = 1e-3
    radius: float = RADIUS
    quiet: int = 0
    best: dict[str, Any] = dataclasses.field(default_factory=dict)
    starts: tuple[float, ...] = ()
    random: Tensor


@dataclass(frozen=True, eq=False)
class AscentLearner:
    """Natural gradient ascent on the exact bound, from one start or several.

    Args:
        begin: makes the problem of (model, seed).
        options: hyper-parameters.
        answer: makes the posterior of (problem, status, details); the problem's policy is at the best place.
    """

    begin: Callable[[Any, int], Problem]
    options: AscentOptions
    answer: Callable[[Problem, Status, dict[str, Any]], Posterior]
    label: str = "fitting the policy"

    @property
    def limit(self) -> int:
        return self.options.max_iterations * (1 + self.options.restarts)

    def init(self, model: Any, *, seed: int) -> AscentState:
        problem = self.begin(model, seed)
        if problem.blocked:
            place, random = problem.policy.vector(), generator_state(seed)
            return AscentState(problem=problem, status=problem.blocked, place=place, here=None, random=random)
        return _start(problem, generator_state(seed))

    def step(self, state: AscentState) -> tuple[AscentState, Info]:
        problem = state.problem
        problem.policy.load(state.place)
        state, ended = (self._step_of_rows if problem.by_rows else self._step_in_trust_region)(state)
        info = Info({"bound": state.history[-1]})
        if ended is None and self.options.restarts and len(state.history) > self.options.max_iterations:
            ended = Status.NOT_CONVERGED
        return (state if ended is None else self._next_start(state, ended)), info

    def _size(self, state: AscentState) -> float:
        return max(1.0, abs(state.history[-1]))

    @torch.no_grad()
    def _step_of_rows(self, state: AscentState) -> tuple[AscentState, Status | None]:
        """One step along the natural gradient of rows, halved as long as it gains less than it should."""
        problem, policy, here = state.problem, state.problem.policy, state.here
        assert here is not None  # a blocked problem takes no step
        bound, size = state.history[-1], self._size(state)
        gradient, direction = policy.natural_gradient(problem.log_prior, here.visits, here.scores, here.usable)
        state = dataclasses.replace(state, gradient=float(direction.abs().max()))
        patience = math.ceil((10 + 2 * policy.shape.steps) / self.options.learning_rate)
        tolerance = self.options.tolerance * size
        if state.gradient <= tolerance or stood_still(state.history, bound, patience, tolerance):
            return state, Status.SUCCESS
        slope, length = float((gradient * direction).sum()), self.options.learning_rate
        while length > SHORTEST:
            policy.load(state.place + length * direction.reshape(-1))
            there = _measure(problem)
            if float(there.bound) >= bound + ARMIJO * length * slope - ROUNDING * size:
                return _moved(state, policy.vector(), there), None
            length /= 2
        return state, Status.SUCCESS  # nothing but rounding is left to gain

    def _step_in_trust_region(self, state: AscentState) -> tuple[AscentState, Status | None]:
        """One damped natural step (Levenberg and Marquardt); damping and radius follow how well it was foretold."""
        problem, policy, here, place = state.problem, state.problem.policy, state.here, state.place
        assert here is not None  # a blocked problem takes no step
        bound, size, shape = state.history[-1], self._size(state), state.problem.bound.shape
        damping, radius, tolerance = state.damping, state.radius, self.options.tolerance * size
        rejected = False
        while True:
            policy.load(place)
            slopes = _Slopes(policy, problem.log_prior, shape)
            gradient = slopes.gradient(here)
            state = dataclasses.replace(state, gradient=float(gradient.abs().max()), damping=damping, radius=radius)
            if state.quiet >= QUIET or state.gradient == 0 or stood_still(state.history, bound, WAIT, tolerance):
                return state, Status.SUCCESS
            if rejected and damping > 1e8:  # nothing but rounding is left to gain, if the gradient says so too
                return state, Status.SUCCESS if state.gradient <= 1e-6 * size else Status.NOT_CONVERGED
            step = self.options.learning_rate * slopes.solve(gradient, damping)
            moved = float(step @ slopes.fisher(step)) / 2
            share = min(1.0, math.sqrt(radius / moved)) if moved > 0 else 1.0
            promised = share * float(gradient @ step) - share**2 * moved
            policy.load(place + share * step)
            there, gain = here, -math.inf
            with torch.no_grad():
                log_policy = policy.table(problem.log_prior).expand(shape)
            if not bool(log_policy.isnan().any()):  # else the module has overflowed
                there = problem.bound.measure(log_policy)
                gain = float(there.bound) - bound
            taken = gain > 0 or (gain >= -ROUNDING * size and promised <= tolerance)
            if gain > 0.75 * promised:
                damping, radius = max(damping / 3, 1e-10), 2 * radius if share < 1 else radius
            elif not gain >= 0.25 * promised and not (taken and promised <= ROUNDING * size):
                damping, radius = 4 * damping, min(radius, share**2 * moved) / 4
            if taken:
                sure = promised <= tolerance and share == 1 and damping <= SLIGHT
                quiet = state.quiet + 1 if sure else 0
                state = dataclasses.replace(state, quiet=quiet, damping=damping, radius=radius)
                return _moved(state, policy.vector(), there), None
            rejected = True

    def _next_start(self, state: AscentState, ended: Status) -> AscentState:
        """Keeps the better of this start and those before, and moves to the next one, if there is one."""
        state = dataclasses.replace(state, best=_better(state, ended), starts=(*state.starts, state.history[-1]))
        if len(state.starts) > self.options.restarts:
            return dataclasses.replace(state, status=Status[state.best["status"]])
        generator, policy = generator_at(state.random), state.problem.policy
        policy.load(state.place)
        policy.perturb(generator)
        fresh = _start(state.problem, generator.get_state())
        return dataclasses.replace(fresh, best=state.best, starts=state.starts, steps=state.steps)

    def posterior(self, state: AscentState) -> Posterior:
        if state.here is None:
            return self.answer(state.problem, status_of(state), {"why": state.problem.why} if state.problem.why else {})
        best, starts = state.best, state.starts
        if state.status is None:
            best, starts = _better(state, Status.NOT_CONVERGED), (*starts, state.history[-1])
        state.problem.policy.load(best["place"])
        steps = min(len(best["history"]), self.options.max_iterations)
        details = {"history": best["history"], "steps": steps, "gradient": best["gradient"]}
        return self.answer(state.problem, status_of(state), details | {"starts": starts})


def _start(problem: Problem, random: Tensor) -> AscentState:
    """The first state of a start at the parameters that the problem's policy has now."""
    here = _measure(problem)
    return AscentState(
        problem=problem, place=problem.policy.vector(), here=here, history=(float(here.bound),), random=random
    )


def _moved(state: AscentState, place: Tensor, here: Measured) -> AscentState:
    return dataclasses.replace(state, place=place, here=here, history=(*state.history, float(here.bound)))


def _better(state: AscentState, status: Status) -> dict[str, Any]:
    """The best start so far, if this one ended here."""
    bound = state.history[-1]
    if state.best and state.best["bound"] >= bound:
        return state.best
    return {
        "place": state.place,
        "gradient": state.gradient,
        "history": state.history,
        "bound": bound,
        "status": status.name,
    }


def _measure(problem: Problem) -> Measured:
    """The problem's policy where it is."""
    assert problem.bound is not None
    with torch.no_grad():
        return problem.bound.measure(problem.policy.table(problem.log_prior))


class _Slopes:
    """The gradient of the bound and the Fisher information at one place."""

    def __init__(self, policy: PolicyParameters, log_prior: Tensor, shape: tuple[int, ...]) -> None:
        self.parameters = policy.parameters()
        with torch.enable_grad():
            self.log_policy = policy.table(log_prior).expand(shape)
            self.probe = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
            self.pulled = self._derivative(self.probe, create_graph=True)
        self.policy = self.log_policy.detach().exp()
        self.possible = torch.isfinite(self.log_policy.detach())

    def _centred(self, table: Tensor) -> Tensor:
        table = torch.where(self.possible, table, torch.zeros_like(table))
        return table - (self.policy * table).sum(-1, keepdim=True)

    def _pull(self, table: Tensor) -> Tensor:
        """J^T diag(q) of a table [T, S, A], one vector."""
        weights = torch.where(self.possible, self.policy * table, torch.zeros_like(table))
        return self._derivative(weights, retain_graph=True)

    def _derivative(self, weights: Tensor, **options: bool) -> Tensor:
        """J^T of a table [T, S, A], one vector; a parameter that is not used has derivative 0."""
        options |= {"allow_unused": True, "materialize_grads": True}
        return flat(torch.autograd.grad(self.log_policy, self.parameters, weights, **options))

    def gradient(self, here: Measured) -> Tensor:
        """The gradient of the bound, one vector."""
        self.visits = torch.where(here.usable, here.visits, torch.zeros_like(here.visits))[..., None]
        return self._pull(self.visits * self._centred(here.scores))

    def fisher(self, vector: Tensor) -> Tensor:
        """F times a vector."""
        (moved,) = torch.autograd.grad(self.pulled, self.probe, vector, retain_graph=True)
        return self._pull(self.visits * self._centred(moved))

    def solve(self, gradient: Tensor, damping: float) -> Tensor:
        """(F + damping)^-1 g by conjugate gradients."""
        result, residual = torch.zeros_like(gradient), gradient.clone()
        search, norm = residual.clone(), float(residual @ residual)
        first = norm
        for _ in range(CG_STEPS):
            if norm <= 1e-20 * first or norm < 1e-300:
                break
            image = self.fisher(search) + damping * search
            length = norm / float(search @ image)
            result, residual = result + length * search, residual - length * image
            before, norm = norm, float(residual @ residual)
            search = residual + norm / before * search
        return result


def exact_gradient(bound: PolicyBound, policy: PolicyParameters, log_prior: Tensor) -> Tensor:
    """The gradient of the exact bound in all parameters, one vector; see the module's docstring."""
    slopes = _Slopes(policy, log_prior, bound.shape)
    with torch.no_grad():
        here = bound.measure(slopes.log_policy.detach())
    return slopes.gradient(here)
