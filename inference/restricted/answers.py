"""The posteriors of fitted policies: of a model by its tables, of a program by its enumeration or by trajectories."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import NotKnown, Status
from cai.inference.core.storage import storable
from cai.inference.programs.answers import posterior_of_run
from cai.inference.programs.posterior import ProgramPosterior, conditional
from cai.inference.restricted.objective import Problem, ProgramBound
from cai.inference.restricted.rollouts import Draws
from cai.inference.restricted.score_function import sampler_of
from cai.inference.tabular.policy_posterior import policy_posterior, policy_values
from cai.models.common.numerics import safe_log
from cai.models.common.random_draws import seeded

__all__ = ["enumerated_answer", "sampled_answer"]


def enumerated_answer(backend: Any, problem: Problem, status: Status, details: dict[str, Any]) -> Posterior:
    """What the problem's policy amounts to, exactly.

    Args:
        backend: whose answer it is; its name, target and policy class are read.
        problem: with the policy at the best parameters.
        status: how the fit ended.
        details: its further numbers.
    """
    model, policy, bound, details = problem.model, problem.policy, problem.bound, details | problem.policy.details()
    assert bound is not None
    table = policy.table(problem.log_prior).detach().expand(bound.shape)
    if isinstance(bound, ProgramBound):
        assert problem.info is not None
        elbo = torch.full((), -torch.inf, dtype=torch.float64) if problem.blocked else bound.measure(table).bound
        return posterior_of_run(
            model,
            problem.info,
            bound.at(table),
            backend=backend.name,
            target=backend.target,
            status=status,
            log_evidence=None,
            elbo=elbo,
            details=details,
        )
    with torch.no_grad():
        infeasible = torch.isinf(policy_values(model, table.exp())[0])
    if backend.class_for(model).stationary:
        infeasible = infeasible.all(0, keepdim=True)
    best = status is Status.SUCCESS and backend.gradient != "sampled"  # no first-order change of it moves the bound
    if best:
        table = _with_history(problem).expand(bound.shape)
    chosen = torch.where(infeasible[..., None], model.action_prior, table.exp())
    return policy_posterior(backend, model, chosen, status, details, gradients="bound" if best else "none")


def _with_history(problem: Problem) -> Tensor:
    """[T, S, A] or [1, S, A], log q at the fitted parameters as a function of the action prior."""
    leaves, log_prior = problem.policy.parameters(), problem.model.log_action_prior[None]
    for leaf in leaves:
        leaf.requires_grad_(False)
    table = problem.policy.table(torch.where(torch.isfinite(problem.log_prior), log_prior, -torch.inf))
    for leaf in leaves:
        leaf.requires_grad_()
    return table


def sampled_answer(
    backend: Any, problem: Problem, status: Status, details: dict[str, Any], draws: Draws | None
) -> Posterior:
    """What the problem's policy amounts to: by the tables of a model, by the trajectories that a program drew.

    Args:
        backend: whose answer it is; its name, target and policy class are read.
        problem: with the policy at the fitted parameters.
        status: how the fit ended.
        details: its further numbers, the "estimate" of the bound among them.
        draws: trajectories of the policy; None where no policy of the class rules out a reward of -inf.
    """
    if problem.info is None or draws is None:
        return enumerated_answer(backend, problem, status, details)
    info, policy, sampler = problem.info, problem.policy, sampler_of(problem)
    horizon, num_states, num_actions = info.horizon, info.num_states, info.num_actions
    last = horizon + info.has_last_state
    counts = torch.stack([torch.bincount(draws.states[:, t], minlength=num_states) for t in range(last)]).double()
    prior = torch.stack([_mean_rows(draws.priors[t].exp(), draws.states[:, t], num_states) for t in range(horizon)])
    log_prior = safe_log(prior)
    if problem.bound is not None:
        log_prior = torch.where(torch.isfinite(problem.log_prior), log_prior, -torch.inf)
    table = policy.table(log_prior).detach().exp().expand(horizon, num_states, num_actions)
    return ProgramPosterior(
        backend=backend.name,
        target=backend.target,
        status=status,
        horizon=horizon,
        elbo=details["estimate"],
        action_probs=table,
        action_prior=prior,
        initial=counts[0] / counts[0].sum(),
        state_marginals=counts / counts.sum(-1, keepdim=True),
        believed_return=(draws.before + draws.rewards.sum(0)).mean(),
        luck=torch.zeros((), dtype=torch.float64),
        policy_divergence=draws.ratios.sum(0).mean(),
        policy_entropy=draws.entropies.sum(0).mean(),
        model=problem.model,
        info=info,
        world=DrawnDynamics(draws.states, draws.actions, num_states, num_actions),
        paths=FreshPaths(sampler, copy.deepcopy(policy)),
        details=details | policy.details(),
    )


@storable("drawn-dynamics")
@dataclass(frozen=True, eq=False)
class DrawnDynamics:
    """Frequencies of next states among drawn trajectories.

    Attributes:
        states: int64 [N, T + 1] ([N, T] of a program that draws no s_{T+1}).
        actions: int64 [N, T].
        num_states: S.
        num_actions: A.
    """

    states: Tensor
    actions: Tensor
    num_states: int
    num_actions: int
    listed: ClassVar[bool] = False

    def outcomes(self, t: int) -> tuple[Tensor, Tensor]:
        """Of next states [S, A, S] ([S, A, 1] at the end without s_{T+1}), and of a fall [S, A, 0]."""
        ends = t + 1 == self.states.shape[1]
        following = 1 if ends else self.num_states
        to = torch.zeros_like(self.states[:, 0]) if ends else self.states[:, t + 1]
        index = (self.states[:, t] * self.num_actions + self.actions[:, t]) * following + to
        joint = torch.bincount(index, minlength=self.num_states * self.num_actions * following).double()
        joint = joint.reshape(self.num_states, self.num_actions, following)
        return conditional(joint, torch.full_like(joint, 1.0 / following)), joint[..., :0]

    def divergence(self, t: int) -> Tensor | None:
        """None: the dynamics are the true ones, from which frequencies differ by chance alone."""
        return None


@dataclass(frozen=True, eq=False)
class FreshPaths:
    """Trajectories of a program under a fitted policy, by running it."""

    sampler: Any
    policy: Any

    def sample(self, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
        """States int64 [N, T + 1] ([N, T] without s_{T+1}), and actions int64 [N, T]."""
        with torch.no_grad():
            fresh = self.sampler.draw(self.policy, num_samples, seeded(seed))
        return fresh.states, fresh.actions

    def log_prob(self, states: Tensor, actions: Tensor) -> Tensor:
        """Raises NotKnown: the program's further latents are drawn, not summed out."""
        kind = "the answer of a sampled fit"
        raise NotKnown("probabilities of whole trajectories", kind, "ask 'enumeration', which sums over latents")


def _mean_rows(rows: Tensor, states: Tensor, num_states: int) -> Tensor:
    """[S, A], the mean of rows [N, A] over the trajectories in each state; uniform where there are none."""
    total = torch.zeros(num_states, rows.shape[-1], dtype=torch.float64).index_add(0, states, rows)
    return conditional(total, torch.full_like(total, 1.0 / rows.shape[-1]))
