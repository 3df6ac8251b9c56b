"""By how much paths miss the consistency of the optimum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.inference.learning.exact.tables import ExactTables, checked, exact_tables
from cai.models.common.numerics import weighted
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["path_residuals"]


def path_residuals(model: TrajectoryModel, values: Any, action_probs: Any, states: Any, actions: Any) -> Tensor:
    """By how much paths miss the consistency of the optimum (Nachum et al. 2017, equation 11, with a prior).

    -V(s_0) + gamma^n V(s_n) + sum_{i < n} gamma^i (r_i - alpha log pi(a_i | s_i) / p(a_i | s_i)), n the number of steps
    given or until the first terminal state, where V = 0. At the optimum it is 0 on every path of a deterministic model,
    whoever chose the actions; where the dynamics are random only its mean given s_0 and the actions' rule is.

    Args:
        model: of any horizon; over a finite one paths begin at its first step.
        values: [S], reward units; or [T, S] over a finite horizon.
        action_probs: [S, A]; or [T, S, A] over a finite horizon.
        states: int [N, d + 1].
        actions: int [N, d].

    Returns:
        [N], reward units.

    Raises:
        TypeError, ValueError: if something does not fit the model, a path takes a step that is not possible, or its
            residual is a difference of infinite numbers.
    """
    tables = exact_tables(model, "a path's residual")
    states, actions = (torch.as_tensor(part) for part in (states, actions))
    if states.dtype.is_floating_point or actions.dtype.is_floating_point:
        raise TypeError(
            f"states are {states.dtype} and actions {actions.dtype}; expected whole numbers, by which they are known"
        )
    if states.dim() != 2 or actions.dim() != 2 or states.shape != (actions.shape[0], actions.shape[1] + 1):
        raise ValueError(
            f"states have shape {list(states.shape)}, actions {list(actions.shape)}; expected [N, d + 1] and [N, d]"
        )
    steps, size = tables.model.steps, tuple(tables.prior.shape)
    length = actions.shape[1]
    if tables.model.is_finite and length > steps:
        raise ValueError(f"paths have {length} steps; the model has {steps}")
    given = torch.as_tensor(values, dtype=torch.float64).detach()
    table = checked(given if given.dim() == 2 else given[None], (steps, size[0]), "values")
    probs = torch.as_tensor(action_probs, dtype=torch.float64).detach()
    policy = checked(probs if probs.dim() == 3 else probs[None], (steps, *size), "action_probs")
    if tables.model.is_finite:
        table = torch.cat([table, torch.zeros_like(table[:1])])
    total = torch.zeros(len(states), dtype=torch.float64)
    weight = torch.ones_like(total)
    for t in range(length + 1):
        here, index = states[:, t].long(), t if tables.model.is_finite else 0
        if bool(((here < 0) | (here >= size[0])).any()):
            raise ValueError(f"a path visits a state that does not exist at step {t}; states are 0 to {size[0] - 1}")
        nonterminal = tables.nonterminal[here] & (weight > 0)
        if t == 0:
            total = total - torch.where(nonterminal, table[0][here], 0.0)
        if t == length:
            return _numbers(total + torch.where(nonterminal, weight * table[index][here], 0.0))
        taken = actions[:, t].long()
        if bool((nonterminal & ~((taken >= 0) & (taken < size[1]))).any()):
            raise ValueError(f"a path takes an action that does not exist at step {t}")
        taken = torch.where(nonterminal, taken, torch.zeros_like(taken))
        if bool((nonterminal & ~tables.allowed[here, taken]).any()):
            raise ValueError(f"a path takes an action that is not available at step {t}")
        paid = _paid(tables, here, taken, states[:, t + 1].long(), nonterminal, t)
        ratio = policy[index][here, taken].log() - tables.log_prior[here, taken]
        total = total + torch.where(nonterminal, weight * (paid - tables.temperature * ratio), 0.0)
        weight = torch.where(nonterminal, weight * tables.discount, torch.zeros_like(weight))
    raise AssertionError("the loop returns at its last step")


def _numbers(found: Tensor) -> Tensor:
    """The same; raises ValueError if one is NaN."""
    if bool(found.isnan().any()):
        path = int(found.isnan().nonzero()[0])
        raise ValueError(
            f"path {path} has no residual: it meets a reward of -inf by an action that the policy never takes, or a "
            "state whose value is -inf; leave such paths out"
        )
    return found


def _paid(tables: ExactTables, here: Tensor, taken: Tensor, following: Tensor, nonterminal: Tensor, t: int) -> Tensor:
    """[N], the reward of steps to given next states; the mean of outcomes that share it."""
    mdp = tables.model.mdp
    chances = mdp.probabilities.detach()[here, taken]
    targets = mdp.successors().expand(mdp.probabilities.shape)[here, taken]
    chances = torch.where(targets == following[:, None], chances, torch.zeros_like(chances))
    reached = chances.sum(-1)
    if bool((nonterminal & (reached == 0)).any()):
        path = int(torch.nonzero(nonterminal & (reached == 0))[0])
        raise ValueError(
            f"path {path} goes from state {int(here[path])} by action {int(taken[path])} to state "
            f"{int(following[path])} at step {t}, which is not possible"
        )
    table = tables.model.reward_table(t if tables.model.is_finite else 0).detach()[here, taken]
    mean = weighted(chances, table.expand_as(chances)).sum(-1)
    return mean / torch.where(reached > 0, reached, torch.ones_like(reached))
