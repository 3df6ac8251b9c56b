"""Classes of policies over continuous actions that a restricted guide may choose from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cai.inference.restricted.classes import PolicyClass
from cai.inference.restricted.parameters import PolicyParameters, Shape
from cai.models.common.storage import storable

__all__ = ["ActionClass", "LinearGaussianPolicy"]


class ActionClass(PolicyClass):
    """A set of policies q(a_t | s_t) over actions in R^m, given states in R^n."""

    def check(self, shape: Shape, infinite: bool) -> None:
        """Raises ValueError: tables have numbered actions."""
        raise ValueError(
            f"{type(self).__name__} is a density over continuous actions, and here they are numbered; use "
            "StationaryPolicy(), TabularPolicy(), ObservationPolicy(...) or ModulePolicy(...)"
        )

    def start(self, shape: Shape, log_prior: Tensor) -> PolicyParameters:
        """Raises ValueError, as `check`."""
        self.check(shape, False)
        raise AssertionError


@storable("policy-class-linear-gaussian")
@dataclass(frozen=True)
class LinearGaussianPolicy(ActionClass):
    """a_t ~ N(K_t s_t + k_t, Sigma_t), with a free gain, offset and covariance at each time, or one for all times.

    On a `LinearGaussianModel` its bound is known exactly, by the moments of states and actions, and its best policy is
    that of `variational`; a stationary one is worth at most as much.

    Args:
        stationary: whether one K, k, Sigma serves all times.

    Raises:
        TypeError: if `stationary` is no truth value.
    """

    stationary: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.stationary, bool):
            raise TypeError(f"stationary is {self.stationary!r}; expected True or False")
