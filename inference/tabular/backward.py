"""Backward messages of a whole finite horizon, and where a soft recursion expects to be."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from cai.inference.core.lazy import Lazy, lazy, table
from cai.inference.kernels.backups import soft_q_values
from cai.inference.kernels.choose import choose_kernel, make_pass
from cai.inference.kernels.problem import Kind, SoftProblem
from cai.inference.kernels.values import asks_for_gradients, soft_values
from cai.inference.tabular.policy_evaluation import in_chunks, with_absorbed
from cai.inference.tabular.recursion import Recursion
from cai.models.common.numerics import safe_log
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["KEEP", "Messages", "backward", "occupancies"]

KEEP = ("values", "evidence")


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

    @table
    def values(self) -> Tensor:
        """[T + 1, S], log beta_t(s), of which the last row is 0; for a stationary answer [2, S], both rows the same."""
        found = soft_values(self.model, _kind(self.recursion), kernel=self._kernel, log_prior=self.log_prior)[1]
        assert found is not None
        return found

    @table
    def q_values(self) -> Tensor:
        """[T, S, A], log beta_t(s, a)."""
        model, kind, values = self.model, _kind(self.recursion), self.values
        if not asks_for_gradients(model, self.log_prior):
            return make_pass(SoftProblem(model, kind, self.log_prior), self._kernel).q_values(values.detach())
        if model.reward.reads_time:
            return torch.stack([self.recursion.backup(model, values[t + 1], t) for t in range(model.steps)])
        chances, rewards = model.mdp.probabilities, model.log_potential(0)
        return in_chunks(
            lambda part: soft_q_values(model, kind, chances, rewards, values[1:][part]), model.steps, chances.numel()
        )

    @table
    def policy(self) -> Tensor:
        """[T, S, A], pi(a | s); the action prior where v = -inf."""
        model, prior, q_values = self.model, self.log_prior, self.q_values
        own = model.log_action_prior
        return in_chunks(
            lambda part: self.recursion.choice(model, q_values[part], own if prior is None else prior[part])[1],
            model.steps,
            own.numel(),
        )

    @lazy
    def first_values(self) -> Tensor:
        """[S], the values of the first step."""
        return self.values[0]

    @property
    def _kernel(self) -> str:
        return self.kernel or "auto"


def _kind(recursion: Recursion) -> Kind:
    assert recursion.kind is not None
    return recursion.kind


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
    if not recursion.is_soft:
        return _step_by_step(model, recursion, log_prior, kernel)
    soft = make_pass(SoftProblem(model, _kind(recursion), log_prior), kernel)
    first, kept = soft_values(model, soft.problem.kind, log_prior=log_prior, all_steps=keep != "evidence", soft=soft)
    parts = {} if kept is None else {"values": kept}
    return Messages(
        model=model,
        recursion=recursion,
        log_prior=log_prior,
        kernel=soft.name,
        start=recursion.start(model, first),
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
    own = model.log_action_prior
    values = torch.zeros_like(model.mdp.initial)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for t in reversed(range(model.steps)):
        q_values = backup(values, t)
        following = values
        values, policy = recursion.choice(model, q_values, own if log_prior is None else log_prior[t])
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
    with torch.no_grad():
        soft = make_pass(SoftProblem(model, _kind(recursion)), kernel)
        return with_absorbed(model, soft.marginals(values.detach(), initial.detach()))
