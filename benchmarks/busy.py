"""Another process that holds one core: what a student's browser, or a second notebook, does to a call."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

__all__ = ["SETTLE", "BusyCore", "one_thread", "settled"]

# Ends with the harness, however that ends.
LOOP = "import os, sys; parent = int(sys.argv[1])\nwhile os.getppid() == parent: pass"
SETTLE = 0.01  # seconds until the scheduler has given the other process a core


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """What every call is timed within, whoever holds a core: this process has done something else for a while.

    A call of a millisecond that is made again at once finds the processor's caches and predictions as it left them,
    and takes half as long as after `SETTLE` seconds: conditions that do not all wait cannot be compared.
    """
    begun = time.perf_counter()
    while time.perf_counter() - begun < SETTLE:  # a sleep would give the core away
        pass
    yield


class BusyCore:
    """A process that loops while `running` and is stopped otherwise; POSIX only.

    It is not pinned: the system decides where it runs, as it does with any neighbour.
    """

    def __enter__(self) -> BusyCore:
        self._process = subprocess.Popen([sys.executable, "-S", "-c", LOOP, str(os.getpid())])
        self._signal(signal.SIGSTOP)
        return self

    def __exit__(self, *reason: object) -> None:
        self._process.kill()
        self._process.wait()

    def _signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The time during which one core is held."""
        self._signal(signal.SIGCONT)
        try:
            with settled():
                yield
        finally:
            self._signal(signal.SIGSTOP)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """The time during which torch has one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with settled():
            yield
    finally:
        torch.set_num_threads(before)
