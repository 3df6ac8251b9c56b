"""Estimation: filter and smoother of a linear-Gaussian chain that is seen through noise.

Without actions, with alpha = eta = 1 and the reward log N(y_t; C s_t, V) of a step, the evidence is the likelihood of
the observations, and the marginals of the exact posterior are the smoother's. Quadratic messages find them so where
the start is hardly known; elsewhere the filter's own steps, gone back, lose fewer digits.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cai.inference.gaussian.chain import Chain, Seen, read_chain
from cai.inference.gaussian.messages import Messages, backward
from cai.inference.gaussian.moments import condition
from cai.inference.gaussian.problem import (
    GaussianProblem,
    Quadratic,
    at_steps,
    product,
    stacked,
    symmetric,
    times,
)
from cai.inference.gaussian.root_estimation import filtered_in_roots, smoothed_in_roots
from cai.inference.gaussian.rooted import KEPT, refined
from cai.inference.gaussian.squares import smallest_share, undecided
from cai.models.common.shapes import broadcast_shapes

__all__ = ["Estimates", "correction", "kalman_filter", "kalman_smoother"]

VAGUE = 1e6  # times the last observation's variance and every surprise: that of a first which was hardly known
SHRUNK = 1e6  # times less than the filter's variance: a smoothed one of which the steps back lose digits
REFUSED = (
    "an estimate whose sensors are so sharp, or noises so far apart, that it was passed in square roots",
    "bring the noise, the observation noise and the covariance of the start nearer to each other, or take differences "
    "of estimates",
)
SHARP = 1e4  # times less than what was known before: an observation of which covariances lose digits
SAME = 1e-9  # relative; filter and smoother are the same at the end
ROUNDING = 64 * torch.finfo(torch.float64).eps  # pivots below this share of a variance are rounding


class Estimates(NamedTuple):
    """What is known of the states s_1 .. s_N.

    Attributes:
        means: [..., N, n].
        covariances: [..., N, n, n].
        log_likelihood: [...], log p(y_1 .. y_N), nats.
    """

    means: Tensor
    covariances: Tensor
    log_likelihood: Tensor


def kalman_filter(
    y: Any, A: Any, C: Any, *, noise: Any, observation_noise: Any, initial: tuple[Any, Any], offset: Any = None
) -> Estimates:
    """States given the observations up to their own time, E[s_t | y_1 .. y_t] (Kalman 1960).

        s_1 ~ N(m1, S1),   s_{t+1} = A s_t + offset + N(0, noise),   y_t = C s_t + N(0, observation_noise)

    y_1 is seen from s_1, with no transition before it. A matrix [n, n] is constant; with more axes, the axis before the
    matrix axes is time (N - 1 or 1 for transitions, N or 1 for what is seen), and those before it are batch. Gradients
    pass through every argument.

    Args:
        y: observations [..., N, d].
        A: [..., n, n].
        C: [..., d, n].
        noise: [..., n, n], of a transition; may be singular or zero.
        observation_noise: V [..., d, d]; positive definite.
        initial: (m1 [..., n], S1 [..., n, n]).
        offset: [..., n]; zero unless given.

    Returns:
        (means [..., N, n], covariances [..., N, n, n], log_likelihood [...]), `Estimates`.

    Raises:
        ValueError: if shapes do not fit, a number is not finite, or a covariance is none; or if
            sensors that see the same are so sharp that their noise is lost in rounding.

    Where an observation is far sharper than what was known before, square roots of covariances are passed on, whose
    gradients are those of the plain recursion. A covariance is what its floats say, but that variances below 0 are
    rounding and count as 0; one that is nearly singular is named in a warning, because floats that were rounded before
    leave estimates undecided.
    """
    chain = read_chain(y, A, C, noise, observation_noise, initial, offset)
    steps, sharp = _filtered_as_needed(chain)
    if sharp is None:
        return _gathered(steps)
    rooted = list(filtered_in_roots(chain))
    better = _gathered(rooted)
    return _refined(_gathered(steps), better, sharp, lost=_has_lost(steps, rooted, sharp)) if steps else better


def _filtered_as_needed(chain: Chain) -> tuple[list[Seen], Tensor | None]:
    """The filter's steps, none if its plain ones have lost their digits; and of which members square roots keep more.

    Returns:
        The steps; and bool [...], None if of no member.
    """
    steps: list[Seen] = []
    sharp = torch.ones((), dtype=torch.bool, device=chain.mean.device)
    try:
        steps = list(_filtered(chain))
    except ValueError:
        if any(part.requires_grad for part in chain if isinstance(part, Tensor)):
            raise
    else:
        roots = torch.stack(torch.broadcast_tensors(*(step.root.detach() for step in steps))).movedim(0, -3)
        variances = torch.linalg.vector_norm(roots, dim=-1).square()
        ratios = variances / chain.sensor_noise.detach().diagonal(dim1=-2, dim2=-1)
        alike = ~(smallest_share(chain.sensor_noise) >= 1 / SHARP).all(-1)
        sharp = ~(ratios.amax((-2, -1)) <= SHARP) | alike
    if not bool(sharp.any()):
        return steps, None
    _warn_of_undecided(chain)
    return steps, sharp


def _warn_of_undecided(chain: Chain) -> None:
    """Warns where a covariance is so nearly singular that its own floats leave estimates undecided."""
    named = {
        "noise": chain.noise,
        "observation_noise": chain.sensor_noise,
        "the covariance of initial": chain.covariance,
    }
    for name, part in named.items():
        if share := undecided(part):
            known = float(torch.finfo(part.dtype).eps) / share
            warnings.warn(
                f"{name} is nearly singular: some direction has {share:.0e} of the largest variance (diagonals being "
                f"1), which floats hold to {known:.0e} of itself, and estimates that hang on it are known no better; "
                "choose coordinates in which what is large and what is small are apart",
                stacklevel=4,
            )


def _gathered(steps: list[Seen]) -> Estimates:
    """What is known after each step of the filter."""
    likelihood = steps[0].likelihood
    for step in steps[1:]:
        likelihood = likelihood + step.likelihood
    means = torch.broadcast_tensors(*(step.mean for step in steps))
    covariances = torch.broadcast_tensors(*(step.covariance for step in steps))
    return Estimates(torch.stack(means, -2), torch.stack(covariances, -3), likelihood)


def _refined(found: Estimates, better: Estimates, members: Tensor, *, lost: bool = False) -> Estimates:
    """Estimates with the better numbers of some members; a batch axis that covariances do without is given to them."""
    batch = better.log_likelihood.shape
    return refined(found, better, members.expand(batch), lost=lost, refused=REFUSED)


def _has_lost(steps: list[Seen], rooted: list[Seen], members: Tensor) -> bool:
    """Whether plain steps have lost a variance of some members, and so all gradients, which later steps may hide."""
    for one, two in zip(steps, rooted, strict=True):
        width = two.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        size, off = width[..., :, None] * width[..., None, :], (one.covariance.detach() - two.covariance).abs()
        if bool(((off > KEPT[off.dtype] * size) & members[..., None, None]).any()):
            return True
    return False


def _filtered(chain: Chain) -> Iterator[Seen]:
    mean, covariance = chain.mean, chain.covariance
    moves = [at_steps(part, own, chain.number - 1) for part, own in ((chain.A, 2), (chain.offset, 1), (chain.noise, 2))]
    seen = [
        at_steps(part, own, chain.number) for part, own in ((chain.y, 1), (chain.sensor, 2), (chain.sensor_noise, 2))
    ]
    for t, (y_t, C_t, V) in enumerate(zip(*seen, strict=True)):
        A_t = None
        if t:
            A_t, drift, W = (part[t - 1] for part in moves)
            mean = times(A_t, mean) + drift
            covariance = symmetric(product(product(A_t, covariance), A_t.mT)) + W
        surprise = y_t - times(C_t, mean)
        gain, covariance, root = correction(covariance, C_t, V)
        unit = torch.linalg.solve_triangular(root, surprise[..., None], upper=False)[..., 0]
        width = root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + unit.shape[-1] / 2 * math.log(2 * math.pi)
        mean = mean + times(gain, surprise)
        yield Seen(mean, covariance, -unit.square().sum(-1) / 2 - width, surprise, gain, root, C_t, A_t)


def correction(covariance: Tensor, sensor: Tensor, V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What one observation y = C s + N(0, V) does to what is known of s.

    In the form of Bucy and Joseph (1968), which divides by no V: sharp sensors cost no digits.

    Args:
        covariance: [..., n, n] before, which may be singular.
        sensor: C [..., d, n].
        V: [..., d, d], positive definite.

    Returns:
        The gain [..., n, d], the covariance [..., n, n] after, and the Cholesky factor [..., d, d] of that of y.

    Raises:
        ValueError: if the covariance of y has lost its digits: several sharp sensors see the same.
    """
    across = product(sensor, covariance)
    spread = symmetric(product(across, sensor.mT)) + V
    root, fault = torch.linalg.cholesky_ex(spread)
    pivots, sizes = root.diagonal(dim1=-2, dim2=-1).square(), spread.diagonal(dim1=-2, dim2=-1)
    if bool((fault != 0).any()) or bool((pivots <= ROUNDING * spread.shape[-1] * sizes).any()):
        raise ValueError(
            "observation_noise is lost in rounding beside what several sensors see of the same; merge them into one "
            "sensor, or raise the noise"
        )
    shape = broadcast_shapes(across.shape[:-2], root.shape[:-2])
    gain = torch.cholesky_solve(across.expand(*shape, *across.shape[-2:]), root).mT
    kept = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device) - product(gain, sensor)
    spread = product(product(kept, covariance), kept.mT) + product(product(gain, V), gain.mT)
    return gain, symmetric(spread), root


def kalman_smoother(
    y: Any, A: Any, C: Any, *, noise: Any, observation_noise: Any, initial: tuple[Any, Any], offset: Any = None
) -> Estimates:
    """States given all observations, E[s_t | y_1 .. y_N] (Rauch, Tung and Striebel 1965).

    The filter's steps are gone back, which needs no noise and divides by no variance; where a start that is hardly
    known leaves the filter no digits, backward messages answer.

    The chain, the arguments and what is raised are those of `kalman_filter`:

        s_1 ~ N(m1, S1),   s_{t+1} = A s_t + offset + N(0, noise),   y_t = C s_t + N(0, observation_noise)

    Args:
        y: observations [..., N, d].
        A: [..., n, n].
        C: [..., d, n].
        noise: [..., n, n], of a transition; may be singular or zero.
        observation_noise: V [..., d, d]; positive definite.
        initial: (m1 [..., n], S1 [..., n, n]).
        offset: [..., n]; zero unless given.

    Returns:
        (means [..., N, n], covariances [..., N, n, n], log_likelihood [...]), `Estimates`.

    Raises:
        ValueError: if shapes do not fit, a number is not finite, or a covariance is none.
    """
    chain = read_chain(y, A, C, noise, observation_noise, initial, offset)
    try:
        steps, sharp = _filtered_as_needed(chain)
        rooted = [] if sharp is None else list(filtered_in_roots(chain))
    except ValueError:  # sensors that see the same, which messages hold
        found = _by_messages(chain)
        return _refined(found, _by_messages(chain, rooted=True), found.log_likelihood.new_ones((), dtype=torch.bool))
    if sharp is None:
        return _smoothed(chain, steps, rooted=False)
    better = _smoothed(chain, rooted, rooted=True)
    if not steps:
        return better
    return _refined(_smoothed(chain, steps, rooted=False), better, sharp, lost=_has_lost(steps, rooted, sharp))


def _smoothed(chain: Chain, steps: list[Seen], *, rooted: bool) -> Estimates:
    """The smoother from the filter's steps, or by messages where these keep more digits; the filter's likelihood.

    Messages lose that of an unstable chain without noise, whose last observations weigh the start by A^N.
    """
    found = _smoothed_back(steps)
    vague, shrunk = _digits_lost(steps, found)
    if rooted:
        vague, shrunk = torch.zeros_like(vague), torch.ones_like(shrunk)
    if not bool((vague | shrunk).any()):
        return found
    other = _by_messages(chain, rooted=rooted)._replace(log_likelihood=found.log_likelihood)
    end, apart = steps[-1].covariance, other.covariances[..., -1, :, :] - steps[-1].covariance
    better = vague | (shrunk & (apart.detach().abs().amax((-2, -1)) <= SAME * end.detach().abs().amax((-2, -1))))
    if not bool(better.any()):
        return found
    if bool(better.all()):
        return other
    return Estimates(
        torch.where(better[..., None, None], other.means, found.means),
        torch.where(better[..., None, None, None], other.covariances, found.covariances),
        found.log_likelihood,
    )


def _digits_lost(steps: list[Seen], found: Estimates) -> tuple[Tensor, Tensor]:
    """Bool [...] each: whether the start was hardly known, and whether smoothing leaves little of a variance."""
    first, last = (step.root.detach().square().sum(-1).amax(-1) for step in (steps[0], steps[-1]))
    surprise = torch.stack(torch.broadcast_tensors(*(step.surprise.detach() for step in steps))).square().amax((0, -1))
    before = torch.stack(torch.broadcast_tensors(*(step.covariance.detach() for step in steps)), -3)
    variances, left = (part.diagonal(dim1=-2, dim2=-1) for part in (before, found.covariances.detach()))
    return first > VAGUE * torch.maximum(last, surprise), (variances > SHRUNK * left.abs()).any(-1).any(-1)


def _by_messages(chain: Chain, *, rooted: bool = False) -> Estimates:
    """The smoother as the exact answer of a model without actions, by quadratic messages."""
    last, steps = chain.number - 1, observation_costs(chain.y, chain.sensor, chain.sensor_noise)
    n, constant = chain.A.shape[-1], steps.P.shape[-3] == 1
    problem = GaussianProblem(
        A=chain.A,
        B=chain.A.new_zeros(1, n, 0),
        offset=chain.offset,
        noise=chain.noise,
        cost=steps.P if constant else steps.P[..., :last, :, :],
        linear=steps.p[..., :last, :],
        constant=steps.rho[..., :last],
        final=Quadratic(steps.P[..., -1, :, :], steps.p[..., -1, :], steps.rho[..., -1]),
        mean=chain.mean,
        covariance=chain.covariance,
        horizon=last,
        temperature=chain.mean.new_ones(()),
    )
    messages = backward(problem, 1.0)
    if rooted:
        return Estimates(*smoothed_in_roots(chain, problem, messages))
    return Estimates(*_followed(problem, messages), messages.start)


def _smoothed_back(steps: list[Seen]) -> Estimates:
    """The smoother from the filter's steps, which divides by no V (Bryson and Frazier 1963; Bierman 1973).

    With e_t the surprise, S_t its covariance and K_t the gain, from slope l = 0 and curvature L = 0 behind the end:

        mean_t = m_t - P_t l,                         covariance_t = P_t - P_t L P_t
        l <- A' ((I - K C)' l - C' S^-1 e),           L <- A' ((I - K C)' L (I - K C) + C' S^-1 C) A
    """
    last = steps[-1]
    slope, curvature = torch.zeros_like(last.mean), torch.zeros_like(last.covariance)
    eye = torch.eye(last.mean.shape[-1], dtype=last.mean.dtype, device=last.mean.device)
    means, covariances, likelihood = [], [], last.mean.new_zeros(())
    for step in reversed(steps):
        means.append(step.mean - times(step.covariance, slope))
        fall = product(product(step.covariance, curvature), step.covariance)
        covariances.append(symmetric(step.covariance - fall))
        likelihood = likelihood + step.likelihood
        if step.move is None:
            break
        kept = eye - product(step.gain, step.sensor)
        weighed = torch.cholesky_solve(
            torch.cat([step.surprise[..., None], step.sensor.expand(*step.surprise.shape, -1)], -1), step.root
        )
        slope = times(kept.mT, slope) - times(step.sensor.mT, weighed[..., 0])
        curvature = product(product(kept.mT, curvature), kept) + product(step.sensor.mT, weighed[..., 1:])
        slope = times(step.move.mT, slope)
        curvature = symmetric(product(product(step.move.mT, curvature), step.move))
    means, covariances = torch.broadcast_tensors(*means[::-1]), torch.broadcast_tensors(*covariances[::-1])
    return Estimates(torch.stack(means, -2), torch.stack(covariances, -3), likelihood)


def _followed(problem: GaussianProblem, messages: Messages) -> tuple[Tensor, Tensor]:
    """Means [..., N, n] and covariances [..., N, n, n] along the tilted chain, a step at a time.

    That is `forward` of what is believed; nothing of the size of all steps is made but the answer.
    """
    horizon, one = problem.horizon, messages.theta
    first, following = messages.first, messages.following
    mean, covariance, _ = condition(problem.mean, problem.covariance, first.P, first.p, one)
    means, covariances = [mean.expand(*problem.batch, -1)], [covariance.expand(*problem.batch, -1, -1)]
    parts = [(problem.A, 2), (problem.offset, 1), (problem.noise, 2), (following.P, 2), (following.p, 1)]
    for A, drift, noise, P, p in zip(*(at_steps(part, own, horizon) for part, own in parts), strict=True):
        drift, noise, shrunk = condition(drift, noise, P, p, one)
        moved = product(shrunk, A)
        mean = times(moved, mean) + drift
        covariance = symmetric(product(product(moved, covariance), moved.mT)) + noise
        means.append(mean)
        covariances.append(covariance)
    return stacked(means).movedim(0, -2), stacked(covariances).movedim(0, -3)


def observation_costs(y: Tensor, C: Tensor, V: Tensor) -> Quadratic:
    """-log N(y; C s, V) as a function of s: P [..., T, n, n], p [..., T, n], rho [..., T]."""
    root = torch.linalg.cholesky(V)
    shape = broadcast_shapes(C.shape[:-2], y.shape[:-1], root.shape[:-2])
    d, n = C.shape[-2:]
    fixed = broadcast_shapes(C.shape[:-2], root.shape[:-2])
    sensor = torch.linalg.solve_triangular(root, C.expand(*fixed, d, n), upper=False)
    value = torch.linalg.solve_triangular(root, y.expand(*shape, d)[..., None], upper=False)
    width = root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + d / 2 * math.log(2 * math.pi)
    rho = value.square().sum((-2, -1)) / 2 + width
    return Quadratic(sensor.mT @ sensor, -(sensor.mT @ value)[..., 0], rho)
