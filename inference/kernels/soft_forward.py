"""What flows back through soft values: one forward sweep, the counterpart of one backward pass.

What reaches v_t from above, a_t (the adjoint), flows on as mass does along the posterior (in nats, per state):

    d_t(s, a) = a_t(s) pi_t(a|s)                       the gradient of rho_t(s, a), and of log p(a|s) at step t
    a_{t+1}(s') += sum_{s, a} d_t(s, a) q(s'|s, a)     q the true dynamics, or those given optimality (exact)

With a_1 = q(s_1) these are the posterior's occupancies: the gradient of the log evidence with respect to rewards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from cai.inference.kernels.backups import continuation
from cai.inference.kernels.multi_step import column, fill, finish, is_sound, run_levels
from cai.inference.kernels.soft_backward import SoftPass
from cai.models.common.numerics import BITS

__all__ = ["SoftSweep"]

TOGETHER = 64  # steps of a sweep in one scale


class SoftSweep:
    """A forward sweep along one backward pass.

    Args:
        soft: the pass.
        kept: values [T + 1, S] (or [T + 1, S, B]) of all steps; or [C, S], those at `times`.
        times: the steps of the values that were kept, ascending, ending with T.
        levels: c of every step, where e^{v - c} was kept in place of v.
    """

    def __init__(self, soft: SoftPass, kept: Tensor, times: list[int], levels: list[float] | None = None) -> None:
        self.soft, self.kept, self.times, self.levels = soft, kept, times, levels
        self.complete = len(times) == times[-1] + 1
        pieces = math.ceil(times[-1] / TOGETHER)
        self.cuts = [times[-1] * piece // pieces for piece in range(pieces + 1)] if self.complete else times
        longest = max(last - first for first, last in pairwise(self.cuts))
        self._rates = kept.new_empty((longest, soft.num_states if soft.collapsed is not None else 0))
        self._totals: Tensor | None = None  # of what flows from s to s', where actions were summed over
        self.bound = 0.0  # on every entry of every adjoint: what has come in from above
        shape = (soft.num_states, soft.num_actions, *kept.shape[2:])
        self._table = kept.new_empty(shape)
        self._direct = kept.new_zeros(shape)
        if soft.kind == "exact":  # what sums over actions are made of: e^rho p(a|s) and its products are apart
            self._products, self._weighted = kept.new_zeros(shape), kept.new_empty(shape)

    @property
    def total(self) -> Tensor:
        """The sum of all d_t, [S, A] or [S, A, B]."""
        soft = self.soft
        if soft.kind == "fixed" or soft.in_time:
            return self._direct
        if self._totals is not None and soft.collapsed is not None:
            self._products.add_(soft.collapsed.spread(self._totals))
            self._totals = None
        made, like = soft.constants(0), self.kept[0]
        blocks = [soft.weights(made, *block, like) * self._products[slice(*block)] for block in soft.blocks(like)]
        return self._direct + torch.cat(blocks)

    def segments(self) -> Iterator[tuple[int, Tensor, list[float] | None]]:
        """(t, values [n + 1, S] of the steps from t on, c where they are e^{v - c}); they overlap by one row."""
        for number, (first, last) in enumerate(pairwise(self.cuts)):
            part = slice(first, last + 1)
            if self.complete:
                yield first, self.kept[part], None if self.levels is None else self.levels[part]
                continue
            rows = self.kept.new_empty((last - first + 1, *self.kept.shape[1:]))
            rows[0], rows[-1] = self.kept[number], self.kept[number + 1]
            fill(self.soft, rows, first)
            yield first, rows, None

    def pairs(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(t, v_t, v_{t+1}) for t = 0, 1, ..., T - 1; what was not kept is computed again."""
        for first, rows, levels in self.segments():
            yield from self._pairs_of(first, rows, levels)

    def _pairs_of(self, first: int, rows: Tensor, levels: list[float] | None) -> Iterator[tuple[int, Tensor, Tensor]]:
        if levels is not None:
            rows = finish(self.soft, rows.clone(), levels)
        for t, (values, following) in enumerate(pairwise(rows), first):
            yield t, values, following

    def flow(self, adjoint: Tensor) -> None:
        """The whole sweep, where nothing but the first values has a gradient, and only `total` is asked for.

        Args:
            adjoint: a_1 [S].
        """
        for first, rows, levels in self.segments():
            ahead = self._flow_together(rows, levels, adjoint)
            if ahead is not None:
                adjoint = ahead
                continue
            for t, values, following in self._pairs_of(first, rows, levels):
                adjoint = self.shares(t, values, following, adjoint)[1]

    @cached_property
    def _onward(self) -> Tensor:
        """[S], what takes M' rate_t to the next rate: D, discounted, and 0 where chains end."""
        return self._counted(self.soft.factors * self.soft.model.discount)

    def _flow_together(self, rows: Tensor, levels: list[float] | None, adjoint: Tensor) -> Tensor | None:
        """Several steps in one scale, in which rates follow each other by products with M' alone.

        Args:
            rows: [n + 1, S], values in nats, or e^{v - c}.
            levels: c of each, where they are.
            adjoint: [S], of the first row.

        Returns:
            The adjoint of the last row, or None where these steps have to be done one by one.
        """
        soft = self.soft
        if soft.collapsed is None:
            return None
        least = soft.smallest * max(1.0, self.bound)
        if levels is None:
            level, _ = soft.peak(rows[-1])
            levels = run_levels(soft, level, len(rows) - 1)[::-1]
            if len(levels) < len(rows):
                return None
            lost = torch.isinf(rows) if math.isinf(float(rows.amin())) else None
            rows = (rows - column(levels, rows)).mul_(BITS).exp2_()
        else:
            lost = rows == 0 if float(rows.amin()) == 0 else None
        if not is_sound(rows, least, 1 / soft.smallest, lost):
            return None
        discount, arrived = soft.model.discount, rows[1:]
        if discount < 1:
            fallen = [(1 - discount) * math.exp(-level) for level in levels[1:]]
            arrived = (arrived * discount).add_(column(fallen, rows))
        rates = self._rates[: len(arrived)]
        rates[0] = _rates(self._counted(adjoint) * soft.factors, rows[0], 0.0)
        soft.collapsed.chain(rates, self._onward)
        totals = soft.collapsed.correlate(rates, arrived)
        ahead = soft.collapsed.scatter(rates[-1]).mul_(rows[-1]).mul_(discount)
        if not math.isfinite(float(totals.sum() + ahead.sum())):  # rates of states without hope may grow beyond floats
            return None
        self._totals = totals if self._totals is None else self._totals.add_(totals)
        return ahead

    def received(self, adjoint: Tensor | None, gradient: Tensor) -> Tensor:
        """The adjoint with what comes in from above; `shares` needs to be told of all of it."""
        self.bound += float(gradient.abs().sum())
        return gradient if adjoint is None else adjoint + gradient

    def shares(
        self, t: int, values: Tensor, following: Tensor, adjoint: Tensor, *, table: bool = False
    ) -> tuple[Tensor, Tensor]:
        """One step of the sweep; states that are terminal or without hope pass nothing on.

        Args:
            t: the step.
            values: v_t [S] or [S, B].
            following: v_{t+1}.
            adjoint: a_t.
            table: whether d_t itself is wanted; else it is only added to `total`.

        Returns:
            d_t [S, A] or [S, A, B] (what was asked for last, if it was not asked for now), and a_{t+1} [S] or [S, B].
        """
        if self.soft.kind == "fixed":
            passed = self._fixed_shares(t, values, following, adjoint)
        else:
            passed = self._exact_shares(t, values, following, adjoint, table or self.soft.in_time)
        return self._table, passed

    def _fixed_shares(self, t: int, values: Tensor, following: Tensor, adjoint: Tensor) -> Tensor:
        soft, made, table = self.soft, self.soft.constants(t), self._table
        x, shift, lost = soft.fixed_arrivals(following, made)
        soft.shift_to_scores(x, made)
        height = (values - shift - made.largest).mul_(BITS)
        adjoint = self._counted(adjoint)
        gone = torch.isinf(values)
        if bool(gone.any()):
            adjoint = adjoint.masked_fill(gone, 0.0)
            height.masked_fill_(gone, 0.0)
        for start, stop in soft.blocks(values):
            scores = soft.fixed_scores(x, lost, made, start, stop, table[start:stop])
            scores.sub_(height[start:stop, None]).exp2_()
            scores.mul_(_rates(adjoint[start:stop], soft.over_actions(scores), 0.0)[:, None])
        if len(soft.terminal):  # there the heights are none of the scores'
            table.index_fill_(0, soft.terminal, 0.0)
        self._direct.add_(table)
        return made.sums.scatter(table.view(-1, *values.shape[1:])).mul_(soft.model.discount)

    def _exact_shares(self, t: int, values: Tensor, following: Tensor, adjoint: Tensor, wants_table: bool) -> Tensor:
        soft, made, table = self.soft, self.soft.constants(t), self._table
        x, shift = soft.exact_arrivals(following)
        adjoint = self._counted(adjoint)
        least = soft.smallest * max(1.0, self.bound)  # no rate exceeds 1 / smallest
        flat = table.view(-1, *values.shape[1:])
        merged = soft.collapsed is not None and not wants_table
        sums, rate = torch.empty_like(adjoint), torch.empty_like(adjoint)
        for start, stop in soft.blocks(values):
            rows, block = slice(start * soft.num_actions, stop * soft.num_actions), slice(start, stop)
            made.sums.gather(x, start, stop, flat[rows])
            if merged and soft.collapsed is not None:
                soft.collapsed.gather(x, start, stop, sums[block])
                rate[block] = _rates(adjoint[block], sums[block], least)
            else:
                weights = soft.weights(made, start, stop, values)
                sums[block] = soft.over_actions(torch.mul(weights, table[block], out=self._weighted[block]))
                rate[block] = _rates(adjoint[block], sums[block], least)
                torch.mul(weights, rate[block, None], out=self._weighted[block])
            if wants_table:
                table[block].mul_(self._weighted[block])
            else:
                self._products[block].addcmul_(table[block], rate[block, None])
        underflows = float(sums.min()) < least
        if merged and soft.collapsed is not None:
            passed = soft.collapsed.scatter(rate)
        else:
            passed = made.sums.scatter(self._weighted.view(flat.shape))
        passed.mul_(x if soft.model.discount == 1 else soft.discounted(following, shift))
        if underflows:
            low = (sums < least) & torch.isfinite(values) & (adjoint != 0)
            self._pass_locally(t, values, following, adjoint, low, passed, wants_table)
        if wants_table:
            self._direct.add_(table)
        return passed

    def _counted(self, adjoint: Tensor) -> Tensor:
        """The adjoint where decisions are made."""
        terminal = self.soft.terminal
        return adjoint.index_fill(0, terminal, 0.0) if len(terminal) else adjoint

    def _pass_locally(
        self, t: int, values: Tensor, following: Tensor, adjoint: Tensor, low: Tensor, passed: Tensor, wants_table: bool
    ) -> None:
        """Does the states whose sums underflow, each by a shift of its own."""
        soft, mdp = self.soft, self.soft.model.mdp
        for at in soft.pieces(low.nonzero(as_tuple=True)):
            scores = soft.outcome_scores(following, t, at)
            prior = soft.prior_of(soft.constants(t), at)
            scores = scores + (prior[..., None] if isinstance(prior, Tensor) else prior)
            chances = (scores - values[at][:, None, None]).exp()
            chances *= (adjoint[at] / chances.sum((1, 2)))[:, None, None]
            if wants_table:
                self._table.movedim(1, -1)[at] = chances.sum(-1)
            else:
                self._direct.movedim(1, -1)[at] += chances.sum(-1)
            leads = mdp.successors().expand_as(mdp.probabilities)[at[0]]
            problem = tuple(index[:, None, None].expand_as(leads) for index in at[1:])
            passed.index_put_(
                (leads, *problem), chances * self._kept_share(following)[(leads, *problem)], accumulate=True
            )

    def _kept_share(self, following: Tensor) -> Tensor:
        """Gamma e^v / (gamma e^v + 1 - gamma): the probability given optimality that a chain which arrives goes on."""
        model = self.soft.model
        if model.discount == 1:
            return torch.ones_like(following)
        share = (following + math.log(model.discount) - continuation(model, following)).exp()
        return share


def _rates(adjoint: Tensor, sums: Tensor, least: float) -> Tensor:
    """Adjoint / sums, 0 where a sum is 0 or under `least`: what leaves a state arrives, however values were rounded."""
    smallest = float(sums.min())
    if smallest > 0 and smallest >= least:
        return adjoint / sums
    sound = (sums > 0) & (sums >= least)
    return torch.where(sound, adjoint, torch.zeros_like(adjoint)) / torch.where(sound, sums, torch.ones_like(sums))
