"""Backward messages of a whole finite horizon, what a policy under given dynamics is worth, and where it leads."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.lazy import Lazy, lazy, table
from cai.inference.core.memory import require_tables
from cai.inference.kernels.backups import hard_choice, soft_q_values
from cai.inference.kernels.choose import choose_kernel, make_pass
from cai.inference.kernels.plain import SoftPass
from cai.inference.kernels.problem import SoftProblem
from cai.inference.kernels.values import asks_for_gradients, soft_values
from cai.inference.tabular.believed_dynamics import OutcomeDynamics
from cai.inference.tabular.recursion import Recursion
from cai.inference.tabular.ties import Ties
from cai.models.common.numerics import categorical_divergence, expectation, safe_log, start_value
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["CHUNK", "KEEP", "Messages", "backward", "forward", "in_chunks", "occupancies", "policy_backward"]

KEEP = ("values", "evidence")
LITTLE = 2**8  # probabilities of a process up to which what a step reads is kept for the next pass
CHUNK = 2**22  # numbers of the largest table that is made at a time


class Messages(Lazy):
    """Backward messages in nats. What was not kept is computed when it is looked at.

    Attributes:
        start: the certainty equivalent of v(s_1) at the recursion's eta; 0-dim.
        model: what they are about, where some of them are computed later; likewise what follows.
        recursion: one of the two soft ones.
        log_prior: [T, S, A], in place of the model's action prior; None for that.
        kernel: "native" or "torch", whichever computes them.
    """

    start: Tensor
    model: TrajectoryModel
    recursion: Recursion
    log_prior: Tensor | None = None
    kernel: str | None = None
    _stored_axes = {"start": "", "values": "T+1 S", "q_values": "T S A", "policy": "T S A chances", "first_values": "S"}
    _stored_axes |= {"log_prior": "T S A"}
    _left_behind = ("model", "recursion")

    def _axis_lengths(self) -> dict[str, int]:
        model = self.__dict__.get("model")
        return {} if model is None else {"T": model.steps, "S": model.mdp.num_states, "A": model.mdp.num_actions}

    @table
    def soft(self) -> SoftPass:
        """The passes over the horizon."""
        assert self.recursion.kind is not None
        return make_pass(SoftProblem(self.model, self.recursion.kind, self.log_prior), self.kernel or "auto")

    @table
    def values(self) -> Tensor:
        """[T + 1, S], log beta_t(s), of which the last row is 0; for a stationary answer [2, S], both rows the same."""
        soft = self.soft
        found = soft_values(self.model, soft.problem.kind, log_prior=self.log_prior, soft=soft)[1]
        assert found is not None
        return found

    @table
    def q_values(self) -> Tensor:
        """[T, S, A], log beta_t(s, a)."""
        require_tables(self.model, "q_values", 1)
        return self._q_values()

    def _q_values(self) -> Tensor:
        model, kind, values = self.model, self.recursion.kind, self.values
        assert kind is not None
        if not values.requires_grad:
            found = self.soft.q_values(values)
            if model.mdp.probabilities.numel() > LITTLE:
                self.soft.made = None
            return found
        if model.reward.reads_time:
            return torch.stack([self.recursion.backup(model, values[t + 1], t) for t in range(model.steps)])
        chances, rewards = model.mdp.probabilities, model.log_potential(0)
        return in_chunks(
            lambda part: soft_q_values(model, kind, chances, rewards, values[1:][part]), model.steps, chances.numel()
        )

    @table
    def policy(self) -> Tensor:
        """[T, S, A], pi(a | s); the action prior where v = -inf."""
        model, prior, q_values = self.model, self.log_prior, self.__dict__.get("q_values")
        require_tables(model, "action_probs", 1 if q_values is not None else 2)
        if q_values is None:
            q_values = self._q_values()
            if self.holds_tables:
                self.__dict__["q_values"] = q_values
        own = model.log_action_prior
        return in_chunks(
            lambda part: self.recursion.choice(model, q_values[part], own if prior is None else prior[part])[1],
            model.steps,
            own.numel(),
        )

    def _state(self) -> dict[str, Any]:
        return {name: part for name, part in super()._state().items() if name != "soft"}

    @lazy
    def first_values(self) -> Tensor:
        """[S], the values of the first step."""
        return self.values[0]


def backward(
    model: TrajectoryModel,
    recursion: Recursion,
    prior: Tensor | None = None,
    *,
    keep: str = "values",
    kernel: str = "auto",
) -> Messages:
    """All backward messages of a finite horizon, O(T S A K) time.

    What is kept sets the memory: "values" T S numbers, and "evidence" a few rows of S (with gradients T S where that is
    under 64 MiB; beyond, 2 sqrt(T) S, and every value is computed twice). With "values" q-values and policies are
    computed when they are first looked at, and then held, T S A numbers each; with "evidence" they are computed at
    every look.

    Args:
        model: the trajectory model.
        recursion: how to back up and choose.
        prior: [T, S, A], in place of the model's action prior.
        keep: one of KEEP.
        kernel: for the soft recursions, see `cai.inference.kernels.choose`.
    """
    log_prior = None if prior is None else safe_log(prior)
    kind = recursion.kind
    if kind is None or not recursion.is_soft:
        return _step_by_step(model, recursion, log_prior, kernel)
    soft = make_pass(SoftProblem(model, kind, log_prior), kernel)
    first, kept = soft_values(model, kind, log_prior=log_prior, all_steps=keep != "evidence", soft=soft)
    if not first.requires_grad and model.mdp.probabilities.numel() > LITTLE:  # a gradient reads it again
        soft.made = None  # what a step reads takes as much memory as many values
    parts = {} if kept is None else {"values": kept, "soft": soft}
    return Messages(
        model=model,
        recursion=recursion,
        log_prior=log_prior,
        kernel=soft.name,
        start=start_value(model.mdp.initial, first, recursion.eta),
        first_values=first,
        holds_tables=keep != "evidence",
        **parts,
    )


def _step_by_step(model: TrajectoryModel, recursion: Recursion, log_prior: Tensor | None, kernel: str) -> Messages:
    """Any recursion, all of it kept."""
    backup: Callable[[Tensor, int], Tensor] = partial(recursion.backup, model)
    name = None
    if recursion.kind is not None and not asks_for_gradients(model, log_prior):
        soft = make_pass(SoftProblem(model, recursion.kind), kernel)
        backup, name = soft.backup, soft.name
    else:
        choose_kernel(model.mdp, kernel)
    own, values = model.log_action_prior, torch.zeros_like(model.mdp.initial)
    hard = recursion.is_listed and recursion.choice is hard_choice and (recursion.eta == 0 or math.isinf(recursion.eta))
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    ties = Ties(model, backup, recursion.eta, rows) if hard else None
    for t in reversed(range(model.steps)):
        q_values, prior = backup(values, t), own if log_prior is None else log_prior[t]
        following = values
        if ties is not None:
            values, policy = hard_choice(model, q_values, prior, ties.sizes(t, values, q_values, prior))
        else:
            values, policy = recursion.choice(model, q_values, prior)
        rows.append((following, q_values, policy))
    following, q_values, policy = (torch.stack(part) for part in zip(*reversed(rows), strict=True))
    start = recursion.start(model, values)
    return Messages(
        values=torch.cat([values[None], following]), q_values=q_values, policy=policy, start=start, kernel=name
    )


def occupancies(
    model: TrajectoryModel, recursion: Recursion, initial: Tensor, values: Tensor, kernel: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Where a soft recursion expects to be: marginals [T + 1, S] and absorbed [T + 1].

    One forward pass, about as long as the backward pass.

    Args:
        model: the trajectory model.
        recursion: EXACT or FIXED.
        initial: [S], q(s_1).
        values: [T + 1, S], nats.
        kernel: see `cai.inference.kernels.choose`.
    """
    assert recursion.kind is not None
    with torch.no_grad():
        soft = make_pass(SoftProblem(model, recursion.kind), kernel)
        return with_absorbed(model, soft.marginals(values.detach(), initial.detach()))


def in_chunks(make: Callable[[slice], Tensor], steps: int, numbers: int) -> Tensor:
    """A table [T, ...] made of as many steps at a time as memory should hold.

    Args:
        make: returns the part of some steps.
        steps: T.
        numbers: that one step takes on the way.
    """
    size = max(1, CHUNK // numbers)
    parts = [make(slice(begin, begin + size)) for begin in range(0, steps, size)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def policy_backward(model: TrajectoryModel, policy: Tensor, dynamics: OutcomeDynamics) -> tuple[Tensor, Tensor]:
    """What q's own tail is worth in nats, KL terms counted: values [T, S] and q_values [T, S, A]."""
    values = torch.zeros_like(model.mdp.initial)
    rows = []
    for t in reversed(range(model.steps)):
        alive, fallen, divergence = dynamics.step(t)
        chances = alive if fallen is None else alive + fallen
        rewards = expectation(chances, model.log_potential(t))
        q_values = rewards + expectation(alive, model.mdp.gather(values))
        q_values = q_values if divergence is None else q_values - divergence
        q_values = torch.where(model.nonterminal[:, None], q_values, torch.zeros_like(q_values))
        values = expectation(policy[t], q_values) - categorical_divergence(policy[t], model.action_prior)
        values = torch.where(model.nonterminal, values, torch.zeros_like(values))
        rows.append((values, q_values))
    stacked = [torch.stack(part) for part in zip(*reversed(rows), strict=True)]
    return stacked[0], stacked[1]


def forward(
    model: TrajectoryModel, initial: Tensor, policy: Tensor, dynamics: OutcomeDynamics
) -> tuple[Tensor, Tensor]:
    """State marginals [T + 1, S] of q, and the probability of having been absorbed [T + 1]."""
    rows = [initial]
    for t in range(model.steps):
        alive, _ = dynamics.outcomes(t)
        rows.append(model.mdp.scatter((rows[-1][:, None] * policy[t])[..., None] * alive))
    return with_absorbed(model, torch.stack(rows))


def with_absorbed(model: TrajectoryModel, marginals: Tensor) -> tuple[Tensor, Tensor]:
    """(q(s_t) [T + 1, S], the rest of the probability [T + 1], which a discount has taken)."""
    if model.discount == 1:
        return marginals, marginals.new_zeros(len(marginals))
    return marginals, (1 - marginals.sum(-1)).clamp(min=0)
