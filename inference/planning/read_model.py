"""Continuous models as planning problems: their mean dynamics, costs, noise and action priors as plain functions."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.inference.gaussian.problem import GaussianPrior
from cai.inference.planning.derivatives import first_order, second_order
from cai.inference.planning.problem import PlanningProblem, Times
from cai.models.common.numerics import plain_number
from cai.models.continuous.linear_gaussian import LinearGaussianModel
from cai.models.continuous.model import ContinuousModel
from cai.models.continuous.priors import LinearNormal

__all__ = ["as_size", "covariance_of", "planning_problem", "require_continuous", "require_smooth"]


def as_size(value: Any, what: str) -> float:
    """The number, if it is finite and not negative.

    Raises:
        ValueError: naming it, if it is not.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value < math.inf:
        raise ValueError(f"{what} is {value!r}; expected a number >= 0")
    return float(value)


def require_continuous(model: Any, backend: str) -> None:
    """Raises ValueError unless the model is one continuous model of finite horizon."""
    if not isinstance(model, (ContinuousModel, LinearGaussianModel)):
        raise ValueError(
            f"backend {backend!r} plans in a ContinuousModel or a LinearGaussianModel, and this is a "
            f"{type(model).__name__}; ask 'exact' or 'variational' for a TrajectoryModel, 'smc' for a Pyro program"
        )
    if not model.is_finite:
        raise ValueError(
            f"backend {backend!r} plans to the end of a finite horizon; give horizon=N, or ask 'variational' for a "
            "stationary answer of a LinearGaussianModel"
        )
    if model.batch_shape:
        raise ValueError(
            f"backend {backend!r} plans for one model, and this is a batch of shape {list(model.batch_shape)}; ask "
            "about its members one by one, or 'exact' and 'variational' for all at once"
        )


def require_smooth(model: Any, backend: str) -> None:
    """Raises ValueError unless the model is one that `require_continuous` takes, and has derivatives along a start."""
    require_continuous(model, backend)
    if model.has_ended(torch.zeros(1, model.state_dim, dtype=torch.float64)) is not None:
        raise ValueError(
            f"backend {backend!r} follows derivatives, and terminal states have none; ask 'mppi' or 'smc', or give "
            "what they earn as a reward without terminal states"
        )
    problem = planning_problem(model)
    state, action = problem.start[None], problem.start.new_zeros(1, problem.action_dim)
    z = torch.cat([state, action], -1)
    n = model.state_dim
    for what, derivative in (
        ("dynamics", lambda: first_order(lambda x: problem.mean_step(x[..., :n], x[..., n:], 0), z)),
        ("reward", lambda: second_order(lambda x: problem.cost(x[..., :n], x[..., n:], 0), z)),
        ("final reward", lambda: second_order(problem.final_cost, state)),
    ):
        try:
            derivative()
        except Exception as error:  # whatever a user's function does that torch.func does not follow
            raise ValueError(
                f"backend {backend!r} follows derivatives, and torch.func finds none of the {what}: {error}; write it "
                "with torch functions of its arguments, or ask 'mppi' or 'smc'"
            ) from error


def planning_problem(model: ContinuousModel | LinearGaussianModel) -> PlanningProblem:
    """What planners read of a model."""
    read: Any = _LinearWorld(model) if isinstance(model, LinearGaussianModel) else _WrittenWorld(model)
    first, alpha = model.start_distribution(), plain_number(model.temperature)
    return PlanningProblem(
        mean_step=read.mean_step,
        reward=read.reward,
        final_cost=read.final_cost,
        start=_mean(first, "the initial distribution").detach(),
        start_covariance=covariance_of(first).detach(),
        horizon=model.steps,
        action_dim=model.action_dim,
        temperature=alpha,
        discount=model.discount,
        noise=read.noise if read.is_noisy else None,
        prior=read.prior,
    )


@dataclass(frozen=True, eq=False)
class _LinearPrior:
    """N(K0 s + k0, L), read off a `LinearNormal`."""

    given: LinearNormal

    @property
    def gaussian(self) -> GaussianPrior:
        parts = ((self.given.K0, 2), (self.given.k0, 1), (self.given.L, 2))
        return GaussianPrior(*(part if part.dim() > axes else part[None] for part, axes in parts))

    def mean(self, states: Tensor, t: Times) -> Tensor:
        return _times(_at(self.given.K0, 2, t), states) + _at(self.given.k0, 1, t)

    def covariance(self, states: Tensor, t: Times) -> Tensor:
        return _at(self.given.L, 2, t).expand(*states.shape[:-1], -1, -1)

    def log_prob(self, states: Tensor, actions: Tensor, t: Times) -> Tensor:
        root = torch.linalg.cholesky(_at(self.given.L, 2, t))
        off = torch.linalg.solve_triangular(root, (actions - self.mean(states, t))[..., None], upper=False)[..., 0]
        width = root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * off.shape[-1] * math.log(2 * math.pi)
        return -0.5 * off.square().sum(-1) - width


@dataclass(frozen=True, eq=False)
class _WrittenPrior:
    """A prior given as a function (s, t) -> distribution."""

    given: Any
    gaussian: GaussianPrior | None = None

    def mean(self, states: Tensor, t: Times) -> Tensor:
        return _mean(self.given(states, t), "the action prior").expand(*states.shape[:-1], -1)

    def covariance(self, states: Tensor, t: Times) -> Tensor:
        found = covariance_of(self.given(states, t))
        return found.expand(*states.shape[:-1], *found.shape[-2:])

    def log_prob(self, states: Tensor, actions: Tensor, t: Times) -> Tensor:
        law = self.given(states, t)
        allowed = law.support.check(actions)  # outside of which Pyro raises
        score = law.log_prob(torch.where(allowed[..., None], actions, law.mean))
        return torch.where(allowed, score, -math.inf)


class _LinearWorld:
    """The functions of a `LinearGaussianModel`, whose matrices are looked up by time."""

    def __init__(self, model: LinearGaussianModel) -> None:
        self.model, self.final = model, model.final
        self.prior = _LinearPrior(model.action_prior) if isinstance(model.action_prior, LinearNormal) else None
        self.is_noisy = bool((model.noise != 0).any())

    def mean_step(self, states: Tensor, actions: Tensor, t: Times) -> Tensor:
        A, B, offset = _at(self.model.A, 2, t), _at(self.model.B, 2, t), _at(self.model.offset, 1, t)
        return _times(A, states) + _times(B, actions) + offset

    def reward(self, states: Tensor, actions: Tensor, t: Times) -> Tensor:
        given = self.model.reward
        Q, R, N = _at(given.Q, 2, t), _at(given.R, 2, t), _at(given.N, 2, t)
        q, r, constant = _at(given.q, 1, t), _at(given.r, 1, t), _at(given.const, 0, t)
        cost = (states * (_times(Q, states) / 2 + _times(N, actions) + q)).sum(-1)
        return -(cost + (actions * (_times(R, actions) / 2 + r)).sum(-1) + constant)

    def final_cost(self, states: Tensor) -> Tensor:
        P, p, constant = self.final
        return (states * (_times(P, states) / 2 + p)).sum(-1) + constant

    def noise(self, states: Tensor, actions: Tensor, t: Times) -> Tensor:
        n = states.shape[-1]
        return _at(self.model.noise, 2, t).expand(*states.shape[:-1], n, n)


class _WrittenWorld:
    """The functions of a `ContinuousModel`."""

    def __init__(self, model: ContinuousModel) -> None:
        self.model, prior = model, model.action_prior
        self.prior: Any = None
        if isinstance(prior, LinearNormal):
            self.prior = _LinearPrior(prior)
        elif not model.is_flat:
            self.prior = _WrittenPrior(prior)
        self.is_noisy = not model.is_deterministic
        self.reward = model.reward

    def mean_step(self, states: Tensor, actions: Tensor, t: Times) -> Tensor:
        moved = self.model.dynamics(states, actions, t)
        return moved if isinstance(moved, Tensor) else _mean(moved, "the dynamics")

    def final_cost(self, states: Tensor) -> Tensor:
        if self.model.final_reward is None:
            return torch.zeros_like(states[..., 0])
        cost: Tensor = -self.model.final_reward(states)
        return cost

    def noise(self, states: Tensor, actions: Tensor, t: Times) -> Tensor:
        n = states.shape[-1]
        return covariance_of(self.model.dynamics(states, actions, t)).expand(*states.shape[:-1], n, n)


def covariance_of(distribution: Any) -> Tensor:
    """[..., n, n], of a distribution of vectors; diagonal unless it says more."""
    for name in ("covariance", "covariance_matrix"):
        if isinstance(found := getattr(distribution, name, None), Tensor):
            return found
    return torch.diag_embed(distribution.variance)


def _mean(distribution: Any, what: str) -> Tensor:
    try:
        mean: Tensor = distribution.mean
    except NotImplementedError:
        raise ValueError(
            f"{what} is a {type(distribution).__name__}, whose mean is not known, and planners move along means; use a "
            "distribution with a mean, or ask 'smc'"
        ) from None
    return mean


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def _at(part: Tensor, axes: int, t: Times) -> Tensor:
    """What a part with `axes` own axes, and a time axis before them or none, is at a time index or at all of them."""
    if part.dim() == axes:
        return part
    if part.shape[0] == 1:
        return part[0]
    return part[t.long() if isinstance(t, Tensor) else t]
