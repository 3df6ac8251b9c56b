"""What q does: the dynamics it believes in, the moments of states and actions along it, and what it earns and pays."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from cai.inference.core.storage import storable
from cai.inference.gaussian.messages import Messages
from cai.inference.gaussian.problem import GaussianPrior, GaussianProblem, Quadratic, product, symmetric, times
from cai.inference.gaussian.spectrum import log_det_excess
from cai.models.common.shapes import broadcast_shapes

__all__ = [
    "Account",
    "Belief",
    "Moments",
    "account",
    "alive",
    "believe",
    "condition",
    "divergence_parts",
    "entropies",
    "entropies_of_widths",
    "expected_return",
    "expected_rewards",
    "forward",
    "luck_by_step",
    "stage_divergence",
]


@storable(
    "gaussian-belief",
    axes={
        "A": "... T n n",
        "B": "... T n m",
        "offset": "... T n",
        "noise": "... T n n",
        "mean": "... n",
        "covariance": "... n n",
        "shrunk": "... T n n",
        "start_shrunk": "... n n",
    },
)
class Belief(NamedTuple):
    """q(s_1) = N(mean, covariance), and q(s_{t+1} | s_t, a_t) = N(A s + B a + offset, noise).

    Attributes:
        A: [..., T, n, n].
        B: [..., T, n, m].
        offset: [..., T, n].
        noise: [..., T, n, n].
        mean: [..., n].
        covariance: [..., n, n].
        shrunk: [..., T, n, n], G = (I + theta W P)^-1, the share of a deviation that outcomes keep.
        start_shrunk: [..., n, n], the same of the start.
    """

    A: Tensor
    B: Tensor
    offset: Tensor
    noise: Tensor
    mean: Tensor
    covariance: Tensor
    shrunk: Tensor
    start_shrunk: Tensor


@storable(
    "gaussian-moments",
    axes={
        "state_means": "... T+1 n",
        "state_covariances": "... T+1 n n",
        "action_means": "... T m",
        "action_covariances": "... T m m",
        "cross": "... T n m",
    },
)
class Moments(NamedTuple):
    """Means and covariances along q.

    Attributes:
        state_means: [..., T + 1, n].
        state_covariances: [..., T + 1, n, n].
        action_means: [..., T, m].
        action_covariances: [..., T, m, m].
        cross: [..., T, n, m], cov(s_t, a_t).
    """

    state_means: Tensor
    state_covariances: Tensor
    action_means: Tensor
    action_covariances: Tensor
    cross: Tensor


@storable("gaussian-account")
class Account(NamedTuple):
    """What q earns and pays, [...] each.

    Attributes:
        believed_return: reward units.
        policy_divergence: nats; minus the entropy where the action prior is flat.
        policy_entropy: nats.
        luck: nats.
    """

    believed_return: Tensor
    policy_divergence: Tensor
    policy_entropy: Tensor
    luck: Tensor


def condition(mean: Tensor, covariance: Tensor, P: Tensor, p: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """N(mean, covariance) times exp(-theta (1/2 x'P x + p'x)), normalised.

    Args:
        mean: [..., n].
        covariance: [..., n, n], which may be singular.
        P: [..., n, n].
        p: [..., n].
        theta: [...].

    Returns:
        Mean, covariance, and G = (I + theta W P)^-1 [..., n, n].
    """
    size = covariance.shape[-1]
    own = torch.eye(size, dtype=covariance.dtype, device=covariance.device)
    shrunk = torch.linalg.inv_ex(own + theta[..., None, None] * product(covariance, P)).inverse.contiguous()
    tilted = symmetric(product(shrunk, covariance))
    return times(shrunk, mean - theta[..., None] * times(covariance, p)), tilted, shrunk


def believe(problem: GaussianProblem, messages: Messages) -> Belief:
    """The dynamics and the start of q: the true ones, tilted by exp(theta V)."""
    shape, n, m, horizon = problem.batch, problem.num_states, problem.num_actions, problem.horizon
    first, following, theta = messages.first, messages.following, messages.theta
    mean, covariance, start_shrunk = condition(problem.mean, problem.covariance, first.P, first.p, theta)
    offset, noise, shrunk = condition(problem.offset, problem.noise, following.P, following.p, theta[..., None])
    return Belief(
        A=(shrunk @ problem.A).expand(*shape, horizon, n, n),
        B=(shrunk @ problem.B).expand(*shape, horizon, n, m),
        offset=offset.expand(*shape, horizon, n),
        noise=noise.expand(*shape, horizon, n, n),
        mean=mean.expand(*shape, n),
        covariance=covariance.expand(*shape, n, n),
        shrunk=shrunk,
        start_shrunk=start_shrunk,
    )


def forward(belief: Belief, policy: GaussianPrior) -> Moments:
    """The moments of q, from its start on.

    Args:
        belief: q's dynamics and start.
        policy: q(a_t | s_t) = N(gain s + offset, covariance), with T steps.
    """
    gain, shift, spread = policy
    closed = belief.A + belief.B @ gain
    drift = times(belief.B, shift) + belief.offset
    noise = symmetric(belief.B @ spread @ belief.B.mT + belief.noise)
    mean, covariance = belief.mean[..., None], belief.covariance
    means, covariances = [mean], [covariance]
    for A, c, W in zip(closed.unbind(-3), drift[..., None].unbind(-3), noise.unbind(-3), strict=True):
        mean = product(A, mean) + c
        covariance = symmetric(product(product(A, covariance), A.mT)) + W
        means.append(mean)
        covariances.append(covariance)
    states, widths = torch.stack(means, -3)[..., 0], torch.stack(covariances, -3)
    cross = widths[..., :-1, :, :] @ gain.mT
    return Moments(
        state_means=states,
        state_covariances=widths,
        action_means=times(gain, states[..., :-1, :]) + shift,
        action_covariances=symmetric(gain @ cross) + spread,
        cross=cross,
    )


def account(
    problem: GaussianProblem, messages: Messages | None, belief: Belief, policy: GaussianPrior, moments: Moments
) -> Account:
    """What q earns and pays; under a discount, what is left of it at each step.

    Args:
        problem: what was asked.
        messages: that tilted the dynamics; None where q's dynamics are the true ones, so that nothing is hoped for.
        belief: q's dynamics and start.
        policy: q's actions.
        moments: along q.
    """
    weights = alive(problem)[:-1]
    entropy = entropies(policy.covariance)
    paid, states, spread = stage_divergence(policy, problem.prior), moments.state_means, moments.state_covariances
    divergence = _expected(paid.P, paid.p, states[..., :-1, :], spread[..., :-1, :, :]) + paid.rho
    luck = entropy.new_zeros(problem.batch)
    if messages is not None and bool((messages.theta != 0).any()):
        luck = luck_by_step(problem, messages, belief, moments).sum(-1)
    return Account(
        believed_return=expected_return(problem, moments),
        policy_divergence=(weights * divergence).sum(-1).expand(problem.batch),
        policy_entropy=(weights * entropy).sum(-1).expand(problem.batch),
        luck=luck,
    )


def expected_return(problem: GaussianProblem, moments: Moments) -> Tensor:
    """[...], the expected sum of rewards along moments, reward units; of what the discount leaves of each step."""
    return expected_rewards(problem, moments).sum(-1)


def expected_rewards(problem: GaussianProblem, moments: Moments) -> Tensor:
    """[..., T + 1], what each step pays along moments, and the end, reward units; of what the discount leaves of it."""
    return -(alive(problem) * _costs(problem, moments))


def alive(problem: GaussianProblem) -> Tensor:
    """[T + 1], the probability that the discount has left the chain alive when a step, and the end, is paid."""
    return torch.tensor((1.0, *problem.discounts), dtype=problem.mean.dtype, device=problem.mean.device).cumprod(0)


def _costs(problem: GaussianProblem, moments: Moments) -> Tensor:
    """[..., T + 1], the expected cost of each step, and the final one."""
    states, spread = moments.state_means[..., :-1, :], moments.state_covariances[..., :-1, :, :]
    z = torch.cat([states, moments.action_means], -1)
    above = torch.cat([spread, moments.cross], -1)
    below = torch.cat([moments.cross.mT, moments.action_covariances], -1)
    stages = _expected(problem.cost, problem.linear, z, torch.cat([above, below], -2)) + problem.constant
    P, p, rho = problem.final
    last = _expected(P, p, moments.state_means[..., -1, :], moments.state_covariances[..., -1, :, :]) + rho
    return torch.cat([stages, last[..., None]], -1)


def _expected(P: Tensor, p: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """E[1/2 x'P x + p'x]."""
    return (P * covariance).sum((-2, -1)) / 2 + (mean * (times(P, mean) / 2 + p)).sum(-1)


def entropies(covariance: Tensor) -> Tensor:
    """[...], the differential entropies of Gaussians with covariances [..., m, m], nats."""
    return entropies_of_widths(torch.linalg.cholesky(covariance))


def entropies_of_widths(width: Tensor) -> Tensor:
    """[...], the differential entropies of Gaussians by triangular factors [..., m, m] of covariances, nats."""
    return width.diagonal(dim1=-2, dim2=-1).log().sum(-1) + width.shape[-1] / 2 * (1 + math.log(2 * math.pi))


def stage_divergence(policy: GaussianPrior, prior: GaussianPrior | None, width: Tensor | None = None) -> Quadratic:
    """KL(policy || prior) in nats as a function of the state, [..., T, ...]; minus the entropy without a prior.

    A triangular factor of the policy's covariance, width width', may be given: it holds twice the digits.
    """
    width = torch.linalg.cholesky(policy.covariance) if width is None else width
    lean, miss, spread = divergence_parts(policy, prior, width)
    return Quadratic(lean.mT @ lean, (lean.mT @ miss[..., None])[..., 0], miss.square().sum(-1) / 2 + spread)


def divergence_parts(
    policy: GaussianPrior, prior: GaussianPrior | None, width: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """KL(policy || prior) is 1/2 |lean s + miss|^2 + spread, nats.

    Args:
        policy: gain [..., T, m, n], offset and covariance.
        prior: likewise; None for the flat one.
        width: [..., T, m, m], a triangular factor of the policy's covariance, width width'.

    Returns:
        lean [..., T, m, n], miss [..., T, m] and spread [..., T]; without a prior 0, 0 and minus the entropy.
    """
    if prior is None:
        return torch.zeros_like(policy.gain), torch.zeros_like(policy.offset), -entropies_of_widths(width)
    root = torch.linalg.cholesky(prior.covariance)
    gains, offsets = policy.gain - prior.gain, policy.offset - prior.offset
    shape = broadcast_shapes(root.shape[:-2], gains.shape[:-2], offsets.shape[:-1], width.shape[:-2])
    m, n = gains.shape[-2:]
    parts = [gains.expand(*shape, m, n), offsets[..., None].expand(*shape, m, 1), width.expand(*shape, m, m)]
    lean, miss, ratio = torch.linalg.solve_triangular(root, torch.cat(parts, -1), upper=False).split([n, 1, m], -1)
    logs = [part.diagonal(dim1=-2, dim2=-1).log().sum(-1) for part in (width, root)]
    return lean, miss[..., 0], (ratio.square().sum((-2, -1)) - m) / 2 - (logs[0] - logs[1])


def luck_by_step(problem: GaussianProblem, messages: Messages, belief: Belief, moments: Moments) -> Tensor:
    """[..., T + 1], the KL of q's start from the true one, and of its dynamics at each step, nats; no discount."""
    first, theta = messages.first, messages.theta
    certain = torch.zeros_like(first.P)
    paid = _tilt_divergence(problem.covariance, first, theta, belief.start_shrunk, problem.mean, certain)
    z = torch.cat([moments.state_means[..., :-1, :], moments.action_means], -1)
    shape = broadcast_shapes(problem.A.shape[:-2], problem.B.shape[:-2])
    maps = torch.cat([part.expand(*shape, *part.shape[-2:]) for part in (problem.A, problem.B)], -1)
    above = torch.cat([moments.state_covariances[..., :-1, :, :], moments.cross], -1)
    below = torch.cat([moments.cross.mT, moments.action_covariances], -1)
    spread = maps @ torch.cat([above, below], -2) @ maps.mT
    mean = times(maps, z) + problem.offset
    steps = _tilt_divergence(problem.noise, messages.following, theta[..., None], belief.shrunk, mean, spread)
    return torch.cat([paid[..., None].expand(*steps.shape[:-1], 1), steps], -1)


def _tilt_divergence(
    noise: Tensor, cost: Quadratic, theta: Tensor, shrunk: Tensor, mean: Tensor, spread: Tensor
) -> Tensor:
    """[...], E KL(N(x, noise) tilted by exp(-theta cost) || N(x, noise)) for x of a mean and a covariance.

    With G = (I + theta W P)^-1 the tilted mean lies theta G W (P x + p) away, and no inverse of W is needed.
    """
    P, p, _ = cost
    spectrum = noise @ P
    log_det = -torch.linalg.slogdet(shrunk).logabsdet
    excess = log_det_excess(spectrum, theta.expand_as(log_det), log_det, shrunk)
    slope = times(P, mean) + p
    weight = shrunk @ noise @ shrunk.mT
    moved = (slope * times(weight, slope)).sum(-1) + (weight * (P @ spread @ P)).sum((-2, -1))
    return ((excess + theta.square() * moved) / 2).clamp(min=0)
