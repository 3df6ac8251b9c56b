"""A chunk of tasks, as a worker does it: one thread, no bar of progress, and results that travel without the model."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cai.inference.core.driver import raising_interrupts
from cai.inference.core.progress import no_progress
from cai.models.common.threads import one_blas_thread, one_thread

__all__ = ["CHUNKS", "Chunks", "chunked", "unpacked"]

CHUNKS = 256  # at most; enough to keep as many workers busy, few enough that each holds some work where there is much

_SESSION = secrets.token_hex(8)  # another one in every process that was not forked

Chunk = tuple[int, tuple[Any, ...]]  # its number, and what is asked


def chunked(items: Sequence[Any]) -> list[Chunk]:
    """The items in order, in at most `CHUNKS` chunks; they depend on how many items there are, and on nothing else."""
    size = -(-len(items) // CHUNKS) or 1
    return [(i, tuple(items[begin : begin + size])) for i, begin in enumerate(range(0, len(items), size))]


def _here() -> tuple[str, int]:
    """Names this process."""
    return _SESSION, os.getpid()


@dataclass(frozen=True, eq=False)
class Chunks:
    """What is mapped over chunks; it can be pickled if the function can.

    Args:
        function: does one task. What it lists as `held` (a tuple) is known to both sides, and is not sent back.
        whole: whether Ctrl-C ends a task without an answer, as where half an answer would be kept as a whole.
        home: the process that asks.
    """

    function: Callable[[Any], Any]
    whole: bool
    home: tuple[str, int] = field(default_factory=_here)

    def __call__(self, chunk: Chunk) -> tuple[int, Any]:
        """(number of the chunk, its results: a list at home, bytes for `unpacked` from elsewhere)."""
        number, items = chunk
        away = self.home != _here()
        with contextlib.ExitStack() as stack:
            stack.enter_context(one_thread())
            stack.enter_context(one_blas_thread())
            if away:
                stack.enter_context(no_progress())
            if away or self.whole:
                stack.enter_context(raising_interrupts())
            results = [self.function(item) for item in items]
        return number, _packed(results, _held(self.function)) if away else results


def _held(function: Any) -> tuple[Any, ...]:
    return tuple(getattr(function, "held", ()))


class _Pickler(pickle.Pickler):
    """Writes the number of what both sides hold in its place."""

    def __init__(self, file: io.BytesIO, held: tuple[Any, ...]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.places = {id(value): place for place, value in enumerate(held)}

    def persistent_id(self, value: Any) -> int | None:
        return self.places.get(id(value))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, held: tuple[Any, ...]) -> None:
        super().__init__(file)
        self.held = held

    def persistent_load(self, place: Any) -> Any:
        return self.held[place]


def _packed(results: list[Any], held: tuple[Any, ...]) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, held).dump(results)
    return buffer.getvalue()


def unpacked(results: Any, function: Any) -> list[Any]:
    """The results of a chunk, wherever it was done."""
    if isinstance(results, bytes):
        return list(_Unpickler(io.BytesIO(results), _held(function)).load())
    return list(results)
