"""How many cores a computation takes: all but one, since a laptop that is used by a person is never idle."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

__all__ = ["one_blas_thread", "one_thread", "spare_core", "thread_count"]


def thread_count() -> int:
    """How many threads a large step may use: one core is left to others, so that on two cores it is one.

    Threads meet at the end of every step. Where another process holds a core, one of them waits there for its turn, for
    milliseconds, and all the others wait for it. Measured on two cores, as time over that of one thread on idle ones
    (native loops on grids with 4 actions and 4 outcomes; fixed dynamics / sum-product):

        states      one thread       two threads    one thread,      two threads,
                    takes, a step    on idle cores  one core busy    one core busy
        1,000       0.08 / 0.02 ms   1.0 / 0.9      0.8 / 1.1        1.0 / 1.2
        10,000      0.4 / 0.2 ms     0.6 / 0.7      0.9 / 1.0        1.3 / 1.4
        100,000     5 / 9 ms         0.7 / 1.2      1.1 / 1.1        1.4 / 1.3
        1,000,000   80 / 100 ms      0.9 / 0.8      1.1 / 1.0        2.2 / 1.7

    Handing out blocks of states as threads come for them (OpenMP's dynamic schedule) was no better. So no step is large
    enough on two cores; with more, those that are free are used. `torch.set_num_threads` limits the number further.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(torch.get_num_threads(), cores - 1))


class one_thread(contextlib.ExitStack):
    """The time during which torch takes one thread, in the thread that calls; others see no change.

    Sums over many numbers are split among threads, so that their last bits differ with how many there are.
    """

    def _wanted(self) -> int:
        return 1

    def __enter__(self) -> Self:
        set_openmp, set_mkl = _setters()
        before, wanted = torch.get_num_threads(), self._wanted()
        if set_openmp is not None and wanted != before:
            set_openmp(wanted)
            self.callback(set_openmp, before)
            if set_mkl is not None:
                self.callback(set_mkl, set_mkl(wanted))  # which tells what it was
        return self


class spare_core(one_thread):
    """The time during which torch takes `thread_count` threads, in the thread that calls; others see no change.

    Torch shares among its threads what is far too small for that: MKL's exponential and logarithm from 256 numbers on.
    On two cores of which one is busy expected return and luck of a small model then take 83 ms in place of 34 (idle: 44
    and 43), and 200 steps on 10,000 states by sparse products 820 in place of 286 (idle: 233 and 255).
    """

    def _wanted(self) -> int:
        return thread_count()


_blas_lock = threading.Lock()
_blas_before: list[list[int]] = []  # the numbers that each found who asks for one thread now, those of the first first


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """The time during which products of numpy and scipy take one thread, where OpenBLAS does them.

    It shares out dot products from 10,000 numbers on, and their last bits differ with how many threads there are. Its
    number is that of the whole process: it stays at one until the last thread that asked for it has ended.
    """
    with _blas_lock:
        _blas_before.append([get() for get, _ in _openblas()])
        for _, put in _openblas():
            put(1)
    try:
        yield
    finally:
        with _blas_lock:
            before = _blas_before.pop()
            if not _blas_before:
                for (_, put), number in zip(_openblas(), before, strict=True):
                    put(number)


@functools.cache
def _openblas() -> list[tuple[Any, Any]]:
    """By which each OpenBLAS that came with numpy or scipy tells its number of threads, and is told it."""
    site = Path(np.__file__).parent.parent
    places = [site / f"{name}{end}" for name in ("numpy", "scipy") for end in (".libs", "/.dylibs")]
    found = []
    for path in sorted(file for place in places for file in place.glob("*openblas*")):
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(str(path))
            for begin, end in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")):
                get, put = (getattr(library, f"{begin}openblas_{way}_num_threads{end}", None) for way in ("get", "set"))
                if get is not None and put is not None:
                    found.append((get, put))
                    break
    return found


@functools.cache
def _setters() -> tuple[Any, Any]:
    """By which OpenMP and MKL, those that torch has loaded, set the calling thread's own number; None where unknown."""
    if not torch.backends.openmp.is_available():
        return None, None
    openmp = getattr(ctypes.CDLL(None), "omp_set_num_threads", None) if os.name == "posix" else None
    try:
        (library,) = (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")
        mkl = getattr(ctypes.CDLL(str(library)), "MKL_Set_Num_Threads_Local", None)
    except (OSError, ValueError):
        mkl = None
    return openmp, mkl
