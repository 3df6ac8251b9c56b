"""Curvature -H of a log-likelihood: what is flat in it, the step that it asks for, and its inverse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FLAT", "Spectrum", "best_step", "rounding_of", "spectrum"]

FLAT = 1e-10  # of the largest eigenvalue, below which a direction is not identified
ROUNDING = 1e-14  # of the squared sums of features of size 1, of which a curvature is a difference
SWEEPS = 1000


@dataclass(frozen=True)
class Spectrum:
    """A symmetric matrix diag(size) V diag(values) V' diag(size), with ones on the diagonal of what is in between.

    Attributes:
        values: [F], ascending.
        vectors: [F, F], in columns.
        size: [F], square roots of the diagonal.
        rounding: [F], eigenvalues that may be nothing but rounding.
    """

    values: Tensor
    vectors: Tensor
    size: Tensor
    rounding: Tensor

    @property
    def flat(self) -> Tensor:
        """Bool [F], which eigenvalues are 0 but for rounding."""
        return self.values.abs() <= torch.maximum(FLAT * self.values.abs().max(), self.rounding)

    @property
    def bends_up(self) -> bool:
        """Whether the log-likelihood is convex along some direction, so that a stationary point is no maximum."""
        return bool(((self.values < -1e-8 * self.values.abs().max()) & ~self.flat).any())

    @property
    def directions(self) -> Tensor:
        """[K, F], flat directions of length 1, one a row, orthogonal to each other."""
        chosen = self.vectors[:, self.flat] / self.size[:, None]
        return torch.linalg.qr(chosen).Q.T if chosen.numel() else chosen.T

    def uphill(self, slope: Tensor) -> Tensor:
        """|-H|^-1 g, with nothing along flat directions: an ascent direction also where -H is not positive."""
        sizes = self.values.abs()
        inverse = torch.where(self.flat, torch.zeros_like(sizes), 1 / torch.where(self.flat, 1.0, sizes))
        return self.vectors @ (inverse * (self.vectors.T @ (slope / self.size))) / self.size

    def positive(self) -> Tensor:
        """[F, F], the matrix with its eigenvalues made positive; flat directions get 1e-6 of the largest."""
        sizes = self.values.abs()
        sizes = torch.where(self.flat, 1e-6 * sizes.max().clamp(min=1e-300), sizes)
        half = self.size[:, None] * self.vectors
        return half * sizes @ half.T

    def inverse(self) -> Tensor:
        """[F, F], the inverse on what is identified."""
        inverse = torch.where(self.flat, torch.zeros_like(self.values), 1 / torch.where(self.flat, 1.0, self.values))
        half = self.vectors / self.size[:, None]
        return half * inverse @ half.T


def rounding_of(weights: Tensor, lengths: Tensor) -> float:
    """What may be rounding of -H by features of size 1: it is a difference of second moments of their sums.

    Args:
        weights: [N], of demonstrations.
        lengths: [N], how many steps each has.
    """
    return ROUNDING * float(weights @ lengths.double().square())


def spectrum(matrix: Tensor, rounding: float = 0.0) -> Spectrum:
    """Eigenvalues of a symmetric matrix after its diagonal was scaled to 1.

    Entries of the diagonal below 1e-10 of the largest are not scaled: their features move the log-likelihood by nothing
    but rounding.

    Args:
        matrix: [F, F].
        rounding: entries of its diagonal that may be nothing but that.
    """
    matrix = (matrix + matrix.T) / 2
    diagonal = matrix.diagonal().abs()
    largest = diagonal.max() if diagonal.numel() else matrix.new_tensor(1.0)
    largest = torch.where(largest > 0, largest, torch.ones_like(largest))
    size = torch.where(diagonal > FLAT * largest, diagonal, largest).sqrt()
    values, vectors = torch.linalg.eigh(matrix / size[:, None] / size)
    return Spectrum(values, vectors, size, rounding * (vectors / size[:, None]).square().sum(0))


def best_step(
    slope: Tensor, curvature: Tensor, place: Tensor, lower: Tensor, upper: Tensor, sharp: Tensor
) -> tuple[Tensor, float]:
    """The step p that maximises g'p - p'Bp/2 - sum sharp |u + p| with lower <= u + p <= upper, and its gain.

    Without bounds and absolute values one Cholesky factorisation; else coordinate ascent, which converges because the
    part that is not smooth is a sum over coordinates (Friedman, Hastie and Tibshirani 2010, for the lasso). Where
    coordinates are nearly collinear it creeps, so after each sweep those that are neither at a bound nor at a kink go
    to their joint maximum, as far as the first bound or kink (an active set).

    Args:
        slope: g [F].
        curvature: B [F, F], positive definite.
        place: u [F].
        lower: [F], -inf where there is no bound.
        upper: [F].
        sharp: [F], slopes of the absolute values.
    """
    free = torch.isinf(lower).all() and torch.isinf(upper).all() and not sharp.any()
    if free:
        factor, info = torch.linalg.cholesky_ex(curvature)
        step = torch.cholesky_solve(slope[:, None], factor)[:, 0] if int(info) == 0 else slope / slope.norm()
        return step, float(slope @ step - step @ curvature @ step / 2)
    step = (place.clamp(lower, upper)) - place
    ahead = curvature @ step
    for _ in range(SWEEPS):
        moved = 0.0
        for i in range(len(place)):
            bend = curvature[i, i]
            wanted = place[i] + step[i] + (slope[i] - ahead[i]) / bend
            kept = torch.sign(wanted) * (wanted.abs() - sharp[i] / bend).clamp(min=0.0)
            kept = kept.clamp(lower[i], upper[i])
            change = kept - place[i] - step[i]
            if change != 0:
                step[i] = kept - place[i]  # the same difference that tells whether a step reaches a bound
                ahead += curvature[:, i] * change
                moved = max(moved, float(change.abs() * bend.sqrt()))
        if moved <= 1e-12:
            break
        step = _along_face(slope - ahead, curvature, place + step, lower, upper, sharp) - place
        ahead = curvature @ step
    sharper = (sharp * ((place + step).abs() - place.abs())).sum()
    return step, float(slope @ step - step @ curvature @ step / 2 - sharper)


def _along_face(slope: Tensor, curvature: Tensor, place: Tensor, lower: Tensor, upper: Tensor, sharp: Tensor) -> Tensor:
    """[F], where the coordinates inside of bounds and off kinks get to on the way to their joint maximum."""
    sign = torch.where(sharp > 0, torch.sign(place), torch.zeros_like(place))
    inner = torch.nonzero((place > lower) & (place < upper) & ((sign != 0) | (sharp == 0))).flatten()
    factor, info = torch.linalg.cholesky_ex(curvature[inner][:, inner])
    if not len(inner) or int(info) != 0:
        return place
    way = torch.zeros_like(place)
    way[inner] = torch.cholesky_solve((slope - sharp * sign)[inner, None], factor)[:, 0]
    low = torch.where(sign > 0, lower.clamp(min=0.0), lower)
    high = torch.where(sign < 0, upper.clamp(max=0.0), upper)
    ends = torch.where(way > 0, high, low)
    shares = torch.where(way != 0, (ends - place) / way, torch.inf)
    share = shares.min().clamp(max=1.0)
    return torch.where(shares <= share, ends, place + share * way)
