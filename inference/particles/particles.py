"""Weighted particles: trajectories that stand for a posterior, how they are weighed, resampled and moved.

A particle system draws trajectories from the model itself, a step at a time, and each step's optimality is a weight:

    log w_t = log w_{t-1} + r_t / alpha + log psi_{t+1}(s_{t+1}) - log psi_t(s_t),      psi_{T+1} = 1,

where psi, the lookahead, guesses what a state has yet to earn. psi cancels along a whole trajectory, so it moves no
answer; it decides who survives resampling. With psi = e^v, v the backward messages of the exact posterior, the
intermediate targets are the posterior's own marginals. The product over resamplings of the mean weights is an unbiased
estimate of p(O_{1:T}), whatever the (positive) lookahead and the threshold (Del Moral 2004, proposition 7.4.1).

Two systems offer the same interface: `TableSystem` in `cai.inference.particles.table_system`, on the tables of a
`TrajectoryModel`, and `ReplaySystem` in `cai.inference.particles.program_system`, on any trajectory program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from cai.inference.core.progress import progress
from cai.models.common.numerics import expectation, safe_logsumexp
from cai.models.common.random_draws import seeded
from cai.models.programs.inspect import site_time
from cai.models.trajectory.simulate import draw_start, inverse_cdf

__all__ = [
    "Filtered",
    "LogPsi",
    "ParticleSystem",
    "Particles",
    "effective_sample_size",
    "log_mean_exp",
    "move_particles",
    "systematic",
]

LogPsi = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, eq=False)
class Particles:
    """N weighted trajectories.

    Attributes:
        values: by site, [N, ...]; discrete states and actions are int64, whatever the program draws. Of a
            `TrajectoryModel` state S is the discount's absorbing one, and `k_t` the outcome of step t (0 if absorbed).
        log_weights: [N], nats, not normalised: the log of their mean weight is the estimate of log p(O).
    """

    values: Mapping[str, Tensor] = field(repr=False)
    log_weights: Tensor = field(repr=False)

    _stored_axes = {"values": "N ... any", "log_weights": "N"}

    @property
    def num_particles(self) -> int:
        """How many trajectories there are, N."""
        return int(self.log_weights.shape[0])

    @property
    def weights(self) -> Tensor:
        """[N], normalised; zeros if no particle has weight."""
        shift = self.log_weights.max()
        if not math.isfinite(float(shift)):
            return torch.zeros_like(self.log_weights)
        weights = (self.log_weights - shift).exp()
        return weights / weights.sum()

    @property
    def log_evidence(self) -> Tensor:
        """The estimate of log p(O) in nats, 0-dim; its exponential is unbiased."""
        return log_mean_exp(self.log_weights)

    @property
    def ess(self) -> float:
        """The effective sample size, 1 / sum of the squared weights: 1 to N, 0 if no particle has weight."""
        return effective_sample_size(self.log_weights)

    @property
    def states(self) -> Tensor:
        """[N, T + 1, ...] ([N, T, ...] for a program that draws no s_{T+1}); int64 where states are discrete."""
        return self._stacked("s")

    @property
    def actions(self) -> Tensor:
        """[N, T, ...]; int64 where actions are discrete."""
        return self._stacked("a")

    def _stacked(self, kind: str) -> Tensor:
        times = sorted(site[1] for name in self.values if (site := site_time(name)) and site[0] == kind)
        return torch.stack([self.values[f"{kind}_{t}"] for t in times], 1)

    def resample(self, num_samples: int, seed: int = 0) -> Particles:
        """Independent draws from the weighted particles, with equal weights that keep the evidence.

        Args:
            num_samples: how many.
            seed: of the generator; the global random state is left alone.

        Raises:
            ValueError: if no particle has weight, or num_samples < 1.
        """
        if num_samples < 1:
            raise ValueError(f"num_samples is {num_samples}; ask for at least 1")
        weights = self.weights
        if not bool(weights.any()):
            raise ValueError("no particle has weight, so there is nothing to draw; raise num_particles")
        generator = seeded(seed)
        index = draw_start(weights, num_samples, generator)
        values = {name: value[index] for name, value in self.values.items()}
        return Particles(values, self.log_evidence.expand(num_samples).clone())

    def expect(self, function: Callable[[Mapping[str, Tensor]], Tensor]) -> Tensor:
        """The weighted mean of a function of the trajectories.

        Args:
            function: takes `values` and returns [N, ...].

        Raises:
            ValueError: if the result does not have one row for each particle.
        """
        found = torch.as_tensor(function(self.values)).double()
        if found.dim() == 0 or found.shape[0] != self.num_particles:
            raise ValueError(
                f"the function returned shape {list(found.shape)}; expected [N, ...] with N = {self.num_particles}, "
                "a row for each particle"
            )
        weights = self.weights.reshape(-1, *[1] * (found.dim() - 1))
        return expectation(weights, found, dim=0)

    def __repr__(self) -> str:
        return f"Particles(N={self.num_particles}, ess={self.ess:.4g}, log_evidence={float(self.log_evidence):.6g})"


class ParticleSystem(Protocol):
    """What moves: N partial trajectories, drawn from the model itself."""

    horizon: int

    def start(self, num_particles: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws everything before the first action, and all that follows, from a generator; log weights [N]."""

    def advance(self, steps: range) -> Tensor:
        """Draws the next steps; the log factor of each, [len(steps), N]."""

    def state(self, t: int) -> Tensor:
        """[N, ...], s at time index t, which lies in or next to the steps drawn last."""

    def select(self, index: Tensor) -> None:
        """Goes on with the particles `index` [N]."""

    def values(self) -> dict[str, Tensor]:
        """The whole trajectories by site."""


@dataclass(frozen=True, eq=False)
class Filtered:
    """Where the particles got to.

    Attributes:
        particles: None if at some step every weight was zero, so that no trajectory was finished.
        log_evidence: 0-dim, nats; -inf then.
        ess: the effective sample size before the first step and after each, up to where they got.
        resamplings: how often they were resampled.
        ancestors: how many first particles the last ones come from, in effect: 1 / sum of the squares of the weights
            that descend from each; the number of independent trajectories that the early steps rest on.
        log_evidence_error: nats, the standard error of `log_evidence`, inf where no particle has weight.
    """

    particles: Particles | None
    log_evidence: Tensor
    ess: tuple[float, ...]
    resamplings: int
    ancestors: float
    log_evidence_error: float

    @property
    def effective_sample_size(self) -> float:
        """The number of independent trajectories that the answer rests on in effect, at its weakest step."""
        return min(*self.ess, self.ancestors)


@torch.no_grad()
def move_particles(
    system: ParticleSystem, *, num_particles: int, ess_threshold: float, log_psi: LogPsi | None, seed: int
) -> Filtered:
    """Runs particles through all steps, resampling systematically where their weights have become too unequal.

    Args:
        system: the particles.
        num_particles: N.
        ess_threshold: resample before a step when the effective sample size is below this share of N; 1 always, 0
            never.
        log_psi: the lookahead, (states [N, ...], time index) -> [N] in nats.
        seed: of everything that is drawn; the global random state is left alone.
    """
    horizon = system.horizon
    blocks = [range(horizon)] if ess_threshold == 0 else [range(t, t + 1) for t in range(horizon)]
    generator = seeded(seed)
    log_weights = system.start(num_particles, generator)
    ahead = torch.zeros_like(log_weights) if log_psi is None else log_psi(system.state(0), 0)
    log_weights = log_weights + ahead
    evidence = torch.zeros((), dtype=torch.float64)
    history, resamplings = [effective_sample_size(log_weights)], 0
    roots, variance = torch.arange(num_particles), 0.0
    for i in progress(len(blocks), "moving particles"):
        if history[-1] == 0:
            break
        if ess_threshold > 0 and (ess_threshold == 1 or history[-1] < ess_threshold * num_particles):
            index = systematic(log_weights, torch.rand((), dtype=torch.float64, generator=generator))
            evidence = evidence + log_mean_exp(log_weights)
            system.select(index)
            roots, variance = roots[index], variance + 1 / history[-1] - 1 / num_particles
            ahead, log_weights = ahead[index], torch.zeros_like(log_weights)
            resamplings += 1
        for t, factors in zip(blocks[i], system.advance(blocks[i]), strict=True):
            before, ahead = ahead, torch.zeros_like(ahead)
            if log_psi is not None and t + 1 < horizon:
                ahead = log_psi(system.state(t + 1), t + 1)
            gone = torch.isinf(log_weights)  # where psi was 0, the difference is not defined, and not needed
            gain = factors + ahead - torch.where(gone, torch.zeros_like(before), before)
            log_weights = torch.where(gone, log_weights, log_weights + gain)
            history.append(effective_sample_size(log_weights))
    if history[-1] == 0:
        nothing = torch.full((), -torch.inf, dtype=torch.float64)
        return Filtered(None, nothing, tuple(history), resamplings, 0.0, math.inf)
    particles = Particles(system.values(), log_weights + evidence)
    ancestors = 1 / float(torch.zeros(num_particles).double().index_add(0, roots, particles.weights).square().sum())
    # The mean weights between resamplings are averages of independent particles, given those before, and multiply.
    error = math.sqrt(max(0.0, variance + 1 / history[-1] - 1 / num_particles))
    return Filtered(particles, particles.log_evidence, tuple(history), resamplings, ancestors, error)


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """The log of the mean weight, 0-dim."""
    return safe_logsumexp(log_weights) - math.log(log_weights.shape[0])


def effective_sample_size(log_weights: Tensor) -> float:
    """(sum w)^2 / sum w^2 (Kong, Liu and Wong 1994); 0 if every weight is zero."""
    shift = log_weights.max()
    if not math.isfinite(float(shift)):
        return 0.0
    weights = (log_weights - shift).exp()
    return float(weights.sum() ** 2 / weights.square().sum())


def systematic(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """Systematic resampling: int64 [N], each particle N w times up to rounding, from one uniform number.

    The expected number of copies of a particle is N times its normalised weight exactly (Carpenter, Clifford and
    Fearnhead 1999); one of weight zero is never taken.
    """
    num_particles = log_weights.shape[0]
    cumulative = (log_weights - log_weights.max()).exp().cumsum(0)
    points = (torch.arange(num_particles, dtype=torch.float64) + uniform) / num_particles
    return inverse_cdf(cumulative, torch.zeros_like(points), cumulative[-1].expand_as(points), points)
