"""Pyro for one thread at a time: its stack of handlers and its parameter store belong to the whole process.

Whatever this package runs through Pyro, it runs in a session. Sessions of several threads wait for each other; what a
session draws and which parameters it makes is its own.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.params.param_store import ParamStoreDict
from pyro.poutine.messenger import Messenger

from cai.models.common.random_draws import OwnDraws

__all__ = ["pyro_session"]

_LOCK = threading.RLock()
_OPEN: list[_Parameters] = []  # of the thread that holds the lock, the innermost session last


class _Parameters(Messenger):
    """Answers `pyro.param` from a store of the session; parameters that exist outside are read, never changed."""

    def __init__(self) -> None:
        super().__init__()
        self.stores: list[ParamStoreDict] = [
            ParamStoreDict(),
            *(outer.stores[0] for outer in reversed(_OPEN)),
            pyro.get_param_store(),
        ]
        self.asked: set[str] = set()

    def _pyro_param(self, msg: Any) -> None:
        self.asked.add(msg["name"])
        store = next((store for store in self.stores if msg["name"] in store), self.stores[0])
        msg["fn"] = store.get_param


@contextlib.contextmanager
def pyro_session(draws: int | torch.Generator | None = 0) -> Iterator[ParamStoreDict]:
    """Runs Pyro undisturbed by other sessions and by handlers around it, leaving nothing behind.

    Args:
        draws: the seed of what torch draws inside, or the generator to draw from, so that the global random state is
            neither read nor changed; with None random functions are left as they are around the session.

    Yields:
        The parameters made inside. A session within a session sees those of the outer one too.
    """
    with _LOCK:
        outside = pyro.get_param_store()
        before = set(outside.keys())
        handler = _Parameters()
        _OPEN.append(handler)
        try:
            with poutine.block(), handler, contextlib.nullcontext() if draws is None else OwnDraws(draws):
                yield handler.stores[0]
        finally:
            _OPEN.pop()
            for name in handler.asked - before:  # a PyroModule writes to the global store itself
                if name in outside:
                    del outside[name]
