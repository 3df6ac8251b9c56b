"""Maximising a log-likelihood that may be infeasible: safeguarded BFGS or Newton steps with a line search of its own.

What is infeasible never becomes a value: the step is halved. A search that is handed inf for such places can stop
anywhere and call it convergence. The end is certain: the exact Hessian H at the last place says how far the maximum is,
g'(-H)^-1 g, twice the nats that are still to be won (Nocedal and Wright 2006, chapters 3 and 6, for the updates).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cai.inference.core.progress import progress
from cai.inverse.search.curvature import Spectrum, best_step, spectrum

__all__ = ["Box", "Found", "Smooth", "maximize"]

RISE = 1e-4  # of the predicted gain that a step must bring
SHORTEST = 1e-14  # of a step, below which the search along it ends
ROUNDING = 1e-13  # of the value, which differences of values do not tell
BLIND = 1e-7  # of the value, a gain below which a slope that is halved is as good as a value that rises
AHEAD = 1e-4  # of the tolerance, which BFGS must promise before the exact Hessian is asked
LONGEST_STEP = 10.0  # of a step, relative to 1 + the length of the coefficients
PATIENCE = 25  # steps of BFGS, after which the exact Hessian is asked what is in the way


class Smooth(Protocol):
    """A function of F coordinates, undefined in places."""

    def evaluate(self, place: Tensor) -> tuple[float, Tensor] | None:
        """Value and gradient, or None where it is infeasible."""
        ...

    def hessian(self, place: Tensor) -> Tensor:
        """[F, F]."""
        ...


@dataclass(frozen=True)
class Box:
    """What is not smooth: bounds on coordinates, and slopes of absolute values that are taken off.

    Attributes:
        lower: [F], -inf where there is none.
        upper: [F].
        sharp: [F], of sum sharp |u|.
    """

    lower: Tensor
    upper: Tensor
    sharp: Tensor

    @property
    def plain(self) -> bool:
        """Whether there is nothing of the kind."""
        return bool(torch.isinf(self.lower).all() and torch.isinf(self.upper).all() and not self.sharp.any())

    def reached(self, place: Tensor, step: Tensor) -> Tensor:
        """Place + step, exactly at the bounds that the step leads to, which rounding of the sum would miss."""
        there = torch.where(step >= self.upper - place, self.upper, place + step)
        return torch.where(step <= self.lower - place, self.lower, there)

    def taken(self, place: Tensor) -> float:
        """Sum sharp |u|."""
        return float((self.sharp * place.abs()).sum())


@dataclass(frozen=True)
class Found:
    """Where a search ended.

    Attributes:
        place: [F].
        value: there, less the absolute values.
        gradient: [F], of the smooth part.
        hessian: [F, F] at the place, or None where it was not asked for.
        decrement: g'(-H)^-1 g, in nats; twice the gain that the exact quadratic model promises.
        converged: whether that is below the tolerance at a maximum.
        steps: accepted.
        evaluations: of value and gradient.
    """

    place: Tensor
    value: float
    gradient: Tensor
    hessian: Tensor | None
    decrement: float
    converged: bool
    steps: int
    evaluations: int


class _Search:
    """The state of a search: place, value (less the absolute values), gradient."""

    def __init__(self, function: Smooth, start: Tensor, box: Box) -> None:
        self.function, self.box = function, box
        self.evaluations = 0
        self._known: tuple[Tensor, Tensor] | None = None  # a place and its exact Hessian
        found = self.look(start)
        if found is None:
            raise ValueError("the search starts where the function is infeasible; look for a feasible start first")
        self.place = start
        self.value, self.slope = found

    def look(self, place: Tensor) -> tuple[float, Tensor] | None:
        self.evaluations += 1
        found = self.function.evaluate(place)
        return None if found is None else (found[0] - self.box.taken(place), found[1])

    def hessian(self) -> Tensor:
        """[F, F], exact, where the search is."""
        if self._known is None or not torch.equal(self._known[0], self.place):
            self._known = self.place, self.function.hessian(self.place)
        return self._known[1]

    def promised(self, bend: Tensor | Spectrum) -> tuple[Tensor, float]:
        """The step of a quadratic model and its gain."""
        if isinstance(bend, Tensor):
            return best_step(self.slope, bend, self.place, self.box.lower, self.box.upper, self.box.sharp)
        if self.box.plain:
            step = bend.uphill(self.slope)
            return step, float(self.slope @ step) / 2
        return self.promised(bend.positive())

    def advance(self, step: Tensor, gain: float) -> tuple[Tensor, Tensor] | None:
        """Goes along a step as far as it brings enough; (what was gone, how the gradient fell), or None."""
        noise = ROUNDING * max(1.0, abs(self.value))
        length = float(step.norm())
        share = min(1.0, LONGEST_STEP * (1 + float(self.place.norm())) / max(length, 1e-300))
        rise = float(self.slope @ step) - self.box.taken(self.place + step) + self.box.taken(self.place)
        while share > SHORTEST:
            there = self.box.reached(self.place, share * step)
            found = self.look(there)
            if found is None:
                share /= 2
                continue
            won = found[0] - self.value
            # Near the end values cannot tell, whose rounding depends on what they are sums of; slopes do.
            steep = abs(float(found[1] @ step)) if self.box.plain else math.inf
            blind = gain < 1e4 * noise and won >= -noise
            blind = blind or (gain < BLIND * max(1.0, abs(self.value)) and steep <= abs(rise) / 2)
            if won >= RISE * share * rise or blind:
                gone, fell = there - self.place, self.slope - found[1]
                self.place, (self.value, self.slope) = there, found
                return gone, fell
            curve = share * rise - won  # of the parabola through both values
            share *= min(max(share * rise / (2 * curve), 0.1), 0.5) if curve > 0 else 0.5
        return None

    def leave_saddle(self, bend: Spectrum) -> bool:
        """Goes along the direction in which the function bends up most, to whichever side rises."""
        way = bend.vectors[:, 0] / bend.size
        way = way / way.norm()
        noise = ROUNDING * max(1.0, abs(self.value))
        share = 1.0
        while share > 1e-6:
            for sign in (1.0, -1.0):
                there = (self.place + sign * share * way).clamp(self.box.lower, self.box.upper)
                found = self.look(there)
                if found is not None and found[0] > self.value + 10 * noise:
                    self.place, (self.value, self.slope) = there, found
                    return True
            share /= 4
        return False


def maximize(
    function: Smooth,
    start: Tensor,
    box: Box,
    *,
    newton: bool = False,
    exact: bool = True,
    tolerance: float = 1e-12,
    max_iterations: int = 500,
    rounding: float = 0.0,
    show: bool = False,
) -> Found:
    """Goes uphill from a feasible start until the exact Hessian says that the maximum is reached.

    Args:
        function: what is maximised, in coordinates of about the same size.
        start: [F], feasible and within the bounds. The first BFGS step has length 1 at most.
        box: bounds and absolute values.
        newton: take the exact Hessian in every step.
        exact: ask for the Hessian at the end; without it the updates of BFGS stand for it.
        tolerance: of g'(-H)^-1 g, in nats.
        max_iterations: steps at most.
        rounding: of the diagonal of the Hessian, see `rounding_of`.
        show: whether progress is shown.
    """
    search = _Search(function, start, box)
    bend: Tensor | Spectrum | None = None
    decrement, done, steps, fresh = float("inf"), False, 0, True
    waited = 0  # steps since the exact Hessian was asked

    def exactly() -> Spectrum:
        return spectrum(-search.hessian(), rounding)

    rounds = progress(max_iterations, lambda: f"{search.value:.6g} nats") if show else range(max_iterations)
    for _ in rounds:
        if exact and (newton or waited >= PATIENCE):
            bend, waited = exactly(), 0
            newton = newton or bool(bend.flat.any())  # else updates follow what is nearly flat for hundreds of steps
        elif bend is None:
            bend = torch.eye(len(start), dtype=torch.float64) * max(float(search.slope.norm()), 1e-300)
        step, gain = search.promised(bend)
        if 2 * gain < AHEAD * tolerance and exact:
            bend = exactly()
            step, gain = search.promised(bend)
        decrement = 2 * gain
        if decrement < tolerance and (isinstance(bend, Spectrum) or not exact):
            if not (isinstance(bend, Spectrum) and bend.bends_up):
                done = True
                break
            if not search.leave_saddle(bend):
                break
            bend, steps, fresh = None, steps + 1, True
            continue
        change = search.advance(step, gain)
        if change is None:
            if isinstance(bend, Spectrum):
                break
            if not exact:
                if fresh:
                    break
                bend, fresh = None, True
                continue
            bend = exactly()
            step, gain = search.promised(bend)
            decrement = 2 * gain
            if decrement < tolerance and not bend.bends_up:
                done = True
                break
            change = search.advance(step, gain)
            if change is None:
                break
        steps, waited = steps + 1, waited + 1
        matrix = bend.positive() if isinstance(bend, Spectrum) else bend
        bend, fresh = _updated(matrix, *change, first=fresh and not isinstance(bend, Spectrum)), False
    hessian = search.hessian() if exact else None
    return Found(search.place, search.value, search.slope, hessian, decrement, done, steps, search.evaluations)


def _updated(matrix: Tensor, gone: Tensor, fell: Tensor, *, first: bool) -> Tensor:
    """The update of BFGS to B, about -H, damped where the function bends up along the step (Powell 1978)."""
    along = float(gone @ fell)
    if first and along > 0:
        matrix = torch.eye(len(gone), dtype=torch.float64) * (float(fell @ fell) / along)
    ahead = matrix @ gone
    expected = float(gone @ ahead)
    if not expected > 0 or not bool(torch.isfinite(fell).all()):
        return matrix
    if along < 0.2 * expected:
        share = 0.8 * expected / (expected - along)
        fell = share * fell + (1 - share) * ahead
        along = float(gone @ fell)
    updated = matrix - torch.outer(ahead, ahead) / expected + torch.outer(fell, fell) / along
    return updated if bool(torch.isfinite(updated).all()) else matrix
