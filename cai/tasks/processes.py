"""New processes that do the tasks of a command."""

from __future__ import annotations

import builtins
import contextlib
import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from cai.tasks.mapping import Map

__all__ = ["worker_map"]


@contextlib.contextmanager
def worker_map(workers: int) -> Iterator[Map]:
    """The `map` of so many new processes, which end with the block; of one, Python's own, in this process.

    Args:
        workers: 1 or more.
    """
    if workers == 1:
        yield builtins.map
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_quietly) as pool:
        yield pool.map


def _end_quietly() -> None:
    """Ctrl-C goes to all processes of a terminal; the one that asked says so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
