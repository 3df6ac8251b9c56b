"""What a stationary linear-Gaussian policy is worth under the true dynamics: discounted sums, and the long run."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from cai.inference.gaussian.moments import Account, entropies_of_widths, stage_divergence
from cai.inference.gaussian.problem import GaussianPrior, GaussianProblem, Quadratic, symmetric, times
from cai.models.common.shapes import broadcast_shapes

__all__ = [
    "Law",
    "average_account",
    "discounted_account",
    "discounted_return",
    "expected",
    "expected_cost",
    "geometric_sum",
    "entry_size",
    "largest_modulus",
    "lift",
    "long_run_law",
]

ROUNDS = 60  # of doubling: series of up to 2^60 terms
SETTLED = 1e-15  # relative change of a sum
MARGIN = 1e-9  # from 1, of the modulus of an eigenvalue that counts as stable
EXCITED = 1e-12  # of a vector, its share along an eigenvector that is more than rounding


class Law(NamedTuple):
    """The law of the states in the long run.

    Attributes:
        mean: [..., n].
        covariance: [..., n, n].
    """

    mean: Tensor
    covariance: Tensor


class _Chain(NamedTuple):
    """The chain under a policy: s' = A s + c + N(0, W)."""

    A: Tensor
    c: Tensor
    W: Tensor


def discounted_account(problem: GaussianProblem, policy: GaussianPrior, width: Tensor) -> Account:
    """Expected discounted sums from the start on, [...] each.

    Args:
        problem: of one step, with a discount below 1.
        policy: of one step.
        width: [..., 1, m, m], a triangular factor of its covariance, width width'.
    """
    chain, stage = _chain(problem, policy), _divergence(problem, policy, width)
    nothing = problem.mean.new_zeros(problem.batch)
    return Account(
        believed_return=nothing + discounted_return(problem, policy),
        policy_divergence=nothing + _discounted_sum(stage, chain, problem),
        policy_entropy=nothing + entropies_of_widths(width)[..., 0] / (1 - problem.discount),
        luck=nothing,
    )


def average_account(problem: GaussianProblem, policy: GaussianPrior, width: Tensor, law: Law) -> Account:
    """What a step earns and pays under the law of the long run, [...] each.

    Args:
        problem: of one step.
        policy: of one step.
        width: [..., 1, m, m], a triangular factor of its covariance, width width'.
        law: of the chain under the policy.
    """
    nothing = problem.mean.new_zeros(problem.batch)
    return Account(
        believed_return=nothing - expected(expected_cost(problem, policy), law),
        policy_divergence=nothing + expected(_divergence(problem, policy, width), law),
        policy_entropy=nothing + entropies_of_widths(width)[..., 0],
        luck=nothing,
    )


def long_run_law(problem: GaussianProblem, policy: GaussianPrior) -> Law | None:
    """The stationary law of the chain under a policy; None where it has none, as an eigenvalue is not below 1."""
    chain = _chain(problem, policy)
    if largest_modulus(chain.A) >= 1 - MARGIN:
        return None
    own = torch.eye(problem.num_states, dtype=chain.A.dtype, device=chain.A.device)
    mean = torch.linalg.solve(own - chain.A, chain.c[..., None])[..., 0]
    return Law(mean, _lyapunov(chain.A, chain.W, 1.0))


def largest_modulus(matrix: Tensor) -> float:
    """The spectral radius; of a batch the largest one."""
    return float(torch.linalg.eigvals(matrix.detach()).abs().amax())


def expected(stage: Quadratic, law: Law) -> Tensor:
    """[...], the mean of a quadratic function of the state."""
    return stage(law.mean) + (stage.P * law.covariance).sum((-2, -1)) / 2


def _chain(problem: GaussianProblem, policy: GaussianPrior) -> _Chain:
    A, B = problem.A[..., 0, :, :], problem.B[..., 0, :, :]
    gain, offset, covariance = policy.gain[..., 0, :, :], policy.offset[..., 0, :], policy.covariance[..., 0, :, :]
    noise = symmetric(B @ covariance @ B.mT) + problem.noise[..., 0, :, :]
    return _Chain(A + B @ gain, times(B, offset) + problem.offset[..., 0, :], noise)


def expected_cost(problem: GaussianProblem, policy: GaussianPrior) -> Quadratic:
    """What a step is expected to cost, as a function of its state; of one step."""
    n = problem.num_states
    gain, offset, covariance = policy.gain[..., 0, :, :], policy.offset[..., 0, :], policy.covariance[..., 0, :, :]
    C, g = problem.cost[..., 0, :, :], problem.linear[..., 0, :]
    lifted = lift(gain)
    z = torch.cat([torch.zeros_like(offset[..., :1]).expand(*offset.shape[:-1], n), offset], -1)
    spread = (C[..., n:, n:] * covariance).sum((-2, -1)) / 2
    constant = (z * (times(C, z) / 2 + g)).sum(-1) + spread + problem.constant[..., 0]
    return Quadratic(symmetric(lifted.mT @ C @ lifted), times(lifted.mT, times(C, z) + g), constant)


def _divergence(problem: GaussianProblem, policy: GaussianPrior, width: Tensor) -> Quadratic:
    """The KL of the one step's policy from the prior, as a function of the state, nats."""
    paid = stage_divergence(policy, problem.prior, width)
    return Quadratic(paid.P[..., 0, :, :], paid.p[..., 0, :], paid.rho[..., 0])


def discounted_return(problem: GaussianProblem, policy: GaussianPrior) -> Tensor:
    """[...], the expected discounted sum of rewards of a stationary policy."""
    chain = _chain(problem, policy)
    return -_discounted_sum(expected_cost(problem, policy), chain, problem)


def lift(gain: Tensor) -> Tensor:
    """[I; K], [..., n + m, n]: what a state and the mean action in it are together."""
    n = gain.shape[-1]
    own = torch.eye(n, dtype=gain.dtype, device=gain.device).expand(*gain.shape[:-2], n, n)
    return torch.cat([own, gain], -2)


def _discounted_sum(stage: Quadratic, chain: _Chain, problem: GaussianProblem) -> Tensor:
    """[...], the expected discounted sum of a quadratic function of the states from the start on."""
    discount = problem.discount
    P = _lyapunov(chain.A.mT, stage.P, discount)
    right = stage.p + discount * times(chain.A.mT, times(P, chain.c))
    p = geometric_sum(discount * chain.A.mT, right)
    drift = (chain.c * (times(P, chain.c) / 2 + p)).sum(-1) + (P * chain.W).sum((-2, -1)) / 2
    rho = (stage.rho + discount * drift) / (1 - discount)
    return Quadratic(P, p, rho)(problem.mean) + (P * problem.covariance).sum((-2, -1)) / 2


def geometric_sum(matrix: Tensor, vector: Tensor) -> Tensor:
    """[..., n], the sum of matrix^k vector over k = 0, 1, ..; infinite where there is none."""
    own = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    total = torch.linalg.solve_ex(own - matrix, vector[..., None]).result[..., 0]  # also where the sum has no limit
    if bool(torch.isfinite(matrix).all()) and largest_modulus(matrix) < 1 - MARGIN:
        return total
    with torch.no_grad():
        held = torch.where(torch.isfinite(matrix), matrix, 0.0)
        values, vectors = torch.linalg.eig(held)  # of length 1
        shares = torch.linalg.solve_ex(vectors, vector[..., None].to(vectors.dtype)).result[..., 0].abs()
        quiet = shares <= EXCITED * torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
        settles = (quiet | (values.abs() < 1)).all(-1, keepdim=True) & (held == matrix).all(-1).all(-1, keepdim=True)
    return torch.where(settles, total, math.inf)


def _lyapunov(A: Tensor, Q: Tensor, discount: float) -> Tensor:
    """X = Q + discount A X A', by doubling the number of terms of its series (Smith 1968): sums of equal signs.

    Infinite where the series does not settle. Where powers of A vanish it goes on until they do: entries of X may be
    many orders apart, and those of its gradients are.
    """
    A, X = discount**0.5 * A, symmetric(Q).expand(broadcast_shapes(A.shape, Q.shape))
    lasts = torch.linalg.eigvals(A.detach()).abs().amax(-1) >= 1 - MARGIN
    for _ in range(ROUNDS):
        change = symmetric(A @ X @ A.mT)
        vanished = entry_size(A) ** 2 <= SETTLED / 10
        X, A = X + change, A @ A
        settled = (entry_size(change) <= SETTLED / 10 * entry_size(X)) & (vanished | lasts)
        if bool(settled.all()):
            break
    return torch.where(settled[..., None, None], X, math.inf)


def entry_size(matrix: Tensor) -> Tensor:
    """[...], the largest size of an entry of each matrix [..., n, n]; without gradients."""
    return matrix.detach().abs().amax((-2, -1))
