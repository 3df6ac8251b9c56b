"""A small model as its tables, and the checks that the exact formulas share."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cai.models.common.numerics import expectation, plain_number, weighted
from cai.models.trajectory.model import TrajectoryModel

__all__ = [
    "ExactTables",
    "boltzmann",
    "checked",
    "exact_tables",
    "nonterminal_weights",
    "require_finite",
    "require_infinite",
]


class ExactTables(NamedTuple):
    """A model as its tables: what every formula here reads.

    Attributes:
        prior: [S, A].
        log_prior: [S, A], 0 where the prior is 0.
        allowed: bool [S, A], actions of positive prior.
        nonterminal: bool [S].
        discount: gamma.
        temperature: alpha.
    """

    model: TrajectoryModel
    prior: Tensor
    log_prior: Tensor
    allowed: Tensor
    nonterminal: Tensor
    discount: float
    temperature: float

    def rewards(self, t: int) -> Tensor:
        """[S, A], expected rewards of step t; 0 in terminal states and for actions that are not allowed."""
        table, mdp = self.model.reward_table(t).detach(), self.model.mdp
        mean = table[..., 0] if table.shape[-1] == 1 else expectation(mdp.probabilities.detach(), table)
        return torch.where(self.allowed & self.nonterminal[:, None], mean, torch.zeros_like(mean))

    def ahead(self, values: Tensor) -> Tensor:
        """[S, A], E[v(s') | s, a] of values [S] that count in nonterminal states alone, without the discount."""
        counted = torch.where(self.nonterminal, values, torch.zeros_like(values))
        mdp = self.model.mdp
        mean = weighted(mdp.probabilities.detach(), mdp.gather(counted).expand_as(mdp.probabilities)).sum(-1)
        return torch.where(self.nonterminal[:, None], mean, torch.zeros_like(mean))

    def forward(self, mass: Tensor, policy: Tensor) -> Tensor:
        """[S], nonterminal mass one step later; nothing falls."""
        mdp = self.model.mdp
        flow = torch.where(self.nonterminal, mass, torch.zeros_like(mass))[:, None] * policy
        if mdp.next_states is None:
            moved = torch.einsum("sa,sak->k", flow, mdp.probabilities.detach())
        else:
            parts = (flow[..., None] * mdp.probabilities.detach()).reshape(-1)
            moved = torch.zeros_like(mass).index_add(0, mdp.next_states.reshape(-1), parts)
        return torch.where(self.nonterminal, moved, torch.zeros_like(moved))


def exact_tables(model: Any, what: str) -> ExactTables:
    """The tables of a model; `what` is asked of it, for messages.

    Raises:
        TypeError, ValueError: if it is no `TrajectoryModel`, or its criterion is the average.
    """
    if not isinstance(model, TrajectoryModel):
        raise TypeError(f"{what} needs a TrajectoryModel, whose tables it sums over; got {type(model).__name__}")
    if model.is_average:
        raise ValueError(f"{what} is of sums of rewards; this model has criterion='average'")
    model = model.host
    prior = model.action_prior.detach()
    log_prior = torch.where(prior > 0, prior, torch.ones_like(prior)).log()
    return ExactTables(
        model, prior, log_prior, prior > 0, model.nonterminal, model.discount, plain_number(model.temperature)
    )


def require_finite(model: TrajectoryModel, what: str) -> int:
    """T; raises ValueError over an infinite horizon."""
    if not model.is_finite:
        raise ValueError(f"{what} sums over the steps of a finite horizon; give the model horizon=T")
    return model.steps


def require_infinite(model: TrajectoryModel, what: str) -> None:
    """Raises ValueError over a finite horizon."""
    if model.is_finite:
        raise ValueError(f"{what} is of a stationary policy; give the model horizon=math.inf")


def checked(given: Any, shape: tuple[int, ...], name: str) -> Tensor:
    """Float64 of this shape without history; raises ValueError if the shape is another or it holds NaN or +inf."""
    tensor = torch.as_tensor(given, dtype=torch.float64).detach()
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {list(tensor.shape)}; expected {list(shape)}")
    if bool(torch.isnan(tensor).any() | (tensor == torch.inf).any()):
        raise ValueError(f"{name} holds NaN or inf; give finite numbers, or -inf where nothing can be hoped for")
    return tensor


def nonterminal_weights(tables: ExactTables, given: Any) -> Tensor:
    """[S], weights of states, 0 in terminal ones; uniform over nonterminal states unless given."""
    nonterminal = tables.nonterminal.double()
    if given is None:
        return nonterminal / nonterminal.sum().clamp(min=1.0)
    weights = checked(given, tuple(nonterminal.shape), "state_weights")
    if bool((weights < 0).any()):
        raise ValueError("state_weights holds a negative number; give weights >= 0")
    return weights * nonterminal


def boltzmann(tables: ExactTables, q_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(pi [S, A], log pi / p [S, A], V [S]) of Q; where nothing can be hoped for the prior, and in terminal states."""
    nothing = torch.full_like(q_values, -torch.inf)
    scores = torch.where(tables.allowed & tables.nonterminal[:, None], q_values / tables.temperature, nothing)
    logs = torch.logsumexp(torch.where(tables.allowed, scores + tables.log_prior, nothing), -1)
    hopeful = torch.isfinite(logs)
    shift = torch.where(hopeful, logs, torch.zeros_like(logs))
    possible = torch.isfinite(scores) & hopeful[:, None]
    ratio = torch.where(possible, torch.where(possible, scores, 0.0) - shift[:, None], torch.zeros_like(scores))
    policy = torch.where(possible, tables.prior * ratio.exp(), torch.zeros_like(scores))
    policy = torch.where(hopeful[:, None], policy, tables.prior)
    values = torch.where(tables.nonterminal, tables.temperature * logs, torch.zeros_like(logs))
    return policy, ratio, values
