"""One workload, all contenders: prepared, held against each other, timed in turns, and set beside the floor."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from benchmarks.busy import BusyCore, one_thread, settled
from benchmarks.contenders import Contender, NotOffered, library_contenders
from benchmarks.floor import TRIAD_BYTES, bytes_moved, make_triad
from benchmarks.peers import peer_contenders
from benchmarks.timing import interleave
from benchmarks.workloads import Workload, make_workload

__all__ = ["all_contenders", "find_contender", "find_row", "run_workload"]

TRIAD = "triad"
AGREEMENT = 1e-9  # largest difference between two libraries' values of the first step, relative to the largest value


def all_contenders(workload: Workload) -> list[Contender]:
    """Everything that is timed on a workload."""
    return [*library_contenders(workload), *peer_contenders(workload)]


def find_contender(workload: Workload, name: str, job: str) -> Contender:
    """A contender by its name and job.

    Raises:
        ValueError: if there is none.
    """
    for contender in all_contenders(workload):
        if (contender.name, contender.job) == (name, job):
            return contender
    raise ValueError(f"{name!r} has no job {job!r} on workload {workload.name}")


def find_row(result: dict[str, Any], name: str, job: str) -> dict[str, Any] | None:
    """The row of a contender in a workload's result, or None where it was not timed."""
    for row in result["rows"]:
        if (row["contender"], row["job"]) == (name, job):
            return None if row["median_s"] is None else row
    return None


def run_workload(
    name: str,
    *,
    quick: bool = False,
    rounds: int = 15,
    budget: float = 60.0,
    tick: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Times one workload.

    Every contender is prepared and called once. That first call is not counted; its values are held against those
    of `cai`. Then all of them and the triad take turns: as they are, and with one core held by another process; `cai`
    with one thread, too.

    Args:
        name: of the workload.
        quick: whether to run the small one.
        rounds: the most times each contender is called.
        budget: seconds for one contender in all.
        tick: is told what happens now.

    Returns:
        Plain numbers and strings, ready for JSON: the workload, its bytes and floor, and one row a contender. Where
        `error` is set nothing was timed, and it says why.
    """
    workload = make_workload(name, quick)
    rows: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], Any]] = {}
    heads: dict[str, np.ndarray] = {}
    for contender in all_contenders(workload):
        key = f"{contender.name}: {contender.job}"
        tick(f"{name}: first call of {key}")
        row = rows[key] = _blank_row(contender)
        try:
            start = time.perf_counter()
            call = contender.prepare(workload)
            row["prepare_s"] = time.perf_counter() - start
            start = time.perf_counter()
            result = call()
            row["first_s"] = time.perf_counter() - start
            head = first_step(contender.read(result), workload)
            del result
        except ImportError as error:
            row["error"] = f"not installed ({error.name})"
        except NotOffered as error:
            row["error"] = str(error)
        except Exception as error:  # one failure must not end a long run; it is shown, and the run ends with status 1
            row["error"], row["failed"] = f"{type(error).__name__}: {str(error)[:200]}", True
        else:
            if contender.agrees:
                reference = heads.setdefault(contender.job, head)
                row["difference"] = float(np.abs(head - reference).max() / max(1.0, np.abs(reference).max()))
                if not row["difference"] <= AGREEMENT:
                    row["error"], row["failed"] = f"differs from cai by {row['difference']:.1e}", True
                    continue
            calls[key] = call
    triad = make_triad()
    start = time.perf_counter()
    triad()
    seconds = {key: rows[key]["first_s"] for key in calls} | {TRIAD: time.perf_counter() - start}
    calls[TRIAD] = triad
    with BusyCore() as busy:
        around: dict[tuple[str, str], Callable[[], AbstractContextManager[object]]] = {}
        for key in calls:
            around[key, ""] = settled
            if key != TRIAD:
                around[key, "busy"] = busy.running
            if key == TRIAD or rows[key]["contender"].startswith("cai"):
                around[key, "one_thread"] = one_thread
        samples = interleave(
            {turn: calls[turn[0]] for turn in around},
            {turn: seconds[turn[0]] for turn in around},
            rounds=rounds,
            budget=budget,
            tick=lambda turn: tick(f"{name}: timing {turn[0]}"),
            around=around,
        )
    bandwidth, alone = (TRIAD_BYTES / samples[TRIAD, condition].median for condition in ("", "one_thread"))
    for key, row in rows.items():
        if (key, "") in samples:
            sample = samples[key, ""]
            row["median_s"], row["quartiles_s"] = sample.median, sample.quartiles
            row["repeats"] = len(sample.seconds)
            row["floor_ratio"] = sample.median * bandwidth / bytes_moved(workload, row["job"])
            row["busy_s"] = samples[key, "busy"].median
            row["one_thread_s"] = samples[key, "one_thread"].median if (key, "one_thread") in samples else None
    return {
        "workload": name,
        "title": workload.title,
        "bytes": bytes_moved(workload),
        "value_bytes": workload.value_bytes,
        "bandwidth": bandwidth,
        "floor_s": bytes_moved(workload) / bandwidth,
        "one_thread_floor_s": bytes_moved(workload) / alone,
        "rows": list(rows.values()),
    }


def first_step(array: np.ndarray, workload: Workload) -> np.ndarray:
    """Values of the first step, [S] or [N, S], from [T, S] or [N, T, S]; a gradient [S, A] as it is."""
    if workload.gradient and array.shape == workload.reward.shape:
        return array.copy()
    return array[..., 0, :].copy()


def _blank_row(contender: Contender) -> dict[str, Any]:
    return {
        "contender": contender.name,
        "job": contender.job,
        "note": contender.note,
        "prepare_s": None,
        "first_s": None,
        "median_s": None,
        "quartiles_s": None,
        "repeats": 0,
        "one_thread_s": None,
        "busy_s": None,
        "floor_ratio": None,
        "difference": None,
        "error": None,
        "failed": False,
    }
