"""The bound of linear-Gaussian policies on a linear-Gaussian model, exactly, and where it rises.

With a = K s + k + N(0, Sigma) all moments of states and actions are known, and so is

    bound = E_q[sum_t gamma^t (r_t - alpha log q(a_t|s_t) / p(a_t|s_t))] / alpha.

What follows an action is worth a quadratic function of it: policy evaluation, the step of a linear recursion that takes
the policy as it is, gives its Hessian H and slope h in z = (s, a). With x = (s, 1), Kbar = [K, k] and w_t the chance
that the discount has left the chain alive, the gradient in Kbar is -sum_t w_t (Haa Kbar + [Has, ha]) E[x x'] / alpha
and that in Sigma sum_t w_t (Sigma^-1 - Haa / alpha) / 2. A Gauss-Newton step solves sum_t w_t Haa D E[x x'] = -gradient
(policy iteration where each time has a policy of its own), and the best Sigma for a given Kbar is alpha over the mean
of Haa.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cai.inference.gaussian.existence import Failure, slack
from cai.inference.gaussian.moments import Belief, Moments, expected_return, forward, stage_divergence
from cai.inference.gaussian.problem import GaussianPrior, GaussianProblem, at_steps, symmetric, times
from cai.inference.gaussian.worth import true_belief
from cai.models.common.shapes import broadcast_shapes

__all__ = ["Improvement", "LinearBound"]

CUTOFF = 1e-13  # of the largest eigenvalue: directions of Kbar that move no action that is ever taken


class Improvement(NamedTuple):
    """Where the bound rises from a policy.

    Attributes:
        direction: [..., T or 1, m, n + 1], the Gauss-Newton step of Kbar = [K, k].
        covariance: [..., T or 1, m, m], the best one for this Kbar.
        promised: [...], nats, what a step of both is to gain.
    """

    direction: Tensor
    covariance: Tensor
    promised: Tensor


class LinearBound:
    """The bound on one problem, as a function of [K, k] [..., T or 1, m, n + 1] and Sigma [..., T or 1, m, m].

    Args:
        problem: of a finite horizon, without gradients.
        stationary: whether one K, k, Sigma serves all times.
    """

    def __init__(self, problem: GaussianProblem, stationary: bool) -> None:
        self.problem, self.stationary = problem, stationary
        self.work = problem if stationary and _changes(problem.prior) else problem.centred()
        self.belief: Belief = true_belief(self.work)
        self.folded = self.work.folded()
        alive = torch.tensor((1.0, *problem.discounts), dtype=problem.mean.dtype).cumprod(0)
        self.weights = alive[:-1]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(T, or 1 for a stationary policy; m; n)."""
        return 1 if self.stationary else self.problem.horizon, self.problem.num_actions, self.problem.num_states

    def start(self) -> tuple[Tensor, Tensor]:
        """([K, k], Sigma) of the action prior (its mean over time, for a stationary policy); of a flat one 0 and I."""
        steps, m, n = self.sizes
        batch, prior = self.problem.batch, self.work.prior
        own = torch.eye(m, dtype=self.work.mean.dtype)
        if prior is None:
            return own.new_zeros(*batch, steps, m, n + 1), own.expand(*batch, steps, m, m).clone()
        shape = broadcast_shapes(prior.gain.shape[:-2], prior.offset.shape[:-1])
        parts = (prior.gain, n), (prior.offset[..., None], 1)
        gains = torch.cat([part.expand(*shape, m, wide) for part, wide in parts], -1)
        if self.stationary:
            gains, spread = gains.mean(-3, keepdim=True), prior.covariance.mean(-3, keepdim=True)
        else:
            spread = prior.covariance
        return gains.expand(*batch, steps, m, n + 1).clone(), spread.expand(*batch, steps, m, m).clone()

    def policy(self, gains: Tensor, covariance: Tensor) -> GaussianPrior:
        """q(a_t | s_t) of the problem itself, with T steps."""
        found = self._timed(gains, covariance)
        if self.work is self.problem or self.problem.prior is None:
            return found
        prior = self.problem.prior
        return GaussianPrior(found.gain + prior.gain, found.offset + prior.offset, found.covariance)

    def _timed(self, gains: Tensor, covariance: Tensor) -> GaussianPrior:
        horizon = self.problem.horizon
        gains = gains.expand(*gains.shape[:-3], horizon, *gains.shape[-2:])
        covariance = covariance.expand(*covariance.shape[:-3], horizon, *covariance.shape[-2:])
        return GaussianPrior(gains[..., :-1], gains[..., -1], covariance)

    def measure(self, gains: Tensor, covariance: Tensor) -> Tensor:
        """[...], the bound in nats."""
        policy = self._timed(gains, covariance)
        return self._bound(policy, forward(self.belief, policy))

    def _bound(self, policy: GaussianPrior, moments: Moments) -> Tensor:
        paid = stage_divergence(policy, self.work.prior)
        means, spread = moments.state_means[..., :-1, :], moments.state_covariances[..., :-1, :, :]
        divergence = paid(means) + (paid.P * spread).sum((-2, -1)) / 2
        earned = expected_return(self.work, moments) / self.work.temperature
        return (earned - (self.weights * divergence).sum(-1)).expand(self.problem.batch)

    def improve(self, gains: Tensor, covariance: Tensor) -> tuple[Improvement | None, Failure | None]:
        """The step from a policy; or why there is none: some Haa is not positive definite, so no bound is the best."""
        n, alpha = self.work.num_states, self.work.temperature[..., None, None]
        policy = self._timed(gains, covariance)
        moments = forward(self.belief, policy)
        hessian, slope = self._ahead(policy)
        Haa, across = hessian[..., n:, n:], torch.cat([hessian[..., n:, :n], slope[..., n:, None]], -1)
        weights = self.weights[:, None, None]
        failure = self._failure((weights * Haa).sum(-3, keepdim=True) if self.stationary else Haa)
        if failure is not None:
            return None, failure
        visits = _second_moments(moments)
        pull = weights * (Haa @ gains + across) @ visits
        if self.stationary:
            pull = pull.sum(-3, keepdim=True)
            metric = torch.einsum("...tij,...tkl->...ikjl", weights * Haa, visits)
            direction = -_solved(metric.flatten(-2).flatten(-3, -2), pull)
            share, mean = self.weights.sum(), (weights * Haa).sum(-3, keepdim=True) / self.weights.sum()
        else:
            root = torch.linalg.cholesky(Haa)
            direction, mean, share = -torch.cholesky_solve(Haa @ gains + across, root), Haa, self.weights
        best = symmetric(alpha[..., None] * torch.cholesky_inverse(torch.linalg.cholesky(mean)))
        promised = -(pull * direction).sum((-3, -2, -1)) / (2 * self.work.temperature)
        ratio = torch.linalg.solve(best, covariance)
        excess = ratio.diagonal(dim1=-2, dim2=-1).sum(-1) - ratio.shape[-1] - torch.linalg.slogdet(ratio).logabsdet
        promised = promised + (share * excess).sum(-1) / 2
        return Improvement(direction, best, promised.expand(self.problem.batch)), None

    def _ahead(self, policy: GaussianPrior) -> tuple[Tensor, Tensor]:
        """H [..., T, n + m, n + m] and h [..., T, n + m]: what z_t and all that follows under the policy cost."""
        work, n, horizon = self.work, self.work.num_states, self.work.horizon
        P, p, _ = work.final
        costs, linears = at_steps(self.folded.P, 2, horizon), at_steps(self.folded.p, 1, horizon)
        maps = [torch.cat(pair, -1) for pair in zip(self.belief.A.unbind(-3), self.belief.B.unbind(-3), strict=True)]
        drifts, discounts = self.belief.offset.unbind(-2), work.discounts
        found: list[tuple[Tensor, Tensor]] = []
        for t in reversed(range(horizon)):
            later, slope, F = discounts[t] * P, discounts[t] * p, maps[t]
            H = symmetric(costs[t] + F.mT @ later @ F)
            h = linears[t] + times(F.mT, times(later, drifts[t]) + slope)
            found.append((H, h))
            K, k = policy.gain[..., t, :, :], policy.offset[..., t, :]
            across, own = H[..., :n, n:] @ K, H[..., n:, n:]
            P = symmetric(H[..., :n, :n] + across + across.mT + K.mT @ own @ K)
            p = h[..., :n] + times(H[..., :n, n:], k) + times(K.mT, h[..., n:] + times(own, k))
        hessians, slopes = zip(*found[::-1], strict=True)
        return torch.stack(torch.broadcast_tensors(*hessians), -3), torch.stack(torch.broadcast_tensors(*slopes), -2)

    def _failure(self, Haa: Tensor) -> Failure | None:
        """The last step whose Haa [..., T or 1, m, m] is not positive definite; None where all are."""
        if not bool(Haa.isfinite().all()):
            return Failure("overflow", None, float("nan"))
        root, fault = torch.linalg.cholesky_ex(Haa)
        n, size = self.work.num_states, self.work.num_states + self.work.num_actions
        stage = Haa.diagonal(dim1=-2, dim2=-1)
        own = self.folded.P.diagonal(dim1=-2, dim2=-1)[..., n:]
        if self.stationary:
            own = (self.weights[:, None] * own).sum(-2, keepdim=True)
        scale = slack(Haa) * size * (own.abs() + (stage - own).abs())
        good = (fault == 0) & (root.diagonal(dim1=-2, dim2=-1).square() > scale).all(-1)
        if bool(good.all()):
            return None
        *member, place = (int(index) for index in torch.nonzero(~good.flip(-1))[0])
        step = good.shape[-1] - 1 - place
        least = float(torch.linalg.eigvalsh(Haa[(*member, step)])[0])
        return Failure("action", None if self.stationary else step, least, tuple(member))


def _second_moments(moments: Moments) -> Tensor:
    """E[x x'] [..., T, n + 1, n + 1] of x = (s_t, 1)."""
    means, spread = moments.state_means[..., :-1, :], moments.state_covariances[..., :-1, :, :]
    x = torch.cat([means, torch.ones_like(means[..., :1])], -1)
    return x[..., :, None] * x[..., None, :] + torch.nn.functional.pad(spread, (0, 1, 0, 1))


def _solved(metric: Tensor, pull: Tensor) -> Tensor:
    """The least solution D [..., 1, m, n + 1] of metric vec(D) = vec(pull), with a metric that may be singular."""
    values, vectors = torch.linalg.eigh(symmetric(metric))
    kept = values > CUTOFF * values[..., -1:]
    inverse = torch.where(kept, 1 / torch.where(kept, values, torch.ones_like(values)), torch.zeros_like(values))
    along = times(vectors.mT, pull.flatten(-3))
    return times(vectors, inverse * along).reshape(pull.shape)


def _changes(prior: GaussianPrior | None) -> bool:
    """Whether the mean of a prior changes with time."""
    if prior is None:
        return False
    return any(bool((part != part.narrow(axis, 0, 1)).any()) for part, axis in ((prior.gain, -3), (prior.offset, -2)))
