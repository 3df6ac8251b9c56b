"""The networks that the options `policy` and `network` stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cai.inference.core.status import NotKnown
from cai.inference.learning.networks.experience.interface import Interface
from cai.inference.learning.networks.layers.flat import Perceptron
from cai.inference.learning.networks.layers.flow import FlowNetwork, Frozen
from cai.inference.learning.networks.layers.modules import FeatureNetwork, ModuleNetwork
from cai.inference.learning.networks.layers.squash import GaussianNetwork, OneNetwork

__all__ = ["BoxNetwork", "box_network", "layers_of", "numbered_network"]


class SamplerNetwork(OneNetwork):
    """a = tanh u without a density; the network turns observations and noise [B, n + d] into u [B, d]."""

    def draw(self, flat: Tensor, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws u [B, d] by normal numbers [B, d], and NaN [B] for their densities."""
        u = self.network(flat, torch.cat([observations, noise], 1))
        return u, torch.full((len(u),), torch.nan)

    def act(self, flat: Tensor, observations: Tensor, noise: Tensor) -> Tensor:
        """The same u [B, d] alone."""
        return self.draw(flat, observations, noise)[0]

    def log_density(self, flat: Tensor, observations: Tensor, u: Tensor) -> Tensor:
        """Not known.

        Raises:
            NotKnown: always.
        """
        raise NotKnown("densities of actions", "the Stein policy", "draw from it, or ask 'soft-actor-critic'")


class BoxNetwork(Protocol):
    """Parameters in one flat tensor -> actions a = tanh u with densities.

    Attributes:
        sizes: of the layers, as far as they are known.
    """

    sizes: tuple[int, ...]

    def start(self, generator: torch.Generator) -> Tensor:
        """[P], first parameters."""

    def draw(self, flat: Tensor, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws u [B, d] by normal numbers [B, d], and the log density of tanh u on [-1, 1] [B]; with gradients."""

    def act(self, flat: Tensor, observations: Tensor, noise: Tensor) -> Tensor:
        """The same u [B, d] alone."""

    def log_density(self, flat: Tensor, observations: Tensor, u: Tensor) -> Tensor:
        """[B], the log of the density on [-1, 1] of the actions tanh u [B, d]."""


def layers_of(
    interface: Interface, hidden_sizes: tuple[int, ...], network: nn.Module | None, copies: int = 1
) -> Callable[[int, int], Any]:
    """A function (further inputs, outputs) -> a network of observations and further inputs.

    Args:
        interface: how observations are seen.
        hidden_sizes: of the layers between.
        network: a module that turns observations into features first; None for none.
        copies: how many networks of this shape are computed at once.
    """
    if network is None:
        return lambda further, outputs: Perceptron((interface.size + further, *hidden_sizes, outputs), copies)
    module = ModuleNetwork(network, interface.observation_shape, "network")

    def made(further: int, outputs: int) -> FeatureNetwork:
        return FeatureNetwork(module, Perceptron((module.outputs + further, *hidden_sizes, outputs), copies))

    return made


def box_network(
    policy: Any, interface: Interface, hidden_sizes: tuple[int, ...], network: nn.Module | None, frozen: Frozen | None
) -> BoxNetwork:
    """The network of a policy.

    Args:
        policy: "gaussian", "flow", "stein", or a module from observations to means and logs of standard deviations
            [B, 2 d].
        interface: how it sees the world.
        hidden_sizes: of the layers between.
        network: a module that turns observations into features first; None for none.
        frozen: the flow beneath; None for none.
    """
    dim = interface.action_size
    sizes = (interface.size, *hidden_sizes, 2 * dim)
    if isinstance(policy, nn.Module):
        return GaussianNetwork(ModuleNetwork(policy, interface.observation_shape, "policy", 2 * dim), sizes)
    make = layers_of(interface, hidden_sizes, network)
    if policy == "flow":
        return FlowNetwork(interface.size, dim, make, sizes, beneath=frozen)
    if policy == "stein":
        return SamplerNetwork(make(dim, dim), sizes)
    return GaussianNetwork(make(0, 2 * dim), sizes)


def numbered_network(
    policy: Any, interface: Interface, hidden_sizes: tuple[int, ...], network: nn.Module | None
) -> Any:
    """The network of a policy over numbered actions, to logits [B, A]; arguments as of `box_network`."""
    if isinstance(policy, nn.Module):
        return ModuleNetwork(policy, interface.observation_shape, "policy", interface.num_actions)
    return layers_of(interface, hidden_sizes, network)(0, interface.num_actions)
