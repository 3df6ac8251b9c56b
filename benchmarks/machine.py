"""The machine that measures: its threads, its caches and what is installed."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cache_bytes", "describe_machine", "keep_memory", "limit_threads", "usual_memory"]

TUNABLES = "GLIBC_TUNABLES"
KEEPING = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776"

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
PACKAGES = ("torch", "numpy", "scipy", "jax", "quantecon", "numba", "imitation")


def limit_threads(number: int) -> None:
    """Holds this process and its children to a number of cores, and every library to as many threads.

    It has to be called before numpy, torch or jax are imported: their pools are made then. Cores are taken away
    where the system can do that (Linux), since XLA counts cores and reads no variable.

    Args:
        number: of threads.
    """
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(number)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])


def keep_memory() -> None:
    """Starts this process again, once, with an allocator that keeps what is freed, in huge pages (glibc only).

    Otherwise a result of a gigabyte comes in fresh pages at every call, and on a virtual machine whose host takes free
    memory back such pages took from 0.04 to 2 s, whoever asked for them: times would be those of the host. The memory
    of the triad, which the floor is made of, is in use already.
    """
    if platform.libc_ver()[0] == "glibc" and TUNABLES not in os.environ:
        os.environ[TUNABLES] = KEEPING
        os.execv(sys.executable, sys.orig_argv)


@contextlib.contextmanager
def usual_memory() -> Iterator[None]:
    """Lets processes that start meanwhile have the allocator as it is."""
    kept = os.environ.pop(TUNABLES, None)
    try:
        yield
    finally:
        if kept is not None:
            os.environ[TUNABLES] = kept


def cache_bytes() -> dict[str, int]:
    """Sizes of the unified caches as one core sees them, e.g. {"L2": 1048576, "L3": 33554432}; empty if unknown."""
    sizes = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (folder / "type").read_text().strip() == "Unified":
            size = (folder / "size").read_text().strip()
            scale = {"K": 2**10, "M": 2**20}.get(size[-1], 1)
            sizes[f"L{(folder / 'level').read_text().strip()}"] = int(size.rstrip("KM")) * scale
    return sizes


def describe_machine(threads: int) -> dict[str, object]:
    """Processor, memory, caches, threads, what ran before, and versions of everything that is compared."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": os.getloadavg()[0],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "caches": cache_bytes(),
        "system": platform.platform(),
        "allocator": os.environ.get(TUNABLES, "as it is"),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout.splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("Model name")]
    return names[0] if names else platform.processor() or platform.machine()
