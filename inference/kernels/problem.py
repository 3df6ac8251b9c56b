"""What a soft recursion reads: made once from a model, for one problem or for B that share a process."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from cai.inference.kernels.tables import Table, entries_like, process_table
from cai.models.common.numerics import NEAR_ZERO, expectation, safe_log
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Kind", "SoftProblem", "StepTables"]

Kind = Literal["fixed", "exact"]
MERGED_STEPS = 32  # steps from which it pays to sum over actions once and for all
HELD_WEIGHTS = 2**20  # powers of scores up to which they are held; beyond they are computed again at every step


@dataclass(frozen=True, eq=False)
class StepTables:
    """What one step, or all steps that are alike, multiply and add; nats.

    Attributes:
        table: [S A, S], p(s'|s,a); for the exact backup times e^{rho_k - rewards} where rewards see outcomes.
        rewards: [S, A, B], rho; where it sees outcomes its mean (fixed dynamics) or its largest (exact).
        prior: log p(a|s), [S, A, 1] or [S, A, B]; one number where all actions of all states have the same.
        log_chances: the logarithms of the table's entries, as it holds them, where rewards see outcomes (exact).
        scores: [S, A, B], rewards + log prior; without the latter where it is one number.
        shared_prior: the number that `scores` leaves out, else 0.
        row_largest: [S, B], the largest score of each state with `shared_prior`, 0 where none is finite.
    """

    table: Table
    rewards: Tensor
    prior: Tensor | float
    log_chances: Tensor | None = None
    scores: Tensor = field(init=False)
    shared_prior: float = field(init=False)
    row_largest: Tensor = field(init=False)

    def __post_init__(self) -> None:
        shared = not isinstance(self.prior, Tensor)
        scores = self.rewards if shared else self.rewards + self.prior
        largest = scores.amax(1) + (self.prior if shared else 0.0)
        self.__dict__.update(
            scores=scores,
            shared_prior=self.prior if shared else 0.0,
            row_largest=largest.masked_fill_(torch.isinf(largest), 0.0),
        )

    @cached_property
    def weights(self) -> Tensor:
        """[S, A, B], p(a|s) e^rho over the largest of its state."""
        return (self.scores - (self.row_largest - self.shared_prior)[:, None]).exp_()

    @cached_property
    def merged(self) -> Table:
        """[S, S], the table summed over actions by `weights`, of one problem."""
        return self.table.merge(self.weights[..., 0])


@dataclass(frozen=True, eq=False)
class SoftProblem:
    """One soft recursion of a model, or of B problems on its process.

    Attributes:
        model: for process, discount and horizon, and for rewards where none are given.
        kind: which backup.
        log_prior: [S, A], [T, S, A] or, for a batch, [B, S, A]; the model's unless given.
        rewards: [B, S, A], nats, for a batch.
        size: B, 1 without a batch.
        in_time: whether steps differ.
        merges: whether values alone come from sums over actions that are made once and for all.
        holds_weights: whether powers of scores are held.
    """

    model: TrajectoryModel
    kind: Kind
    log_prior: Tensor | None = None
    rewards: Tensor | None = None

    size: int = field(init=False)
    in_time: bool = field(init=False)
    merges: bool = field(init=False)
    holds_weights: bool = field(init=False)

    def __post_init__(self) -> None:
        single, model = self.rewards is None, self.model
        timed = single and ((self.log_prior is not None and self.log_prior.dim() == 3) or model.reward.reads_time)
        size = 1 if self.rewards is None else len(self.rewards)
        merges = self.kind == "exact" and single and not timed and model.horizon >= MERGED_STEPS
        small = model.action_prior.numel() * size <= HELD_WEIGHTS
        holds = self.kind == "exact" and (merges or small)
        self.__dict__.update(size=size, in_time=timed, merges=merges, holds_weights=holds)

    @cached_property
    def is_small(self) -> bool:
        """Whether some problem's returns are so small that sums of numbers of size 1 would lose digits of them."""
        if self.rewards is None:
            alpha = float(torch.as_tensor(self.model.temperature).detach())
            steps = 1 if self.model.horizon == math.inf else self.model.horizon
            return 0 < self.model.reward_size * steps <= NEAR_ZERO * alpha
        sizes = self.rewards.detach().abs()
        largest = torch.where(torch.isfinite(sizes), sizes, torch.zeros_like(sizes)).amax((1, 2)) * self.model.steps
        return bool(((largest > 0) & (largest <= NEAR_ZERO)).any())

    @cached_property
    def table(self) -> Table:
        """[S A, S], p(s'|s,a), which all problems on a process share."""
        return process_table(self.model.mdp)

    def inputs(self) -> tuple[Tensor, ...]:
        """(probabilities [S, A, K], log prior, rewards in nats [S, A, 1 or K] of each step that differs)."""
        prior = self.model.log_action_prior if self.log_prior is None else self.log_prior
        if self.rewards is not None:
            return self.model.mdp.probabilities, prior, self.rewards[..., None]
        rewards = (self.model.log_potential(t) for t in self.model.reward_times)
        return self.model.mdp.probabilities, prior, *rewards

    def inputs_at(self, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """(probabilities [S, A, K], log prior [S, A] or [B, S, A], rewards in nats) of step t, without gradients."""
        model, prior = self.model, self.log_prior
        if prior is None:
            prior = model.log_action_prior
        elif self.in_time and prior.dim() == 3:
            prior = prior[t]
        rewards = model.in_nats(model.reward_table(t)) if self.rewards is None else self.rewards[..., None]
        return model.mdp.probabilities.detach(), prior.detach(), rewards.detach()

    def tables(self, t: int) -> StepTables:
        """Those of step t."""
        with torch.no_grad():
            made = self._tables(t)
            if self.holds_weights and not self.merges:
                _ = made.weights  # every step reads them
            return made

    def _tables(self, t: int) -> StepTables:
        mdp, table = self.model.mdp, self.table
        prior: Tensor | float
        if self.log_prior is None:
            prior = _shared_prior(self.model)
        else:
            prior = _last(self.log_prior[t] if self.in_time and self.log_prior.dim() == 3 else self.log_prior)
        if self.rewards is not None:
            return StepTables(table, _last(self.rewards), prior)
        rewards, temperature = self.model.reward_table(t).detach(), self.model.temperature
        if isinstance(temperature, Tensor) or temperature != 1:  # else the table itself serves, uncopied
            rewards = self.model.in_nats(rewards).detach()
        if rewards.shape[-1] == 1:
            return StepTables(table, rewards.contiguous(), prior)
        chances = mdp.probabilities.detach()
        if self.kind == "fixed":
            return StepTables(table, expectation(chances, rewards)[..., None], prior)
        offered = torch.where(chances > 0, rewards, torch.full_like(rewards, -torch.inf))
        best = offered.amax(-1, keepdim=True)
        shift = torch.where(torch.isfinite(best), best, torch.zeros_like(best))
        logs = entries_like(table, mdp, safe_log(chances) + offered - shift).contiguous()
        return StepTables(Table(logs.exp(), table.pattern), best, prior, logs)


def _shared_prior(model: TrajectoryModel) -> Tensor | float:
    """The log prior [S, A, 1], or one number where every action of every state has the same."""
    prior = model.action_prior.detach()
    low, high = (float(bound) for bound in torch.aminmax(prior))
    return math.log(low) if low == high else safe_log(prior)[..., None]


def _last(table: Tensor) -> Tensor:
    """[S, A, B] from [B, S, A], [S, A, 1] from [S, A]."""
    table = table.detach()
    return table[..., None] if table.dim() == 2 else table.permute(1, 2, 0).contiguous()
