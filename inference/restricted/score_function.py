"""Gradients of the bound from sampled trajectories, for what is too large to enumerate or is not discrete.

    grad = E_q[sum_t grad log q(a_t | s_t) (G_t - b_t)],  G_t = sum_{u >= t} r_u / alpha - log q(a_u|s_u) / p(a_u|s_u)

The score-function gradient (Williams 1992) of Levine 2018, section 4.1. The baseline b_t of a trajectory is the mean
of G_t over all others, which leaves the gradient unbiased. A discount weights the terms of a trajectory by the chance
that the chain still goes on, instead of ending trajectories at random: the same mean with less noise.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from cai.inference.core.learner import Info, State, generator_at, generator_state, status_of
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status
from cai.inference.restricted.objective import Problem
from cai.inference.restricted.parameters import PolicyParameters, flat
from cai.inference.restricted.rollouts import Draws, ProgramSampler, Sampler, TableSampler

__all__ = ["SampledLearner", "SampledState", "SamplingOptions", "sampled_gradient", "sampler_of"]

Baseline = Literal["leave-one-out", "none", "value"]
HALVINGS = 4  # of the learning rate, before the fit counts as settled
MOMENTS = 0.9, 0.999  # how much of its running means of the gradient and its square Adam keeps each step


def sampled_gradient(
    sampler: Sampler, policy: PolicyParameters, num_samples: int, baseline: Baseline, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """An unbiased estimate of the bound's gradient in all parameters, one vector, and the N totals it rests on.

    Args:
        sampler: draws trajectories.
        policy: the parameters.
        num_samples: N trajectories.
        baseline: "leave-one-out" or "none".
        generator: of the draws.
    """
    with torch.enable_grad():
        draws = sampler.draw(policy, num_samples, generator)
        if not bool(torch.isfinite(draws.totals).all()):
            return torch.zeros(sum(part.numel() for part in policy.parameters()), dtype=torch.float64), draws.totals
        to_go = (draws.rewards - draws.ratios).flip(0).cumsum(0).flip(0)
        if baseline == "leave-one-out":
            to_go = to_go - (to_go.sum(-1, keepdim=True) - to_go) / (num_samples - 1)
        surrogate = (draws.log_probs * to_go).sum(0).mean()
        parts = torch.autograd.grad(surrogate, policy.parameters(), allow_unused=True, materialize_grads=True)
    return flat(parts), draws.totals


@dataclass(frozen=True)
class SamplingOptions:
    """Hyper-parameters.

    Attributes:
        max_iterations: the most steps of Adam.
        learning_rate: of Adam, in nats of the logits a step.
        num_samples: N trajectories a step.
        num_eval_samples: trajectories that measure the final policy.
        baseline: "leave-one-out", "none", or in continuous models "value", a network of state and time.
        window: steps whose mean bound is compared with that of the steps before.
    """

    max_iterations: int
    learning_rate: float
    num_samples: int
    num_eval_samples: int
    baseline: Baseline
    window: int = 50


@dataclass(frozen=True, eq=False, kw_only=True)
class SampledState(State):
    """Where a fit by samples is.

    Attributes:
        place: [P], the parameters.
        mean: [P], Adam's running mean of the gradient.
        square: [P], its running mean of the squared gradient.
        recent: the parameters [P] after each of the steps of the last window.
        halvings: how often the learning rate was halved.
        history: the mean bound of every step's trajectories, nats.
        random: the state of the generator of all draws.
    """

    place: Tensor
    mean: Tensor
    square: Tensor
    recent: tuple[Tensor, ...] = ()
    halvings: int = 0
    history: tuple[float, ...] = ()
    random: Tensor


def sampler_of(problem: Problem) -> Sampler:
    """Draws trajectories of a problem."""
    if problem.info is None:
        return TableSampler(problem.model, problem.log_prior)
    allowed = None
    if problem.bound is not None:
        allowed = torch.isfinite(problem.log_prior).expand(problem.bound.shape)
    return ProgramSampler(problem.model, problem.info, allowed)


def estimate_by_score(problem: Problem, options: SamplingOptions, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The gradient of the bound of a table or a program, by the score function, and the totals it rests on."""
    sampler = sampler_of(problem)
    return sampled_gradient(sampler, problem.policy, options.num_samples, options.baseline, generator)


def draw_fresh(problem: Problem, num_samples: int, generator: torch.Generator) -> Draws:
    """Trajectories of the problem's policy."""
    return sampler_of(problem).draw(problem.policy, num_samples, generator)


@dataclass(frozen=True, eq=False)
class SampledLearner:
    """Maximises the bound with Adam on sampled gradients, then measures it with fresh samples.

    After every window the mean bound of its steps is compared with that of the window before. Unless it has grown by
    more than twice its standard error the learning rate is halved, and the fourth time the fit has settled. The answer
    is the mean of the parameters over the last window, whose noise is smaller.

    Args:
        begin: makes the problem of (model, seed).
        options: hyper-parameters.
        answer: makes the posterior of (problem, status, details, draws); the problem's policy is the fitted one, and
            the draws are fresh trajectories of it, None where no policy of the class rules out a reward of -inf.
        estimate: (problem, options, generator) -> an estimate of the gradient [P], and the totals [N] it rests on.
        draw: (problem, N, generator) -> N trajectories of the problem's policy, with their `totals`.
    """

    begin: Callable[[Any, int], Any]
    options: SamplingOptions
    answer: Callable[[Any, Status, dict[str, Any], Any], Posterior]
    estimate: Callable[[Any, SamplingOptions, torch.Generator], tuple[Tensor, Tensor]] = estimate_by_score
    draw: Callable[[Any, int, torch.Generator], Any] = draw_fresh
    label: str = "fitting the policy"

    @property
    def limit(self) -> int:
        return self.options.max_iterations

    def init(self, model: Any, *, seed: int) -> SampledState:
        problem = self.begin(model, seed)
        place = problem.policy.vector()
        nothing = torch.zeros_like(place)
        return SampledState(
            problem=problem,
            status=problem.blocked,
            place=place,
            mean=nothing,
            square=nothing,
            random=generator_state(seed),
        )

    def step(self, state: SampledState) -> tuple[SampledState, Info]:
        options, policy, generator = self.options, state.problem.policy, generator_at(state.random)
        policy.load(state.place)
        gradient, totals = self.estimate(state.problem, options, generator)
        history, halvings = (*state.history, float(totals.mean())), state.halvings
        state = dataclasses.replace(state, history=history, random=generator.get_state())
        info = Info({"bound": history[-1]})
        if not math.isfinite(history[-1]):
            return dataclasses.replace(state, status=Status.NOT_CONVERGED), info
        number, (first, second) = len(history), MOMENTS
        mean = state.mean.lerp(gradient, 1 - first)
        square = second * state.square + (1 - second) * gradient**2
        scale = square.sqrt() / math.sqrt(1 - second**number) + 1e-8
        place = state.place + options.learning_rate / 2**halvings * mean / (1 - first**number) / scale
        if number % options.window == 0 and number >= 2 * options.window and not _grows(history, options.window):
            halvings += 1
        recent = (*state.recent[1 - options.window :], place)
        status = Status.SUCCESS if halvings == HALVINGS else None
        changes = {"place": place, "mean": mean, "square": square, "recent": recent, "halvings": halvings}
        return dataclasses.replace(state, status=status, **changes), info

    def posterior(self, state: SampledState) -> Posterior:
        problem, status = state.problem, status_of(state)
        if problem.blocked:
            return self.answer(problem, status, {"why": problem.why} if problem.why else {}, None)
        problem.policy.load(torch.stack(state.recent).mean(0) if state.recent else state.place)
        with torch.no_grad():
            draws = self.draw(problem, self.options.num_eval_samples, generator_at(state.random))
        estimate, error = draws.totals.mean(), float(draws.totals.std()) / math.sqrt(len(draws.totals))
        if not bool(torch.isfinite(draws.totals).all()):
            status, error = Status.UNAVOIDABLE, 0.0
            estimate = torch.full((), -torch.inf, dtype=torch.float64)
            if bool(torch.isnan(draws.totals).any()):
                status = Status.NOT_CONVERGED
        details: dict[str, Any] = {"history": state.history, "steps": state.steps}
        details |= {"estimate": estimate, "standard_error": error}
        if not status.ok and state.history and not math.isfinite(state.history[-1]):
            details["why"] = _stopped(state, with_values=getattr(problem, "values", None) is not None)
        return self.answer(problem, status, details, draws)


def _stopped(state: SampledState, *, with_values: bool) -> str:
    """Why a fit came to its end at a step whose mean bound is no finite number."""
    met = "a reward of -inf was met"
    if with_values:
        met = "the values given, or a reward, are -inf where the policy leads"
    if state.history[-1] != -math.inf:
        return f"the bound was no number in step {state.steps} of the fit: lower learning_rate"
    return f"{met} in step {state.steps} of the fit, and no gradient leads away from it: give a large negative number"


def _grows(history: tuple[float, ...], window: int) -> bool:
    """Whether the mean of the last window is above that of the one before by more than two standard errors."""
    last = torch.tensor(history[-window:], dtype=torch.float64)
    before = torch.tensor(history[-2 * window : -window], dtype=torch.float64)
    error = math.sqrt(float(last.var() + before.var()) / window)
    return float(last.mean() - before.mean()) > 2 * error
