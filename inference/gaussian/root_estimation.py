"""Filter and smoother in square roots: twice the digits where a sensor is far sharper than what was known before it.

A covariance is S'S, with rows S. A step of the filter is one orthogonal triangularisation (Potter 1963; Kailath, Sayed
and Hassibi 2000, Linear estimation, chapter 12), with V = N'N:

    [[N, 0], [S C', S]]  ->  [[R, X], [0, S+]],   R'R = V + C S'S C',   gain = (R^-1 X)'
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from cai.inference.gaussian.chain import Chain, Seen
from cai.inference.gaussian.messages import Messages
from cai.inference.gaussian.problem import GaussianProblem, at_steps, symmetric, times
from cai.inference.gaussian.square_roots import backward_in_roots
from cai.inference.gaussian.squares import Squares, axes_of, factor, spread_over, triangle
from cai.models.common.shapes import broadcast_shapes

__all__ = ["filtered_in_roots", "smoothed_in_roots"]

ROUNDING = 64 * torch.finfo(torch.float64).eps  # pivots of a root below this share of a width are rounding


@torch.no_grad()
def filtered_in_roots(chain: Chain) -> Iterator[Seen]:
    """The steps of the filter.

    Raises:
        ValueError: if the root of the covariance of y has lost its digits: sharp sensors see the same.
    """
    batch, n, d = _batch(chain), chain.A.shape[-1], chain.y.shape[-1]
    moves = [at_steps(part, own, chain.number - 1) for part, own in ((chain.A, 2), (chain.offset, 1))]
    noises = at_steps(factor(chain.noise).mT, 2, chain.number - 1)
    parts = ((chain.y, 1), (chain.sensor, 2), (factor(chain.sensor_noise).mT, 2))
    mean, S = spread_over(chain.mean, batch, 1), spread_over(factor(chain.covariance).mT, batch, 2)
    for t, seen in enumerate(zip(*(at_steps(part, own, chain.number) for part, own in parts), strict=True)):
        y, C, N = (spread_over(part, batch, own) for part, own in zip(seen, (1, 2, 2), strict=True))
        A = None
        if t:
            A = spread_over(moves[0][t - 1], batch, 2)
            mean, S = times(A, mean) + moves[1][t - 1], triangle(S @ A.mT, spread_over(noises[t - 1], batch, 2))
        above = torch.cat([N, N.new_zeros(*batch, d, n)], -1)
        whole = triangle(above, torch.cat([S @ C.mT, S], -1))
        R, S = whole[..., :d, :d], whole[..., d:, d:]
        pivots, widths = R.diagonal(dim1=-2, dim2=-1), torch.linalg.vector_norm(R, dim=-2)
        if bool((pivots <= ROUNDING * d * widths).any()):
            raise ValueError(
                "observation_noise is lost in rounding beside what several sensors see of the same; merge them into "
                "one sensor, or raise the noise"
            )
        gain = torch.linalg.solve_triangular(R, whole[..., :d, d:], upper=True).mT
        surprise = y - times(C, mean)
        unit = torch.linalg.solve_triangular(R.mT, surprise[..., None], upper=False)[..., 0]
        width = pivots.log().sum(-1) + d / 2 * math.log(2 * math.pi)
        mean = mean + times(gain, surprise)
        yield Seen(
            mean, symmetric(S.mT @ S), -unit.square().sum(-1) / 2 - width, surprise, gain, R.mT.contiguous(), C, A
        )


@torch.no_grad()
def smoothed_in_roots(chain: Chain, problem: GaussianProblem, messages: Messages) -> tuple[Tensor, Tensor, Tensor]:
    """The smoother by quadratic messages in square roots: means [..., N, n], covariances and log likelihood [...].

    Args:
        chain: the chain.
        problem: the chain as a problem without actions.
        messages: of its backward pass.
    """
    batch, last = _batch(chain), chain.number - 1
    steps = _sensor_squares(chain)
    end = Squares(steps.U[..., -1, :, :], steps.u[..., -1, :], steps.linear[..., -1, :], steps.rest[..., -1])
    slopes = steps.U if steps.U.shape[-3] == 1 else steps.U[..., :last, :, :]
    before = Squares(slopes, steps.u[..., :last, :], steps.linear[..., :last, :], steps.rest[..., :last])
    passed = backward_in_roots(problem, messages, costs=(before, end))
    assert passed is not None
    better, pushes = passed.messages, passed.pushes
    first = pushes[0]
    assert first is not None
    mean = times(first.kept, spread_over(chain.mean, batch, 1)) + first.pulled
    S = first.spread
    means, roots = [mean], [S]
    parts = ((chain.A, 2), (chain.offset, 1))
    moves = zip(*(at_steps(part, own, last) for part, own in parts), strict=True)
    for (A, drift), push in zip(moves, pushes[1:], strict=True):
        assert push is not None
        mean = times(push.kept, times(A, mean) + drift) + push.pulled
        S = triangle(S @ (push.kept @ A).mT, push.spread)
        means.append(mean)
        roots.append(S)
    S = torch.stack(roots, -3)
    return torch.stack(means, -2), symmetric(S.mT @ S), better.start


def _sensor_squares(chain: Chain) -> Squares:
    """-log N(y; C s, V) of each time as a function of s, U [..., T or 1, d, n]."""
    found, y = axes_of(chain.sensor_noise), chain.y
    whiten = found.inverse / found.roots[..., None]
    U, u = whiten @ chain.sensor, -times(whiten, y)
    width = -torch.linalg.slogdet(whiten).logabsdet + y.shape[-1] / 2 * math.log(2 * math.pi)
    return Squares(U, u, U.new_zeros(*u.shape[:-1], U.shape[-1]), width.expand(u.shape[:-1]))


def _batch(chain: Chain) -> torch.Size:
    parts = [(chain.A, 3), (chain.offset, 2), (chain.noise, 3), (chain.mean, 1), (chain.covariance, 2)]
    parts += [(chain.y, 2), (chain.sensor, 3), (chain.sensor_noise, 3)]
    return broadcast_shapes(*(part.shape[: part.dim() - own] for part, own in parts))
