"""Classes of policies over continuous actions that a restricted guide may choose from."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cai.inference.restricted.classes import ModulePolicy, PolicyClass
from cai.inference.restricted.continuous.guides import (
    FlowGuide,
    GaussianGuide,
    Guide,
    LinearGuide,
    MixtureGuide,
    ModuleGuide,
    Sizes,
)
from cai.inference.restricted.parameters import PolicyParameters, Shape
from cai.models.common.checks import as_count, float_tensor
from cai.models.common.storage import storable

__all__ = [
    "ActionClass",
    "FlowPolicy",
    "LinearGaussianPolicy",
    "MixturePolicy",
    "NetworkPolicy",
    "TanhGaussianPolicy",
    "make_guide",
]


class ActionClass(PolicyClass):
    """A set of policies q(a_t | s_t) over actions in R^m, given states in R^n."""

    needs_box: ClassVar[bool] = False  # whether it is one over a box alone

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

    def guide(self, sizes: Sizes) -> Guide:
        """New parameters; what they draw comes from torch's generator."""
        raise NotImplementedError


def make_guide(policy: PolicyClass, sizes: Sizes) -> Guide:
    """New parameters of a class of policies over continuous actions, a user's module among them."""
    if isinstance(policy, ModulePolicy):
        return ModuleGuide(sizes, copy.deepcopy(policy.module))
    assert isinstance(policy, ActionClass)
    return policy.guide(sizes)


def _check_flag(stationary: Any) -> None:
    if not isinstance(stationary, bool):
        raise TypeError(f"stationary is {stationary!r}; expected True or False")


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
        _check_flag(self.stationary)

    def guide(self, sizes: Sizes) -> Guide:
        return LinearGuide(sizes, self.stationary)


@dataclass(frozen=True, eq=False)
class NetworkPolicy(ActionClass):
    """What policies share whose law of actions a network computes from s_t and t / T.

    Args:
        stationary: whether the network does not see the time.
        low: the least action, a number or [m]; that of the action prior where it has a box, unless given.
        high: the largest action.
        hidden_sizes: the widths of the network's layers, tanh units.

    Raises:
        TypeError, ValueError: on a box without an inside, or widths that are no counts.
    """

    stationary: bool = False
    low: Any = None
    high: Any = None
    hidden_sizes: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        _check_flag(self.stationary)
        sizes = (self.hidden_sizes,) if isinstance(self.hidden_sizes, int) else tuple(self.hidden_sizes)
        if not sizes:
            raise ValueError("hidden_sizes is empty; give the width of at least one layer, e.g. (64, 64)")
        object.__setattr__(self, "hidden_sizes", tuple(as_count(size, "hidden_sizes") for size in sizes))
        if (self.low is None) != (self.high is None):
            raise ValueError(f"low is {self.low!r} and high is {self.high!r}; give both, or none")
        if self.low is None:
            return
        for name in ("low", "high"):
            given = getattr(self, name)
            values = torch.tensor(float(given)) if isinstance(given, (int, float)) else float_tensor(given, name)[0]
            object.__setattr__(self, name, values.double().reshape(-1))
        low, high = torch.broadcast_tensors(self.low, self.high)
        if not bool((low < high).all()) or not bool((low.isfinite() & high.isfinite()).all()):
            raise ValueError(f"low is {low.tolist()} and high is {high.tolist()}; expected finite numbers, low < high")


@storable("policy-class-tanh-gaussian")
@dataclass(frozen=True, eq=False)
class TanhGaussianPolicy(NetworkPolicy):
    """a = low + (high - low) (tanh u + 1) / 2 with independent Gaussians u, whose means and widths a network computes.

    Its density is exact (change of variables in u, Haarnoja et al. 2018, appendix C).

    Args:
        stationary: whether the network does not see the time.
        low: the least action, a number or [m]; that of the action prior where it has a box, unless given.
        high: the largest action.
        hidden_sizes: the widths of the network's layers, tanh units.

    Raises:
        TypeError, ValueError: on a box without an inside, or widths that are no counts.
    """

    needs_box: ClassVar[bool] = True

    def guide(self, sizes: Sizes) -> Guide:
        return GaussianGuide(sizes, self.hidden_sizes, self.stationary)


@storable("policy-class-mixture")
@dataclass(frozen=True, eq=False)
class MixturePolicy(NetworkPolicy):
    """K Gaussians with weights, all by a network; squashed into the box where the actions have one.

    No gradient passes through the choice of a component, so it is fitted by score-function gradients.

    Args:
        stationary: whether the network does not see the time.
        low: the least action, a number or [m]; that of the action prior where it has a box, unless given.
        high: the largest action.
        hidden_sizes: the widths of the network's layers, tanh units.
        components: K.

    Raises:
        TypeError, ValueError: on a box without an inside, or widths or K that are no counts.
    """

    components: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "components", as_count(self.components, "components"))

    def guide(self, sizes: Sizes) -> Guide:
        return MixtureGuide(sizes, self.hidden_sizes, self.stationary, self.components)


@storable("policy-class-flow")
@dataclass(frozen=True, eq=False)
class FlowPolicy(NetworkPolicy):
    """A normalising flow: normal numbers through autoregressive rational splines; squashed into a box if there is one.

    The splines are Pyro's (Durkan et al. 2019; Dolatabadi et al. 2020), and a network bends them by s_t and t / T. The
    density is exact, and gradients pass through draws. It may have many modes, so no one action stands for it.

    Args:
        stationary: whether the network does not see the time.
        low: the least action, a number or [m]; that of the action prior where it has a box, unless given.
        high: the largest action.
        hidden_sizes: the widths of the network's layers, tanh units.
        layers: how many transforms follow each other.
        bins: of each spline.

    Raises:
        TypeError, ValueError: on a box without an inside, or counts that are none.
    """

    layers: int = 2
    bins: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", as_count(self.layers, "layers"))
        object.__setattr__(self, "bins", as_count(self.bins, "bins", 2))

    def guide(self, sizes: Sizes) -> Guide:
        return FlowGuide(sizes, self.hidden_sizes, self.stationary, self.layers, self.bins)
