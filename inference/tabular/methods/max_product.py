"""Max-product messages on tables, and the one trajectory that they find."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from cai.inference.core.most_probable import first_largest, shared_successors
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target
from cai.inference.core.storage import storable
from cai.inference.tabular.believed_dynamics import FixedDynamics, OutcomeDynamics
from cai.inference.tabular.dynamic_programming import closed_form_posterior
from cai.inference.tabular.recursion import Recursion
from cai.inference.tabular.stationary.iteration import ConvergenceCriterion
from cai.models.common.numerics import safe_log, safe_logsumexp
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["max_product_posterior"]


def max_product_posterior(model: TrajectoryModel, *, backend: str, target: Target) -> Posterior:
    """The answer of max-product messages on the tables of a model with a finite horizon."""
    groups = shared_successors(model)
    recursion = _MaxProductRecursion(partial(_max_backup, groups=groups), _certain_choice, math.inf, groups)
    return closed_form_posterior(model, recursion, backend=backend, target=target, settling=ConvergenceCriterion())


@dataclass(frozen=True, eq=False)
class _MaxProductRecursion(Recursion):
    """Max-product messages.

    Attributes:
        groups: int64 [S, A, K], the first outcome with the same next state; None where no two outcomes share one.
    """

    groups: Tensor | None = None

    def start(self, model: TrajectoryModel, values: Tensor) -> Tensor:
        return (safe_log(model.mdp.initial) + values).max()

    def believed_start(self, model: TrajectoryModel, values: Tensor) -> Tensor:
        scores = safe_log(model.mdp.initial) + values
        return torch.nn.functional.one_hot(first_largest(scores), len(scores)).to(scores.dtype)

    def beliefs(self, model: TrajectoryModel, values: Tensor) -> tuple[Tensor, OutcomeDynamics]:
        return self.believed_start(model, values[0]), _CertainDynamics(model, self.groups, values)


def _max_backup(model: TrajectoryModel, values: Tensor, t: int, groups: Tensor | None) -> Tensor:
    alive, fallen = log_successors(model, groups, values, t)
    q_values = torch.maximum(alive.amax(-1), fallen)
    return torch.where(model.nonterminal[:, None], q_values, torch.zeros_like(q_values))


@storable("certain-dynamics")
class _CertainDynamics(OutcomeDynamics):
    """From every (s, a) to the successor on the best trajectory, and nowhere else."""

    groups: Tensor | None
    values: Tensor

    def __init__(self, model: TrajectoryModel, groups: Tensor | None, values: Tensor) -> None:
        super().__init__(model)
        self.groups, self.values = groups, values

    def tables(self, t: int) -> tuple[Tensor, Tensor]:
        model = self.model
        true = FixedDynamics(model).outcomes(t)
        alive, fallen = log_successors(model, self.groups, self.values[t + 1], t)
        best = first_largest(torch.cat([alive, fallen[..., None]], -1))[..., None]
        outcomes = torch.arange(alive.shape[-1]) if self.groups is None else self.groups
        scores = safe_log(model.mdp.probabilities) + model.log_potential(t)
        nothing = torch.full_like(scores, -torch.inf)
        falls = best == alive.shape[-1]
        goes = _shares(torch.where((outcomes == best) & ~falls, scores, nothing))
        ends = _shares(torch.where(falls.expand_as(scores), scores, nothing))
        certain = model.nonterminal[:, None] & torch.isfinite(torch.maximum(alive.amax(-1), fallen))
        where = certain[..., None]
        return torch.where(where, goes, true[0]), torch.where(where, ends, true[1])


def log_successors(model: TrajectoryModel, groups: Tensor | None, values: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """(alive [S, A, K], fallen [S, A]): log of sum p e^rho over what leads to a next state, plus what follows there.

    Outcomes that share their next state are counted with the first of them; the others hold -inf.
    """
    mdp = model.mdp
    scores = safe_log(mdp.probabilities) + model.log_potential(t)
    every = safe_logsumexp(scores)
    if groups is not None:  # each group is shifted by its own largest: a row may hold weights e^1000 apart
        nothing = torch.full_like(scores, -torch.inf)
        shift = nothing.scatter_reduce(-1, groups, scores.detach(), "amax")
        shift = torch.where(torch.isfinite(shift), shift, torch.zeros_like(shift))
        sums = torch.zeros_like(scores).scatter_add(-1, groups, (scores - shift.gather(-1, groups)).exp())
        scores = safe_log(sums) + shift
    alive = scores + math.log(model.discount) + mdp.gather(values)
    fall = math.log1p(-model.discount) if model.discount < 1 else -math.inf
    return alive, every + fall


def _shares(scores: Tensor) -> Tensor:
    """Probabilities proportional to e^scores along the last axis; all 0 where every score is -inf."""
    total = safe_logsumexp(scores)[..., None]
    return (scores - torch.where(torch.isfinite(total), total, torch.zeros_like(total))).exp()


def _certain_choice(model: TrajectoryModel, q_values: Tensor, log_prior: Tensor) -> tuple[Tensor, Tensor]:
    """(max_a [log p(a|s) + q] [S], pi [S, A] with all on the first best action)."""
    scores = log_prior + q_values
    values = torch.where(model.nonterminal, scores.amax(-1), torch.zeros_like(scores[:, 0]))
    infeasible = torch.isinf(values) | ~model.nonterminal
    policy = torch.nn.functional.one_hot(first_largest(scores), scores.shape[-1]).double()
    return values, torch.where(infeasible[:, None], log_prior.exp(), policy)
