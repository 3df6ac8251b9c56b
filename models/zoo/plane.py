"""Ways through the plane: a car past two discs, and a point among four goals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from cai.models.common.storage import storable
from cai.models.continuous.model import ContinuousModel
from cai.models.continuous.priors import Flat

__all__ = ["dubins", "multi_goal"]


@storable("dubins-dynamics")
@dataclass(frozen=True)
class DubinsDynamics:
    """(x, y, heading) one time step later; the turning rate is limit * tanh(a / limit)."""

    time_step: float
    speed: float
    limit: float

    def __call__(self, state: Tensor, action: Tensor, t: int) -> Tensor:
        x, y, heading = state.unbind(-1)
        turning = self.limit * torch.tanh(action[..., 0] / self.limit)
        heading = heading + self.time_step * turning
        x = x + self.time_step * self.speed * torch.cos(heading)
        y = y + self.time_step * self.speed * torch.sin(heading)
        return torch.stack([x, y, heading], -1)


@storable("dubins-reward")
@dataclass(frozen=True)
class DubinsReward:
    """What the discs and the steering cost; called with states alone, the final reward."""

    discs: tuple[tuple[float, float, float], ...]
    margin: float
    softness: float
    steering: float
    goal: tuple[float, float]
    arrival: float

    def __call__(self, state: Tensor, action: Tensor, t: int) -> Tensor:
        return self.near_discs(state) - self.steering * action.square().sum(-1)

    def near_discs(self, state: Tensor) -> Tensor:
        """[...], minus the cost of being in or near a disc."""
        cost = torch.zeros_like(state[..., 0])
        for x, y, radius in self.discs:
            distance = ((state[..., 0] - x) ** 2 + (state[..., 1] - y) ** 2).sqrt()
            cost = cost + torch.nn.functional.softplus((radius + self.margin - distance) / self.softness)
        return -cost

    def terms(self) -> dict[str, DubinsReward]:
        """Its parts by name, which add up to it: the discs and the steering."""
        return {"discs": replace(self, steering=0.0), "steering": replace(self, discs=())}


@storable("dubins-final-reward")
@dataclass(frozen=True)
class DubinsFinalReward:
    """Minus the squared distance from the goal, and the discs once more."""

    reward: DubinsReward

    def __call__(self, state: Tensor) -> Tensor:
        x, y = self.reward.goal
        squared = (state[..., 0] - x) ** 2 + (state[..., 1] - y) ** 2
        return self.reward.near_discs(state) - self.reward.arrival * squared


DISCS = ((2.0, 0.3, 0.8), (3.6, -0.7, 0.7))


def dubins(
    *, horizon: int = 70, temperature: float = 0.01, discount: float = 1.0, action_prior: Any = None
) -> ContinuousModel:
    """A car of constant speed that can only steer, two discs in its way, and a place to be at the end.

    The car is that of Dubins 1957 ("On curves of minimal length with a constraint on average curvature"): state (x, y,
    heading) from (0, 0, 0), speed 1, time step 0.1, turning rate 1.5 tanh(a / 1.5), integrated by semi-implicit Euler
    (the new heading moves the car). The discs have centres (2, 0.3) and (3.6, -0.7) and radii 0.8 and 0.7; at every
    step each costs softplus((radius + 0.1 - distance) / 0.05), and the action 0.05 a^2. At the end 10 times the squared
    distance from (5, 0) is paid, and the discs once more. One can pass on either side: local optima cost about 0.974
    and 5.019.

    Args:
        horizon: T.
        temperature: alpha.
        discount: in (0, 1].
        action_prior: `Flat()` unless given.
    """
    reward = DubinsReward(DISCS, 0.1, 0.05, 0.05, (5.0, 0.0), 10.0)
    return ContinuousModel(
        torch.zeros(3, dtype=torch.float64),
        DubinsDynamics(0.1, 1.0, 1.5),
        reward,
        horizon,
        Flat() if action_prior is None else action_prior,
        DubinsFinalReward(reward),
        temperature,
        discount,
        name="dubins",
    )


GOALS = ((5.0, 0.0), (-5.0, 0.0), (0.0, 5.0), (0.0, -5.0))


def _squared_distance(position: Tensor, goals: tuple[tuple[float, float], ...]) -> Tensor:
    """[...], squared distance to the nearest goal."""
    found = [(position[..., 0] - x) ** 2 + (position[..., 1] - y) ** 2 for x, y in goals]
    return torch.stack(found, -1).amin(-1)


@storable("multi-goal-dynamics")
@dataclass(frozen=True)
class MultiGoalDynamics:
    """The point moves by its action, and stays in the box."""

    half_width: float

    def __call__(self, state: Tensor, action: Tensor, t: int) -> Tensor:
        return (state + action).clamp(-self.half_width, self.half_width)


@storable("multi-goal-reward")
@dataclass(frozen=True)
class MultiGoalReward:
    """What a move costs, how far it ends from the nearest goal, and what entering one pays."""

    dynamics: MultiGoalDynamics
    goals: tuple[tuple[float, float], ...]
    effort: float
    bonus: float
    radius: float
    scale: float
    distance: float = 1.0

    def __call__(self, state: Tensor, action: Tensor, t: int) -> Tensor:
        squared = _squared_distance(self.dynamics(state, action, t), self.goals)
        entered = torch.where(squared < self.radius**2, self.bonus, 0.0)
        return (entered - self.effort * action.square().sum(-1) - self.distance * squared) / self.scale

    def terms(self) -> dict[str, MultiGoalReward]:
        """Its parts by name, which add up to it: the effort, the distance from the nearest goal, and what goals pay."""
        return {
            "effort": replace(self, bonus=0.0, distance=0.0),
            "distance": replace(self, bonus=0.0, effort=0.0),
            "goal": replace(self, effort=0.0, distance=0.0),
        }


@storable("multi-goal-end")
@dataclass(frozen=True)
class NearGoal:
    """Whether a state is strictly within a radius of a goal."""

    goals: tuple[tuple[float, float], ...]
    radius: float

    def __call__(self, state: Tensor) -> Tensor:
        return _squared_distance(state, self.goals) < self.radius**2


@storable("box-prior")
@dataclass(frozen=True)
class BoxPrior:
    """Uniform actions in [-half_width, half_width]^dim."""

    dim: int
    half_width: float

    def __call__(self, state: Tensor, t: int) -> dist.TorchDistribution:
        width = state.new_full((*state.shape[:-1], self.dim), self.half_width)
        return dist.Uniform(-width, width, validate_args=False).to_event(1)


def multi_goal(
    *, horizon: int = 30, temperature: float = 1.0, discount: float = 1.0, action_prior: Any = None
) -> ContinuousModel:
    """A point in the plane and four equally good goals: a policy that commits to one of them is not the soft optimum.

    The world of Haarnoja et al. 2017 ("Reinforcement learning with deep energy-based policies", appendix D): position
    in [-7, 7]^2 from (0, 0), x' = clip(x + a) with a in [-1, 1]^2; goals (5, 0), (-5, 0), (0, 5) and (0, -5). A step
    pays (-30 |a|^2 - squared distance of x' to the nearest goal, + 10 if x' lies within 1 of it) / 10, and the episode
    ends there. Values are relative to the action prior, uniform on the box: V(0, 0) = -23.062 at the defaults.

    Args:
        horizon: T.
        temperature: alpha.
        discount: in (0, 1].
        action_prior: uniform on [-1, 1]^2 unless given.
    """
    dynamics = MultiGoalDynamics(7.0)
    return ContinuousModel(
        torch.zeros(2, dtype=torch.float64),
        dynamics,
        MultiGoalReward(dynamics, GOALS, 30.0, 10.0, 1.0, 10.0),
        horizon,
        BoxPrior(2, 1.0) if action_prior is None else action_prior,
        temperature=temperature,
        discount=discount,
        terminal=NearGoal(GOALS, 1.0),
        name="multi-goal",
    )
