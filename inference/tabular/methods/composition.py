"""Composition: answers to problems that differ only in what it is worth to end somewhere add up (Todorov 2009).

In a deterministic world without discount, z = G z + b is linear: G holds the steps that go on, and b those that end.
Components that share G and have endings b_i have desirabilities z_i; so the problem with b = sum_i w_i b_i has

    z(s) = sum_i w_i z_i(s),   pi(a | s) = sum_i m_i(s) pi_i(a | s),   m_i(s) = w_i z_i(s) / sum_j w_j z_j(s)

and nothing is left to be solved. For final costs f that is e^{-f / alpha} = sum_i w_i e^{-f_i / alpha}, the composition
of LMDPs. A discount breaks it, z = e^{-q} P z^gamma being nonlinear, and so do random dynamics that are held fixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.kernels.backups import soft_policy
from cai.inference.tabular.backward import Messages
from cai.inference.tabular.dynamic_programming import messages_posterior
from cai.inference.tabular.markov.chains import has_trap
from cai.inference.tabular.methods.z_iteration import SureSuccessors, check_sure
from cai.inference.tabular.recursion import FIXED
from cai.models.common.numerics import expectation, safe_log, safe_logsumexp
from cai.models.processes.mdp import MDP
from cai.models.rewards.tables import RewardFactor, Step
from cai.models.trajectory.lmdp import composition_weights, process_difference
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["compose_models", "compose_posteriors", "model_difference"]

SOLVED = (
    1e-6  # nats, relative beyond 1, by which values may miss the soft maximum of their q-values and count as solved
)


@dataclass(frozen=True, eq=False)
class _TimedTables(RewardFactor):
    """Rewards [S, A] of each step; one table stands for all steps."""

    tables: tuple[Tensor, ...]
    reads_outcome = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads_time", len(self.tables) > 1)

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        return self.tables[step.t if self.reads_time else 0][step.state, step.action]


def compose_models(models: Sequence[TrajectoryModel], weights: Any) -> TrajectoryModel:
    """The model whose endings are worth e^{r / alpha} = sum_i w_i e^{r_i / alpha}.

    A step ends the trajectory if it enters a terminal state, or is the last of a finite horizon; the rewards of all
    other steps are shared. For LMDPs, `cai.models.compose_lmdps` does the same before they become models.

    Args:
        models: N models with deterministic dynamics and discount 1 that differ in nothing but the rewards of endings.
        weights: [N], w_i >= 0, not all 0. They need not sum to 1: a common factor moves every value alike.

    Returns:
        The composed model, "composition" by name; its reward is a table of the expected rewards [S, A] of each step.

    Raises:
        ValueError, TypeError: naming what is no model, what differs, what is random, the discount or the criterion.
    """
    models = list(models)
    log_weights = safe_log(composition_weights(weights, len(models)))
    first = models[0]
    for i, model in enumerate(models):
        if not isinstance(model, TrajectoryModel):
            raise TypeError(f"component {i} is a {type(model).__name__}; expected a TrajectoryModel")
        if model.is_average:
            raise ValueError(
                f"component {i} has criterion='average', so it never ends, and only the rewards of endings compose; "
                "leave the criterion out, or ask about each by itself"
            )
        if model.discount < 1:
            raise ValueError(
                f"component {i} has discount {model.discount:g}, under which z = e^-q P z^gamma is not linear and "
                "nothing adds up; give discount 1, or solve the composed problem (compose_lmdps) by itself"
            )
        different = model_difference(first, model)
        if different:
            raise ValueError(
                f"components 0 and {i} differ in {different}; only problems that share all but the rewards of endings "
                "(the final costs of LMDPs) compose"
            )
    check_sure(first, "a composition", "'exact' or 'variational' on the composed problem itself")
    worlds = SureSuccessors(first)
    last = first.steps - 1 if first.is_finite else None
    timed = any(model.reward.reads_time for model in models)
    tables: dict[tuple[int, bool], Tensor] = {}
    for t in range(first.steps):
        key = (t if timed else 0, t == last)
        if key not in tables:
            tables[key] = _composed_rewards(models, worlds, log_weights, t, stops=t == last)
    steps = tuple(tables[t if timed else 0, t == last] for t in range(first.steps))
    constant = all(torch.equal(table, steps[0]) for table in tables.values())
    return first.replace(reward=_TimedTables(steps[:1] if constant else steps), name="composition")


def compose_posteriors(posteriors: Sequence[Posterior], weights: Any) -> Posterior:
    """The answer to the composed problem, from the answers to its components and without solving anything.

    Args:
        posteriors: N answers with the dynamics fixed, by "z-iteration" or the closed form of "variational", to models
            as `compose_models` takes them. A component for which optimality is impossible from the start takes part:
            its values are known.
        weights: [N], as in `compose_models`.

    Returns:
        The posterior of the composed model, its backend "composition"; details: "mixture" [N, T, S], m_i(s) at each
        step (0 where nothing can be hoped for), and "log_desirability" [S], log z at the first step, nats.

    Raises:
        ValueError, TypeError: as `compose_models`, and naming the answer that holds no solved values.
    """
    posteriors = list(posteriors)
    log_weights = safe_log(composition_weights(weights, len(posteriors)))[:, None, None]
    found = [_solved_values(part, i) for i, part in enumerate(posteriors)]
    model = compose_models([part.model for part in posteriors], weights)
    nonterminal = model.nonterminal
    scores = torch.stack([part[0] for part in found]) + log_weights
    values = safe_logsumexp(scores, 0)
    values = torch.where(nonterminal, values, torch.zeros_like(values))
    q_values = torch.stack([part[1] for part in found]) + log_weights[..., None]
    q_values = safe_logsumexp(q_values, 0)
    q_values = torch.where(nonterminal[:, None], q_values, torch.zeros_like(q_values))
    hopeful = torch.isfinite(values) & nonterminal
    shift = torch.where(hopeful, values, torch.zeros_like(values))
    mixture = torch.where(hopeful, (scores - shift).exp(), torch.zeros_like(scores))
    policy = (mixture[..., None] * torch.stack([part.action_probs for part in posteriors])).sum(0)
    policy = torch.where(hopeful[..., None], policy, model.action_prior)
    policy = policy / policy.sum(-1, keepdim=True)
    start = expectation(model.mdp.initial, values[0])
    status = Status.SUCCESS
    if not math.isfinite(float(start.detach())):
        some = bool((torch.isfinite(values[0]) & (model.mdp.initial > 0)).any())
        status = Status.UNAVOIDABLE if some else Status.IMPOSSIBLE
        status = Status.DIVERGED if not model.is_finite and has_trap(model) else status
    after = torch.zeros_like(values[:1]) if model.is_finite else values
    details = {"mixture": mixture.detach(), "log_desirability": values[0].detach()}
    messages = Messages(values=torch.cat([values, after]), q_values=q_values, policy=policy, start=start)
    return messages_posterior(
        model, FIXED, messages, status, backend="composition", target=Target.FIXED_DYNAMICS, details=details
    )


def _composed_rewards(
    models: Sequence[TrajectoryModel], worlds: SureSuccessors, log_weights: Tensor, t: int, *, stops: bool
) -> Tensor:
    """[S, A], reward units: those of the first model where the trajectory goes on, composed where it ends."""
    first = models[0]
    rewards = torch.stack([worlds.rewards(model, t) for model in models])
    ends = torch.ones_like(worlds.sure) if stops else ~first.nonterminal[worlds.next_states]
    differs = (rewards != rewards[:1]) & ~ends & first.nonterminal[:, None]
    if differs.any():
        i, state, action = torch.nonzero(differs)[0].tolist()
        pays = first.temperature * rewards.detach()[:, state, action]
        raise ValueError(
            f"components 0 and {i} pay {float(pays[0]):g} and {float(pays[i]):g} for action "
            f"{first.mdp.action_name(action)} of state {first.mdp.state_name(state)}, which does not end the "
            f"trajectory at time index {t}; only the rewards of endings (the final costs of LMDPs) may differ"
        )
    composed = torch.where(ends, safe_logsumexp(rewards + log_weights[:, None, None], 0), rewards[0])
    return first.temperature * torch.where(first.nonterminal[:, None], composed, torch.zeros_like(composed))


def model_difference(left: TrajectoryModel, right: TrajectoryModel) -> str | None:
    """In what two models differ, but for their rewards and names; None if in nothing."""
    process = process_difference(left.mdp, right.mdp)
    if process:
        return process
    for name in ("horizon", "temperature", "discount", "criterion", "optimality"):
        one, other = getattr(left, name), getattr(right, name)
        if one != other:
            return f"{name} ({one} and {other})"
    alike = torch.allclose(left.action_prior, right.action_prior, rtol=1e-12, atol=0.0)  # a copy's is normalised again
    return None if alike else "the action prior"


def _solved_values(part: Any, i: int) -> tuple[Tensor, Tensor]:
    """(values [T, S], q-values [T, S, A]) in nats; refuses those that are not of the best policy, dynamics fixed."""
    advice = "answer each component with 'z-iteration'"
    if not isinstance(part, Posterior):
        raise TypeError(f"component {i} is a {type(part).__name__}; expected a Posterior: {advice}")
    if part.target is not Target.FIXED_DYNAMICS:
        raise ValueError(f"component {i}, by {part.backend!r}, is of target '{part.target}'; {advice}")
    if part.status not in (Status.SUCCESS, Status.IMPOSSIBLE, Status.UNAVOIDABLE):
        raise ValueError(f"component {i}, by {part.backend!r}, holds no answer ({part.status}); {advice}")
    if not isinstance(part.model, TrajectoryModel) or part.values is None or part.q_values is None:
        raise ValueError(f"component {i}, by {part.backend!r}, holds no values of a TrajectoryModel; {advice}")
    values, q_values = part.values / part.temperature, part.q_values / part.temperature
    for t, (known, scores) in enumerate(zip(values.detach(), q_values.detach(), strict=True)):
        best = soft_policy(part.model, scores)[0]
        missed = torch.where(best == known, torch.zeros_like(best), (best - known).abs())
        if bool((missed > SOLVED * known.abs().nan_to_num(posinf=0.0).clamp(min=1.0)).any()):
            raise ValueError(
                f"component {i}, by {part.backend!r}, is not solved everywhere: at time index {t} a value is not the "
                f"soft maximum of its q-values; {advice}"
            )
    return values, q_values
