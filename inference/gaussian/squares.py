"""Sums of squares, the roots of symmetric matrices, and triangular factors that keep digits of what is small."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cai.inference.gaussian.exact_roots import exact_factors
from cai.inference.gaussian.problem import Quadratic, symmetric, times
from cai.models.common.shapes import broadcast_shapes

__all__ = [
    "Axes",
    "Squares",
    "axes_of",
    "eliminated",
    "factor",
    "smallest_share",
    "solved",
    "spread_over",
    "squares_of",
    "triangle",
    "undecided",
]

SINGULAR = 1e-10  # eigenvalues below this, where the diagonal is 1, count as 0
INDEFINITE = 1e-13  # those further below zero are no rounding
ROUNDED = 16  # units of rounding for each coordinate: eigenvalues below so many of the largest count as 0 in a root
CLEAR = {torch.float64: 1e-7, torch.float32: 1e-4}  # between those and this share a root has lost digits itself


class Squares(NamedTuple):
    """1/2 |U x + u|^2 + l'x + rest.

    Attributes:
        U: [..., k, i].
        u: [..., k].
        linear: [..., i], l.
        rest: [...].
    """

    U: Tensor
    u: Tensor
    linear: Tensor
    rest: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """[...], at x [..., i]."""
        return (times(self.U, x) + self.u).square().sum(-1) / 2 + (self.linear * x).sum(-1) + self.rest

    def quadratic(self) -> Quadratic:
        """Its coefficients."""
        U, u, linear, rest = self
        return Quadratic(symmetric(U.mT @ U), times(U.mT, u) + linear, rest + u.square().sum(-1) / 2)


def triangle(*rows: Tensor, shake: torch.Generator | None = None) -> Tensor:
    """The triangular factor [..., k, k] of rows [..., i, k], with a diagonal >= 0; the largest rows come first.

    Rows of very different sizes keep their digits in that order (Powell and Reid 1969; Cox and Higham 1998), and so do
    columns: what is rounded is each row beside its largest entry, in units of columns.

    Args:
        rows: parts of the matrix.
        shake: adds as much at random.
    """
    return _upright(_factored(_whole(rows, shake))[0])[0]


def eliminated(*rows: Tensor, lead: int, shake: torch.Generator | None = None) -> tuple[Tensor, Callable[[], Tensor]]:
    """The same after so many columns, which are eliminated first, by the rows that they have entries in.

    Other rows stay as they are, and so what has no part in these columns, be it large, rounds nothing of what has.

    Returns:
        The triangular factor R; and, by calling, Q [..., i, k], whose columns are orthonormal, with rows Q R.
    """
    matrix = _whole(rows, shake)
    if not lead:
        R, turn_whole = _factored(matrix)
        R, signs = _upright(R)
        return R, lambda: turn_whole() * signs[..., None, :]
    order = _largest_first(matrix)
    ordered = matrix.gather(-2, order)
    within = (ordered[..., :lead] != 0).any(-1).int().argsort(stable=True, dim=-1, descending=True)
    within = within[..., None].expand(matrix.shape)
    ordered, order = ordered.gather(-2, within), order.gather(-2, within)
    folded, tau = torch.geqrf(ordered[..., :lead])
    rest = torch.ormqr(folded, tau, ordered[..., lead:], transpose=True)
    later, turn_later = _factored(rest[..., lead:, :])
    above = torch.cat([folded[..., :lead, :].triu(), rest[..., :lead, :]], -1)
    R = torch.cat([above, torch.cat([later.new_zeros(*later.shape[:-1], lead), later], -1)], -2)
    R, signs = _upright(R)

    def turn() -> Tensor:
        own = torch.eye(matrix.shape[-2], lead, dtype=R.dtype, device=R.device).expand(*matrix.shape[:-1], lead)
        columns = turn_later()
        other = torch.cat([columns.new_zeros(*columns.shape[:-2], lead, columns.shape[-1]), columns], -2)
        Q = torch.ormqr(folded, tau, torch.cat([own, other], -1)) * signs[..., None, :]
        return Q.gather(-2, order.argsort(-2)[..., : Q.shape[-1]])

    return R, turn


def _whole(rows: tuple[Tensor, ...], shake: torch.Generator | None) -> Tensor:
    """The rows as one matrix, of no fewer rows than columns, shaken if wanted."""
    matrix = torch.cat(rows, -2)
    if shake is not None:
        units = torch.linalg.vector_norm(matrix, dim=-2, keepdim=True)
        sizes = (matrix.abs() / torch.where(units > 0, units, 1.0)).amax(-1, keepdim=True)
        random = 2 * torch.rand(matrix.shape, dtype=matrix.dtype, generator=shake).to(matrix.device) - 1
        matrix = matrix + torch.finfo(matrix.dtype).eps * random * sizes * units * (matrix != 0)
    size = matrix.shape[-1]
    if matrix.shape[-2] < size:
        matrix = torch.cat([matrix, matrix.new_zeros(*matrix.shape[:-2], size - matrix.shape[-2], size)], -2)
    return matrix


def _factored(matrix: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    """The triangular factor R of a matrix, by its rows in order of their size; and, by calling, Q."""
    order = _largest_first(matrix)
    ordered = matrix.gather(-2, order)

    def turn() -> Tensor:
        Q = torch.linalg.qr(ordered).Q
        return Q.gather(-2, order.argsort(-2)[..., : Q.shape[-1]])

    return torch.linalg.qr(ordered, mode="r").R, turn


def _upright(R: Tensor) -> tuple[Tensor, Tensor]:
    """The factor with a diagonal >= 0, and the signs of its rows [..., k]."""
    signs = torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(R.dtype)
    return signs[..., None] * R, signs


def _largest_first(matrix: Tensor) -> Tensor:
    """The order of rows by their largest entries, for `gather`."""
    return matrix.abs().amax(-1).argsort(-1, descending=True)[..., None].expand(matrix.shape)


class Axes(NamedTuple):
    """A symmetric matrix as axes diag(values) axes'.

    Attributes:
        axes: [..., n, n].
        values: [..., n], in units that make the diagonal of the matrix about 1.
        roots: [..., n], of the values; 0 where these are rounding.
        inverse: [..., n, n], of the axes.
        along: [..., n], the inverse times a vector.
        held: bool [...], whether each value either keeps its digits beside the largest or is rounding beside it.
        positive: bool [...], whether no value is below 0 by more than rounding.
    """

    axes: Tensor
    values: Tensor
    roots: Tensor
    inverse: Tensor
    along: Tensor
    held: Tensor
    positive: Tensor


def axes_of(matrix: Tensor, vector: Tensor | None = None, *, shaken: bool = False) -> Axes:
    """Its eigenvectors; or, where eigenvalues lose digits and the matrix has none below 0, its triangular factor.

    Args:
        matrix: [..., n, n].
        vector: [..., n]; 0 unless given.
        shaken: whether values that are rounding, which count as 0, are given the size of it.
    """
    matrix = matrix.detach()
    vector = torch.zeros_like(matrix[..., 0]) if vector is None else vector.detach()
    shape, n = broadcast_shapes(matrix.shape[:-2], vector.shape[:-1]), vector.shape[-1]
    scale, values, vectors = (
        spread_over(part, shape, own) for part, own in zip(_scaled_spectrum(matrix), (1, 1, 2), strict=True)
    )
    rounding, held = _rounding(values), _is_clear(values)
    roots = torch.where(values > rounding, values, rounding / ROUNDED if shaken else 0.0).clamp(min=0).sqrt()
    lower, inverse, along = vectors, vectors.mT, times(vectors.mT, vector / scale)
    small = values <= CLEAR[values.dtype] * values.amax(-1, keepdim=True)
    finite = matrix.isfinite().all(-1).all(-1) & vector.isfinite().all(-1)
    doubtful = finite & (small & (matrix.diagonal(dim1=-2, dim2=-1) != 0)).any(-1)
    if bool(doubtful.any()):
        scaled = (matrix / (scale[..., None] * scale[..., None, :]))[doubtful]
        found = exact_factors(scaled, (vector / scale)[doubtful])
        known = doubtful.masked_scatter(doubtful, found.known)
        held = held | known
        plain = (lower, values, roots, inverse, along)
        better = (found.lower, found.pivots, found.pivots.sqrt(), found.inverse, found.along)
        pairs = zip(plain, better, strict=True)
        lower, values, roots, inverse, along = (_replaced(old, known, new[found.known]) for old, new in pairs)
    positive = (values >= -INDEFINITE * n).all(-1)
    return Axes(scale[..., None] * lower, values, roots, inverse / scale[..., None, :], along, held, positive)


def _replaced(old: Tensor, members: Tensor, new: Tensor) -> Tensor:
    """The members [...] of a tensor replaced by rows of another."""
    made = old.clone()
    made[members] = new
    return made


def factor(covariance: Tensor) -> Tensor:
    """G [..., n, n] with G G' = a covariance, maybe singular; small coordinates keep digits beside large ones.

    Variances below 0 are rounding, for a covariance has none, and count as 0.
    """
    found = axes_of(covariance)
    return found.axes * found.roots[..., None, :]


def squares_of(P: Tensor, p: Tensor, rho: Tensor, *, shaken: bool = False) -> tuple[Squares, Tensor]:
    """1/2 x'P x + p'x + rho as squares, and bool [...], whether it can be: whether P has no eigenvalue below zero."""
    found = axes_of(P, p, shaken=shaken)
    root, along, seen = found.roots, found.along, found.values > SINGULAR
    U = root[..., None] * found.axes.mT
    u = torch.where(seen, along, 0.0) / torch.where(seen, root, 1.0)
    linear = times(found.axes, torch.where(seen, 0.0, along))
    return Squares(U, u, linear, rho - u.square().sum(-1) / 2), found.positive & found.held


def spread_over(part: Tensor, batch: torch.Size, own: int) -> Tensor:
    """The part with all batch axes before its `own` axes."""
    return part.expand((*batch, *part.shape[part.dim() - own :]))


def _scaled_spectrum(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scales [..., n], and the spectrum of the matrix whose diagonal these make about 1, in no order.

    Coordinates that share no entry share no eigenvector either, or equal eigenvalues would mix them by a rounding: a
    cost without cross terms would have some.
    """
    matrix = matrix.detach()
    sizes = matrix.diagonal(dim1=-2, dim2=-1).abs()
    scale = torch.where(sizes > 0, sizes, 1.0).log2().div(2).round().exp2()
    scaled = (matrix / (scale[..., None] * scale[..., None, :])).reshape(-1, *matrix.shape[-2:])
    values, vectors = torch.zeros_like(scaled[..., 0]), torch.zeros_like(scaled)
    patterns, members = torch.unique(scaled != 0, dim=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        those = (members == number).nonzero()[:, 0]
        for block in _blocks(pattern):
            square = those[:, None, None], block[:, None], block
            values[those[:, None], block], vectors[square] = torch.linalg.eigh(scaled[square])
    return scale, values.reshape(matrix.shape[:-1]), vectors.reshape(matrix.shape)


def _blocks(pattern: Tensor) -> list[Tensor]:
    """The indices of coordinates that entries [n, n], which of them are not 0, lead to from each other."""
    reach = pattern.double() + torch.eye(len(pattern), dtype=torch.float64, device=pattern.device)
    first = (torch.linalg.matrix_power(reach, len(pattern)) > 0).double().argmax(-1)
    return [(first == label).nonzero()[:, 0] for label in first.unique()]


def _rounding(values: Tensor) -> Tensor:
    return ROUNDED * values.shape[-1] * torch.finfo(values.dtype).eps * values.amax(-1, keepdim=True)


def smallest_share(covariance: Tensor) -> Tensor:
    """[...], the smallest eigenvalue beside the largest, diagonals being 1."""
    values = _scaled_spectrum(covariance)[1]
    return (values / values.amax(-1, keepdim=True)).amin(-1)


def undecided(covariance: Tensor) -> float:
    """The smallest eigenvalue that floats hold to few digits beside the largest, diagonals being 1; 0 if none."""
    values = _scaled_spectrum(covariance)[1]
    share = values / values.amax(-1, keepdim=True)
    few = share[(values > _rounding(values)) & (share < CLEAR[values.dtype])]
    return float(few.amin()) if few.numel() else 0.0


def _is_clear(values: Tensor) -> Tensor:
    """Bool [...], whether each eigenvalue either is rounding beside the largest or keeps its digits beside it."""
    return ((values <= _rounding(values)) | (values > CLEAR[values.dtype] * values.amax(-1, keepdim=True))).all(-1)


def solved(root: Tensor, right: Tensor, *, upper: bool = True) -> Tensor:
    """Of a triangular matrix [..., k, k] its inverse times the right side [..., k, i], over all batch axes."""
    shape = broadcast_shapes(root.shape[:-2], right.shape[:-2])
    parts = [part.expand(*shape, *part.shape[-2:]) for part in (root, right)]
    return torch.linalg.solve_triangular(*parts, upper=upper)
