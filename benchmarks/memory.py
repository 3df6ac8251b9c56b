"""Memory that a call adds, measured in a process of its own.

A child process prepares a contender and makes the call twice; between its signals the parent reads the child's
resident memory every millisecond. What is added is the peak less what was resident when the call began: what comes
back, what lies between, and what is kept for later calls. The kernel's own peak (`ru_maxrss`) will not do: it
remembers the construction of the arrays, which may have needed more. A tiny problem of the same kind goes first, so
that libraries are loaded and their threads run; XLA compiles for the true sizes in the first call.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection

import psutil

from benchmarks.machine import usual_memory

__all__ = ["added_memory"]

INTERVAL = 0.001  # seconds between two looks
PATIENCE = 600.0  # seconds for all that a child does


def added_memory(workload: str, contender: str, job: str, *, quick: bool, threads: int) -> tuple[int, int]:
    """Bytes added at the peak of the first and of a later call.

    Args:
        workload: its letter.
        contender: its name.
        job: which of its jobs.
        quick: whether the workload is a small one.
        threads: of every library.

    Raises:
        RuntimeError: if the child ends before its time.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_work, args=(there, workload, contender, job, quick, threads), daemon=True)
    with usual_memory():  # one that keeps what is freed would hide what a call adds
        child.start()
    there.close()
    try:
        process = psutil.Process(child.pid)
        first, later = _watch(here, process), _watch(here, process)
    except (EOFError, psutil.NoSuchProcess):
        raise RuntimeError(
            f"the process that measured {contender} on {workload} ended early; see its messages"
        ) from None
    finally:
        child.join(5.0)
        if child.is_alive():
            child.kill()
    return first, later


def _watch(connection: Connection, process: psutil.Process) -> int:
    """Waits for the child to be ready, lets it call, and returns what it adds at most."""
    if not connection.poll(PATIENCE):
        raise EOFError
    connection.recv()
    before = peak = process.memory_info().rss
    connection.send("go")
    end = time.monotonic() + PATIENCE
    while not connection.poll(INTERVAL):
        peak = max(peak, process.memory_info().rss)
        if time.monotonic() > end:
            raise EOFError
    peak = max(peak, connection.recv(), process.memory_info().rss)
    connection.send("seen")
    return peak - before


def _work(connection: Connection, workload: str, contender: str, job: str, quick: bool, threads: int) -> None:
    from benchmarks.machine import limit_threads

    limit_threads(threads)
    from benchmarks.suite import find_contender
    from benchmarks.workloads import make_workload

    small = make_workload(workload, quick=True)
    find_contender(small, contender, job).prepare(small)()
    problem = make_workload(workload, quick)
    call = find_contender(problem, contender, job).prepare(problem)
    for _ in range(2):
        gc.collect()
        _return_free_memory()
        connection.send("ready")
        connection.recv()
        result = call()
        connection.send(psutil.Process().memory_info().rss)
        connection.recv()
        del result


def _return_free_memory() -> None:
    """Gives free pages of the heap back, or the call would fill them unseen (glibc only)."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
