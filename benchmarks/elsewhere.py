"""Programs of another interpreter that measure where they are: one line in, one number out."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator

__all__ = ["numbers_of"]


@contextlib.contextmanager
def numbers_of(command: list[str]) -> Iterator[Callable[[], float]]:
    """A function that asks a program, started by a command, for its next number.

    Raises:
        RuntimeError: when it is asked of a program that has ended.
    """
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        asked, told = process.stdin, process.stdout
        assert asked is not None
        assert told is not None

        def ask() -> float:
            asked.write("\n")
            asked.flush()
            line = told.readline()
            if not line:
                raise RuntimeError(f"{' '.join(command)} has ended; run it to see why, and see its first lines")
            return float(line)

        yield ask
        asked.close()
