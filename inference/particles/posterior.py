"""What weighted particles say: tables counted from them, and an answer without tables where there can be none."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.particles.particles import Filtered, Particles
from cai.inference.particles.program_system import ReplaySystem
from cai.inference.programs.posterior import conditional, program_posterior
from cai.inference.programs.requirements import check_program
from cai.inference.tabular.believed_dynamics import FixedDynamics, OutcomeDynamics
from cai.inference.tabular.messages import EXACT, backward, policy_backward
from cai.inference.tabular.posterior import tabular_posterior
from cai.models.common.numerics import expectation, safe_log
from cai.models.programs.inspect import ProgramInfo, explain
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["CountedDynamics", "answer_model", "answer_program"]


def _count(size: int, index: Tensor, weights: Tensor) -> Tensor:
    """[size], the weight at each index."""
    return torch.zeros(size, dtype=torch.float64).index_add(0, index, weights)


class CountedDynamics(OutcomeDynamics):
    """The outcomes of weighted particles, counted when asked for; rows never visited keep the true dynamics.

    Args:
        model: the trajectory model.
        particles: its own, with sites s_t, a_t and k_t.
    """

    def __init__(self, model: TrajectoryModel, particles: Particles) -> None:
        super().__init__(model)
        self.particles = particles
        self.weights = particles.weights

    def tables(self, t: int) -> tuple[Tensor, Tensor]:
        model, values = self.model, self.particles.values
        num_states, num_actions, num_outcomes = model.mdp.probabilities.shape
        state, action, outcome = (values[f"{kind}_{t + 1}"] for kind in "sak")
        falls = (values[f"s_{t + 2}"] == num_states).long()
        counts = (state < num_states) & model.live[state.clamp(max=num_states - 1)]
        place = ((state * num_actions + action) * 2 + falls) * num_outcomes + outcome
        size = num_states * num_actions * 2 * num_outcomes
        joint = _count(size, place[counts], self.weights[counts]).reshape(num_states, num_actions, 2 * num_outcomes)
        rows = conditional(joint, torch.cat(FixedDynamics(model).outcomes(t), -1).detach())
        alive, fallen = rows.split(num_outcomes, -1)
        return alive, fallen


@torch.no_grad()
def answer_model(model: TrajectoryModel, found: Filtered, *, backend: str, target: Target) -> Posterior:
    """The posterior of a trajectory model; where no particle is left, its prior and the reason."""
    status, initial = Status.SUCCESS, model.mdp.initial
    policy = model.action_prior.expand(model.steps, -1, -1)
    dynamics: OutcomeDynamics = FixedDynamics(model)
    if found.particles is None:
        possible = math.isfinite(float(backward(model, EXACT).start))
        status = Status.DEGENERATE if possible else Status.IMPOSSIBLE
    else:
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
        details=_details(found),
    )


def _counted_policy(model: TrajectoryModel, particles: Particles) -> tuple[Tensor, Tensor]:
    """(policy [T, S, A], start [S]); rows without a decision or a visit keep the action prior."""
    num_states, num_actions = model.mdp.num_states, model.mdp.num_actions
    weights, rows = particles.weights, []
    for t in range(1, model.steps + 1):
        state, action = particles.values[f"s_{t}"], particles.values[f"a_{t}"]
        counts = (state < num_states) & model.live[state.clamp(max=num_states - 1)]
        joint = _count(num_states * num_actions, (state * num_actions + action)[counts], weights[counts])
        rows.append(conditional(joint.reshape(num_states, num_actions), model.action_prior))
    return torch.stack(rows), _count(num_states, particles.values["s_1"], weights)


@torch.no_grad()
def answer_program(system: ReplaySystem, found: Filtered, *, backend: str, target: Target) -> Posterior:
    """The posterior of a program: tables counted from the particles if its sites can be enumerated, else none."""
    program, info, particles = system.program, system.info, found.particles
    if particles is None:
        return _without_tables(system, found, "no particle is left", backend=backend, target=target)
    if info.continuous:
        why = f"its latent {info.continuous[0]!r} is continuous or not a scalar, so there is nothing to count"
        return _without_tables(system, found, why, backend=backend, target=target)
    try:
        check_program(info, backend)
        weights = particles.weights

        def policy_divergence(policy: Tensor) -> Tensor:
            states, actions = particles.states, particles.actions
            chosen = [safe_log(policy[t][states[:, t], actions[:, t]]) for t in range(info.horizon)]
            return expectation(weights, sum(chosen) - system.log_prior_actions).clamp(min=0)

        posterior = program_posterior(
            program,
            info,
            [_joint(particles, info, t) for t in range(1, info.horizon + 1)],
            backend=backend,
            target=target,
            status=Status.SUCCESS,
            log_evidence=found.log_evidence,
            elbo=None,
            believed_return=expectation(weights, system.returns),
            policy_divergence=policy_divergence,
            sampler=_sampler(particles),
            details=_details(found),
        )
    except (ValueError, RuntimeError, IndexError, AssertionError) as error:  # enumeration fails, the particles stand
        return _without_tables(system, found, explain(error) or type(error).__name__, backend=backend, target=target)
    return posterior.replace(scorer=lambda states, actions: _log_share(particles, states, actions))


def _sampler(particles: Particles) -> Callable[[int, int], tuple[Tensor, Tensor]]:
    """Draws whole trajectories among the particles."""

    def draw(num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
        drawn = particles.resample(num_samples, seed)
        return drawn.states, drawn.actions

    return draw


def _joint(particles: Particles, info: ProgramInfo, t: int) -> Tensor:
    """[S, A, S] ([S, A, 1] at the end without s_{T+1}), the weight of (s_t, a_t, s_{t+1}); t counts from 1."""
    last = t == info.horizon and not info.has_last_state
    shape = (info.num_states, info.num_actions, 1 if last else info.num_states)
    state, action = particles.values[f"s_{t}"], particles.values[f"a_{t}"]
    following = torch.zeros_like(state) if last else particles.values[f"s_{t + 1}"]
    place = (state * shape[1] + action) * shape[2] + following
    return _count(math.prod(shape), place, particles.weights).reshape(shape)


def _log_share(particles: Particles, states: Tensor, actions: Tensor) -> Tensor:
    """[N], log of the weight of the particles that took exactly these trajectories."""
    own = torch.cat([particles.states, particles.actions], 1)
    given = torch.cat([states, actions], 1)
    _, index = torch.cat([own, given]).unique(dim=0, return_inverse=True)
    shares = _count(int(index.max()) + 1, index[: len(own)], particles.weights)
    return safe_log(shares[index[len(own) :]])


def _without_tables(system: ReplaySystem, found: Filtered, why: str, *, backend: str, target: Target) -> Posterior:
    """The answer that its particles are: tables have no rows (size 0), and what would need them is None."""
    info, particles = system.info, found.particles
    believed = None if particles is None else expectation(particles.weights, system.returns)
    empty = torch.zeros(info.horizon, 0, 0, dtype=torch.float64)
    longer = info.horizon + info.has_last_state
    return Posterior(
        backend=backend,
        target=target,
        status=Status.DEGENERATE if particles is None else Status.SUCCESS,
        horizon=info.horizon,
        log_evidence=found.log_evidence,
        elbo=None,
        values=None,
        q_values=None,
        action_probs=empty,
        action_prior=empty,
        initial=torch.zeros(0, dtype=torch.float64),
        state_marginals=torch.zeros(longer, 0, dtype=torch.float64),
        absorbed=torch.zeros(longer, dtype=torch.float64),
        believed_return=believed,
        luck=None,
        policy_divergence=None,
        policy_entropy=None,
        model=system.program,
        step_dynamics=lambda t: torch.zeros(0, 0, 0, dtype=torch.float64),
        sampler=None if particles is None else _sampler(particles),
        details=MappingProxyType({**_details(found), "tables": why}),
    )


def _details(found: Filtered) -> dict[str, Any]:
    """What every answer says of its particles."""
    details: dict[str, Any] = {"ess": found.ess, "resamplings": found.resamplings}
    if found.particles is not None:
        details["particles"] = found.particles
    return details
