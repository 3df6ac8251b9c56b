"""Pyro for one thread at a time: its stack of handlers and its parameter store belong to the whole process.

Whatever this package runs through Pyro, it runs in a session. Sessions of several threads wait for each other; what a
session draws and which parameters it makes is its own.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakSet

import pyro
import torch
from pyro import poutine
from pyro.distributions import Categorical
from pyro.params.param_store import ParamStoreDict
from pyro.poutine.messenger import Messenger

from cai.models.common.random_draws import GivenGenerator, OwnDraws

__all__ = ["first_run", "pyro_session"]

_LOCK = threading.RLock()
_OPEN: list[_Parameters] = []  # of the thread that holds the lock, the innermost session last
_DRAW_OUTSIDE: WeakSet[Any] = WeakSet()  # programs that were seen to draw outside of their sites


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


class _SiteDraws(Messenger):
    """Draws the sites of a program from a generator of the session."""

    def __init__(self, source: int | torch.Generator) -> None:
        super().__init__()
        self.given = GivenGenerator(source)

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["done"] and not msg["is_observed"] and msg["value"] is None:
            fn, args = msg["fn"], msg["args"]
            own = type(fn) is Categorical and not args and not msg["kwargs"]
            generator = self.given.generators.get(fn.probs.device) if own else None
            if generator is not None:  # as `fn.sample` does, without a look at each of its operators
                drawn = torch.multinomial(fn.probs.reshape(-1, fn.probs.shape[-1]), 1, True, generator=generator)
                msg["value"] = drawn.reshape(fn.batch_shape)
                return
            with self.given:
                msg["value"] = fn(*args, **msg["kwargs"])


def first_run(program: Callable[[], Any]) -> poutine.Trace:
    """A run of a program, drawn from its prior with a seed of its own.

    Where the program draws outside of its sites (`torch.rand` in its body), sessions from then on see to that, too.
    """
    if threading.active_count() == 1:  # nobody sees the state put back, and to watch each call takes longer
        before = torch.get_rng_state()
        with pyro_session():
            trace = poutine.trace(program).get_trace()
        if torch.equal(before, torch.get_rng_state()):
            return trace
        torch.set_rng_state(before)
    apart = torch.Generator().manual_seed(0)
    first, sites = apart.get_state(), _SiteDraws(0)
    with _session(sites), OwnDraws(apart, sites.given):
        trace = poutine.trace(program).get_trace()
    if not torch.equal(first, apart.get_state()):
        _DRAW_OUTSIDE.add(program)
    return trace


@contextlib.contextmanager
def pyro_session(draws: int | torch.Generator | None = 0, program: Any = None) -> Iterator[ParamStoreDict]:
    """Runs Pyro undisturbed by other sessions and by handlers around it, leaving nothing behind.

    Args:
        draws: the seed of what is drawn inside, or the generator to draw from, so that the global random state is
            neither read nor changed; with None random functions are left as they are around the session.
        program: what is run; where `first_run` saw it draw outside of its sites, these draws count as well.

    Yields:
        The parameters made inside. A session within a session sees those of the outer one too.
    """
    own: Any = contextlib.nullcontext()
    if draws is not None:
        own = OwnDraws(draws) if program is not None and program in _DRAW_OUTSIDE else _SiteDraws(draws)
    with _session(own) as store:
        yield store


@contextlib.contextmanager
def _session(own: Any) -> Iterator[ParamStoreDict]:
    """A session in which the context manager `own` draws."""
    with _LOCK:
        outside = pyro.get_param_store()
        before = set(outside.keys())
        handler = _Parameters()
        _OPEN.append(handler)
        try:
            with poutine.block(), handler, own:
                yield handler.stores[0]
        finally:
            _OPEN.pop()
            for name in handler.asked - before:  # a PyroModule writes to the global store itself
                if name in outside:
                    del outside[name]
