"""Path integrals: bundles of trajectories drawn around a plan, each weighed by the exact target.

With a prior p of actions and a proposal q around a plan, trajectory k counts for

    log w_k = R_k / lambda + log p(a_k | s_k) - log q(a_k | s_k),

and as dynamics are those of the model, the self-normalised weights are those of the posterior given optimality (Kappen,
Gomez and Opper 2012; Williams, Aldrich and Theodorou 2017). With a Gaussian prior whose noise the proposal shares, the
ratio is that of two Gaussians shifted by the plan.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.inference.planning.problem import PlanningProblem
from cai.models.common.random_draws import OwnDraws
from cai.models.continuous.simulate import has_overflown

__all__ = ["Bundle", "Noise", "Sampler"]


@dataclass(frozen=True, eq=False)
class Noise:
    """Gaussian noise of actions that is correlated over time: e_t = b root x_t, x_t = c x_{t-1} + sqrt(1 - c^2) y_t.

    Attributes:
        root: [H, m, m], Cholesky factors of the covariances; with b = 1 every e_t has the covariance of its step.
        correlation: c, in [0, 1).
        scales: the values of b; each serves an equal share of the samples, in turn.
    """

    root: Tensor
    correlation: float
    scales: tuple[float, ...] = (1.0,)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Noise e [*shape, H, m] of samples that the last axis of the shape counts, and b times the normals y."""
        horizon, m = self.root.shape[0], self.root.shape[-1]
        fresh = torch.randn(*shape, horizon, m, generator=generator, dtype=self.root.dtype)
        if self.scales != (1.0,):
            own = fresh.new_tensor(self.scales)[torch.arange(shape[-1]) % len(self.scales)]
            fresh = fresh * own[:, None, None]
        mixed = fresh
        if self.correlation:
            rest, steps = math.sqrt(1 - self.correlation**2), list(fresh.unbind(-2))
            for t in range(1, horizon):
                steps[t] = torch.add(self.correlation * steps[t - 1], steps[t], alpha=rest)
            mixed = torch.stack(steps, -2)
        return (self.root @ mixed[..., None])[..., 0], fresh

    def whitened(self, values: Tensor) -> Tensor:
        """The numbers b y [..., H, m] that noise values e are made of."""
        x = torch.linalg.solve_triangular(self.root, values[..., None], upper=False)[..., 0]
        if not self.correlation:
            return x
        rest = math.sqrt(1 - self.correlation**2)
        return torch.cat([x[..., :1, :], (x[..., 1:, :] - self.correlation * x[..., :-1, :]) / rest], -2)

    def log_density(self, fresh: Tensor, scales: tuple[float, ...] = (1.0,)) -> Tensor:
        """[...], the log density of noise with numbers b y [..., H, m], nats, where b may be any of the scales."""
        m = self.root.shape[-1]
        count = self.root.shape[0] * m
        volume = self.root.diagonal(dim1=-2, dim2=-1).log().sum() + (count - m) * math.log(1 - self.correlation**2) / 2
        size = fresh.square().sum((-2, -1))
        each = torch.stack([-size / (2 * scale**2) - count * math.log(scale) for scale in scales])
        return each.logsumexp(0) - math.log(len(scales)) - volume - count * math.log(2 * math.pi) / 2


@dataclass(frozen=True, eq=False)
class Bundle:
    """K weighted trajectories from each of [...] states on, over H steps.

    Attributes:
        states: [..., K, H + 1, n].
        actions: [..., K, H, m].
        log_weights: [..., K], nats, not normalised; their log mean estimates the log evidence of these steps.
        plan: [..., H, m], the weighted mean of what is done beyond the mean of the prior (of the actions themselves, if
            the model's prior is flat).
        diverged: int64 [...], the earliest time index at which every trajectory had left the finite numbers; -1 where
            some did not.
    """

    states: Tensor
    actions: Tensor
    log_weights: Tensor
    plan: Tensor
    diverged: Tensor

    @property
    def weights(self) -> Tensor:
        """[..., K], normalised; zero throughout where no trajectory counts."""
        return torch.nan_to_num(self.log_weights.softmax(-1))

    @property
    def effective_sample_size(self) -> Tensor:
        """[...], 1 / sum w^2; 0 where no trajectory counts."""
        total = self.weights.square().sum(-1)
        return torch.where(total > 0, 1 / total.clamp(min=1e-300), torch.zeros_like(total))

    @property
    def log_evidence(self) -> Tensor:
        """[...], the log of the mean weight, nats."""
        return self.log_weights.logsumexp(-1) - math.log(self.log_weights.shape[-1])


@dataclass(frozen=True, eq=False)
class Sampler:
    """Draws bundles of a model.

    Args:
        problem: dynamics, rewards and prior.
        model: draws next states where they are uncertain, and knows terminal states.
        num_samples: K.
        lookahead: H at most.
        temperature: lambda, reward units.
        noise: standard deviation of the actions; None for that of the prior.
        correlation: of the noise between steps.
        scales: of the noise; samples take them in turn.
    """

    problem: PlanningProblem
    model: Any
    num_samples: int
    lookahead: int
    temperature: float
    noise: float | None
    correlation: float
    scales: tuple[float, ...] = (1.0,)

    def steps(self, t: int) -> int:
        """H, the steps that are looked ahead from time index t."""
        return min(self.lookahead, self.problem.horizon - t)

    def noise_at(self, state: Tensor, t: int) -> Noise:
        """The noise of the steps from t on, as it is around a state [n]."""
        m, steps = self.problem.action_dim, self.steps(t)
        if self.noise is not None:
            root = self.noise * torch.eye(m, dtype=state.dtype).expand(steps, m, m)
        else:
            prior = self.problem.prior
            assert prior is not None
            root = torch.linalg.cholesky(torch.stack([prior.covariance(state, t + i) for i in range(steps)]))
        return Noise(root, self.correlation, self.scales)

    def draw(self, states: Tensor, plan: Tensor, t: int, generator: torch.Generator | None) -> Bundle:
        """A bundle of K trajectories from each state.

        Args:
            states: [..., n].
            plan: [H, m], around which it is drawn: what is done beyond the mean of the prior.
            t: the time index.
            generator: of all draws; torch's global one if None.
        """
        noise = self.noise_at(states.reshape(-1, states.shape[-1])[0], t)
        batch = (*states.shape[:-1], self.num_samples)
        deviations, fresh = noise.draw(batch, generator)
        own = OwnDraws(generator) if generator is not None and self.problem.noise else contextlib.nullcontext()
        with own:
            passed, actions, alive = self._roll(states[..., None, :].expand(*batch, -1), plan + deviations, t)
        log_ratio = self._log_ratio(passed, actions, plan, fresh, noise, t)
        rewards, sound = self._returns(passed, actions, alive, t)
        log_weights = torch.where(sound.all(-1), rewards / self.temperature + log_ratio, -math.inf)
        last = torch.where(sound, len(plan), torch.arange(sound.shape[-1])).amin(-1)
        lost = ~(sound.all(-1)).any(-1)
        weights = torch.nan_to_num(log_weights.softmax(-1))
        moved = plan + torch.einsum("...k,...khm->...hm", weights, deviations)
        return Bundle(passed, actions, log_weights, moved, torch.where(lost, t + last.amax(-1), -1))

    def _roll(self, state: Tensor, shifts: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """States, actions, and bool [..., H + 1] where chains have not ended (None if none can end)."""
        problem, prior = self.problem, self.problem.prior
        states, actions, ended = [state], [], self.model.has_ended(state)
        goes = [] if ended is None else [~ended]
        for i, shift in enumerate(shifts.unbind(-2)):
            action = shift if prior is None else prior.mean(state, t + i) + shift
            following = self._next(state, action, t + i) if problem.noise else problem.mean_step(state, action, t + i)
            if ended is not None:
                following = torch.where(ended[..., None], state, following)
                ended = ended | self.model.has_ended(following)
                goes.append(~ended)
            state = following
            states.append(state)
            actions.append(action)
        return torch.stack(states, -2), torch.stack(actions, -2), torch.stack(goes, -1) if goes else None

    def _next(self, state: Tensor, action: Tensor, t: int) -> Tensor:
        drawn: Tensor = self.model.transition(state, action, t).sample()
        return drawn

    def _returns(self, states: Tensor, actions: Tensor, alive: Tensor | None, t: int) -> tuple[Tensor, Tensor]:
        """The sum of rewards [...], and bool [..., H + 1] which states and rewards are numbers (-inf may be one)."""
        before, steps = states[..., :-1, :], actions.shape[-2]
        times = self.problem.times("reward")
        if times is not None:
            paid = self.problem.reward(before, actions, times[t : t + steps])
        else:
            paid = torch.stack(
                [self.problem.reward(before[..., i, :], actions[..., i, :], t + i) for i in range(steps)], -1
            )
        paid = torch.cat([paid, -self.problem.final_cost(states[..., -1, :])[..., None]], -1)
        if alive is not None:
            goes = torch.cat([alive[..., :-1], alive[..., -2:-1]], -1)
            paid = torch.where(goes, paid, torch.zeros_like(paid))
        sound = ~(paid.isnan() | (paid == math.inf) | has_overflown(paid, states))
        sound[..., 1:] &= states[..., 1:, :].isfinite().all(-1)
        return paid.sum(-1), sound

    def _log_ratio(self, states: Tensor, actions: Tensor, plan: Tensor, fresh: Tensor, noise: Noise, t: int) -> Tensor:
        """[...], log p(a|s) - log q(a|s), nats; p is the noise without a plan where the model's own prior is flat."""
        prior, proposed = self.problem.prior, noise.log_density(fresh, noise.scales)
        if prior is None:
            return noise.log_density(noise.whitened(plan) + fresh) - proposed
        scores = [prior.log_prob(states[..., i, :], actions[..., i, :], t + i) for i in range(len(plan))]
        return torch.stack(scores, -1).sum(-1) - proposed
