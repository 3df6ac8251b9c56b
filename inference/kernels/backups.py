"""Backups and choices: one step of planning backward, for values of every size, recorded by autograd.

Messages are in nats, v = V / alpha and q = Q / alpha, with rho = r / alpha. Over the outcomes k of (s, a):

    optimistic       q = log sum_k p_k e^{rho_k} (gamma e^{v(s'_k)} + 1 - gamma)      Levine 2018, equation (7)
    fixed dynamics   q = sum_k p_k (rho_k + gamma v(s'_k))                            Levine 2018, equation (15)
    tilted by eta    q = (1 / eta) log sum_k p_k e^{eta rho_k} (gamma e^{eta v(s'_k)} + 1 - gamma)
    soft choice      v = log sum_a p(a|s) e^q,   pi(a|s) = p(a|s) e^{q - v}           Levine 2018, equation (16)
    hard choice      v = max_a q over the actions of positive prior

The first two are the third at eta = 1 and in the limit eta -> 0. The discount enters as in section 2.5 there: the chain
falls into an absorbing state of value 0. `SoftPass` computes the first two over whole
horizons, many times as fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from cai.models.common.numerics import (
    NEAR_ZERO,
    by_rows,
    certainty_equivalent,
    expectation,
    rounding,
    safe_log,
    safe_logsumexp,
)
from cai.models.trajectory.model import TrajectoryModel

__all__ = [
    "continuation",
    "fixed_backup",
    "hard_choice",
    "optimistic_backup",
    "sizes_of",
    "soft_log_policy",
    "soft_policy",
    "soft_q_values",
    "tilted_backup",
]

LARGE = 100_000  # entries of a table from which products of matrices are worth it


def continuation(model: TrajectoryModel, values: Tensor, eta: float = 1.0) -> Tensor:
    """(1 / eta) log(gamma e^{eta v} + 1 - gamma) on nonterminal states, v elsewhere: what it is worth to arrive.

    Args:
        model: the trajectory model.
        values: [..., S], nats.
        eta: see `tilted_backup`.
    """
    if model.discount == 1:
        return values
    if eta == 1:  # half the price of the general case
        rises = values > 0
        ends, goes_on = torch.full_like(values, 1 - model.discount), torch.full_like(values, model.discount)
        share = torch.where(rises, ends, goes_on)
        worth = torch.where(rises, values, 0.0) + torch.log1p(share * torch.expm1(torch.where(rises, -values, values)))
    else:
        arrived = torch.stack([values, torch.zeros_like(values)], -1)
        worth = certainty_equivalent(values.new_tensor([model.discount, 1 - model.discount]), arrived, eta)
    return torch.where(model.nonterminal, worth, values)


def soft_q_values(
    model: TrajectoryModel,
    kind: Literal["fixed", "exact"],
    probabilities: Tensor,
    rewards: Tensor,
    values: Tensor,
    part: slice = slice(None),
) -> Tensor:
    """Q [..., s, A] of the two targets from tables; leading axes are problems of one process.

    Args:
        model: the trajectory model, for next states, nonterminal states and discount.
        kind: which backup.
        probabilities: [s, A, K].
        rewards: [..., s, A, 1] or [..., s, A, K], nats.
        values: [..., S], nats.
        part: of which states.
    """
    worth = continuation(model, values) if kind == "exact" else model.discount * values
    leads = model.mdp.next_states
    arrived = worth[..., None, None, :] if leads is None else worth[..., leads[part]]
    if kind == "exact":
        q_values = safe_logsumexp(safe_log(probabilities) + rewards + arrived)
    elif rewards.shape[-1] > 1:
        q_values = expectation(probabilities, rewards + arrived)
    elif leads is None:
        q_values = rewards[..., 0] + _expected_dense(probabilities, worth)
    else:
        q_values = rewards[..., 0] + expectation(probabilities, arrived)
    return torch.where(model.nonterminal[part][:, None], q_values, torch.zeros_like(q_values))


def optimistic_backup(model: TrajectoryModel, values: Tensor, t: int) -> Tensor:
    """Q [S, A] when the dynamics are conditioned on optimality too (Levine 2018, equation 7)."""
    chances, rewards = model.mdp.probabilities, model.log_potential(t)

    def of(part: slice) -> Tensor:
        return soft_q_values(model, "exact", chances[part], rewards[part], values, part)

    return torch.cat(by_rows(chances, of))


def fixed_backup(model: TrajectoryModel, values: Tensor, t: int) -> Tensor:
    """Q [S, A] when the dynamics are those of the world (Levine 2018, equation 15)."""
    rewards = model.log_potential(t)
    return soft_q_values(model, "fixed", model.mdp.probabilities, rewards, values)


def _expected_dense(transitions: Tensor, values: Tensor) -> Tensor:
    """sum_s' p(s'|s,a) v(s') as a product [..., s, A], -inf where a value of -inf can be reached."""
    if transitions.requires_grad:  # what is not possible has no slope, as in lists of outcomes
        transitions = torch.where(transitions > 0, transitions, torch.zeros_like(transitions))
    shape, table = transitions.shape[:2], transitions.flatten(0, 1).t()
    infinite = torch.isinf(values)
    result = (torch.where(infinite, torch.zeros_like(values), values)[..., None, :] @ table)[..., 0, :]
    if infinite.any():
        result = torch.where((infinite.to(table.dtype)[..., None, :] @ table)[..., 0, :] > 0, -torch.inf, result)
    return result.unflatten(-1, shape)


def is_certain(model: TrajectoryModel) -> bool:
    """Whether each action has one outcome, which is certain: then no outcome can be tilted, whatever eta is."""
    chances = model.mdp.probabilities
    return chances.shape[-1] == 1 and model.discount == 1 and not chances.requires_grad and bool((chances == 1).all())


def tilted_backup(model: TrajectoryModel, values: Tensor, t: int, eta: float) -> Tensor:
    """Q [S, A] as the certainty equivalent at eta of reward and value, the fall of a discount included.

    The sup (eta > 0) or inf (eta < 0) over dynamics q of E_q[rho + v] - KL(q || p) / eta is reached by
    `TiltedDynamics`; eta = +-inf takes the best or worst outcome. Exact to rounding for every eta, see
    `certainty_equivalent`.
    """
    if is_certain(model):
        return fixed_backup(model, values, t)
    chances, leads, rewards = model.mdp.probabilities, model.mdp.next_states, model.log_potential(t)
    worth = continuation(model, values, eta)
    if leads is None and rewards.shape[-1] == 1:
        equivalents = _of_table(chances, worth, eta)
        if equivalents is not None:
            q_values = rewards[..., 0] + equivalents
            return torch.where(model.nonterminal[:, None], q_values, torch.zeros_like(q_values))

    def of(part: slice) -> Tensor:
        scores = rewards[part] + (worth[None, None] if leads is None else worth[leads[part]])
        return certainty_equivalent(chances[part], scores, eta)

    q_values = torch.cat(by_rows(chances, of))
    return torch.where(model.nonterminal[:, None], q_values, torch.zeros_like(q_values))


def _of_table(chances: Tensor, worth: Tensor, eta: float) -> Tensor | None:
    """Certainty equivalents [S, A] of numbers of the next state by products of matrices; None where that is not exact.

    It is exact to rounding where numbers are near 0, differ in sign, or are of a size with what comes out.

    Args:
        chances: [S, A, S].
        worth: [S].
        eta: how outcomes are weighed.
    """
    recorded = chances.requires_grad or worth.requires_grad
    if eta == 0 or math.isinf(eta) or recorded or chances.numel() < LARGE or not bool(torch.isfinite(worth).all()):
        return None
    whole, scores = chances.sum(-1), eta * worth
    largest = float(scores.abs().max())
    if largest <= 0.5:
        return torch.log1p(chances @ torch.expm1(scores) / whole) / eta
    top = scores.max()
    weights = (scores - top).exp()
    if float(weights.min()) < torch.finfo(weights.dtype).tiny ** 0.5:
        return None
    found = top + (chances @ weights / whole).log()
    one_sign = float(scores.min()) * float(top) >= 0  # then values are right relative to their own size
    return None if one_sign and float(found.abs().min()) < 0.1 * largest else found / eta


def soft_policy(model: TrajectoryModel, q_values: Tensor, log_prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(v [..., S], pi [..., S, A]) from q; where v = -inf the action prior stays, terminal states have v = 0.

    Args:
        model: the trajectory model.
        q_values: [..., S, A], nats.
        log_prior: [S, A] or [..., S, A], in place of the model's own.
    """
    prior = model.action_prior if log_prior is None else log_prior.exp()
    scores = (model.log_action_prior if log_prior is None else log_prior) + q_values
    terminal = model.mdp.terminal
    if _near_zero(q_values):
        values = certainty_equivalent(prior, q_values, 1.0).masked_fill(terminal, 0.0)
    else:
        values = safe_logsumexp(scores).masked_fill(terminal, 0.0)
    infeasible = torch.isinf(values) | terminal
    shift = values.masked_fill(infeasible, 0.0)
    policy = torch.where(infeasible[..., None], prior, (scores - shift[..., None]).exp())
    return values, policy / policy.sum(-1, keepdim=True)


def _near_zero(q_values: Tensor) -> bool:
    """Whether all q-values that are finite are so near 0 that sums of numbers of size 1 would lose their digits."""
    low, high = (float(bound) for bound in torch.aminmax(q_values.detach()))
    if low == -math.inf and high <= NEAR_ZERO:
        low = float(torch.where(torch.isinf(q_values), torch.zeros_like(q_values), q_values.detach()).amin())
    return low >= -NEAR_ZERO and high <= NEAR_ZERO


def soft_log_policy(model: TrajectoryModel, q_values: Tensor, log_prior: Tensor | None = None) -> Tensor:
    """[..., S, A], log pi(a | s) of `soft_policy` in nats, also where pi(a | s) is too small for a float."""
    values, policy = soft_policy(model, q_values, log_prior)
    scores = (model.log_action_prior if log_prior is None else log_prior) + q_values
    lost = (policy == 0) & torch.isfinite(scores) & (torch.isfinite(values) & model.nonterminal)[..., None]
    return torch.where(lost, scores - torch.where(lost, values[..., None], 0.0), safe_log(policy))


def hard_choice(
    model: TrajectoryModel, q_values: Tensor, log_prior: Tensor | None = None, sizes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(max_a q [..., S], pi [..., S, A]): all on the best action; equals, up to rounding, share by their prior.

    Args:
        model: the trajectory model.
        q_values: [..., S, A], nats.
        log_prior: [..., S, A], in place of the model's action prior.
        sizes: [..., S, A], of the numbers whose rounding is in q, see `sizes_of`; without it |q|.
    """
    prior = model.action_prior if log_prior is None else log_prior.exp()
    offered = torch.where(prior > 0, q_values, torch.full_like(q_values, -torch.inf))
    values = torch.where(model.nonterminal, offered.amax(-1), torch.zeros_like(q_values[..., 0]))
    infeasible = torch.isinf(values) | ~model.nonterminal
    sizes = q_values.detach().abs() if sizes is None else sizes
    sizes = torch.where(torch.isfinite(offered), sizes, torch.zeros_like(sizes))
    slack = rounding(q_values) * torch.maximum(sizes, sizes.gather(-1, offered.argmax(-1, keepdim=True)))
    best = torch.where(offered >= values[..., None] - slack, prior, torch.zeros_like(prior))
    policy = torch.where(infeasible[..., None], prior, best)
    return values, policy / policy.sum(-1, keepdim=True)


@torch.no_grad()
def sizes_of(
    model: TrajectoryModel,
    backup: Callable[[Tensor, int], Tensor] | None,
    values: Tensor,
    sizes: Tensor,
    t: int,
    eta: float,
) -> Tensor:
    """The sizes [S, A] of the rewards that q adds up along what it expects: q is known to a rounding of these.

    They are those of the mean at eta = 0, and those of the best or worst outcome at eta = +-inf.

    Args:
        model: the trajectory model.
        backup: (v_{t+1} [S], t) -> q [S, A], nats; at eta = 0 alone.
        values: [S], v_{t+1}, nats.
        sizes: [S], likewise of v_{t+1}.
        t: the step.
        eta: 0 or +-inf.
    """
    chances, leads, rewards = model.mdp.probabilities, model.mdp.next_states, model.log_potential(t)
    if backup is not None and eta == 0:  # what rewards below 0 are short of their sizes
        costs = torch.where(torch.isfinite(rewards), rewards, torch.zeros_like(rewards)).clamp(max=0)
        costs = costs[..., 0] if costs.shape[-1] == 1 else expectation(chances, costs)
        return (backup(sizes, t) - 2 * costs).clamp(min=0)
    worth, sign = continuation(model, values, eta), math.copysign(1.0, eta)

    def of(part: slice) -> Tensor:
        off = sign * (rewards[part] + (worth[None, None] if leads is None else worth[leads[part]]))
        off = torch.where(chances[part] > 0, off, torch.full_like(off, -torch.inf))
        place = off.argmax(-1, keepdim=True)
        paid = rewards[part] if rewards.shape[-1] == 1 else rewards[part].gather(-1, place)
        there = place if leads is None else leads[part].gather(-1, place)
        return (paid.abs() + sizes[there])[..., 0]

    return torch.cat(by_rows(chances, of))
