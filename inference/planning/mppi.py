"""Model-predictive path-integral control: a plan by importance-weighted trajectories with a receding horizon."""

from __future__ import annotations

import dataclasses
import math
import numbers
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cai.inference.core.driver import drive
from cai.inference.core.learner import Info, State, generator_at, generator_state, status_of
from cai.inference.core.memory import Need
from cai.inference.core.policy import policy_classes
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.planning.bundle import Sampler
from cai.inference.planning.plans import Plan, PlanPosterior
from cai.inference.planning.read_model import planning_problem, require_continuous
from cai.inference.planning.replanning import ReplanningPolicy
from cai.inference.planning.size import bundle_need
from cai.models.common.checks import as_count
from cai.models.common.numerics import plain_number

__all__ = ["PathIntegral"]

FLAT_NOISE, FLAT_CORRELATION = 1.5, 0.8  # where the action prior is flat and nothing is given
FLAT_SCALES = (1.0, 0.5)  # of that noise: half of the samples look near the plan
FEW = 10.0  # samples that count, below which a weighted mean tells of few of them


@dataclass(frozen=True)
class PathIntegral:
    """A plan by model-predictive path-integral control (MPPI); its policy plans anew in every state.

    At each step K action sequences over the next H steps are drawn around the plan so far, and followed in the model.
    Each counts for

        w proportional to exp(R / lambda) p(a|s) / q(a|s),

    R its rewards, p the action prior and q what it was drawn from; the new plan is their weighted mean, its first
    action is taken, and the rest is shifted by a step (Williams, Aldrich and Theodorou 2017). With lambda the model's
    temperature these are the weights of the exact target, whatever the noise; where it is the prior's own, p / q is the
    path integral's ratio of shifted Gaussians (Kappen, Gomez and Opper 2012). A window that ends before the horizon
    pays the final reward there, as a guess of what is to come.

    A flat prior is none to draw from. The noise itself, N(0, noise^2) at every step, is then taken for the prior, and
    `details["prior"]` says so; every second sample is drawn with half of it, q being the mixture of both.

    Target `other`: as K grows, and with H = T, the actions tend to the mean actions of `exact`. The effective sample
    size says how far one may believe that: it is in `details["ess"]` for every step, the lowest is
    `details["effective_sample_size"]`, and where fewer than 10 samples counted at some step `details["note"]` tells.
    The plan is what it is all the same: its cost is that of its own rollout, `details["cost"]`. A log evidence is given
    only where it rests on 10 samples and more: it is the log mean weight of the first bundle, with H = T and a proper
    prior, and exp of it is unbiased.

    Args:
        num_samples: K.
        lookahead: H, steps.
        temperature: lambda, reward units; the model's unless given.
        noise: standard deviation of the actions around a plan; the prior's unless given (1.5 where it is flat).
        correlation: of the noise between one step and the next, in [0, 1); 0 unless given (0.8 where the prior is
            flat). Correlated noise goes further.
    """

    num_samples: int = 1000
    lookahead: int = 50
    temperature: float | None = None
    noise: float | None = None
    correlation: float | None = None

    name: ClassVar[str] = "mppi"
    target: ClassVar[Target] = Target.OTHER
    accepts: ClassVar[str] = "a continuous model of finite horizon, no discount"
    cost: ClassVar[str] = "T H K steps of the model"

    def __post_init__(self) -> None:
        for name in ("num_samples", "lookahead"):
            as_count(getattr(self, name), name)
        for name in ("temperature", "noise"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value < math.inf):
                raise ValueError(f"{name} is {value!r}; expected a number > 0, or None")
        if self.correlation is not None and not (_is_number(self.correlation) and 0 <= self.correlation < 1):
            raise ValueError(f"correlation is {self.correlation!r}; expected a number in [0, 1), or None")

    def supports(self, model: Any) -> None:
        """Raises ValueError unless the model is continuous, of finite horizon and without a discount."""
        require_continuous(model, self.name)
        if model.discount < 1:
            raise ValueError(
                f"backend {self.name!r} weighs trajectories by the exact target, and the discount {model.discount:g} "
                "makes chains end at random there; leave the discount out, or ask 'ilqr' or 'smc'"
            )

    def memory(self, model: Any) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        return bundle_need(
            model,
            int(self.num_samples),
            int(self.lookahead),
            "lower num_samples or lookahead, or give a shorter horizon",
        )

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers the model; everything drawn depends on the seed alone."""
        self.supports(model)
        return drive(self.learner(model), model, seed=seed)

    def learner(self, model: Any) -> _Receding:
        """One step of the model, planned and taken, is one step."""
        return _Receding(self, int(model.horizon))

    def sampler(self, model: Any) -> Sampler:
        """The bundles of this backend in a model."""
        flat = model.is_flat
        noise = FLAT_NOISE if flat and self.noise is None else self.noise
        correlation = (FLAT_CORRELATION if flat else 0.0) if self.correlation is None else self.correlation
        return Sampler(
            problem=planning_problem(model),
            model=model,
            num_samples=int(self.num_samples),
            lookahead=min(int(self.lookahead), int(model.horizon)),
            temperature=plain_number(model.temperature) if self.temperature is None else float(self.temperature),
            noise=None if noise is None else float(noise),
            correlation=float(correlation),
            scales=FLAT_SCALES if flat else (1.0,),
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


@dataclass(frozen=True, eq=False, kw_only=True)
class RecedingState(State):
    """Where the plan is.

    Attributes:
        states: [t + 1, n], passed so far without noise.
        actions: [t, m], taken so far.
        shifts: [t, m], what they were beyond the mean of the prior.
        plan: [H, m], of the steps to come.
        generator: the state (bytes) of the generator.
        ess: the effective sample size of every bundle so far.
        log_evidence: the log mean weight of the first bundle, nats; None before it.
        diverged: the time index at which every trajectory had left the finite numbers; None where that did not happen.
    """

    states: Tensor
    actions: Tensor
    shifts: Tensor
    plan: Tensor
    generator: Tensor
    ess: tuple[float, ...]
    log_evidence: float | None
    diverged: int | None


@dataclass(frozen=True, eq=False)
class _Receding:
    """Plans, takes the first action, and moves on.

    Args:
        backend: the options.
        limit: T.
    """

    backend: PathIntegral
    limit: int
    label: str = "planning"

    @torch.no_grad()
    def init(self, model: Any, *, seed: int) -> RecedingState:
        sampler = self.backend.sampler(model)
        start, m = sampler.problem.start, sampler.problem.action_dim
        return RecedingState(
            problem=sampler,
            states=start[None],
            actions=start.new_zeros(0, m),
            shifts=start.new_zeros(0, m),
            plan=start.new_zeros(sampler.lookahead, m),
            generator=generator_state(seed),
            ess=(),
            log_evidence=None,
            diverged=None,
        )

    @torch.no_grad()
    def step(self, state: RecedingState) -> tuple[RecedingState, Info]:
        sampler: Sampler = state.problem
        problem, t, here = sampler.problem, len(state.actions), state.states[-1]
        generator = generator_at(state.generator)
        bundle = sampler.draw(here, state.plan, t, generator)
        ess = float(bundle.effective_sample_size)
        shift = bundle.plan[0]
        action = shift if problem.prior is None else problem.prior.mean(here, t) + shift
        following = problem.mean_step(here, action, t)
        lost = int(bundle.diverged) if ess == 0 or not bool(following.isfinite().all()) else None
        left = sampler.steps(t + 1) if t + 1 < problem.horizon else 0
        plan = torch.cat([bundle.plan[1:], torch.zeros_like(bundle.plan[:1])])[:left]
        ended = Status.SUCCESS if t + 1 == problem.horizon else None
        if lost is not None:
            ended = Status.NOT_CONVERGED if lost >= 0 or ess > 0 else Status.DEGENERATE
        made = dataclasses.replace(
            state,
            status=ended,
            states=torch.cat([state.states, following[None]]),
            actions=torch.cat([state.actions, action[None]]),
            shifts=torch.cat([state.shifts, shift[None]]),
            plan=plan,
            generator=generator.get_state(),
            ess=(*state.ess, ess),
            log_evidence=float(bundle.log_evidence) if t == 0 else state.log_evidence,
            diverged=None if lost is None else max(lost, t),
        )
        return made, Info({"effective sample size": ess})

    def posterior(self, state: RecedingState) -> Posterior:
        sampler: Sampler = state.problem
        problem, model = sampler.problem, sampler.model
        done, horizon = len(state.actions), problem.horizon
        shifts = torch.cat([state.shifts, state.plan, state.plan.new_zeros(horizon, problem.action_dim)])[:horizon]
        policy: ReplanningPolicy = policy_classes["replanning"](
            model,
            shifts,
            sampler.num_samples,
            sampler.lookahead,
            sampler.temperature,
            sampler.noise,
            sampler.correlation,
            sampler.scales,
            source=self.backend.name,
        )
        status, details = status_of(state), self._details(state, sampler)
        if done == horizon and status is Status.SUCCESS:
            rollout = problem.measured(state.states, state.actions)
            details["cost"] = float(rollout.costs)
            if not math.isfinite(details["cost"]):
                status, details["why"] = Status.NOT_CONVERGED, "the plan meets a reward that is forbidden"
        elif state.diverged is not None:
            details["step"] = state.diverged
            met = f"left the finite numbers by time index {state.diverged}"
            if status is Status.DEGENERATE:
                met = f"met a forbidden reward within lookahead of time index {state.diverged}"
            details["why"] = (
                f"every trajectory of the bundle {met}; of 'mppi' raise num_samples, or give a noise= that stays where "
                "actions are allowed"
            )
        return PlanPosterior(
            backend=self.backend.name,
            target=self.backend.target,
            status=status,
            horizon=horizon,
            model=model,
            plan=Plan(state.states, state.actions),
            acting=policy,
            log_evidence=self._evidence(state, sampler),
            details=details,
        )

    def _evidence(self, state: RecedingState, sampler: Sampler) -> Tensor | None:
        """Log p(O), where the first bundle looked at all of it and enough of its samples counted."""
        whole = sampler.lookahead == sampler.problem.horizon and not sampler.model.is_flat
        certain = not bool((sampler.problem.start_covariance != 0).any())
        own = sampler.temperature == sampler.problem.temperature
        if state.log_evidence is None or not (whole and certain and own) or state.ess[0] < FEW:
            return None
        return state.plan.new_tensor(state.log_evidence)

    def _details(self, state: RecedingState, sampler: Sampler) -> dict[str, Any]:
        details: dict[str, Any] = {"ess": state.ess}
        if state.ess:
            details["effective_sample_size"] = min(state.ess)
            few = sum(ess < FEW for ess in state.ess)
            if few:
                details["note"] = (
                    f"at {few} of {len(state.ess)} steps fewer than {FEW:g} samples count: there the plan follows the "
                    "best few, and is not the mean of the exact target"
                )
        if sampler.problem.prior is None:
            details["prior"] = (
                f"the model's is flat; N(0, {sampler.noise:g}^2), correlation {sampler.correlation:g} a step, is "
                "taken for it"
            )
        return details
