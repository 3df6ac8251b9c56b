"""What weighted particles say: tables counted from them, and an answer without tables where there can be none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cai.inference.core.lazy import lazy
from cai.inference.core.policy import Policy, policy_classes
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.core.storage import storable
from cai.inference.particles.particles import Filtered, Particles
from cai.inference.particles.program_system import ReplaySystem
from cai.inference.particles.world_system import WorldSystem
from cai.inference.programs.posterior import conditional, program_posterior
from cai.inference.programs.requirements import check_program
from cai.inference.tabular.backward import backward, policy_backward
from cai.inference.tabular.believed_dynamics import FixedDynamics, OutcomeDynamics
from cai.inference.tabular.posterior import tabular_posterior
from cai.inference.tabular.recursion import EXACT
from cai.models.common.numerics import expectation, plain_number, safe_log, safe_logsumexp
from cai.models.continuous.simulate import DivergedRollout
from cai.models.continuous.world import World
from cai.models.programs.inspect import ProgramInfo, explain, site_time
from cai.models.trajectory.model import TrajectoryModel

if TYPE_CHECKING:
    import xarray

FEW = 10  # effective particles at every step that a success needs
FIRST = 2.5  # first particles, in effect; where the last ones come from no more, two or fewer stand for the early steps
FAR = 4  # standard errors by which an estimate may miss log p(O) where that is known, and at least half a nat
CHECKED = 10**8  # numbers that may be computed to know it

__all__ = ["CountedDynamics", "ParticlePaths", "ParticlePosterior", "answer_model", "answer_program", "diverged_answer"]


def _count(size: int, index: Tensor, weights: Tensor) -> Tensor:
    """[size], the weight at each index."""
    return torch.zeros(size, dtype=torch.float64).index_add(0, index, weights)


@storable("counted-dynamics")
class CountedDynamics(OutcomeDynamics):
    """The outcomes of weighted particles, counted when asked for; rows never visited keep the true dynamics.

    Args:
        model: the trajectory model.
        particles: its own, with sites s_t, a_t and k_t.
    """

    particles: Particles
    weights: Tensor
    _stored_axes = {"weights": "N chances"}

    def __init__(self, model: TrajectoryModel, particles: Particles) -> None:
        super().__init__(model)
        self.particles = particles
        self.weights = particles.weights

    def tables(self, t: int) -> tuple[Tensor, Tensor]:
        model, values = self.model, self.particles.values
        num_states, num_actions, num_outcomes = model.mdp.probabilities.shape
        state, action, outcome = (values[f"{kind}_{t + 1}"] for kind in "sak")
        falls = (values[f"s_{t + 2}"] == num_states).long()
        counts = (state < num_states) & model.nonterminal[state.clamp(max=num_states - 1)]
        place = ((state * num_actions + action) * 2 + falls) * num_outcomes + outcome
        size = num_states * num_actions * 2 * num_outcomes
        joint = _count(size, place[counts], self.weights[counts]).reshape(num_states, num_actions, 2 * num_outcomes)
        rows = conditional(joint, torch.cat(FixedDynamics(model).outcomes(t), -1).detach())
        alive, fallen = rows.split(num_outcomes, -1)
        return alive, fallen


@storable("particle-paths")
@dataclass(frozen=True, eq=False)
class ParticlePaths:
    """Whole trajectories among weighted particles: drawn by weight, scored by the share that took them."""

    particles: Particles

    def sample(self, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
        """States [N, T + 1, ...] ([N, T, ...] without s_{T+1}), and actions [N, T, ...]."""
        return self.sample_latents(num_samples, seed)[:2]

    def sample_latents(self, num_samples: int, seed: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """States, actions, and the further latents [N, ...] of the same trajectories by site."""
        drawn = self.particles.resample(num_samples, seed)
        further = {name: part for name, part in drawn.values.items() if site_time(name) is None}
        return drawn.states, drawn.actions, further

    def log_prob(self, states: Tensor, actions: Tensor) -> Tensor:
        """[N], log of the weight of the particles that took exactly these trajectories."""
        own = torch.cat([self.particles.states, self.particles.actions], 1)
        given = torch.cat([states, actions], 1)
        _, index = torch.cat([own, given]).unique(dim=0, return_inverse=True)
        logs = self.particles.log_weights
        logs = logs - safe_logsumexp(logs)
        best = logs.new_full((int(index.max()) + 1,), -torch.inf).scatter_reduce(0, index[: len(own)], logs, "amax")
        shift = torch.where(torch.isfinite(best), best, torch.zeros_like(best))
        shares = _count(len(best), index[: len(own)], (logs - shift[index[: len(own)]]).exp())
        return (safe_log(shares) + shift)[index[len(own) :]]

    def marginal(self, site: str, size: int | None = None) -> Tensor:
        """[N], the weight of each value of a discrete site; N values, or up to the largest that a particle took."""
        values = self.particles.values[site]
        return _count(size or int(values.max()) + 1, values.long(), self.particles.weights)


class ParticlePosterior(Posterior):
    """The answer that weighted trajectories are, of a program whose states or actions are continuous: no tables.

    Attributes:
        particles: the trajectories and their weights; None where none is left.
        ess: the effective sample size before the first step and after each.
        info: the program from outside: its sites and their sizes.
    """

    particles: Particles | None
    ess: tuple[float, ...]
    info: ProgramInfo
    kind = "particle"

    def _check_held(self) -> None:
        if self.particles is not None and (
            gone := [name for name in self.info.latents if name not in self.particles.values]
        ):
            raise ValueError(f"particles.values lacks the site {gone[0]!r}")

    @lazy
    def evidence_error(self) -> Tensor | None:
        """The standard error of `log_evidence`, nats, 0-dim; None if no particle is left."""
        error = self.details.get("log_evidence_error")
        return None if error is None else torch.tensor(error, dtype=torch.float64)

    @property
    def sites(self) -> tuple[str, ...]:
        return self.info.latents

    def _observed_sites(self) -> tuple[str, ...]:
        return self.info.factors

    def _known(self, what: str) -> Particles:
        if self.particles is None:
            raise self._unknown(what, "infer with more particles", "none is left")
        return self.particles

    def policy(self, kind: str = "stochastic") -> Policy:
        if kind != "stochastic":
            raise ValueError(f"kind is {kind!r}; particles of continuous sites know 'stochastic' alone")
        if self.particles is None:
            raise ValueError(f"the posterior of {self.backend!r} holds no policy: {self.status}")
        return policy_classes["particles"](self.particles, source=self.backend)

    def _draw(self, num_samples: int, seed: int, latents: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        return ParticlePaths(self._known("how to draw trajectories")).sample_latents(num_samples, seed)

    def _score(self, states: Any, actions: Any) -> Tensor:
        why = "a set of weighted particles of continuous sites has no density"
        raise self._unknown("probabilities of trajectories", "ask particles.expect(...) for expectations", why)

    def _marginal(self, kind: str, t: int) -> Tensor:
        return self._further_marginal(f"{kind}_{t}")

    def _further_marginal(self, site: str) -> Tensor:
        if site not in self.info.sizes:
            why = f"{site!r} is continuous or not a scalar, and has no table of probabilities"
            raise self._unknown(f"the marginal of {site!r}", "look at particles.values and particles.weights", why)
        return ParticlePaths(self._known(f"the marginal of {site!r}")).marginal(site, self.info.sizes[site])

    def to_xarray(self) -> xarray.Dataset:
        """The particles with named axes: each latent site by (particle, ...), and their weights [N]."""
        import xarray

        particles = self._known("particles with named axes")
        tables = {
            name: (("particle", *(f"{name}_axis_{i}" for i in range(1, part.dim()))), part.detach().cpu().numpy())
            for name, part in particles.values.items()
        }
        tables["weight"] = (("particle",), particles.weights.cpu().numpy())
        return xarray.Dataset(tables, attrs=self._xarray_attributes())


storable("particles", pack=lambda p: {"values": dict(p.values), "log_weights": p.log_weights})(Particles)
storable("particle-posterior", pack=ParticlePosterior._stored, unpack=ParticlePosterior._from_stored)(ParticlePosterior)


@torch.no_grad()
def answer_model(model: TrajectoryModel, found: Filtered, *, backend: str, target: Target) -> Posterior:
    """The posterior of a trajectory model; where no particle is left, its prior and the reason."""
    initial = model.mdp.initial
    policy = model.action_prior.expand(model.steps, -1, -1)
    dynamics: OutcomeDynamics = FixedDynamics(model)
    truth = None
    if found.particles is None or model.mdp.probabilities.numel() * model.steps <= CHECKED:
        truth = float(backward(model, EXACT, keep="evidence").start) + plain_number(model.evidence_offset)
    status, why = _status(found, truth)
    if truth == -math.inf:
        status = Status.IMPOSSIBLE
    if found.particles is not None:
        policy, initial = _counted_policy(model, found.particles)
        dynamics = CountedDynamics(model, found.particles)
    values, q_values = policy_backward(model, policy, dynamics)
    return tabular_posterior(
        model,
        backend=backend,
        target=target,
        status=status,
        log_evidence=found.log_evidence,
        elbo=None,
        values=values,
        q_values=q_values,
        policy=policy,
        initial=initial,
        dynamics=dynamics,
        details=_details(found, why),
    )


def _counted_policy(model: TrajectoryModel, particles: Particles) -> tuple[Tensor, Tensor]:
    """(policy [T, S, A], start [S]); rows without a decision or a visit keep the action prior."""
    num_states, num_actions = model.mdp.num_states, model.mdp.num_actions
    weights, rows = particles.weights, []
    for t in range(1, model.steps + 1):
        state, action = particles.values[f"s_{t}"], particles.values[f"a_{t}"]
        counts = (state < num_states) & model.nonterminal[state.clamp(max=num_states - 1)]
        joint = _count(num_states * num_actions, (state * num_actions + action)[counts], weights[counts])
        rows.append(conditional(joint.reshape(num_states, num_actions), model.action_prior))
    return torch.stack(rows), _count(num_states, particles.values["s_1"], weights)


@torch.no_grad()
def answer_program(system: ReplaySystem | WorldSystem, found: Filtered, *, backend: str, target: Target) -> Posterior:
    """The posterior of a program: tables counted from the particles if its sites can be enumerated, else none."""
    program, info, particles = system.program, system.info, found.particles
    if particles is None:
        return _particle_answer(system, found, "no particle is left", backend=backend, target=target)
    if info.continuous:
        why = f"its latent {info.continuous[0]!r} is continuous or not a scalar, so there is nothing to count"
        return _particle_answer(system, found, why, backend=backend, target=target)
    status, few = _status(found)
    try:
        check_program(info, backend)
        weights = particles.weights

        def policy_divergence(policy: Tensor) -> Tensor:
            states, actions = particles.states, particles.actions
            chosen = [safe_log(policy[t][states[:, t], actions[:, t]]) for t in range(info.horizon)]
            return expectation(weights, sum(chosen) - system.log_prior_actions).clamp(min=0)

        return program_posterior(
            program,
            info,
            [_joint(particles, info, t) for t in range(1, info.horizon + 1)],
            backend=backend,
            target=target,
            status=status,
            log_evidence=found.log_evidence,
            elbo=None,
            believed_return=expectation(weights, system.returns),
            policy_divergence=policy_divergence,
            paths=ParticlePaths(particles),
            details=_details(found, few),
        )
    except (ValueError, RuntimeError, IndexError, AssertionError) as error:  # enumeration fails, the particles stand
        return _particle_answer(system, found, explain(error) or type(error).__name__, backend=backend, target=target)


def _joint(particles: Particles, info: ProgramInfo, t: int) -> Tensor:
    """[S, A, S] ([S, A, 1] at the end without s_{T+1}), the weight of (s_t, a_t, s_{t+1}); t counts from 1."""
    last = t == info.horizon and not info.has_last_state
    shape = (info.num_states, info.num_actions, 1 if last else info.num_states)
    state, action = particles.values[f"s_{t}"], particles.values[f"a_{t}"]
    following = torch.zeros_like(state) if last else particles.values[f"s_{t + 1}"]
    place = (state * shape[1] + action) * shape[2] + following
    return _count(math.prod(shape), place, particles.weights).reshape(shape)


def _particle_answer(
    system: ReplaySystem | WorldSystem, found: Filtered, why: str, *, backend: str, target: Target
) -> ParticlePosterior:
    """The answer that its particles are; `why` it has no tables stands in its details."""
    particles, (status, few) = found.particles, _status(found)
    program = system.program
    alpha = plain_number(program.temperature) if isinstance(program, World) else 1.0
    returns = None if particles is None else alpha * expectation(particles.weights, system.returns)
    return ParticlePosterior(
        backend=backend,
        target=target,
        status=status,
        horizon=system.info.horizon,
        log_evidence=found.log_evidence,
        believed_return=returns,
        model=program,
        info=system.info,
        particles=particles,
        ess=found.ess,
        details=_details(found, few) | {"tables": why},
    )


def diverged_answer(system: WorldSystem, error: DivergedRollout, *, backend: str, target: Target) -> ParticlePosterior:
    """What is left where a particle of a continuous model left the finite numbers: the step, and no evidence."""
    return ParticlePosterior(
        backend=backend,
        target=target,
        status=Status.NOT_CONVERGED,
        horizon=system.horizon,
        log_evidence=None,
        believed_return=None,
        model=system.program,
        info=system.info,
        particles=None,
        ess=(),
        details={"step": error.step, "why": str(error)},
    )


def _status(found: Filtered, truth: float | None = None) -> tuple[Status, str]:
    """Whether the particles are enough to answer with, and why not; `truth` is log p(O) where it is known."""
    if found.particles is None:
        return Status.DEGENERATE, ""
    count, least = found.particles.num_particles, min(found.ess)
    if least < FEW:
        return Status.FEW_PARTICLES, f"at some step {least:.3g} of {count} particles count"
    if found.ancestors <= FIRST:
        return (
            Status.FEW_PARTICLES,
            f"the last of {count} particles come from {found.ancestors:.3g} first ones in effect",
        )
    missed = 0.0 if truth is None else abs(float(found.log_evidence) - truth)
    if missed > max(0.5, FAR * found.log_evidence_error):
        return Status.FEW_PARTICLES, f"{count} particles missed what counts: log p(O) is {missed:.3g} nats off"
    return Status.SUCCESS, ""


def _details(found: Filtered, why: str) -> dict[str, Any]:
    """What every answer says of its particles."""
    details: dict[str, Any] = {"ess": found.ess, "resamplings": found.resamplings}
    details["effective_sample_size"] = found.effective_sample_size
    if found.particles is not None:
        details |= {"log_evidence_error": found.log_evidence_error, "particles": found.particles}
    return details | ({"why": why} if why else {})
