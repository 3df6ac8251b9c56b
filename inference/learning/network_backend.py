"""What the backends that learn by networks share: further options, and how they answer worlds by a learner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import nn

from cai.inference.core.learner import Learner
from cai.inference.core.memory import Need, whole_need
from cai.inference.core.posterior import Posterior
from cai.inference.learning.backend import LearnerOptions
from cai.inference.learning.networks.answers.policy import LearnedPolicy
from cai.inference.learning.networks.experience.interface import Interface, interface_of, log_prior_of
from cai.inference.learning.networks.runs.acting import check_acts, check_policy
from cai.inference.learning.networks.runs.events import require_tensorboard
from cai.inference.learning.networks.runs.learner import NetworkLearner, NetworkOptions
from cai.inference.learning.networks.runs.start import networks_of
from cai.inference.learning.networks.updates.brain import Brain, Setting
from cai.inference.learning.networks.updates.temperature import Target
from cai.inference.learning.options import check_count, check_untouched, copies_of
from cai.models.continuous.world import World
from cai.models.environments.world import EnvironmentModel

__all__ = ["NetworkBackend"]

COPY_OF_WORLD = 8_000  # bytes that a copy of a small environment of Gymnasium takes


@dataclass(frozen=True, kw_only=True)
class NetworkBackend(LearnerOptions):
    """Options of learners with networks, for an `EnvironmentModel` or a continuous model; refused on tables.

    Args:
        policy: what acts where actions lie in a box: "gaussian", the image of a normal distribution under tanh;
            "flow", that of latent normal numbers through couplings, which has several modes where that pays (two
            coordinates or more); or the policy of an earlier answer with policy="flow", whose flow is then frozen and
            whose latent numbers are the actions here (the same policy at first). Or a torch module from observations
            [N, ...] to means and logs of standard deviations before tanh [N, 2 d], or to logits [N, A] of numbered
            actions.
        network: a torch module from observations [N, ...], float32, to features [N, k], for images; each network has a
            copy of it beneath its layers, which learns along.
        hidden_sizes: of the layers between observation and output.
        batch_size: transitions of an update.
        learning_rate: of Adam, for every network and for a learned temperature.
        buffer_size: the most transitions that are kept.
        warmup_steps: uniform steps at the start, counted in `steps`.
        updates_per_step: updates for each transition.
        smoothing: by how much target networks follow the critics at each update; Haarnoja 2018b has 0.005.
        initial: an answer of the same backend in a world that is observed alike and has the same actions; its networks
            are the first ones here. Adam, buffer and temperature begin anew.
        tensorboard: also write the history of a run with a folder to `folder/log`, for TensorBoard (an extra).
    """

    policy: Any = "gaussian"
    network: Any = None
    hidden_sizes: tuple[int, ...] = (256, 256)
    batch_size: int = 256
    learning_rate: float = 3e-4
    buffer_size: int = 1_000_000
    warmup_steps: int = 100
    updates_per_step: float = 1
    smoothing: float = 0.02
    initial: Any = None
    tensorboard: bool = False

    for_tables: ClassVar[tuple[str, ...]] = ()  # options that networks do not look at
    for_networks: ClassVar[tuple[str, ...]] = (  # options that no table looks at
        *("policy", "hidden_sizes", "batch_size", "learning_rate", "buffer_size"),
        *("warmup_steps", "updates_per_step", "smoothing", "tensorboard"),
    )
    acts_by_values: ClassVar[bool] = (
        False  # whether numbered actions are drawn by their values, by no network of theirs
    )
    acts_in_boxes: ClassVar[bool] = False
    learns_from_paths: ClassVar[bool] = False
    has_density: ClassVar[bool] = True  # whether what acts has one
    adds_entropy: ClassVar[bool] = True  # whether its networks add entropy, or take the KL away, from what is paid

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_policy()
        if self.network is not None and not isinstance(self.network, nn.Module):
            raise ValueError(f"network is a {type(self.network).__name__}; expected a torch module")
        object.__setattr__(self, "hidden_sizes", _sizes(self.hidden_sizes))
        for name in ("batch_size", "buffer_size"):
            check_count(getattr(self, name), name)
        check_count(self.warmup_steps, "warmup_steps", 0)
        if self.batch_size > self.buffer_size:
            raise ValueError(
                f"batch_size is {self.batch_size}, and the buffer holds buffer_size={self.buffer_size} transitions; "
                "lower batch_size or raise buffer_size"
            )
        for name in ("learning_rate", "updates_per_step"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value!r}; expected a number > 0")
        number = isinstance(self.smoothing, (int, float)) and not isinstance(self.smoothing, bool)
        if not number or not 0 < self.smoothing <= 1:
            raise ValueError(f"smoothing is {self.smoothing!r}; expected a number in (0, 1]")
        object.__setattr__(self, "initial", networks_of(self.initial))
        if self.tensorboard:
            require_tensorboard()

    def check_policy(self) -> None:
        """Refuses what stands for no policy."""
        check_policy(self.policy)

    def supports(self, model: Any) -> None:
        """Raises ValueError if the world cannot be learned, and says what can."""
        if not isinstance(model, (EnvironmentModel, World)):
            super().supports(model)
            if self.network is not None:
                raise ValueError("network= is for what networks see, and a TrajectoryModel is learned on tables")
            if self.initial is not None:
                raise ValueError(
                    "initial goes on with networks, and a TrajectoryModel is learned on tables; leave it out, or give "
                    "the model as an environment: environment_model(lambda num_envs: vector_environment(model, ...))"
                )
            check_untouched(self, self.for_networks, "is for networks, and a TrajectoryModel is learned on tables")
            if not self.observe_time and model.is_finite:
                check_untouched(
                    self,
                    self.for_tables,
                    "spreads copies over a table, and where the policy does not observe time all of them act by it, "
                    "as what it is to do in a state depends on when it comes there",
                )
            return
        copies_of(self._copies(model), self.steps, 1)
        if not self.observe_time:
            raise ValueError("observe_time is for tables; networks see what the world shows")
        check_untouched(self, self.for_tables, f"is for tables, and {model.name} has none")
        if isinstance(model, World) and model.batch_shape:
            raise ValueError("the model is a batch; ask about its members one by one: model.member(0)")
        if model.discount == 1 and isinstance(model, World) and model.horizon == float("inf"):
            raise ValueError(
                f"backend {self.name!r} adds up rewards, and {model.name} has discount 1 and no horizon; give a "
                "discount < 1 or a finite horizon"
            )
        interface = self._interface(model)
        if self.acts_by_values and interface.num_actions and isinstance(self.policy, nn.Module):
            raise ValueError(
                f"policy is a {type(self.policy).__name__}, and backend {self.name!r} acts by the values that it "
                "learns: leave policy out, give network= beneath them, or ask 'soft-actor-critic'"
            )
        check_acts(self.policy, self.network, interface, model.name)
        if not interface.num_actions and not self.acts_in_boxes:
            raise ValueError(
                f"backend {self.name!r} takes the maximum over numbered actions, and those of {model.name} lie in a "
                "box; ask 'soft-actor-critic'"
            )
        if self.entropy_form and log_prior_of(model, interface) is not None:
            raise ValueError("the entropy form needs a uniform action prior; fold the prior into the reward first")
        if self.initial is not None:
            self.initial.check(self, interface, model.name)
        self.target_of(model, interface)

    def _interface(self, model: Any) -> Interface:
        """How networks see a world."""
        return interface_of(model, self.name, images=self.network is not None)

    def _copies(self, model: Any) -> int | None:
        """How many copies there are to be: those of a ready-made vector, unless another number is asked for."""
        ready = getattr(model, "fixed_number", None)
        return ready if self.num_envs is None else self.num_envs

    def target_of(self, model: Any, interface: Interface) -> Target:
        """What a learned temperature is to bring about."""
        return Target()

    def make_brain(self, setting: Setting, generator: torch.Generator) -> Brain:
        """Makes the networks that it learns with in worlds without tables."""
        raise NotImplementedError

    def setting(self, model: Any, interface: Interface) -> Setting:
        """What its networks are made for in a world."""
        return Setting(
            interface,
            self.hidden_sizes,
            self.learning_rate,
            float(model.discount),
            float(model.temperature),
            self.target_of(model, interface),
            log_prior_of(model, interface),
            self.entropy_form,
            self.smoothing,
            "flow" if isinstance(self.policy, LearnedPolicy) else self.policy,
            self.policy if isinstance(self.policy, LearnedPolicy) else None,
            self.network,
        )

    def first_brain(self, setting: Setting, generator: torch.Generator) -> Brain:
        """Its networks as a run begins with them: drawn, or those of `initial`."""
        brain = self.make_brain(setting, generator)
        if self.initial is not None:
            self.initial.load_into(brain)
        return brain

    def brain(self, model: Any, interface: Interface, generator: torch.Generator) -> Brain:
        """Its networks for a world."""
        return self.first_brain(self.setting(model, interface), generator)

    def buffer_rows(self, copies: int) -> int:
        """The most transitions of so many copies of the world that are kept."""
        return self.buffer_size

    def memory(self, model: Any) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        if not isinstance(model, (EnvironmentModel, World)):
            return super().memory(model)
        copies = copies_of(self._copies(model), self.steps, 1)
        worlds = Need(COPY_OF_WORLD * copies, f"{copies:,} copies of the world side by side", "lower num_envs")
        return whole_need([worlds, *self.network_needs(self._interface(model))])

    def network_needs(self, interface: Interface) -> list[Need]:
        """What is allocated for a world without tables, part by part, in float32."""
        rows, width = min(self.buffer_size, self.steps), 2 * interface.size + 8
        layers = (1 if self.network is not None else interface.size, *self.hidden_sizes)
        weights = sum((below + 1) * above for below, above in pairwise(layers))
        batch = self.batch_size * (width + 2 * sum(self.hidden_sizes))
        return [
            Need(4 * rows * width, f"a buffer of {rows:,} transitions", "lower buffer_size"),
            Need(4 * 8 * weights, f"two networks or more of {weights:,} weights", "give smaller hidden_sizes"),
            Need(4 * batch, f"updates by {self.batch_size:,} transitions", "lower batch_size or hidden_sizes"),
        ]  # networks with their gradients and two moments each

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers a model; everything random comes from the seed."""
        if self.tensorboard:
            raise ValueError("tensorboard=True writes to the folder of a run; give folder=, or leave it out")
        return super().run(model, seed=seed)

    def learner(self, model: Any) -> Learner[Any]:
        """Networks, or tables on a `TrajectoryModel`."""
        if not isinstance(model, (EnvironmentModel, World)):
            return super().learner(model)
        copies = copies_of(self._copies(model), self.steps, 1)
        options = NetworkOptions(
            copies,
            self.batch_size,
            self.buffer_rows(copies),
            self.warmup_steps,
            float(self.updates_per_step),
            self.learns_from_paths,
        )
        return NetworkLearner(self, self.brain, self.steps // copies * copies, options)


def _sizes(given: Any) -> tuple[int, ...]:
    """(64, 64) from [64, 64], 64 or "64x64"."""
    parts: Any = given
    if isinstance(given, str):
        parts = [int(part) if part.strip().isdigit() else part for part in given.split("x")]
    if isinstance(parts, int):
        parts = [parts]
    sizes = tuple(parts) if isinstance(parts, Sequence) else ()
    if not sizes or any(isinstance(part, bool) or not isinstance(part, int) or part < 1 for part in sizes):
        raise ValueError(f"hidden_sizes is {given!r}; expected whole numbers >= 1, e.g. (64, 64), or '64x64' in words")
    return sizes
