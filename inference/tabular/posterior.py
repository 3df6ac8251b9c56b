"""Answers to trajectory models: from policy, start and dynamics to everything that is expected along q."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.lazy import lazy, table, without_gradient
from cai.inference.core.status import Status, Target
from cai.inference.core.storage import storable
from cai.inference.core.tabular import TabularPosterior
from cai.inference.tabular.backward import CHUNK, forward
from cai.inference.tabular.believed_dynamics import FixedDynamics, OutcomeDynamics
from cai.models.common.numerics import by_rows, categorical_divergence, safe_log, weighted
from cai.models.common.threads import spare_core
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["ModelPosterior", "TrajectoryStatistics", "in_reward_units", "measure", "tabular_posterior"]

SHARED = 2**15  # numbers: torch shares products of so many among its threads


@storable("statistics-of-q")
@dataclass(frozen=True)
class TrajectoryStatistics:
    """Expectations along q: see the attributes of `Posterior`; no tables where none are to stay."""

    state_marginals: Tensor | None
    absorbed: Tensor | None
    believed_return: Tensor
    luck: Tensor
    policy_divergence: Tensor
    policy_entropy: Tensor

    _stored_axes = {"state_marginals": "V S counts", "absorbed": "V counts", "believed_return": "", "luck": ""}
    _stored_axes |= {"policy_divergence": "", "policy_entropy": ""}


def measure(
    model: TrajectoryModel,
    initial: Tensor,
    policy: Tensor,
    dynamics: OutcomeDynamics,
    visits: tuple[Tensor, Tensor] | None = None,
) -> TrajectoryStatistics:
    """Expected return, policy KL, dynamics KL and entropy along q, many steps at a time.

    Args:
        model: the trajectory model.
        initial: [S], q(s_1).
        policy: [T, S, A].
        dynamics: of q.
        visits: marginals [T + 1, S] and absorbed [T + 1] where they are known already.
    """
    visits = forward(model, initial, policy, dynamics) if visits is None else visits
    nonterminal, timed = model.nonterminal, model.reward.reads_time
    rewards = model.reward_table(0)
    returns = divergence = entropy = luck = initial.new_zeros(())
    if not model.is_average:  # per step of a long run the start is nothing
        luck = categorical_divergence(initial, model.mdp.initial)
    size = max(1, CHUNK // model.mdp.probabilities.numel())
    for begin in range(0, model.steps, size):
        times = range(begin, min(begin + size, model.steps))
        chosen, here = policy[begin : times.stop], visits[0][begin : times.stop]
        here = torch.where(nonterminal, here, torch.zeros_like(here))
        joint = here[..., None] * chosen
        if timed:
            rewards = torch.stack([model.reward_table(t) for t in times])
        if rewards.shape[-1] == 1:
            returns = returns + weighted(joint, rewards[..., 0]).sum()
        else:
            returns = returns + weighted(joint[..., None] * dynamics.chances(times), rewards).sum()
        costs = dynamics.divergences(times)
        if costs is not None:
            luck = luck + weighted(joint, costs).sum()
        spent = by_rows(chosen, lambda rows: categorical_divergence(chosen[rows], model.action_prior))  # noqa: B023
        divergence = divergence + weighted(here, torch.cat(spent)).sum()
        entropy = entropy - weighted(joint, safe_log(chosen)).sum()
    return TrajectoryStatistics(*visits, returns, luck, divergence, entropy)


class ModelPosterior(TabularPosterior):
    """A tabular answer to a `TrajectoryModel`; what is expected along q is computed when it is first looked at.

    Attributes:
        world: q's dynamics over the listed outcomes.
    """

    model: TrajectoryModel
    world: OutcomeDynamics
    _stored_axes = {"visits": "V ... counts"}
    _left_behind = ("recursion",)  # files hold every trajectory model

    @lazy
    def action_prior(self) -> Tensor:
        """[S, A], p(a | s)."""
        return self.model.action_prior

    @table
    def visits(self) -> tuple[Tensor, Tensor] | None:
        """(marginals [T + 1, S], absorbed [T + 1]), where they are found faster than by going along q."""
        return None

    @lazy
    def statistics(self) -> TrajectoryStatistics:
        """What is expected along q; tables are left out of it where no table is to stay."""
        found = measure(self.model, self.initial, self.action_probs, self.world, self.visits)
        return found if self.holds_tables else replace(found, state_marginals=None, absorbed=None)

    def luck_by_state(self) -> Tensor:
        policy, marginals = self.action_probs, self.state_marginals
        total = torch.zeros_like(policy[0, :, 0])
        size = max(1, CHUNK // self.model.mdp.probabilities.numel())
        with self._recording(), torch.no_grad():
            for begin in range(0, self.steps, size):
                times = range(begin, min(begin + size, self.steps))
                costs = self.world.divergences(times)
                if costs is None:
                    return total
                joint = marginals[begin : times.stop, :, None] * policy[begin : times.stop]
                total = total + weighted(joint, costs).sum((0, -1))
        return total

    def _state(self) -> dict[str, Any]:
        state = super()._state()
        if "statistics" in state:
            parts = vars(state["statistics"])
            state["statistics"] = TrajectoryStatistics(**{name: without_gradient(part) for name, part in parts.items()})
        return state

    def _log_start(self) -> Tensor:
        return self.world.log_start(self.initial)

    def _log_outcomes(self, t: int) -> tuple[Tensor, Tensor]:
        return self.world.log_outcomes(t)

    def _where(self) -> tuple[Tensor, Tensor]:
        visits = self.visits
        if visits is None and self.holds_tables:
            marginals, absorbed = self.statistics.state_marginals, self.statistics.absorbed
            visits = (marginals, absorbed) if marginals is not None and absorbed is not None else None
        return forward(self.model, self.initial, self.action_probs, self.world) if visits is None else visits

    @table
    def state_marginals(self) -> Tensor:
        """[T + 1, S], q(s_t); over an infinite horizon expected visits [1, S]."""
        return self._where()[0]

    @table
    def absorbed(self) -> Tensor:
        """[T + 1], the probability of having fallen into the discount's absorbing state."""
        return self._where()[1]

    believed_return = lazy[Tensor | None](attrgetter("statistics.believed_return"))
    luck = lazy[Tensor | None](attrgetter("statistics.luck"))
    policy_divergence = lazy[Tensor | None](attrgetter("statistics.policy_divergence"))
    policy_entropy = lazy[Tensor | None](attrgetter("statistics.policy_entropy"))

    @lazy
    def elbo(self) -> Tensor | None:
        """The bound that q attains, nats, 0-dim: what it earns, less what its policy and its luck cost."""
        found = self.statistics
        costs = found.policy_divergence + found.luck
        return found.believed_return / self.model.temperature - costs + self.model.evidence_offset


storable("model-posterior", pack=ModelPosterior._stored, unpack=ModelPosterior._from_stored)(ModelPosterior)


def tabular_posterior(
    model: TrajectoryModel,
    *,
    backend: str,
    target: Target,
    status: Status,
    log_evidence: Tensor | None,
    elbo: Tensor | None,
    values: Tensor,
    q_values: Tensor,
    policy: Tensor,
    initial: Tensor,
    dynamics: OutcomeDynamics | None = None,
    visits: tuple[Tensor, Tensor] | None = None,
    details: Mapping[str, Any] | None = None,
) -> ModelPosterior:
    """Builds the answer of a tabular backend from what it found.

    Args:
        model: the trajectory model.
        backend: the name of the backend.
        target: what it approximates.
        status: how it ended.
        log_evidence: nats, 0-dim; None where it is not known.
        elbo: the bound that q attains, nats, 0-dim; measured along q if None.
        values: [T, S], nats.
        q_values: [T, S, A], nats.
        policy: [T, S, A], q(a_t | s_t).
        initial: [S], q(s_1).
        dynamics: q's; the true ones unless given.
        visits: (marginals [T + 1, S], absorbed [T + 1]) where they are known already; over an infinite horizon
            (expected visits [1, S], the probability of ending in the absorbing state [1]).
        details: further numbers.
    """
    return ModelPosterior(
        model=model,
        backend=backend,
        target=target,
        status=status,
        horizon=model.horizon,
        log_evidence=log_evidence,
        values=in_reward_units(values, model.temperature),
        q_values=in_reward_units(q_values, model.temperature),
        action_probs=policy,
        initial=initial,
        world=dynamics or FixedDynamics(model),
        visits=visits,
        details=details,
        **({} if elbo is None else {"elbo": elbo}),
    )


def in_reward_units(nats: Tensor, temperature: float | Tensor) -> Tensor:
    """Alpha times a table in nats; the table itself where alpha is 1."""
    if not isinstance(temperature, Tensor):
        if temperature == 1:
            return nats
        with spare_core() if nats.numel() >= SHARED else contextlib.nullcontext():
            return temperature * nats
    infinite = torch.isinf(nats)  # 0 * inf would make its gradient NaN
    return torch.where(infinite, nats.detach(), temperature * torch.where(infinite, torch.zeros_like(nats), nats))
