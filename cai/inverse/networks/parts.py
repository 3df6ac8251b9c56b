"""Log sums over routes with derivatives, in parts of the destinations that others can do at the same time.

Parts depend on the destinations alone, and what comes of them is added in their order, so the bits of a sum are the
same whoever has done which part. A part factorises I - M where it is done; there its data stay for later coefficients,
so that with these alone a part is asked for again.
"""

from __future__ import annotations

import builtins
import secrets
import threading
import weakref
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from cai.inference.core.progress import no_progress
from cai.inference.tabular.routes.derivatives import Derivatives, Pairs, second_order, with_gradient
from cai.inference.tabular.routes.sums import RouteGraph, RouteSums
from cai.tasks.mapping import Map, run_tasks

__all__ = ["PartData", "PartedSums"]

Array = np.ndarray[Any, Any]
Item = tuple[int, Array, bool]  # a part, coefficients [F], whether second derivatives are asked for
LEAST = 256  # destinations of a part, so that its solves take longer than its factors; of fewer than two there is one

_known: weakref.WeakValueDictionary[str, PartData] = weakref.WeakValueDictionary()  # in this process, by key
_latest: list[PartData] = []  # what a process that works for another holds; one, as factors may be large


@dataclass(frozen=True, eq=False)
class PartData:
    """What log sums depend on beside coefficients w: log weights are offsets + features w.

    Attributes:
        key: names these data in every process.
        graph: places of turns and exits.
        offsets: log weights at w = 0, (of turns [E], of exits [X]).
        features: (of turns [E, F], of exits [X, F]).
        parts: pairs of link and destination, each part with destinations of its own.
    """

    key: str
    graph: RouteGraph
    offsets: tuple[Array, Array]
    features: tuple[Array, Array]
    parts: tuple[Pairs, ...]
    _sums: dict[int, tuple[bytes, RouteSums]] = field(default_factory=dict, init=False, repr=False)

    def __reduce__(self) -> Any:
        return PartData, (self.key, self.graph, self.offsets, self.features, self.parts)  # without factors

    def sums(self, coefficients: Array) -> RouteSums:
        """The linear systems at some coefficients; each thread has factors of its own, for all parts that it does."""
        key, thread = coefficients.tobytes(), threading.get_ident()
        found = self._sums.get(thread)
        if found is None or found[0] != key:
            logs = [start + table @ coefficients for start, table in zip(self.offsets, self.features, strict=True)]
            found = self._sums[thread] = key, RouteSums(self.graph, *logs)
        return found[1]

    def first_order(self, part: int, coefficients: Array) -> tuple[float, Array] | None:
        """(sum_n c_n log z_n of a part, its gradient [F])."""
        pairs = self.parts[part]
        found = with_gradient(self.sums(coefficients), pairs)
        if found is None:
            return None
        gradient = found.turn_counts @ self.features[0] + found.exit_counts @ self.features[1]
        return float(pairs.factors @ found.logs), gradient

    def second_order(self, part: int, coefficients: Array) -> Derivatives | None:
        """Slopes [pairs of the part, F], and the part's share of the Hessian."""
        return second_order(self.sums(coefficients), self.parts[part], *self.features)


@dataclass(frozen=True, eq=False)
class _Ask:
    """Does a part; "unknown" from a process that has not the data yet, where these do not come along."""

    key: str
    data: PartData | None = None

    def __call__(self, item: Item) -> tuple[float, Array] | Derivatives | Literal["unknown"] | None:
        part, coefficients, second = item
        data = _known.get(self.key, self.data)
        if data is None:
            return "unknown"
        if self.key not in _known:
            _known[self.key] = data
            _latest[:] = [data]
        return (data.second_order if second else data.first_order)(part, coefficients)


class PartedSums:
    """Sums of all parts, done by whoever works for `map`.

    Args:
        graph: places of turns and exits.
        offsets: as of `PartData`.
        features: as of `PartData`.
        pairs: of link and destination.
        map: with the contract of `concurrent.futures.Executor.map`; where there is one part, it is done here.
    """

    def __init__(
        self,
        graph: RouteGraph,
        offsets: tuple[Array, Array],
        features: tuple[Array, Array],
        pairs: Pairs,
        map: Map,
    ) -> None:
        wanted = np.unique(pairs.destinations)
        count = max(1, len(wanted) // LEAST)
        ends = np.array_split(wanted, count)
        self.places = [np.flatnonzero(np.isin(pairs.destinations, part)) for part in ends]
        parts = tuple(Pairs(pairs.links[i], pairs.destinations[i], pairs.factors[i]) for i in self.places)
        self.data = PartData(secrets.token_hex(16), graph, offsets, features, parts)
        self.map = map if count > 1 else builtins.map
        _known[self.data.key] = self.data

    def first_order(self, coefficients: Array) -> tuple[float, Array] | None:
        """(sum_n c_n log z_n, its gradient [F]); None where a sum is infinite or has no route."""
        found = self._done(coefficients, second=False)
        if any(part is None for part in found):
            return None
        return sum(value for value, _ in found), sum(gradient for _, gradient in found)

    def second_order(self, coefficients: Array) -> Derivatives | None:
        """Slopes of every log sum and the Hessian of their weighted sum; None as of `first_order`."""
        found = self._done(coefficients, second=True)
        if any(part is None for part in found):
            return None
        slopes = np.empty((sum(map(len, self.places)), len(coefficients)))
        for places, part in zip(self.places, found, strict=True):
            slopes[places] = part.slopes
        return Derivatives(slopes, sum(part.hessian for part in found))

    def _done(self, coefficients: Array, *, second: bool) -> list[Any]:
        """What comes of each part, in order; the data are sent to those alone who have not got them."""
        items: list[Item] = [(part, coefficients, second) for part in range(len(self.places))]
        found = self._mapped(_Ask(self.data.key), items)
        lacking = [item for item, answer in zip(items, found, strict=True) if isinstance(answer, str)]
        if lacking:
            for item, answer in zip(lacking, self._mapped(_Ask(self.data.key, self.data), lacking), strict=True):
                found[item[0]] = answer
        return found

    def _mapped(self, ask: _Ask, items: list[Item]) -> list[Any]:
        with no_progress():  # the search has a bar of its own
            return run_tasks(ask, items, label="destinations", map=self.map)
