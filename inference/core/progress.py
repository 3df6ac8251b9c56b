"""Progress of long work: a rich bar in a terminal, tqdm in a notebook, and nothing before a second has passed."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator

__all__ = ["no_progress", "progress"]

DELAY = 1.0  # seconds
_showing = threading.Lock()  # held while a bar is up; what runs inside it, or beside it in other threads, shows none


def progress(total: int, description: str | Callable[[], str]) -> Iterator[int]:
    """Yields 0 .. total - 1; after a second a bar appears on standard error, where somebody can see it.

    Args:
        total: how many pieces of work there are.
        description: what stands beside the bar; a function is asked anew after every piece.
    """
    if not _showing.acquire(blocking=False):
        yield from range(total)
        return
    try:
        text = description if callable(description) else lambda: description
        if _in_notebook():
            yield from _notebook_bar(total, text)
        elif sys.stderr.isatty():
            yield from _terminal_bar(total, text)
        else:
            yield from range(total)
    finally:
        _showing.release()


@contextlib.contextmanager
def no_progress() -> Iterator[None]:
    """The time during which no bar is shown in this process, as in one that works for another."""
    mine = _showing.acquire(blocking=False)
    try:
        yield
    finally:
        if mine:
            _showing.release()


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"


def _notebook_bar(total: int, text: Callable[[], str]) -> Iterator[int]:
    if total < 1 or importlib.util.find_spec("ipywidgets") is None:  # text bars would stay in the saved notebook
        yield from range(total)
        return
    from tqdm.auto import tqdm

    yield 0  # the first piece may import much; it says nothing of how long the rest will take
    bar = tqdm(range(1, total), desc=text(), initial=1, total=total, delay=DELAY, leave=False)
    for i in bar:
        yield i
        bar.set_description(text(), refresh=False)


def _terminal_bar(total: int, text: Callable[[], str]) -> Iterator[int]:
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(text(), total=total)
    later = threading.Timer(DELAY, bar.start)  # also while the first piece of work is still running
    later.daemon = True
    later.start()
    try:
        for i in range(total):
            yield i
            bar.update(task, completed=i + 1, description=text())
    finally:
        later.cancel()
        bar.stop()
