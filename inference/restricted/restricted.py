"""Structured variational inference over a restricted class of policies, with the dynamics held fixed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.programs.guide import POLICY, StructuredGuide
from cai.inference.programs.posterior import conditional
from cai.inference.programs.solve import DENSE_LIMIT, check_program, posterior_of_program
from cai.inference.programs.svi import Fit
from cai.inference.restricted.classes import ModulePolicy, ObservationPolicy, StationaryPolicy, as_policy_class
from cai.inference.restricted.natural_gradient import AscentOptions, ascend
from cai.inference.restricted.objective import PolicyBound, ProgramBound, TableBound, find_tied_supports, policy_values
from cai.inference.restricted.parameters import PolicyParameters, Shape, TiedParameters
from cai.inference.restricted.score_function import (
    ProgramSampler,
    SampledFit,
    SamplingOptions,
    TableSampler,
    fit_by_samples,
)
from cai.inference.tabular.believed_dynamics import FixedDynamics
from cai.inference.tabular.posterior import tabular_posterior
from cai.inference.tabular.stationary.chains import SOLVE_LIMIT, expected_visits
from cai.models.common.numerics import expectation, safe_log
from cai.models.programs.inspect import Program, ProgramInfo, inspect_program, site_time
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["RestrictedVariational"]

NATURAL_RATE = 1.0
ADAM_RATE = 0.1  # nats of the logits a step


@dataclass(frozen=True)
class RestrictedVariational:
    """The best policy of a class under the true dynamics: start and dynamics are the world's, the policy is restricted.

    Levine 2018, section 3.2: maximises E_q[sum_t r_t] / alpha - KL(policy || prior), equation (19), over the policies
    of a class, by its exact gradient or by that of section 4.1 from samples. What the class gives away is the distance
    to the elbo of backend "variational", which `TabularPolicy()` reaches. Where rows are shared the bound can have
    local optima; `restarts` looks for better ones.

    Actions that would lead to a reward of -inf are ruled out as far as the class can tell states apart. Rows from which
    q cannot avoid it (at any time, in a stationary class) keep the action prior, as they cannot matter.

    Args:
        policy: `StationaryPolicy()` (the default), `TabularPolicy()`, `ObservationPolicy(...)`, `ModulePolicy(...)` or
            a torch module from features to logits.
        gradient: "enumerated", natural gradients of the exact bound; "sampled", score-function gradients from
            trajectories, for what is too large to enumerate and for programs with latents that are not discrete.
        max_steps: the most steps (of each start).
        learning_rate: enumerated, the length of a natural step, in (0, 1], 1 unless given, and shortened where it would
            lower the bound; sampled, that of Adam, 0.1 unless given.
        tolerance: enumerated, in nats, relative to the bound once that exceeds 1. Tables stop when no entry of the
            natural gradient exceeds it, or when the bound has grown by less over (10 + 2 T) / learning_rate steps;
            mixtures and modules when five full steps in a row have promised less, or 40 steps have gained less.
        restarts: enumerated, further starts from random parameters; the best answer counts. Unless given, 1 where rows
            are shared or a module is fitted (and can be reset), since the prior may be a symmetric point that no
            gradient leads away from, and 0 for tables of the state.
        num_samples: sampled, trajectories a step.
        num_eval_samples: sampled, fresh trajectories that measure the answer.
        baseline: sampled, "leave-one-out" or "none"; both are unbiased, and the first has less noise.

    Of the answer's `details`, "history" is the bound at every step, "steps" their number, and "table" [T or 1, Z, A]
    or "module" holds the fitted parameters. Enumerated: "gradient", its largest last entry, and "starts", the bounds of
    all starts. Sampled: "estimate" and "standard_error" of the bound from fresh trajectories. There `elbo` is this
    estimate for a program, and for a `TrajectoryModel` the exact bound of the fitted policy, which its tables give.
    Sampled fits stop when the mean bound of 50 steps was four times not above that of the 50 before, see
    `fit_by_samples`.

    Raises:
        ValueError, TypeError: on options that make no sense.
    """

    policy: Any = field(default_factory=StationaryPolicy)
    gradient: Literal["enumerated", "sampled"] = "enumerated"
    max_steps: int = 1000
    learning_rate: float | None = None
    tolerance: float = 1e-9
    restarts: int | None = None
    num_samples: int = 100
    num_eval_samples: int = 10_000
    baseline: Literal["leave-one-out", "none"] = "leave-one-out"

    name: ClassVar[str] = "restricted"
    target: ClassVar[Target] = Target.FIXED_DYNAMICS
    accepts: ClassVar[str] = "a TrajectoryModel (infinite: discount < 1, stationary policy), or any program"
    cost: ClassVar[str] = "T S A K time a step (enumerated); N T A time a step for N trajectories (sampled)"

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", as_policy_class(self.policy))
        for name, choices in (("gradient", ("enumerated", "sampled")), ("baseline", ("leave-one-out", "none"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(choices)}")
        for name, least in (("max_steps", 1), ("restarts", 0), ("num_samples", 1), ("num_eval_samples", 2)):
            value = getattr(self, name)
            if name == "restarts" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; expected a whole number >= {least}")
        rate, sampled = self.learning_rate, self.gradient == "sampled"
        if rate is not None and not (0 < rate < math.inf and (sampled or rate <= 1)):
            raise ValueError(f"learning_rate is {rate}; it must be > 0, and along the natural gradient at most 1")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance is {self.tolerance}; it must be > 0")
        if sampled and self.baseline == "leave-one-out" and self.num_samples < 2:
            raise ValueError("num_samples is 1, and a leave-one-out baseline needs at least 2; or give baseline='none'")
        if sampled and self.restarts:
            raise ValueError(f"restarts is {self.restarts}; they compare exact bounds: use gradient='enumerated'")

        parts = self.policy.module.modules() if isinstance(self.policy, ModulePolicy) else ()
        if self.restarts and parts and not any(hasattr(part, "reset_parameters") for part in parts):
            raise ValueError(
                f"restarts is {self.restarts}, and no part of the module has reset_parameters(), which would draw a "
                "new start"
            )

    def _restarts(self) -> int:
        if self.restarts is not None:
            return self.restarts
        if isinstance(self.policy, ModulePolicy):
            return int(any(hasattr(part, "reset_parameters") for part in self.policy.module.modules()))
        return int(isinstance(self.policy, ObservationPolicy))

    def supports(self, model: Any) -> None:
        """Raises ValueError if the model cannot be answered over this class, and says what can."""
        if isinstance(model, TrajectoryModel):
            if not model.is_finite:
                self._check_infinite(model)
            self.policy.check(_shape(model), not model.is_finite)
            return
        self._check_program(inspect_program(model))

    def _check_infinite(self, model: TrajectoryModel) -> None:
        if self.gradient == "sampled":
            raise ValueError(
                f"backend {self.name!r} samples trajectories to their end, and this horizon is infinite; give a finite "
                "horizon, or gradient='enumerated'"
            )
        if model.discount == 1:
            raise ValueError(
                f"backend {self.name!r} solves for the values of policies over an infinite horizon, which not all have "
                "without a discount; give discount < 1 or a finite horizon, or use backend 'variational'"
            )
        if model.mdp.num_states > SOLVE_LIMIT:
            raise ValueError(
                f"backend {self.name!r} solves systems of [S, S] over an infinite horizon, and S = "
                f"{model.mdp.num_states} is above {SOLVE_LIMIT}; give a finite horizon, or use backend 'variational'"
            )

    def _check_program(self, info: ProgramInfo) -> None:
        latents = [name for name in info.continuous if site_time(name)]
        if latents:
            raise ValueError(
                f"site {latents[0]!r} is continuous or not a scalar; a policy here is a distribution over discrete a_t "
                "given discrete s_t: make both Categorical"
            )
        if self.gradient == "enumerated":
            if info.continuous:
                raise ValueError(
                    f"backend {self.name!r} enumerates every latent, and {info.continuous[0]!r} is continuous or not a "
                    "scalar; make it discrete, or give gradient='sampled'"
                )
            check_program(info, self.name)
        self.policy.check(Shape(info.horizon, info.num_states, info.num_actions), False)

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers a model or a program; `seed` is of restarts, of samples, and of programs that draw."""
        self.supports(model)
        if isinstance(model, TrajectoryModel):
            return self._answer_model(model, seed)
        info = inspect_program(model)
        if self.gradient == "sampled":
            return self._answer_program_by_samples(model, info, seed)
        return self._answer_program(model, info, seed)

    def _answer_model(self, model: TrajectoryModel, seed: int) -> Posterior:
        bound = TableBound(model)
        policy, log_prior, status = self._start(bound)
        details: dict[str, Any] = {}
        if status.ok and self.gradient == "sampled":
            found = self._fit_by_samples(TableSampler(model, log_prior, seed), policy)
            status, details = found.status, _sampled_details(found)
        elif status.ok:
            status, details = self._ascend(bound, policy, log_prior, seed)
        table = policy.table(log_prior).detach().exp().expand(bound.shape)
        values, q_values = policy_values(model, table)
        hopeless = torch.isinf(values)
        if self.policy.stationary:
            hopeless = hopeless.all(0, keepdim=True)
        table = torch.where(hopeless[..., None], model.action_prior, table)
        fixed = FixedDynamics(model)
        visits = None if model.is_finite else expected_visits(model, model.mdp.initial, table, fixed)
        return tabular_posterior(
            model,
            backend=self.name,
            target=self.target,
            status=status,
            log_evidence=None,
            elbo=expectation(model.mdp.initial, values[0]) + model.evidence_offset,
            values=values,
            q_values=q_values,
            policy=table,
            initial=model.mdp.initial,
            dynamics=fixed,
            visits=visits,
            details=details | policy.details(),
        )

    def _answer_program(self, program: Program, info: ProgramInfo, seed: int) -> Posterior:
        bound = ProgramBound(program, info, seed=seed)
        policy, log_prior, status = self._start(bound)
        details: dict[str, Any] = {}
        elbo = torch.full((), -torch.inf, dtype=torch.float64)
        if status.ok:
            status, details = self._ascend(bound, policy, log_prior, seed)
            elbo = bound.measure(policy.table(log_prior).detach()).bound
        table = policy.table(log_prior).detach().expand(bound.shape).clone()
        guide = StructuredGuide(program, info=info)
        found = Fit(guide, bound.at(table), elbo, status, details | policy.details(), {POLICY: table})
        backend: Any = self  # of a guide backend only name and target are read
        return posterior_of_program(backend, program, info, found)

    def _answer_program_by_samples(self, program: Program, info: ProgramInfo, seed: int) -> Posterior:
        shape = Shape(info.horizon, info.num_states, info.num_actions)
        enumerable = not info.continuous and 8 * info.num_states**2 * info.num_actions <= DENSE_LIMIT
        allowed, log_prior = None, torch.full((1, *shape[1:]), -math.log(shape.num_actions), dtype=torch.float64)
        if enumerable:
            bound = ProgramBound(program, info, seed=seed)
            policy, log_prior, status = self._start(bound)
            if not status.ok:
                return self._answer_program(program, info, seed)
            allowed = torch.isfinite(log_prior).expand(shape)
        else:
            policy = self.policy.start(shape, log_prior)
        sampler = ProgramSampler(program, info, allowed, seed)
        found = self._fit_by_samples(sampler, policy)
        return _posterior_of_draws(self, program, info, policy, found, sampler)

    def _start(self, bound: PolicyBound) -> tuple[PolicyParameters, Tensor, Status]:
        """New parameters, log p(a | s) with -inf where -inf looms, and whether it can be avoided at all."""
        policy = self.policy.start(bound.shape, bound.log_prior)
        if isinstance(policy, TiedParameters):
            log_prior = bound.log_prior
            clear, finished = find_tied_supports(bound, policy, self.max_steps)
        else:
            possible = torch.isfinite(bound.log_prior).expand(bound.shape)
            (allowed, clear), finished = bound.clear(possible), True
            log_prior = torch.where(allowed, bound.log_prior, -torch.inf)
        if clear:
            return policy, log_prior, Status.SUCCESS
        failure = Status.UNAVOIDABLE if finished else Status.NOT_CONVERGED
        return policy, log_prior, failure if bound.possible() else Status.IMPOSSIBLE

    def _ascend(
        self, bound: PolicyBound, policy: PolicyParameters, log_prior: Tensor, seed: int
    ) -> tuple[Status, dict[str, Any]]:
        rate = NATURAL_RATE if self.learning_rate is None else self.learning_rate
        options = AscentOptions(self.max_steps, rate, self.tolerance, self._restarts(), seed)
        found = ascend(bound, policy, log_prior, options)
        details = {"history": tuple(found.history), "steps": len(found.history)}
        return found.status, details | {"gradient": found.gradient, "starts": found.starts}

    def _fit_by_samples(self, sampler: Any, policy: PolicyParameters) -> SampledFit:
        rate = ADAM_RATE if self.learning_rate is None else self.learning_rate
        options = SamplingOptions(self.max_steps, rate, self.num_samples, self.num_eval_samples, self.baseline)
        return fit_by_samples(sampler, policy, options)


def _shape(model: TrajectoryModel) -> Shape:
    return Shape(model.steps, model.mdp.num_states, model.mdp.num_actions)


def _sampled_details(found: SampledFit) -> dict[str, Any]:
    history = {"history": found.history, "steps": len(found.history)}
    return history | {"estimate": found.estimate, "standard_error": found.standard_error}


def _posterior_of_draws(
    backend: RestrictedVariational,
    program: Program,
    info: ProgramInfo,
    policy: PolicyParameters,
    found: SampledFit,
    sampler: ProgramSampler,
) -> Posterior:
    """What the final trajectories of a program say: frequencies for q's marginals and dynamics, means for the rest."""
    draws, horizon = found.draws, info.horizon
    num_states, num_actions, last = info.num_states, info.num_actions, horizon + info.has_last_state
    counts = torch.stack([torch.bincount(draws.states[:, t], minlength=num_states) for t in range(last)]).double()
    prior = torch.stack([_mean_rows(draws.priors[t].exp(), draws.states[:, t], num_states) for t in range(horizon)])
    log_prior = safe_log(prior)
    if sampler.allowed is not None:
        log_prior = torch.where(sampler.allowed, log_prior, -torch.inf)
    table = policy.table(log_prior).detach().exp().expand(horizon, num_states, num_actions)

    def dynamics(t: int) -> Tensor:
        following = num_states if t + 1 < last else 1
        to = draws.states[:, t + 1] if t + 1 < last else torch.zeros_like(draws.states[:, 0])
        index = (draws.states[:, t] * num_actions + draws.actions[:, t]) * following + to
        joint = torch.bincount(index, minlength=num_states * num_actions * following).double()
        joint = joint.reshape(num_states, num_actions, following)
        return conditional(joint, torch.full_like(joint, 1.0 / following))

    def sample(num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            fresh = ProgramSampler(program, info, sampler.allowed, seed).draw(policy, num_samples)
        return fresh.states, fresh.actions

    return Posterior(
        backend=backend.name,
        target=backend.target,
        status=found.status,
        horizon=horizon,
        log_evidence=None,
        elbo=found.estimate,
        values=None,
        q_values=None,
        action_probs=table,
        action_prior=prior,
        initial=counts[0] / counts[0].sum(),
        state_marginals=counts / counts.sum(-1, keepdim=True),
        absorbed=torch.zeros(last, dtype=torch.float64),
        believed_return=(draws.before + draws.rewards.sum(0)).mean(),
        luck=torch.zeros((), dtype=torch.float64),
        policy_divergence=draws.ratios.sum(0).mean(),
        policy_entropy=draws.entropies.sum(0).mean(),
        model=program,
        step_dynamics=dynamics,
        sampler=sample,
        details=MappingProxyType(_sampled_details(found) | policy.details()),
    )


def _mean_rows(rows: Tensor, states: Tensor, num_states: int) -> Tensor:
    """[S, A], the mean of rows [N, A] over the trajectories in each state; uniform where there are none."""
    total = torch.zeros(num_states, rows.shape[-1], dtype=torch.float64).index_add(0, states, rows)
    return conditional(total, torch.full_like(total, 1.0 / rows.shape[-1]))
