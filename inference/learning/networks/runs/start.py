"""Networks that were learned in one world, as the start of a run in another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cai.inference.core.storage import storable
from cai.inference.learning.networks.answers.policy import LearnedPolicy
from cai.inference.learning.networks.answers.posterior import LearnedPosterior
from cai.inference.learning.networks.experience.interface import Interface

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
        acts: what its policy is: "gaussian", "flow", "stein" or "module".
        beneath: the policy whose flow is beneath that; None for none.
        sees: whether a module turns observations into features first.
    """

    backend: str
    world: str
    interface: Interface
    hidden_sizes: tuple[int, ...]
    parameters: dict[str, Tensor]
    acts: str = "gaussian"
    beneath: LearnedPolicy | None = None
    sees: bool = False

    def check(self, backend: Any, interface: Interface, world: str) -> None:
        """Refuses a run that these networks cannot begin.

        Args:
            backend: of the run; its name and its options `hidden_sizes`, `policy` and `network` are read.
            interface: how it sees its world.
            world: the name of that.

        Raises:
            ValueError: with the first thing that does not fit.
        """
        if backend.name != self.backend:
            raise ValueError(
                f"initial is an answer of backend {self.backend!r}, whose networks are others than those of "
                f"{backend.name!r}; go on with the same backend"
            )
        own = self.interface
        if (own.categories, own.size, own.image) != (interface.categories, interface.size, interface.image):
            raise ValueError(
                f"initial was learned in {self.world}, of which it sees {_seen(own)}, and of {world} it would see "
                f"{_seen(interface)}; networks go on in worlds that are observed alike"
            )
        if own.num_actions != interface.num_actions or not _equal(own, interface):
            raise ValueError(
                f"initial was learned in {self.world}, where it has {_acts(own)}, and in {world} there is "
                f"{_acts(interface)}; networks go on in worlds with the same actions"
            )
        if self.hidden_sizes != backend.hidden_sizes:
            raise ValueError(
                f"initial has networks with hidden_sizes={self.hidden_sizes}, and {backend.hidden_sizes} are asked "
                f"for; give hidden_sizes={self.hidden_sizes}"
            )
        self._check_kind(backend)

    def _check_kind(self, backend: Any) -> None:
        """Refuses a run whose policy would be another one at first, or could not hold these parameters."""
        asked = backend.policy
        above = isinstance(asked, LearnedPolicy)
        kind = "module" if isinstance(asked, nn.Module) else "flow" if above else asked
        if kind != self.acts:
            again = "the module again, policy=..." if self.acts == "module" else f"policy={self.acts!r}"
            raise ValueError(
                f"initial acts by a policy of kind {self.acts!r}, and one of kind {kind!r} is asked for; give {again}"
            )
        if not _same(self.beneath, asked if above else None):
            has = "has no flow" if self.beneath is None else "has a frozen flow"
            asks = "policy= would put one there" if self.beneath is None else "policy= is not that one"
            begin = "policy='flow'" if self.beneath is None else "the policy above which it was learned, policy=..."
            raise ValueError(f"initial {has} beneath its own, and {asks}: it would be another policy; give {begin}")
        if self.sees != (backend.network is not None):
            raise ValueError(
                "initial sees features that a module makes of observations; give the module again, network=..."
                if self.sees
                else "initial has no module that makes features of observations; leave network= out"
            )

    def load_into(self, brain: Any) -> None:
        """Gives networks these parameters.

        Raises:
            ValueError: if a module has others.
        """
        held = brain.tensors()
        for name, part in self.parameters.items():
            if held[name].shape != part.shape:
                raise ValueError(
                    f"initial has {part.numel():,} parameters of its {name}, and here there are "
                    f"{held[name].numel():,}: the modules of policy= and network= must be those that it learned with"
                )
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
    world = "a world that stayed behind" if given.model is None else given.model.name
    return Networks(
        given.backend,
        world,
        policy.interface,
        tuple(policy.sizes[1:-1]),
        kept,
        policy.kind,
        policy.beneath,
        policy.network is not None,
    )


def _same(first: LearnedPolicy | None, second: LearnedPolicy | None) -> bool:
    """Whether the same flow stands beneath, all the way down."""
    if first is None or second is None:
        return first is second
    same = torch.equal(first.parameters["actor"], second.parameters["actor"])
    return same and _same(first.beneath, second.beneath)


def _seen(interface: Interface) -> str:
    if interface.categories:
        return f"numbers below {list(interface.categories)}"
    if interface.image:
        return f"images {list(interface.image)}"
    return f"{interface.size} numbers"


def _acts(interface: Interface) -> str:
    if interface.num_actions:
        return f"{interface.num_actions} numbered actions"
    return f"a box from {interface.low.tolist()} to {interface.high.tolist()}"


def _equal(first: Interface, second: Interface) -> bool:
    return torch.equal(first.low, second.low) and torch.equal(first.high, second.high)
