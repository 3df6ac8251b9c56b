"""Soft Q-functions of networks, averaged: what acts by their mean, and what it says that states are worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.policy import policy_classes
from cai.inference.core.status import Status, Target
from cai.inference.learning.networks.answers.policy import COMPOSED, LearnedPolicy, uniform_actions
from cai.inference.learning.networks.answers.posterior import LearnedPosterior
from cai.inference.learning.networks.updates.brain import Setting, log_allowed

__all__ = ["compose_networks"]


class ComposedNetworks:
    """Q = sum_i w_i Q_i, V = alpha log E_p exp(Q / alpha); in a box of actions over uniform ones.

    Args:
        brains: whose Q-functions they are.
        shares: w_i.
        policy: that acts by them.
    """

    has_density = False

    def __init__(self, brains: Sequence[Any], shares: Sequence[float], policy: LearnedPolicy) -> None:
        self.setting: Setting = brains[0].setting
        self.temperature = brains[0].temperature
        self._brains, self._shares, self._policy = brains, shares, policy

    def q_values(self, observations: Tensor, actions: Tensor) -> Tensor:
        """[N], what actions are worth, reward units."""
        pairs = zip(self._brains, self._shares, strict=True)
        found: Tensor = sum((share * brain.q_values(observations, actions) for brain, share in pairs), torch.zeros(()))
        return found

    def values(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        """[N], V, reward units."""
        alpha, interface = self.temperature.value, self.setting.interface
        with torch.no_grad():
            if interface.num_actions:
                logs = log_allowed(self.setting, observations, allowed)
                return alpha * torch.logsumexp(self._policy.numbered_worth(observations) / alpha + logs, -1)
            seen, actions = uniform_actions(observations, interface.action_size, generator)
            scores = self._policy.scores(seen, actions).reshape(len(observations), -1)
            constant = interface.log_volume if self.setting.entropy_form else 0.0
            return alpha * (torch.logsumexp(scores, 1) - math.log(scores.shape[1]) + constant)


def compose_networks(parts: Sequence[LearnedPosterior], shares: Sequence[float]) -> LearnedPosterior:
    """The answer of `compose` for worlds without tables.

    Args:
        parts: N answers of learners with Q-networks.
        shares: w_i, that sum to 1.

    Raises:
        ValueError: if an answer is not SUCCESS, has no Q-function, or differs from the first in more than its reward.
    """
    for i, part in enumerate(parts):
        _check(part, parts[0], i)
    first: Any = parts[0].brain
    setting: Setting = first.setting
    policy: LearnedPolicy = policy_classes["learned"](
        setting.interface,
        parts[0].learned_policy.sizes,
        {},
        first.temperature.value,
        setting.log_prior,
        "soft-composition",
        COMPOSED,
        parts=tuple(_critic_of(part) for part in parts),
        shares=tuple(shares),
    )
    return LearnedPosterior(
        backend="soft-composition",
        target=Target.OTHER,
        status=Status.SUCCESS,
        horizon=parts[0].horizon,
        model=None,
        learned_policy=policy,
        brain=ComposedNetworks([part.brain for part in parts], shares, policy),
        seed=parts[0].seed,
        entropy_form=parts[0].entropy_form,
        elbo=None,
        believed_return=None,
        policy_divergence=None,
        details={
            "bound": None,
            "weights": torch.tensor(shares, dtype=torch.float64),
            "form": parts[0].details["form"],
            "temperature": first.temperature.value,
        },
    )


def _critic_of(part: LearnedPosterior) -> LearnedPolicy:
    """The critic of an answer, as a policy holds it."""
    held, setting = part.learned_policy, part.brain.setting
    kind = "stein" if held.kind == "stein" else "gaussian"  # by which twin critics are averaged, or the smaller counts
    critic = {"critic": part.brain.tensors()["critic"].detach().clone()}
    made: LearnedPolicy = policy_classes["learned"](
        held.interface, held.sizes, critic, held.temperature, None, held.source, kind, network=setting.network
    )
    return made


def _check(part: LearnedPosterior, first: LearnedPosterior, i: int) -> None:
    """Raises ValueError unless an answer can be averaged with the first."""
    if part.status is not Status.SUCCESS:
        raise ValueError(f"answer {i}, by {part.backend!r}, ended with status {part.status.name}: {part.status}")
    if not hasattr(part.brain, "q_values") or part.backend == "soft-composition":
        raise ValueError(
            f"answer {i}, by {part.backend!r}, has no networks of Q; compose those of 'soft-q-learning', "
            "'soft-actor-critic' or 'stein-soft-q-learning'"
        )
    for what, own, other in zip(_WHAT, _question(part), _question(first), strict=True):
        if own != other:
            raise ValueError(f"answers 0 and {i} differ in {what} ({other} and {own}); only their rewards may differ")
    if part.brain.setting.log_prior is not None and _prior(part) is not _prior(first):
        raise ValueError(f"answers 0 and {i} have action priors of their own; give both worlds the same function")


_WHAT = ("observations", "actions", "discount", "temperature", "form", "whether the action prior is uniform")


def _question(part: LearnedPosterior) -> tuple[Any, ...]:
    """What must be alike."""
    setting: Setting = part.brain.setting
    seen = setting.interface
    return (
        (seen.categories, seen.size, seen.image, seen.horizon),
        (seen.num_actions, seen.low.tolist(), seen.high.tolist()),
        setting.discount,
        part.brain.temperature.value,
        part.details["form"],
        setting.log_prior is None,
    )


def _prior(part: LearnedPosterior) -> Any:
    return getattr(part.model, "action_prior", None)
