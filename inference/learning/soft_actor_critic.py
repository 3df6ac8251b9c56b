"""Backend "soft-actor-critic": a policy that follows the soft Q-function of itself."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from cai.inference.learning.network_backend import NetworkBackend
from cai.inference.learning.networks.experience.interface import Interface, log_prior_of
from cai.inference.learning.networks.updates.box_actor_critic import BoxActorCritic
from cai.inference.learning.networks.updates.brain import Brain, Setting
from cai.inference.learning.networks.updates.discrete_actor_critic import DiscreteActorCritic
from cai.inference.learning.networks.updates.temperature import Target
from cai.inference.learning.options import check_share
from cai.inference.learning.tables.actor_critic import ActorCriticRule
from cai.inference.learning.tables.world import TableWorld
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["SoftActorCritic"]

UNIFORM_ALONE = (
    "target_entropy needs a uniform action prior: with another one the entropy does not fall as the temperature does, "
    "and the temperature that has it is not unique; give target_kl"
)
AUTO_SHARE = 0.7  # of the prior's mean entropy: the target of target_entropy="auto" on discrete actions


@dataclass(frozen=True, kw_only=True)
class SoftActorCritic(NetworkBackend):
    """Learns the soft Q-function of its own policy, and moves the policy to p exp(Q / alpha).

    Q(s, a) = E[r + gamma E_pi[Q(s', .) - alpha log pi/p]].

    Levine 2018, section 5.2; Haarnoja 2018, "Soft actor-critic", and Christodoulou 2019 for discrete actions, where
    expectations over actions are exact. Its fixed point is the answer of backend "variational". (Levine's section 4.1
    prints the objective with minus the entropy, which should be plus; his objective of V writes V(s, a) for V(s).)

    On a `TrajectoryModel` Q and pi are tables [T, S, A]. There is no minimum of twin critics, which would lower the
    bound. Over a finite horizon, where no reward depends on time, a step is looked at as if it had been met at the
    other times, too; over an infinite one what has led to one state with one reward alone is backed up again whenever
    steps are learned from.

    Elsewhere they are networks: in a box of actions a normal distribution under tanh and twin critics, of which the
    smaller counts (Haarnoja 2018b); with numbered actions expectations over them are exact here, too. With
    `policy="flow"` it is latent normal numbers through a flow, which has several modes where Q does: on one step with
    four places that pay alike its bound was .08 nats below the best, that of the normal distribution .52.

    Args:
        explore: the share of copies of the world that take all actions evenly; on tables.
        search: the share of the other copies that go to what was tried least, by a count of tries that is carried back
            along what was met; on tables. The rest act by the policy.
        target_entropy: learn the temperature, so that the policy's entropy, averaged over the states met, is this many
            nats (of actions scaled to [-1, 1], where they lie in a box); "auto" for minus the number of coordinates in
            a box, and 0.7 of the prior's mean entropy else. It needs a uniform prior.
        target_kl: learn it so that the mean KL(pi || p) is this many nats; serves any prior.

    A learned temperature begins at the model's and stays in [1e-4, 1e4]; the answer is about the model at the last one,
    which stands in `details["temperature"]`. Of the further `details`, "critic" holds "q_values" [T, S, A], "history"
    an `xarray.Dataset` along `step`, "steps" the transitions used and "form" "KL" or "entropy".
    """

    explore: float = 0.5
    search: float = 0.5
    target_entropy: float | str | None = None
    target_kl: float | None = None

    name: ClassVar[str] = "soft-actor-critic"
    accepts: ClassVar[str] = "a TrajectoryModel, a Gymnasium environment, or a continuous model with a box of actions"
    cost: ClassVar[str] = "N (A + K) time a step of N copies; T S A memory"
    for_tables: ClassVar[tuple[str, ...]] = ("explore", "search")
    stationary: ClassVar[bool] = True
    acts_in_boxes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.explore, "explore")
        check_share(self.search, "search")
        if self.target_entropy is not None and self.target_kl is not None:
            raise ValueError("target_entropy and target_kl are both given, and there is one temperature; give one")
        if isinstance(self.target_entropy, str) and self.target_entropy != "auto":
            raise ValueError(f"target_entropy is {self.target_entropy!r}; expected a number of nats, 'auto' or None")
        for name in ("target_entropy", "target_kl"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str) and not math.isfinite(value):
                raise ValueError(f"{name} is {value!r}; expected a finite number of nats")
        if self.target_kl is not None and self.target_kl <= 0:
            raise ValueError(f"target_kl is {self.target_kl!r}; a KL is > 0 wherever the policy departs from the prior")

    def supports(self, model: Any) -> None:
        """Raises ValueError if the model cannot be learned, and says what can."""
        super().supports(model)
        if isinstance(model, TrajectoryModel):
            self._target(model)

    def target_of(self, model: Any, interface: Interface) -> Target:
        """What a learned temperature is to bring about in a world that is no table."""
        if self.target_entropy is None:
            return Target(divergence=self.target_kl)
        if log_prior_of(model, interface) is not None:
            raise ValueError(UNIFORM_ALONE)
        if interface.num_actions:
            most = math.log(interface.num_actions)
            return Target(entropy=check_target(self.target_entropy, most, "log|A|"))
        if isinstance(self.target_entropy, str):
            return Target(entropy=-float(interface.action_size))
        most = interface.action_size * math.log(2)
        if self.target_entropy >= most:
            raise ValueError(
                f"target_entropy is {self.target_entropy:g} nats, and that of uniform actions in [-1, 1] is "
                f"{most:.6g}; give less, e.g. {-interface.action_size} ('auto')"
            )
        return Target(entropy=float(self.target_entropy))

    def make_brain(self, setting: Setting, generator: torch.Generator) -> Brain:
        """Makes the networks that it learns with in worlds without tables."""
        made = DiscreteActorCritic if setting.interface.num_actions else BoxActorCritic
        return made(setting, generator)

    def _target(self, model: TrajectoryModel) -> float | None:
        """The target of the entropy, nats."""
        if self.target_entropy is None:
            return None
        available = model.mdp.host.available
        counts = available.sum(-1).double()
        if not torch.allclose(model.host.action_prior.detach(), available / counts[:, None].clamp(min=1), atol=1e-12):
            raise ValueError(UNIFORM_ALONE)
        most = float(counts[model.host.nonterminal].log().mean()) if bool(model.host.nonterminal.any()) else 0.0
        return check_target(self.target_entropy, most, "the mean of log|A(s)|")

    def rule(self, world: TableWorld) -> ActorCriticRule:
        """The update of its tables, on a `TrajectoryModel`."""
        most = (
            float((-(world.prior * world.finite_log_prior).sum(1))[world.nonterminal].mean())
            if world.nonterminal.any()
            else 0.0
        )
        target = AUTO_SHARE * most if self.target_entropy == "auto" else self.target_entropy
        assert not isinstance(target, str)
        sees = self.observe_time or not world.finite  # else there is no time
        return ActorCriticRule(self.explore, self.search, sees, target, self.target_kl)


def check_target(target: float | str, most: float, what: str) -> float:
    """The target of the entropy of discrete actions, nats; refused where no policy has as much, warned of near that.

    Args:
        target: nats, or "auto".
        most: the entropy of the prior.
        what: how that is called.
    """
    if isinstance(target, str):
        return AUTO_SHARE * most
    if target >= most:
        raise ValueError(
            f"target_entropy is {target:g} nats, and {what} is {most:.6g}: only the prior has so much; give less, "
            f"about {AUTO_SHARE * most:.3g} ('auto')"
        )
    if target > AUTO_SHARE * most:
        warnings.warn(
            f"target_entropy is {target:g} nats, above {AUTO_SHARE:g} of {what} ({most:.6g}); the temperature that has "
            "it may be far above the rewards",
            stacklevel=4,
        )
    return target
