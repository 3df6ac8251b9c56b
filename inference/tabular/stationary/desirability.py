"""Sums over all paths to an end, z = G z + b with G, b >= 0, for logarithms of any size: direct, or iterated.

z may be e^-10000 or beyond any float, so everything happens in coordinates of its own size: with z = e^h x the system
is x = G' x + b', G'(s, s') = G(s, s') e^{h(s') - h(s)}, b' = b e^{-h}. At h = log z, G' is the transition matrix of the
best policy, x is 1, and (I - G')^-1 1 counts that policy's expected steps. Four ways lead there:

    best paths   h(s) = the log weight of the heaviest single path; bounded iff no cycle gains weight. Dijkstra's
                 algorithm where no action gains weight by itself, else Bellman and Ford's, one pass a step of a path
    one solve    for x at once, where it is within the reach of floats; then again in the coordinates of its result
    climbing     Newton's method on v = log(G e^v + b), which is soft policy iteration: it rises to log z from below
    iterating    x <- G' x + b', with h moved to h + log x from time to time
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cai.inference.core.status import Status
from cai.inference.tabular.stationary.linear_systems import LinearSystem, Pattern
from cai.inference.tabular.stationary.reachability import edges_of, leads_to
from cai.models.common.numerics import safe_log, safe_logsumexp

__all__ = ["PathSums"]

LONGEST = 1e12  # expected steps beyond which 1 - rho(G) is lost in rounding
GAIN = 1e-9  # best paths better by less, relative to their log weight, are not followed: h only sets the scale
CLIMBS = 100  # Newton steps; a far log z is approached by a constant share of the distance, a near one by its square
NEAR = 1.0  # nats from log z within which one linear solve is as good as any
MOVED = 10.0  # the factor by which x may leave 1 before h follows
ULPS = 8  # changes below so many units of rounding are no changes


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
        self.states = torch.nonzero(self.counts).flatten()
        self.number = len(self.states)
        self.inside = self.inside & self.counts[:, None]

    @cached_property
    def pattern(self) -> Pattern:
        """The places of the actions that stay inside, in the order of `inside`."""
        place = torch.cumsum(self.counts, 0) - 1
        rows = torch.nonzero(self.inside)[:, 0]
        return Pattern(place[rows], place[self.following[self.inside]], self.number)

    def best_paths(self) -> bool:
        """Sets h to the log weight of the best path from each state; False if a cycle gains weight."""
        with torch.no_grad():
            weights = torch.where(self.inside, self.log_weights, torch.full_like(self.log_weights, -torch.inf))
            if not self.number:
                return True
            if not bool((weights > 0).any()):
                self.height = self._cheapest_paths()
                return True
            height = self.height
            for _ in range(self.number + 1):
                better = torch.maximum(height, (weights + height[self.following]).amax(-1))
                slack = GAIN * height.abs().nan_to_num(posinf=0.0).clamp(min=1.0)
                if not bool((better > height + slack).any()):
                    self.height = height
                    return True
                height = torch.where(self.counts, better, height)
            return False

    def _cheapest_paths(self) -> Tensor:
        """[S], h where no action gains weight: distances to one more node, which every state that ends is joined to.

        What an ending is worth may have any sign, so its distance is how far it is below the best ending.
        """
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import dijkstra

        ends = self.ends.detach()[self.states]
        sure = torch.isfinite(ends)
        best = float(ends[sure].max()) if bool(sure.any()) else 0.0
        last = torch.nonzero(sure).flatten()
        tails = torch.cat([self.pattern.rows, last]).cpu().numpy()
        heads = torch.cat([self.pattern.columns, torch.full_like(last, self.number)]).cpu().numpy()
        costs = torch.cat([-self.log_weights.detach()[self.inside], best - ends[sure]]).double().cpu().numpy()
        # Of several actions that lead to the same state the best counts. (Rows are heads: paths are walked backward.)
        order = np.lexsort((costs, tails, heads))
        first = np.ones(len(order), dtype=bool)
        first[1:] = (np.diff(heads[order]) != 0) | (np.diff(tails[order]) != 0)
        kept = order[first]
        size = self.number + 1
        graph = csr_matrix((costs[kept], (heads[kept], tails[kept])), shape=(size, size))
        distances = torch.from_numpy(dijkstra(graph, indices=self.number)[:-1]).to(self.height)
        return self.height.index_copy(0, self.states, best - distances)

    def solve(self) -> tuple[Tensor, Status]:
        """(log z [S], status) by linear solves, the last of which gradients pass.

        Where x is within the reach of floats, one solve in the coordinates at hand brings h near log z; climbing
        does elsewhere.
        """
        with torch.no_grad():
            near = self.leap()
        while self.number:
            if not near:
                with torch.no_grad():
                    status = self.climb()
                if not status.ok:
                    return self.height, status
            moves, ends = self._scaled()
            solved = self._solved(moves.exp(), ends.exp())
            if solved is not None and bool((solved.detach() > 0).all()):
                rise = torch.log(solved)
                if not near or float(rise.detach().abs().max()) <= NEAR:
                    return self.height.masked_scatter(self.counts, self.height[self.counts] + rise), Status.SUCCESS
            elif not near:
                return self.height, Status.DIVERGED
            near = False  # the leap was none: climb from where it led
        return self.height, Status.SUCCESS

    def iterate(self, tolerance: float, max_iterations: int) -> Status:
        """Iterates, and leaves log z in h.

        Alongside run the powers of G' on 1. Once G'^n 1 <= 1/2, rho(G) < 1, what G'^n leaves of any error is at most
        half, and ||(I - G')^-1|| <= 2 max (1 + G' + ... + G'^{n-1}) 1, times the last change, bounds what is left.
        """
        with torch.no_grad():
            ones = self.counts.to(self.height.dtype)
            while self.number:
                moves, ends = (part.exp() for part in self._scaled())
                x, power, length, change = ones, ones, torch.zeros_like(ones), ones
                left, largest = 1.0, 1.0
                while left > 0.5 and largest <= MOVED:
                    if self.steps >= max_iterations:
                        return Status.NOT_CONVERGED
                    moved = ends + (moves * x[self.following]).sum(-1)
                    change, x = (moved - x).abs(), moved
                    length, power = length + power, (moves * power[self.following]).sum(-1)
                    left, largest, self.steps = float(power.max()), float(x.max()), self.steps + 1
                self.height = torch.where(self.counts, self.height + safe_log(x), self.height)
                worst, least = float(change.max()), float(x[self.counts].min())
                size = max(1.0, float(self.height[self.counts].abs().max()))
                error = 2 * float(length.max()) * worst / least
                if left <= 0.5 and (error <= tolerance * size or worst <= ULPS * torch.finfo(x.dtype).eps * least):
                    break
            return Status.SUCCESS

    def _scaled(self) -> tuple[Tensor, Tensor]:
        """(log G' of each action [S, A], log b' [S]); -inf for what is not inside or does not count."""
        nothing = torch.full_like(self.ends[:1], -torch.inf).detach()
        moves = self.log_weights + (self.height[self.following] - self.height[:, None])
        return torch.where(self.inside, moves, nothing), torch.where(self.counts, self.ends - self.height, nothing)

    def leap(self) -> bool:
        """Moves h to h + log x; False where x is no positive float, and h stays. `solve` finds out whether it is z."""
        if not self.number:
            return False
        self.steps += 1
        moves, ends = self._scaled()
        x = self._system(moves.exp()).guess(ends.exp()[self.counts])
        if x is None or not bool((x > 0).all()):
            return False
        self.height = self.height.index_add(0, self.states, torch.log(x))
        return True

    def climb(self) -> Status:
        """Raises h by Newton steps until it is near log z; DIVERGED if it has no end to rise to."""
        for _ in range(CLIMBS):
            moves, ends = self._scaled()
            scores = torch.cat([moves, ends[:, None]], -1)
            gains = safe_logsumexp(scores)
            policy = torch.where(self.counts[:, None], (scores - gains[:, None]).exp(), torch.zeros_like(scores))
            rise = self._solved(policy[:, :-1], gains)
            if rise is None:
                return Status.DIVERGED
            self.height = self.height.index_add(0, self.states, rise)
            if float(rise.abs().max()) <= NEAR:
                return Status.SUCCESS
        return Status.NOT_CONVERGED

    def _solved(self, weights: Tensor, side: Tensor) -> Tensor | None:
        """(I - G)^-1 of a side [S], on the states that count; None if rho(G) is 1 or more, as far as float64 can tell.

        (I - G)^-1 1 is positive and finite iff rho(G) < 1.
        """
        self.steps += 1
        system = self._system(weights)
        lengths = system.lengths
        if lengths is None or float(lengths.max()) > LONGEST:
            return None
        solved = system.solve(side[self.counts])
        return solved if bool(torch.isfinite(solved.detach()).all()) else None

    def _system(self, weights: Tensor) -> LinearSystem:
        return self.pattern.system(weights[self.inside])

    def dies_out(self, gains: bool, leaks: Tensor, max_iterations: int) -> Status:
        """Whether rho(G) < 1: else sums over ever longer paths do not settle, and z is nothing.

        Args:
            gains: whether some action gains weight. Else G is substochastic, and dies out iff every state leads to one
                from which weight leaks; that is a search.
            leaks: bool [S], the states whose weights inside add up to less than 1.
            max_iterations: of the iteration, where G is too large to factorise.

        Returns:
            SUCCESS if it does, DIVERGED if not, NOT_CONVERGED if the steps did not suffice to tell.
        """
        if not gains:
            origins, targets = edges_of(self.inside, self.following)
            found = bool((leads_to(origins, targets, leaks | ~self.counts) | ~self.counts).all())
            return Status.SUCCESS if found else Status.DIVERGED
        if not self.best_paths():
            return Status.DIVERGED
        with torch.no_grad():
            return self.iterate(math.inf, max_iterations) if self.pattern.method == "iterate" else self.solve()[1]

    def spectral_radius(self) -> float:
        """rho(G), of a dense matrix; inf where an entry is too large for a float."""
        with torch.no_grad():
            if not self.number:
                return 0.0
            places = self.pattern.rows * self.number + self.pattern.columns
            weights = self.log_weights[self.inside].exp()
            matrix = weights.new_zeros(self.number**2).index_add(0, places, weights).reshape(self.number, self.number)
            return float(torch.linalg.eigvals(matrix).abs().max()) if bool(torch.isfinite(matrix).all()) else math.inf
