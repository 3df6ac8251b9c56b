"""Hard control as the limit of soft problems: each is solved around the policy of the one before."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from cai.inference.core.driver import drive
from cai.inference.core.learner import Info, State, status_of
from cai.inference.core.memory import Need, horizon_need
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.tabular.backward import backward, forward
from cai.inference.tabular.believed_dynamics import FixedDynamics
from cai.inference.tabular.dynamic_programming import check_settling, optimality_possible, require_finite
from cai.inference.tabular.methods.value_iteration import HARD
from cai.inference.tabular.policy_posterior import policy_posterior
from cai.inference.tabular.recursion import FIXED, Recursion
from cai.models.common.numerics import categorical_divergence, expectation, weighted
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["KLPolicyIteration", "PosteriorPolicyIteration", "path_divergence"]

WIDEST = 1e12  # of the temperatures between which the one of a step is looked for, relative to the model's


class _HardLimit:
    """What the backends below share: a sequence of soft problems until the expected return is the hard optimum's."""

    name: ClassVar[str]
    target: ClassVar[Target] = Target.OTHER
    accepts: ClassVar[str] = "a TrajectoryModel with a finite horizon"
    max_iterations: int
    tolerance: float

    def __post_init__(self) -> None:
        check_settling(self.tolerance, self.max_iterations)

    def supports(self, model: Any) -> None:
        """Raises ValueError unless the model is a `TrajectoryModel` with a finite horizon."""
        require_finite(model, self.name, "'value-iteration'")

    def memory(self, model: Any) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        return horizon_need(model, rows=4, tables=10, stepwise=True)

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers the model; nothing here is random."""
        self.supports(model)
        return drive(self.learner(model), model, seed=seed)

    def learner(self, model: Any) -> _SoftSequence:
        """One soft problem around the last policy is one step."""
        return _SoftSequence(self, self.name, self.max_iterations)


@dataclass(frozen=True)
class PosteriorPolicyIteration(_HardLimit):
    """A sequence of soft problems, each with the last policy as its action prior, that reaches the hard optimum.

        pi_{n+1} = the soft optimum of  E_pi[sum_t r_t] - alpha KL(pi || pi_n),    pi_0 = the action prior

    Rawlik, Toussaint and Vijayakumar 2013 (Levine 2018, section 5.2): the temperature stays where it is, and the
    entropy is used up instead. The expected return never falls, and by the three-point identity of each step

        J(hard optimum) - J(pi_n) <= alpha KL(pi* || pi_0) / n

    for every optimal pi*; where one action is better than the rest by a margin, the gap closes like
    e^{-margin n / alpha}.
    Target `other`: the policy of `value-iteration`.

    Args:
        max_iterations: the most soft problems.
        tolerance: stop when the expected return is within this of the hard optimum's, relative to the larger of that
            and the largest reward (or 1, where rewards exceed it).

    `details` holds "returns" (J of every policy, the prior's first), "optimum" and "gap".
    """

    max_iterations: int = 1000
    tolerance: float = 1e-6

    name: ClassVar[str] = "posterior-policy-iteration"
    cost: ClassVar[str] = "T S A K time an iteration, T S A memory"

    def start(self, model: TrajectoryModel) -> Tensor:
        """[T, S, A], the policy to begin with: the action prior."""
        return model.action_prior.expand(model.steps, -1, -1)

    def improve(self, model: TrajectoryModel, prior: Tensor, last: dict[str, float]) -> tuple[Tensor, dict[str, float]]:
        """The next policy [T, S, A] and the numbers of its step by name, given the last policy and numbers."""
        return backward(model, FIXED, prior).policy, {}


@dataclass(frozen=True)
class KLPolicyIteration(_HardLimit):
    """Policy iteration whose steps are bounded in KL divergence, until the hard optimum is reached.

        pi_{n+1} maximises E_pi[sum_t r_t]  subject to  KL(pi || pi_n) <= epsilon,

    the divergence being that of whole trajectories, in nats. The Lagrangian is a soft problem around the old policy
    whose temperature is the multiplier (Levine 2018, section 5.2; Peters et al. 2010 for the constraint), found here by
    bisection. KL(pi* || pi_n) falls by at least epsilon a step, so the hard optimum pi* is reached within
    KL(pi* || pi_0) / epsilon + 1 steps, and the expected return never falls. pi_0 is the action prior; where that can
    meet a reward of -inf, the policy nearest to it in KL divergence that cannot.
    Target `other`: the policy of `value-iteration`.

    Args:
        epsilon: nats a step, > 0.
        max_iterations: the most steps.
        tolerance: stop when the expected return is within this of the hard optimum's, relative to the larger of that
            and the largest reward (or 1, where rewards exceed it).

    `details` holds "returns", "optimum", "gap", and for every step its "divergences" and "temperatures" (0 for a last
    step that reaches the optimum without the constraint).
    """

    epsilon: float = 0.5
    max_iterations: int = 1000
    tolerance: float = 1e-6

    name: ClassVar[str] = "kl-policy-iteration"
    cost: ClassVar[str] = "about 20 T S A K time an iteration, T S A memory"

    def __post_init__(self) -> None:
        if not self.epsilon > 0 or math.isinf(self.epsilon):
            raise ValueError(f"epsilon is {self.epsilon}; a step is bounded by a finite number of nats above 0")
        super().__post_init__()

    def memory(self, model: Any) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        return horizon_need(model, rows=4, tables=30, stepwise=True)

    def start(self, model: TrajectoryModel) -> Tensor:
        """[T, S, A], the policy to begin with."""
        return _clear_of_forbidden(model)

    def improve(self, model: TrajectoryModel, prior: Tensor, last: dict[str, float]) -> tuple[Tensor, dict[str, float]]:
        """The next policy [T, S, A] and the numbers of its step by name, given the last policy and numbers."""
        hint = last.get("temperatures") or model.temperature
        policy, temperature = _bounded_step(model, prior, self.epsilon, hint)
        return policy, {"divergences": path_divergence(model, policy, prior), "temperatures": temperature}


@dataclass(frozen=True, eq=False, kw_only=True)
class PolicySequenceState(State):
    """Where a sequence of policies is.

    Attributes:
        policy: [T, S, A], the last one.
        optimum: the expected return of hard control, reward units.
        returns: the expected return of every policy so far, reward units.
        numbers: what the steps had to tell, by name.
    """

    policy: Tensor
    optimum: float
    returns: tuple[float, ...] = ()
    numbers: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _SoftSequence:
    """Steps from the action prior, or another policy, until the hard optimum is reached.

    Args:
        backend: a `PosteriorPolicyIteration` or a `KLPolicyIteration`.
        label: its name.
        limit: the most steps.
    """

    backend: Any
    label: str
    limit: int

    @torch.no_grad()
    def init(self, model: TrajectoryModel, *, seed: int) -> PolicySequenceState:
        optimum, policy = model.temperature * float(backward(model, HARD).start), self.backend.start(model)
        if math.isfinite(optimum):
            returns = (expected_return(model, policy),)
            return PolicySequenceState(problem=model, policy=policy, optimum=optimum, returns=returns)
        status = Status.UNAVOIDABLE if optimality_possible(model) else Status.IMPOSSIBLE
        return PolicySequenceState(problem=model, status=status, policy=policy, optimum=optimum)

    @torch.no_grad()
    def step(self, state: PolicySequenceState) -> tuple[PolicySequenceState, Info]:
        model, last = state.problem, {name: values[-1] for name, values in state.numbers.items()}
        policy, found = self.backend.improve(model, state.policy, last)
        numbers = {name: (*state.numbers.get(name, ()), value) for name, value in found.items()}
        reached = expected_return(model, policy)
        size = max(abs(state.optimum), min(1.0, model.reward_size))
        near = state.optimum - reached <= self.backend.tolerance * size
        following = replace(
            state,
            status=Status.SUCCESS if near else None,
            policy=policy,
            returns=(*state.returns, reached),
            numbers=numbers,
        )
        return following, Info({"return": reached})

    def posterior(self, state: PolicySequenceState) -> Posterior:
        details: dict[str, Any] = {"optimum": state.optimum}
        if state.returns:
            gap = max(0.0, state.optimum - state.returns[-1])
            details = {"returns": state.returns, "optimum": state.optimum, "gap": gap} | state.numbers
        return policy_posterior(self.backend, state.problem, state.policy, status_of(state), details, gradients="none")


def _clear_of_forbidden(model: TrajectoryModel) -> Tensor:
    """[T, S, A], the policy nearest to the action prior that cannot meet a reward of -inf; the prior if it cannot."""
    prior = model.action_prior.expand(model.steps, -1, -1)
    if math.isfinite(expected_return(model, prior)):
        return prior

    def backup(model: TrajectoryModel, values: Tensor, t: int) -> Tensor:
        forbidden = torch.isinf(model.reward_table(t).detach())
        scores = torch.where(forbidden, torch.full((), -torch.inf, dtype=torch.float64), 0.0)
        return expectation(model.mdp.probabilities, scores + model.discount * model.mdp.gather(values))

    return backward(model, Recursion(backup, eta=0.0)).policy


def _bounded_step(model: TrajectoryModel, prior: Tensor, epsilon: float, hint: float) -> tuple[Tensor, float]:
    """(the best policy within epsilon nats of the prior, the temperature that gives it; 0 where nothing binds)."""
    hard = backward(model, HARD, prior).policy
    if path_divergence(model, hard, prior) <= epsilon:
        return hard, 0.0

    def solve(temperature: float) -> tuple[Tensor, float]:
        policy = backward(model.replace(temperature=temperature), FIXED, prior).policy
        return policy, path_divergence(model, policy, prior)

    # The divergence falls as the temperature grows: bracket epsilon around the hint, then bisect the logarithm.
    cold, warm = model.temperature / WIDEST, hint
    policy, spent = solve(warm)
    while spent > epsilon and warm < WIDEST * model.temperature:
        cold, warm = warm, 4 * warm
        policy, spent = solve(warm)
    while spent <= epsilon and cold < warm / 4:
        trial, cost = solve(warm / 4)
        if cost > epsilon:
            cold = warm / 4
            break
        warm, policy, spent = warm / 4, trial, cost
    for _ in range(60):
        if spent >= (1 - 1e-6) * epsilon:
            break
        middle = math.sqrt(cold * warm)
        trial, cost = solve(middle)
        if cost > epsilon:
            cold = middle
        else:
            warm, policy, spent = middle, trial, cost
    return policy, warm


def path_divergence(model: TrajectoryModel, policy: Tensor, prior: Tensor) -> float:
    """KL of the trajectories of one policy [T, S, A] from those of another under the true dynamics, in nats."""
    visits = forward(model, model.mdp.initial, policy, FixedDynamics(model))[0][: model.steps]
    nonterminal = torch.where(model.nonterminal, visits, torch.zeros_like(visits))
    return float(weighted(nonterminal, categorical_divergence(policy, prior)).sum().detach())


def expected_return(model: TrajectoryModel, policy: Tensor) -> float:
    """E[sum of rewards] of a policy [T, S, A] under the true dynamics, reward units."""
    visits = forward(model, model.mdp.initial, policy, FixedDynamics(model))[0]
    total = 0.0
    for t in range(model.steps):
        here = torch.where(model.nonterminal, visits[t], torch.zeros_like(visits[t]))
        rewards = expectation(model.mdp.probabilities, model.reward_table(t))
        total += float(weighted(here[:, None] * policy[t], rewards).sum().detach())
    return total
