"""How the program `cai` starts and ends: quiet when it is interrupted, and nothing on its output but its own."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

__all__ = ["INTERRUPTED", "interrupts_as_usual", "is_the_program", "only_own_output", "quiet_interrupts"]

INTERRUPTED = 130  # the exit code of a program that Ctrl-C has ended


def is_the_program() -> bool:
    """Whether this process is the command `cai` or `python -m cai`, and not somebody's script that imports it."""
    word = Path(sys.argv[0]).name if getattr(sys, "argv", None) else ""
    return word in ("cai", "cai.exe", "cai-script.py") or (word == "-m" and "cai" in sys.orig_argv)


def quiet_interrupts() -> None:
    """Makes Ctrl-C end the program at once and without a traceback, while all of it is still being imported."""
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def interrupts_as_usual() -> None:
    """Makes Ctrl-C raise KeyboardInterrupt again."""
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"error: interrupted\n")
    os._exit(INTERRUPTED)  # an exception would be lost in whatever is being imported, or come with a traceback


@contextlib.contextmanager
def only_own_output() -> Iterator[None]:
    """Sends to standard error what is written to standard output meanwhile, by plug-ins and libraries in C too."""
    with contextlib.redirect_stdout(sys.stderr):
        try:
            kept = os.dup(1)
        except OSError:  # there is no standard output at all
            yield
            return
        try:
            os.dup2(2, 1)
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)
