"""Networks on their way to another process or into a file: what they were made for, and their parameters."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.storage import StorageError, storable
from cai.inference.learning.networks.experience.interface import log_prior_of
from cai.inference.learning.networks.updates.box_actor_critic import BoxActorCritic
from cai.inference.learning.networks.updates.brain import Setting
from cai.inference.learning.networks.updates.discrete_actor_critic import DiscreteActorCritic, DiscreteSoftQ
from cai.inference.learning.networks.updates.path_consistency import PathConsistencyNetworks
from cai.inference.learning.networks.updates.policy_gradient import PolicyGradientNetworks
from cai.inference.learning.networks.updates.stein import SteinNetworks

__all__ = ["PackedNetworks", "pack"]

# The classes by the names that files hold, and what their constructors take besides the setting and a generator.
_KINDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "box-actor-critic": (BoxActorCritic, ()),
    "discrete-actor-critic": (DiscreteActorCritic, ()),
    "discrete-soft-q": (DiscreteSoftQ, ()),
    "path-consistency": (PathConsistencyNetworks, ("path_length",)),
    "policy-gradient": (PolicyGradientNetworks, ("gae_lambda", "clip")),
    "stein": (SteinNetworks, ("num_particles", "particle_sets", "value_samples")),
}


@storable("packed-networks")
@dataclasses.dataclass(frozen=True, eq=False)
class PackedNetworks:
    """Networks in parts. The moments of their optimisers stay behind: an answer learns no more.

    Attributes:
        kind: which networks they are.
        setting: what they were made for; without the prior in `portable` ones.
        arguments: further ones of their constructor.
        parameters: [P] each, by name.
        has_prior: whether the action prior is not uniform.
    """

    kind: str
    setting: Setting
    arguments: dict[str, Any]
    parameters: dict[str, Tensor]
    has_prior: bool

    def portable(self, world: Any) -> PackedNetworks:
        """The same without the action prior, a function, which is made anew of the world.

        Args:
            world: that goes along; None if it stays behind.

        Raises:
            StorageError: if the prior is not uniform and the world stays behind.
        """
        if self.has_prior and world is None:
            raise StorageError(
                "the world of this answer is made by a function, or its action prior is one, which stays behind, and "
                "the critic is relative to that prior: save answer.policy() where it has none of it, or begin the "
                "world by an id with a uniform prior"
            )
        return dataclasses.replace(self, setting=self.setting._replace(log_prior=None))

    def unpack(self, world: Any) -> Any:
        """The networks.

        Args:
            world: whose action prior they are relative to; None where they hold it, or it is uniform.

        Raises:
            StorageError: if the parameters are not those of such networks.
        """
        if self.kind not in _KINDS:
            raise StorageError(f"networks of kind {self.kind!r} are unknown; they are of a newer version")
        setting = self.setting
        if self.has_prior and setting.log_prior is None:
            setting = setting._replace(log_prior=log_prior_of(world, setting.interface))
        made = _KINDS[self.kind][0](setting, torch.Generator().manual_seed(0), **self.arguments)
        held = made.tensors()
        for name, part in self.parameters.items():
            if name not in held or held[name].shape != part.shape:
                raise StorageError(f"the networks have no parameters {name!r} of shape {list(part.shape)}")
            held[name].data.copy_(part)
        made.temperature.load(self.parameters["temperature"])
        return made


def pack(brain: Any) -> PackedNetworks:
    """Networks in parts.

    Raises:
        StorageError: if they are of an unknown class.
    """
    for kind, (cls, names) in _KINDS.items():
        if type(brain) is cls:
            parameters = {name: part.detach().clone() for name, part in brain.tensors().items() if "." not in name}
            arguments = {name: getattr(brain, name) for name in names}
            return PackedNetworks(kind, brain.setting, arguments, parameters, brain.setting.log_prior is not None)
    raise StorageError(f"networks of class {type(brain).__qualname__} cannot be saved; save the answer's policy")
