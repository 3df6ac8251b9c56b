"""Backend "stein-soft-q-learning": the soft Bellman backup in a box of actions, with a sampler of its policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from cai.inference.core.memory import Need
from cai.inference.learning.network_backend import NetworkBackend
from cai.inference.learning.networks.experience.interface import Interface
from cai.inference.learning.networks.updates.brain import Setting
from cai.inference.learning.networks.updates.stein import SteinNetworks
from cai.inference.learning.options import check_count
from cai.models.continuous.world import World
from cai.models.environments.world import EnvironmentModel

__all__ = ["SteinSoftQLearning"]


@dataclass(frozen=True, kw_only=True)
class SteinSoftQLearning(NetworkBackend):
    """Learns Q(s, a) = E[r + gamma V(s')], V(s) = alpha log E_p exp(Q(s, a) / alpha), where actions lie in a box.

    Haarnoja 2017, "Reinforcement learning with deep energy-based policies". The policy p exp((Q - V) / alpha) has as
    many modes as Q has; a network learns to draw from it by amortised Stein variational gradient descent, in the space
    before tanh, where particles stay off the walls. V is a mean over uniform actions, which is right for a few
    coordinates: in many of them next to no uniform action is a good one, and V comes out too low.

    What acts is that network. It has no density that could be worked out, so the answer knows returns, Q and V, and
    neither its `elbo` nor its divergence from the prior (None). No one action stands for it: `act(...,
    deterministic=True)` needs `num_candidates=`, of whose draws the best by Q is taken. It runs on no table, and the
    temperature is the world's.

    Args:
        num_particles: K, actions of a set, which repel each other.
        particle_sets: observations of a batch for which there is a set.
        value_samples: M, the uniform actions in V.

    Of the answer's `details`, "history" holds an `xarray.Dataset` along `step`, "steps" the transitions used and "form"
    "KL" or "entropy".
    """

    policy: Any = "stein"
    num_particles: int = 32
    particle_sets: int = 32
    value_samples: int = 64

    name: ClassVar[str] = "stein-soft-q-learning"
    accepts: ClassVar[str] = "a Gymnasium environment or a continuous model, with a box of actions"
    cost: ClassVar[str] = "an update: batch_size value_samples + particle_sets num_particles^2 d"
    acts_in_boxes: ClassVar[bool] = True
    has_density: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self.num_particles, "num_particles", 2)
        check_count(self.particle_sets, "particle_sets")
        check_count(self.value_samples, "value_samples")

    def check_policy(self) -> None:
        """Refuses another policy than its own."""
        if self.policy != "stein":
            raise ValueError(
                f"policy is {self.policy!r}, and backend {self.name!r} learns a sampler of its own; leave it out, or "
                "ask 'soft-actor-critic'"
            )

    def supports(self, model: Any) -> None:
        """Raises ValueError if the world cannot be learned, and says what can."""
        if not isinstance(model, (EnvironmentModel, World)):
            raise ValueError(
                f"backend {self.name!r} moves actions along gradients of Q, so they must lie in a box: it takes a "
                "Gymnasium environment or a continuous model; on tables ask 'soft-q-learning'"
            )
        interface = self._interface(model)
        if interface.num_actions:
            raise ValueError(
                f"backend {self.name!r} moves actions along gradients of Q, and those of {model.name} are numbered; "
                "ask 'soft-q-learning', which takes every action into account"
            )
        super().supports(model)

    def network_needs(self, interface: Interface) -> list[Need]:
        """What is allocated for a world, part by part."""
        width, sets = interface.size + interface.action_size + sum(self.hidden_sizes), self.particle_sets
        sets = min(sets, self.batch_size)
        drawn, pairs = self.batch_size * self.value_samples, sets * self.num_particles**2 * interface.action_size
        return [
            *super().network_needs(interface),
            Need(
                4 * drawn * width, f"{drawn:,} actions whose values are averaged", "lower value_samples or hidden_sizes"
            ),
            Need(
                4 * (pairs + sets * self.num_particles * width),
                f"{pairs:,} differences",
                "lower num_particles or hidden_sizes",
            ),
        ]

    def make_brain(self, setting: Setting, generator: torch.Generator) -> SteinNetworks:
        """Makes the networks that it learns with."""
        return SteinNetworks(setting, generator, self.num_particles, self.particle_sets, self.value_samples)
