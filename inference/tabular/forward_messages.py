"""Forward messages of a finite horizon: how probable it is to have come here by optimal steps."""

from __future__ import annotations

import torch
from torch import Tensor

from cai.inference.kernels.problem import SoftProblem
from cai.inference.kernels.values import asks_for_gradients
from cai.models.common.numerics import safe_log, safe_logsumexp
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["forward_messages"]


def forward_messages(model: TrajectoryModel) -> Tensor:
    """[T + 1, S], log p(s_t, O_{1:t-1} = 1) in nats.

    Times the backward message it is the posterior marginal: p(s_t | O) p(O) (slides "Forward messages", after CS285).
    One product with the transposed table a step, about the price of a backward pass; steps in which some sum underflows
    are done again with a shift for each next state, and so are all where gradients are asked for.

    Args:
        model: the trajectory model, of a finite horizon.
    """
    rows = [safe_log(model.mdp.initial)]
    if asks_for_gradients(model) or (torch.is_grad_enabled() and rows[0].requires_grad):
        for t in range(model.steps):
            rows.append(_exact_step(model, rows[-1], t))
        return torch.stack(rows)
    with torch.no_grad():
        tables, stays = SoftProblem(model, "exact"), safe_log(model.continuation_probability)
        smallest = torch.finfo(model.dtype).tiny / torch.finfo(model.dtype).eps
        made = tables.tables(0)
        for t in range(model.steps):
            made = tables.tables(t) if model.reward.reads_time else made
            scores = rows[-1] + stays + made.row_largest[:, 0]
            shift = scores.max() if bool(torch.isfinite(scores.max())) else 0.0
            arriving = made.weights * (scores - shift).exp()[:, None, None]
            sums = made.table.scatter(arriving.view(-1, 1))[:, 0]
            low = sums < smallest
            if bool(low.any()) and bool((low & _reached(model, rows[-1])).any()):
                rows.append(_exact_step(model, rows[-1], t))
            else:
                rows.append(sums.log() + shift)
    return torch.stack(rows)


def _reached(model: TrajectoryModel, ahead: Tensor) -> Tensor:
    """Bool [S], where the process can be one step after the states whose messages are finite."""
    possible = model.mdp.probabilities.detach() > 0
    comes = torch.isfinite(ahead)[:, None, None] & (model.action_prior.detach() > 0)[..., None] & possible
    return model.mdp.scatter(comes.to(ahead.dtype)) > 0


def _exact_step(model: TrajectoryModel, ahead: Tensor, t: int) -> Tensor:
    """The next row from `ahead` [S], each next state shifted by its own largest term; recorded by autograd."""
    mdp = model.mdp
    stays = safe_log(model.continuation_probability)[:, None, None]
    log_weights = safe_log(mdp.probabilities) + model.log_action_prior[..., None] + stays
    scores = log_weights + model.log_potential(t) + ahead[:, None, None]
    if mdp.next_states is None:
        return safe_logsumexp(scores.reshape(-1, mdp.num_states), dim=0)
    index, flat = mdp.next_states.reshape(-1), scores.reshape(-1)
    largest = scores.new_full((mdp.num_states,), -torch.inf)
    largest = largest.scatter_reduce(0, index, flat.detach(), "amax")
    shift = torch.where(torch.isfinite(largest), largest, torch.zeros_like(largest))
    return safe_log(mdp.scatter((scores - shift[mdp.next_states]).exp())) + shift
