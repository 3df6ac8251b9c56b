"""The answers of tabular backends: from policy, start and dynamics to a `Posterior`, its expectations included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.lazy import Later, mapped, resolved
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.tabular.believed_dynamics import FixedDynamics, OutcomeDynamics
from cai.inference.tabular.messages import with_absorbed
from cai.models.common.numerics import categorical_divergence, safe_log, weighted
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["QuantitiesOfQ", "measure", "tabular_posterior"]


@dataclass(frozen=True)
class QuantitiesOfQ:
    """Expectations along q: see the attributes of `Posterior`."""

    state_marginals: Tensor
    absorbed: Tensor
    believed_return: Tensor
    luck: Tensor
    policy_divergence: Tensor
    policy_entropy: Tensor


def measure(
    model: TrajectoryModel,
    initial: Tensor,
    policy: Tensor,
    dynamics: OutcomeDynamics,
    visits: tuple[Tensor, Tensor] | None = None,
) -> QuantitiesOfQ:
    """Walks along q once and adds up what it believes, hopes for and pays.

    Args:
        model: the trajectory model.
        initial: [S], q(s_1).
        policy: [T, S, A].
        dynamics: of q.
        visits: marginals [T + 1, S] and absorbed [T + 1] where they are known already.
    """
    live, rows = model.live, [initial]
    returns = luck = divergence = entropy = initial.new_zeros(())
    for t in range(model.steps):
        rewards = model.reward_table(t)
        step = None
        if visits is None or rewards.shape[-1] > 1:
            step = dynamics.step(t)
        here = rows[-1] if visits is None else visits[0][t]
        joint = here[:, None] * policy[t]
        if visits is None and step is not None:
            rows.append(model.mdp.scatter(joint[..., None] * step.alive))
        here = torch.where(live, here, torch.zeros_like(here))
        joint = torch.where(live[:, None], joint, torch.zeros_like(joint))
        if step is None or rewards.shape[-1] == 1:
            returns = returns + weighted(joint, rewards[..., 0]).sum()
        else:
            chances = step.alive if step.fallen is None else step.alive + step.fallen
            returns = returns + weighted(joint[..., None] * chances, rewards).sum()
        if not isinstance(dynamics, FixedDynamics):
            paid = dynamics.divergence(t) if step is None or step.divergence is None else step.divergence
            luck = luck + weighted(joint, paid).sum()
        divergence = divergence + weighted(here, categorical_divergence(policy[t], model.action_prior)).sum()
        entropy = entropy - weighted(joint, safe_log(policy[t])).sum()
    luck = luck + categorical_divergence(initial, model.mdp.initial)
    marginals, absorbed = with_absorbed(model, torch.stack(rows)) if visits is None else visits
    return QuantitiesOfQ(marginals, absorbed, returns, luck, divergence, entropy)


def tabular_posterior(
    model: TrajectoryModel,
    *,
    backend: str,
    target: Target,
    status: Status,
    log_evidence: Tensor | None,
    elbo: Tensor | None,
    values: Tensor | Later,
    q_values: Tensor | Later,
    policy: Tensor | Later,
    initial: Tensor | Later,
    dynamics: OutcomeDynamics | Later | None = None,
    visits: tuple[Tensor, Tensor] | Later | None = None,
    sampler: Callable[[int, int], tuple[Tensor, Tensor]] | None = None,
    details: Mapping[str, Any] | None = None,
) -> Posterior:
    """Builds the posterior of a tabular backend; `values` [T, S] and `q_values` [T, S, A] in nats.

    What is expected along q is worked out when it is first asked for. Where `elbo` is None it is measured: what q
    earns, less what its policy and its luck cost.
    """
    dynamics = dynamics or FixedDynamics(model)
    temperature = model.temperature

    def measured() -> QuantitiesOfQ:
        return measure(model, resolved(initial), resolved(policy), resolved(dynamics), resolved(visits))

    def number(name: str) -> Any:
        return Later(lambda: getattr(found(), name))

    def bound() -> Tensor:
        of_q = found()
        paid = of_q.policy_divergence + of_q.luck
        return of_q.believed_return / temperature - paid + model.evidence_offset

    found = Later(measured)
    if isinstance(visits, Later) and not visits.held:  # numbers stay, tables do not
        gone: Any = None
        found = Later(lambda: replace(measured(), state_marginals=gone, absorbed=gone))
    attained: Any = Later(bound) if elbo is None else elbo
    chosen: Any = policy
    start: Any = initial
    marginals: Any = number("state_marginals") if visits is None else mapped(visits, lambda pair: pair[0])
    absorbed: Any = number("absorbed") if visits is None else mapped(visits, lambda pair: pair[1])
    return Posterior(
        backend=backend,
        target=target,
        status=status,
        horizon=model.horizon,
        log_evidence=log_evidence,
        elbo=attained,
        values=_in_reward_units(values, temperature),
        q_values=_in_reward_units(q_values, temperature),
        action_probs=chosen,
        action_prior=model.action_prior,
        initial=start,
        state_marginals=marginals,
        absorbed=absorbed,
        believed_return=number("believed_return"),
        luck=number("luck"),
        policy_divergence=number("policy_divergence"),
        policy_entropy=number("policy_entropy"),
        model=model,
        step_dynamics=lambda t: model.mdp.to_next_states(resolved(dynamics).outcomes(t)[0]),
        step_luck=lambda t: resolved(dynamics).divergence(t),
        sampler=sampler,
        step_outcomes=lambda t: resolved(dynamics).outcomes(t),
        details=MappingProxyType(dict(details or {})),
    )


def _in_reward_units(table: Tensor | Later, temperature: float | Tensor) -> Any:
    """Alpha times a table in nats, made when it is looked at; the table itself where alpha is 1."""
    if not isinstance(temperature, Tensor) and temperature == 1:
        return table
    if isinstance(table, Later):
        return mapped(table, lambda found: _scaled(found, temperature))
    return Later(lambda: _scaled(table, temperature), held=False)


def _scaled(table: Tensor, temperature: float | Tensor) -> Tensor:
    if not isinstance(temperature, Tensor):
        return temperature * table
    hopeless = torch.isinf(table)  # 0 * inf would make its gradient NaN
    return torch.where(hopeless, table.detach(), temperature * torch.where(hopeless, torch.zeros_like(table), table))
