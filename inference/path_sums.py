"""Sums over all paths to an end, z = G z + b with G, b >= 0, for logarithms of any size: direct, or iterated.

z may be e^-10000 or beyond any float, so everything happens in coordinates of its own size: with z = e^h x the system
is x = G' x + b', G'(s, s') = G(s, s') e^{h(s') - h(s)}, b' = b e^{-h}. At h = log z, G' is the transition matrix of the
best policy, x is 1, and (I - G')^-1 1 counts that policy's expected steps. Three ways lead there:

    best paths   h(s) = the log weight of the heaviest single path (Bellman and Ford); bounded iff no cycle gains weight
    climbing     Newton's method on v = log(G e^v + b), which is soft policy iteration: it rises to log z from below
    iterating    x <- G' x + b', with h moved to h + log x from time to time
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cai.inference.chain import SOLVE_LIMIT
from cai.inference.status import Status
from cai.models.numerics import safe_log, safe_logsumexp

__all__ = ["PathSums"]

LONGEST = 1e12  # expected steps beyond which 1 - rho(G) is lost in rounding
GAIN = 1e-9  # best paths better by less, relative to their log weight, are not followed: h only sets the scale
CLIMBS = 100  # Newton steps; a far log z is approached by a constant share of the distance, a near one by its square
NEAR = 1.0  # nats from log z within which one linear solve is as good as any
MOVED = 10.0  # the factor by which x may leave 1 before h follows
ULPS = 8 * torch.finfo(torch.float64).eps


@dataclass(eq=False)
class PathSums:
    """The system z = G z + b on the states that count, G(s, s') being a sum over actions that lead to s'.

    Attributes:
        log_weights: [S, A], log weight of each action; may carry gradients.
        following: int64 [S, A], where it leads.
        inside: bool [S, A], which actions stay among the states that count.
        ends: [S], log b; may carry gradients.
        counts: bool [S].
        height: [S], h: log z as far as it is known.
        steps: linear solves or iterations made.
    """

    log_weights: Tensor
    following: Tensor
    inside: Tensor
    ends: Tensor
    counts: Tensor

    def __post_init__(self) -> None:
        self.height = torch.where(self.counts, self.ends.detach(), torch.zeros_like(self.ends.detach()))
        self.steps = 0
        self.number = int(self.counts.sum())
        place = torch.zeros(len(self.counts), dtype=torch.int64)
        place[self.counts] = torch.arange(self.number)
        self.columns = torch.where(self.inside, place[self.following], torch.zeros_like(self.following))[self.counts]

    def best_paths(self) -> bool:
        """Sets h to the log weight of the best path from each state; False if a cycle gains weight."""
        with torch.no_grad():
            weights = torch.where(self.inside, self.log_weights, torch.full_like(self.log_weights, -torch.inf))
            height = self.height
            for _ in range(self.number + 1):
                better = torch.maximum(height, (weights + height[self.following]).amax(-1))
                slack = GAIN * height.abs().nan_to_num(posinf=0.0).clamp(min=1.0)
                if not bool((better > height + slack).any()):
                    self.height = height
                    return True
                height = torch.where(self.counts, better, height)
            return False

    def solve(self) -> tuple[Tensor, Status]:
        """(log z [S], status) by linear solves, the last of which gradients pass.

        Raises:
            ValueError: if there are more states than a dense system may have.
        """
        if self.number > SOLVE_LIMIT:
            raise ValueError(
                f"gradients of a first-exit problem solve a system of [S, S], and S = {self.number} is above "
                f"{SOLVE_LIMIT}; give a finite horizon, or ask under torch.no_grad()"
            )
        with torch.no_grad():
            status = self._climb()
        if not status.ok or not self.number:
            return self.height, status
        moves, ends = self._scaled()
        solved = self._solved(moves.exp(), ends.exp())
        if solved is None or not bool((solved.detach() > 0).all()):
            return self.height, Status.DIVERGED
        log_z = self.height.masked_scatter(self.counts, self.height[self.counts] + torch.log(solved))
        return log_z, Status.SUCCESS

    def iterate(self, tolerance: float, max_steps: int) -> Status:
        """Iterates, and leaves log z in h.

        Alongside run the powers of G' on 1. Once G'^n 1 <= 1/2, rho(G) < 1, what G'^n leaves of any error is at most
        half, and ||(I - G')^-1|| <= 2 max (1 + G' + ... + G'^{n-1}) 1, times the last change, bounds what is left.
        """
        with torch.no_grad():
            ones = self.counts.double()
            while self.number:
                moves, ends = (part.exp() for part in self._scaled())
                x, power, length, change = ones, ones, torch.zeros_like(ones), ones
                left, largest = 1.0, 1.0
                while left > 0.5 and largest <= MOVED:
                    if self.steps >= max_steps:
                        return Status.NOT_CONVERGED
                    moved = ends + (moves * x[self.following]).sum(-1)
                    change, x = (moved - x).abs(), moved
                    length, power = length + power, (moves * power[self.following]).sum(-1)
                    left, largest, self.steps = float(power.max()), float(x.max()), self.steps + 1
                self.height = torch.where(self.counts, self.height + safe_log(x), self.height)
                worst, least = float(change.max()), float(x[self.counts].min())
                size = max(1.0, float(self.height[self.counts].abs().max()))
                error = 2 * float(length.max()) * worst / least
                if left <= 0.5 and (error <= tolerance * size or worst <= ULPS * least):
                    break
            return Status.SUCCESS

    def _scaled(self) -> tuple[Tensor, Tensor]:
        """(log G' of each action [S, A], log b' [S]); -inf for what is not inside or does not count."""
        nothing = torch.full((), -torch.inf, dtype=torch.float64)
        moves = self.log_weights + (self.height[self.following] - self.height[:, None])
        return torch.where(self.inside, moves, nothing), torch.where(self.counts, self.ends - self.height, nothing)

    def _climb(self) -> Status:
        """Raises h by Newton steps until it is near log z; DIVERGED if it has no end to rise to."""
        for _ in range(CLIMBS if self.number else 0):
            moves, ends = self._scaled()
            scores = torch.cat([moves, ends[:, None]], -1)
            gains = safe_logsumexp(scores)
            policy = torch.where(self.counts[:, None], (scores - gains[:, None]).exp(), torch.zeros_like(scores))
            rise = self._solved(policy[:, :-1], gains)
            if rise is None:
                return Status.DIVERGED
            self.height = self.height.index_add(0, torch.nonzero(self.counts).flatten(), rise)
            if float(rise.abs().max()) <= NEAR:
                return Status.SUCCESS
        return Status.NOT_CONVERGED if self.number else Status.SUCCESS

    def _solved(self, weights: Tensor, side: Tensor) -> Tensor | None:
        """(I - G)^-1 of a side [S], on the states that count; None if rho(G) is 1 or more, as far as float64 can tell.

        (I - G)^-1 1 is positive and finite iff rho(G) < 1.
        """
        self.steps += 1
        zeros = torch.zeros(self.number, self.number, dtype=torch.float64)
        matrix = zeros.scatter_add(
            1, self.columns, torch.where(self.inside, weights, torch.zeros_like(weights))[self.counts]
        )
        sides = torch.stack([side[self.counts], torch.ones(self.number, dtype=torch.float64)], -1)
        solved, info = torch.linalg.solve_ex(torch.eye(self.number, dtype=torch.float64) - matrix, sides)
        lengths = solved.detach()[:, 1]
        fits = int(info) == 0 and bool(torch.isfinite(solved.detach()).all()) and float(lengths.min()) > 0
        return solved[:, 0] if fits and float(lengths.max()) <= LONGEST else None

    def spectral_radius(self) -> float:
        """rho(G); inf where an entry is too large for a float."""
        with torch.no_grad():
            weights = torch.where(self.inside, self.log_weights, torch.full_like(self.log_weights, -torch.inf)).exp()
            zeros = torch.zeros(self.number, self.number, dtype=torch.float64)
            matrix = zeros.scatter_add(1, self.columns, weights[self.counts])
            if not self.number:
                return 0.0
            return float(torch.linalg.eigvals(matrix).abs().max()) if bool(torch.isfinite(matrix).all()) else math.inf
