"""How backend 'restricted' answers a continuous model: what it accepts, by which gradient, and what that takes."""

from __future__ import annotations

import math
from typing import Any

from cai.inference.core.learner import Learner
from cai.inference.core.memory import Need
from cai.inference.gaussian.solve import gaussian_need
from cai.inference.restricted.classes import PolicyClass
from cai.inference.restricted.continuous.classes import ActionClass, LinearGaussianPolicy
from cai.inference.restricted.continuous.linear_ascent import LinearAscent
from cai.models.continuous.linear_gaussian import LinearGaussianModel
from cai.models.continuous.world import World

__all__ = ["check_world", "world_learner", "world_need"]


def check_world(backend: Any, policy: PolicyClass, model: World) -> None:
    """Raises ValueError if the model cannot be answered over this class of policies, and says what can."""
    name = type(policy).__name__
    if not isinstance(policy, ActionClass):
        raise ValueError(
            f"{name} is about numbered states and actions, and those of a {type(model).__name__} are continuous; use "
            "LinearGaussianPolicy()"
        )
    if not isinstance(model, LinearGaussianModel):
        raise ValueError(
            f"backend {backend.name!r} knows the bound of {name}() on a LinearGaussianModel, and this is a "
            f"{type(model).__name__}; use 'ilqr', 'mppi', 'smc', or cai.models.discretize(model, ...)"
        )
    if model.horizon == math.inf:
        raise ValueError(
            f"backend {backend.name!r} answers finite horizons of a LinearGaussianModel: give horizon=N; over an "
            "infinite one the best policy is linear-Gaussian and stationary, which is the answer of 'variational'"
        )
    if backend.gradient not in ("auto", "closed"):
        raise ValueError(
            f"gradient is {backend.gradient!r}, and the bound of {name}() on a LinearGaussianModel is known exactly: "
            "leave gradient out"
        )


def world_learner(backend: Any, policy: PolicyClass, model: Any) -> Learner[Any]:
    """The learner that fits the class to a continuous model."""
    assert isinstance(policy, LinearGaussianPolicy)
    return LinearAscent(backend, model, policy.stationary)


def world_need(backend: Any, policy: PolicyClass, model: Any) -> Need:
    """About what the fit will take."""
    return gaussian_need(model)
