"""How the program `cai` starts and ends: quiet when it is interrupted, and nothing on its output but its own."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

__all__ = ["INTERRUPTED", "interrupts_raised", "is_the_program", "only_own_output", "quiet_interrupts"]

INTERRUPTED = 130  # the exit code of a program that Ctrl-C has ended


def is_the_program() -> bool:
    """Whether this process is the command `cai` or `python -m cai`, and not somebody's script that imports it."""
    word = Path(sys.argv[0]).name if getattr(sys, "argv", None) else ""
    return word in ("cai", "cai.exe", "cai-script.py") or (word == "-m" and "cai" in sys.orig_argv)


def quiet_interrupts() -> None:
    """Makes Ctrl-C end the program at once and without a traceback, while all of it is still being imported.

    It holds again once the program's work is over. As the interpreter takes itself down, Ctrl-C no longer matters:
    Python would then give the signal its default back, and the program would seem to have been killed.
    """
    if _in_main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # before any other, and so called after them


@contextlib.contextmanager
def interrupts_raised() -> Iterator[None]:
    """Makes Ctrl-C raise KeyboardInterrupt again meanwhile, where `quiet_interrupts` holds."""
    if not (_in_main_thread() and signal.getsignal(signal.SIGINT) is _leave):
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _leave)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


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
