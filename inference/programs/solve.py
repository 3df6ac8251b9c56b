"""What the two guide backends share: which solver answers, and how its answer becomes a posterior."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from cai.inference.core.driver import drive
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target
from cai.inference.programs.guide import JointProbe
from cai.inference.programs.posterior import program_posterior
from cai.inference.programs.svi import Fit, FitOptions, GuideLearner
from cai.inference.tabular.believed_dynamics import FixedDynamics, OutcomeDynamics, TableDynamics
from cai.inference.tabular.dynamic_programming import check_keep, closed_form_posterior
from cai.inference.tabular.policy_evaluation import policy_backward
from cai.inference.tabular.posterior import tabular_posterior
from cai.inference.tabular.recursion import EXACT, FIXED
from cai.inference.tabular.stationary.iteration import Settling
from cai.models.programs.inspect import Program, ProgramInfo, inspect_program
from cai.models.trajectory.model import TrajectoryModel

__all__ = [
    "DENSE_LIMIT",
    "GuideBackend",
    "check_enumerable",
    "check_options",
    "check_program",
    "check_support",
    "posterior_of_program",
    "solve",
]

DENSE_LIMIT = 2**30  # bytes of one enumerated table up to which programs are enumerated
SOLVERS = ("auto", "closed-form", "svi")


class GuideBackend(Protocol):
    """The hyper-parameters that `solve` reads."""

    name: ClassVar[str]
    target: ClassVar[Target]

    @property
    def solver(self) -> str:
        """One of SOLVERS."""

    @property
    def max_steps(self) -> int:
        """Of SVI."""

    @property
    def learning_rate(self) -> float:
        """Of SVI."""

    @property
    def tolerance(self) -> float:
        """In nats."""

    @property
    def max_backups(self) -> int:
        """Over an infinite horizon."""

    @property
    def accelerate(self) -> bool:
        """Over an infinite horizon."""

    @property
    def keep(self) -> str:
        """Of the closed form."""

    @property
    def kernel(self) -> str:
        """Of the closed form."""


def check_options(backend: GuideBackend) -> None:
    """Refuses hyper-parameters that make no sense."""
    if backend.solver not in SOLVERS:
        raise ValueError(f"solver is {backend.solver!r}; expected one of {', '.join(SOLVERS)}")
    if backend.max_steps < 1 or backend.max_backups < 1:
        raise ValueError(f"max_steps is {backend.max_steps} and max_backups {backend.max_backups}; both must be >= 1")
    if not 0 < backend.learning_rate <= 1:
        raise ValueError(f"learning_rate is {backend.learning_rate}; along the natural gradient it lies in (0, 1]")
    if not backend.tolerance > 0:
        raise ValueError(f"tolerance is {backend.tolerance}; it must be > 0")
    check_keep(backend.keep, backend.kernel)


def check_support(model: Any, backend: str, solver: str) -> None:
    """Refuses what the solver cannot answer."""
    if isinstance(model, TrajectoryModel):
        if solver == "svi":
            check_enumerable(model, backend, "solver='closed-form'")
        return
    if solver == "closed-form":
        raise ValueError(
            f"backend {backend!r} has a closed form only for a TrajectoryModel, whose tables it reads; "
            "for a program use solver='svi'"
        )
    check_program(inspect_program(model), backend)


def check_enumerable(model: TrajectoryModel, backend: str, instead: str) -> None:
    """Refuses a model that is too large to enumerate, naming the bytes, or that has no end."""
    if not model.is_finite:
        raise ValueError(f"backend {backend!r} runs the program, which needs a finite horizon; use {instead}")
    if model.dense_bytes > DENSE_LIMIT:
        raise ValueError(
            f"backend {backend!r} enumerates tables over (s_t, a_t, s_{{t+1}}): each of this model takes "
            f"{model.dense_bytes:,} bytes, more than {DENSE_LIMIT:,}; use {instead}, which never makes them"
        )


def check_program(info: ProgramInfo, backend: str) -> None:
    """Refuses a program with latents that cannot be enumerated, or too large a step."""
    if info.continuous:
        raise ValueError(
            f"backend {backend!r} enumerates every latent, and {info.continuous[0]!r} is continuous or not a scalar; "
            "make it discrete, or use 'smc', which draws"
        )
    needed = 8 * info.num_states**2 * info.num_actions
    if needed > DENSE_LIMIT:
        raise ValueError(
            f"backend {backend!r} enumerates tables over (s_t, a_t, s_{{t+1}}): each of this program takes {needed:,} "
            f"bytes, more than {DENSE_LIMIT:,}; make the state space smaller, or write it as a TrajectoryModel"
        )


def solve(backend: GuideBackend, model: Any, *, seed: int, free_dynamics: bool) -> Posterior:
    """Answers a model or a program with a structured guide."""
    check_support(model, backend.name, backend.solver)
    if isinstance(model, TrajectoryModel) and backend.solver != "svi":
        return closed_form_posterior(
            model,
            EXACT if free_dynamics else FIXED,
            backend=backend.name,
            target=backend.target,
            settling=Settling(backend.tolerance, backend.max_backups, backend.accelerate),
            keep=backend.keep,
            kernel=backend.kernel,
        )
    return drive(guide_learner(backend, model, free_dynamics=free_dynamics), model, seed=seed)


def guide_learner(backend: GuideBackend, model: Any, *, free_dynamics: bool) -> GuideLearner:
    """The learner by which a guide backend answers what has no closed form, or shall not be answered by it."""

    def answer(program: Any, info: ProgramInfo, found: Fit) -> Posterior:
        if isinstance(program, TrajectoryModel):
            return _posterior_of_model(backend, program, info, found)
        return posterior_of_program(backend, program, info, found)

    options = FitOptions(backend.max_steps, backend.learning_rate, backend.tolerance)
    return GuideLearner(inspect_program(model), free_dynamics, options, answer)


def _posterior_of_model(backend: GuideBackend, model: TrajectoryModel, info: ProgramInfo, found: Fit) -> Posterior:
    """Reads q's tables off the fitted guide."""
    num_states, run, steps = model.mdp.num_states, found.run, range(1, model.steps + 1)
    policy = torch.stack([run.table(f"a_{t}", (f"s_{t}",), info.sizes)[:num_states] for t in steps])
    dynamics: OutcomeDynamics = FixedDynamics(model)
    initial = model.mdp.initial
    if found.guide.free_dynamics:
        dynamics = TableDynamics(model, [_outcome_tables(model, found, info, t) for t in steps])
        initial = run.table("s_1", (), info.sizes)[:num_states]
    values, q_values = policy_backward(model, policy, dynamics)
    policy = torch.where(torch.isinf(values)[..., None], model.action_prior, policy)  # rows without hope
    return tabular_posterior(
        model,
        backend=backend.name,
        target=backend.target,
        status=found.status,
        log_evidence=None,
        elbo=found.bound,
        values=values,
        q_values=q_values,
        policy=policy,
        initial=initial,
        dynamics=dynamics,
        details=found.details,
    )


def _outcome_tables(model: TrajectoryModel, found: Fit, info: ProgramInfo, t: int) -> tuple[Tensor, Tensor]:
    """(alive, fallen) [S, A, K] of step t, from the conditionals of k_t and s_{t+1}."""
    mdp, run, names = model.mdp, found.run, (f"s_{t}", f"a_{t}")
    num_states = mdp.num_states
    leads = mdp.successors().expand_as(mdp.probabilities)[..., None]
    if model.has_outcome_sites:
        outcomes = run.table(f"k_{t}", names, info.sizes)[:num_states]
        following = run.table(f"s_{t + 1}", (*names, f"k_{t}"), info.sizes)[:num_states]
        alive = outcomes * following.gather(-1, leads)[..., 0]
        fallen = outcomes - alive if model.discount < 1 else torch.zeros_like(alive)
        return alive, fallen.clamp(min=0)
    following = run.table(f"s_{t + 1}", names, info.sizes)[:num_states]
    if mdp.next_states is None:
        share = torch.ones_like(mdp.probabilities)
    else:  # outcomes that share their next state share its probability
        total = mdp.to_next_states(mdp.probabilities).gather(-1, leads[..., 0])
        share = mdp.probabilities / torch.where(total > 0, total, torch.ones_like(total))
    alive = following.gather(-1, leads[..., 0]) * share
    fallen = torch.zeros_like(alive)
    if model.discount < 1:
        fallen = following[..., num_states:] * mdp.probabilities
    return alive, fallen


def posterior_of_program(backend: GuideBackend, program: Program, info: ProgramInfo, found: Fit) -> Posterior:
    """Measures q on its enumerated run, its steps' joints by probes."""
    probe = JointProbe(info)
    run = found.probed(probe)
    with torch.enable_grad():
        joints = list(torch.autograd.grad(run.expect(run.probes.values()), probe.epsilons))
    actions = [f"a_{t}" for t in range(1, info.horizon + 1)]
    blocked = not torch.isfinite(found.bound)
    nothing = torch.full((), -torch.inf, dtype=torch.float64)
    return program_posterior(
        program,
        info,
        joints,
        backend=backend.name,
        target=backend.target,
        status=found.status,
        log_evidence=None,
        elbo=found.bound,
        believed_return=nothing if blocked else run.expect(run.factors.values()).detach(),
        policy_divergence=-run.expect(run.divergence_terms(actions)).detach(),
        paths=found,
        details=found.details,
    )
