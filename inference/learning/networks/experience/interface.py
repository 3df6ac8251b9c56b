"""What networks see of a world: observations as rows of float32, actions in [-1, 1] or by number, and the prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.inference.core.storage import storable
from cai.models.continuous.world import World
from cai.models.environments.making import vector_environment
from cai.models.environments.world import EnvironmentModel

__all__ = ["Interface", "LogPrior", "OutOfFloats", "draw_numbered", "interface_of", "log_prior_of", "make_worlds"]

LogPrior = Callable[[Tensor, Tensor], Tensor]


class OutOfFloats(ArithmeticError):
    """Raised where networks make NaN or inf of what they see, and so no action."""

    def __init__(self) -> None:
        super().__init__(
            "networks make NaN of an observation, and no action: what they learned left the floats; lower "
            "learning_rate, or scale observations and rewards"
        )


def draw_numbered(probs: Tensor, generator: torch.Generator | None) -> Tensor:
    """int64 [N], actions drawn by their probabilities [N, A].

    Raises:
        OutOfFloats: if some are NaN.
    """
    try:
        return torch.multinomial(probs, 1, generator=generator)[:, 0]
    except RuntimeError:
        if bool(torch.isfinite(probs).all()):
            raise
        raise OutOfFloats from None


@storable("learned-policy-interface")
@dataclass(frozen=True, eq=False)
class Interface:
    """How observations and actions are written for networks.

    Attributes:
        categories: () where observations are vectors; else the number of values of each coordinate, seen as one-hot.
        size: n, of an observation as networks see it.
        num_actions: A; 0 where actions lie in a box.
        low: [d], the box of actions in the world's units; [0] where they are discrete.
        high: [d].
        shape: of an action in the world's units; () where they are discrete.
        horizon: T of a continuous model, whose observations end with t / T; else math.inf.
        image: the shape of an observation that is an image; () of others.
    """

    categories: tuple[int, ...]
    size: int
    num_actions: int
    low: Tensor
    high: Tensor
    shape: tuple[int, ...]
    horizon: float = math.inf
    image: tuple[int, ...] = ()

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Of an observation as a module gets it."""
        return self.image or (self.size,)

    @property
    def action_size(self) -> int:
        """Numbers of an action in a buffer: d, or 1."""
        return 1 if self.num_actions else len(self.low)

    @property
    def log_volume(self) -> float:
        """Of the box, nats, in the world's units."""
        return float((self.high - self.low).log().sum())

    def rows(self, observations: Any) -> Tensor:
        """float32 [N, n] of observations [N, ...] as the world gives them.

        Raises:
            ValueError: if they hold another number of entries than those of the world, numbers that are not finite or
                beyond float32, or whole numbers outside the space.
        """
        seen = np.asarray(observations)
        shape, width = seen.shape, len(self.categories) or self.size
        seen = seen.reshape(len(seen), -1) if seen.ndim else seen.reshape(0, 0)
        if seen.shape[1] != width:
            raise ValueError(
                f"observations have shape {list(shape)}; expected [N, ...] with {width} numbers in each of N, as the "
                "world gives them"
            )
        if not self.categories:
            with np.errstate(over="ignore"):
                found = torch.from_numpy(np.ascontiguousarray(seen, dtype=np.float32))
            if seen.dtype.kind == "f" and not bool(torch.isfinite(found.sum())):  # finite ones may overflow a sum
                self._refuse_beyond(seen, found)
            return found
        rows = torch.zeros(len(seen), self.size, dtype=torch.float32)
        outside = (seen < 0) | (seen >= self.categories)
        if outside.any():
            at = int(np.flatnonzero(outside.any(0))[0])
            raise ValueError(
                f"an observation holds {seen[:, at][outside[:, at]][0]} where there are {self.categories[at]} numbers, "
                "counted from 0; mend the environment, or the observation space that it declares"
            )
        begins = np.cumsum((0, *self.categories[:-1]))
        return rows.scatter_(1, torch.from_numpy(seen.astype(np.int64) + begins), 1.0)

    def observations(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """[N, *shape], observations as the world gives them, of rows [N, n] as networks see them."""
        if self.categories:
            rows = torch.stack([part.argmax(1) for part in rows.split(self.categories, 1)], 1)
        return rows.reshape(-1, *shape)

    @staticmethod
    def _refuse_beyond(seen: Any, found: Tensor) -> None:
        """Raises ValueError if a number is not finite, or has none like it in float32."""
        if not np.isfinite(seen).all():
            raise ValueError(f"observations hold {seen[~np.isfinite(seen)][0]}; give finite numbers")
        lost = ~torch.isfinite(found).numpy()
        if lost.any():
            raise ValueError(
                f"observations hold {seen[lost][0]:g}, and networks compute in float32, up to 3.4e38; scale them, e.g. "
                "by gymnasium.wrappers.RescaleObservation or TransformObservation"
            )

    def allowed(self, info: Any) -> Tensor | None:
        """float32 [N, A], 1 where an action is available, as the world tells it; None where it does not."""
        mask = info.get("action_mask") if isinstance(info, dict) and self.num_actions else None
        return None if mask is None else torch.as_tensor(np.asarray(mask), dtype=torch.float32)

    def to_world(self, actions: Tensor) -> Tensor:
        """Actions [N, ...] in the world's units, of [N, d] in [-1, 1], or int64 [N] of numbers.

        Raises:
            OutOfFloats: if some are NaN.
        """
        if self.num_actions:
            return actions.reshape(len(actions)).long()
        if math.isnan(float(actions.sum())):
            raise OutOfFloats
        scaled = self.low + (self.high - self.low) * (actions.double() + 1) / 2
        return scaled.clamp(self.low, self.high).reshape(-1, *self.shape)

    def given_actions(self, actions: Any, number: int) -> Tensor:
        """float64 [N, d], or int64 [N] of numbers, of actions [N, ...] in the world's units as somebody gives them.

        Args:
            actions: one for each observation.
            number: N, of observations.

        Raises:
            ValueError: if there are more or fewer, some are NaN, or no such action exists.
        """
        given, width = torch.as_tensor(np.asarray(actions)), self.action_size
        if given.dim() == 0 or len(given) != number or given.numel() != number * width:
            raise ValueError(
                f"actions have shape {list(given.shape)}, and there are {number} observations; expected [{number}, "
                f"...], {'a number' if self.num_actions else f'{width} numbers'} for each"
            )
        flat = given.reshape(number, width).double()
        if bool(flat.isnan().any()):
            raise ValueError("actions hold nan; give numbers")
        if not self.num_actions:
            return flat
        unknown = (flat != flat.floor()) | (flat < 0) | (flat >= self.num_actions)
        if bool(unknown.any()):
            raise ValueError(
                f"action {float(flat[unknown][0]):g} does not exist; actions are 0 to {self.num_actions - 1}"
            )
        return flat[:, 0].long()

    def from_world(self, actions: Any) -> Tensor:
        """The reverse of `to_world`: float32 [N, d], or [N, 1]."""
        given = torch.as_tensor(np.asarray(actions))
        if self.num_actions:
            return given.reshape(-1, 1).float()
        flat = given.reshape(len(given), -1).double()
        return (2 * (flat - self.low) / (self.high - self.low) - 1).clamp(-1, 1).float()


def make_worlds(world: Any, number: int) -> Any:
    """N copies of a world as a vector environment that resets nothing by itself."""
    if isinstance(world, EnvironmentModel):
        return world.make(number)
    return vector_environment(world, number)


def interface_of(world: Any, name: str, *, images: bool = False) -> Interface:
    """How networks see a world.

    Args:
        world: an `EnvironmentModel` or a continuous model.
        name: of the backend, for messages.
        images: whether there is a network that turns images into features.

    Raises:
        ValueError: if its observations are images and there is no such network, or its actions have no bounds.
    """
    from gymnasium import spaces

    if isinstance(world, World):
        worlds = make_worlds(world, 1)
        seen, acts = worlds.single_observation_space, worlds.single_action_space
    else:
        seen, acts = world.observation_space, world.action_space
    categories: tuple[int, ...] = ()
    image: tuple[int, ...] = ()
    if isinstance(seen, spaces.Discrete):
        categories = (int(seen.n),)
    elif isinstance(seen, spaces.MultiDiscrete):
        categories = tuple(int(number) for number in np.ravel(seen.nvec))
    elif len(seen.shape) >= 2 and seen.dtype == np.uint8:
        image = tuple(seen.shape)
        if not images:
            raise ValueError(
                f"the observations of {world.name} are images {list(image)}, and backend {name!r} sees vectors; give "
                f"network=, a torch module from images [N, {', '.join(map(str, image))}] (float32, as the world gives "
                "them) to features [N, k], or turn them into features in a wrapper of the environment"
            )
    size = sum(categories) if categories else int(np.prod(seen.shape))
    nothing = torch.zeros(0, dtype=torch.float64)
    if isinstance(acts, spaces.Discrete):
        return Interface(categories, size, int(acts.n), nothing, nothing, (), image=image)
    low, high = (torch.as_tensor(np.ravel(part), dtype=torch.float64) for part in (acts.low, acts.high))
    if not bool(torch.isfinite(high - low).all()):
        raise ValueError(
            f"the actions of {world.name} have no bounds, and backend {name!r} acts in a box; give action_bounds=(low, "
            "high) to environment_model, or an action prior on a box to the model"
        )
    horizon = float(world.horizon) if isinstance(world, World) else math.inf
    return Interface(categories, size, 0, low, high, tuple(acts.shape), horizon, image)


def log_prior_of(world: Any, interface: Interface) -> LogPrior | None:
    """The action prior as networks ask for it; None where it is uniform.

    Args:
        world: the world.
        interface: how networks see it.

    Returns:
        A function: discrete, (observations [N, n], anything) -> log p [N, A]; in a box, (observations, actions [N, d]
        in [-1, 1]) -> [N], the log of the density relative to the uniform one.
    """
    from cai.models.environments.spaces import UniformActions

    if isinstance(world, EnvironmentModel):
        if isinstance(world.action_prior, UniformActions):
            return None
        prior = world.action_prior

        def asked(observations: Tensor, actions: Tensor) -> Tensor:
            found = prior(interface.observations(observations, world.observation_space.shape))
            if interface.num_actions:
                return torch.log_softmax(found.logits, -1).float()
            return (found.log_prob(interface.to_world(actions)) + interface.log_volume).float()

        return asked

    def of_model(observations: Tensor, actions: Tensor) -> Tensor:
        finite = world.horizon != math.inf
        states = observations[:, : world.state_dim].double()
        times = (observations[:, -1] * world.horizon).round().long() if finite else torch.zeros(len(states)).long()
        scores = torch.zeros(len(states), dtype=torch.float64)
        taken = interface.to_world(actions)
        for t in times.unique().tolist():
            rows = times == t
            scores[rows] = world.prior(states[rows], min(int(t), world.steps - 1)).log_prob(taken[rows])
        return (scores + interface.log_volume).float()

    if is_uniform(world, interface):
        return None
    return of_model


def is_uniform(world: World, interface: Interface) -> bool:
    """Whether the action prior of a continuous model is uniform over the box, as far as a few states show."""
    generator = torch.Generator().manual_seed(0)
    states = world.reset(4, generator)
    middle = interface.low + (interface.high - interface.low) * torch.rand(4, len(interface.low), generator=generator)
    scores = world.prior(states, 0).log_prob(middle.to(states))
    return bool(torch.allclose(scores, torch.full_like(scores, -interface.log_volume), atol=1e-9))
