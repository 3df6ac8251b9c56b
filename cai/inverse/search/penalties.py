"""Penalties on coefficients: minus the log density of a normal or Laplace prior, or any log density."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["L1", "L2", "Penalty", "log_density", "sharpness"]

LogDensity = Callable[[Tensor], Tensor]


def _checked(scale: Any, name: str) -> float:
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise ValueError(f"{name}({scale!r}): the scale is a finite number above 0, in units of the coefficients")
    return float(scale)


@dataclass(frozen=True)
class L2:
    """-w^2 / (2 s^2) for every free coefficient w: a normal prior with standard deviation s, on unscaled features."""

    scale: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _checked(self.scale, "L2"))

    def __call__(self, coefficients: Tensor) -> Tensor:
        return -(coefficients**2).sum() / (2 * self.scale**2)


@dataclass(frozen=True)
class L1:
    """-|w| / s for every free coefficient w: a Laplace prior with scale s, on unscaled features."""

    scale: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _checked(self.scale, "L1"))


Penalty = L1 | L2 | LogDensity


def sharpness(penalty: Penalty | None) -> float:
    """The slope 1 / s of an absolute value, 0 where the penalty has none."""
    return 1.0 / penalty.scale if isinstance(penalty, L1) else 0.0


def log_density(penalty: Penalty | None) -> LogDensity | None:
    """The smooth part of a penalty as a differentiable function of the free coefficients; None where there is none.

    Args:
        penalty: None, `L1`, `L2`, a function of a tensor [F] that returns one number in nats, or a distribution of
            torch or Pyro over one coefficient or over all.

    Raises:
        TypeError: if it is none of these.
    """
    if penalty is None or isinstance(penalty, L1):
        return None
    if isinstance(penalty, torch.distributions.Distribution):
        distribution = penalty
        return lambda coefficients: supported(distribution, coefficients)
    if not callable(penalty):
        raise TypeError(f"penalty is {penalty!r}; expected L2(s), L1(s) or a log density, a function of a tensor [F]")
    return penalty


def supported(distribution: torch.distributions.Distribution, values: Tensor) -> Tensor:
    """The log density of values, their sum; -inf outside of its support, where torch raises."""
    support: Any = distribution.support
    inside = bool(support.check(values.detach()).all())
    return distribution.log_prob(values).sum() if inside else values.new_tensor(-math.inf)


def steepness(penalty: Penalty | None, at: Tensor) -> Tensor:
    """[F] >= 0, square roots of the curvatures of a penalty's smooth part at a place; 0 where there are none."""
    density = log_density(penalty)
    if density is None or derivatives(density, at) is None:
        return torch.zeros_like(at)
    return curvature(density, at).diagonal().abs().nan_to_num(0.0, 0.0, 0.0).sqrt()


def derivatives(density: LogDensity, at: Tensor) -> tuple[float, Tensor] | None:
    """Value and gradient of a log density; None where it is not finite."""
    place = at.detach().clone().requires_grad_(True)
    value = density(place)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError(
            f"the penalty returned {type(value).__name__} {tuple(getattr(value, 'shape', ()))}; a log density is a "
            "tensor of one number in nats"
        )
    value = value.double().reshape(())
    if not torch.isfinite(value):
        return None
    if not value.requires_grad:  # a constant
        return float(value), torch.zeros_like(at)
    (slope,) = torch.autograd.grad(value, place, allow_unused=True)
    slope = torch.zeros_like(at) if slope is None else slope
    return (float(value.detach()), slope) if bool(torch.isfinite(slope).all()) else None


def curvature(density: LogDensity, at: Tensor) -> Tensor:
    """[F, F], the Hessian of a log density."""
    return torch.autograd.functional.hessian(lambda w: density(w).double().reshape(()), at.detach())
