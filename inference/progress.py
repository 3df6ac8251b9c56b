"""Progress of long work: a rich bar in a terminal, tqdm in a notebook, and nothing before a second has passed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

__all__ = ["progress"]

DELAY = 1.0  # seconds


def progress(total: int, description: str) -> Iterator[int]:
    """Yields 0 .. total - 1; after a second a bar appears on standard error, where somebody can see it."""
    bar = _notebook_bar(total, description) if _in_notebook() else _terminal_bar(total, description)
    return bar if bar is not None else iter(range(total))


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"


def _notebook_bar(total: int, description: str) -> Iterator[int]:
    from tqdm.auto import tqdm

    yield from tqdm(range(total), desc=description, delay=DELAY, leave=False)


def _terminal_bar(total: int, description: str) -> Iterator[int] | None:
    if not sys.stderr.isatty():
        return None
    return _rich_bar(total, description)


def _rich_bar(total: int, description: str) -> Iterator[int]:
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    begin, task = time.monotonic(), None
    try:
        for i in range(total):
            if task is None and time.monotonic() - begin > DELAY:
                bar.start()
                task = bar.add_task(description, total=total)
            if task is not None:
                bar.update(task, completed=i)
            yield i
    finally:
        if task is not None:
            bar.stop()
