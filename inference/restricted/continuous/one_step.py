"""Fits to soft values that are known: one step from states everywhere, in place of whole trajectories.

Where V(., t + 1) is the soft value of what follows, the best policy of a class at (s, t) is that with the largest

    E_q[r(s, a) / alpha + gamma V(s', t + 1) / alpha - log q(a|s) / p(a|s)] = V(s, t) / alpha - KL(q(.|s) || q*(.|s)),

Levine 2018, equations (12) to (14). A step at a time no trajectory has to find what is far away, and each state counts
as much as any other: a policy that was fitted to trajectories from one place may commit to one way to the reward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.inference.restricted.continuous.box import score_of_prior
from cai.inference.restricted.continuous.rollouts import WorldProblem, draw_starts
from cai.inference.restricted.parameters import flat
from cai.models.common.random_draws import OwnDraws
from cai.models.continuous.simulate import draw_step

__all__ = ["ACTIONS", "known_values", "one_step_gradient"]

ACTIONS = 16  # drawn in each state; each is held against the mean of the others
TIMES = 6  # of which states are drawn in a step of the fit


def one_step_gradient(problem: WorldProblem, options: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """An unbiased estimate of the gradient of -E KL(q || q*) over states and times, and that number in [N] states.

    The expectation is over where the fit starts and over times 0 .. T - 1 in equal shares. The gradient is by the score
    function; the baseline of an action is the mean over the other actions in its state.
    """
    model, policy = problem.model, problem.policy
    states = draw_starts(problem.starts, model, options.num_samples, generator)
    ended = model.has_ended(states)
    states = states if ended is None else states[~ended]
    times = torch.randperm(model.steps, generator=generator)[:TIMES].tolist()
    kept, lost = [], []
    with torch.enable_grad():
        for part, t in zip(states.tensor_split(len(times)), times, strict=True):
            if len(part):
                scores, worth = _worth(problem, part, t, generator)
                others = (worth.sum(-1, keepdim=True) - worth) / (ACTIONS - 1)
                baseline = torch.zeros_like(worth) if options.baseline == "none" else others
                kept.append((scores * (worth - baseline)).mean(-1))
                known, mean = known_values(problem.values, part, t) / model.temperature, worth.mean(-1)
                infeasible = torch.isneginf(known) | torch.isneginf(mean)
                lost.append(torch.where(infeasible, -torch.inf, mean - known))
        if not kept:
            raise ValueError("every state that start gave is terminal; give states in which something is to be decided")
        parts = torch.autograd.grad(
            torch.cat(kept).mean(), policy.parameters(), allow_unused=True, materialize_grads=True
        )
    gradient, totals = flat(parts), torch.cat(lost)
    if not bool(totals.isfinite().all()):
        return torch.zeros_like(gradient), totals
    if not bool(gradient.isfinite().all()):
        return torch.zeros_like(gradient), torch.full_like(totals, torch.nan)
    return gradient, totals


def _worth(problem: WorldProblem, states: Tensor, t: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """([K, ACTIONS], log q with gradients; [K, ACTIONS], what each action says of the bound from its state, nats)."""
    model = problem.model
    rows = states.repeat_interleave(ACTIONS, 0)
    with torch.no_grad(), OwnDraws(generator):
        law = problem.policy.guide.law(rows, t)
        u = law.sample_u()
    log_q = problem.policy.guide.law(rows, t).log_prob_u(u)  # a law remembers its draws, and these without gradients
    with torch.no_grad():
        action = law.to_action(u)
        log_p = torch.zeros_like(log_q) if model.is_flat else score_of_prior(model, rows, action, t)
        moved = draw_step(model, rows, action, t, generator, falls=False)
        total = moved.rewards
        if t + 1 < model.steps:
            following = known_values(problem.values, moved.next_states, t + 1)
            total = total + model.discount * torch.where(moved.alive, following, torch.zeros_like(following))
        worth = total / model.temperature - log_q + log_p
    return log_q.reshape(-1, ACTIONS), worth.reshape(-1, ACTIONS)


def known_values(values: Any, states: Tensor, t: int) -> Tensor:
    """[N], the soft values of states [N, n] at time index t, reward units, as the user's function says, checked."""
    with torch.no_grad():
        found = torch.as_tensor(values(states, t), dtype=torch.float64)
    if tuple(found.shape) != (len(states),):
        raise ValueError(
            f"values returned shape {list(found.shape)} for states {list(states.shape)} at time index {t}; expected "
            f"[{len(states)}], a soft value for each"
        )
    if bool(torch.isnan(found).any()):
        raise ValueError(f"values returned NaN at time index {t}; expected soft values in reward units")
    return found.detach()
