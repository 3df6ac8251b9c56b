"""What continuous models have in common: a Pyro program, a simulator, and the ways out of the process."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from cai.models.common.devices import resolve_place
from cai.models.common.facts import fact_table
from cai.models.common.names import KnownNames, did_you_mean
from cai.models.common.numerics import plain_number
from cai.models.common.simulator import Transition
from cai.models.common.storage import save
from cai.models.continuous.distributions import CovarianceRoot, covariance_root
from cai.models.continuous.priors import Flat, LinearNormal
from cai.models.continuous.program import run_program
from cai.models.continuous.simulate import Rollout, draw_start, draw_step, run_chains

__all__ = ["World"]


class World(KnownNames):
    """Base of `LinearGaussianModel` and `ContinuousModel`: states [n], actions [m], leading axes free."""

    action_prior: Any
    horizon: int | float
    temperature: Any
    discount: float
    criterion: str
    name: str
    state_dim: int
    action_dim: int
    batch_shape: torch.Size

    # ---- what each kind says for itself -------------------------------------------------------------------------

    def start_distribution(self) -> TorchDistribution:
        """p(s_1), event shape [n]."""
        raise NotImplementedError

    def prior(self, state: Tensor, t: int) -> TorchDistribution:
        """p(a_t | s_t), event shape [m], for states [..., n] at time index t; not where the prior is flat."""
        raise NotImplementedError

    def transition(self, state: Tensor, action: Tensor, t: int) -> TorchDistribution:
        """p(s_{t+1} | s_t, a_t), event shape [n], of chains that go on."""
        raise NotImplementedError

    def step_reward(self, state: Tensor, action: Tensor, t: int) -> Tensor:
        """[...], the reward of a step that is begun in states [..., n] at time index t, without the final reward."""
        raise NotImplementedError

    def last_reward(self, state: Tensor) -> Tensor | None:
        """[...], the final reward on s_{T+1}; None where there is none."""
        raise NotImplementedError

    def paid(self, state: Tensor, action: Tensor, following: Tensor, t: int) -> Tensor:
        """[...], what the step at time index t pays a chain that goes on; the last step with the final reward."""
        reward = self.step_reward(state, action, t)
        final = self.last_reward(following) if t + 1 == self.horizon else None
        return reward if final is None else reward + final

    def has_ended(self, state: Tensor) -> Tensor | None:
        """Bool [...], whether states are terminal; None where no state is."""
        return None

    # ---- where it lives -----------------------------------------------------------------------------------------

    @property
    def host(self) -> Self:
        """The model in float64 on the CPU; what draws, evaluates and searches reads this one."""
        return self

    @property
    def device(self) -> torch.device:
        """Where its tensors live."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its tensors."""
        return torch.float64

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Self:
        """The same model on another device or in another dtype.

        Args:
            device: a `torch.device` or its name; the present one unless given.
            dtype: torch.float64 or torch.float32; the present one unless given.

        Raises:
            TypeError, ValueError: if there is no such device here, the dtype is another one, or the model is made of
                functions, which are called on float64 tensors of the CPU.
        """
        place = resolve_place(device, dtype, (self.device, self.dtype))
        if place == (self.device, self.dtype):
            return self
        raise ValueError(
            f"a {type(self).__name__} is made of functions, which are called on torch.float64 tensors of the CPU, and "
            f"{place[1]} on {place[0]} was asked for; leave it where it is (a LinearGaussianModel moves, and so does "
            "cai.models.discretize(model, ...))"
        )

    # ---- what backends read -------------------------------------------------------------------------------------

    @property
    def is_finite(self) -> bool:
        """Whether the horizon is a number of steps."""
        return self.horizon != math.inf

    @property
    def is_average(self) -> bool:
        """Whether numbers are per step of the long run."""
        return self.criterion == "average"

    @property
    def is_flat(self) -> bool:
        """Whether the action prior is `Flat()`, Lebesgue measure."""
        return isinstance(self.action_prior, Flat)

    @cached_property
    def steps(self) -> int:
        """T, or 1 where the horizon is infinite and one stationary step stands for all."""
        return int(self.horizon) if self.is_finite else 1

    # ---- the Pyro program and the simulator ---------------------------------------------------------------------

    def __call__(self) -> None:
        """Runs the program once: draws a trajectory and scores it by its optimality.

        Raises:
            ValueError: if the horizon is infinite, the action prior flat, or the model a batch; says what to do.
        """
        run_program(self.host)

    def reset(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """The states float64 [N, ..., n] in which N chains start, drawn from p(s_1); batch axes behind N."""
        return draw_start(self.host, n, generator)

    def step(self, states: Tensor, actions: Tensor, t: int, generator: torch.Generator | None = None) -> Transition:
        """Moves N chains by one step: (next states [N, ..., n], rewards [N, ...], alive bool [N, ...]).

        Gradients pass through states, actions and reparameterised draws.

        Args:
            states: [N, ..., n]; inf throughout, the absorbing state of the discount, once it has ended a chain.
            actions: [N, ..., m]; of chains that have ended they are not looked at.
            t: the time index, from 0.
            generator: of the draws; torch's global one unless given.

        Raises:
            ValueError: if an action has another shape, or a chain leaves the finite numbers (`DivergedRollout`, whose
                `step` is the time index).
        """
        return draw_step(self.host, states, actions, t, generator)

    def root(self, name: str, covariance: Tensor) -> CovarianceRoot:
        """The root of a covariance [..., n, n] of this model, worked out once unless it has a history."""
        if covariance.requires_grad:
            return covariance_root(covariance)
        held: dict[str, CovarianceRoot] = self.__dict__.setdefault("_held", {})
        if name not in held:
            held[name] = covariance_root(covariance)
        return held[name]

    def with_stand_in(self) -> Self:
        """The model itself; where its prior is `Flat()`, with N(0, I) in its place, so that its graph can be drawn."""
        if not self.is_flat:
            return self
        return self.replace(action_prior=LinearNormal(L=torch.eye(self.action_dim, dtype=torch.float64)))

    def rollout(self, policy: Any, n: int, generator: torch.Generator, *, deterministic: bool = False) -> Rollout:
        """Runs a policy in N chains over all T steps; no gradient is kept.

        Args:
            policy: with `act(states, t, generator=..., deterministic=...)`, states [N, ..., n] to actions [N, ..., m].
            n: N, how many chains.
            generator: of every draw.
            deterministic: whether the policy is to take its most probable (or mean) action.

        Returns:
            States, actions, rewards and who was alive. Of chains that have ended, actions are 0 and rewards 0; their
            state is the one that they ended in, also where a discount ended them.

        Raises:
            ValueError: if the horizon is infinite, the policy returns another shape, or a chain leaves the finite
                numbers (`DivergedRollout`, whose `step` is the time index).
        """
        return run_chains(self.host, policy, n, generator, deterministic=deterministic)

    # ---- copies and files ---------------------------------------------------------------------------------------

    def replace(self, **changes: Any) -> Self:
        """A copy with some arguments changed, validated anew."""
        known = [entry.name for entry in dataclasses.fields(self) if entry.init]  # type: ignore[arg-type]
        if unknown := [name for name in changes if name not in known]:
            meant = did_you_mean(unknown[0], known)
            kind = type(self).__name__
            raise TypeError(f"a {kind} has no argument {unknown[0]!r}{meant}; it has {', '.join(known)}")
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def save(self, path: str | Path) -> Path:
        """Writes it to a file that `cai.load` reads, numbers without gradients; returns the path.

        Raises:
            StorageError: if a part of it is a function, which no file holds; names it.
        """
        return save(path, self.host)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy that shares what carries an autograd history, so that its gradients reach the same leaves."""
        copied = object.__new__(type(self))
        memo[id(self)] = copied
        for name, part in self.__dict__.items():
            with contextlib.suppress(RuntimeError):  # torch copies no tensor that has a history
                part = copy.deepcopy(part, memo)
            copied.__dict__[name] = part
        return copied

    def _facts(self) -> dict[str, Any]:
        """What is told of this kind of model alone."""
        return {}

    def _told(self) -> dict[str, Any]:
        prior = getattr(self.action_prior, "__name__", None) or repr(self.action_prior)
        facts: dict[str, Any] = {"name": self.name, "states": f"[{self.state_dim}]", "actions": f"[{self.action_dim}]"}
        facts |= {"horizon": self.horizon, "temperature": f"{plain_number(self.temperature):g}"}
        facts |= {"discount": f"{self.discount:g}", "criterion": self.criterion, "action prior": prior}
        return facts | self._facts()

    def __repr__(self) -> str:
        told = self._told()
        prior = told["action prior"]
        batch = f", batch={told['batch']}" if "batch" in told else ""
        return (
            f"{type(self).__name__}({self.name!r}, n={self.state_dim}, m={self.action_dim}{batch}, "
            f"horizon={self.horizon}, temperature={told['temperature']}, discount={told['discount']}, "
            f"action_prior={prior}" + (f", criterion={self.criterion!r})" if self.is_average else ")")
        )

    def _repr_html_(self) -> str:
        return fact_table(type(self).__name__, self._told())

    def _put(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
