"""Gradients of soft values by hand: one forward sweep at about the price of the backward one.

What reaches v_t from above, a_t (the adjoint), flows on as mass does along the posterior (in nats, per state):

    d_t(s, a) = a_t(s) pi_t(a|s)                       the gradient of rho_t(s, a), and of log p(a|s) at step t
    a_{t+1}(s') += sum_{s, a} d_t(s, a) q(s'|s, a)     q the true dynamics, or those given optimality (exact)

With a_1 = q(s_1) these are the posterior's occupancies: the gradient of the log evidence with respect to rewards.
Values that were not kept are computed again, segment by segment, from about sqrt(T) of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from cai.inference.backups import continuation, outcome_q_values
from cai.inference.soft_pass import BITS, SoftPass
from cai.models.numerics import safe_log, safe_logsumexp
from cai.models.trajectory import TrajectoryModel

__all__ = ["SoftSweep", "asks_for_gradients", "soft_values"]


class SoftSweep:
    """A forward sweep along one backward pass.

    Args:
        soft: the pass.
        kept: values [T + 1, S] (or [T + 1, S, B]) of all steps; or [C, S], those at `times`.
        times: the steps of the values that were kept, ascending, ending with T.
    """

    def __init__(self, soft: SoftPass, kept: Tensor, times: list[int]) -> None:
        self.soft, self.kept, self.times = soft, kept, times
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
        made, like = soft.constants(0), self.kept[0]
        blocks = [soft.weights(made, *block, like) * self._products[slice(*block)] for block in soft.blocks(like)]
        return self._direct + torch.cat(blocks)

    def pairs(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(t, v_t, v_{t+1}) for t = 0, 1, ..., T - 1; what was not kept is computed again."""
        for number, (first, last) in enumerate(zip(self.times, self.times[1:], strict=False)):
            segment = self.kept[number : number + 2]
            if last - first > 1:
                segment = self.kept.new_empty((last - first + 1, *self.kept.shape[1:]))
                segment[0], segment[-1] = self.kept[number], self.kept[number + 1]
                for t in range(last - 1, first, -1):
                    self.soft.step(segment[t + 1 - first], t, segment[t - first])
            for t in range(first, last):
                yield t, segment[t - first], segment[t + 1 - first]

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
            self._direct.add_(self._table)
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


def soft_values(
    model: TrajectoryModel,
    kind: Literal["fixed", "exact"],
    *,
    kernel: str = "auto",
    log_prior: Tensor | None = None,
    all_steps: bool = True,
) -> Tensor:
    """Log beta_t(s) in nats, with gradients where the model's tensors ask for them.

    Gradients reach rewards, temperature, action prior and dynamics by `SoftSweep`. They can be differentiated again;
    that records the recursion step by step.

    Args:
        model: the trajectory model, of a finite horizon.
        kind: which backup.
        kernel: see `cai.inference.kernels`.
        log_prior: [T, S, A] in place of the model's own.
        all_steps: whether all values are wanted; else v_1 alone, which takes the memory of 2 sqrt(T) rows.

    Returns:
        [T + 1, S], or [1, S].
    """
    if not asks_for_gradients(model, log_prior):
        soft = SoftPass(model, kind, kernel=kernel, log_prior=log_prior, values_only=log_prior is None)
        return _backward_pass(soft, [*range(model.steps + 1)] if all_steps else [0, model.steps])
    prior = model.log_action_prior if log_prior is None else log_prior
    rewards = [model.log_potential(t) for t in model.reward_times]
    return _SoftValues.apply(model, kind, kernel, all_steps, model.mdp.probabilities, prior, *rewards)


def _backward_pass(soft: SoftPass, times: list[int]) -> Tensor:
    """[C, S], values of the steps that are asked for, ascending, the last of which is T."""
    num_states = soft.num_states
    kept = soft.ones.new_empty((len(times), num_states))
    if len(times) == times[-1] + 1:
        return soft.values(kept)
    kept[-1] = 0.0
    place = len(times) - 2
    following, rolling = kept[-1], soft.ones.new_empty((2, num_states))
    for t in reversed(range(times[-1])):
        lands = t == times[place]
        following = soft.step(following, t, kept[place] if lands else rolling[t % 2])
        place -= lands
    return kept


def asks_for_gradients(model: TrajectoryModel, log_prior: Tensor | None = None) -> bool:
    """Whether gradients are recorded, and some tensor of the model asks for them."""
    if not torch.is_grad_enabled():
        return False
    given = [model.mdp.probabilities, model.action_prior, model.temperature, log_prior]
    return any(isinstance(part, Tensor) and part.requires_grad for part in given) or any(
        model.reward_table(t).requires_grad for t in model.reward_times
    )


class _SoftValues(torch.autograd.Function):
    """Inputs: probabilities [S, A, K], log prior [S, A] or [T, S, A], and rewards in nats, a table a reward time."""

    @staticmethod
    def forward(
        ctx: Any,
        model: TrajectoryModel,
        kind: Literal["fixed", "exact"],
        kernel: str,
        all_steps: bool,
        probabilities: Tensor,
        log_prior: Tensor,
        *rewards: Tensor,
    ) -> Tensor:
        steps, own = model.steps, log_prior.dim() == 2
        soft = SoftPass(model, kind, kernel=kernel, log_prior=None if own else log_prior, values_only=own)
        ctx.model, ctx.soft, ctx.all_steps = model, soft, all_steps
        stride = 1 if all_steps else max(1, math.isqrt(steps))
        times = [*range(0, steps, stride), steps]
        kept = _backward_pass(soft, times)
        ctx.times = times
        ctx.save_for_backward(kept, probabilities, log_prior, *rewards)
        return kept if all_steps else kept[:1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        kept, probabilities, log_prior, *rewards = ctx.saved_tensors
        needs = ctx.needs_input_grad[4:]
        inputs = (probabilities, log_prior, *rewards)
        if torch.is_grad_enabled():  # somebody differentiates twice: record everything
            values = recorded_values(ctx.model, ctx.soft.kind, *inputs)
            values = values if ctx.all_steps else values[:1]
            asked = [part for part, needed in zip(inputs, needs, strict=True) if needed]
            incoming = torch.where(torch.isfinite(values), gradients[0], torch.zeros_like(values))
            found = iter(torch.autograd.grad(values, asked, incoming, create_graph=True, allow_unused=True))
            return (None, None, None, None, *(next(found) if needed else None for needed in needs))
        sweep = SoftSweep(ctx.soft, kept, ctx.times)
        return (None, None, None, None, *_swept(ctx.model, sweep, gradients[0], inputs, needs))


def _swept(
    model: TrajectoryModel, sweep: SoftSweep, gradients: Tensor, inputs: tuple[Tensor, ...], needs: tuple[bool, ...]
) -> list[Tensor | None]:
    """The gradients of the inputs, from those of the values [T + 1, S] or [1, S]."""
    probabilities, log_prior, *rewards = inputs
    totals = [torch.zeros_like(part) if needed else None for part, needed in zip(inputs, needs, strict=True)]
    by_outcome = needs[0] or any(table.shape[-1] > 1 for table in rewards)
    by_step = by_outcome or sweep.soft.in_time
    adjoint = torch.zeros_like(gradients[0])
    for t, values, following in sweep.pairs():
        if t < len(gradients):
            adjoint = sweep.received(adjoint, gradients[t])
        table, adjoint = sweep.shares(t, values, following, adjoint, table=by_step)
        if not by_step:
            continue
        ratios = _tilts(model, sweep.soft, t, following) if by_outcome else None
        if totals[1] is not None and log_prior.dim() == 3:
            totals[1][t] = table
        reward_total = totals[2 + (t if len(rewards) > 1 else 0)]
        if reward_total is not None and (reward_total.shape[-1] > 1 or len(rewards) > 1):
            reward_total.add_(_by_outcome(table, probabilities, ratios, reward_total))
        if totals[0] is not None and ratios is not None:
            totals[0].add_(table[..., None] * _slopes(model, sweep.soft, t, following, ratios))
    if totals[1] is not None and log_prior.dim() == 2:
        totals[1].add_(sweep.total)
    if len(rewards) == 1 and totals[2] is not None and totals[2].shape[-1] == 1:
        totals[2].add_(sweep.total[..., None])
    return totals


def _by_outcome(table: Tensor, probabilities: Tensor, ratios: Tensor | None, like: Tensor) -> Tensor:
    """d_t, shared among outcomes [S, A, K] where rewards see them."""
    if like.shape[-1] == 1 or ratios is None:
        return table[..., None]
    return table[..., None] * probabilities * ratios


def _tilts(model: TrajectoryModel, soft: SoftPass, t: int, following: Tensor) -> Tensor:
    """q(k|s,a) / p(k|s,a) [S, A, K], 0 where the outcome is not possible."""
    probabilities = model.mdp.probabilities.detach()
    if soft.kind == "fixed":
        return (probabilities > 0).to(probabilities.dtype)
    scores = model.log_potential(t).detach()
    scores = scores + model.mdp.gather(continuation(model, following))
    q_values = safe_logsumexp(safe_log(probabilities) + scores)[..., None]
    ratios = (scores - torch.where(torch.isfinite(q_values), q_values, torch.zeros_like(q_values))).exp()
    return torch.where((probabilities > 0) & torch.isfinite(q_values), ratios, torch.zeros_like(ratios))


def _slopes(model: TrajectoryModel, soft: SoftPass, t: int, following: Tensor, ratios: Tensor) -> Tensor:
    """The derivative of q(s, a) with respect to p(k|s,a), on what is possible: [S, A, K]."""
    if soft.kind == "exact":
        return ratios
    worth = model.discount * model.mdp.gather(following)
    table = model.reward_table(t).detach()
    if table.shape[-1] > 1:  # else the reward has no probability as its factor
        worth = worth + table / float(model.temperature)
    worth = worth.expand_as(ratios)
    return torch.where((ratios > 0) & torch.isfinite(worth), worth, torch.zeros_like(worth))


def recorded_values(
    model: TrajectoryModel,
    kind: Literal["fixed", "exact"],
    probabilities: Tensor,
    log_prior: Tensor,
    *rewards: Tensor,
) -> Tensor:
    """The same values [T + 1, S], by operations that autograd records."""
    values = probabilities.new_zeros(model.mdp.num_states)
    rows = [values]
    for t in reversed(range(model.steps)):
        q_values = outcome_q_values(model, kind, probabilities, rewards[t if len(rewards) > 1 else 0], values)
        scores = (log_prior[t] if log_prior.dim() == 3 else log_prior) + q_values
        values = safe_logsumexp(scores)
        values = torch.where(model.live, values, torch.zeros_like(values))
        rows.append(values)
    return torch.stack(rows[::-1])
