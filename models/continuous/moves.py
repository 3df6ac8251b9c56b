"""Distributions over R^n as distributions over the nodes of a grid: by density, or by interpolation."""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import numpy as np
import torch
from pyro.distributions import Delta, Independent, MultivariateNormal, Normal
from torch import Tensor

from cai.models.continuous.distributions import SingularNormal
from cai.models.continuous.grid import Grid, merged

__all__ = ["Noise", "is_certain", "kind_of_noise", "misplaced", "near_nodes", "spread_over_nodes", "unresolved"]

Noise = Literal["auto", "density", "interpolate"]
POINTS = 7  # Gauss-Hermite points in each direction of a noise that is interpolated
WELL_INSIDE = 5.0  # standard deviations from a mean to the edge of the box, from which on edges matter to nobody
NEGLIGIBLE = 1e-18  # of the largest weight, below which a node is left out


def is_certain(distribution: Any) -> bool:
    """Whether it is a point mass."""
    return isinstance(distribution, Delta)


def kind_of_noise(distribution: Any, grid: Grid, noise: Noise, what: str) -> Noise:
    """Whether a distribution is to be read at the nodes, "density", or interpolated between them, "interpolate".

    Args:
        distribution: of event shape [n].
        grid: over its space.
        noise: as it was asked for; "auto" takes the density where each coordinate's standard deviation is at least one
            spacing.
        what: how the distribution is called in messages.

    Raises:
        ValueError: if "auto" cannot tell, or "density" was asked for and there is none.
    """
    if is_certain(distribution) or isinstance(distribution, SingularNormal):
        if noise == "density":
            kind = "certain" if is_certain(distribution) else "singular"
            raise ValueError(f"noise='density', and {what} is {kind}, which has no density; use noise='interpolate'")
        return "interpolate"
    if noise != "auto":
        return noise
    try:
        deviation = distribution.variance.detach().sqrt()
    except (NotImplementedError, AttributeError):
        raise ValueError(
            f"{what} is a {type(distribution).__name__} that does not know its variance, so noise='auto' cannot "
            "choose: give noise='density' or noise='interpolate'"
        ) from None
    fine = bool((deviation >= grid.spacing * (1 - 1e-9)).all())
    return "density" if fine else "interpolate"


def spread_over_nodes(distribution: Any, grid: Grid) -> Tensor:
    """[..., S], probabilities of nodes proportional to density x trapezoid weight.

    Args:
        distribution: of batch shape [...] and event shape [n].
        grid: of S nodes.
    """
    batch = distribution.batch_shape
    nodes = grid.nodes.reshape(len(grid), *[1] * len(batch), -1)
    scores = distribution.log_prob(nodes).movedim(0, -1) + grid.weights.log()
    rows = torch.softmax(scores, -1)
    kept = torch.where(rows.detach() < NEGLIGIBLE * rows.detach().amax(-1, keepdim=True), torch.zeros_like(rows), rows)
    return kept / kept.sum(-1, keepdim=True)


@torch.no_grad()
def unresolved(scores: Tensor, grid: Grid) -> Tensor:
    """[S], by what share of itself the trapezoid sum of exp(score) may be off, by how sharp its highest node is.

    The sum of a Gaussian of deviation w over nodes h apart is off by about 2 exp(-2 (pi w / h)^2) of itself at most
    (Poisson's summation formula), and (h / w)^2 is a second difference of its logarithm. An axis at whose end the
    highest node lies, or beside a node that is forbidden, tells nothing.

    Args:
        scores: [S, A], log densities at the nodes.
        grid: of A nodes.
    """
    highest, table = scores.argmax(-1, keepdim=True), scores.unflatten(-1, [len(axis) for axis in grid.axes])
    sharpest = torch.zeros_like(scores[:, 0])
    for axis in range(1, table.dim()):
        inner, bend = table.shape[axis] - 2, torch.zeros_like(table)
        if inner > 0:
            bend.narrow(axis, 1, inner).copy_(-table.diff(n=2, dim=axis))
        sharpest = torch.maximum(sharpest, bend.flatten(1).gather(1, highest)[:, 0].nan_to_num(0.0, 0.0, 0.0))
    return 2 * torch.exp(-2 * math.pi**2 / sharpest)


@torch.no_grad()
def misplaced(distribution: Any, rows: Tensor, grid: Grid) -> float:
    """How far the moments of what lies on nodes are from those of the distribution, where no edge of the box is near.

    Args:
        distribution: of batch shape [...] and event shape [n].
        rows: [..., S], its probabilities of nodes.
        grid: of S nodes.

    Returns:
        The largest of the errors of means in standard deviations and of variances relative to themselves; 0 where the
        distribution does not know its moments, or none lies well inside the box.
    """
    try:
        mean, variance = distribution.mean, distribution.variance
    except (NotImplementedError, AttributeError):
        return 0.0
    reach = WELL_INSIDE * variance.sqrt()
    low, high = (torch.stack([axis[end] for axis in grid.axes]) for end in (0, -1))
    inside = ((mean - reach >= low) & (mean + reach <= high)).all(-1)
    if not bool(inside.any()):
        return 0.0
    middle = (low + high) / 2  # squares of numbers far from 0 would leave nothing of a variance
    nodes = grid.nodes - middle
    found = rows @ nodes
    off = (found - (mean - middle)).abs() / variance.sqrt()
    spread = (rows @ nodes.square() - found.square() - variance).abs() / variance
    return float(torch.maximum(off, spread)[inside].max())


def near_nodes(distribution: Any, grid: Grid, what: str) -> tuple[Tensor, Tensor, Tensor]:
    """Expected multilinear weights: a point mass between nodes, or a Gaussian by Gauss-Hermite points.

    Mean and, up to the interpolation, covariance are kept.

    Returns:
        (int64 [..., L] numbers of nodes, [..., L] weights, bool [...] whether something lay outside the box).

    Raises:
        ValueError: if it is neither certain nor Gaussian.
    """
    if is_certain(distribution):
        points = distribution.v
        numbers, weights = grid.around(points)
        return *merged(numbers, weights), grid.outside(points.detach())
    mean, root = _gaussian_parts(distribution, what)
    directions = [i for i in range(root.shape[-1]) if bool(root.detach()[..., i].any())]
    nodes, shares = np.polynomial.hermite_e.hermegauss(POINTS)
    shares = shares / shares.sum()
    found, shared = [], []
    for picks in itertools.product(range(POINTS), repeat=len(directions)):
        point, weight = mean, 1.0
        for direction, pick in zip(directions, picks, strict=True):
            point = point + nodes[pick] * root[..., direction]
            weight = weight * float(shares[pick])
        number, share = grid.around(point)
        found.append(number)
        shared.append(share * weight)
    return *merged(torch.cat(found, -1), torch.cat(shared, -1)), grid.outside(mean.detach())


def _gaussian_parts(distribution: Any, what: str) -> tuple[Tensor, Tensor]:
    """(mean [..., n], root [..., n, n]) of a Gaussian."""
    if isinstance(distribution, SingularNormal):
        root = distribution.vectors * distribution.variances.sqrt()[..., None, :]
        return distribution.mean, root
    if isinstance(distribution, MultivariateNormal):
        return distribution.loc, distribution.scale_tril
    base = getattr(distribution, "base_dist", None)
    if isinstance(distribution, Independent) and isinstance(base, Normal):
        return base.loc, torch.diag_embed(base.scale)
    raise ValueError(
        f"{what} is a {type(distribution).__name__}; only certain and Gaussian ones can be interpolated: give a finer "
        "grid and noise='density'"
    )
