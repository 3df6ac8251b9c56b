"""Which spaces of observations and actions a world may have, and the uniform action prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Uniform

__all__ = ["UniformActions", "bounded_actions", "check_observations", "check_prior", "counted_from_0", "reset_mode"]

TRIED = 16  # actions of each observation at which a prior is looked at


@dataclass(frozen=True)
class UniformActions:
    """The action prior that is uniform over an action space, in the environment's own units.

    Args:
        space: `Discrete(n)`, or a Box with finite bounds.
    """

    space: Any

    def __call__(self, observations: Any) -> Distribution:
        """The distribution of actions for observations [N, ...], batch shape [N].

        Of a Box its event shape is the box's own and its density 1 / volume; of `Discrete(n)` it is a `Categorical`.
        """
        number = len(torch.as_tensor(observations))
        if hasattr(self.space, "n"):
            return Categorical(logits=torch.zeros(number, int(self.space.n), dtype=torch.float64))
        low, high = (torch.as_tensor(part, dtype=torch.float64) for part in (self.space.low, self.space.high))
        batch = (number, *low.shape)
        return Independent(Uniform(low.expand(batch), high.expand(batch), validate_args=False), low.dim())

    def sample(self, observations: Any, generator: torch.Generator) -> Tensor:
        """Actions [N, ...] for observations [N, ...], drawn by the generator alone; float64, or int64."""
        number = len(torch.as_tensor(observations))
        if hasattr(self.space, "n"):
            return torch.randint(int(self.space.n), (number,), generator=generator)
        low, high = (torch.as_tensor(part, dtype=torch.float64) for part in (self.space.low, self.space.high))
        return low + (high - low) * torch.rand((number, *low.shape), generator=generator, dtype=torch.float64)


def check_observations(space: Any, name: str) -> None:
    """Refuses a space of observations that no learner takes.

    Args:
        space: of one environment.
        name: of the environment, for messages.

    Raises:
        ValueError: unless it is a Box, Discrete or MultiDiscrete of at least one number.
    """
    from gymnasium import spaces

    if isinstance(space, (spaces.Dict, spaces.Tuple, spaces.MultiBinary)):
        raise ValueError(
            f"the observations of {name} are {space}; a world's are one array of numbers: wrap the environment in "
            "gymnasium.wrappers.FlattenObservation, and give the world a function that makes it"
        )
    if not isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete)):
        raise ValueError(
            f"the observations of {name} are {space}; expected a Box, Discrete or MultiDiscrete: transform them with "
            "gymnasium.wrappers.TransformObservation, and give the world a function that makes the environment"
        )
    if 0 in (getattr(space, "shape", None) or ()):
        raise ValueError(
            f"the observations of {name} are {space}, which hold no number at all; show at least one, e.g. a 0"
        )


def bounded_actions(space: Any, bounds: Any, name: str) -> Any:
    """The space of actions of a world, with finite bounds, or counted from 0.

    Args:
        space: of one environment.
        bounds: (low, high), numbers or arrays of the box's shape; None for the space's own.
        name: of the environment, for messages.

    Raises:
        TypeError, ValueError: unless it is a Box with finite bounds or Discrete; or if bounds do not fit it.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        if bounds is not None:
            raise ValueError(f"action_bounds are for boxes; the actions of {name} are {space}: leave them out")
        return counted_from_0(space)
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"the actions of {name} are {space}; expected Discrete or a Box: number the combinations in a "
            "gymnasium.ActionWrapper with a Discrete space, and give the world a function that makes the environment"
        )
    if 0 in space.shape:
        raise ValueError(f"the actions of {name} are {space}, which hold no number, so that nothing is chosen")
    if not np.issubdtype(space.dtype, np.floating):
        raise ValueError(
            f"the actions of {name} are {space}, whole numbers, of which there are no densities; in a "
            "gymnasium.ActionWrapper number them by a Discrete space, or, if they are too many, show a Box of floats "
            "and round"
        )
    if bounds is None:
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise ValueError(
                f"the actions of {name} are {space}, which has no finite bounds; give action_bounds=(low, high), the "
                "box in which a policy is to act"
            )
        if (space.low >= space.high).any():
            raise ValueError(f"the actions of {name} are {space}, which has no volume")
        return space
    try:
        low, high = (np.broadcast_to(np.asarray(part, dtype=space.dtype), space.shape) for part in bounds)
    except (TypeError, ValueError):
        raise ValueError(
            f"action_bounds is {bounds!r}; give (low, high), numbers or arrays of shape {list(space.shape)}"
        ) from None
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise ValueError(f"action_bounds is {bounds!r}; give finite numbers of {space.dtype}, low < high")
    if (low < space.low).any() or (high > space.high).any():
        raise ValueError(f"action_bounds is {bounds!r}, which leaves the actions of {name}, {space}")
    return spaces.Box(low, high, dtype=space.dtype.type)


def check_prior(prior: Any, seen: Any, space: Any, name: str) -> None:
    """Refuses a function that is no action prior.

    Args:
        prior: what it is.
        seen: [N, ...], some observations.
        space: of actions, `Discrete(n)` or a bounded Box.
        name: of the environment, for messages.

    Raises:
        TypeError, ValueError: unless it makes a distribution of actions for each observation, in a Box with a density
            everywhere.
    """
    found, number, shape = prior(seen), len(seen), tuple(space.shape)
    if not isinstance(found, Distribution):
        raise TypeError(
            f"the action prior of {name} returned a {type(found).__name__}; expected a torch distribution over actions"
        )
    told = f"the action prior of {name} returned {type(found).__name__}"
    batch, event = tuple(found.batch_shape), tuple(found.event_shape)
    if (batch, event) != ((number,), shape):
        one_by_one = bool(shape) and batch == (number, *shape)
        how = f" (torch.distributions.Independent(..., {len(shape)}) makes it so)" if one_by_one else ""
        raise ValueError(
            f"{told} with batch shape {list(batch)} and event shape {list(event)} for {number} observations; expected "
            f"[{number}] and {list(shape)}{how}"
        )
    if hasattr(space, "n"):
        logits = getattr(found, "logits", None)
        if logits is None or tuple(logits.shape) != (number, space.n):
            had = "" if logits is None else f" with logits {list(logits.shape)}"
            raise ValueError(f"{told}{had}; expected Categorical with logits [{number}, {space.n}]")
        return
    draws = torch.Generator().manual_seed(0)
    for _ in range(TRIED):
        actions = UniformActions(space).sample(seen, draws)
        try:
            lost = ~torch.isfinite(found.log_prob(actions))
        except ValueError:  # it checks its arguments itself, all in one
            lost = torch.ones(number, dtype=torch.bool)
        if bool(lost.any()):
            raise ValueError(
                f"{told}, without density at {actions[lost][0].tolist()}, an action of {space}; give it one on all "
                "of the box, or narrow this by action_bounds=(low, high)"
            )


def counted_from_0(space: Any) -> Any:
    """The space with whole numbers that count from 0 in place of those that count from another number."""
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete) and space.start != 0:
        return spaces.Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete) and np.any(space.start):
        return spaces.MultiDiscrete(space.nvec, dtype=space.dtype.type)
    return space


def reset_mode(environment: Any) -> Any:
    """How a vector environment resets, as it says itself; its `metadata` if it does not.

    Copies of `SyncVectorEnv` made of the same class share one `metadata` where that of the class is taken, so that the
    last one made speaks for all.
    """
    return getattr(environment, "autoreset_mode", None) or environment.metadata.get("autoreset_mode")
