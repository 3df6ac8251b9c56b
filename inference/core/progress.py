"""Progress of long work: a rich bar in a terminal, tqdm in a notebook, and nothing before a second has passed."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator

__all__ = ["progress"]

DELAY = 1.0  # seconds
_showing = threading.Event()  # a bar is up; what runs inside it shows none of its own


def progress(total: int, description: str) -> Iterator[int]:
    """Yields 0 .. total - 1; after a second a bar appears on standard error, where somebody can see it."""
    if _showing.is_set():
        yield from range(total)
        return
    _showing.set()
    try:
        if _in_notebook():
            yield from _notebook_bar(total, description)
        elif sys.stderr.isatty():
            yield from _terminal_bar(total, description)
        else:
            yield from range(total)
    finally:
        _showing.clear()


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"


def _notebook_bar(total: int, description: str) -> Iterator[int]:
    if importlib.util.find_spec("ipywidgets") is None:  # text bars would stay behind in the saved notebook
        yield from range(total)
        return
    from tqdm.auto import tqdm

    yield 0  # the first piece may import half the world; it says nothing of how long the rest will take
    yield from tqdm(range(1, total), desc=description, initial=1, total=total, delay=DELAY, leave=False)


def _terminal_bar(total: int, description: str) -> Iterator[int]:
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(description, total=total)
    later = threading.Timer(DELAY, bar.start)  # also while the first piece of work is still running
    later.daemon = True
    later.start()
    try:
        for i in range(total):
            yield i
            bar.update(task, completed=i + 1)
    finally:
        later.cancel()
        bar.stop()
