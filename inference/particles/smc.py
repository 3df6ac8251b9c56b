"""Sampling backends: sequential Monte Carlo and plain importance sampling over trajectories, of models and programs."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cai.inference.core.memory import Need, horizon_need, particles_need
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target
from cai.inference.gaussian.solve import gaussian_posterior
from cai.inference.particles.particles import LogPsi, move_particles
from cai.inference.particles.posterior import answer_model, answer_program, diverged_answer
from cai.inference.particles.program_system import ReplaySystem, check_vectorised
from cai.inference.particles.table_system import TableSystem
from cai.inference.particles.world_system import WorldSystem
from cai.inference.tabular.backward import backward
from cai.inference.tabular.recursion import EXACT
from cai.models.continuous.linear_gaussian import LinearGaussianModel
from cai.models.continuous.simulate import DivergedRollout
from cai.models.continuous.world import World
from cai.models.programs.inspect import ProgramInfo, inspect_program
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["ImportanceSampling", "SequentialMonteCarlo"]

Lookahead = Literal["auto", "soft-value"] | Callable[[Tensor, int], Tensor] | None


@dataclass(frozen=True)
class SequentialMonteCarlo:
    """Particles that follow the action prior and the true dynamics, weighed by optimality and resampled on the way.

    Each step multiplies a particle's weight by e^{r_t / alpha} psi_{t+1}(s_{t+1}) / psi_t(s_t) (psi = 1 at the end),
    and `log_evidence` is an estimate whose exponential is unbiased for p(O), whatever the threshold and any positive
    psi (see `cai.inference.particles`). As N grows policy, dynamics and start tend to those of the exact posterior,
    with errors of order 1 / sqrt(N).

    For a `TrajectoryModel` the answer q has tables: the weighted counts of actions, outcomes and starts; rows that no
    particle visited keep the action prior and the true dynamics. `elbo` is the bound that this q attains, so it never
    exceeds log p(O), though it may exceed the noisy `log_evidence`. For a program q is the particles themselves:
    `sample` draws from them, `log_prob` is the log of their share, and `luck` what the estimate leaves over. Its tables
    are counts where its sites can be enumerated; else, as for continuous sites, the answer is a `ParticlePosterior`
    without tables, and `details["tables"]` says why.

    `details` holds "particles" (`Particles`, the weighted trajectories), "ess" (the effective sample size before the
    first step and after each), "resamplings", "log_evidence_error" (the standard error of `log_evidence`, nats: the
    relative variances of the mean weights between resamplings, 1 / ess - 1 / N each, added up) and
    "effective_sample_size", on how many independent trajectories the answer rests: the smallest "ess", or the number of
    first particles that the last ones come from in effect, if that is less, as where a run was resampled often. The
    status is FEW_PARTICLES where some "ess" is below 10, where the last particles come in effect from at most 2.5 first
    ones, and where log p(O), which small tables tell, is further off than four standard errors and half a nat. Of a
    program nobody knows of trajectories that none of the particles took.

    Args:
        num_particles: N.
        ess_threshold: resample before a step when the effective sample size is below this share of N; 1 resamples at
            every step, 0 never.
        lookahead: what a state has yet to earn: "soft-value", the exact soft values of a `TrajectoryModel` or a
            `LinearGaussianModel` (there None where the model is discounted, or they are not finite); None, the
            bootstrap filter, which finds out too late; a function (states [N, ...], t) -> log psi [N] in nats, called
            for time indices t = 0 .. T - 1 (states of a `TrajectoryModel` are int64, S for the absorbing one), which
            must not be -inf where optimality is possible; or "auto", the first of these where there are such, and
            None for any other program.
    """

    num_particles: int = 1000
    ess_threshold: float = 0.5
    lookahead: Lookahead = "auto"

    name: ClassVar[str] = "smc"
    target: ClassVar[Target] = Target.EXACT
    accepts: ClassVar[str] = "any model or program of finite horizon, its sites discrete or continuous"
    cost: ClassVar[str] = "N T (A + K) time on tables; N T^2 / 2 site visits for a program"

    def __post_init__(self) -> None:
        _check_size(self.num_particles)
        share = self.ess_threshold
        if isinstance(share, bool) or not isinstance(share, numbers.Real) or not 0 <= share <= 1:
            raise ValueError(f"ess_threshold is {share!r}; it is a share of the particles: give a number in [0, 1]")
        if not (self.lookahead is None or self.lookahead in ("auto", "soft-value") or callable(self.lookahead)):
            raise ValueError(
                f"lookahead is {self.lookahead!r}; expected 'auto', 'soft-value', None, or a function (states, t) -> "
                "log psi"
            )

    def supports(self, model: Any) -> None:
        """Raises ValueError if the horizon is infinite, or a program cannot be run on stacked particles."""
        _inspect(model, self.name, self.lookahead)

    def memory(self, model: Any) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        return _need(self.num_particles, model)

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers the model; everything drawn depends on the seed alone."""
        return _answer(self, model, float(self.ess_threshold), self.lookahead, seed)


@dataclass(frozen=True)
class ImportanceSampling:
    """Trajectories from the prior, each weighed by its optimality at the end: the honest baseline, never resampled.

    The evidence estimate is the mean weight, unbiased; expectations are self-normalised. The weights of long horizons
    concentrate on few trajectories, as its status then says; `details` and answer are as for `SequentialMonteCarlo`.

    Args:
        num_particles: N.
    """

    num_particles: int = 1000

    name: ClassVar[str] = "importance"
    target: ClassVar[Target] = Target.EXACT
    accepts: ClassVar[str] = "any model or program of finite horizon, its sites discrete or continuous"
    cost: ClassVar[str] = "N T (A + K) time on tables; N T site visits for a program"

    def __post_init__(self) -> None:
        _check_size(self.num_particles)

    def supports(self, model: Any) -> None:
        """Raises ValueError if the horizon is infinite, or a program cannot be run on stacked particles."""
        _inspect(model, self.name, None)

    def memory(self, model: Any) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        return _need(self.num_particles, model)

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers the model; everything drawn depends on the seed alone."""
        return _answer(self, model, 0.0, None, seed)


def _check_size(num_particles: Any) -> None:
    if isinstance(num_particles, bool) or not isinstance(num_particles, numbers.Integral) or num_particles < 1:
        raise ValueError(f"num_particles is {num_particles!r}; expected a whole number >= 1")


def _need(num_particles: int, model: Any) -> Need:
    """The trajectories, and the tables that are counted from them."""
    fewer = "lower num_particles, or give a shorter horizon"
    if isinstance(model, TrajectoryModel):
        numbers = 8 * model.steps + 4 * model.mdp.num_actions + 6 * model.mdp.num_outcomes
        answer = horizon_need(model, rows=4, tables=6, stepwise=True).bytes
        return particles_need(int(num_particles), numbers, answer, fewer)
    info = inspect_program(model)
    return particles_need(int(num_particles), 4 * (len(info.latents) + len(info.factors)), 0, fewer)


def _inspect(model: Any, backend: str, lookahead: Lookahead) -> ProgramInfo | None:
    """Refuses what cannot be sampled; the outside of a program."""
    if isinstance(model, TrajectoryModel):
        if not model.is_finite:
            raise ValueError(
                f"backend {backend!r} draws trajectories to their end, and this model's horizon is infinite; "
                "give horizon=N, or use 'exact' or 'variational', which iterate"
            )
        return None
    info = inspect_program(model)
    if lookahead == "soft-value" and not isinstance(model, LinearGaussianModel):
        raise ValueError(
            f"backend {backend!r} reads soft values off the tables of a TrajectoryModel, and this is a Pyro program; "
            "give lookahead=None, or a function (states, t) -> log psi"
        )
    if not isinstance(model, World):  # which was tried on stacked states when it was made
        check_vectorised(model, info)
    return info


def _answer(
    backend: SequentialMonteCarlo | ImportanceSampling, model: Any, threshold: float, lookahead: Lookahead, seed: int
) -> Posterior:
    info = _inspect(model, backend.name, lookahead)
    system: TableSystem | WorldSystem | ReplaySystem = TableSystem(model) if info is None else _system(model, info)
    try:
        found = move_particles(
            system,
            num_particles=int(backend.num_particles),
            ess_threshold=threshold,
            log_psi=_log_psi(model, lookahead),
            seed=seed,
        )
    except DivergedRollout as error:
        assert isinstance(system, WorldSystem)
        return diverged_answer(system, error, backend=backend.name, target=backend.target)
    if isinstance(system, TableSystem):
        return answer_model(model, found, backend=backend.name, target=backend.target)
    return answer_program(system, found, backend=backend.name, target=backend.target)


def _system(model: Any, info: ProgramInfo) -> WorldSystem | ReplaySystem:
    return WorldSystem(model, info) if isinstance(model, World) else ReplaySystem(model, info)


def _log_psi(model: Any, lookahead: Lookahead) -> LogPsi | None:
    """The lookahead as a checked function."""
    if lookahead is None:
        return None
    if isinstance(model, LinearGaussianModel) and not callable(lookahead):
        return _quadratic_psi(model)
    if lookahead == "auto" and not isinstance(model, TrajectoryModel):
        return None
    if lookahead in ("auto", "soft-value"):
        with torch.no_grad():
            values = backward(model, EXACT).values
        table = torch.cat([values, torch.zeros(len(values), 1, dtype=torch.float64)], 1)  # absorbed: nothing to earn
        return lambda states, t: table[t][states]
    assert callable(lookahead)

    def checked(states: Tensor, t: int) -> Tensor:
        found = torch.as_tensor(lookahead(states, t)).detach().double()
        if found.shape != states.shape[:1]:
            raise ValueError(
                f"lookahead returned shape {list(found.shape)} at time index {t}; expected [{states.shape[0]}], "
                "log psi of each particle's state"
            )
        if bool((torch.isnan(found) | (found == torch.inf)).any()):
            raise ValueError(f"lookahead returned NaN or +inf at time index {t}; expected log psi in nats")
        return found

    return checked


def _quadratic_psi(model: LinearGaussianModel) -> LogPsi | None:
    """The exact messages of a linear-Gaussian model; None where they are not quadratic, or not finite."""
    if model.discount < 1:
        return None
    with torch.no_grad():
        exact = gaussian_posterior(model, 1.0, backend="exact", target=Target.EXACT)
        if not exact.status.ok:
            return None
        return lambda states, t: exact.value(states.double(), t) / exact.problem.temperature
