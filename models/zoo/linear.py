"""Linear-Gaussian problems: a cart on a rail, and a plant that is seen through noise."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cai.models.continuous.linear_gaussian import LinearGaussianModel
from cai.models.continuous.priors import Flat, LinearNormal
from cai.models.continuous.quadratic import QuadraticReward

__all__ = ["SeenState", "double_integrator", "lqg", "lqg_observations"]


def _tensor(rows: list[Any]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def double_integrator(
    *,
    horizon: int | float = 25,
    temperature: float = 1.0,
    discount: float = 1.0,
    noise: float = 0.1,
    action_prior: Any = None,
) -> LinearGaussianModel:
    """Push a cart on a rail to the origin and stop it there, while it is shaken.

    The double integrator, as in Rao and Bernstein 2001 ("Naive control of the double integrator"): state (position,
    velocity), action a force on a unit mass, held for a time step h = 0.2. The acceleration is disturbed by white noise
    of intensity `noise`, so that

        A = [1 h; 0 1]   B = [h^2/2; h]   W = noise [h^3/3 h^2/2; h^2/2 h]
        Q = diag(1, 0.1)   R = 0.1   Qf = diag(10, 1)   m1 = (1.5, 0)   S1 = diag(0.05, 0.05)   prior N(0, 4)

    With the defaults the dial of `risk` breaks down well below eta = -0.05.

    Args:
        horizon: T, or math.inf (then there is no final reward).
        temperature: alpha.
        discount: in (0, 1].
        noise: intensity of the disturbance, at least 0.
        action_prior: N(0, 4) unless given.
    """
    h = 0.2
    if not noise >= 0:
        raise ValueError(f"noise is {noise}; it is an intensity: give a number of at least 0")
    final = _tensor([[10.0, 0.0], [0.0, 1.0]]) if horizon != math.inf else None
    return LinearGaussianModel(
        _tensor([[1.0, h], [0.0, 1.0]]),
        _tensor([[h**2 / 2], [h]]),
        noise=noise * _tensor([[h**3 / 3, h**2 / 2], [h**2 / 2, h]]),
        initial=(_tensor([1.5, 0.0]), 0.05 * torch.eye(2, dtype=torch.float64)),
        horizon=horizon,
        temperature=temperature,
        discount=discount,
        reward=QuadraticReward(Q=_tensor([[1.0, 0.0], [0.0, 0.1]]), R=_tensor([[0.1]]), final=final),
        action_prior=LinearNormal(L=_tensor([[4.0]])) if action_prior is None else action_prior,
        name="double-integrator",
    )


class SeenState(NamedTuple):
    """What is seen of a state: y = C s + N(0, noise).

    Attributes:
        C: [d, n].
        noise: [d, d], the covariance V.
    """

    C: Tensor
    noise: Tensor


SAMPLING = 0.1  # seconds between the decisions of `lqg`


def lqg(
    *, horizon: int | float = 50, temperature: float = 1.0, discount: float = 1.0, action_prior: Any = None
) -> LinearGaussianModel:
    """An unstable plant that is to be held at the origin and is seen through noise alone: separation, and its price.

    The plant of Doyle 1978 ("Guaranteed margins for LQG regulators"), sampled every h = 0.1 with its force held: in
    continuous time A = [1 1; 0 1], B = [0; 1], state cost q [1 1; 1 1] and disturbance sigma [1 1; 1 1], here with
    q = sigma = 1. Hence

        A = e^h [1 h; 0 1]   B = [(h - 1) e^h + 1; e^h - 1]   W = h [1 1; 1 1]
        Q = h [1 1; 1 1]   R = h   Qf = Q / h   m1 = (1, 0)   S1 = diag(0.5, 0.5)   prior Flat()

    W is singular. With `Flat()` and fixed dynamics the mean action is the gain of the linear-quadratic regulator, and
    where the state is hidden the same gain on the Kalman filter's mean; `lqg_observations` says what is seen.

    Args:
        horizon: T, or math.inf (then there is no final reward).
        temperature: alpha.
        discount: in (0, 1].
        action_prior: `Flat()` unless given.
    """
    h = SAMPLING
    ones = torch.ones(2, 2, dtype=torch.float64)
    return LinearGaussianModel(
        math.exp(h) * _tensor([[1.0, h], [0.0, 1.0]]),
        _tensor([[(h - 1) * math.exp(h) + 1], [math.exp(h) - 1]]),
        noise=h * ones,
        initial=(_tensor([1.0, 0.0]), 0.5 * torch.eye(2, dtype=torch.float64)),
        horizon=horizon,
        temperature=temperature,
        discount=discount,
        reward=QuadraticReward(Q=h * ones, R=_tensor([[h]]), final=ones if horizon != math.inf else None),
        action_prior=Flat() if action_prior is None else action_prior,
        name="lqg",
    )


def lqg_observations(noise: float = 1.0) -> SeenState:
    """What is seen of the state of `lqg`: its first coordinate, C = [1 0], with variance V = noise / h, h = 0.1.

    Doyle's plant has white noise of intensity `noise` on its one sensor; averaged over a sampling interval that is
    variance noise / h.

    Args:
        noise: intensity, above 0.
    """
    if not noise > 0:
        raise ValueError(f"noise is {noise}; a sensor without noise sees the state itself: give a number above 0")
    return SeenState(_tensor([[1.0, 0.0]]), _tensor([[noise / SAMPLING]]))
