"""The loop that runs every learner: progress, Ctrl-C, a limit of time, and checkpoints from which a run goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from cai.inference.core.learner import Learner, State
from cai.inference.core.posterior import Posterior
from cai.inference.core.progress import progress
from cai.inference.core.storage import StorageError, can_store, load, save
from cai.models.common.files import remove_unfinished, write_atomically
from cai.models.common.schema import check_fields
from cai.models.common.threads import spare_core

__all__ = ["Checkpoints", "check_schedule", "drive", "raising_interrupts"]

POLICY = "policy.safetensors"  # of a learner that has ended, in the folder of its run

logger = logging.getLogger("cai.inference")

S = TypeVar("S", bound=State)

_raises: ContextVar[bool] = ContextVar("raising_interrupts", default=False)


@contextlib.contextmanager
def raising_interrupts() -> Iterator[None]:
    """The time during which Ctrl-C ends `drive` without an answer, as where half an answer would be kept as a whole."""
    token = _raises.set(True)
    try:
        yield
    finally:
        _raises.reset(token)


def check_schedule(steps: int | None, seconds: float) -> None:
    """Refuses intervals of checkpoints that make no sense."""
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise ValueError(f"checkpoint_every is {steps!r}; expected a whole number of steps >= 1, or None")
    if not seconds > 0:
        raise ValueError(f"checkpoint_seconds is {seconds!r}; expected seconds > 0")


class Checkpoints:
    """Where and how often the state of a run is stored; each file replaces the last one at once, or not at all.

    How often changes no number: a checkpoint reads the state and nothing else.

    Args:
        folder: of the run; it must exist.
        steps: store after every so many steps; None for no such rule.
        seconds: store when so many have passed since the last time.
        exact: whether a run that cannot go on to the same bits is refused.
        run: what tells the run from others; a state of another one is refused.
    """

    FILE = "state.safetensors"
    COUNT = "state.json"  # how many steps are stored, for whoever looks; written last

    def __init__(
        self, folder: Path, *, steps: int | None = None, seconds: float = 60.0, exact: bool = True, run: str = ""
    ) -> None:
        self.path, self.steps, self.seconds = folder / self.FILE, steps, seconds
        self.exact, self.run = exact, run
        self._written, self._at = -1, time.monotonic()
        self._offered = 0
        self.learner: Any = None  # stores further files of its own, where it has any

    def offer(self, state: State) -> None:
        """Stores the state if it is time."""
        by_steps = self.steps is not None and state.steps // self.steps != self._offered // self.steps
        self._offered = state.steps
        if by_steps or time.monotonic() - self._at >= self.seconds:
            self.write(state)

    def write(self, state: State) -> None:
        """Stores the state, unless it is stored already."""
        if state.steps != self._written:
            values = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
            del values["problem"]
            if hasattr(self.learner, "store"):
                self.learner.store(state, self.path.parent)
            save(self.path, {"learner": type(state).__qualname__, "run": self.run, "state": values})
            if hasattr(self.learner, "stored"):
                self.learner.stored(state, self.path.parent)
            write_atomically(self.path.with_name(self.COUNT), self._count(state.steps))
            self._written, self._at = state.steps, time.monotonic()

    @staticmethod
    def _count(steps: int) -> bytes:
        """What the file says that is written last."""
        return json.dumps({"steps": steps}).encode()

    def restore(self, first: S) -> S:
        """The stored state of a run that begins with `first`; `first` itself where nothing was stored yet.

        A file that a killed process had half written is removed.

        Raises:
            StorageError: if the file is damaged, or holds the state of another learner.
        """
        remove_unfinished(self.path.parent)
        if not self.path.exists():
            return first
        content = load(self.path)
        names = {field.name for field in dataclasses.fields(first)} - {"problem"}
        values = content.get("state") if isinstance(content, dict) else None
        if not isinstance(values, dict) or content["learner"] != type(first).__qualname__ or set(values) != names:
            raise StorageError(
                f"{str(self.path)!r} holds no state of this run's learner; it was written by another version, or "
                "belongs to another run: start anew in an empty folder"
            )
        if content.get("run") != self.run:
            raise StorageError(
                f"{str(self.path)!r} belongs to another run, of another backend, other options or another world; put "
                "back the file of this one, or start anew in an empty folder"
            )
        try:
            check_fields(type(first), values)
        except TypeError as error:
            raise StorageError(f"{str(self.path)!r} is damaged: {error}; take a copy, or start anew") from None
        self._offered = values["steps"]
        count = self.path.with_name(self.COUNT)
        if count.is_file() and count.read_bytes() == self._count(values["steps"]):  # else it was killed before the end
            self._written = values["steps"]
        found = dataclasses.replace(first, **values)
        if hasattr(self.learner, "restored"):
            found = self.learner.restored(found, self.path.parent, exact=self.exact)
        return found


def drive(
    learner: Learner[Any],
    model: Any,
    *,
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    max_seconds: float = math.inf,
) -> Posterior:
    """Runs a learner until its own criterion or its limit ends it, and returns its answer.

    Interrupted by Ctrl-C, or when the time is over, it returns the best answer so far with status NOT_CONVERGED; only
    a step that was not finished is lost. With checkpoints it goes on where the last run in the folder stopped.

    Args:
        learner: what is run.
        model: what it answers.
        seed: of everything that it draws.
        checkpoints: where the state is stored, if anywhere.
        max_seconds: no step begins later than this after the first.
    """
    with spare_core():  # steps are many and small
        return _driven(learner, model, seed, checkpoints, max_seconds)


def _driven(
    learner: Learner[Any], model: Any, seed: int, checkpoints: Checkpoints | None, max_seconds: float
) -> Posterior:
    state: State = learner.init(model, seed=seed)
    if checkpoints is not None:
        checkpoints.learner = learner
        state = checkpoints.restore(state)
    metrics: dict[str, float] = {}

    def label() -> str:
        return ", ".join([learner.label, *(f"{name} {value:.6g}" for name, value in metrics.items())])

    end, stride = time.monotonic() + max_seconds, int(getattr(learner, "stride", 1))
    try:
        for _ in progress(max(0, -(-learner.limit // stride) - state.steps // stride), label):
            if state.status is not None or state.steps >= learner.limit:
                break
            if time.monotonic() > end:
                logger.warning("%s: the time was over after %d steps", learner.label, state.steps)
                break
            following, info = learner.step(state)
            counted = following.steps != state.steps
            state = following if counted else dataclasses.replace(following, steps=state.steps + 1)
            metrics.update(info.metrics)
            if checkpoints is not None:
                checkpoints.offer(state)
    except KeyboardInterrupt:
        if _raises.get():
            raise
        logger.warning("%s was interrupted after %d steps; the best answer so far is kept", learner.label, state.steps)
    if checkpoints is not None:
        checkpoints.write(state)
    posterior = learner.posterior(state)
    if checkpoints is not None and getattr(learner, "keeps_policy", False) and posterior.status.ok:
        policy = posterior.policy()
        if can_store(policy):  # one of a user's module, or relative to a function, is of this process alone
            policy.save(checkpoints.path.with_name(POLICY))
    return posterior
