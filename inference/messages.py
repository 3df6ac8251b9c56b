"""The message core: backward and forward passes in log space, dense or by successor lists, for every tabular backend.

Messages are in nats, v = V / alpha and q = Q / alpha, with rho = r / alpha. Over the outcomes k of (s, a):

    optimistic       q = log sum_k p_k e^{rho_k} (gamma e^{v(s'_k)} + 1 - gamma)      Levine 2018, equation (7)
    fixed dynamics   q = sum_k p_k (rho_k + gamma v(s'_k))                            Levine 2018, equation (15)
    both             v = log sum_a p(a|s) e^q,   pi(a|s) = p(a|s) e^{q - v}           Levine 2018, equation (16)

The discount enters as in section 2.5 there: the chain falls into an absorbing state of value 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cai.models.numerics import categorical_divergence, expectation, safe_log, safe_logsumexp
from cai.models.trajectory import TrajectoryModel

__all__ = [
    "Backup",
    "FixedDynamics",
    "Messages",
    "OutcomeDynamics",
    "PosteriorDynamics",
    "TableDynamics",
    "backward",
    "fixed_backup",
    "forward",
    "forward_messages",
    "optimistic_backup",
    "policy_backward",
    "soft_policy",
    "start_message",
]

Backup = Callable[[TrajectoryModel, Tensor, int], Tensor]


@dataclass(frozen=True, eq=False)
class Messages:
    """Backward messages in nats.

    Attributes:
        values: [T + 1, S], log beta_t(s); the last row is 0. (Stationary: [2, S], both rows the same.)
        q_values: [T, S, A], log beta_t(s, a).
        policy: [T, S, A], pi(a | s); the action prior where v = -inf.
        start: log sum_s p(s_1) e^v under the optimistic backup, the expectation of v under the fixed one; 0-dim.
    """

    values: Tensor
    q_values: Tensor
    policy: Tensor
    start: Tensor


def continuation(model: TrajectoryModel, values: Tensor) -> Tensor:
    """log(gamma e^v + 1 - gamma) on live states, v elsewhere: what it is worth to arrive, [S], optimistically."""
    if model.discount == 1:
        return values
    alive, fallen = math.log(model.discount), math.log1p(-model.discount)
    arrived = torch.stack([values + alive, torch.full_like(values, fallen)], -1)
    return torch.where(model.live, safe_logsumexp(arrived), values)


def optimistic_backup(model: TrajectoryModel, values: Tensor, t: int) -> Tensor:
    """Q [S, A] when the dynamics are conditioned on optimality too (Levine 2018, equation 7)."""
    mdp = model.mdp
    scores = model.reward_table(t) / model.temperature + mdp.gather(continuation(model, values))
    q_values = safe_logsumexp(safe_log(mdp.probabilities) + scores)
    return torch.where(model.live[:, None], q_values, torch.zeros_like(q_values))


def fixed_backup(model: TrajectoryModel, values: Tensor, t: int) -> Tensor:
    """Q [S, A] when the dynamics are those of the world (Levine 2018, equation 15)."""
    mdp = model.mdp
    rewards = model.reward_table(t) / model.temperature
    if rewards.shape[-1] == 1 and mdp.transitions is not None:
        q_values = rewards[..., 0] + model.discount * _expected_dense(mdp.transitions, values)
    else:
        q_values = expectation(mdp.probabilities, rewards + model.discount * mdp.gather(values))
    return torch.where(model.live[:, None], q_values, torch.zeros_like(q_values))


def _expected_dense(transitions: Tensor, values: Tensor) -> Tensor:
    """sum_s' p(s'|s,a) v(s') as a product, -inf where a value of -inf can be reached."""
    lost = torch.isinf(values)
    result = transitions @ torch.where(lost, torch.zeros_like(values), values)
    if lost.any():
        reaches = (transitions @ lost.double()) > 0
        result = torch.where(reaches, torch.full_like(result, -torch.inf), result)
    return result


def soft_policy(model: TrajectoryModel, q_values: Tensor) -> tuple[Tensor, Tensor]:
    """(v [S], pi [S, A]) from q [S, A]; rows without hope keep the action prior, terminal ones have v = 0."""
    scores = model.log_action_prior + q_values
    values = safe_logsumexp(scores)
    values = torch.where(model.live, values, torch.zeros_like(values))
    hopeless = torch.isinf(values) | ~model.live
    shift = torch.where(hopeless, torch.zeros_like(values), values)
    policy = torch.where(hopeless[:, None], model.action_prior, (scores - shift[:, None]).exp())
    return values, policy / policy.sum(-1, keepdim=True)


def backward(model: TrajectoryModel, backup: Backup) -> Messages:
    """All backward messages of a finite horizon, O(T S A K) time."""
    values = torch.zeros(model.mdp.num_states, dtype=torch.float64)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for t in reversed(range(model.steps)):
        q_values = backup(model, values, t)
        following, (values, policy) = values, soft_policy(model, q_values)
        rows.append((following, q_values, policy))
    stacked = [torch.stack(part) for part in zip(*reversed(rows), strict=True)]
    start = start_message(model, backup, values)
    return Messages(torch.cat([values[None], stacked[0]]), stacked[1], stacked[2], start)


def start_message(model: TrajectoryModel, backup: Backup, values: Tensor) -> Tensor:
    """The last message, over s_1: the log evidence, or the bound with the dynamics fixed, in nats."""
    if backup is optimistic_backup:
        return safe_logsumexp(safe_log(model.mdp.initial) + values)
    return expectation(model.mdp.initial, values)


class OutcomeDynamics:
    """q(s_{t+1} | s_t, a_t) over the listed outcomes, the rest being the fall into the absorbing state."""

    def __init__(self, model: TrajectoryModel) -> None:
        self.model = model

    def outcomes(self, t: int) -> tuple[Tensor, Tensor]:
        """(alive [S, A, K], fallen [S, A, K]): the chance that an outcome happens and the chain goes on, or falls."""
        raise NotImplementedError

    def divergence(self, t: int) -> Tensor:
        """[S, A], KL of the step's dynamics from the true ones, in nats."""
        raise NotImplementedError


class FixedDynamics(OutcomeDynamics):
    """The true dynamics, discount included."""

    def outcomes(self, t: int) -> tuple[Tensor, Tensor]:
        model = self.model
        stays = model.survival[:, None, None]
        return model.mdp.probabilities * stays, model.mdp.probabilities * (1 - stays)

    def divergence(self, t: int) -> Tensor:
        return torch.zeros(self.model.mdp.num_states, self.model.mdp.num_actions, dtype=torch.float64)


class PosteriorDynamics(OutcomeDynamics):
    """The dynamics given optimality: q_k proportional to p_k e^{rho_k} (gamma e^{v(s'_k)} + 1 - gamma).

    Levine 2018, section 2.4: p(s_{t+1} | s_t, a_t, O_{1:T}). Where optimality is impossible the true ones stand.
    """

    def __init__(self, model: TrajectoryModel, messages: Messages) -> None:
        super().__init__(model)
        self.messages = messages

    def _tilt(self, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """(log ratio alive [S, A, K], log ratio fallen [S, A, K], [S, A] where they apply) of posterior to prior."""
        model = self.model
        q_values = self.messages.q_values[t]
        applies = model.live[:, None] & torch.isfinite(q_values)
        shift = torch.where(applies, q_values, torch.zeros_like(q_values))[..., None]
        fallen = model.reward_table(t) / model.temperature - shift
        alive = fallen + model.mdp.gather(self.messages.values[t + 1])
        shape = model.mdp.probabilities.shape
        return alive.expand(shape), fallen.expand(shape), applies

    def outcomes(self, t: int) -> tuple[Tensor, Tensor]:
        true_alive, true_fallen = FixedDynamics(self.model).outcomes(t)
        alive, fallen, applies = self._tilt(t)
        where = applies[..., None]
        alive = torch.where(where, (safe_log(true_alive) + alive).exp(), true_alive)
        fallen = torch.where(where, (safe_log(true_fallen) + fallen).exp(), true_fallen)
        total = (alive + fallen).sum(-1, keepdim=True)
        return alive / total, fallen / total

    def divergence(self, t: int) -> Tensor:
        return _outcome_divergence(self, t)


class TableDynamics(OutcomeDynamics):
    """Dynamics given as tables for each step.

    Args:
        model: the trajectory model.
        tables: T pairs (alive [S, A, K], fallen [S, A, K]) as `outcomes` returns them.
    """

    def __init__(self, model: TrajectoryModel, tables: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__(model)
        self.tables = tables

    def outcomes(self, t: int) -> tuple[Tensor, Tensor]:
        return self.tables[t]

    def divergence(self, t: int) -> Tensor:
        return _outcome_divergence(self, t)


def _outcome_divergence(dynamics: OutcomeDynamics, t: int) -> Tensor:
    prior = torch.cat(FixedDynamics(dynamics.model).outcomes(t), -1)
    return categorical_divergence(torch.cat(dynamics.outcomes(t), -1), prior)


def policy_backward(model: TrajectoryModel, policy: Tensor, dynamics: OutcomeDynamics) -> tuple[Tensor, Tensor]:
    """What q's own tail is worth in nats, KL terms counted: values [T, S] and q_values [T, S, A]."""
    values = torch.zeros(model.mdp.num_states, dtype=torch.float64)
    rows = []
    for t in reversed(range(model.steps)):
        alive, fallen = dynamics.outcomes(t)
        rewards = expectation(alive + fallen, model.reward_table(t) / model.temperature)
        q_values = rewards + expectation(alive, model.mdp.gather(values)) - dynamics.divergence(t)
        q_values = torch.where(model.live[:, None], q_values, torch.zeros_like(q_values))
        values = expectation(policy[t], q_values) - categorical_divergence(policy[t], model.action_prior)
        values = torch.where(model.live, values, torch.zeros_like(values))
        rows.append((values, q_values))
    stacked = [torch.stack(part) for part in zip(*reversed(rows), strict=True)]
    return stacked[0], stacked[1]


def forward_messages(model: TrajectoryModel) -> Tensor:
    """[T + 1, S], log p(s_t, O_{1:t-1} = 1) in nats, of a finite horizon.

    Times the backward message it is the posterior marginal: p(s_t | O) p(O) (slides "Forward messages", after CS285).
    """
    mdp = model.mdp
    rows = [safe_log(mdp.initial)]
    stays = safe_log(model.survival)[:, None, None]
    log_weights = safe_log(mdp.probabilities) + model.log_action_prior[..., None] + stays
    for t in range(model.steps):
        scores = log_weights + model.reward_table(t) / model.temperature + rows[-1][:, None, None]
        rows.append(_log_scatter(model, scores))
    return torch.stack(rows)


def _log_scatter(model: TrajectoryModel, scores: Tensor) -> Tensor:
    """Log sum exp of scores [S, A, K] at the outcomes' next states: [S], each next state shifted by its own largest."""
    mdp = model.mdp
    if mdp.next_states is None:
        return safe_logsumexp(scores.reshape(-1, mdp.num_states), dim=0)
    index, flat = mdp.next_states.reshape(-1), scores.reshape(-1)
    largest = torch.full((mdp.num_states,), -torch.inf, dtype=torch.float64)
    largest = largest.scatter_reduce(0, index, flat.detach(), "amax")
    shift = torch.where(torch.isfinite(largest), largest, torch.zeros_like(largest))
    return safe_log(mdp.scatter((scores - shift[mdp.next_states]).exp())) + shift


def forward(
    model: TrajectoryModel, initial: Tensor, policy: Tensor, dynamics: OutcomeDynamics
) -> tuple[Tensor, Tensor]:
    """State marginals [T + 1, S] of q, and the probability of having been absorbed [T + 1]."""
    rows = [initial]
    for t in range(model.steps):
        alive, _ = dynamics.outcomes(t)
        rows.append(model.mdp.scatter((rows[-1][:, None] * policy[t])[..., None] * alive))
    marginals = torch.stack(rows)
    absorbed = (1 - marginals.sum(-1)).clamp(min=0) if model.discount < 1 else torch.zeros(len(rows)).double()
    return marginals, absorbed
