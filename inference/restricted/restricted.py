"""Structured variational inference over a restricted class of policies, with the dynamics held fixed."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from cai.inference.core.driver import drive
from cai.inference.core.learner import Learner
from cai.inference.core.memory import Need, enumerated_need, horizon_need, particles_need, whole_need
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target
from cai.inference.programs.requirements import ENUMERATION_BYTES, check_program, table_bytes
from cai.inference.restricted.answers import enumerated_answer, sampled_answer
from cai.inference.restricted.classes import ModulePolicy, ObservationPolicy, PolicyClass, StationaryPolicy
from cai.inference.restricted.continuous.backend import check_world, world_learner, world_need
from cai.inference.restricted.continuous.classes import LinearGaussianPolicy
from cai.inference.restricted.names import read_policy
from cai.inference.restricted.natural_gradient import AscentLearner, AscentOptions
from cai.inference.restricted.objective import Problem, ProgramBound, TableBound, begin
from cai.inference.restricted.parameters import Shape
from cai.inference.restricted.score_function import SampledLearner, SamplingOptions
from cai.inference.tabular.markov.chains import SOLVE_LIMIT
from cai.models.common.checks import float_tensor
from cai.models.continuous.world import World
from cai.models.programs.inspect import ProgramInfo, inspect_program, site_time
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["RestrictedVariational"]

GRADIENTS = ("auto", "enumerated", "closed", "pathwise", "sampled")
BASELINES = ("leave-one-out", "none", "value")
NATURAL_RATE = 1.0
ADAM_RATE = 0.1  # nats of the logits a step
START = 32  # bytes that are kept of every start


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
            a torch module from features to logits. On continuous models `LinearGaussianPolicy()` (the default),
            `TanhGaussianPolicy()`, `MixturePolicy()`, `FlowPolicy()`, or a torch module that returns a distribution of
            actions for states [N, n] (and, if it takes a second argument, the time index). Also a name: "stationary",
            "tabular", "linear-gaussian", "tanh-gaussian", "mixture" or "flow", options in brackets behind it.
        gradient: "enumerated", natural gradients of the exact bound; "sampled", score-function gradients from
            trajectories, for what is too large to enumerate and for programs with latents that are not discrete. On
            continuous models: "closed", Gauss-Newton steps on the exact bound of a `LinearGaussianPolicy` on a
            `LinearGaussianModel`; "pathwise", along trajectories, where policy and dynamics pass gradients and no state
            is terminal (rewards that jump are then not seen); "sampled". "auto" is the first of these that there is.
        max_iterations: the most steps (of each start).
        learning_rate: enumerated, the length of a natural step, in (0, 1], 1 unless given, and shortened where it would
            lower the bound; sampled, that of Adam, 0.1 unless given (0.01 on continuous models).
        tolerance: enumerated, in nats, relative to the bound once that exceeds 1. Tables stop when no entry of the
            natural gradient exceeds it, or when the bound has grown by less over (10 + 2 T) / learning_rate steps;
            mixtures and modules when five full steps in a row have promised less, or 40 steps have gained less.
        restarts: enumerated, further starts from random parameters; the best answer counts. Unless given, 1 where rows
            are shared or a module is fitted (and can be reset), since the prior may be a symmetric point that no
            gradient leads away from, and 0 for tables of the state.
        num_samples: sampled, trajectories a step.
        num_eval_samples: sampled, fresh trajectories that measure the answer.
        baseline: sampled, "leave-one-out" or "none"; on continuous models also "value", a network of state and time
            that is fitted beside the policy. All are unbiased; "none" has the most noise, and where trajectories start
            far apart "value" the least.
        start: on continuous models, where the fit starts its trajectories: states [K, n], drawn from in equal shares,
            or a distribution; the model's own start unless given. What the answer reports is from the model's own
            start in any case.
        values: on continuous models, soft values of what follows where they are known: (states [N, n], t) -> [N] in
            reward units, asked for t = 1 .. T - 1, as `answer.value` of a linear-Gaussian model or a
            `cai.models.GridFunction` of an answer on a grid. The fit then draws single steps from the states of `start`
            at all times, with 16 actions in each of `num_samples` states, and lowers KL(q || q*) there: no trajectory
            has to find what is far away. "history" holds -KL in nats, of which only differences matter where the values
            are not exact.

    Of the answer's `details`, "history" is the bound at every step, "steps" their number, and "table" [T or 1, Z, A]
    or "module" holds the fitted parameters. Enumerated: "gradient", its largest last entry, and "starts", the bounds of
    all starts. Sampled: "estimate" and "standard_error" of the bound from fresh trajectories. There `elbo` is this
    estimate for programs and continuous models, and for a `TrajectoryModel` the exact bound of the fitted policy, which
    its tables give.
    Sampled fits stop when the mean bound of 50 steps (200 with `values`) was four times not above that of as many
    before by twice its standard error; each time before, the learning rate is halved.

    Raises:
        ValueError, TypeError: on options that make no sense.
    """

    policy: Any = None
    gradient: Literal["auto", "enumerated", "closed", "pathwise", "sampled"] = "auto"
    max_iterations: int = 1000
    learning_rate: float | None = None
    tolerance: float = 1e-9
    restarts: int | None = None
    num_samples: int = 100
    num_eval_samples: int = 10_000
    baseline: Literal["leave-one-out", "none", "value"] = "leave-one-out"
    start: Any = None
    values: Any = None

    name: ClassVar[str] = "restricted"
    target: ClassVar[Target] = Target.FIXED_DYNAMICS
    accepts: ClassVar[str] = (
        "a TrajectoryModel (infinite: discount < 1, stationary), a continuous model, or any program"
    )
    cost: ClassVar[str] = "T S A K time a step (enumerated); N T A time a step for N trajectories (sampled)"

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", read_policy(self.policy))
        for name, choices in (("gradient", GRADIENTS), ("baseline", BASELINES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(choices)}")
        for name, least in (("max_iterations", 1), ("restarts", 0), ("num_samples", 1), ("num_eval_samples", 2)):
            value = getattr(self, name)
            if name == "restarts" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; expected a whole number >= {least}")
        rate, sampled = self.learning_rate, self.gradient == "sampled"
        if rate is not None and not (0 < rate < math.inf and (sampled or rate <= 1)):
            raise ValueError(f"learning_rate is {rate}; it must be > 0, and along the natural gradient at most 1")
        object.__setattr__(self, "start", _read_start(self.start))
        if self.values is not None and not callable(self.values):
            raise TypeError(f"values is {self.values!r}; expected a function (states [N, n], t) -> [N]")
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

    def class_for(self, model: Any) -> PolicyClass:
        """The class of policies; unless one was given, that which fits a kind of model."""
        if self.policy is not None:
            given: PolicyClass = self.policy
            return given
        return LinearGaussianPolicy() if isinstance(model, World) else StationaryPolicy()

    def _restarts(self) -> int:
        if self.restarts is not None:
            return self.restarts
        if isinstance(self.policy, ModulePolicy):
            return int(any(hasattr(part, "reset_parameters") for part in self.policy.module.modules()))
        return int(isinstance(self.policy, ObservationPolicy))

    def supports(self, model: Any) -> None:
        """Raises ValueError if the model cannot be answered over this class, and says what can."""
        if isinstance(model, World):
            check_world(self, self.class_for(model), model)
            return
        self._check_discrete()
        if isinstance(model, TrajectoryModel):
            if not model.is_finite:
                self._check_infinite(model)
            self.class_for(model).check(_shape(model), not model.is_finite)
            return
        self._check_program(inspect_program(model))

    def _check_discrete(self) -> None:
        """Refuses what is about continuous models alone."""
        if self.gradient in ("closed", "pathwise"):
            raise ValueError(
                f"gradient={self.gradient!r} is for the continuous actions of a ContinuousModel or a "
                "LinearGaussianModel; here give 'enumerated' or 'sampled', or leave gradient out"
            )
        given = {"start": self.start is not None, "values": self.values is not None}
        given["baseline='value'"] = self.baseline == "value"
        if any(given.values()):
            what = next(name for name, is_given in given.items() if is_given)
            raise ValueError(f"{what} is for fits to trajectories of a continuous model; leave it out here")

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
                "given discrete s_t: make both Categorical, write the problem as a ContinuousModel, whose policies are "
                "continuous, or use 'smc'"
            )
        if self.gradient != "sampled":
            if info.continuous:
                raise ValueError(
                    f"backend {self.name!r} enumerates every latent, and {info.continuous[0]!r} is continuous or not a "
                    "scalar; make it discrete, or give gradient='sampled'"
                )
            check_program(info, self.name)
        self.class_for(None).check(Shape(info.horizon, info.num_states, info.num_actions), False)

    def memory(self, model: Any) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        if isinstance(model, World):
            return world_need(self, self.class_for(model), model)
        if not isinstance(model, TrajectoryModel):
            info = inspect_program(model)
            if self.gradient == "sampled":
                return self._drawn(info.horizon, 0)
            need = enumerated_need(info.horizon, table_bytes(info), "give gradient='sampled', or fewer steps")
            return self._started(need)
        need = horizon_need(model, rows=8, tables=12, stepwise=True, instead="or ask 'variational'")
        return self._started(need) if self.gradient != "sampled" else self._drawn(model.steps, need.bytes)

    def _started(self, need: Need) -> Need:
        starts = 1 + self._restarts()
        return whole_need([need, Need(START * starts, f"the bounds of {starts:,} starts", "lower restarts")])

    def _drawn(self, steps: int, answer: int) -> Need:
        most = max(self.num_samples, self.num_eval_samples)
        return particles_need(most, 12 * steps, answer, "lower num_samples or num_eval_samples, or the horizon")

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers a model or a program; `seed` is of restarts, of samples, and of programs that draw."""
        self.supports(model)
        return drive(self.learner(model), model, seed=seed)

    def learner(self, model: Any) -> Learner[Any]:
        """Natural gradients of the exact bound, or Adam on sampled ones."""
        if isinstance(model, World):
            return world_learner(self, self.class_for(model), model)
        rate = self.learning_rate
        if self.gradient == "sampled":
            rate = ADAM_RATE if rate is None else rate
            sampling = SamplingOptions(
                self.max_iterations, rate, self.num_samples, self.num_eval_samples, self.baseline
            )
            return SampledLearner(self._begin, sampling, functools.partial(sampled_answer, self))
        rate = NATURAL_RATE if rate is None else rate
        options = AscentOptions(self.max_iterations, rate, self.tolerance, self._restarts())
        return AscentLearner(self._begin, options, functools.partial(enumerated_answer, self))

    def _begin(self, model: Any, seed: int) -> Problem:
        """New parameters, log p(a | s) with -inf where -inf looms, and whether it can be avoided at all."""
        policy = self.class_for(model)
        if isinstance(model, TrajectoryModel):
            return begin(policy, TableBound(model), model, None)
        info = inspect_program(model)
        if self.gradient != "sampled" or (not info.continuous and table_bytes(info) <= ENUMERATION_BYTES):
            return begin(policy, ProgramBound(model, info, seed=seed), model, info)
        shape = Shape(info.horizon, info.num_states, info.num_actions)
        log_prior = torch.full((1, *shape[1:]), -math.log(shape.num_actions), dtype=torch.float64)
        return Problem(model, info, None, policy.start(shape, log_prior), log_prior)


def _read_start(start: Any) -> Any:
    """States [K, n], or a distribution of one."""
    if start is None or hasattr(start, "event_shape"):
        return start
    states, _ = float_tensor(start, "start")
    if states.dim() != 2 or not len(states) or not bool(torch.isfinite(states).all()):
        raise ValueError(f"start has shape {list(states.shape)}; expected finite states [K, n], or a distribution")
    return states.detach()


def _shape(model: TrajectoryModel) -> Shape:
    return Shape(model.steps, model.mdp.num_states, model.mdp.num_actions)
