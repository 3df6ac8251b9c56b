"""Policies whose law of actions a network computes, ready to act."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.policy import policy_classes, read_vectors, require_time
from cai.inference.core.status import NotKnown
from cai.inference.core.storage import save, storable
from cai.inference.restricted.continuous.classes import make_guide
from cai.inference.restricted.continuous.guides import Guide, Sizes
from cai.models.common.random_draws import OwnDraws
from cai.models.common.shapes import broadcast_shapes

__all__ = ["GuidePolicy"]


@storable("guide-policy")
@dataclass(frozen=True, eq=False)
class GuidePolicy:
    """q(a_t | s_t) of a class of policies with fitted parameters.

    Args:
        policy_class: e.g. `TanhGaussianPolicy()`.
        parameters: of its guide, by name.
        state_dim: n.
        action_dim: m.
        steps: T, the number of steps that it knows.
        boxed: whether actions lie in the box that the parameters hold.
        greedy: whether it takes what stands for its law instead of a draw.
        source: the backend that it came from, for tables.

    Raises:
        ValueError: if the parameters are not those of the class.
    """

    policy_class: Any
    parameters: dict[str, Tensor] = field(repr=False)
    state_dim: int
    action_dim: int
    steps: int
    boxed: bool
    greedy: bool = False
    source: str = ""
    _guide: Guide = field(init=False, repr=False)

    def __post_init__(self) -> None:
        with OwnDraws(0):
            guide = make_guide(self.policy_class, Sizes(self.state_dim, self.action_dim, self.steps, self.boxed))
        try:
            guide.load_state_dict(self.parameters)
        except RuntimeError as error:
            raise ValueError(
                f"these are no parameters of a {type(self.policy_class).__name__} on {self.state_dim} coordinates of a "
                f"state and {self.action_dim} of an action: {error}"
            ) from None
        object.__setattr__(self, "_guide", guide.requires_grad_(False))

    @property
    def horizon(self) -> int | float:
        """T, the number of steps that it knows; math.inf if it is the same at all times."""
        return math.inf if getattr(self.policy_class, "stationary", False) is True and self._same else self.steps

    @property
    def _same(self) -> bool:
        return self._guide.at_many_times  # a user's module may see the time

    def act(
        self, observations: Any, t: int = 0, *, generator: torch.Generator | None = None, deterministic: bool = False
    ) -> Tensor:
        """Actions [..., m] in states [..., n].

        Args:
            observations: states.
            t: the time index (from 0).
            generator: draws the actions; the global one unless given.
            deterministic: whether to take one action for each state instead of a draw: what the mean of u stands for,
                of a mixture the middle of its heaviest component.

        Raises:
            ValueError: if time or shape do not fit, or a state is not finite.
            NotKnown: if no one action stands for the law, as for a flow.
        """
        states, t = self._states(observations), self._time(t)
        rows = states.reshape(-1, self.state_dim)
        with torch.no_grad():
            if deterministic or self.greedy:
                found = self._guide.centre(rows, t)
            elif generator is None:
                found = self._guide.law(rows, t).sample()
            else:
                with OwnDraws(generator):
                    found = self._guide.law(rows, t).sample()
        return found.reshape(*states.shape[:-1], self.action_dim)

    def log_prob(self, actions: Any, observations: Any, t: int = 0) -> Tensor:
        """[...], the log density of actions [..., m] in states [..., n], nats; -inf at the bounds of a box and beyond.

        Raises:
            ValueError: as `act`.
            NotKnown: if the policy is greedy, and so has no density.
        """
        if self.greedy:
            raise NotKnown("densities", "a policy that is certain", "extract the stochastic one")
        states, t = self._states(observations), self._time(t)
        taken = torch.as_tensor(actions, dtype=torch.float64)
        if taken.shape[-1:] != (self.action_dim,):
            raise ValueError(f"actions have shape {list(taken.shape)}; expected [..., {self.action_dim}]")
        shape = broadcast_shapes(states.shape[:-1], taken.shape[:-1])
        rows = states.expand(*shape, self.state_dim).reshape(-1, self.state_dim)
        with torch.no_grad():
            law = self._guide.law(rows, t)
            found = law.log_prob(taken.expand(*shape, self.action_dim).reshape(-1, self.action_dim))
        return found.reshape(shape)

    def save(self, path: str | Path) -> Path:
        """Writes class and parameters to a file that `cai.load` reads; returns the path.

        Raises:
            StorageError: if the policy is a user's module, which no file holds.
        """
        return save(path, self)

    def _time(self, t: int) -> int:
        if self.horizon == math.inf:
            return 0
        require_time(t, self.steps, "infer with a longer horizon, or over a stationary class")
        return t

    def _states(self, observations: Any) -> Tensor:
        return read_vectors(observations, self.state_dim, torch.float64)

    def __repr__(self) -> str:
        sizes = f"n={self.state_dim}, m={self.action_dim}"
        return f"{type(self).__name__}({type(self.policy_class).__name__}, T={self.horizon}, {sizes}, {self.source!r})"


policy_classes["guide"] = GuidePolicy
