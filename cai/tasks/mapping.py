"""Tasks through a `map`: built in, of a pool, of joblib, of a cluster; in chunks, kept in a folder as they end."""

from __future__ import annotations

import builtins
import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from cai.inference.core.progress import progress
from cai.tasks.chunks import Chunks, chunked, unpacked
from cai.tasks.journal import Journal

__all__ = ["check_map", "run_tasks"]

Map = Callable[..., Iterable[Any]]

logger = logging.getLogger("cai.tasks")


def check_map(map: Any) -> None:
    """Refuses what has not the contract of `concurrent.futures.Executor.map`, as far as that can be seen.

    Raises:
        TypeError: says what to give.
    """
    if (callable(map) and not isinstance(map, type)) or map is builtins.map:
        return
    of_dask = type(map).__name__ == "Client"
    advice = "map=cai.dask_map(client)" if of_dask else "its method, map=pool.map"
    raise TypeError(
        f"map is a {type(map).__name__}; expected a function such as that of a pool, map(function, items) -> results: "
        f"give {advice}"
    )


def run_tasks(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    label: str,
    map: Map = builtins.map,
    journal: Journal | None = None,
) -> list[Any]:
    """[function(item) for item in items], in chunks that `map` hands to whoever works; each on one thread.

    What comes out is the same to the last bit whatever the map and however many work, if the function takes all its
    chance from the item. With a journal, chunks that are in it are not done again, and what it holds is returned.

    Args:
        function: frozen, and for other processes one that can be pickled.
        items: likewise.
        label: stands beside the bar of progress.
        map: with the contract of `concurrent.futures.Executor.map`; results may come in any order. Where it has a
            method `unordered`, that is called in its place, so that what ends early is kept early.
        journal: keeps what is done.

    Raises:
        TypeError: if the map is none, or the function cannot be sent to another process.
    """
    check_map(map)
    chunks = chunked(items)
    found = {} if journal is None else journal.done(len(chunks))
    ahead = [chunk for chunk in chunks if chunk[0] not in found]
    asked = Chunks(function, whole=journal is not None)
    results: Iterator[Any] = iter(())
    try:
        if ahead:
            results = iter(getattr(map, "unordered", map)(asked, ahead))
        for _ in progress(len(ahead), label):
            number, part = _checked(next(results, None), found, map)
            done = unpacked(part, function)
            found[number] = done if journal is None else journal.keep(number, done)
    except BaseException as error:
        if journal is not None:
            told = (len(found), len(chunks), str(journal.folder))
            logger.warning("%s ended early; %d of %d parts are kept in %r: ask again to go on there", label, *told)
        if isinstance(error, (pickle.PicklingError, AttributeError, TypeError)):
            _say_if_it_cannot_travel(asked, ahead, error)
        raise
    finally:
        close = getattr(results, "close", None)  # of a pool: what has not begun is taken back
        if close is not None:
            close()
    return [result for number in range(len(chunks)) for result in found[number]]


def _checked(result: Any, found: dict[int, Any], map: Any) -> tuple[int, Any]:
    """A chunk's result; refuses what a map that does not follow the contract gives."""
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], int) and result[0] not in found:
        return result
    got = "nothing more" if result is None else f"a {type(result).__name__}"
    advice = "; of a Dask client give cai.dask_map(client)" if hasattr(result, "result") else ""
    raise TypeError(
        f"map={map!r:.80} gave {got} where a result was due; it must return function(item) for every item, once{advice}"
    )


def _say_if_it_cannot_travel(asked: Chunks, ahead: list[Any], error: BaseException) -> None:
    for what in (asked, *ahead[:1]):
        try:
            pickle.dumps(what)
        except Exception as reason:
            raise TypeError(
                f"this question cannot be sent to another process ({reason}); define functions and classes at the top "
                "of a module that the others can import, or use a pool of threads"
            ) from error
