"""The learner with networks: copies of a world are stepped, and after each step its networks are updated."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from cai.inference.core.learner import Info, State
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status
from cai.inference.learning.history import as_dataset
from cai.inference.learning.networks.answers.posterior import LearnedPosterior, policy_of
from cai.inference.learning.networks.experience.buffer import Buffer, Columns
from cai.inference.learning.networks.experience.collector import Collector
from cai.inference.learning.networks.experience.interface import OutOfFloats, interface_of
from cai.inference.learning.networks.runs.events import write_events
from cai.inference.learning.networks.updates.brain import Brain
from cai.inference.learning.tables.learner import BUDGET_USED, steps_since
from cai.models.common.threads import one_thread

__all__ = ["NetworkLearner", "NetworkOptions", "NetworkState"]

BLOCK = 200  # transitions between two places at which a run can be stored, about
RECORD = 5  # blocks between two records of the history
COUNTED = 6  # sums since the last record: episodes, returns, lengths, entropies, critic and actor losses


@dataclass(frozen=True)
class NetworkOptions:
    """How a run goes.

    Attributes:
        num_envs: N.
        batch_size: transitions of an update.
        buffer_size: the most transitions that are kept.
        warmup_steps: uniform ones at the start, before any update.
        updates_per_step: updates for each transition; a fraction is saved up.
        keeps_ends: whether the buffer is told where episodes end, for brains that learn from paths.
    """

    num_envs: int
    batch_size: int
    buffer_size: int
    warmup_steps: int
    updates_per_step: float
    keeps_ends: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class NetworkState(State):
    """Where a run is. `steps` counts transitions, over all copies.

    The networks, the buffer and the copies themselves move on in place, in `problem`: a state of an earlier step is
    gone. What stands here is what a checkpoint holds besides the buffer's files.

    Attributes:
        networks: parameters, moments and targets, by name.
        copies: of the world, see `Collector.stored`.
        random: the state of the generator of all draws.
        sums: [6], since the last record: episodes that ended, returns, lengths, entropies, critic and actor losses.
        learned: how many updates these sums hold.
        owed: updates that are still to come for transitions so far, a fraction.
        history: [R, 7], see `cai.inference.learning.history`.
    """

    networks: dict[str, Tensor]
    copies: dict[str, Any]
    random: Tensor
    sums: Tensor
    learned: int = 0
    owed: float = 0.0
    history: Tensor


class _Session:
    """What moves on in place."""

    def __init__(self, world: Any, brain: Brain, buffer: Buffer, copies: Collector, generator: torch.Generator) -> None:
        self.world, self.brain, self.buffer, self.copies, self.generator = world, brain, buffer, copies, generator
        self.interrupted = False
        self.told = 0  # records of the history that files for TensorBoard hold


@dataclass(frozen=True, eq=False)
class NetworkLearner:
    """Runs networks in a world.

    Args:
        backend: whose answer it is; its name, target, `entropy_form` and `checkpoint_every` are read.
        brain: makes the networks of (world, interface, generator).
        limit: the budget, transitions over all copies; a multiple of `num_envs`.
        options: how the run goes.
    """

    backend: Any
    brain: Callable[[Any, Any, torch.Generator], Brain]
    limit: int
    options: NetworkOptions
    seeds: dict[str, int] = dataclasses.field(default_factory=dict)
    label: str = "learning networks"
    keeps_policy: ClassVar[bool] = True

    @property
    def stride(self) -> int:
        """Transitions between two places at which a run can be stored; a multiple of N."""
        return max(1, BLOCK // self.options.num_envs) * self.options.num_envs

    @property
    def checkpoint_every(self) -> int:
        """Transitions between two checkpoints, unless the caller says so."""
        return int(self.backend.checkpoint_every)

    def init(self, model: Any, *, seed: int) -> NetworkState:
        images = getattr(self.backend, "network", None) is not None
        interface = interface_of(model, self.backend.name, images=images)
        generator = torch.Generator().manual_seed(seed)
        brain = self.brain(model, interface, generator)
        copies = Collector(model, interface, self.options.num_envs, seed, keeps_ends=self.options.keeps_ends)
        mask = interface.num_actions if copies.allowed is not None else 0
        columns = Columns(interface.size, interface.action_size, mask, self.options.keeps_ends)
        buffer = Buffer(min(self.options.buffer_size, self.limit), columns)
        session = _Session(model, brain, buffer, copies, generator)
        return NetworkState(
            problem=session,
            networks=brain.tensors(),
            copies=copies.stored(),
            random=generator.get_state(),
            sums=torch.zeros(COUNTED, dtype=torch.float64),
            history=torch.zeros(0, 7, dtype=torch.float64),
        )

    def step(self, state: NetworkState) -> tuple[NetworkState, Info]:
        """A block of transitions, or those up to the end of the budget; Ctrl-C ends it between two of them."""
        session: _Session = state.problem
        if session.interrupted:
            session.interrupted = False
            raise KeyboardInterrupt
        end = min((state.steps // self.stride + 1) * self.stride, self.limit)
        sums, learned, owed, at = state.sums.clone(), state.learned, state.owed, state.steps
        # Small matrices are slower on several threads, above all beside other work.
        with one_thread(), _held_interrupts() as held:
            while at < end and not held:
                before = learned
                try:
                    learned, owed = self._once(session, sums, learned, owed, at + self.options.num_envs)
                except OutOfFloats:
                    break
                at += self.options.num_envs
                if learned > before and not _can_act(session.brain):  # what it did next would be no action
                    break
        session.interrupted = bool(held)
        moved = dataclasses.replace(
            state,
            steps=at,
            sums=sums,
            learned=learned,
            owed=owed,
            random=session.generator.get_state(),
            networks=session.brain.tensors(),
            copies=session.copies.stored(),
        )
        if self._why(session):
            moved = dataclasses.replace(moved, status=Status.UNSTABLE)
        elif at % (RECORD * self.stride) == 0:
            moved = _recorded(moved)
        told = moved.history[-1].tolist() if len(moved.history) else [math.nan] * 7
        metrics = {"return": told[1], "entropy": told[3], "temperature": told[4]}
        return moved, Info({name: value for name, value in metrics.items() if math.isfinite(value)})

    def _once(self, session: _Session, sums: Tensor, learned: int, owed: float, at: int) -> tuple[int, float]:
        """One step of every copy, and the updates that it brings."""
        options, copies, generator, brain = self.options, session.copies, session.generator, session.brain
        early = at <= options.warmup_steps
        if early:
            kept = brain.uniform(copies.number, copies.allowed, generator)
        else:
            kept = brain.act(copies.observations, copies.allowed, generator)
        step = copies.step(brain.taken(kept), kept)
        session.buffer.add(step.rows)
        if watch := getattr(session.brain, "watch", None):
            watch(step.rows)
        for total, length in step.ended:
            sums[:3] += torch.tensor([1.0, total, length], dtype=torch.float64)
        if early:
            return learned, owed
        owed += options.updates_per_step * options.num_envs
        lesson = brain.lesson(session.buffer, copies.number, generator) if owed >= 1 else None
        if lesson is None:
            return learned, owed
        while owed >= 1:
            told = brain.update(lesson(options.batch_size, generator), generator)
            sums[3:] += torch.tensor([told.entropy, told.critic_loss, told.actor_loss], dtype=torch.float64)
            learned, owed = learned + 1, owed - 1
        return learned, owed

    def _why(self, session: _Session) -> str:
        """Why the run makes no sense any more, in words; nothing where it does."""
        if session.brain.temperature.at_bound:
            return f"the learned temperature ran to its bound, {session.brain.temperature.value:g}"
        brain, copies = session.brain, session.copies
        broken = [name for name, part in brain.tensors().items() if not bool(torch.isfinite(part).all())]
        if broken:
            return f"{broken[0]} left the floats"
        try:
            kept = brain.act(copies.observations, copies.allowed, torch.Generator())
            copies.interface.to_world(brain.taken(kept))
        except OutOfFloats:
            return "what the policy makes of an observation left the floats"
        return ""

    def posterior(self, state: NetworkState) -> Posterior:
        session: _Session = state.problem
        status, why, brain = state.status, self._why(session), session.brain
        if status is None:
            status = Status.SUCCESS if state.steps >= self.limit else Status.NOT_CONVERGED
        details: dict[str, Any] = {"steps": state.steps, "form": "entropy" if self.backend.entropy_form else "KL"}
        details |= {"history": as_dataset(_told(state)), "temperature": brain.temperature.value}
        if status is Status.NOT_CONVERGED:
            details["why"] = f"{state.steps:,} of {self.limit:,} transitions were learned from"
        if status is Status.UNSTABLE:
            details["why"] = why
        if status is Status.SUCCESS:
            details["note"] = BUDGET_USED.format(self.limit)
            if state.steps <= self.options.warmup_steps:
                details["note"] += "; all of them were uniform steps (warmup_steps), so nothing was learned"
        return LearnedPosterior(
            backend=self.backend.name,
            target=self.backend.target,
            status=status,
            horizon=session.world.horizon,
            model=session.world,
            learned_policy=policy_of(brain, self.backend.name),
            brain=brain,
            seed=session.copies.seed,
            entropy_form=self.backend.entropy_form,
            details=details,
        )

    # ---- files --------------------------------------------------------------------------------------------------

    def store(self, state: NetworkState, folder: Path) -> None:
        """Appends to the buffer's files, and to those for TensorBoard, before the state is written."""
        state.problem.buffer.store(folder)
        if getattr(self.backend, "tensorboard", False):
            history = self._ended(state)
            write_events(folder, history, state.problem.told)
            state.problem.told = len(history)

    def _ended(self, state: NetworkState) -> Tensor:
        """The history, at the end of a run with the record of what came after the last one."""
        return _told(state) if state.steps >= self.limit or state.status is not None else state.history

    def stored(self, state: NetworkState, folder: Path) -> None:
        """Removes files that the state which was now written does not need."""
        state.problem.buffer.discard(folder)

    def restored(self, state: NetworkState, folder: Path, *, exact: bool = True) -> NetworkState:
        """The state that was read, with networks, buffer and copies moved to where it was."""
        session: _Session = state.problem
        for name, tensor in session.brain.tensors().items():
            tensor.data.copy_(state.networks[name])
        session.brain.temperature.load(state.networks["temperature"])
        session.buffer.restore(folder, state.steps)
        session.copies.restore(state.copies, exact)
        session.generator.set_state(state.random)
        session.told = len(self._ended(state))
        return dataclasses.replace(state, networks=session.brain.tensors())


def _can_act(brain: Brain) -> bool:
    """Whether everything that the policy reads is finite."""
    parts = brain.policy_tensors().values()
    return all(math.isfinite(float(part.sum())) or bool(torch.isfinite(part).all()) for part in parts)


def _told(state: NetworkState) -> Tensor:
    """The history, with a record of what came after the last one."""
    return (_recorded(state) if steps_since(state.history, state.steps) else state).history


def _recorded(state: NetworkState) -> NetworkState:
    """The state with one more record, and sums that begin anew."""
    episodes, total, length, entropy, critic, actor = state.sums.tolist()
    mean = [part / episodes if episodes else math.nan for part in (total, length)]
    alpha = state.problem.brain.temperature.value
    losses = [part / state.learned if state.learned else math.nan for part in (entropy, critic, actor)]
    record = torch.tensor([[state.steps, *mean, losses[0], alpha, *losses[1:]]], dtype=torch.float64)
    return dataclasses.replace(
        state, history=torch.cat([state.history, record]), sums=torch.zeros_like(state.sums), learned=0
    )


@contextlib.contextmanager
def _held_interrupts() -> Iterator[list[int]]:
    """Ctrl-C adds to a list, so that what is under way is finished first; in the main thread alone."""
    held: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield held
        return
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, before)
