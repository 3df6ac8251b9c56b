"""The floor: the bytes that a job must move, over the bandwidth of a large triad measured in the same run."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.workloads import Workload

__all__ = ["TRIAD_BYTES", "bytes_moved", "make_triad"]

TRIAD_LENGTH = 20_000_000
TRIAD_BYTES = 3 * 8 * TRIAD_LENGTH


def make_triad() -> Callable[[], object]:
    """x = y + 2 z on arrays of 160 MB in float64, far beyond any cache: a job of `TRIAD_BYTES`.

    The lines of x that the processor reads before it writes them are not counted, as in McCalpin's STREAM.
    """
    import torch

    x, y, z = (torch.ones(TRIAD_LENGTH, dtype=torch.float64) for _ in range(3))
    return lambda: torch.add(y, z, alpha=2.0, out=x)


def bytes_moved(workload: Workload, job: str = "fixed") -> int:
    """What must move in one backward pass, were nothing kept from one step to the next.

    At each step the indices (int32), the probabilities, the rewards, the values that are read and those that are
    written. Indices and probabilities are shared by a batch. A gradient takes a second pass over the same things.

    Args:
        workload: any of them.
        job: "gradient" counts two passes; every other job one.
    """
    pairs = workload.num_states * workload.num_actions
    per_outcome = 8 if workload.next_states is None else 12
    outcomes = pairs * workload.num_outcomes * per_outcome
    step = outcomes + workload.batch * 8 * (pairs + 2 * workload.num_states)
    return workload.horizon * step * (2 if job == "gradient" else 1)
