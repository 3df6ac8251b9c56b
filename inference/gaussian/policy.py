"""Linear-Gaussian policies: what a Gaussian answer says to do, ready to act."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.policy import LONGER, policy_classes, read_vectors, require_time
from cai.inference.core.status import NotKnown
from cai.inference.core.storage import save, storable
from cai.inference.gaussian.problem import times
from cai.inference.gaussian.spectrum import root_of

__all__ = ["GaussianPolicy"]


@storable("gaussian-policy")
@dataclass(frozen=True, eq=False)
class GaussianPolicy:
    """a_t ~ N(K_t s_t + k_t, Sigma_t), for each time or stationary.

    It acts in float64 on the CPU, wherever its tensors came from.

    Args:
        gain: K [..., T, m, n]; batch axes lead. With `stationary`, T is 1.
        offset: k [..., T, m].
        covariance: Sigma [..., T, m, m]; zero for a policy that is certain.
        stationary: whether the one step serves every time.
        source: the backend that it came from, for tables.
        on_estimates: whether "states" are a filter's means, E[s_t | y_1 .. y_t], as for `lqg`.

    Raises:
        ValueError: if shapes do not fit each other, or a stationary policy has more than one step.
    """

    gain: Tensor
    offset: Tensor
    covariance: Tensor
    stationary: bool = False
    source: str = ""
    on_estimates: bool = False
    _roots: Tensor = field(init=False, repr=False)

    _stored_axes = {"gain": "... T m n", "offset": "... T m", "covariance": "... T m m"}

    def __post_init__(self) -> None:
        gain, offset, covariance = self.gain, self.offset, self.covariance
        m = gain.shape[-2] if gain.dim() >= 3 else -1
        fits = gain.dim() >= 3 and offset.shape[-2:] == (gain.shape[-3], m)
        if not fits or covariance.shape[-3:] != (gain.shape[-3], m, m):
            raise ValueError(
                f"gain, offset and covariance have shapes {list(gain.shape)}, {list(offset.shape)} and "
                f"{list(covariance.shape)}; expected [..., T, m, n], [..., T, m] and [..., T, m, m]"
            )
        if self.stationary and gain.shape[-3] != 1:
            raise ValueError(f"a stationary policy has one step; gain has {gain.shape[-3]} of them")
        for name in ("gain", "offset", "covariance"):
            object.__setattr__(self, name, getattr(self, name).detach().to("cpu", torch.float64))
        object.__setattr__(self, "_roots", root_of(self.covariance))

    @property
    def horizon(self) -> int | float:
        """T, the number of steps that it knows; math.inf if stationary."""
        return math.inf if self.stationary else int(self.gain.shape[-3])

    @property
    def is_certain(self) -> bool:
        """Whether it always does the same in a state."""
        return not bool((self.covariance != 0).any())

    def mean(self, states: Any, t: int = 0) -> Tensor:
        """[..., m], K s + k in states [..., n] at time index t; leading axes broadcast with the batch of the policy.

        Raises:
            ValueError: if the time or the shape does not fit, or a state is not finite.
        """
        t, states = self._time(t), self._states(states)
        return times(self.gain[..., t, :, :], states) + self.offset[..., t, :]

    def act(
        self, observations: Any, t: int = 0, *, generator: torch.Generator | None = None, deterministic: bool = False
    ) -> Tensor:
        """Actions [..., m] in states [..., n]: drawn, or the mean.

        Args:
            observations: states.
            t: the time index (from 0).
            generator: draws the actions; the global one unless given.
            deterministic: whether to take the mean.

        Raises:
            ValueError: as `mean`.
        """
        mean = self.mean(observations, t)
        if deterministic:
            return mean
        drawn = torch.randn(mean.shape, dtype=mean.dtype, generator=generator)
        return mean + times(self._roots[..., self._time(t), :, :], drawn)

    def log_prob(self, actions: Any, observations: Any, t: int = 0) -> Tensor:
        """[...], the log density of actions [..., m] in states [..., n], nats.

        Raises:
            ValueError: as `mean`.
            NotKnown: if the policy is certain in some direction, where it has no density.
        """
        apart = torch.as_tensor(actions, dtype=self.gain.dtype) - self.mean(observations, t)
        root, fault = torch.linalg.cholesky_ex(self.covariance[..., self._time(t), :, :])
        if bool((fault != 0).any()):
            raise NotKnown("densities", "a policy that is certain", "use mean(state, t)", "its covariance is singular")
        scaled = torch.linalg.solve_triangular(root, apart[..., None], upper=False)[..., 0]
        width = root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + apart.shape[-1] / 2 * math.log(2 * math.pi)
        return -scaled.square().sum(-1) / 2 - width

    def save(self, path: str | Path) -> Path:
        """Writes it to a file that `cai.load` reads; returns the path."""
        return save(path, self)

    def _time(self, t: int) -> int:
        if self.stationary:
            return 0
        require_time(t, self.horizon, LONGER)
        return t

    def _states(self, states: Any) -> Tensor:
        return read_vectors(states, self.gain.shape[-1], self.gain.dtype)

    def __repr__(self) -> str:
        sizes = f"n={self.gain.shape[-1]}, m={self.gain.shape[-2]}"
        return f"{type(self).__name__}(T={self.horizon}, {sizes}, source={self.source!r})"


policy_classes["gaussian"] = GaussianPolicy
