"""Separation along a combination of coefficients, which only shows once a search has run far out."""

from __future__ import annotations

import torch
from torch import Tensor

from cai.inverse.search.coordinates import Scaled
from cai.inverse.search.curvature import Spectrum
from cai.inverse.search.maximize import Found

__all__ = ["runs_away"]

SUSPECT = 30.0  # standard errors in scaled features above which a coefficient may have no finite estimate
STEP = 3.0  # standard errors that are gone; a quadratic log-likelihood falls by 4.5 nats over them
FALL = 1e-2  # nats by which the log-likelihood falls at least along what is known
LOSS = 0.1  # nats that are lost on the way back from where separation leads
BACK = (1.0, 0.95, 0.9, 0.8, 0.6, 0.3)  # of a direction on the way back, whose ends may be infeasible; then thirds
NEAR = 1.0  # length of the last step on the way back
AHEAD = (1.0, 3.0)  # shares of a flat direction, either of which may be infeasible
FLATS = 10  # flat directions that are tried, at most
INVOLVED = 0.05


def runs_away(smooth: Scaled, found: Found, shape: Spectrum, inner: Tensor, names: tuple[str, ...]) -> list[str]:
    """The names in a combination along which the log-likelihood falls one way and not the other; else none.

    Where demonstrations are separated by a combination of features, gradient and curvature tend to 0 together, so that
    g'(-H)^-1 g becomes small far out: the search converges at a place that means nothing. What is flat both ways is
    not separated, and a coefficient that few trips tell of falls both ways, if slowly.

    Args:
        smooth: the log-likelihood.
        found: where the search ended.
        shape: the spectrum of -H there, over coordinates `inner`.
        inner: int64, places in the free coordinates.
        names: of the free coefficients.
    """
    ways = shape.vectors / shape.size[:, None] / shape.values.abs().clamp(min=1e-200).sqrt()  # one standard error each
    lengths = ways.norm(dim=0)
    if not bool((lengths > SUSPECT).any()):
        return []
    came = torch.zeros_like(found.place)
    came[inner] = found.place[inner]
    tried = [came]  # a search that runs away goes on in the direction in which it came
    for direction in shape.directions[:FLATS]:  # far out what it ran along is flat, while the way back falls
        way = torch.zeros_like(found.place)
        way[inner] = direction * found.place.norm()
        tried += [ahead for ahead in (way, -way) if _levels_off(smooth, found, ahead)]
    for i in torch.nonzero(~shape.flat & (lengths > SUSPECT)).flatten().tolist():
        way = torch.zeros_like(found.place)
        way[inner] = STEP * ways[:, i]
        tried += [way, -way]
    for way in tried:
        there = smooth.evaluate(found.place + way)
        if there is not None and there[0] > found.value - FALL and _falls_back(smooth, found, way):
            shares = (way / way.norm()).abs().tolist()
            return [name for name, share in zip(names, shares, strict=True) if share > INVOLVED]
    return []


def _levels_off(smooth: Scaled, found: Found, way: Tensor) -> bool:
    """Whether nothing changes far ahead; along what is nearly flat the log-likelihood rises, or falls beyond."""
    ahead = [smooth.evaluate(found.place + share * way) for share in AHEAD]
    return all(there is None or abs(there[0] - found.value) <= FALL for there in ahead)


def _falls_back(smooth: Scaled, found: Found, way: Tensor) -> bool:
    shares, length = list(BACK), float(way.norm())
    while shares[-1] > 0.01 or shares[-1] * length > NEAR:
        shares.append(shares[-1] / 3)
    for share in shares:
        there = smooth.evaluate(found.place - share * way)
        if there is not None and there[0] < found.value - LOSS:
            return True
    return False
