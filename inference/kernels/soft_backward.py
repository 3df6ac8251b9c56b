"""Backward passes of soft control at the speed of the machine: values from values, with no gradients recorded.

Both backups are sums over outcomes (`OutcomeSums`) between powers and logarithms, in nats with rho = r / alpha:

    fixed dynamics   q = rho + P (gamma v - c) + c                c = max gamma v      Levine 2018, equation (15)
    exact            q = rho + log(P e^{v - c}) + c               c = max v            Levine 2018, equation (7)
    both             v = log sum_a p(a|s) e^q

Where rewards see the outcome, e^{rho_k} goes into P. A shift is one number for all states, so a sum may underflow that
a shift of its own would have saved: states whose sum falls under tiny / eps are done again by logsumexps of their own,
which keeps every state exact to rounding. No product ever sees an infinity. Powers are those of 2, which
torch computes about three times as fast as those of e.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Literal, NoReturn

import torch
from torch import Tensor

from cai.inference.kernels.backups import continuation
from cai.inference.kernels.choose import outcome_sums
from cai.inference.kernels.multi_step import Run, exact_run, fill, fixed_run
from cai.inference.kernels.outcome_sums import OutcomeSums
from cai.inference.kernels.step_constants import BLOCK, Constants, Shift
from cai.models.common.numerics import BITS, NATS, expectation, safe_log, safe_logsumexp
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["SoftPass", "refuse_collapsed"]

PIECE = 2**24  # numbers of one piece of the states that are done again
HELD_STEPS = 8  # steps for each action from which a table [S, A] is small beside the values
COLLAPSED_STEPS = 32  # steps from which it pays to sum over actions once and for all


class SoftPass:
    """One backward recursion of a model, or of B problems that share its process.

    For a batch values are [S, B] and q-values [S, A, B].

    Args:
        model: the trajectory model.
        kind: which backup.
        kernel: see `cai.inference.kernels.choose`.
        log_prior: [S, A], [S, A, B] or, with a time axis, [T, S, A]; the model's unless given.
        rewards: [S, A, B], nats, for a batch; the model's unless given.
        values_only: whether nothing but values is asked for, so that actions may be summed over first.

    Raises:
        ValueError: if the kernel does not fit.
    """

    def __init__(
        self,
        model: TrajectoryModel,
        kind: Literal["fixed", "exact"],
        *,
        kernel: str = "auto",
        log_prior: Tensor | None = None,
        rewards: Tensor | None = None,
        values_only: bool = False,
    ) -> None:
        self.model, self.kind, self.rewards, self.kernel = model, kind, rewards, kernel
        table = model.mdp.probabilities
        self.num_states, self.num_actions = model.mdp.num_states, model.mdp.num_actions
        self.smallest = torch.finfo(table.dtype).tiny / torch.finfo(table.dtype).eps
        self.terminal = model.mdp.terminal.nonzero()[:, 0]
        self.ones = table.new_ones(self.num_actions)
        self.log_prior = _shared_prior(model) if log_prior is None else log_prior.detach()
        self.prior_in_time = isinstance(self.log_prior, Tensor) and self.log_prior.dim() == 3 and rewards is None
        self.reward_in_time = rewards is None and model.reward.reads_time
        self.in_time = self.prior_in_time or self.reward_in_time
        self.sees_outcomes = rewards is None and model.reward.reads_outcome
        self.sums_kernel = "auto" if kernel == "collapsed" else kernel
        self.sums = outcome_sums(model.mdp, self.sums_kernel)
        self._made: tuple[int, Constants] | None = None
        self._made_parts: tuple[Constants, list[tuple[int, int, Tensor, Tensor | None, Tensor]]] | None = None
        self._lost: tuple[Tensor, Tensor] | None = None
        self._buffers: dict[str, Tensor] = {}
        self.held: Tensor | None = None
        self.collapsed: OutcomeSums | None = None
        collapses = kind == "exact" and rewards is None and not self.in_time
        if kernel == "collapsed" and not (collapses and values_only):
            refuse_collapsed()
        pays = collapses and values_only and kernel in ("auto", "native") and model.steps >= COLLAPSED_STEPS
        if kernel == "collapsed" or pays:
            self.collapsed = self.constants(0).sums.over_actions(self.all_scores(self.constants(0)))
        elif (kind == "exact" and rewards is not None) or (
            collapses and values_only and model.steps >= HELD_STEPS * self.num_actions
        ):
            self.held = self.all_scores(self.constants(0))

    # ---- steps --------------------------------------------------------------------------------------------------

    def step(self, following: Tensor, t: int, out: Tensor) -> Tensor:
        """Writes v_t into `out` from v_{t+1}, both [S] or [S, B], nats."""
        if self.kind == "fixed":
            self._fixed_step(following, t, out)
        else:
            self._exact_step(following, t, out)
        return out.index_fill_(0, self.terminal, 0.0) if len(self.terminal) else out

    def q_values(self, following: Tensor, t: int, out: Tensor | None = None) -> Tensor:
        """q_t [S, A] or [S, A, B], nats, from v_{t+1}; 0 in terminal states."""
        made = self.constants(t)
        shape = (self.num_states, self.num_actions, *following.shape[1:])
        result = following.new_empty(shape) if out is None else out
        flat = result.view(-1, *following.shape[1:])
        if self.kind == "fixed":
            x, shift, lost = self.fixed_arrivals(following, made)
        else:
            x, shift = self.exact_arrivals(following)
        for start, stop in self.blocks(following):
            rows = slice(start * self.num_actions, stop * self.num_actions)
            made.sums.gather(x, start, stop, flat[rows])
            block = result[start:stop]
            if self.kind == "fixed":
                block.add_(made.rewards[start:stop], alpha=made.scale).add_(shift)
                if lost is not None:
                    block.masked_fill_(lost[start:stop], -torch.inf)
                continue
            low = block < self.smallest
            block.log2_().mul_(NATS).add_(made.rewards[start:stop], alpha=made.scale).add_(shift)
            if bool(low.any()):
                states = low.any(1).nonzero(as_tuple=True)
                local = self._local_q_values(following, t, (states[0] + start, *states[1:]))
                block.movedim(1, -1)[states] = local
        return result.index_fill_(0, self.terminal, 0.0) if len(self.terminal) else result

    def choose(self, q_values: Tensor, t: int, values: Tensor, policy: Tensor) -> None:
        """Writes v_t [S] and pi_t [S, A] from q_t [S, A]; rows without hope keep the prior, terminal ones too."""
        prior = self.constants(t).prior
        largest = float(q_values.amax())
        shift = largest if math.isfinite(largest) else 0.0  # priors are 1 at most, so no score exceeds it
        if isinstance(prior, Tensor):
            torch.sub(q_values, shift, out=policy).add_(prior)
        else:
            torch.sub(q_values, shift - prior, out=policy)
        policy.mul_(BITS).exp2_()
        sums = self.over_actions(policy)
        torch.log2(sums, out=values).mul_(NATS).add_(shift)
        policy.div_(sums[:, None])
        if float(sums.min()) < self.smallest:
            states = (sums < self.smallest).nonzero()[:, 0]
            scores = q_values[states] + (prior[states] if isinstance(prior, Tensor) else prior)
            found = safe_logsumexp(scores)
            values[states] = found
            hopeless = torch.isinf(found)
            shares = (scores - torch.where(hopeless, torch.zeros_like(found), found)[:, None]).exp()
            shares = shares / torch.where(hopeless[:, None], torch.ones_like(shares), shares).sum(-1, keepdim=True)
            policy[states] = torch.where(hopeless[:, None], self._prior(t)[states], shares)
        if len(self.terminal):
            values.index_fill_(0, self.terminal, 0.0)
            policy[self.terminal] = self._prior(t)[self.terminal]

    def _prior(self, t: int) -> Tensor:
        """[S, A], p(a|s) of step t."""
        prior = self.constants(t).prior
        return prior.exp() if self.prior_in_time and isinstance(prior, Tensor) else self.model.action_prior.detach()

    def values(self, out: Tensor) -> Tensor:
        """Fills `out` [T + 1, S] or [T + 1, S, B] with log beta_t, the last row 0."""
        out[-1] = 0.0
        fill(self, out)
        return out

    @property
    def allows_runs(self) -> bool:
        """Whether a step is the same at all times, so that several may share a scale."""
        return not self.in_time

    def run(self, rows: Tensor, last: int) -> Run:
        """Several steps in one scale: see `cai.inference.kernels.multi_step`."""
        return fixed_run(self, rows, last) if self.kind == "fixed" else exact_run(self, rows, last)

    @cached_property
    def factors(self) -> Tensor:
        """[S], the largest e^rho p(a|s) of each state relative to the largest of all; for the exact backup."""
        made = self.constants(0)
        return (made.row_largest - made.largest).mul_(BITS).exp2_()

    @property
    def rise(self) -> float:
        """What the level of a run gains at every step of the exact backup, nats."""
        return float(self.constants(0).largest)

    @property
    def shared_prior(self) -> float:
        """The part of every log p(a|s) that `fixed_logs` leaves out, nats."""
        prior = self.constants(0).prior
        return 0.0 if isinstance(prior, Tensor) else prior

    @property
    def rows_at_once(self) -> int:
        """Rows of values that stay in the cache together; on a GPU all of them."""
        return 2**30 if self.ones.is_cuda else max(1, BLOCK // self.num_states)

    @property
    def least_shift(self) -> float:
        """Of the exact backup: chains that have fallen are worth 0."""
        return -math.inf if self.model.discount == 1 else 0.0

    def peak(self, values: Tensor) -> tuple[float, bool]:
        """(the shift of values [S]: the largest, 0 where none is finite; whether none is infinite)."""
        level, complete = _extent(values, self.least_shift)
        assert isinstance(level, float)
        return level, complete

    def _fixed_step(self, following: Tensor, t: int, out: Tensor) -> None:
        made = self.constants(t)
        x, shift, lost = self.fixed_arrivals(following, made)
        self.shift_to_scores(x, made)
        shift = shift + made.largest
        for start, stop in self.blocks(following):
            block = self._buffer("scores", start, stop, following)
            scores = self.fixed_scores(x, lost, made, start, stop, block)
            powers = torch.exp2(scores, out=self._buffer("powers", start, stop, following).view(scores.shape))
            sums = self.over_actions(powers)
            torch.log2(sums, out=out[start:stop])
            if float(sums.min()) < self.smallest:
                states = (sums < self.smallest).nonzero(as_tuple=True)
                out[start:stop][states] = safe_logsumexp(scores.movedim(1, -1)[states] / BITS) * BITS
        out.mul_(NATS).add_(shift)

    def shift_to_scores(self, x: Tensor, made: Constants) -> None:
        """Shifts what arrives so that every score is 0 at most, in bits: rows of P sum to 1."""
        x.sub_(made.largest if isinstance(made.prior, Tensor) else made.largest - made.prior).mul_(BITS)

    def fixed_scores(
        self, x: Tensor, lost: Tensor | None, made: Constants, start: int, stop: int, out: Tensor
    ) -> Tensor:
        """Log p(a|s) + q of a block less the step's shifts, in bits, written into `out`: [., A] or [., A, B]."""
        made.sums.gather(x, start, stop, out.view(-1, *x.shape[1:]))
        scores = out.view(stop - start, self.num_actions, *x.shape[1:])
        scores.add_(made.rewards[start:stop], alpha=made.scale * BITS)
        if isinstance(made.prior, Tensor):
            scores.add_(made.prior[start:stop], alpha=BITS)
        return scores if lost is None else scores.masked_fill_(lost[start:stop], -torch.inf)

    def _exact_step(self, following: Tensor, t: int, out: Tensor) -> None:
        made = self.constants(t)
        x, shift = self.exact_arrivals(following)
        self.exact_sums(x, made, out)
        low = None if float(out.min()) >= self.smallest else (out < self.smallest).nonzero(as_tuple=True)
        out.log2_().mul_(NATS).add_(made.row_largest).add_(shift)
        if low is not None:
            out[low] = self.local_values(following, t, low)

    def exact_sums(self, x: Tensor, made: Constants, out: Tensor) -> None:
        """Sums over actions and outcomes, of e^rho p(a|s) relative to the largest of each state, into [S] or [S, B]."""
        if self.collapsed is not None:
            self.collapsed.gather(x, 0, self.num_states, out)
            return
        for start, stop in self.blocks(x):
            products = made.sums.gather(x, start, stop, self._buffer("scores", start, stop, x))
            products = products.view(stop - start, self.num_actions, *x.shape[1:])
            self.over_actions(products.mul_(self.weights(made, start, stop, x)), out[start:stop])

    def scaled_sums(self, x: Tensor, made: Constants, out: Tensor) -> None:
        """The same for one problem, relative to the largest of all states."""
        if self.by_row:
            self.exact_sums(x, made, out)
            out.mul_(self.factors)
            return
        for start, stop in self.blocks(x):
            products = made.sums.gather(x, start, stop, self._buffer("scores", start, stop, x))
            weights = self.weights(made, start, stop, x, level=self.rise)
            self.over_actions(products.view(weights.shape).mul_(weights), out[start:stop])

    @property
    def by_row(self) -> bool:
        """Whether e^rho p(a|s) has been divided by the largest of each state once and for all."""
        return self.held is not None or self.collapsed is not None

    def fixed_logs(self, x: Tensor, made: Constants, out: Tensor) -> Tensor:
        """Log2 of sums over actions of 2^{rho + gamma P x} in bits, times p(a|s) unless all have the same."""
        beta, discount = made.scale * BITS, self.model.discount
        for start, stop, rewards, prior, scores in self._parts(made, x):
            made.sums.gather_onto(rewards, beta, x, discount, start, stop, scores.view(-1))
            if prior is not None:
                scores.add_(prior, alpha=BITS)
            torch.mv(scores.exp2_(), self.ones, out=out[start:stop]).log2_()
        return out

    def _parts(self, made: Constants, like: Tensor) -> list[tuple[int, int, Tensor, Tensor | None, Tensor]]:
        """Of every block its range, rewards [. A], log prior [., A] unless all have the same, and room for scores."""
        if self._made_parts is None or self._made_parts[0] is not made:
            self._made_parts = made, []
            for start, stop in self.blocks(like):
                room = self._buffer("scores", start, stop, like).view(-1, self.num_actions)
                prior = made.prior[start:stop] if isinstance(made.prior, Tensor) else None
                self._made_parts[1].append((start, stop, made.rewards[start:stop].view(-1), prior, room))
        return self._made_parts[1]

    def fixed_arrivals(self, following: Tensor, made: Constants) -> tuple[Tensor, Shift, Tensor | None]:
        """(gamma v - c, 0 where v = -inf; c; bool [S, A] or [S, A, B] where -inf can be reached, or None)."""
        shift, complete = _extent(following)
        x = torch.sub(following, shift, out=self.whole("arrivals", following))
        if self.model.discount < 1:
            x.mul_(self.model.discount)
        if complete:
            return x, shift * self.model.discount, None
        gone = torch.isinf(following)
        x.masked_fill_(gone, 0.0)
        if self._lost is None or not torch.equal(self._lost[0], gone):
            reached = x.new_empty((self.num_states * self.num_actions, *x.shape[1:]))
            made.sums.gather(gone.to(x.dtype), 0, self.num_states, reached)
            self._lost = gone, (reached > 0).view(self.num_states, self.num_actions, *x.shape[1:])
        return x, shift * self.model.discount, self._lost[1]

    def exact_arrivals(self, following: Tensor) -> tuple[Tensor, Shift]:
        """(e^{v - c} with the discount's fall, c)."""
        discount = self.model.discount
        shift, _ = _extent(following, self.least_shift)
        x = torch.sub(following, shift, out=self.whole("arrivals", following))
        x.mul_(BITS).exp2_()
        if discount < 1:  # in terminal states v = 0, so that the fall changes nothing
            fallen = (-shift).exp() if isinstance(shift, Tensor) else math.exp(-shift)
            x.mul_(discount).add_((1 - discount) * fallen)
        return x, shift

    def weights(self, made: Constants, start: int, stop: int, like: Tensor, *, level: float | None = None) -> Tensor:
        """p(a|s) e^rho of a block relative to the largest of each state, or to a level in nats that they share."""
        if self.held is not None and level is None:
            return self.held[start:stop]
        weights = self._buffer("powers", start, stop, like).view(stop - start, self.num_actions, *like.shape[1:])
        shared = 0.0 if isinstance(made.prior, Tensor) else made.prior
        if level is not None:
            torch.mul(made.rewards[start:stop], made.scale * BITS, out=weights).add_((shared - level) * BITS)
        else:
            offset = (shared - made.row_largest[start:stop, None]).mul_(BITS)
            torch.add(offset, made.rewards[start:stop], alpha=made.scale * BITS, out=weights)
        if isinstance(made.prior, Tensor):
            weights.add_(made.prior[start:stop], alpha=BITS)
        return weights.exp2_()

    def over_actions(self, table: Tensor, out: Tensor | None = None) -> Tensor:
        """Sums over the second axis of [., A] or [., A, B]."""
        if table.dim() == 2:
            return torch.mv(table, self.ones) if out is None else torch.mv(table, self.ones, out=out)
        # Column by column: torch's own sum over an inner axis is not vectorised.
        total = table[:, 0].clone() if out is None else out.copy_(table[:, 0])
        for action in range(1, table.shape[1]):
            total.add_(table[:, action])
        return total

    def discounted(self, following: Tensor, shift: Shift) -> Tensor:
        """Gamma e^{v - c}, the part of what arrives that goes on."""
        return (following - shift).mul_(BITS).exp2_().mul_(self.model.discount)

    # ---- states that are done again -----------------------------------------------------------------------------

    def pieces(self, at: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
        """Indices of states (and of their problems in the batch) in pieces whose outcomes fit the memory."""
        size = max(1, PIECE // (self.num_actions * self.model.mdp.num_outcomes))
        yield from zip(*(part.split(size) for part in at), strict=True)

    def outcome_scores(self, following: Tensor, t: int, at: tuple[Tensor, ...]) -> Tensor:
        """[N, A, K], log p_k + rho_k + what it is worth to arrive, nats, of the states `at`."""
        mdp, (states, *problem) = self.model.mdp, at
        leads = mdp.successors().expand_as(mdp.probabilities)[states]
        arrived = continuation(self.model, following)[(leads, *(index[:, None, None] for index in problem))]
        return safe_log(mdp.probabilities.detach()[states]) + arrived + self._rewards_of(t, states, problem)

    def local_values(self, following: Tensor, t: int, at: tuple[Tensor, ...]) -> Tensor:
        """[N], values of the states `at`, each by a shift of its own."""
        return safe_logsumexp(self._local_q_values(following, t, at) + self.prior_of(self.constants(t), at))

    def _local_q_values(self, following: Tensor, t: int, at: tuple[Tensor, ...]) -> Tensor:
        """[N, A], q-values of the states `at`, each by a shift of its own."""
        return torch.cat([safe_logsumexp(self.outcome_scores(following, t, piece)) for piece in self.pieces(at)])

    def _rewards_of(self, t: int, states: Tensor, problem: list[Tensor]) -> Tensor:
        """[N, A, 1] or [N, A, K], nats."""
        if self.rewards is not None:
            return self.rewards.movedim(1, -1)[(states, *problem)][..., None]
        return self.model.in_nats(self.model.reward_table(t).detach()[states]).detach()

    def prior_of(self, made: Constants, at: tuple[Tensor, ...]) -> Tensor | float:
        """[N, A], nats."""
        if not isinstance(made.prior, Tensor):
            return made.prior
        return made.prior[at[0]] if made.prior.dim() == 2 else made.prior.movedim(1, -1)[at]

    # ---- constants ----------------------------------------------------------------------------------------------

    def constants(self, t: int) -> Constants:
        """Those of step t, made once where they do not change."""
        key = t if self.in_time else 0
        if self._made is None or self._made[0] != key:
            self._made = key, self._constants(key)
        return self._made[1]

    def _constants(self, t: int) -> Constants:
        prior = self.log_prior
        if self.prior_in_time and isinstance(prior, Tensor):
            prior = prior[t]
        rewards, scale, sums = self._rewards_and_sums(t)
        if self.rewards is not None and isinstance(prior, Tensor) and prior.dim() == 2:
            prior = prior[..., None].expand_as(rewards)
        return Constants(rewards, scale, prior, sums)

    def _rewards_and_sums(self, t: int) -> tuple[Tensor, float, OutcomeSums]:
        if self.rewards is not None:
            return self.rewards, 1.0, self.sums
        mdp, table, scale = self.model.mdp, self.model.reward_table(t).detach(), 1.0 / float(self.model.temperature)
        if not self.sees_outcomes:
            return table[..., 0].contiguous(), scale, self.sums
        chances = mdp.probabilities.detach()
        if self.kind == "fixed":
            return expectation(chances, table), scale, self.sums
        possible = chances > 0
        offered = torch.where(possible, table, torch.full_like(table, -torch.inf))
        best = offered.amax(-1)
        shift = torch.where(torch.isfinite(best), best, torch.zeros_like(best))
        weights = chances * ((offered - shift[..., None]) * scale).exp()
        return best, scale, outcome_sums(mdp, self.sums_kernel, weights)

    def all_scores(self, made: Constants) -> Tensor:
        """[S, A] or [S, A, B]: rho + log prior in bits for fixed dynamics, `weights` of all states for the exact."""
        if self.kind == "exact":
            like = made.rewards[:, 0]
            return torch.cat([self.weights(made, *block, like).clone() for block in self.blocks(like)])
        return made.rewards.mul(made.scale).add_(made.prior).mul_(BITS)

    # ---- blocks -------------------------------------------------------------------------------------------------

    def blocks(self, like: Tensor) -> Iterator[tuple[int, int]]:
        """Ranges of states whose tables [., A] or [., A, B] stay in the cache; on a GPU all at once."""
        width = self.num_actions * (like.shape[1] if like.dim() > 1 else 1)
        size = self.num_states if like.is_cuda else max(1, BLOCK // width)
        for start in range(0, self.num_states, size):
            yield start, min(start + size, self.num_states)

    def whole(self, name: str, like: Tensor) -> Tensor:
        """Memory of the shape of values, [S] or [S, B]."""
        return self._buffer(name, 0, self.num_states, like, rows=1)

    def _buffer(self, name: str, start: int, stop: int, like: Tensor, rows: int | None = None) -> Tensor:
        """Memory for a block, the same each time: [(stop - start) A] or with B behind."""
        rows = self.num_actions if rows is None else rows
        shape = ((stop - start) * rows, *like.shape[1:])
        if name not in self._buffers or self._buffers[name].numel() < math.prod(shape):
            self._buffers[name] = like.new_empty(math.prod(shape))
        return self._buffers[name][: math.prod(shape)].view(shape)


def refuse_collapsed() -> NoReturn:
    """Says what the kernel 'collapsed' needs."""
    raise ValueError(
        "kernel 'collapsed' sums over actions once and for all: it needs the exact backup, one problem whose "
        "reward and action prior do not change over time, and keep='values' or 'evidence'; use kernel='auto'"
    )


def _extent(values: Tensor, least: float = -math.inf) -> tuple[Shift, bool]:
    """(the largest value, at least `least`, 0 where none is finite; whether no value is infinite)."""
    if values.dim() == 1:
        low, high = torch.aminmax(values)
        largest = max(float(high), least)
        return (largest if math.isfinite(largest) else 0.0), math.isfinite(float(low))
    high = values.amax(0).clamp(min=least)  # aminmax is slow along columns
    low = values.amin()
    return torch.where(torch.isfinite(high), high, torch.zeros_like(high)), bool(torch.isfinite(low))


def _shared_prior(model: TrajectoryModel) -> Tensor | float:
    """The log prior [S, A], or one number where every action of every state has the same."""
    prior = model.action_prior.detach()
    low, high = (float(bound) for bound in torch.aminmax(prior))
    return math.log(low) if low == high else safe_log(prior)
