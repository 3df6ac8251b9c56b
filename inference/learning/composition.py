"""Answers to several rewards in one world, averaged into one to their average reward, and by how much that can miss.

Haarnoja et al. 2018 ("Composable deep reinforcement learning for robotic manipulation", lemma 1 and theorem 1), here
with any action prior and any weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.learning.exact.tables import ExactTables, boltzmann, exact_tables
from cai.inference.learning.networks.answers.composed import compose_networks
from cai.inference.learning.networks.answers.posterior import LearnedPosterior
from cai.inference.tabular.methods.composition import model_difference
from cai.inference.tabular.policy_posterior import policy_posterior
from cai.inference.tabular.posterior import ModelPosterior, tabular_posterior
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["compose"]

ROUNDING = 1e-12  # relative beyond 1, to which the bound's fixed point is found
SWEEPS = 100_000  # after which the bound holds by what is left, or is not known
NEAR = 1e-6  # by how much weights may miss a sum of 1


@dataclass(frozen=True)
class _Composition:
    """Whose answer it is."""

    name: ClassVar[str] = "soft-composition"
    target: ClassVar[Target] = Target.OTHER


def compose(answers: Sequence[Any], weights: Any) -> Posterior:
    """Averages the soft Q-functions of answers in one world: Q = sum_i w_i Q_i, pi = p exp((Q - V) / alpha).

    It answers the model whose reward is sum_i w_i r_i, and is no optimum of it: 0 <= Q - Q* <= C* wherever the
    components are optima, C* the fixed point of

        C(s, a) = gamma E[-alpha log sum_a' prod_i pi_i(a' | s')^w_i + max_a' C(s', a')],

    0 in terminal states. The policy may be worth less than the optimum; its `elbo` and `believed_return` are its own.

    Answers that networks learned are averaged, too: their Q-networks, of whatever sizes. Whether their worlds share
    dynamics nobody can see; what is compared are observations, actions, discount, temperature and prior. Among
    numbered actions the policy is p exp((Q - V) / alpha); in a box it draws by that from 256 uniform actions.

    Args:
        answers: N answers with tables (of "variational", or of learners), to models that differ in their rewards alone;
            or N of 'soft-q-learning', 'soft-actor-critic' or 'stein-soft-q-learning' in worlds without tables.
        weights: [N], w_i >= 0 that sum to 1.

    Returns:
        The composed answer, backend "soft-composition" and target "other": `q_values` are Q, `values` their soft
        maxima; `details["bound"]` is C*, [T, S, A] or [1, S, A] in reward units, inf where it is not finite (policies
        that share no action; sums over steps that do not end), and `details["weights"]` are the weights. Without tables
        it is a `LearnedPosterior` that knows no bound (None) and no `elbo` (None): `q_value`, `value` and `policy()`.

    Raises:
        TypeError, ValueError: if an answer holds no tables or is not SUCCESS, the models differ in dynamics, prior,
            temperature, discount or horizon, or the weights are not such.
    """
    if not isinstance(answers, Sequence):
        raise TypeError(f"answers are a {type(answers).__name__}; expected a list of answers")
    parts = list(answers)
    shares = _weights(weights, len(parts))
    if parts and all(isinstance(part, LearnedPosterior) for part in parts):
        return compose_networks(parts, shares.tolist())
    for i, part in enumerate(parts):
        _check(part, parts[0], i)
    used = [(float(share), part) for share, part in zip(shares, parts, strict=True) if share > 0]
    reward = used[0][1].model.reward * used[0][0]
    for share, part in used[1:]:
        reward = reward + part.model.reward * share
    model = used[0][1].model.host.replace(reward=reward, name="composition")
    tables = exact_tables(model, "a composition")
    with torch.no_grad():
        q_values = sum((share * part.q_values.double().cpu() for share, part in used), torch.zeros(()))
        found = [boltzmann(tables, row) for row in q_values]
        policy = torch.stack([row[0] for row in found])
        values = torch.stack([row[2] for row in found])
        bound = _bound(tables, used)
        own = policy_posterior(_Composition(), model, policy)
    if own.status is not Status.SUCCESS:
        return own
    return tabular_posterior(
        model,
        backend=_Composition.name,
        target=_Composition.target,
        status=Status.SUCCESS,
        log_evidence=None,
        elbo=own.elbo,
        values=values / tables.temperature,
        q_values=q_values / tables.temperature,
        policy=policy,
        initial=model.mdp.initial,
        visits=own.visits,
        details={"bound": bound, "weights": shares},
    )


def _weights(weights: Any, number: int) -> Tensor:
    if not number:
        raise ValueError("there is nothing to compose; give at least one answer")
    try:
        given = torch.as_tensor(weights, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"weights are {weights!r}; expected {number} numbers, one for each answer") from error
    if tuple(given.shape) != (number,):
        raise ValueError(f"weights have shape {list(given.shape)}; expected [{number}], one for each answer")
    if not bool(torch.isfinite(given).all() & (given >= 0).all()) or abs(float(given.sum()) - 1) > NEAR:
        raise ValueError(f"weights are {given.tolist()}; give numbers >= 0 that sum to 1: the rewards are averaged")
    return given / given.sum()


def _check(part: Any, first: Any, i: int) -> None:
    """Raises TypeError or ValueError unless an answer can be averaged with the first."""
    if not isinstance(part, ModelPosterior):
        raise TypeError(
            f"answer {i} is a {type(part).__name__}; expected one with tables, of 'variational' or of a learner on a "
            "TrajectoryModel; or all of learners with networks"
        )
    if part.status is not Status.SUCCESS:
        raise ValueError(f"answer {i}, by {part.backend!r}, ended with status {part.status.name}: {part.status}")
    if part.target is not Target.FIXED_DYNAMICS:
        raise ValueError(
            f"answer {i}, by {part.backend!r}, is of target '{part.target.value}'; soft Q-functions are those of fixed "
            "dynamics: use 'variational' or a learner"
        )
    model: TrajectoryModel = part.model
    if model.is_average:
        raise ValueError(f"answer {i} is of criterion 'average', whose q-values are relative; compose sums of rewards")
    different = model_difference(first.model.host, model.host)
    if different:
        raise ValueError(f"answers 0 and {i} differ in {different}; only their rewards may differ")


def _bound(tables: ExactTables, used: list[tuple[float, Any]]) -> Tensor:
    """C*, [T, S, A], reward units."""
    logs = sum((share * part.action_probs.double().cpu().log() for share, part in used), torch.zeros(()))
    apart = -tables.temperature * torch.logsumexp(torch.where(tables.allowed, logs, -torch.inf), -1)  # [T, S]
    apart = apart.clamp(min=0.0)  # by Hoelder's inequality; what is below is rounding
    zero = torch.zeros_like(tables.prior)

    def before(cost: Tensor, after: Tensor) -> Tensor:
        best = torch.where(tables.allowed, after, -torch.inf).amax(-1)
        return tables.discount * tables.ahead(cost + best)

    if tables.model.is_finite:
        found = [zero]
        for t in reversed(range(1, tables.model.steps)):
            found.append(before(apart[t], found[-1]))
        return torch.stack(found[::-1])
    bound = zero
    for _ in range(SWEEPS):
        last, bound = bound, before(apart[0], bound)
        still = torch.where(bound == last, zero, (bound - last).abs())
        size = 1 + bound[torch.isfinite(bound)].max() if bool(torch.isfinite(bound).any()) else 1.0
        rest = float(still.max()) * (tables.discount / (1 - tables.discount) if tables.discount < 1 else 1.0)
        if rest <= ROUNDING * float(size):
            return (bound + rest)[None] if tables.discount < 1 else bound[None]
    return torch.full_like(bound, math.inf)[None]
