"""Policies: what acts. Answers make them by `posterior.policy(kind)`."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from cai.inference.core.storage import save, storable
from cai.models.common.checks import check_distribution, float_tensor
from cai.models.common.labels import axis_labels

__all__ = ["LONGER", "Policy", "TablePolicy", "policy_classes", "read_vectors", "require_time"]

LONGER = "infer with a longer horizon, or with horizon=math.inf for a stationary policy"


@runtime_checkable
class Policy(Protocol):
    """What acts in the world: tables, plans, beliefs, particles, networks.

    Attributes:
        horizon: T, the number of steps that it knows; math.inf if it is stationary.
    """

    @property
    def horizon(self) -> int | float:
        """How many steps it has rows for: T, or math.inf where it is stationary."""

    def act(
        self, observations: Any, t: int = 0, *, generator: torch.Generator | None = None, deterministic: bool = False
    ) -> Tensor:
        """The action for one observation, or [N, ...] for a batch [N, ...] of them.

        Args:
            observations: what is seen at time index t (from 0): states, for a policy on states.
            t: the time index.
            generator: draws the actions; the global one unless given.
            deterministic: the most probable action (the first of equals) or the mean, instead of a draw.
        """

    def log_prob(self, actions: Any, observations: Any, t: int = 0) -> Tensor:
        """Log q(a_t | o_t) in nats of one action or a batch [N, ...]; a density where actions are continuous."""

    def save(self, path: str | Path) -> Path:
        """Writes it to a file that `cai.load` reads; returns the path."""


def require_time(t: int, horizon: float, advice: str) -> None:
    """Refuses a time index outside 0 to horizon - 1.

    Args:
        t: the time index.
        horizon: T of the policy.
        advice: what to do, the end of the message.
    """
    if not 0 <= t < horizon:
        raise ValueError(f"time index {t} is outside the policy, which knows steps 0 to {int(horizon) - 1}; {advice}")


def read_vectors(states: Any, size: int, dtype: torch.dtype) -> Tensor:
    """States [..., size] of a policy, checked: their shape, and that they are finite."""
    found = torch.as_tensor(states, dtype=dtype)
    if found.dim() == 0 or found.shape[-1] != size:
        raise ValueError(f"states have shape {list(found.shape)}; expected [..., {size}]")
    if not bool(torch.isfinite(found).all()):
        raise ValueError("a state is not finite; a policy acts in finite states")
    return found


@storable("table-policy")
@dataclass(frozen=True, eq=False)
class TablePolicy:
    """pi(a_t | s_t) on numbered states and actions, for each time or stationary.

    Args:
        action_probs: [T, S, A], or [S, A] for a stationary policy.
        stationary: whether the one table serves every time (True if the table has no time axis).
        state_names: S names, or None.
        action_names: A names, or None.
        source: the backend that it came from, for tables.
        metadata: further words to keep with it.

    Raises:
        ValueError: if rows are no distributions, or a stationary policy has more than one table.
    """

    action_probs: Any
    stationary: bool = False
    state_names: tuple[str, ...] | None = None
    action_names: tuple[str, ...] | None = None
    source: str = ""
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        labels = axis_labels(self.action_probs)
        for what, own in zip(("state_names", "action_names"), labels, strict=False):
            if own is not None and getattr(self, what) is None:
                object.__setattr__(self, what, tuple(own))
        axes = [(self.state_names, "state"), (self.action_names, "action")]
        table, source = float_tensor(self.action_probs, "action_probs", axes)
        if table.dim() == 2:
            table = table[None]
            object.__setattr__(self, "stationary", True)
        if table.dim() != 3 or 0 in table.shape:
            raise ValueError(f"action_probs has shape {list(table.shape)}; expected [T, S, A] or [S, A]")
        if self.stationary and table.shape[0] != 1:
            raise ValueError(f"a stationary policy has one table; action_probs has {table.shape[0]} of them")
        table = check_distribution(table.detach(), "action_probs", source)
        object.__setattr__(self, "action_probs", table)
        for what, axis in (("state_names", 1), ("action_names", 2)):
            names = getattr(self, what)
            if names is not None:
                if len(names) != table.shape[axis]:
                    raise ValueError(f"{what} holds {len(names)} names; the policy has {table.shape[axis]}")
                named = tuple(str(name) for name in names)
                twice = next((name for name, count in Counter(named).items() if count > 1), None)
                if twice is not None:
                    raise ValueError(f"{what} holds {twice!r} twice; names must tell them apart")
                object.__setattr__(self, what, named)

    @property
    def horizon(self) -> int | float:
        """T, the number of steps that it knows; math.inf if stationary."""
        return math.inf if self.stationary else int(self.action_probs.shape[0])

    def probs(self, observations: Any, t: int = 0) -> Tensor:
        """[A], pi(. | s) at time index t (from 0); [N, A] for N states.

        Args:
            observations: a state's number or name, or int [N].
            t: the time index.
        """
        return self.action_probs[self._time(t)][self._states(observations)]

    def act(
        self, observations: Any, t: int = 0, *, generator: torch.Generator | None = None, deterministic: bool = False
    ) -> Tensor:
        """Actions int64 [N] in states [N], or 0-dim in one; drawn, or the most probable (the first of equals).

        Args:
            observations: a state's number or name, or int [N].
            t: the time index (from 0).
            generator: draws the actions; the global one unless given.
            deterministic: whether to take the most probable action.
        """
        rows = self.probs(observations, t)
        if deterministic:
            return rows.argmax(-1)
        return torch.multinomial(rows, 1, generator=generator)[..., 0]

    def log_prob(self, actions: Any, observations: Any, t: int = 0) -> Tensor:
        """Log pi(a | s) in nats, [N] or 0-dim; -inf for an action that the policy never takes.

        Args:
            actions: int [N] or one.
            observations: states, as `probs` takes them.
            t: the time index (from 0).
        """
        rows = self.probs(observations, t)
        taken = torch.as_tensor(actions)
        if bool(((taken < 0) | (taken >= rows.shape[-1])).any()):
            raise ValueError(f"an action does not exist; the policy knows actions 0 to {rows.shape[-1] - 1}")
        return rows.gather(-1, taken[..., None].expand(*rows.shape[:-1], 1)).log()[..., 0]

    def save(self, path: str | Path) -> Path:
        """Writes table, names and metadata to a file that `cai.load` reads; returns the path."""
        return save(path, self)

    def _time(self, t: int) -> int:
        if self.stationary:
            return 0
        require_time(t, self.horizon, LONGER)
        return t

    def _states(self, observations: Any) -> Any:
        """The numbers of the states, checked."""
        if isinstance(observations, str):
            if self.state_names is None or observations not in self.state_names:
                raise ValueError(f"no state is called {observations!r} in this policy; give its number")
            return self.state_names.index(observations)
        states, last = torch.as_tensor(observations), self.action_probs.shape[1] - 1
        if states.is_floating_point() or states.dtype == torch.bool:
            raise TypeError(f"states are numbered 0 to {last}; got {states.dtype}")
        outside = (states < 0) | (states > last)
        if bool(outside.any()):
            raise ValueError(f"state {int(states[outside][0])} does not exist; the policy knows states 0 to {last}")
        return states.long()

    def __repr__(self) -> str:
        _, num_states, num_actions = self.action_probs.shape
        return f"{type(self).__name__}(T={self.horizon}, S={num_states}, A={num_actions}, source={self.source!r})"


# Which class `posterior.policy` makes of which form of answer; a package above may put a subclass that can do more.
policy_classes: dict[str, Any] = {"table": TablePolicy}
