"""Infinite horizons with fixed dynamics: the stationary Riccati solution, discounted or per step of the long run.

The quadratic part P of the message is the limit of finite horizons, found by doubling them (Anderson 1978,
Second-order convergent algorithms for the steady-state Riccati equation): after k rounds it is that of 2^k steps. Its
linear part then solves one linear system, and its constant is one division by 1 - discount, or what a step gains where
there is no discount.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cai.inference.core.status import Status
from cai.inference.gaussian.existence import first_failure
from cai.inference.gaussian.messages import Messages, backward
from cai.inference.gaussian.moments import Account, believe, entropies, stage_divergence
from cai.inference.gaussian.posterior import GaussianPosterior
from cai.inference.gaussian.problem import GaussianPrior, GaussianProblem, Quadratic, symmetric, times

__all__ = ["stationary_posterior"]

ROUNDS = 60  # of doubling: horizons up to 2^60 steps
SETTLED = 1e-14  # relative change of P
MARGIN = 1e-9  # from 1, of the modulus of an eigenvalue that counts as stable
RESIDUAL = 1e-9  # relative, of the stationary equation
UNKNOWN = ("log_evidence", "elbo", "believed_return", "luck", "policy_divergence", "policy_entropy")


def stationary_posterior(
    problem: GaussianProblem, common: dict[str, Any], details: dict[str, Any], *, average: bool
) -> GaussianPosterior:
    """The answer over an infinite horizon with fixed dynamics.

    Args:
        problem: of one step.
        common: backend, target, model and horizon of the answer.
        details: its further numbers.
        average: whether numbers are per step of the long run (discount 1); then values are relative, with mean 0 under
            the stationary law, and no bound is known.
    """
    problem = replace(problem, endless=True)
    last = backward(problem)
    failure = first_failure(problem, last)
    if failure is not None:  # then the last step of every finite horizon has no finite value
        found = details | {"step": "last", "eigenvalue": failure.eigenvalue, "failed": failure.kind}
        return _failed(problem, common, found, failure.sentence(), Status.INFINITE)
    P = _limit(problem)
    if P is None:
        return _failed(problem, common, details, "values of longer and longer horizons grow without end")
    gain = backward(_followed_by(problem, P, torch.zeros_like(P[..., 0]))).gain[..., 0, :, :]
    closed = problem.A[..., 0, :, :] + problem.B[..., 0, :, :] @ gain
    if average and not (largest := float(torch.linalg.eigvals(closed.detach()).abs().amax())) < 1 - MARGIN:
        why = f"under its policy the chain has no stationary law: an eigenvalue of A + B K has modulus {largest:.6g}"
        return _failed(problem, common, details, why, Status.NOT_ASSURED)
    messages, per_step = _completed(problem, P, gain, closed)
    failure = first_failure(problem, messages)
    if failure is not None:
        return _failed(problem, common, details | {"eigenvalue": failure.eigenvalue}, failure.sentence())
    if not bool((messages.first.P - P).abs().amax() <= RESIDUAL * P.abs().amax()):
        return _failed(problem, common, details, "doubled horizons settle where no stationary equation holds")
    policy = GaussianPrior(messages.gain, messages.offset, messages.covariance)
    parts = common | {"problem": problem, "conduct": policy, "belief": believe(problem, messages)}
    finish = _averaged if average else _discounted
    return finish(problem, messages, per_step, policy, parts, details)


def _failed(
    problem: GaussianProblem,
    common: dict[str, Any],
    details: dict[str, Any],
    why: str,
    status: Status = Status.DIVERGED,
) -> GaussianPosterior:
    unknown = dict.fromkeys(UNKNOWN)
    return GaussianPosterior(**common, **unknown, problem=problem, status=status, details=details | {"why": why})


# ---- the message ------------------------------------------------------------------------------------------------


def _limit(problem: GaussianProblem) -> Tensor | None:
    """P [..., n, n], the limit of finite horizons; None where there is none."""
    n, root = problem.num_states, problem.discount**0.5
    cost = problem.folded().P[..., 0, :, :].expand(*problem.batch, -1, -1)
    A, B = problem.A[..., 0, :, :], problem.B[..., 0, :, :]
    factor = torch.linalg.cholesky(cost[..., n:, n:])
    freed = torch.cholesky_solve(cost[..., n:, :n], factor)
    A = root * (A - B @ freed)
    G = problem.discount * B @ torch.cholesky_solve(B.mT.expand(*factor.shape[:-2], *B.mT.shape[-2:]), factor)
    P = symmetric(cost[..., :n, :n] - cost[..., :n, n:] @ freed)
    own = torch.eye(n, dtype=P.dtype, device=P.device)
    for _ in range(ROUNDS):
        solved = torch.linalg.solve_ex(own + G @ P, torch.cat([A.expand_as(P), G.expand_as(P)], -1)).result
        across, spread = solved[..., :n], solved[..., n:]
        A, G, change = A @ across, symmetric(G + A @ spread @ A.mT), A.mT @ (P @ across)
        P = symmetric(P + change)
        size = P.detach().abs().amax()
        if not bool(torch.isfinite(size)):
            return None
        if bool(change.detach().abs().amax() <= SETTLED * size):
            return P
    return None


def _completed(problem: GaussianProblem, P: Tensor, gain: Tensor, closed: Tensor) -> tuple[Messages, Tensor]:
    """The stationary messages whose quadratic part is P, and what a step adds to their constant, [...].

    Args:
        problem: of one step.
        P: [..., n, n].
        gain: [..., m, n], K of the policy.
        closed: [..., n, n], A + B K.
    """
    discount, lift, linear = problem.discount, _lift(gain), problem.folded().p[..., 0, :]
    own = torch.eye(problem.num_states, dtype=P.dtype, device=P.device)
    right = times(lift.mT, linear) + discount * times(closed.mT, times(P, problem.offset[..., 0, :]))
    p = torch.linalg.solve_ex(own - discount * closed.mT, right[..., None]).result[..., 0]
    messages = backward(_followed_by(problem, P, p))
    per_step = messages.first.rho
    if discount < 1:
        messages = backward(_followed_by(problem, P, p, per_step / (1 - discount)))
    return messages, per_step


def _followed_by(problem: GaussianProblem, P: Tensor, p: Tensor, rho: Tensor | None = None) -> GaussianProblem:
    """The problem of one step, after which a state costs 1/2 s'P s + p's + rho."""
    return replace(problem, final=Quadratic(P, p, torch.zeros_like(p[..., 0]) if rho is None else rho))


# ---- what it is worth -------------------------------------------------------------------------------------------


class _Chain(NamedTuple):
    """The chain under the policy: s' = A s + c + N(0, W)."""

    A: Tensor
    c: Tensor
    W: Tensor


def _chain(problem: GaussianProblem, policy: GaussianPrior) -> _Chain:
    A, B = problem.A[..., 0, :, :], problem.B[..., 0, :, :]
    gain, offset, covariance = policy.gain[..., 0, :, :], policy.offset[..., 0, :], policy.covariance[..., 0, :, :]
    noise = symmetric(B @ covariance @ B.mT) + problem.noise[..., 0, :, :]
    return _Chain(A + B @ gain, times(B, offset) + problem.offset[..., 0, :], noise)


def _paid_by_state(problem: GaussianProblem, policy: GaussianPrior) -> tuple[Quadratic, Quadratic]:
    """Of a state, what is expected of the step's cost, and the KL of the policy from the prior: two quadratics."""
    n = problem.num_states
    gain, offset, covariance = policy.gain[..., 0, :, :], policy.offset[..., 0, :], policy.covariance[..., 0, :, :]
    C, g = problem.cost[..., 0, :, :], problem.linear[..., 0, :]
    lift = _lift(gain)
    z = torch.cat([torch.zeros_like(offset[..., :1]).expand(*offset.shape[:-1], n), offset], -1)
    cost = Quadratic(
        symmetric(lift.mT @ C @ lift),
        times(lift.mT, times(C, z) + g),
        (z * (times(C, z) / 2 + g)).sum(-1)
        + (C[..., n:, n:] * covariance).sum((-2, -1)) / 2
        + problem.constant[..., 0],
    )
    paid = stage_divergence(policy, problem.prior)
    return cost, Quadratic(paid.P[..., 0, :, :], paid.p[..., 0, :], paid.rho[..., 0])


def _lift(gain: Tensor) -> Tensor:
    """[I; K], [..., n + m, n]: what a state and the mean action in it are together."""
    n = gain.shape[-1]
    own = torch.eye(n, dtype=gain.dtype, device=gain.device).expand(*gain.shape[:-2], n, n)
    return torch.cat([own, gain], -2)


def _discounted_sum(stage: Quadratic, chain: _Chain, problem: GaussianProblem) -> Tensor:
    """[...], the expected discounted sum of a quadratic function of the states from the start on."""
    discount, n = problem.discount, problem.num_states
    own = torch.eye(n, dtype=stage.P.dtype, device=stage.P.device)
    P = _lyapunov(chain.A.mT, stage.P, discount)
    right = stage.p + discount * times(chain.A.mT, times(P, chain.c))
    p = torch.linalg.solve(own - discount * chain.A.mT, right[..., None])[..., 0]
    drift = (chain.c * (times(P, chain.c) / 2 + p)).sum(-1) + (P * chain.W).sum((-2, -1)) / 2
    rho = (stage.rho + discount * drift) / (1 - discount)
    return Quadratic(P, p, rho)(problem.mean) + (P * problem.covariance).sum((-2, -1)) / 2


def _lyapunov(A: Tensor, Q: Tensor, discount: float) -> Tensor:
    """X = Q + discount A X A', by doubling the number of terms of its series (Smith 1968): sums of equal signs."""
    A, X = discount**0.5 * A, symmetric(Q).expand(torch.broadcast_shapes(A.shape, Q.shape))
    for _ in range(ROUNDS):
        change = symmetric(A @ X @ A.mT)
        X, A = X + change, A @ A
        if not bool(change.detach().abs().amax() > SETTLED / 10 * X.detach().abs().amax()):
            break
    return X


def _discounted(
    problem: GaussianProblem,
    messages: Messages,
    per_step: Tensor,
    policy: GaussianPrior,
    parts: dict[str, Any],
    details: dict[str, Any],
) -> GaussianPosterior:
    """The discounted answer: sums over the whole future."""
    chain = _chain(problem, policy)
    cost, divergence = _paid_by_state(problem, policy)
    bound = messages.start / problem.temperature
    paid = Account(
        believed_return=-_discounted_sum(cost, chain, problem).expand(problem.batch),
        policy_divergence=_discounted_sum(divergence, chain, problem).expand(problem.batch),
        policy_entropy=(_entropy(policy) / (1 - problem.discount)).expand(problem.batch),
        luck=torch.zeros_like(bound),
    )
    details["start"] = float(bound.detach()) if bound.dim() == 0 else bound.detach()
    return GaussianPosterior(
        **parts, messages=messages, account=paid, elbo=bound, status=Status.SUCCESS, details=details
    )


def _averaged(
    problem: GaussianProblem,
    messages: Messages,
    per_step: Tensor,
    policy: GaussianPrior,
    parts: dict[str, Any],
    details: dict[str, Any],
) -> GaussianPosterior:
    """The answer per step of the long run, whose law is that of the stable chain under the policy."""
    chain = _chain(problem, policy)
    own = torch.eye(problem.num_states, dtype=chain.A.dtype, device=chain.A.device)
    mean = torch.linalg.solve(own - chain.A, chain.c[..., None])[..., 0]
    spread = _lyapunov(chain.A, chain.W, 1.0)

    def expected(stage: Quadratic) -> Tensor:
        return (stage(mean) + (stage.P * spread).sum((-2, -1)) / 2).expand(problem.batch)

    cost, divergence = _paid_by_state(problem, policy)
    paid = Account(
        believed_return=-expected(cost),
        policy_divergence=expected(divergence),
        policy_entropy=_entropy(policy).expand(problem.batch),
        luck=torch.zeros_like(per_step),
    )
    first = messages.first
    shift = -expected(Quadratic(first.P, first.p, torch.zeros_like(first.rho)))
    P, p, rho = messages.cost_to_go
    relative = replace(messages, cost_to_go=Quadratic(P, p, shift[..., None].expand_as(rho)))
    gain = -per_step
    details |= {"gain": float(gain.detach()) if gain.dim() == 0 else gain.detach()}
    details |= {"stationary_mean": mean.detach(), "stationary_covariance": spread.detach()}
    return GaussianPosterior(
        **parts, messages=relative, account=paid, average_reward=gain, elbo=None, status=Status.SUCCESS, details=details
    )


def _entropy(policy: GaussianPrior) -> Tensor:
    """[...], of the policy's one step, nats."""
    return entropies(policy.covariance)[..., 0]
