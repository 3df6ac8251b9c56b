"""Hard control as the limit of soft problems: each is solved around the policy of the one before."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cai.inference.core.posterior import Posterior
from cai.inference.core.progress import progress
from cai.inference.core.status import Status, Target
from cai.inference.tabular.backward import Messages, backward
from cai.inference.tabular.believed_dynamics import FixedDynamics
from cai.inference.tabular.dynamic_programming import check_settling, optimality_possible, require_finite
from cai.inference.tabular.methods.value_iteration import HARD
from cai.inference.tabular.policy_evaluation import forward, policy_backward
from cai.inference.tabular.posterior import tabular_posterior
from cai.inference.tabular.recursion import FIXED, Recursion
from cai.models.common.numerics import categorical_divergence, expectation, weighted
from cai.models.trajectory.model import TrajectoryModel

logger = logging.getLogger("cai.inference")

__all__ = ["KLPolicyIteration", "PosteriorPolicyIteration", "path_divergence", "policy_posterior"]

Step = Callable[[Tensor], tuple[Tensor, dict[str, float]]]

WIDEST = 1e12  # of the temperatures between which the one of a step is looked for, relative to the model's


@dataclass(frozen=True)
class PosteriorPolicyIteration:
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
        tolerance: stop when the expected return is within this of the hard optimum's, in reward units, relative to
            its size once that exceeds 1.

    `details` holds "returns" (J of every policy, the prior's first), "optimum" and "gap".
    """

    max_iterations: int = 1000
    tolerance: float = 1e-6

    name: ClassVar[str] = "posterior-policy-iteration"
    target: ClassVar[Target] = Target.OTHER
    accepts: ClassVar[str] = "a TrajectoryModel with a finite horizon"
    cost: ClassVar[str] = "T S A K time an iteration, T S A memory"

    def __post_init__(self) -> None:
        check_settling(self.tolerance, self.max_iterations, "max_iterations")

    def supports(self, model: Any) -> None:
        """Raises ValueError unless the model is a `TrajectoryModel` with a finite horizon."""
        require_finite(model, self.name, "'value-iteration'")

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers the model; nothing here is random."""
        self.supports(model)
        return _iterate(self, model, lambda prior: (backward(model, FIXED, prior).policy, {}))


@dataclass(frozen=True)
class KLPolicyIteration:
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
        tolerance: as in `PosteriorPolicyIteration`.

    `details` holds "returns", "optimum", "gap", and for every step its "divergences" and "temperatures" (0 for a last
    step that reaches the optimum without the constraint).
    """

    epsilon: float = 0.5
    max_iterations: int = 1000
    tolerance: float = 1e-6

    name: ClassVar[str] = "kl-policy-iteration"
    target: ClassVar[Target] = Target.OTHER
    accepts: ClassVar[str] = "a TrajectoryModel with a finite horizon"
    cost: ClassVar[str] = "about 20 T S A K time an iteration, T S A memory"

    def __post_init__(self) -> None:
        if not self.epsilon > 0 or math.isinf(self.epsilon):
            raise ValueError(f"epsilon is {self.epsilon}; a step is bounded by a finite number of nats above 0")
        check_settling(self.tolerance, self.max_iterations, "max_iterations")

    def supports(self, model: Any) -> None:
        """Raises ValueError unless the model is a `TrajectoryModel` with a finite horizon."""
        require_finite(model, self.name, "'value-iteration'")

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers the model; nothing here is random."""
        self.supports(model)
        hint = [model.temperature]

        def step(prior: Tensor) -> tuple[Tensor, dict[str, float]]:
            policy, temperature = _bounded_step(model, prior, self.epsilon, hint[-1])
            hint.append(temperature or hint[-1])
            return policy, {"divergences": path_divergence(model, policy, prior), "temperatures": temperature}

        return _iterate(self, model, step, start=_clear_of_forbidden(model))


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
    live = torch.where(model.live, visits, torch.zeros_like(visits))
    return float(weighted(live, categorical_divergence(policy, prior)).sum().detach())


def expected_return(model: TrajectoryModel, policy: Tensor) -> float:
    """E[sum of rewards] of a policy [T, S, A] under the true dynamics, reward units."""
    visits = forward(model, model.mdp.initial, policy, FixedDynamics(model))[0]
    total = 0.0
    for t in range(model.steps):
        here = torch.where(model.live, visits[t], torch.zeros_like(visits[t]))
        rewards = expectation(model.mdp.probabilities, model.reward_table(t))
        total += float(weighted(here[:, None] * policy[t], rewards).sum().detach())
    return total


def _iterate(backend: Any, model: TrajectoryModel, step: Step, start: Tensor | None = None) -> Posterior:
    """Steps from the action prior, or another policy, until the hard optimum is reached."""
    with torch.no_grad():
        hard: Messages = backward(model, HARD)
        optimum = model.temperature * float(hard.start)
        policy = model.action_prior.expand(model.steps, -1, -1) if start is None else start
        if not math.isfinite(optimum):
            status = Status.UNAVOIDABLE if optimality_possible(model) else Status.IMPOSSIBLE
            return policy_posterior(backend, model, policy, status, {"optimum": optimum})
        returns = [expected_return(model, policy)]
        history: dict[str, list[float]] = {}
        status = Status.NOT_CONVERGED
        slack = backend.tolerance * max(1.0, abs(optimum))
        try:
            for _ in progress(backend.max_iterations, backend.name):
                policy, numbers = step(policy)
                for key, value in numbers.items():
                    history.setdefault(key, []).append(value)
                returns.append(expected_return(model, policy))
                if optimum - returns[-1] <= slack:
                    status = Status.SUCCESS
                    break
        except KeyboardInterrupt:
            logger.warning("%s was interrupted after %d steps; the last policy is kept", backend.name, len(returns) - 1)
    details = {"returns": tuple(returns), "optimum": optimum, "gap": max(0.0, optimum - returns[-1])}
    return policy_posterior(
        backend, model, policy, status, details | {key: tuple(values) for key, values in history.items()}
    )


def policy_posterior(
    backend: Any, model: TrajectoryModel, policy: Tensor, status: Status, details: dict[str, Any]
) -> Posterior:
    """The answer of a policy search: a policy [T, S, A] under the true dynamics, and what its own tail is worth."""
    dynamics = FixedDynamics(model)
    values, q_values = policy_backward(model, policy, dynamics)
    failed = status in (Status.IMPOSSIBLE, Status.UNAVOIDABLE)
    return tabular_posterior(
        model,
        backend=backend.name,
        target=backend.target,
        status=status,
        log_evidence=None,
        elbo=torch.full((), -torch.inf, dtype=torch.float64) if failed else None,
        values=values,
        q_values=q_values,
        policy=policy,
        initial=model.mdp.initial,
        dynamics=dynamics,
        details=details,
    )
