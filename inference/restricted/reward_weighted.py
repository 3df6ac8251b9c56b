"""Policy search by weighted regression: reward-weighted regression and EM, which fit a policy to lucky trajectories."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from cai.inference.core.driver import drive
from cai.inference.core.learner import Info, State, status_of
from cai.inference.core.memory import Need, horizon_need
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.kernels.backups import hard_choice
from cai.inference.restricted.classes import TabularPolicy, as_policy_class
from cai.inference.restricted.parameters import PolicyParameters, Shape
from cai.inference.tabular.backward import backward, forward
from cai.inference.tabular.dynamic_programming import check_settling, require_finite
from cai.inference.tabular.policy_posterior import policy_posterior
from cai.inference.tabular.recursion import EXACT, tilted_recursion
from cai.models.common.checks import float_tensor
from cai.models.common.numerics import weighted
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["EMPolicySearch", "GaussianActions", "RewardWeightedRegression"]

REGRESSION_STEPS = 200  # of L-BFGS, for classes without a closed form


class _Regressions:
    """What the backends below share: a class of policies that is fitted to weighted trajectories."""

    name: ClassVar[str]
    target: ClassVar[Target] = Target.OTHER
    accepts: ClassVar[str] = "a TrajectoryModel with a finite horizon"
    policy: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", as_policy_class(self.policy))

    def supports(self, model: Any) -> None:
        """Raises ValueError unless the model is a `TrajectoryModel` with a finite horizon that fits the policy."""
        require_finite(model, self.name, "'exact'")
        self.policy.check(_shape(model), infinite=False)

    def memory(self, model: Any) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        return horizon_need(model, rows=6, tables=14, stepwise=True)

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers the model; nothing here is random."""
        self.supports(model)
        return drive(self.learner(model), model, seed=seed)

    def learner(self, model: Any) -> _Search:
        """An E-step and an M-step are one step."""
        raise NotImplementedError


@dataclass(frozen=True)
class RewardWeightedRegression(_Regressions):
    """One regression of a policy onto the prior's trajectories, each weighted by e^{return / alpha}.

        theta = argmax E_{tau ~ p}[e^{R(tau) / alpha} sum_t log pi_theta(a_t | s_t)] / p(O)

    Peters and Schaal 2007, in the setting of Levine 2018, section 5.2, with the expectation taken exactly. The weighted
    trajectories are the exact posterior, and regression is the projection KL(posterior || pi_theta), which covers all
    of it: a free policy becomes that of `exact`, with all its optimism but none of the dynamics that it counts on; a
    unimodal policy puts its mean between two good actions, where `restricted`, which projects the other way, takes one
    of them. The answer is the policy under the true dynamics.

    Target `other`: with `TabularPolicy` the policy of `exact`; else its moment projection on the class.

    Args:
        policy: the class of policies: `TabularPolicy()`, `StationaryPolicy()`,
            `ObservationPolicy(...)`, or a torch module such as `GaussianActions(...)`. `TabularPolicy()` unless given.
    """

    policy: Any = field(default_factory=TabularPolicy)

    name: ClassVar[str] = "reward-weighted"
    cost: ClassVar[str] = "T S A K time, T S A memory, and the regression"

    def learner(self, model: Any) -> _Search:
        """The loop of its work, of which one regression is the only step."""
        return _Search(self, self.name, limit=1)


@dataclass(frozen=True)
class EMPolicySearch(_Regressions):
    """Policy search by expectation maximisation: reward-weighted regression, again and again.

        E-step   q(tau) proportional to pi_n(tau) e^{R(tau) / alpha}
        M-step   pi_{n+1} = argmax_theta E_q[sum_t log pi_theta(a_t | s_t)]

    which never lowers log E_{pi_n}[e^{R / alpha}] (Levine 2018, section 5.2, with the exponential that keeps returns
    positive). This objective is an expectation of e^R and not of R, so the search seeks risk: with a free policy it
    tends to hard control that counts on kind dynamics,

        max_pi log E_pi[e^{R / alpha}],  by  V(s) = max_a alpha log E_{s'}[e^{(r + V(s')) / alpha}],

    whereas `value-iteration` maximises E[R]. What can go well is not forbidden by what can go wrong: where the policy
    may meet a reward of -inf in the true world, its return and bound are -inf. The answer is the last policy under the
    true dynamics.

    Target `other`: that limit with `TabularPolicy` (the gap closes like e^{-margin n}, n the iterations and the margin
    in nats); a local optimum of the objective in other classes.

    Args:
        policy: the class of policies: `TabularPolicy()` (unless given), `StationaryPolicy()`, `ObservationPolicy(...)`,
            or a torch module such as `GaussianActions(...)`.
        max_iterations: the most EM steps.
        tolerance: in nats, relative to the objective's size once that exceeds 1. A free policy stops when the objective
            is within this of its limit, other classes when a step gains less.

    `details` holds "objective" (log E_{pi_n}[e^{R / alpha}] of every policy, the prior's first) and, for a free policy,
    "optimum", the limit.
    """

    policy: Any = field(default_factory=TabularPolicy)
    max_iterations: int = 1000
    tolerance: float = 1e-6

    name: ClassVar[str] = "em"
    cost: ClassVar[str] = "T S A K time an iteration, T S A memory, and the regressions"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settling(self.tolerance, self.max_iterations)

    def learner(self, model: Any) -> _Search:
        """An E-step and an M-step are one step."""
        return _Search(self, self.name, limit=self.max_iterations, tolerance=self.tolerance)


def _shape(model: TrajectoryModel) -> Shape:
    return Shape(model.steps, model.mdp.num_states, model.mdp.num_actions)


@dataclass(frozen=True, eq=False, kw_only=True)
class SearchState(State):
    """Where a search is.

    Attributes:
        place: [P], the parameters of the policy in its class; None for a free policy.
        policy: [T, S, A], the policy.
        log_messages: [T + 1, S], of the optimistic recursion around it, nats.
        improved: [T, S, A], the policy of the E-step.
        optimum: the limit of the objective for a free policy, nats; None in other classes.
        objective: log E[e^{R / alpha}] of every policy so far, nats, the first one's included.
    """

    place: Tensor | None
    policy: Tensor
    log_messages: Tensor
    improved: Tensor
    optimum: float | None
    objective: tuple[float, ...]


class _Problem(NamedTuple):
    """The model, and the parameters of a policy in its class, None for a free policy."""

    model: TrajectoryModel
    parameters: PolicyParameters | None

    def table(self) -> Tensor:
        """[T, S, A], the policy that the parameters stand for."""
        assert self.parameters is not None
        shape = (self.model.steps, *self.model.action_prior.shape)
        return self.parameters.table(self.model.log_action_prior[None]).exp().expand(shape)


@dataclass(frozen=True, eq=False)
class _Search:
    """E- and M-steps from the action prior.

    Args:
        backend: a `RewardWeightedRegression` or an `EMPolicySearch`.
        label: its name.
        limit: the most steps.
        tolerance: of the objective, in nats, relative to its size once that exceeds 1; None if one step is the answer.
    """

    backend: Any
    label: str
    limit: int
    tolerance: float | None = None

    @torch.no_grad()
    def init(self, model: TrajectoryModel, *, seed: int) -> SearchState:
        free = isinstance(self.backend.policy, TabularPolicy)
        parameters = None if free else self.backend.policy.start(_shape(model), model.log_action_prior[None])
        problem, policy = _Problem(model, parameters), model.action_prior.expand(model.steps, -1, -1)
        messages = backward(model, EXACT)
        possible = math.isfinite(float(messages.start))
        if possible and parameters is not None and self.tolerance is not None:  # EM starts inside its class
            policy = problem.table()
            messages = backward(model, EXACT, policy)
        return SearchState(
            problem=problem,
            status=None if possible else Status.IMPOSSIBLE,
            place=None if parameters is None else parameters.vector(),
            policy=policy,
            log_messages=messages.values,
            improved=messages.policy,
            optimum=float(backward(model, tilted_recursion(1.0, hard_choice)).start) if possible and free else None,
            objective=(float(messages.start),),
        )

    @torch.no_grad()
    def step(self, state: SearchState) -> tuple[SearchState, Info]:
        model, parameters = state.problem
        place, policy = None, state.improved
        if parameters is not None:
            parameters.load(state.place)
            _regress(model, parameters, self._weights(state))
            place, policy = parameters.vector(), state.problem.table()
        messages = backward(model, EXACT, policy)
        objective = (*state.objective, float(messages.start))
        left = objective[-1] - objective[-2] if state.optimum is None else state.optimum - objective[-1]
        ended = self.tolerance is None or left <= self.tolerance * max(1.0, abs(objective[-1]))
        following = replace(
            state,
            status=Status.SUCCESS if ended else None,
            place=place,
            policy=policy,
            log_messages=messages.values,
            improved=messages.policy,
            objective=objective,
        )
        return following, Info({"objective": objective[-1]})

    def _weights(self, state: SearchState) -> Tensor:
        """[T, S, A], how often the E-step's trajectories take each action in each nonterminal state."""
        model = state.problem.model
        initial, dynamics = EXACT.beliefs(model, state.log_messages)
        visits = forward(model, initial, state.improved, dynamics)[0][: model.steps]
        return torch.where(model.nonterminal, visits, torch.zeros_like(visits))[..., None] * state.improved

    def posterior(self, state: SearchState) -> Posterior:
        model, parameters = state.problem
        details: dict[str, Any] = {}
        if state.status is not Status.IMPOSSIBLE:
            details = {} if state.optimum is None else {"optimum": state.optimum}
            details["objective"] = state.objective
            if parameters is not None:
                parameters.load(state.place)
                details |= parameters.details()
        answer = policy_posterior(self.backend, model, state.policy, status_of(state), details, gradients="none")
        forbids = any(bool(torch.isneginf(model.reward_table(t)).any()) for t in model.reward_times)
        elbo = answer.elbo
        if state.status is Status.IMPOSSIBLE or not forbids or elbo is None or not bool(torch.isneginf(elbo)):
            return answer
        details["note"] = (
            "the policy can meet a reward of -inf, so its expected return and bound are -inf; this backend weighs "
            "trajectories by e^(return / temperature), in which those count nothing: ask 'variational' for a policy "
            "that keeps away from -inf where one can"
        )
        return policy_posterior(self.backend, model, state.policy, status_of(state), details, gradients="none")


def _regress(model: TrajectoryModel, parameters: PolicyParameters, weights: Tensor) -> None:
    """The M-step in a class: maximum likelihood of actions with weights [T, S, A]; moves the parameters."""
    leaves, log_prior = parameters.parameters(), model.log_action_prior[None]
    optimizer = torch.optim.LBFGS(
        leaves, max_iter=REGRESSION_STEPS, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )
    best, kept = math.inf, parameters.vector()

    def loss() -> Tensor:
        nonlocal best, kept
        optimizer.zero_grad()
        with torch.enable_grad():
            value = -weighted(weights, parameters.table(log_prior).expand_as(weights)).sum()
        value.backward()
        reached = float(value.detach())
        if reached < best and bool(torch.isfinite(place := parameters.vector()).all()):
            best, kept = reached, place
        return value.detach()

    # A likelihood whose best is at infinity sends the search there: the best place that it saw is kept.
    with contextlib.suppress(ValueError):
        optimizer.step(loss)
    parameters.load(kept)


class GaussianActions(nn.Module):
    """A unimodal policy over actions on a line: logits -(x_a - mean)^2 / (2 std^2), whatever the state.

    Args:
        positions: [A], where each action lies.
        std: of the Gaussian, in the unit of the positions; learned, unless given.
    """

    positions: Tensor

    def __init__(self, positions: Any, std: float | None = None) -> None:
        super().__init__()
        line = float_tensor(positions, "positions")[0].detach()
        if not bool(torch.isfinite(line).all()):
            place = int(torch.nonzero(~torch.isfinite(line.flatten()))[0])
            raise ValueError(f"positions[{place}] is {float(line.flatten()[place])}; give each action a finite place")
        if line.dim() != 1 or not len(line):
            raise ValueError(
                f"positions has shape {list(line.shape)}; expected finite numbers [A], one for each action"
            )
        if std is not None and not (std > 0 and math.isfinite(std)):
            raise ValueError(f"std is {std}; expected a finite number above 0, or None to learn it")
        if std is None and len(line) > 1 and float(line.max() - line.min()) == 0:
            raise ValueError(
                f"all {len(line)} positions are {float(line[0]):g}, so no std can be learned; spread them, or give std"
            )
        self.register_buffer("positions", line)
        self.mean = nn.Parameter(line.mean())
        spread = float(line.std()) if len(line) > 1 else 1.0
        log_std = torch.tensor(math.log(std if std is not None else spread), dtype=torch.float64)
        self.log_std = nn.Parameter(log_std, requires_grad=std is None)

    def reset_parameters(self) -> None:
        """Moves the mean to a random place between the outermost actions."""
        with torch.no_grad():
            low, high = float(self.positions.min()), float(self.positions.max())
            self.mean.copy_(low + (high - low) * torch.rand((), dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        """Logits [N, A] from features [N, F], of which only N counts."""
        logits = -0.5 * ((self.positions - self.mean) / self.log_std.exp()) ** 2
        return logits.expand(features.shape[0], -1)
