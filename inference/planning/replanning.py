"""A policy that plans anew in every state it meets: path-integral control with a receding horizon."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.policy import policy_classes, require_time
from cai.inference.core.status import NotKnown
from cai.inference.core.storage import can_store, save, storable
from cai.inference.planning.bundle import Bundle, Sampler
from cai.inference.planning.read_model import planning_problem
from cai.models.continuous.simulate import DivergedRollout

__all__ = ["ReplanningPolicy", "stored_parts"]

CHUNK = 4_000_000  # numbers of trajectories that are held at once


def stored_parts(policy: ReplanningPolicy) -> dict[str, Any]:
    """What a file keeps; functions of a model are code, which no file holds."""
    names = ("plan", "num_samples", "lookahead", "temperature", "noise", "correlation", "scales", "source")
    model = policy.model if can_store(policy.model) else None
    return {"model": model} | {name: getattr(policy, name) for name in names}


@storable("replanning-policy", pack=stored_parts)
@dataclass(frozen=True, eq=False)
class ReplanningPolicy:
    """The first action of a plan that is made anew in every state, by weighted bundles of trajectories.

    In state s at time index t it draws K action sequences around its plan from t on, lets the model say what each would
    earn, and does their weighted mean: the mean action of the exact target as far as the bundle tells (Kappen 2012;
    Williams, Aldrich and Theodorou 2017). It is an action and no distribution, so it has no density, and two calls
    differ by the bundle that was drawn.

    Args:
        model: in which it plans; None in a copy from a file that could not hold it (`with_model` gives it back).
        plan: [T, m], what is done beyond the mean of the action prior (of a flat one, the actions).
        num_samples: K.
        lookahead: H, how many steps a plan is long.
        temperature: lambda of the weights, reward units.
        noise: standard deviation of the action noise; None for the prior's.
        correlation: of the noise from step to step.
        scales: of the noise; samples take them in turn.
        source: the backend that it came from.
    """

    model: Any
    plan: Tensor
    num_samples: int
    lookahead: int
    temperature: float
    noise: float | None
    correlation: float
    scales: tuple[float, ...] = (1.0,)
    source: str = ""
    _sampler: Sampler | None = field(init=False, repr=False)

    affordable_rollouts = 20  # of an evaluation, as each plans at every step

    def __post_init__(self) -> None:
        sampler = None
        if self.model is not None:
            sampler = Sampler(
                planning_problem(self.model),
                self.model,
                self.num_samples,
                self.lookahead,
                self.temperature,
                self.noise,
                self.correlation,
                self.scales,
            )
        object.__setattr__(self, "_sampler", sampler)

    @property
    def horizon(self) -> int:
        """T, the number of steps that it knows."""
        return int(self.plan.shape[0])

    def with_model(self, model: Any) -> ReplanningPolicy:
        """The same policy with the model in which it plans."""
        given = {name: value for name, value in stored_parts(self).items() if name != "model"}
        return type(self)(model=model, **given)

    def bundle(self, observations: Any, t: int = 0, *, generator: torch.Generator | None = None) -> Bundle:
        """The weighted trajectories from a state [n], or from N states [N, n], on.

        Args:
            observations: states.
            t: the time index, from 0.
            generator: of the draws; torch's global one unless given.

        Raises:
            ValueError: if states or time do not fit, or every trajectory leaves the finite numbers.
            NotKnown: if the model was left behind in a file.
        """
        if self._sampler is None:
            raise NotKnown("its model", "a replanning policy from a file", "give it again: policy.with_model(model)")
        require_time(t, self.horizon, "infer with a longer horizon")
        n, states = self._sampler.problem.state_dim, torch.as_tensor(observations, dtype=self.plan.dtype)
        if states.shape[-1:] != (n,) or states.dim() > 2:
            raise ValueError(f"got states of shape {list(states.shape)}; expected [{n}], or [N, {n}]")
        if not bool(torch.isfinite(states).all()):
            raise ValueError("a state is NaN or infinite; expected finite numbers")
        made = self._sampler.draw(states, self.plan[t : t + self._sampler.steps(t)], t, generator)
        if bool((made.diverged >= 0).any()):
            raise DivergedRollout("the states of every trajectory of a plan", int(made.diverged.max()))
        return made

    def act(
        self, observations: Any, t: int = 0, *, generator: torch.Generator | None = None, deterministic: bool = False
    ) -> Tensor:
        """Actions [m] in a state [n], or [N, m] in N states [N, n]: the first ones of new plans.

        Args:
            observations: states.
            t: the time index, from 0.
            generator: of the bundles; torch's global one unless given.
            deterministic: makes no difference: the action is a weighted mean in either case.

        Raises:
            ValueError, NotKnown: as `bundle`.
        """
        states = torch.as_tensor(observations, dtype=self.plan.dtype)
        if states.dim() < 2 or len(states) < 2:
            return self._first(states, t, generator)
        size = self.num_samples * min(self.lookahead, self.horizon) * (states.shape[-1] + 2 * self.plan.shape[-1])
        return torch.cat([self._first(part, t, generator) for part in states.split(max(1, CHUNK // size))])

    def _first(self, states: Tensor, t: int, generator: torch.Generator | None) -> Tensor:
        shift = self.bundle(states, t, generator=generator).plan[..., 0, :]
        assert self._sampler is not None
        prior = self._sampler.problem.prior
        return shift if prior is None else prior.mean(states, t) + shift

    def mean(self, observations: Any, t: int = 0) -> Tensor:
        """What `act` does, with bundles from torch's global generator."""
        return self.act(observations, t)

    def log_prob(self, actions: Any, observations: Any, t: int = 0) -> Tensor:
        """Not known: the policy is an action, found by sampling.

        Raises:
            NotKnown: always.
        """
        raise NotKnown(
            "densities", "a replanning policy", "ask 'ilqr' for a Gaussian policy", "it does the mean of a bundle"
        )

    def save(self, path: str | Path) -> Path:
        """Writes plan and options to a file that `cai.load` reads, and the model if files can hold it."""
        return save(path, self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(T={self.horizon}, K={self.num_samples}, H={self.lookahead}, {self.source!r})"


policy_classes["replanning"] = ReplanningPolicy
