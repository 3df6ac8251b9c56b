"""Policies from weighted particles, for programs whose states or actions are continuous and have no tables."""

from __future__ import annotations

import numbers
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.policy import policy_classes, require_time
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import NotKnown
from cai.inference.particles.particles import Particles
from cai.models.common.storage import save, storable
from cai.policies.environments import Runs, check_discrete

__all__ = ["ParticlePolicy", "particle_policy"]


CHUNK = 20_000_000  # distances between states and particles that are held at once


@storable("particle-policy")
@dataclass(frozen=True, eq=False)
class ParticlePolicy(Runs):
    """q(a_t | s_t) by kernel regression on particles (Nadaraya 1964, Watson 1964).

    In state s at time index t, particle i counts for w_i K((s - s_{i,t}) / h), with a Gaussian kernel K and a bandwidth
    h for each coordinate of the state; an action is that of a particle drawn so. Discrete states are not smoothed: only
    particles in that very state count.

    Limits. It knows no state that its particles did not come near: far outside it acts as the nearest one did, however
    far that is. The kernel blurs over a width h, and in more than a few dimensions no bandwidth is both small and full
    of particles. Actions are those that particles took, between which nothing is interpolated (`mean` is an average).
    Early steps of a run that was often resampled have few distinct particles; a lower `ess_threshold`, a lookahead or
    more particles help. What was conditioned on optimality is as optimistic here as in the posterior itself.

    Args:
        particles: with sites s_t and a_t.
        bandwidth: h, in units of the state: a number for every coordinate, or a tensor [d]; None takes the spread of
            the weighted particles at each time, times (4 / ((d + 2) ESS))^(1 / (d + 4)) (Silverman 1986, section
            4.3.2). A coordinate in which the particles do not differ is not looked at then.
        source: the backend that it came from, for tables.

    Raises:
        ValueError: if the bandwidth is not positive, or given for discrete states.
    """

    particles: Particles
    bandwidth: float | Tensor | None = None
    source: str = ""
    _states: Tensor = field(init=False, repr=False)
    _actions: Tensor = field(init=False, repr=False)
    _widths: Tensor | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        states, actions = self.particles.states, self.particles.actions
        object.__setattr__(self, "_states", states)
        object.__setattr__(self, "_actions", actions)
        object.__setattr__(self, "_widths", None)
        if not states.is_floating_point():
            if self.bandwidth is not None:
                raise ValueError(f"bandwidth is {self.bandwidth}, and the states are discrete; leave it out")
            return
        points = states.double().flatten(2) if states.dim() > 2 else states.double()[..., None]  # [N, T, d]
        size = points.shape[-1]
        if self.bandwidth is None:
            weights = self.particles.weights
            counting, weights = points[weights > 0], weights[weights > 0][:, None, None]
            spread = (weights * (counting - (weights * counting).sum(0)).square()).sum(0).sqrt()
            spread = torch.where(counting.amax(0) > counting.amin(0), spread, torch.zeros_like(spread))  # no rounding
            widths = spread * (4 / ((size + 2) * max(self.particles.ess, 1.0))) ** (1 / (size + 4))
        else:
            widths = _checked_bandwidth(self.bandwidth, size).expand(points.shape[1:])
        object.__setattr__(self, "_widths", widths)

    @property
    def horizon(self) -> int:
        """T, the number of steps that it knows."""
        return int(self._actions.shape[1])

    def weights(self, state: Any, t: int = 0) -> Tensor:
        """[P], how much each of P particles counts in a state at time index t (from 0), or [N, P]; rows sum to 1.

        Args:
            state: a number, a tensor of the shape of one state, or N of them.
            t: the time index.

        Raises:
            ValueError: if the time or the shape does not fit, a state is not finite, or it is discrete and no
                particle was in it then.
        """
        t = self._time(t)
        points = self._states[:, t]
        found = torch.as_tensor(state)
        shape = points.shape[1:]
        if found.shape not in (shape, (*found.shape[:1], *shape)):
            raise ValueError(f"the state has shape {list(found.shape)}; expected {list(shape)}, or N of them")
        rows = found.reshape(-1, *shape)
        log_weights = self.particles.weights.log()
        if self._widths is None:
            scores = torch.where(points == rows[:, None], log_weights, -torch.inf)
            missing = ~torch.isfinite(scores.amax(-1))
            if bool(missing.any()):
                raise ValueError(
                    f"no particle of weight was in state {rows[missing][0].tolist()} at time index {t}; infer with "
                    "more particles"
                )
        else:
            finite = torch.isfinite(rows).reshape(len(rows), -1).all(-1)
            if not bool(finite.all()):
                raise ValueError(f"the state is {rows[~finite][0].tolist()}; expected finite numbers")
            width = self._widths[t]
            seen = width > 0
            near = points.reshape(len(points), -1).double()[:, seen] / width[seen]
            here = rows.reshape(len(rows), -1).double()[:, seen] / width[seen]
            away = (near - here[:, None]).square().sum(-1)
            scores = log_weights - away.clamp(max=1e300) / 2
        return scores.softmax(-1).reshape(*found.shape[: found.dim() - len(shape)], -1)

    def act(
        self, observations: Any, t: int = 0, *, generator: torch.Generator | None = None, deterministic: bool = False
    ) -> Tensor:
        """Actions [N, ...] in states [N, ...], or one in one state, in the shape and type of the program's a_t.

        Args:
            observations: states.
            t: the time index (from 0).
            generator: draws the actions; the global one unless given.
            deterministic: the mean of continuous actions, or the most probable discrete one (the first of equals).

        Raises:
            ValueError: as `weights`.
        """
        states = torch.as_tensor(observations)
        single = states.dim() == self._states.dim() - 2
        rows = states[None] if single else states
        size = max(1, CHUNK // self._states[:, 0].numel())
        parts = [self._chosen(part, t, generator, deterministic) for part in rows.split(size)]
        actions = torch.cat(parts)
        return actions[0] if single else actions

    def _chosen(self, states: Tensor, t: int, generator: torch.Generator | None, deterministic: bool) -> Tensor:
        if not deterministic:
            index = torch.multinomial(self.weights(states, t), 1, generator=generator)[:, 0]
            return self._actions[index, t]
        if self._actions.is_floating_point():
            return self.mean(states, t).to(self._actions)
        return self.probs(states, t).argmax(-1)

    def sample(self, state: Any, t: int = 0, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws an action in one state, or N, in the shape and type of the program's a_t."""
        return self.act(state, t, generator=generator)

    def mean(self, state: Any, t: int = 0) -> Tensor:
        """The expected action, float64 in the shape of a_t; [N, ...] for N states.

        Raises:
            ValueError: as `weights`.
            NotKnown: if actions are discrete, which have no mean.
        """
        if not self._actions.is_floating_point():
            raise NotKnown("a mean", "a policy of discrete actions", "use probs(state, t) or sample(state, t)")
        actions = self._actions[:, self._time(t)].double()
        return torch.tensordot(self.weights(state, t), actions, dims=1)

    def probs(self, observations: Any, t: int = 0) -> Tensor:
        """[A], the probability of each discrete action, up to the largest that a particle took; [N, A] for N states.

        Raises:
            ValueError: as `weights`.
            NotKnown: if actions are continuous.
        """
        if self._actions.is_floating_point():
            raise NotKnown("probabilities", "a policy of continuous actions", "use mean(state, t) or sample(state, t)")
        weights, taken = self.weights(observations, t), self._actions[:, self._time(t)]
        table = weights.new_zeros(*weights.shape[:-1], int(self._actions.max()) + 1)
        return table.index_add(-1, taken, weights)

    def log_prob(self, actions: Any, observations: Any, t: int = 0) -> Tensor:
        """Log q(a | s) in nats of discrete actions, [N] or 0-dim; -inf for what no particle did there.

        Raises:
            ValueError: as `weights`.
            NotKnown: if actions are continuous: drawn among those of particles, they have no density.
        """
        if self._actions.is_floating_point():
            raise NotKnown(
                "densities",
                "a particle policy of continuous actions",
                "use mean(state, t) or sample(state, t)",
                "it draws among the actions of its particles",
            )
        rows, taken = self.probs(observations, t), torch.as_tensor(actions)
        known = (taken >= 0) & (taken < rows.shape[-1])
        index = torch.where(known, taken, 0)[..., None].expand(*rows.shape[:-1], 1)
        return torch.where(known, rows.gather(-1, index)[..., 0].log(), -torch.inf)

    def save(self, path: str | Path) -> Path:
        """Writes the particles and the bandwidth to a file that `cai.load` reads; returns the path."""
        return save(path, self)

    def _check_spaces(self, observations: Any, actions: Any) -> None:
        for what, space, values in (("observation", observations, self._states), ("action", actions, self._actions)):
            shape = tuple(values.shape[2:])
            if values.is_floating_point():
                if hasattr(space, "n") or tuple(space.shape or ()) != shape:
                    raise ValueError(
                        f"the environment's {what} space is {space}; the policy's {what}s are real numbers of shape "
                        f"{list(shape)}"
                    )
            else:
                least = int(values.max()) + 1
                check_discrete(what, space, range(least, 2**31), f"the policy's particles reach {what} {least - 1}")

    def _time(self, t: int) -> int:
        require_time(t, self.horizon, "infer with a longer horizon")
        return t

    def __repr__(self) -> str:
        return f"ParticlePolicy(T={self.horizon}, N={self.particles.num_particles}, source={self.source!r})"


def _checked_bandwidth(bandwidth: Any, size: int) -> Tensor:
    """[d], or [1] for all coordinates."""
    if isinstance(bandwidth, bool) or not isinstance(bandwidth, (numbers.Real, Tensor)):
        raise ValueError(f"bandwidth is {bandwidth!r}; expected a number > 0, or a tensor [{size}] of them")
    widths = torch.as_tensor(bandwidth, dtype=torch.float64).reshape(-1).detach()
    if widths.shape[0] not in (1, size):
        raise ValueError(f"bandwidth has {widths.shape[0]} entries; states have {size} coordinates")
    if not bool((torch.isfinite(widths) & (widths > 0)).all()):
        raise ValueError(f"bandwidth is {widths.tolist()}; expected finite numbers > 0")
    return widths


policy_classes["particles"] = ParticlePolicy


def particle_policy(posterior: Posterior, bandwidth: float | Tensor | None = None) -> ParticlePolicy:
    """The policy of an answer that holds particles.

    Args:
        posterior: from `cai.infer` with backend "smc" or "importance".
        bandwidth: see `ParticlePolicy`.

    Raises:
        TypeError: if it is no posterior.
        ValueError: if it holds no particles.
    """
    if not isinstance(posterior, Posterior):
        raise TypeError(f"expected the posterior that cai.infer returns, got {type(posterior).__name__}")
    particles = posterior.details.get("particles")
    if not isinstance(particles, Particles):
        what = str(posterior.status) if not posterior.status.ok else "ask 'smc' or 'importance'"
        raise ValueError(f"the posterior of {posterior.backend!r} holds no particles: {what}")
    return ParticlePolicy(particles, bandwidth, posterior.backend)
