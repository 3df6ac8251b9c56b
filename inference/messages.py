"""The message core: backward and forward passes in log space, dense or by successor lists, for every tabular backend.

Messages are in nats, v = V / alpha and q = Q / alpha, with rho = r / alpha. Over the outcomes k of (s, a):

    optimistic       q = log sum_k p_k e^{rho_k} (gamma e^{v(s'_k)} + 1 - gamma)      Levine 2018, equation (7)
    fixed dynamics   q = sum_k p_k (rho_k + gamma v(s'_k))                            Levine 2018, equation (15)
    tilted by eta    q = (1 / eta) log sum_k p_k e^{eta rho_k} (gamma e^{eta v(s'_k)} + 1 - gamma)
    soft choice      v = log sum_a p(a|s) e^q,   pi(a|s) = p(a|s) e^{q - v}           Levine 2018, equation (16)
    hard choice      v = max_a q over the actions of positive prior

The first two are the third at eta = 1 and in the limit eta -> 0. The discount enters as in section 2.5 there: the chain
falls into an absorbing state of value 0. A `Recursion` is one backup with one choice; every tabular backend is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from cai.inference.dynamics import FixedDynamics, OutcomeDynamics, TiltedDynamics, tilted_start
from cai.models.numerics import (
    categorical_divergence,
    certainty_equivalent,
    expectation,
    safe_log,
    safe_logsumexp,
)
from cai.models.trajectory import TrajectoryModel

__all__ = [
    "Backup",
    "Choice",
    "EXACT",
    "FIXED",
    "Messages",
    "Recursion",
    "backward",
    "fixed_backup",
    "forward",
    "forward_messages",
    "hard_choice",
    "optimistic_backup",
    "policy_backward",
    "soft_policy",
    "tilted_backup",
    "tilted_recursion",
]

Backup = Callable[[TrajectoryModel, Tensor, int], Tensor]
Choice = Callable[[TrajectoryModel, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Messages:
    """Backward messages in nats.

    Attributes:
        values: [T + 1, S], log beta_t(s); the last row is 0. (Stationary: [2, S], both rows the same.)
        q_values: [T, S, A], log beta_t(s, a).
        policy: [T, S, A], pi(a | s); the action prior where v = -inf.
        start: the certainty equivalent of v(s_1) at the recursion's eta; 0-dim.
    """

    values: Tensor
    q_values: Tensor
    policy: Tensor
    start: Tensor


def continuation(model: TrajectoryModel, values: Tensor, eta: float = 1.0) -> Tensor:
    """(1 / eta) log(gamma e^{eta v} + 1 - gamma) on live states, v elsewhere: what it is worth to arrive, [S]."""
    if model.discount == 1:
        return values
    arrived = torch.stack([values, torch.zeros_like(values)], -1)
    if eta == 1:  # half the price of the general case
        logs = torch.tensor([math.log(model.discount), math.log1p(-model.discount)], dtype=torch.float64)
        worth = safe_logsumexp(arrived + logs)
    else:
        chances = torch.tensor([model.discount, 1 - model.discount], dtype=torch.float64)
        worth = certainty_equivalent(chances, arrived, eta)
    return torch.where(model.live, worth, values)


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


def tilted_backup(model: TrajectoryModel, values: Tensor, t: int, eta: float) -> Tensor:
    """Q [S, A] as the certainty equivalent at eta of reward and value, the fall of a discount included.

    The sup (eta > 0) or inf (eta < 0) over dynamics q of E_q[rho + v] - KL(q || p) / eta is reached by
    `TiltedDynamics`; eta = +-inf takes the best or worst outcome. Exact to rounding for every eta, see
    `certainty_equivalent`.
    """
    mdp = model.mdp
    scores = model.reward_table(t) / model.temperature + mdp.gather(continuation(model, values, eta))
    q_values = certainty_equivalent(mdp.probabilities, scores, eta)
    return torch.where(model.live[:, None], q_values, torch.zeros_like(q_values))


def soft_policy(model: TrajectoryModel, q_values: Tensor, log_prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(v [S], pi [S, A]) from q [S, A]; rows without hope keep the action prior, terminal ones have v = 0.

    Args:
        model: the trajectory model.
        q_values: [S, A], nats.
        log_prior: [S, A], in place of the model's own.
    """
    prior = model.action_prior if log_prior is None else log_prior.exp()
    scores = (model.log_action_prior if log_prior is None else log_prior) + q_values
    values = safe_logsumexp(scores)
    values = torch.where(model.live, values, torch.zeros_like(values))
    hopeless = torch.isinf(values) | ~model.live
    shift = torch.where(hopeless, torch.zeros_like(values), values)
    policy = torch.where(hopeless[:, None], prior, (scores - shift[:, None]).exp())
    return values, policy / policy.sum(-1, keepdim=True)


def hard_choice(model: TrajectoryModel, q_values: Tensor, log_prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(max_a q [S], pi [S, A]): all on the best action; equals, up to rounding, share by their prior."""
    prior = model.action_prior if log_prior is None else log_prior.exp()
    offered = torch.where(prior > 0, q_values, torch.full_like(q_values, -torch.inf))
    values = torch.where(model.live, offered.amax(-1), torch.zeros_like(q_values[:, 0]))
    hopeless = torch.isinf(values) | ~model.live
    slack = 1e-12 * values.detach().abs().clamp(min=1.0)
    best = torch.where(offered >= (values - slack)[:, None], prior, torch.zeros_like(prior))
    policy = torch.where(hopeless[:, None], prior, best)
    return values, policy / policy.sum(-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class Recursion:
    """One way to plan backward: a backup of values over outcomes, and a choice of actions.

    Attributes:
        backup: (model, v [S], t) -> q [S, A], nats.
        choice: (model, q [S, A], log prior [S, A]) -> (v [S], pi [S, A]).
        eta: how the backup weighs outcomes, and so which dynamics it believes in; see `TiltedDynamics`.
    """

    backup: Backup
    choice: Choice = soft_policy
    eta: float = 1.0

    def start(self, model: TrajectoryModel, values: Tensor) -> Tensor:
        """What the start is worth, nats: the log evidence at eta = 1, the mean of v at eta = 0; 0-dim."""
        if self.eta == 1:
            return safe_logsumexp(safe_log(model.mdp.initial) + values)
        return certainty_equivalent(model.mdp.initial, values, self.eta)

    def beliefs(self, model: TrajectoryModel, values: Tensor, q_values: Tensor) -> tuple[Tensor, OutcomeDynamics]:
        """q(s_1) [S] and the dynamics that the recursion believes in, from v [T + 1, S] and q [T, S, A]."""
        if self.eta == 0:
            return model.mdp.initial, FixedDynamics(model)
        return tilted_start(model, values[0], self.eta), TiltedDynamics(model, values, q_values, self.eta)


EXACT = Recursion(optimistic_backup, eta=1.0)
FIXED = Recursion(fixed_backup, eta=0.0)


def tilted_recursion(eta: float, choice: Choice = soft_policy) -> Recursion:
    """The recursion with outcomes tilted by eta."""
    return Recursion(partial(tilted_backup, eta=eta), choice, eta)


def backward(model: TrajectoryModel, recursion: Recursion, prior: Tensor | None = None) -> Messages:
    """All backward messages of a finite horizon, O(T S A K) time.

    Args:
        model: the trajectory model.
        recursion: how to back up and choose.
        prior: [T, S, A], in place of the model's action prior.
    """
    values = torch.zeros(model.mdp.num_states, dtype=torch.float64)
    log_prior = model.log_action_prior if prior is None else safe_log(prior)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for t in reversed(range(model.steps)):
        q_values = recursion.backup(model, values, t)
        following = values
        values, policy = recursion.choice(model, q_values, log_prior if prior is None else log_prior[t])
        rows.append((following, q_values, policy))
    stacked = [torch.stack(part) for part in zip(*reversed(rows), strict=True)]
    start = recursion.start(model, values)
    return Messages(torch.cat([values[None], stacked[0]]), stacked[1], stacked[2], start)


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
