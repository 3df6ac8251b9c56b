"""The fixed point of soft actor-critic on tables, its temperature given or learned."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cai.inference.learning.exact.tables import (
    ExactTables,
    boltzmann,
    exact_tables,
    nonterminal_weights,
    require_infinite,
)
from cai.inference.tabular.policy_posterior import policy_values
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["soft_actor_critic"]

HIGHEST, LOWEST = 1e4, 1e-4  # temperatures among which a target entropy is looked for
SWEEPS = 1000  # of soft policy iteration, which settles in about ten
SETTLED = 1e-10  # relative beyond 1, what the last sweeps move values by


def soft_actor_critic(
    model: TrajectoryModel, *, target_entropy: float | None = None, state_weights: Any = None
) -> tuple[Tensor, Tensor, Tensor, float]:
    """The fixed point of soft actor-critic with exact expectations: its critic evaluates, its actor is greedy.

    Q = r + gamma E[V], V = E_pi[Q - alpha log pi / p], pi = p exp((Q - V) / alpha) (Haarnoja et al. 2018). A learned
    temperature is the one at which the policy's entropy, averaged over states, meets its target.

    Args:
        model: of an infinite horizon.
        target_entropy: nats; None for the model's own temperature. It needs a uniform action prior.
        state_weights: [S], over which the entropy is averaged, as the states of a replay buffer; uniform over the
            nonterminal states, unless given.

    Returns:
        (values [S], q_values [S, A], action_probs [S, A], temperature), reward units.

    Raises:
        TypeError, ValueError: if the model is no such one; the prior is not uniform; or no temperature from 1e-4 to 1e4
            has that entropy, naming those that are reached.
    """
    tables = exact_tables(model, "soft actor-critic")
    require_infinite(tables.model, "soft actor-critic")
    weights = nonterminal_weights(tables, state_weights)
    weights = weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
    if target_entropy is None:
        return _fixed_point(tables.model)
    if not math.isfinite(target_entropy):
        raise ValueError(f"target_entropy is {target_entropy}; give a finite number of nats")
    counts = tables.model.mdp.available.double().sum(-1, keepdim=True)
    if not torch.allclose(tables.prior, tables.model.mdp.available / counts, atol=1e-12):
        raise ValueError(
            "target_entropy needs a uniform action prior: with another the entropy is not monotone in the temperature, "
            "and several of them may have it; leave it out"
        )
    known: dict[float, tuple[Tensor, Tensor, Tensor, float]] = {}

    def excess(log_temperature: float) -> float:
        found = _fixed_point(tables.model.replace(temperature=math.exp(log_temperature)))
        known[log_temperature] = found
        return float((weights * torch.special.entr(found[2]).sum(-1)).sum()) - target_entropy

    from scipy.optimize import brentq  # takes a while to import

    low, high = math.log(LOWEST), math.log(HIGHEST)
    least, most = excess(low), excess(high)
    if least > 0 or most < 0:
        raise ValueError(
            f"target_entropy is {target_entropy}; temperatures from {LOWEST:g} to {HIGHEST:g} have entropies from "
            f"{least + target_entropy:.6g} to {most + target_entropy:.6g} nats: give one between them"
        )
    root = low if least == 0 else float(brentq(excess, low, high, xtol=1e-13, rtol=1e-13))
    excess(root)
    return known[root]


def _fixed_point(model: TrajectoryModel) -> tuple[Tensor, Tensor, Tensor, float]:
    """Soft policy iteration until values move no more: evaluation, and the policy that is best for the values found."""
    tables = exact_tables(model, "soft actor-critic")
    policy, before, settled = _first_policy(tables), None, False
    for _ in range(SWEEPS):
        try:
            values, q_values = (part[0] * tables.temperature for part in policy_values(tables.model, policy[None]))
        except ArithmeticError as error:
            raise ValueError(f"soft actor-critic has no fixed point here: {error}") from None
        if before is not None:
            size = 1 + before.abs().nan_to_num(posinf=0.0)
            moved = torch.where(values == before, torch.zeros_like(values), (values - before).abs())
            was_settled, settled = settled, bool((moved <= SETTLED * size).all())
            if settled and was_settled:  # convergence is quadratic, so that one more sweep leaves rounding alone
                return values, q_values, policy, tables.temperature
        before, policy = values, boltzmann(tables, q_values)[0]
    raise ValueError(f"soft actor-critic still moves after {SWEEPS} sweeps; values have no bound here")


def _first_policy(tables: ExactTables) -> Tensor:
    """[S, A], the prior without the actions by which a reward of -inf may be met later, where there are others.

    The prior itself is worth -inf wherever it can meet one, and no sweep would tell better actions from worse ones.
    """
    fine = tables.allowed & torch.isfinite(tables.rewards(0))
    lost = torch.zeros_like(tables.nonterminal)
    for _ in range(len(lost)):  # each round but the last loses a state
        safe = fine & (tables.ahead(lost.to(tables.prior)) == 0)
        lost = tables.nonterminal & ~safe.any(-1)
    weights = torch.where(safe, tables.prior, torch.zeros_like(tables.prior))
    weights = torch.where(lost[:, None] | ~tables.nonterminal[:, None], tables.prior, weights)
    return weights / weights.sum(-1, keepdim=True)
