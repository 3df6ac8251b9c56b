"""A `map` for the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["DaskMap", "dask_map"]


@dataclass(frozen=True, eq=False)
class DaskMap:
    """`Executor.map` on a cluster: the function is sent once and held by the workers, items go one by one.

    A worker that dies takes no result along: its tasks are done by others, and the function is sent to them again.

    Args:
        client: a synchronous `dask.distributed.Client`.
    """

    client: Any

    def __call__(self, function: Callable[..., Any], *items: Iterable[Any]) -> Iterator[Any]:
        """Results in the order of the items."""
        futures = self._submitted(function, zip(*items, strict=False))
        try:
            while futures:
                yield futures[0].result()
                futures.pop(0).release()
        finally:
            self.client.cancel(futures)

    def unordered(self, function: Callable[..., Any], *items: Iterable[Any]) -> Iterator[Any]:
        """Results as they end."""
        from distributed import as_completed

        futures = self._submitted(function, zip(*items, strict=False))
        ahead = {future.key: future for future in futures}
        del futures
        try:
            for future in as_completed(list(ahead.values())):
                yield future.result()
                ahead.pop(future.key).release()
        finally:
            self.client.cancel(list(ahead.values()))

    def _submitted(self, function: Callable[..., Any], rows: Iterable[tuple[Any, ...]]) -> list[Any]:
        # A task, as what is scattered is lost with the worker that holds it; this is done again on another.
        held = self.client.submit(_same, function, pure=False)
        return [self.client.submit(_call, held, row, pure=False) for row in rows]


def _same(function: Any) -> Any:
    return function


def _call(function: Callable[..., Any], row: tuple[Any, ...]) -> Any:
    return function(*row)


def dask_map(client: Any) -> DaskMap:
    """What `map=` takes to use a Dask cluster, in `cai.compare`, `cai.sweep`, `cai.inverse.bootstrap` and `fit`.

        from dask.distributed import Client

        client = Client("tcp://scheduler:8786")  # or LocalCluster(n_workers=4, threads_per_worker=1)
        table = cai.sweep("bridge", "exact", model_options={"slip": slips}, map=cai.dask_map(client), folder="slips")

    The workers need the same version of cai, on processors of one kind if bits are to be the same.

    Args:
        client: a `dask.distributed.Client`.

    Raises:
        TypeError: if it is no such client, or an asynchronous one.
        ImportError: if Dask is not installed.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ImportError("Dask is not installed; pip install 'control-as-inference[dask]'") from None
    if not isinstance(client, Client) or client.asynchronous:
        kind = "an asynchronous Client" if isinstance(client, Client) else f"a {type(client).__name__}"
        raise TypeError(f"client is {kind}; give a dask.distributed.Client(...) that is not asynchronous")
    return DaskMap(client)
