"""What AIRL and GAIL return: a policy, the reward behind it, and how far it is from the demonstrations."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.inference.core.datasets import packed, unpacked
from cai.inference.core.status import NotKnown
from cai.inverse.adversarial.discriminator import Discriminator, Steps
from cai.inverse.estimation.status import FitError, FitStatus
from cai.models.common.storage import Saved, storable

__all__ = ["AdversarialEstimate", "NetworkReward", "TabulatedReward", "judged"]


@storable("adversarial-network-reward")
@dataclass(frozen=True, eq=False)
class NetworkReward:
    """A learned reward in a world without tables.

    Args:
        discriminator: its networks.
        flat: [P], their parameters.
    """

    discriminator: Discriminator
    flat: Tensor

    def reward(self, observations: Any, actions: Any) -> Tensor:
        """[N] nats, g(s, a) of observations [N, ...] and actions [N, ...] in the world's units."""
        steps = self._steps(observations, actions, observations, None)
        with torch.no_grad():
            return self.discriminator.reward(self.flat, steps.observations, steps.actions)

    def potential(self, observations: Any, t: int = 0) -> Tensor:
        """[N] nats, h(s); over a finite horizon observations end with t / T."""
        with torch.no_grad():
            return self.discriminator.potential(self.flat, self.discriminator.interface.rows(observations))

    def advantage(self, observations: Any, actions: Any, following: Any, ended: Any = None, t: int = 0) -> Tensor:
        """[N] nats, f(s, a, s'); `ended` bool [N] where the episode ended with the step."""
        with torch.no_grad():
            return self.discriminator.score(self.flat, self._steps(observations, actions, following, ended))

    @property
    def end_reward(self) -> float:
        """c, what each step after the end of an episode is paid, nats."""
        return float(self.discriminator.end_reward(self.flat))

    def _steps(self, observations: Any, actions: Any, following: Any, ended: Any) -> Steps:
        interface = self.discriminator.interface
        rows = interface.rows(observations)
        marks = torch.zeros(len(rows)) if ended is None else torch.as_tensor(np.asarray(ended)).float()
        ones = torch.ones(len(rows))
        return Steps(rows, interface.from_world(actions), interface.rows(following), marks, ones)


@storable("adversarial-table-reward")
@dataclass(frozen=True, eq=False)
class TabulatedReward:
    """A learned reward on tables.

    Args:
        g: [S, A], or [S] of a reward of states alone; of GAIL over a horizon [T, S, A].
        h: [T + 1, S], over an infinite horizon [1, S]; 0 for GAIL.
        f: [T, S, A], g + gamma h' - h; g for GAIL.
    """

    g: Tensor
    h: Tensor
    f: Tensor

    def reward(self, observations: Any, actions: Any) -> Tensor:
        """[N] nats, g of states [N] and actions [N]."""
        if self.g.dim() == 3:
            raise NotKnown("a reward that is the same at all times", "GAIL over a horizon", "ask advantage(..., t=t)")
        states = torch.as_tensor(observations)
        return (
            self.g[states]
            if self.g.dim() == 1
            else self.g.view(-1, *self.g.shape[-2:])[0, states, torch.as_tensor(actions)]
        )

    def potential(self, observations: Any, t: int = 0) -> Tensor:
        """[N] nats, h of states [N] at time index t."""
        return self.h[min(t, len(self.h) - 1), torch.as_tensor(observations)]

    def advantage(
        self, observations: Any, actions: Any, following: Any = None, ended: Any = None, t: int = 0
    ) -> Tensor:
        """[N] nats, f of states [N] and actions [N] at time index t; where they lead is known."""
        return self.f[min(t, len(self.f) - 1), torch.as_tensor(observations), torch.as_tensor(actions)]


def _parts(estimate: AdversarialEstimate) -> dict[str, Any]:
    parts = {entry.name: getattr(estimate, entry.name) for entry in fields(estimate)}
    return parts | {"history": packed(estimate.history)}


def _of_parts(parts: dict[str, Any]) -> AdversarialEstimate:
    return AdversarialEstimate(**parts | {"history": unpacked(parts["history"])})


@storable("adversarial-estimate", pack=_parts, unpack=_of_parts)
@dataclass(frozen=True, eq=False)
class AdversarialEstimate(Saved):
    """A policy that a discriminator does not tell from demonstrations, and the reward in it.

    Attributes:
        method: "airl" or "gail".
        policy: a `Policy` of tables, or the `LearnedPolicy` of networks, which a Gymnasium environment can run.
        reward: g, h and f, in nats at temperature 1 in the entropy form. Of AIRL f tends to log pi of the demonstrator
            where dynamics are certain, and g to its reward over its temperature, up to shaping.
        discriminator_loss: -E_E[log D] - E_pi[log(1 - D)], nats; log 4 where D = 1/2 everywhere.
        divergence: Jensen-Shannon, of the steps of the policy and of the demonstrations, nats, from 0 to log 2; exact
            on tables, elsewhere what a classifier finds that had no part in the learning, and so a lower bound.
        status: `success` where the divergence is at most 0.02 nats.
        warnings: sentences.
        steps: rounds on tables, else transitions.
        history: what the learner recorded, an `xarray.Dataset`; None on tables.
    """

    method: str
    policy: Any
    reward: Any
    discriminator_loss: float
    divergence: float
    status: FitStatus
    warnings: tuple[str, ...]
    steps: int
    history: Any = field(default=None, repr=False)

    def probability(
        self, observations: Any, actions: Any, following: Any = None, ended: Any = None, t: int = 0
    ) -> Tensor:
        """[N], D: how likely the discriminator thinks that demonstrations, not the policy, did this.

        Args:
            observations: [N, ...]; on tables states [N].
            actions: [N, ...], in the world's units.
            following: [N, ...], what was seen next; tables know it.
            ended: bool [N], whether the episode ended with the step; never, unless given.
            t: the time index.
        """
        score = self.reward.advantage(observations, actions, observations if following is None else following, ended, t)
        return torch.sigmoid(score - self._log_policy(observations, actions, t))

    def _log_policy(self, observations: Any, actions: Any, t: int) -> Tensor:
        if isinstance(self.reward, NetworkReward):
            found: Tensor = self.policy.log_prob(actions, observations, t)
            return found
        probs = self.policy.action_probs
        return probs[min(t, len(probs) - 1), torch.as_tensor(observations), torch.as_tensor(actions)].log()

    def summary(self) -> str:
        """What was found, as text."""
        facts = {
            "method": self.method.upper(),
            "status": self.status.label,
            "steps": f"{self.steps:,}",
            "divergence from the demonstrations": f"{self.divergence:.4f} nats (Jensen-Shannon, at most 0.6931)",
            "loss of the discriminator": f"{self.discriminator_loss:.4f} nats (1.3863 where it cannot tell)",
        }
        width = max(map(len, facts))
        lines = [f"{name:<{width}}  {value}" for name, value in facts.items()]
        return "\n".join([*lines, *(f"warning: {sentence}" for sentence in self.warnings)])


def judged(estimate: AdversarialEstimate, throw: bool) -> AdversarialEstimate:
    """The estimate; raises FitError if it failed and `throw` is True."""
    if throw and not estimate.status.ok:
        raise FitError(estimate.status, estimate, "; ".join(estimate.warnings))
    return estimate
