"""What a linear-Gaussian policy earns in the true world of a linear-Gaussian model, exactly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cai.inference.gaussian.long_run import discounted_return, expected, expected_cost, long_run_law
from cai.inference.gaussian.moments import Belief, entropies, expected_return, forward
from cai.inference.gaussian.policy import GaussianPolicy
from cai.inference.gaussian.problem import GaussianPrior, GaussianProblem
from cai.inference.gaussian.read import read_problem
from cai.models.continuous.linear_gaussian import LinearGaussianModel

__all__ = ["check_fits", "policy_worth", "true_belief"]


def true_belief(problem: GaussianProblem) -> Belief:
    """The true dynamics and start, as a belief."""
    shape, horizon, n = problem.batch, problem.horizon, problem.num_states
    own = torch.eye(n, dtype=problem.mean.dtype, device=problem.mean.device)
    return Belief(
        A=problem.A.expand(*shape, horizon, n, n),
        B=problem.B.expand(*shape, horizon, n, problem.num_actions),
        offset=problem.offset.expand(*shape, horizon, n),
        noise=problem.noise.expand(*shape, horizon, n, n),
        mean=problem.mean.expand(*shape, n),
        covariance=problem.covariance.expand(*shape, n, n),
        shrunk=own.expand(*shape, horizon, n, n),
        start_shrunk=own.expand(*shape, n, n),
    )


def check_fits(policy: GaussianPolicy, model: LinearGaussianModel) -> None:
    """Refuses a policy of other sizes, or of fewer steps than the model takes.

    Raises:
        ValueError: naming what differs.
    """
    m, n = policy.gain.shape[-2:]
    if (n, m) != (model.state_dim, model.action_dim):
        raise ValueError(
            f"the policy is for {n} coordinates of the state and {m} of the action; the model has {model.state_dim} "
            f"and {model.action_dim}"
        )
    if not model.is_finite and not policy.stationary:
        raise ValueError("the horizon is infinite and the policy knows finitely many steps; give a stationary policy")
    if policy.horizon < model.horizon:
        raise ValueError(
            f"the policy knows {policy.horizon} steps, the model has {model.horizon}; infer with a longer horizon"
        )


@torch.no_grad()
def policy_worth(model: LinearGaussianModel, policy: GaussianPolicy) -> tuple[Tensor, Tensor]:
    """(expected return [...] in reward units, entropy [...] in nats) of a policy under the true dynamics.

    Returns are those of the discounted chain; where the criterion is the average, both are per step of the long run.
    The return is -inf where it has no finite value, as may be over an infinite horizon; the entropy of a policy that is
    certain is -inf.

    Args:
        model: the linear-Gaussian model.
        policy: over its states and actions.

    Raises:
        ValueError: if the policy does not fit the model.
    """
    check_fits(policy, model)
    problem = read_problem(model)
    steps = 1 if policy.stationary else problem.horizon
    follow = GaussianPrior(
        policy.gain[..., :steps, :, :], policy.offset[..., :steps, :], policy.covariance[..., :steps, :, :]
    )
    if model.is_finite:
        return _finite_worth(problem, follow)
    entropy = _entropy(follow.covariance)[..., 0]
    if model.is_average:
        law = long_run_law(problem, follow)
        earned = None if law is None else -expected(expected_cost(problem, follow), law)
    else:
        earned, entropy = discounted_return(problem, follow), entropy / (1 - problem.discount)
    infeasible = torch.full(problem.batch, -math.inf, dtype=entropy.dtype)
    found = infeasible if earned is None else torch.where(torch.isfinite(earned), earned, infeasible)
    return found, entropy.expand(problem.batch)


def _finite_worth(problem: GaussianProblem, policy: GaussianPrior) -> tuple[Tensor, Tensor]:
    horizon = problem.horizon
    gain, offset, covariance = policy
    timed = GaussianPrior(
        gain.expand(*gain.shape[:-3], horizon, *gain.shape[-2:]),
        offset.expand(*offset.shape[:-2], horizon, offset.shape[-1]),
        covariance.expand(*covariance.shape[:-3], horizon, *covariance.shape[-2:]),
    )
    moments = forward(true_belief(problem), timed)
    alive = torch.tensor((1.0, *problem.discounts)[:horizon], dtype=gain.dtype).cumprod(0)
    entropy = (alive * _entropy(timed.covariance)).sum(-1)
    return expected_return(problem, moments), entropy.expand(problem.batch)


def _entropy(covariance: Tensor) -> Tensor:
    """[...], -inf where the covariance is singular."""
    root, fault = torch.linalg.cholesky_ex(covariance)
    proper = (fault == 0) & (root.diagonal(dim1=-2, dim2=-1) > 0).all(-1)
    own = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    held = torch.where(proper[..., None, None], covariance, own)
    return torch.where(proper, entropies(held), torch.full_like(held[..., 0, 0], -math.inf))
