"""What backends will allocate, estimated from sizes alone, so that too large a question is refused before it begins."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from cai.models.common import memory
from cai.models.trajectory.batch import ModelBatch
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Need", "check_memory", "enumerated_need", "horizon_need", "particles_need", "require_tables", "soft_need"]
__all__ += ["whole_need"]

STEP_OVERHEAD = 2_000  # bytes of Python objects that a step leaves behind where each has tensors of its own
SITE_OVERHEAD = 100_000  # bytes that a step of an enumerated program leaves behind, whatever its size


class Need(NamedTuple):
    """What a run will take.

    Attributes:
        bytes: of memory at its peak, about.
        what: takes them: "T S numbers of messages".
        instead: what to change, as advice.
    """

    bytes: int
    what: str
    instead: str


def check_memory(backend: Any, model: Any) -> None:
    """Refuses a question whose answer would not fit into the memory that there is.

    A backend without a method `memory` (a plug-in) is asked as it is.

    Args:
        backend: has `memory(model) -> Need`.
        model: what is asked about; of a batch, its member of the longest horizon counts for all.

    Raises:
        TooLarge: naming the bytes that are asked for, those that are there, and what to change.
    """
    estimate = getattr(backend, "memory", None)
    if estimate is None:
        return
    times, member = 1, model
    if isinstance(model, ModelBatch):
        times, member = len(model), model[max(range(len(model)), key=model.horizons.__getitem__)]
    need = estimate(member)
    if times * need.bytes <= memory.NEVER_LOOKED_AT:
        return
    what = f"backend {backend.name!r} needs {need.what}" + (f", for each of {times} members" if times > 1 else "")
    device = member.mdp.probabilities.device if isinstance(member, TrajectoryModel) else None
    memory.require_memory(times * need.bytes, f"{what}; that", need.instead, device)


def whole_need(parts: list[Need]) -> Need:
    """What several parts take together; in words the largest of them."""
    return max(parts, key=lambda need: need.bytes)._replace(bytes=sum(need.bytes for need in parts))


def horizon_need(
    model: TrajectoryModel, *, rows: float = 1, tables: float = 0, stepwise: bool = False, instead: str = ""
) -> Need:
    """What messages over the whole horizon take.

    Args:
        model: the trajectory model.
        rows: how many tables [T, S] there are at the peak.
        tables: how many [T, S, A].
        stepwise: whether each step has tensors of its own.
        instead: further advice.
    """
    mdp, steps = model.mdp, 1 if model.horizon == math.inf else int(model.horizon)
    size, pairs = mdp.num_states, mdp.num_states * mdp.num_actions
    numbers = steps * (rows * size + tables * pairs) + 4 * (mdp.probabilities.numel() + pairs)
    needed = int(mdp.probabilities.itemsize * numbers) + STEP_OVERHEAD * steps * stepwise
    held = [f"{count:g} {'table' if count == 1 else 'tables'} {shape}" for count, shape in
            ((rows, "[T, S]"), (tables, "[T, S, A]")) if count >= 1 and steps > 1]  # fmt: skip
    what = f"{' and '.join(held) or 'a few tables [S, A]'}, T = {steps:,}, S = {size:,} and A = {mdp.num_actions:,}"
    shorter = f"give a shorter horizon (or math.inf for a stationary answer){', ' + instead if instead else ''}"
    return Need(needed, what, shorter if steps > 1 else "make the process smaller")


def soft_need(model: TrajectoryModel, keep: str) -> Need:
    """What a soft recursion takes: values of all steps, or of a few."""
    endless = model.horizon == math.inf
    if keep == "evidence" or endless:
        return horizon_need(model, rows=20 if endless else 20 / model.horizon)
    return horizon_need(model, instead="or keep='evidence', which holds a few rows")


def enumerated_need(steps: int, table: int, instead: str) -> Need:
    """What Pyro's enumeration of a program takes.

    Args:
        steps: T.
        table: bytes of one table over (s_t, a_t, s_{t+1}).
        instead: advice.
    """
    what = f"tables over (s_t, a_t, s_{{t+1}}) of {table:,} bytes, several for each of T = {steps:,} steps"
    return Need(steps * (10 * table + SITE_OVERHEAD), what, instead)


def particles_need(num_particles: int, numbers: int, answer: int, instead: str) -> Need:
    """What weighted trajectories take.

    Args:
        num_particles: N.
        numbers: of one trajectory and what is drawn with it, 8 bytes each.
        answer: bytes that the answer takes besides.
        instead: advice.
    """
    what = f"{num_particles:,} trajectories of about {numbers:,} numbers"
    return Need(8 * num_particles * numbers + answer, what, instead)


def require_tables(model: TrajectoryModel, what: str, tables: float) -> None:
    """Refuses tables [T, S, A] of an answer that would not fit, when they are looked at.

    Args:
        model: the trajectory model.
        what: is asked for, e.g. "q_values".
        tables: how many there are while they are made.
    """
    need = horizon_need(model, rows=0, tables=tables)
    if need.bytes <= memory.NEVER_LOOKED_AT:
        return
    memory.require_memory(
        need.bytes,
        f"{what} [T, S, A], T = {model.steps:,},",
        "ask for numbers that need no table, or infer with a shorter horizon",
        model.device,
    )
