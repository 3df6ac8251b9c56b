"""What an iterative backend promises: a first state, a step that makes the next state, and the answer of any state.

`init` and `step` are pure: a state holds everything that the next step reads, the state of its random generators
included, and no step changes a state that it was given. So a run can be interrupted, stored and gone on with at any
step, and ends with the same bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status

__all__ = ["Info", "Iterative", "Learner", "State", "generator_at", "generator_state", "status_of", "stood_still"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class State:
    """Where a fit is; learners add fields of tensors, numbers, strings, None, and tuples and dicts of these.

    Attributes:
        problem: what stays the same over a run, e.g. tables and samplers; `init` makes it anew, and it is never stored.
        status: how the fit ended by the learner's own criterion; None as long as another step may improve it.
        steps: how many steps were taken; counted by the driver.
    """

    problem: Any = dataclasses.field(repr=False)
    status: Status | None = None
    steps: int = 0


S = TypeVar("S", bound=State)


class Info(NamedTuple):
    """What a step has to tell while a fit runs.

    Attributes:
        metrics: numbers of this step by name, e.g. {"bound": -3.2}.
        improved: whether the best answer so far is that of this step.
    """

    metrics: Mapping[str, float]
    improved: bool = True


class Learner(Protocol[S]):
    """An iterative way to answer one kind of model.

    A learner whose steps are counted in samples moves on by many of them at once: it has `stride`, the number of them
    between places at which it stops, its states count `steps` themselves, and `limit` is a budget of them.
    `checkpoint_every`, where it has one, is how often a run is stored unless the caller says so, and with
    `keeps_policy` the policy is stored beside the run when it ends well. What it keeps in files of its own it writes in
    `store(state, folder)`, before a state is written, tidies in `stored(state, folder)`, afterwards, and reads in
    `restored(state, folder, exact=...)`, which returns the state to go on from.
    """

    @property
    def label(self) -> str:
        """What it does, in words for a progress bar: "fitting the guide"."""

    @property
    def limit(self) -> int:
        """The most steps of a run."""

    def init(self, model: Any, *, seed: int) -> S:
        """The first state. The same model and seed give the same state; its status may tell that nothing is left."""

    def step(self, state: S) -> tuple[S, Info]:
        """The next state, for a state whose status is None."""

    def posterior(self, state: S) -> Posterior:
        """The best answer so far; its status is the state's, or NOT_CONVERGED where that is None."""


@runtime_checkable
class Iterative(Protocol):
    """A backend that answers at least some models by a learner."""

    def learner(self, model: Any) -> Learner[Any] | None:
        """The learner that answers this model; None where the backend needs no iterations for it."""


def status_of(state: State) -> Status:
    """The status of a state's answer."""
    return Status.NOT_CONVERGED if state.status is None else state.status


def stood_still(history: tuple[float, ...], best: float, patience: int, tolerance: float) -> bool:
    """Whether the best bound has grown by no more than the tolerance (its unit) over the last `patience` steps.

    Args:
        history: the bound at every step, the last included.
        best: the highest of them.
        patience: so many steps.
        tolerance: the least gain that counts, in the bound's unit.
    """
    return len(history) > patience and best - max(history[:-patience]) <= tolerance


def generator_state(seed: int) -> torch.Tensor:
    """The state (bytes) of a new CPU generator with this seed, as a learner's state holds it."""
    return torch.Generator().manual_seed(seed).get_state()


def generator_at(state: torch.Tensor) -> torch.Generator:
    """A generator that goes on where another one's `get_state()` was taken."""
    generator = torch.Generator()
    generator.set_state(state)
    return generator
