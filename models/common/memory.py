"""How much memory there is, and the refusal of work that would not fit into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

__all__ = ["TooLarge", "bytes_there", "in_words", "require_chains", "require_memory"]

NEVER_LOOKED_AT = 2**26  # bytes up to which nobody asks whether they are there
UNLIMITED = 2**60  # bytes from which a limit is none


class TooLarge(ValueError, MemoryError):
    """What is asked for does not fit into the memory that there is; says how much it takes, and what to change."""


def require_memory(needed: int, what: str, instead: str, device: torch.device | None = None) -> None:
    """Refuses, before it begins, work that takes more memory than there is.

    Args:
        needed: bytes, about.
        what: takes them, as the subject of a sentence.
        instead: what to change, as advice.
        device: where the tables lie; the CPU unless given.

    Raises:
        TooLarge: naming the bytes that are asked for, and those that are there.
    """
    if needed <= NEVER_LOOKED_AT:
        return
    there = bytes_there(device)
    if there is not None and needed > there:
        raise TooLarge(f"{what} takes about {in_words(needed)} of memory, and {in_words(there)} are there; {instead}")


def require_chains(number: int, numbers: int = 1, steps: int = 0) -> None:
    """Refuses more chains than there is memory for, before one is drawn.

    Args:
        number: of chains that run side by side.
        numbers: that a state and an action have together.
        steps: T, where whole trajectories are kept; 0 where only the last step is.

    Raises:
        TooLarge: naming the bytes that are asked for, and those that are there.
    """
    if steps:
        what, each = f"{number:,} trajectories of {steps:,} steps", 32 * steps * numbers
    else:
        what, each = f"{number:,} chains side by side", 64 * numbers
    require_memory(each * number, f"{what}: that", "ask for fewer")


def in_words(count: int) -> str:
    """A number of bytes as a sentence has it."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name} ({count:,} bytes)"
    return f"{count:,} bytes"


def bytes_there(device: torch.device | None = None) -> int | None:
    """Bytes that this process can still take without swapping; None where nobody can tell.

    On the CPU that is the least of what the machine has, what its control groups allow (containers and batch queues,
    versions 1 and 2), and what the limits of the process leave (ulimit -v).
    """
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [*_of_machine(), *_of_groups(), *_of_limits()]
    return max(0, min(found)) if found else None


def _of_machine(proc: Path = Path("/proc")) -> Iterator[int]:
    try:
        words = (proc / "meminfo").read_text().split()
        yield 1024 * int(words[words.index("MemAvailable:") + 1])
    except (OSError, ValueError, IndexError):
        try:
            yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return


def _of_groups(proc: Path = Path("/proc"), mount: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """What each control group of this process, and each above it, leaves; pages of files can be given back."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            top, limit, used, idle = mount, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, used = mount / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            idle = "total_inactive_file"
        else:
            continue
        place = top / path.strip("/")
        for folder in (place, *place.parents):
            room = _room(folder, limit, used, idle)
            if room is not None:
                yield room
            if folder == top:
                break


def _room(folder: Path, limit: str, used: str, idle: str) -> int | None:
    """What one control group leaves; None where it sets no limit, or shows none from inside a container."""
    try:
        most = int((folder / limit).read_text())
        if most >= UNLIMITED:
            return None
        words = (folder / "memory.stat").read_text().split()
        spare = int(words[words.index(idle) + 1]) if idle in words else 0
        return most - int((folder / used).read_text()) + spare
    except (OSError, ValueError):
        return None


def _of_limits() -> Iterator[int]:
    try:
        import resource

        pages = [int(word) for word in Path("/proc/self/statm").read_text().split()]
    except (ImportError, OSError, ValueError):
        return
    limits: Any = resource
    for which, used in ((limits.RLIMIT_AS, pages[0]), (limits.RLIMIT_DATA, pages[5])):
        most = resource.getrlimit(which)[0]
        if most != limits.RLIM_INFINITY:
            yield most - used * resource.getpagesize()
