"""Horizon, temperature, discount and criterion of a continuous model."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from cai.models.common.checks import whole_horizon
from cai.models.common.numerics import plain_number
from cai.models.trajectory.checks import check_numbers

__all__ = ["read_numbers"]


def read_numbers(model: Any) -> None:
    """Checks the numbers of a model that is being made, and holds each in its own type.

    Raises:
        ValueError: if the horizon, the temperature or the discount is none, or the criterion has no meaning with them.
    """
    put = object.__setattr__
    put(model, "horizon", whole_horizon(model.horizon))
    alpha = model.temperature
    if isinstance(alpha, Tensor) and alpha.dim():
        raise ValueError(
            f"temperature has shape {list(alpha.shape)}; all members of a batch share one number: ask for several one "
            "after the other, e.g. cai.sweep(model, 'exact', model_options={'temperature': [0.5, 1.0]})"
        )
    if isinstance(alpha, Tensor):
        alpha = alpha.double() if alpha.requires_grad else float(alpha)
    check_numbers(plain_number(alpha) if isinstance(alpha, Tensor) and not alpha.dim() else alpha, model.discount)
    put(model, "temperature", alpha if isinstance(alpha, Tensor) else float(alpha))
    put(model, "discount", float(model.discount))
    _check_criterion(model.criterion, model.horizon, model.discount)


def _check_criterion(criterion: str, horizon: int | float, discount: float) -> None:
    """Raises ValueError if the criterion is unknown, or has no meaning with this horizon or discount."""
    if criterion not in ("total", "average"):
        raise ValueError(
            f"criterion is {criterion!r}; expected 'total' (sums of rewards) or 'average' (the reward of a step in the "
            "long run)"
        )
    if criterion == "average" and horizon != math.inf:
        raise ValueError(
            f"criterion='average' is about the long run, and the horizon is {horizon}; give horizon=math.inf, or leave "
            "the criterion out"
        )
    if criterion == "average" and discount != 1:
        raise ValueError(
            f"criterion='average' takes no discount, and this one is {discount:g}; leave out one of the two"
        )
