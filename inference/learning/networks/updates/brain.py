"""What acts and learns: networks with their updates. The contract, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from cai.inference.core.storage import storable
from cai.inference.learning.networks.experience.buffer import Buffer
from cai.inference.learning.networks.experience.interface import Interface, LogPrior
from cai.inference.learning.networks.layers.box_networks import layers_of, numbered_network
from cai.inference.learning.networks.updates.temperature import Target, Temperature

__all__ = ["Brain", "Lesson", "Replaying", "Setting", "Told", "log_allowed", "masked_mean"]


Lesson = Callable[[int, torch.Generator], Any]


@storable("networks-setting")
class Setting(NamedTuple):
    """What networks are made for.

    Attributes:
        interface: how they see the world.
        hidden_sizes: of the layers between input and output.
        learning_rate: of Adam.
        discount: gamma.
        temperature: alpha at the start.
        target: of a learned temperature.
        log_prior: the action prior; None where it is uniform.
        entropy_form: whether entropy is added, instead of the KL from the prior.
        smoothing: tau, by how much target networks follow at each update.
        policy: what acts: "gaussian", "flow", "stein", or a module; of numbered actions a module, or anything else.
        beneath: the policy whose flow is beneath this one's; None for none.
        network: a module that turns observations into features first; None for none.
    """

    interface: Interface
    hidden_sizes: tuple[int, ...]
    learning_rate: float
    discount: float
    temperature: float
    target: Target
    log_prior: LogPrior | None
    entropy_form: bool
    smoothing: float
    policy: Any = "gaussian"
    beneath: Any = None
    network: nn.Module | None = None

    def layers(self, further: int, outputs: int, copies: int = 1) -> Any:
        """A network of observations and further inputs, or several of one shape."""
        return layers_of(self.interface, self.hidden_sizes, self.network, copies)(further, outputs)

    def numbered_policy(self) -> Any:
        """The network of a policy over numbered actions."""
        return numbered_network(self.policy, self.interface, self.hidden_sizes, self.network)


class Told(NamedTuple):
    """What an update tells: losses of critic (squared reward units) and actor (reward units), entropy (nats)."""

    critic_loss: float
    actor_loss: float
    entropy: float


class Brain(Protocol):
    """Networks that act and learn.

    Actions are int64 [N]; or in a box [N, d], in [-1, 1] as the world takes them, or as the buffer keeps them: the
    same, or u before tanh for those that ask for densities of actions that were taken.
    """

    temperature: Temperature

    def act(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        """Actions drawn by the policy, as the buffer keeps them."""

    def uniform(self, number: int, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        """Actions that are uniform over what is available, as the buffer keeps them."""

    def taken(self, kept: Tensor) -> Tensor:
        """Actions as the world takes them, of those that the buffer keeps."""

    def draw(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Actions drawn by the policy, as the world takes them, and [N] nats that the bound pays for them.

        These are log pi/p, or its mean where that is exact.
        """

    def lesson(self, buffer: Buffer, copies: int, generator: torch.Generator) -> Lesson | None:
        """What updates are made of: draws so many transitions, or paths; None where it is too early to learn.

        Args:
            buffer: whose rows were added by so many at once.
            copies: N, of the world.
            generator: of all draws.
        """

    def update(self, batch: Any, generator: torch.Generator) -> Told:
        """One step of every network on what the lesson drew."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything that it learned by name, the tensors themselves."""

    def policy_tensors(self) -> dict[str, Tensor]:
        """What acting needs."""

    def values(self, observations: Tensor, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        """[N], what its critic says that observations are worth, reward units."""


class Replaying:
    """What brains share that learn from single transitions of any policy, and whose buffers keep actions as taken."""

    setting: Setting

    def log_policy_of(self, observations: Tensor, actions: Tensor, allowed: Tensor | None) -> Tensor:
        """[N] nats, log pi/p (log pi in the entropy form) of actions that somebody took, as the world takes them."""
        raise NotImplementedError

    def uniform(self, number: int, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
        interface = self.setting.interface
        if not interface.num_actions:
            return 2 * torch.rand(number, interface.action_size, generator=generator, dtype=torch.float32) - 1
        weights = torch.ones(number, interface.num_actions, dtype=torch.float32) if allowed is None else allowed
        return torch.multinomial(weights, 1, generator=generator)[:, 0]

    def taken(self, kept: Tensor) -> Tensor:
        return kept

    def lesson(self, buffer: Buffer, copies: int, generator: torch.Generator) -> Lesson | None:
        return buffer.sample if buffer.size > 1 else None


def log_allowed(setting: Setting, observations: Tensor, allowed: Tensor | None) -> Tensor:
    """[N, A], log p(a | s) of discrete actions, -inf where one is not available; 0 for all in the entropy form."""
    number = setting.interface.num_actions
    if allowed is not None:  # where an episode is over nothing may be available, and nothing is asked
        allowed = torch.where(allowed.sum(-1, keepdim=True) > 0, allowed, torch.ones_like(allowed))
    if setting.log_prior is not None:
        found = setting.log_prior(observations, observations)
        if allowed is not None:
            found = torch.log_softmax(found.masked_fill(allowed == 0, -torch.inf), -1)
        return found
    weights = torch.ones(len(observations), number, dtype=torch.float32) if allowed is None else allowed
    logs = weights.log()
    return logs if setting.entropy_form else logs - weights.sum(-1, keepdim=True).log()


def masked_mean(weights: Tensor, values: Tensor) -> Tensor:
    """[...], the sum of weights times values over the last axis, where 0 times an infinite number is 0."""
    return torch.where(weights > 0, weights * values.masked_fill(weights == 0, 0.0), 0.0).sum(-1)
