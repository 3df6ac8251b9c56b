"""Quadratic messages as sums of squares: twice the digits where one cost outweighs another by many orders.

A matrix P that holds both 1e12 and 1 keeps four digits of the one, however it is computed; its root holds 1e6 and 1
and keeps ten. A cost-to-go is 1/2 |U s + u|^2 + l's + rest here, and a step is a least-squares problem over noise,
action and state, from which an orthogonal triangularisation eliminates noise and action (Bierman 1977, Factorization
methods for discrete sequential estimation; Kailath, Sayed and Hassibi 2000, Linear estimation, chapter 12):

    1/2 |U (A s + B a + c + G v) + u|^2 + |v|^2 / (2 theta) + 1/2 |C^1/2 (s, a) + w|^2,   W = G G'

Noise that is tilted is one more action, whose cost is |v|^2 / (2 theta). For theta < 0 it is an adversary's, and a
Cholesky factor of I + theta G'PG takes the place of the triangularisation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from cai.inference.gaussian.messages import Messages, added_constants, choices
from cai.inference.gaussian.problem import GaussianProblem, Quadratic, at_steps, symmetric, times
from cai.inference.gaussian.spectrum import half_log_det
from cai.models.common.random_draws import seeded
from cai.models.common.shapes import broadcast_shapes

__all__ = ["Push", "Squares", "backward_in_roots", "factor", "spread_over", "squares_of", "triangle", "undecided"]

SINGULAR = 1e-10  # eigenvalues below this, where the diagonal is 1, count as 0
INDEFINITE = 1e-13  # those further below zero are no rounding
ROUNDED = 16  # units of rounding for each coordinate: eigenvalues below so many of the largest count as 0 in a root
CERTAIN = 2.0**100  # in place of 1 over the width of what has no noise
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


class Push(NamedTuple):
    """How tilted noise G v, v ~ N(-(slope x + shift), width'width), follows from a mean outcome x; N(0, I) untilted.

    Attributes:
        slope: [..., n, n].
        shift: [..., n].
        width: [..., n, n].
        log_det: [...], log|I + theta G'PG|.
        curvature: [..., n, n], G'PG.
        kept: [..., n, n], (I + theta W P)^-1, by which x enters the mean of what follows.
        pulled: [..., n], what is added to it.
    """

    slope: Tensor
    shift: Tensor
    width: Tensor
    log_det: Tensor
    curvature: Tensor
    kept: Tensor
    pulled: Tensor


@torch.no_grad()
def backward_in_roots(
    problem: GaussianProblem,
    messages: Messages,
    *,
    costs: tuple[Squares, Squares] | None = None,
    shaken: bool = False,
) -> tuple[Messages, list[Push | None], Tensor] | None:
    """The messages of a backward pass, passed once more in square roots; without gradients.

    Args:
        problem: the linear-quadratic problem.
        messages: of the backward pass.
        costs: those of steps, with a time axis, and of the end, where they are known as squares.
        shaken: whether each step adds as much as its rounding, at random: how far numbers then move is how far off
            they may be.

    Returns:
        The messages; what tilts the start and each step, None where nothing does; and bool [...], which members they
        hold for: those whose costs are sums of squares with roots of their own, and whose numbers are finite. None
        if theta has both signs.
    """
    theta, shake = messages.theta, seeded(0) if shaken else None
    signs = theta.sign().unique()
    if len(signs) > 1:
        return None
    tilt = theta if bool(signs != 0) else None
    shape, n, m, horizon = problem.batch, problem.num_states, problem.num_actions, problem.horizon
    if costs is None:
        stage, fine = squares_of(problem.cost, problem.linear, problem.constant)
        going, good = squares_of(*problem.final)
        held = fine.all(-1) & good
    else:
        (stage, going), held = costs, torch.ones(shape, dtype=torch.bool, device=theta.device)
    if tilt is not None:
        held = held & _is_clear(_scaled_spectrum(problem.noise)[1]).all(-1)
        held = held & _is_clear(_scaled_spectrum(problem.covariance)[1])
    going = Squares(*(spread_over(part, shape, own) for part, own in zip(going, (2, 1, 1, 0), strict=True)))
    moves = [(problem.A, 2), (problem.B, 2), (problem.offset, 1), (problem.noise, 2)]
    squares = list(zip(stage, (2, 1, 1, 0), strict=True))
    parts = [[spread_over(step, shape, own) for step in at_steps(part, own, horizon)] for part, own in moves + squares]
    priors = _prior_rows(problem)
    found, acts, pushes, bares, logs = [going], [], [], [], []
    for t in reversed(range(horizon)):
        A, B, c, W = (part[t] for part in parts[:4])
        cost = Squares(*(part[t] for part in parts[4:]))
        going, log, push = _outcome(going, W, tilt, shake)
        logs.append(log)
        pushes.append(push)
        kept = problem.survival[t]
        U, u, linear = kept**0.5 * going.U, kept**0.5 * going.u, kept * going.linear
        above = torch.cat([U @ B, U @ A, (times(U, c) + u)[..., None]], -1)
        below = torch.cat([cost.U[..., n:], cost.U[..., :n], cost.u[..., None]], -1)
        R = triangle(above, below, *([] if priors is None else [priors[t]]), lead=m, shake=shake)
        bares.append(above[..., :m].mT @ above[..., :m] + below[..., :m].mT @ below[..., :m])
        root, across, shift = R[..., :m, :m], R[..., :m, m : m + n], R[..., :m, m + n]
        lean = _solved(root.mT, (times(B.mT, linear) + cost.linear[..., n:])[..., None], upper=False)[..., 0]
        act = _solved(root, torch.cat([across, (shift + lean)[..., None]], -1))
        acts.append((root.mT, -act[..., :n] + 0.0, -act[..., n] + 0.0))
        rest = kept * going.rest + cost.rest + (linear * c).sum(-1) + R[..., m + n, m + n].square() / 2
        rest = rest - (lean * (lean / 2 + shift)).sum(-1)
        linear = times(A.mT, linear) + cost.linear[..., :n] - times(across.mT, lean)
        going = Squares(R[..., m : m + n, m : m + n], R[..., m : m + n, m + n], linear, rest)
        found.append(going)
    start, log, push = _outcome(going, spread_over(problem.covariance, shape, 2), tilt, shake)
    steps = zip(*acts[::-1], strict=True) if horizon else iter((messages.root, messages.gain, messages.offset))
    stack = lambda parts, own: torch.stack(tuple(parts), -1 - own) if horizon else parts  # noqa: E731
    root, gain, offset = (stack(part, own) for part, own in zip(steps, (2, 2, 1), strict=True))
    nothing = torch.zeros_like
    bare_costs = replace(
        problem, constant=nothing(problem.constant), final=problem.final._replace(rho=nothing(going.rest))
    )
    chosen = choices(problem, root, stack(bares[::-1], 2) if horizon else root)
    added = added_constants(bare_costs, chosen, logs)
    quadratics = zip(*(part.quadratic() for part in found[::-1]), strict=True)
    P, p, rho = (torch.stack(part, -1 - own) for part, own in zip(quadratics, (2, 1, 0), strict=True))
    made = replace(
        messages,
        cost_to_go=Quadratic(P, p, rho + added),
        gain=gain,
        offset=offset,
        action_cost=symmetric(root @ root.mT),
        root=root,
        chosen=torch.ones_like(messages.chosen),
        start=-(start(problem.mean) + log + added[..., 0]),
    )
    return made, [push, *pushes[::-1]], held & made.start.isfinite() & P.isfinite().flatten(-3).all(-1)


def _prior_rows(problem: GaussianProblem) -> list[Tensor] | None:
    """What a prior adds to each step, (alpha / L)^1/2 (a - K0 s - k0) as rows [..., m, m + n + 1]; None if flat."""
    if problem.prior is None:
        return None
    gain, offset, covariance = problem.prior
    own = torch.eye(problem.num_actions, dtype=gain.dtype, device=gain.device)
    shape = broadcast_shapes(gain.shape[:-2], offset.shape[:-1], covariance.shape[:-2])
    parts = [part.expand(*shape, *part.shape[-2:]) for part in (own, -gain, -offset[..., None])]
    width = torch.linalg.cholesky(covariance)
    rows = problem.temperature[..., None, None, None].sqrt() * _solved(width, torch.cat(parts, -1), upper=False)
    return [spread_over(step, problem.batch, 2) for step in at_steps(rows, 2, problem.horizon)]


def _outcome(
    cost: Squares, noise: Tensor, theta: Tensor | None, shake: torch.Generator | None
) -> tuple[Squares, Tensor, Push | None]:
    """The cost of a mean outcome, logarithm apart; log|I + theta W P| / (2 theta); and how the noise is tilted."""
    U, u, linear, rest = cost
    G = factor(noise)
    moved = U @ G
    if theta is None:
        return cost, moved.square().sum((-2, -1)) / 2, None
    n = G.shape[-1]
    lean, tilt, own = times(G.mT, linear), theta[..., None], torch.eye(n, dtype=G.dtype, device=G.device)
    rest = rest - theta * lean.square().sum(-1) / 2
    curvature = moved.mT @ moved
    if bool((theta > 0).all()):
        width = tilt[..., None].sqrt()
        aside = (own / width).expand(*lean.shape[:-1], n, n)
        held = torch.cat([aside, torch.zeros_like(aside), lean[..., None] * width], -1)
        R = triangle(torch.cat([moved, U, u[..., None]], -1), held, shake=shake)
        root = R[..., :n, :n] * width
        rest = rest + R[..., 2 * n, 2 * n].square() / 2
        pulled = _solved(root, R[..., :n, n:] * width)
        done = Squares(R[..., n : 2 * n, n : 2 * n], R[..., n : 2 * n, 2 * n], linear, rest)
    else:
        root, fault = torch.linalg.cholesky_ex(own + tilt[..., None] * curvature, upper=True)
        outer, failed = torch.linalg.cholesky_ex(own + tilt[..., None] * moved @ moved.mT)
        root = torch.where(((fault != 0) | (failed != 0))[..., None, None], torch.nan, root)
        beside = torch.cat([U, (u - tilt * times(moved, lean))[..., None]], -1)
        tilted = _solved(outer, beside, upper=False)
        done = Squares(tilted[..., :n], tilted[..., n], linear, rest)
        pulled = torch.cat([moved.mT @ U, (times(moved.mT, u) + lean)[..., None]], -1) * tilt[..., None]
        pulled = _solved(root, _solved(root.mT, pulled, upper=False))
    log_det = 2 * root.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    half = half_log_det(curvature, theta.expand_as(log_det), log_det)
    width = _solved(root.mT, own, upper=False)
    mean = _means(cost, noise, theta) if bool((theta > 0).all()) else None
    if mean is None:
        mean = own - G @ pulled[..., :n], -times(G, pulled[..., n])
    return done, half, Push(pulled[..., :n], pulled[..., n], width, log_det, curvature, *mean)


def _means(cost: Squares, noise: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """(I + theta W P)^-1 [..., n, n], and what is added to it times a mean outcome x [..., n]: the mean that follows.

    A step as `_outcome`, about what follows in place of the noise, in the axes of the noise: where noise is large, x
    and the noise that is hoped for are all but opposite, and their sum would have no digit.
    """
    U, u, linear, _ = cost
    scale, values, vectors = _scaled_spectrum(noise)
    axes, n = scale[..., None] * vectors, U.shape[-1]
    sizes = theta[..., None].sqrt() * _roots(values)
    weights = torch.where(sizes > 0, 1 / sizes, CERTAIN)
    toward = times(axes.mT, linear) * torch.where(sizes > 0, sizes, 0.0)
    pairs = [torch.diag_embed(weights), -weights[..., None] * (vectors / scale[..., None]).mT, toward[..., None]]
    shape = broadcast_shapes(U.shape[:-2], weights.shape[:-1])
    pairs = [part.expand(*shape, *part.shape[-2:]) for part in pairs]
    R = triangle(torch.cat([U @ axes, torch.zeros_like(U), u[..., None]], -1), torch.cat(pairs, -1))
    found = -axes @ _solved(R[..., :n, :n], R[..., :n, n:])
    return found[..., :n], found[..., n]


def triangle(*rows: Tensor, lead: int = 0, shake: torch.Generator | None = None) -> Tensor:
    """The triangular factor [..., k, k] of rows [..., i, k], with a diagonal >= 0; the largest rows come first.

    Rows of very different sizes keep their digits in that order (Powell and Reid 1969; Cox and Higham 1998), and so do
    columns: what is rounded is each row beside its largest entry, in units of columns.

    Args:
        rows: parts of the matrix.
        lead: so many columns are eliminated first, by the rows that they have entries in; others stay as they are, and
            so what has no part in these columns, be it large, rounds nothing of what has.
        shake: adds as much at random.
    """
    matrix = torch.cat(rows, -2)
    if shake is not None:
        units = torch.linalg.vector_norm(matrix, dim=-2, keepdim=True)
        sizes = (matrix.abs() / torch.where(units > 0, units, 1.0)).amax(-1, keepdim=True)
        random = 2 * torch.rand(matrix.shape, dtype=matrix.dtype, generator=shake).to(matrix.device) - 1
        matrix = matrix + torch.finfo(matrix.dtype).eps * random * sizes * units * (matrix != 0)
    size = matrix.shape[-1]
    if matrix.shape[-2] < size:
        matrix = torch.cat([matrix, matrix.new_zeros(*matrix.shape[:-2], size - matrix.shape[-2], size)], -2)
    matrix = _largest_first(matrix)
    if lead:
        within = (matrix[..., :lead] != 0).any(-1).int().argsort(stable=True, dim=-1, descending=True)
        matrix = matrix.gather(-2, within[..., None].expand(matrix.shape))
        folded, tau = torch.geqrf(matrix[..., :lead])
        rest = torch.ormqr(folded, tau, matrix[..., lead:], transpose=True)
        later = torch.linalg.qr(_largest_first(rest[..., lead:, :]), mode="r").R
        above = torch.cat([folded[..., :lead, :].triu(), rest[..., :lead, :]], -1)
        R = torch.cat([above, torch.cat([later.new_zeros(*later.shape[:-1], lead), later], -1)], -2)
    else:
        R = torch.linalg.qr(matrix, mode="r").R
    return torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)[..., None].to(R.dtype) * R


def _largest_first(matrix: Tensor) -> Tensor:
    order = matrix.abs().amax(-1).argsort(-1, descending=True)
    return matrix.gather(-2, order[..., None].expand(matrix.shape))


def factor(covariance: Tensor) -> Tensor:
    """G [..., n, n] with G G' = a covariance, maybe singular; small coordinates keep digits beside large ones."""
    scale, values, vectors = _scaled_spectrum(covariance)
    return scale[..., None] * vectors * _roots(values)[..., None, :]


def squares_of(P: Tensor, p: Tensor, rho: Tensor) -> tuple[Squares, Tensor]:
    """1/2 x'P x + p'x + rho as squares, and bool [...], whether it can be: whether P has no eigenvalue below zero."""
    scale, values, vectors = _scaled_spectrum(P)
    root = _roots(values)
    U = root[..., None] * (vectors * scale[..., None]).mT
    along, seen = times(vectors.mT, p / scale), values > SINGULAR
    u = torch.where(seen, along, 0.0) / torch.where(seen, root, 1.0)
    linear = scale * times(vectors, torch.where(seen, 0.0, along))
    shape = u.shape[:-1]
    squares = Squares(U.expand(*shape, *U.shape[-2:]), u, linear, (rho - u.square().sum(-1) / 2).expand(shape))
    return squares, (values >= -INDEFINITE * P.shape[-1]).all(-1) & _is_clear(values)


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


def _roots(values: Tensor) -> Tensor:
    """Square roots of eigenvalues, of which those that are rounding beside the largest count as 0."""
    return torch.where(values > _rounding(values), values, 0.0).sqrt()


def undecided(covariance: Tensor) -> float:
    """The smallest eigenvalue that floats hold to few digits beside the largest, diagonals being 1; 0 if none."""
    values = _scaled_spectrum(covariance)[1]
    share = values / values.amax(-1, keepdim=True)
    few = share[(values > _rounding(values)) & (share < CLEAR[values.dtype])]
    return float(few.amin()) if few.numel() else 0.0


def _is_clear(values: Tensor) -> Tensor:
    """Bool [...], whether each eigenvalue either is rounding beside the largest or keeps its digits beside it."""
    return ((values <= _rounding(values)) | (values > CLEAR[values.dtype] * values.amax(-1, keepdim=True))).all(-1)


def _solved(root: Tensor, right: Tensor, *, upper: bool = True) -> Tensor:
    shape = broadcast_shapes(root.shape[:-2], right.shape[:-2])
    parts = [part.expand(*shape, *part.shape[-2:]) for part in (root, right)]
    return torch.linalg.solve_triangular(*parts, upper=upper)
