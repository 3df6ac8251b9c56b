"""What q believes of the world: q(s_{t+1} | s_t, a_t) over the listed outcomes, true, tilted or given as tables."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cai.inference.core.lazy import without_gradient
from cai.inference.core.storage import storable
from cai.inference.kernels.backups import sizes_of
from cai.models.common.numerics import (
    by_rows,
    categorical_divergence,
    divergence_from_ratio,
    rounding,
    safe_log,
    safe_logsumexp,
    tilted_log_ratio,
)
from cai.models.common.shapes import broadcast_shapes
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["FixedDynamics", "OutcomeDynamics", "BelievedStep", "TableDynamics", "TiltedDynamics", "tilted_start"]


EVERY = slice(None)
CIRCLE = 32  # steps at most along which the sizes of an infinite horizon are added up


class BelievedStep(NamedTuple):
    """What q believes of one step.

    Attributes:
        alive: [S, A, K], the chance that an outcome happens and the chain goes on.
        fallen: [S, A, K], that it happens and the chain then falls into the absorbing state; None where it cannot.
        divergence: [S, A], KL of the step's dynamics from the true ones, nats; None where they are the true ones.
    """

    alive: Tensor
    fallen: Tensor | None
    divergence: Tensor | None


class OutcomeDynamics:
    """q(s_{t+1} | s_t, a_t) over the listed outcomes, the rest being the fall into the absorbing state."""

    listed = True  # outcomes are those of the process, in its order

    model: TrajectoryModel

    def __init__(self, model: TrajectoryModel) -> None:
        self.model = model

    def __getstate__(self) -> dict[str, Any]:
        return {name: without_gradient(value) for name, value in vars(self).items()}

    def tables(self, t: int) -> tuple[Tensor, Tensor]:
        """What `outcomes` returns; a subclass defines this, or `step`."""
        raise NotImplementedError

    def step(self, t: int) -> BelievedStep:
        """All that is believed of step t."""
        alive, fallen = self.tables(t)
        prior = torch.cat(FixedDynamics(self.model).outcomes(t), -1)
        return BelievedStep(alive, fallen, categorical_divergence(torch.cat([alive, fallen], -1), prior))

    def outcomes(self, t: int) -> tuple[Tensor, Tensor]:
        """(alive [S, A, K], fallen [S, A, K]): the chance that an outcome happens and the chain goes on, or falls."""
        alive, fallen, _ = self.step(t)
        return alive, torch.zeros_like(alive) if fallen is None else fallen

    def onward(self, policy: Tensor) -> tuple[Tensor, Tensor]:
        """(chances of going on, of falling) of the first step by a policy [S, A]: of lists of outcomes [S, A, K] each.

        Of tables, whose outcomes are the states, they are added up over actions: [S, 1, S] and [S, 1, 1].
        """
        alive, fallen = self.outcomes(0)
        if self.model.mdp.next_states is not None:
            return policy[..., None] * alive, policy[..., None] * fallen
        return policy[:, None] @ alive, policy[:, None] @ fallen.sum(-1, keepdim=True)

    def log_outcomes(self, t: int) -> tuple[Tensor, Tensor]:
        """The logs of `outcomes` in nats, also where these are too small for a float."""
        alive, fallen = self.outcomes(t)
        return safe_log(alive), safe_log(fallen)

    def log_start(self, initial: Tensor) -> Tensor:
        """[S], the log of q(s_1) in nats, also where it is too small for a float."""
        return safe_log(initial)

    def divergence(self, t: int) -> Tensor:
        """[S, A], KL of the step's dynamics from the true ones, in nats."""
        divergence = self.step(t).divergence
        return torch.zeros_like(self.model.action_prior) if divergence is None else divergence

    def chances(self, times: range) -> Tensor:
        """[n, S, A, K] or, where all steps are alike, [S, A, K]: the chance that an outcome happens at these times."""
        steps = (self.step(t) for t in times)
        return torch.stack([alive if fallen is None else alive + fallen for alive, fallen, _ in steps])

    def divergences(self, times: range) -> Tensor | None:
        """[n, S, A], `divergence` at these times; None where the dynamics are the true ones."""
        return torch.stack([self.divergence(t) for t in times])


@storable("fixed-dynamics")
class FixedDynamics(OutcomeDynamics):
    """The true dynamics, discount included."""

    def step(self, t: int, rows: slice = EVERY) -> BelievedStep:
        model, chances = self.model, self.model.mdp.probabilities[rows]
        if model.discount == 1:
            return BelievedStep(chances, None, None)
        stays = model.continuation_probability[rows][:, None, None]
        return BelievedStep(chances * stays, chances * model.fall[rows][:, None, None], None)

    def onward(self, policy: Tensor) -> tuple[Tensor, Tensor]:
        mdp = self.model.mdp
        if mdp.next_states is not None:
            return super().onward(policy)
        moves, falls = policy[:, None] @ mdp.probabilities, self.model.fall[:, None, None]
        return moves * self.model.continuation_probability[:, None, None], (moves * falls).sum(-1, keepdim=True)

    def chances(self, times: range) -> Tensor:
        return self.model.mdp.probabilities

    def divergences(self, times: range) -> None:
        return None


@storable("tilted-dynamics")
class TiltedDynamics(OutcomeDynamics):
    """Dynamics bent towards what is worth more: q_k proportional to p_k e^{eta (rho_k + v(s'_k))}, falls included.

    With eta = 1 these are the dynamics given optimality, p(s_{t+1} | s_t, a_t, O_{1:T}) (Levine 2018, section 2.4);
    eta = 0 leaves the true ones, eta < 0 bends towards what is worth less, and eta = +-inf leaves the best or worst
    outcomes alone, in their true proportions. Where no outcome is possible given optimality, the true ones stand.

    Args:
        model: the trajectory model.
        values: [T + 1, S], backward messages in nats.
        eta: the tilt.
        soft: whether the messages are soft values, which the logarithm of a sum has rounded, too.
    """

    values: Tensor
    eta: float
    sizes: Tensor | None
    _stored_axes = {"values": "... S", "eta": ""}

    def __init__(self, model: TrajectoryModel, values: Tensor, eta: float, soft: bool = True) -> None:
        super().__init__(model)
        self.values = values
        self.eta = eta
        self.sizes = self._sizes(soft) if math.isinf(eta) else None

    def step(self, t: int) -> BelievedStep:
        weights, ratios = self._ratios(t, t + 1)
        return BelievedStep(*self._split(self._moved(weights, ratios)), self._divergence(weights, ratios))

    def outcomes(self, t: int) -> tuple[Tensor, Tensor]:
        alive, fallen = zip(*by_rows(self.model.mdp.probabilities, lambda rows: self._outcomes(t, rows)), strict=True)
        return (alive[0], fallen[0]) if len(alive) == 1 else (torch.cat(alive), torch.cat(fallen))

    def onward(self, policy: Tensor) -> tuple[Tensor, Tensor]:
        if self.model.mdp.next_states is not None:
            return super().onward(policy)
        found = self._alike_onward(policy)
        if found is not None:
            return found

        def of(rows: slice) -> tuple[Tensor, Tensor]:
            alive, fallen = self._outcomes(0, rows)
            chosen = policy[rows, None]
            return chosen @ alive, chosen @ fallen.sum(-1, keepdim=True)

        moves, falls = zip(*by_rows(self.model.mdp.probabilities, of), strict=True)
        return torch.cat(moves), torch.cat(falls)

    def _alike_onward(self, policy: Tensor) -> tuple[Tensor, Tensor] | None:
        """`onward` where all outcomes of a pair are paid alike, so that e^{eta v(s')} tilts every row; else None."""
        model, values, rewards = self.model, self.values[1], self.model.log_potential(0)
        chances, onward = model.mdp.probabilities, model.continuation_probability[:, None]
        tensors = (policy, values, rewards, chances, onward)
        if rewards.shape[-1] > 1 or math.isinf(self.eta) or any(part.requires_grad for part in tensors):
            return None
        if not bool(torch.isfinite(values).all() & torch.isfinite(rewards).all()):
            return None
        scores = torch.cat([self.eta * values, values.new_zeros(1)])  # of the states, and of the fall
        weights = (scores - scores.max()).exp()
        if float(weights.min()) < torch.finfo(weights.dtype).tiny ** 0.5:
            return None
        goes_on = (chances @ weights[:-1]) * onward
        falls = chances.sum(-1) * model.fall[:, None] * weights[-1]
        shares = policy / (goes_on + falls)
        moves = (shares[:, None] @ chances) * weights[:-1] * onward[..., None]
        fallen = (shares * falls).sum(-1)[:, None, None]
        if bool(model.nonterminal.all()):
            return moves, fallen
        nonterminal, (true, none) = model.nonterminal[:, None, None], FixedDynamics(model).onward(policy)
        return torch.where(nonterminal, moves, true), torch.where(nonterminal, fallen, none)

    def _outcomes(self, t: int, rows: slice) -> tuple[Tensor, Tensor]:
        """`outcomes` of some states."""
        alive, fallen = self._split(self._moved(*self._ratios(t, t + 1, rows)))
        return alive, torch.zeros_like(alive) if fallen is None else fallen

    def log_outcomes(self, t: int) -> tuple[Tensor, Tensor]:
        weights, ratios = self._ratios(t, t + 1)
        moved = self._moved(weights, ratios)
        logs = torch.where(moved > 0, safe_log(moved), safe_log(weights) + ratios)
        if self.model.discount == 1:
            return logs, torch.full_like(logs, -torch.inf)
        alive, fallen = logs.split(self.model.mdp.num_outcomes, -1)
        return alive, fallen

    def log_start(self, initial: Tensor) -> Tensor:
        whole, values = self.model.mdp.initial, self.values[0]
        lost = (initial == 0) & (whole > 0) & torch.isfinite(values)
        if math.isinf(self.eta) or not bool(lost.any()):
            return safe_log(initial)
        logs = safe_log(whole[lost]) + tilted_log_ratio(whole, values, self.eta)[lost]
        return safe_log(initial).masked_scatter(lost, logs)

    def divergence(self, t: int) -> Tensor:
        return self._divergence(*self._ratios(t, t + 1))

    def chances(self, times: range) -> Tensor:
        if self.model.reward.reads_time:
            return super().chances(times)
        moved = self._moved(*self._ratios(0, slice(times.start + 1, times.stop + 1)))
        if self.model.discount == 1:
            return moved
        alive, fallen = moved.split(self.model.mdp.num_outcomes, -1)
        return alive + fallen

    def divergences(self, times: range) -> Tensor:
        if self.model.reward.reads_time:
            return torch.stack([self.divergence(t) for t in times])
        return self._divergence(*self._ratios(0, slice(times.start + 1, times.stop + 1)))

    def _ratios(self, t: int, following: int | slice, rows: slice = EVERY) -> tuple[Tensor, Tensor]:
        """The true chances of all outcomes, falls behind them where there are any, and log(q / p) of each.

        Args:
            t: the step, for its rewards.
            following: the next one, or several, which give [..., S, A, K].
            rows: of which states.
        """
        model = self.model
        true = FixedDynamics(model).step(t, rows)
        rewards = model.log_potential(t)[rows]
        ahead = self._arrived(self.values[following], rows)
        worth = rewards + ahead
        worth = worth.expand(broadcast_shapes(worth.shape, true.alive.shape))
        weights = true.alive
        if true.fallen is not None:
            worth = torch.cat([worth, rewards.expand(worth.shape)], -1)
            weights = torch.cat([true.alive, true.fallen], -1)
        if self.sizes is not None:
            sizes = rewards.abs() + self._arrived(self.sizes[following], rows)
            sizes = sizes.expand(worth.shape[:-1] + true.alive.shape[-1:])
            if true.fallen is not None:
                sizes = torch.cat([sizes, rewards.abs().expand(sizes.shape)], -1)
            ratios = self._extremes(worth, weights, sizes.detach())
        elif self.eta == 1:
            if math.isinf(model.horizon):  # what cannot happen may be worth +inf
                worth = torch.where(weights > 0, worth, torch.zeros_like(worth))
            mean = safe_logsumexp(safe_log(weights) + worth)[..., None]
            counts = (weights > 0) & torch.isfinite(mean)
            ratios = torch.where(counts, worth, torch.zeros_like(worth))
            ratios = torch.where(counts, ratios - torch.where(counts, mean, torch.zeros_like(mean)), ratios)
        else:
            ratios = tilted_log_ratio(weights, worth, self.eta)
        return weights, torch.where(model.nonterminal[rows][:, None, None], ratios, torch.zeros_like(ratios))

    def _arrived(self, following: Tensor, rows: slice) -> Tensor:
        """[..., 1, 1, S] or [..., S, A, K], of the next states what is given for all of them, [..., S]."""
        leads = self.model.mdp.next_states
        return following[..., None, None, :] if leads is None else following[..., leads[rows]]

    @torch.no_grad()
    def _sizes(self, soft: bool) -> Tensor:
        """[T + 1, S], of the numbers that a value is summed up from, along the outcomes that it counts on.

        A soft value has a part of size 1, the numbers in its logarithm, unless all values are smaller. Over an infinite
        horizon the sizes are those of some steps.
        """
        model, values = self.model, self.values.detach()
        finite = torch.where(torch.isfinite(values), values, torch.zeros_like(values)).abs()
        offered = (model.action_prior.detach() > 0) & model.nonterminal[:, None]
        found = [torch.zeros_like(finite[0]) if model.is_finite else finite[0]]
        times = list(reversed(range(model.steps))) if model.is_finite else [0] * min(model.mdp.num_states, CIRCLE)
        for t in times:
            summed = sizes_of(model, None, values[t + 1], found[-1], t, self.eta)
            if soft:
                summed = summed + finite[t].max().clamp(max=1.0)
            counts = offered & torch.isfinite(summed)
            found.append(torch.where(counts, summed, torch.zeros_like(summed)).amax(-1))
        return torch.stack(found[::-1]) if model.is_finite else torch.stack([found[-1], found[-1]])

    def _split(self, moved: Tensor) -> tuple[Tensor, Tensor | None]:
        """(what goes on, what falls) of chances of all outcomes; the second is None without a discount."""
        if self.model.discount == 1:
            return moved, None
        alive, fallen = moved.split(self.model.mdp.num_outcomes, -1)
        return alive, fallen

    @staticmethod
    def _moved(weights: Tensor, ratios: Tensor) -> Tensor:
        moved = (safe_log(weights) + ratios).exp()
        return moved / moved.sum(-1, keepdim=True)

    @staticmethod
    def _divergence(weights: Tensor, ratios: Tensor) -> Tensor:
        return divergence_from_ratio(weights, torch.where(weights > 0, ratios, torch.zeros_like(ratios)))

    def _extremes(self, worth: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        """Log ratios that leave the outcomes alone whose worth is the largest (eta = inf) or the smallest.

        Args:
            worth: [..., K].
            weights: [..., K].
            sizes: [..., K], of what each worth is a sum of.
        """
        sign = 1.0 if self.eta > 0 else -1.0
        off = torch.where(weights > 0, sign * worth, torch.full_like(worth, -torch.inf))
        best, place = off.max(-1, keepdim=True)
        sizes = torch.where(torch.isfinite(off), sizes, torch.zeros_like(sizes))
        slack = rounding(worth) * torch.maximum(sizes, sizes.gather(-1, place))
        mass = torch.where(off >= best - slack, weights, torch.zeros_like(weights))
        ratios = torch.where(mass > 0, -safe_log(mass.sum(-1, keepdim=True)), torch.full_like(worth, -torch.inf))
        return torch.where(torch.isfinite(best), ratios, torch.zeros_like(ratios))


def tilted_start(model: TrajectoryModel, values: Tensor, eta: float, sizes: Tensor | None = None) -> Tensor:
    """[S], q(s_1) proportional to p(s_1) e^{eta v(s_1)}, as `TiltedDynamics`; p(s_1) where none is possible.

    Args:
        model: for the start.
        values: [S], v_1, nats.
        eta: the tilt.
        sizes: [S], of what the values are sums of; needed where eta is infinite, and equals share.
    """
    whole = model.mdp.initial
    some = whole.detach() > 0  # often few
    initial, values = whole[some], values[some]
    possible = torch.isfinite(values)
    if not bool(possible.any()):
        return whole
    if math.isinf(eta):
        sign = 1.0 if eta > 0 else -1.0
        off = torch.where(possible, sign * values.detach(), torch.full_like(values, -torch.inf))
        sizes = values.detach().abs() if sizes is None else sizes[some]
        best, place = off.max(-1, keepdim=True)
        slack = rounding(off) * torch.maximum(torch.where(possible, sizes, torch.zeros_like(sizes)), sizes[place])
        weights = torch.where(off >= best - slack, initial, torch.zeros_like(initial))
    else:
        weights = (safe_log(initial) + tilted_log_ratio(initial, values, eta)).exp()
    return torch.zeros_like(whole).masked_scatter(some, weights / weights.sum())


@storable("table-dynamics")
class TableDynamics(OutcomeDynamics):
    """Dynamics given as tables for each step.

    Args:
        model: the trajectory model.
        tables: T pairs (alive [S, A, K], fallen [S, A, K]) as `outcomes` returns them.
    """

    steps: list[tuple[Tensor, Tensor]]

    def __init__(self, model: TrajectoryModel, tables: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__(model)
        self.steps = tables

    def tables(self, t: int) -> tuple[Tensor, Tensor]:
        return self.steps[t]
