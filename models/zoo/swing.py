"""Swinging something up: a pendulum, and a pole on a cart."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cai.models.common.storage import storable
from cai.models.continuous.model import ContinuousModel
from cai.models.continuous.priors import Flat

__all__ = ["cart_pole", "pendulum"]

GRAVITY = 9.81


def limited(action: Tensor, limit: float) -> Tensor:
    """Limit * tanh(a / limit): what a motor makes of the action."""
    return limit * torch.tanh(action / limit)


@storable("weighted-swing-reward")
@dataclass(frozen=True)
class SwingReward:
    """Minus a cost of a state whose coordinates are weighted squares, but for one angle, and of the action.

    -scale (sum_i weights_i s_i^2 + upright (1 - cos s_angle) + effort a^2); called with states alone without the last.

    Attributes:
        weights: of the squares; 0 for the angle.
        angle: the number of the coordinate that is an angle, 0 when upright.
        upright: the weight of 1 - cos.
        effort: the weight of the squared action.
        scale: of the whole, e.g. the time step.
    """

    weights: tuple[float, ...]
    angle: int
    upright: float
    effort: float
    scale: float

    def __call__(self, state: Tensor, action: Tensor | None = None, t: int = 0) -> Tensor:
        weights = state.new_tensor(self.weights)
        cost = (weights * state.square()).sum(-1) + self.upright * (1 - torch.cos(state[..., self.angle]))
        if action is not None:
            cost = cost + self.effort * action.square().sum(-1)
        return -self.scale * cost

    def terms(self) -> dict[str, SwingReward]:
        """Its parts by name, which add up to it: being upright, the weighted squares, and the effort."""
        nothing = (0.0,) * len(self.weights)
        return {
            "upright": replace(self, weights=nothing, effort=0.0),
            "weighted squares": replace(self, upright=0.0, effort=0.0),
            "effort": replace(self, weights=nothing, upright=0.0),
        }


@storable("pendulum-dynamics")
@dataclass(frozen=True)
class PendulumDynamics:
    """(angle, angular velocity) one time step later, by semi-implicit Euler."""

    time_step: float
    limit: float
    friction: float

    def __call__(self, state: Tensor, action: Tensor, t: int) -> Tensor:
        angle, speed = state.unbind(-1)
        torque = limited(action[..., 0], self.limit)
        speed = speed + self.time_step * (GRAVITY * torch.sin(angle) + torque - self.friction * speed)
        return torch.stack([angle + self.time_step * speed, speed], -1)


def pendulum(
    *, horizon: int = 100, temperature: float = 0.01, discount: float = 1.0, action_prior: Any = None
) -> ContinuousModel:
    """Swing a pendulum up with a motor that is too weak to lift it, and hold it there.

    The task of Todorov and Li 2005 ("A generalized iterative LQG method") and of Gymnasium's Pendulum, with numbers of
    our own: state (angle, angular velocity), angle 0 is up and the start hangs, (pi, 0); time step h = 0.05,

        speed' = speed + h (9.81 sin(angle) + 5 tanh(a / 5) - 0.1 speed),   angle' = angle + h speed'

    A step costs h (5 (1 - cos angle) + 0.05 speed^2 + 0.05 a^2), the end 50 (1 - cos angle) + 2.5 speed^2. Doing
    nothing costs 150 and is a stationary point; a swing-up costs 23.87 over 100 steps.

    Args:
        horizon: T.
        temperature: alpha; at the default the noise of a soft policy does not shake the pendulum down.
        discount: in (0, 1].
        action_prior: `Flat()` unless given.
    """
    h = 0.05
    return ContinuousModel(
        torch.tensor([math.pi, 0.0], dtype=torch.float64),
        PendulumDynamics(h, 5.0, 0.1),
        SwingReward((0.0, 0.05), 0, 5.0, 0.05, h),
        horizon,
        Flat() if action_prior is None else action_prior,
        SwingReward((0.0, 2.5), 0, 50.0, 0.0, 1.0),
        temperature,
        discount,
        name="pendulum",
    )


@storable("cart-pole-dynamics")
@dataclass(frozen=True)
class CartPoleDynamics:
    """(position, angle, velocity, angular velocity) one time step later, by semi-implicit Euler.

    Attributes:
        time_step: h.
        limit: of the force.
        cart: mass of the cart.
        pole: mass of the pole, which is uniform.
        half_length: of the pole.
    """

    time_step: float
    limit: float
    cart: float
    pole: float
    half_length: float

    def __call__(self, state: Tensor, action: Tensor, t: int) -> Tensor:
        position, angle, velocity, speed = state.unbind(-1)
        force = limited(action[..., 0], self.limit)
        sine, cosine = torch.sin(angle), torch.cos(angle)
        total, moment = self.cart + self.pole, self.pole * self.half_length
        push = (force + moment * speed.square() * sine) / total
        inertia = self.half_length * (4 / 3 - self.pole * cosine.square() / total)
        turning = (GRAVITY * sine - cosine * push) / inertia
        velocity = velocity + self.time_step * (push - moment * turning * cosine / total)
        speed = speed + self.time_step * turning
        return torch.stack([position + self.time_step * velocity, angle + self.time_step * speed, velocity, speed], -1)


def cart_pole(
    *, horizon: int = 100, temperature: float = 0.01, discount: float = 1.0, action_prior: Any = None
) -> ContinuousModel:
    """Swing up the pole on a cart by pushing the cart, and hold it there near the middle of the rail.

    The equations of motion of Barto, Sutton and Anderson 1983 ("Neuronlike adaptive elements that can solve difficult
    learning control problems") without friction, gravity 9.81: state (position, angle, velocity, angular velocity),
    angle 0 is up and the start hangs, (0, pi, 0, 0). Masses 1 and 0.1, half length 0.5, a uniform pole (the 4/3), time
    step h = 0.05, force 10 tanh(a / 10), integrated by semi-implicit Euler. A step costs

        h (0.5 x^2 + 5 (1 - cos angle) + 0.05 v^2 + 0.05 speed^2 + 0.01 a^2)

    and the end 10 x^2 + 50 (1 - cos angle) + v^2 + speed^2. A swing-up costs 19.97 over 100 steps.

    Args:
        horizon: T.
        temperature: alpha; at the default the noise of a soft policy does not shake the pole down.
        discount: in (0, 1].
        action_prior: `Flat()` unless given.
    """
    h = 0.05
    return ContinuousModel(
        torch.tensor([0.0, math.pi, 0.0, 0.0], dtype=torch.float64),
        CartPoleDynamics(h, 10.0, 1.0, 0.1, 0.5),
        SwingReward((0.5, 0.0, 0.05, 0.05), 1, 5.0, 0.01, h),
        horizon,
        Flat() if action_prior is None else action_prior,
        SwingReward((10.0, 0.0, 1.0, 1.0), 1, 50.0, 0.0, 1.0),
        temperature,
        discount,
        name="cart-pole",
    )
