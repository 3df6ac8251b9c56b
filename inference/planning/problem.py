"""A continuous model as a planner reads it: mean dynamics and costs on whole tensors, at one time or at all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from cai.inference.gaussian.problem import GaussianPrior

__all__ = ["ActionPrior", "AtTimes", "Function", "PlanningProblem", "Rollout", "Times"]

Times = Any  # a time index, or all of them: int64 or float64 [T]
Function = Callable[[Tensor, Tensor, Times], Tensor]
Derived = Callable[[Tensor, Tensor, Times], tuple[Tensor, ...]]
SAME = 1e-12  # relative, between all steps at once and one after the other


class ActionPrior(Protocol):
    """A proper action prior, at one time or at all of them."""

    @property
    def gaussian(self) -> GaussianPrior | None:
        """Its parameters where it is linear-Gaussian, with a time axis; else None."""

    def mean(self, states: Tensor, t: Times) -> Tensor:
        """[..., m]."""

    def covariance(self, states: Tensor, t: Times) -> Tensor:
        """[..., m, m]."""

    def log_prob(self, states: Tensor, actions: Tensor, t: Times) -> Tensor:
        """[...], nats."""


@dataclass(frozen=True)
class Rollout:
    """Where actions lead without noise.

    Attributes:
        states: [..., T + 1, n].
        costs: [...], the sum of costs, reward units; inf where it is no finite number.
        diverged: int64 [...], the first time index whose next state or cost is no finite number; T where there is none.
    """

    states: Tensor
    costs: Tensor
    diverged: Tensor


@dataclass(frozen=True, eq=False)
class PlanningProblem:
    """Mean dynamics, rewards and noise of a continuous model, for states [..., n] and actions [..., m].

    Attributes:
        mean_step: (s, a, t) -> [..., n], the mean of the next state.
        reward: (s, a, t) -> [...], without the final one.
        final_cost: (s) -> [...], of s_{T+1}; not discounted with the last step.
        start: [n], the mean of s_1.
        start_covariance: [n, n].
        horizon: T.
        action_dim: m.
        temperature: alpha.
        discount: of what follows a step.
        noise: (s, a, t) -> [..., n, n], the covariance of the next state; None where it is certain.
        prior: of the actions; None where it is flat.
    """

    mean_step: Function
    reward: Function
    final_cost: Callable[[Tensor], Tensor]
    start: Tensor
    start_covariance: Tensor
    horizon: int
    action_dim: int
    temperature: float
    discount: float = 1.0
    noise: Function | None = None
    prior: ActionPrior | None = None

    @property
    def state_dim(self) -> int:
        """N, the number of coordinates of a state."""
        return len(self.start)

    def cost(self, states: Tensor, actions: Tensor, t: Times) -> Tensor:
        """[...], -r - alpha log p(a|s), without the last term where the action prior is flat; reward units."""
        cost = -self.reward(states, actions, t)
        return cost if self.prior is None else cost - self.temperature * self.prior.log_prob(states, actions, t)

    @cached_property
    def weights(self) -> Tensor:
        """[T + 1], what the costs of each step and the final one count in the sum; ones without a discount."""
        steps = self.discount ** torch.arange(self.horizon, dtype=self.start.dtype)
        return torch.cat([steps, steps[-1:]])

    def rollout(self, actions: Tensor, start: Tensor | None = None) -> Rollout:
        """Where actions [..., T, m] lead from the mean start, or from others [..., n]."""
        batch = actions.shape[:-2]
        return self.follow(lambda state, t: actions[..., t, :].expand(*state.shape[:-1], -1), batch, start)[1]

    def follow(
        self, act: Callable[[Tensor, int], Tensor], batch: Any = (), start: Tensor | None = None
    ) -> tuple[Tensor, Rollout]:
        """Actions [*batch, T, m] that a rule takes, and where they lead.

        Args:
            act: (states [*batch, n], time index) -> actions [*batch, m].
            batch: leading axes.
            start: [..., n], where they begin; the mean start unless given.
        """
        state = (self.start if start is None else start).expand(*batch, self.state_dim)
        states, actions = [state], []
        for t in range(self.horizon):
            actions.append(act(state, t))
            state = self.mean_step(state, actions[-1], t)
            states.append(state)
        taken, passed = torch.stack(actions, -2), torch.stack(states, -2)
        return taken, self.measured(passed, taken)

    def measured(self, states: Tensor, actions: Tensor) -> Rollout:
        """The costs of trajectories, states [..., T + 1, n] and actions [..., T, m]."""
        costs = self.over_time(self.cost, "cost")(states[..., :-1, :], actions)
        every = torch.cat([costs, self.final_cost(states[..., -1, :])[..., None]], -1)
        sound = states.isfinite().all(-1)[..., 1:] & costs.isfinite()
        sound = torch.cat([sound, every[..., -1:].isfinite()], -1)
        first = torch.where(sound, self.horizon, torch.arange(self.horizon + 1)).amin(-1)
        total = (self.weights * every).sum(-1)
        return Rollout(states, torch.where(sound.all(-1) & total.isfinite(), total, math.inf), first)

    def paid_for_noise(self, states: Tensor, actions: Tensor, curvature: Tensor) -> Tensor:
        """[...], what noise W(s, a) costs along trajectories by tr(P W) / 2, discounted.

        Args:
            states: [..., T + 1, n].
            actions: [..., T, m].
            curvature: P [..., T, n, n], of the cost-to-go of s_2 .. s_{T+1}, discounted by one step.
        """
        assert self.noise is not None
        spread = self.over_time(self.noise, "noise")(states[..., :-1, :], actions)
        return (self.weights[:-1] * (curvature * spread).sum((-2, -1))).sum(-1) / 2

    def over_time(self, function: Function, name: str) -> Callable[[Tensor, Tensor], Tensor]:
        """(states [..., T, n], actions [..., T, m]) -> the function's values at all T steps.

        Args:
            function: of this problem.
            name: under which it is remembered how it takes times.
        """
        return AtTimes(function, self.times(name), self.horizon).values

    def times(self, name: str) -> Tensor | None:
        """All time indices in the form in which a function takes them at once; None if it takes one after the other.

        Args:
            name: "mean_step", "reward", "cost" or "noise".
        """
        found: Tensor | None = self._forms[name]
        return found

    @cached_property
    def _forms(self) -> dict[str, Tensor | None]:
        functions = {"mean_step": self.mean_step, "reward": self.reward, "cost": self.cost}
        if self.noise is not None:
            functions["noise"] = self.noise
        return {name: self._form(function) for name, function in functions.items()}

    def _form(self, function: Function) -> Tensor | None:
        """What was tried on a trajectory that wanders off, and gave the same as one step after the other."""
        draws = torch.Generator().manual_seed(0)
        shape = (2, self.horizon)
        states = self.start + torch.randn(*shape, self.state_dim, generator=draws, dtype=self.start.dtype)
        actions = torch.randn(*shape, self.action_dim, generator=draws, dtype=self.start.dtype)
        with torch.no_grad():
            single = AtTimes(function, None, self.horizon).values(states, actions)
            for times in (torch.arange(self.horizon), torch.arange(self.horizon, dtype=self.start.dtype)):
                try:
                    every = function(states, actions, times)
                except Exception:  # whatever a user's function makes of many times
                    continue
                if every.shape == single.shape and torch.allclose(every, single, rtol=SAME, atol=SAME, equal_nan=True):
                    return times
        return None


@dataclass(frozen=True, eq=False)
class AtTimes:
    """A function of (s, a, t), or what is derived of it, at all steps of trajectories.

    Args:
        function: (s [..., n], a [..., m], t) -> [..., *own].
        times: [T] if it takes all times at once; None to call it for one after the other.
        horizon: T.
    """

    function: Callable[[Tensor, Tensor, Times], Any]
    times: Tensor | None
    horizon: int

    def values(self, states: Tensor, actions: Tensor) -> Tensor:
        """The function's values [..., T, *own] at states [..., T, n] and actions [..., T, m]."""
        (values,) = self.all(lambda s, a, t: (self.function(s, a, t),), states, actions)
        return values

    def all(self, derived: Derived, states: Tensor, actions: Tensor) -> Any:
        """Several values of each step, each with time where the trajectories have it."""
        if self.times is not None:
            return derived(states, actions, self.times)
        steps = [derived(states[..., t, :], actions[..., t, :], t) for t in range(self.horizon)]
        axis = states.dim() - 2
        return tuple(torch.stack(part, axis) for part in zip(*steps, strict=True))
