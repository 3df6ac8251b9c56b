"""Networks that were learned in one world, as the start of a run in another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.storage import storable
from cai.inference.learning.networks.interface import Interface
from cai.inference.learning.networks.posterior import LearnedPosterior

__all__ = ["Networks", "networks_of"]


@storable("learned-networks")
@dataclass(frozen=True, eq=False)
class Networks:
    """What a run has learned, apart from its optimiser and its temperature.

    Attributes:
        backend: whose networks they are.
        world: the name of the one that they were learned in.
        interface: how they see it.
        hidden_sizes: of their layers.
        parameters: [P] each, by name.
    """

    backend: str
    world: str
    interface: Interface
    hidden_sizes: tuple[int, ...]
    parameters: dict[str, Tensor]

    def check(self, backend: str, hidden_sizes: tuple[int, ...], interface: Interface, world: str) -> None:
        """Refuses a run that these networks cannot begin.

        Args:
            backend: of the run.
            hidden_sizes: that it asks for.
            interface: how it sees its world.
            world: the name of that.

        Raises:
            ValueError: with the first thing that does not fit.
        """
        if backend != self.backend:
            raise ValueError(
                f"initial is an answer of backend {self.backend!r}, whose networks are others than those of "
                f"{backend!r}; go on with the same backend"
            )
        own = self.interface
        if (own.categories, own.size) != (interface.categories, interface.size):
            raise ValueError(
                f"initial was learned in {self.world}, of which it sees {_seen(own)}, and of {world} it would see "
                f"{_seen(interface)}; networks go on in worlds that are observed alike"
            )
        if own.num_actions != interface.num_actions or not _equal(own, interface):
            raise ValueError(
                f"initial was learned in {self.world}, where it has {_acts(own)}, and in {world} there is "
                f"{_acts(interface)}; networks go on in worlds with the same actions"
            )
        if self.hidden_sizes != hidden_sizes:
            raise ValueError(
                f"initial has networks with hidden_sizes={self.hidden_sizes}, and {hidden_sizes} are asked for; give "
                f"hidden_sizes={self.hidden_sizes}"
            )

    def load_into(self, brain: Any) -> None:
        """Gives networks these parameters."""
        held = brain.tensors()
        for name, part in self.parameters.items():
            held[name].data.copy_(part)


def networks_of(given: Any) -> Networks | None:
    """What the option `initial` stands for.

    Args:
        given: an answer of a learner with networks, its `Networks`, or None.

    Raises:
        ValueError: if it is something else, or the answer of a run that failed.
    """
    if given is None or isinstance(given, Networks):
        return given
    if not isinstance(given, LearnedPosterior):
        raise ValueError(
            f"initial is a {type(given).__name__}; expected an answer of a learner with networks: initial=cai.infer("
            "world, backend, ...)"
        )
    policy, parts = given.learned_policy, given.brain.tensors()
    kept = {name: part.detach().clone() for name, part in parts.items() if "." not in name and name != "temperature"}
    broken = [name for name, part in kept.items() if not bool(torch.isfinite(part).all())]
    if broken:
        raise ValueError(f"initial is an answer whose {broken[0]} left the floats; nothing can go on from it")
    return Networks(given.backend, given.model.name, policy.interface, tuple(policy.sizes[1:-1]), kept)


def _seen(interface: Interface) -> str:
    if interface.categories:
        return f"numbers below {list(interface.categories)}"
    return f"{interface.size} numbers"


def _acts(interface: Interface) -> str:
    if interface.num_actions:
        return f"{interface.num_actions} numbered actions"
    return f"a box from {interface.low.tolist()} to {interface.high.tolist()}"


def _equal(first: Interface, second: Interface) -> bool:
    return torch.equal(first.low, second.low) and torch.equal(first.high, second.high)
