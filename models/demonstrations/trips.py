"""Trips through a network: rows (trip, position, link) become turns and an exit, or sentences about what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import pandas as pd

from cai.models.common.frames import frame_of, index_of, packed_frame, packed_index
from cai.models.common.names import did_you_mean
from cai.models.common.storage import storable
from cai.models.demonstrations.network_tables import (
    from_file,
    key_places,
    read_table,
    spelled,
    whole_number,
    whole_numbers,
)
from cai.models.demonstrations.route_network import RouteNetwork

__all__ = ["Trips", "read_trips"]

Array = np.ndarray[Any, Any]
SUGGESTED = 5  # unknown keys, for which similar ones are looked for


def _parts(trips: Trips) -> dict[str, Any]:
    parts = {entry.name: getattr(trips, entry.name) for entry in fields(trips)}
    persons = None if trips.persons is None else packed_index(pd.Index(trips.persons, tupleize_cols=False))
    return parts | {
        "labels": packed_index(trips.labels),
        "persons": persons,
        "dropped": packed_frame(trips.dropped),
    }


def _of_parts(parts: dict[str, Any]) -> Trips:
    persons = None if parts["persons"] is None else index_of(parts["persons"]).tolist()
    made = {"labels": index_of(parts["labels"]), "persons": persons, "dropped": frame_of(parts["dropped"])}
    return Trips(**parts | made)


@storable("inverse-trips", pack=_parts, unpack=_of_parts)
@dataclass(frozen=True, eq=False)
class Trips:
    """N trips as places in the tables of a network.

    Attributes:
        labels: N keys of trips, in the order in which they first appear.
        origins: int64 [N], links.
        destinations: int64 [N].
        exits: int64 [N], the exit that each trip takes.
        turns: int64 [sum of lengths], the turns of all trips one after the other.
        starts: int64 [N + 1], where the turns of each trip begin.
        weights: float64 [N].
        persons: N labels, or None.
        dropped: columns trip, position, reason, of trips that were left out; None unless that was asked for.
    """

    labels: pd.Index
    origins: Array
    destinations: Array
    exits: Array
    turns: Array
    starts: Array
    weights: Array
    persons: list[Any] | None
    dropped: pd.DataFrame | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, places: Array) -> Trips:
        """The trips at some places int64 [M], each weighing 1."""
        lengths = np.diff(self.starts)[places]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        within = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
        return Trips(
            labels=self.labels[places],
            origins=self.origins[places],
            destinations=self.destinations[places],
            exits=self.exits[places],
            turns=self.turns[np.repeat(self.starts[places], lengths) + within],
            starts=starts,
            weights=np.ones(len(places)),
            persons=None if self.persons is None else [self.persons[i] for i in places],
        )

    def totals(self, of_turns: Array, of_exits: Array) -> Array:
        """[N, ...], what each trip has of values of turns [E, ...] and exits [X, ...]."""
        from scipy.sparse import csr_matrix

        taken = csr_matrix((np.ones(len(self.turns)), self.turns, self.starts), shape=(len(self), len(of_turns)))
        return np.asarray(taken @ of_turns) + of_exits[self.exits]

    def num_choices(self, network: RouteNetwork) -> Array:
        """[N], steps with two or more ways to go on, the exit to the trip's own destination being one."""
        ways = np.bincount(network.tails, minlength=network.num_links)
        trip = np.repeat(np.arange(len(self)), np.diff(self.starts))
        here = network.tails[self.turns]
        pairs = here * len(network.destination_index) + self.destinations[trip]
        leaves = network.exit_lookup.get_indexer(pd.Index(pairs)) >= 0
        counted = np.bincount(trip, ways[here] + leaves >= 2, len(self))
        last = network.exit_links[self.exits]
        ends = (ways[last] >= 1) if network.ends == "exit" else np.zeros(len(self), dtype=bool)
        return counted + ends


def read_trips(network: RouteNetwork, trips: Any, drop: Literal["report"] | None = None) -> Trips:
    """Reads trips and holds them against the network.

    Args:
        network: where they lead.
        trips: columns trip, position, link, and optionally destination, person and weight (one value a trip); a
            DataFrame, or the path of a CSV file. Rows are sorted by position, which need not be dense.
        drop: None refuses the first trip that does not fit; "report" leaves such trips out and lists them.

    Raises:
        ValueError: if a trip does not fit, with the trip, the position, the row (from 0) and the links; if a (trip,
            position) is listed twice; if no trip is left; if an optional column seems to be misspelt.
    """
    if drop not in (None, "report"):
        raise ValueError(f"drop is {drop!r}; expected None or 'report'")
    if isinstance(trips, Trips):
        return trips
    if isinstance(trips, (list, tuple)) and trips and not isinstance(trips[0], Mapping):
        raise TypeError(
            f"trips is a {type(trips).__name__} of {type(trips[0]).__name__}; of routes make a row for each link: "
            "[{'trip': n, 'position': i, 'link': link} for n, route in enumerate(routes) for i, link in "
            "enumerate(route)], as a pandas.DataFrame"
        )
    frame = read_table(trips, "trips", ("trip", "position", "link"))
    if from_file(trips):
        frame = _numbered(frame, network)
    frame = _sorted(frame)
    known = ("trip", "position", "link", "destination", "person", "weight")
    for name in known[3:]:
        near = [column for column in map(str, frame.columns) if column not in known and _misspelt(column, name)]
        if near and name not in frame.columns:
            raise ValueError(f"trips has a column {near[0]!r}, which is not looked at; call it {name!r}, or drop it")
    if frame.empty:
        raise ValueError("trips is empty; give a row for each link of each trip")
    labels = pd.Index(frame["trip"], tupleize_cols=False).unique()
    trip = key_places(frame["trip"], labels)
    order = np.lexsort((frame["position"].to_numpy(), trip))
    frame, trip = frame.iloc[order].reset_index(drop=True), trip[order]
    starts = np.searchsorted(trip, np.arange(len(labels) + 1))
    faults = _Faults(frame, labels, trip)
    weights = _weights(frame, starts, faults)
    persons = _per_trip(frame, starts, "person", faults)
    links = key_places(frame["link"], network.link_index)
    faults.links(links, network)
    inner = np.flatnonzero(trip[:-1] == trip[1:])
    turns = np.full(len(frame), -1)
    turns[inner] = network.turn_lookup.get_indexer(pd.Index(links[inner] * network.num_links + links[inner + 1]))
    turns[inner[(links[inner] < 0) | (links[inner + 1] < 0)]] = -1
    faults.turns(inner, turns, links)
    last = starts[1:] - 1
    destinations, exits = _exits(network, frame, starts, links[last], faults)
    if network.ends == "absorb":
        faults.passes(inner, network, links, destinations[trip])
    if faults.found and drop is None:
        row, reason = min(faults.found.items())
        raise ValueError(
            f"trip {spelled(labels[trip[row]])}, position {frame['position'].iloc[row]:g}: {reason} (row {order[row]}; "
            f"{faults.count} of {len(labels)} trips do not fit); correct it, or give drop='report' to leave such trips "
            "out"
        )
    kept = np.ones(len(labels), dtype=bool)
    kept[[trip[row] for row in faults.found]] = False
    if not kept.any():
        raise ValueError("no trip is left, as none fits the network")
    if not weights[kept].any():
        raise ValueError("every trip that fits the network has weight 0; give some more")
    keeps = kept[trip] & (turns >= 0)
    lengths = np.diff(starts)[kept] - 1
    return Trips(
        labels=labels[kept],
        origins=links[starts[:-1]][kept],
        destinations=destinations[kept],
        exits=exits[kept],
        turns=turns[keeps],
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        weights=weights[kept],
        persons=None if persons is None else [p for p, keep in zip(persons, kept, strict=True) if keep],
        dropped=faults.frame() if drop == "report" else None,
    )


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    """Checks positions and pairs (trip, position)."""
    positions = pd.to_numeric(frame["position"], errors="coerce").to_numpy(dtype=np.float64)
    if not np.isfinite(positions).all():
        row = int(np.flatnonzero(~np.isfinite(positions))[0])
        raise ValueError(f"trips has position {spelled(frame['position'].iloc[row])} in row {row}; expected a number")
    frame = frame.assign(position=positions)
    repeated = np.flatnonzero(frame.duplicated(["trip", "position"]))
    if len(repeated):
        trip, position = frame["trip"].iloc[repeated[0]], positions[repeated[0]]
        raise ValueError(f"trips lists trip {spelled(trip)}, position {position:g} twice; keep one of the rows")
    return frame


def _misspelt(column: str, name: str) -> bool:
    """Whether a name differs in case or blanks, in the order of its letters, or by one that is missing or too many.

    A letter in the place of another makes words of their own, such as height.
    """
    given = column.strip().lower()
    if sorted(given) == sorted(name):
        return True
    short, long = sorted((given, name), key=len)
    return len(long) == len(short) + 1 and any(long[:i] + long[i + 1 :] == short for i in range(len(long)))


def _numbered(frame: pd.DataFrame, network: RouteNetwork) -> pd.DataFrame:
    """Text of a file as ints: links and destinations where those of the network are, trips and persons if all are."""
    made = {}
    for column, index in (("link", network.link_index), ("destination", network.destination_index)):
        if column in frame.columns and pd.api.types.is_integer_dtype(index.dtype):
            made[column] = frame[column].map(whole_number, na_action="ignore").astype(object)
    for column in {"trip", "person"} & set(frame.columns):
        (made[column],) = whole_numbers([frame[column]])
    return frame.assign(**made)


def _per_trip(frame: pd.DataFrame, starts: Array, column: str, faults: _Faults) -> list[Any] | None:
    """One value a trip; blanks take the value of the trip's other rows, and a second value is a fault."""
    if column not in frame.columns:
        return None
    trip = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    values = frame[column]
    firsts = values.groupby(trip).first().reindex(range(len(starts) - 1))
    kinds = values.groupby(trip).nunique().to_numpy()
    for several in np.flatnonzero(kinds > 1):
        mine = values.iloc[starts[several] : starts[several + 1]]
        there = mine.notna()
        row, second = next((i, v) for i, v in enumerate(mine) if there.iloc[i] and v != firsts[several])
        faults.add(
            starts[several] + row,
            f"it has two values of {column!r}, {spelled(firsts[several])} and {spelled(second)}; a trip has one",
        )
    return list(firsts)


def _weights(frame: pd.DataFrame, starts: Array, faults: _Faults) -> Array:
    given = _per_trip(frame, starts, "weight", faults)
    if given is None:
        return np.ones(len(starts) - 1)
    weights = pd.to_numeric(pd.Series(given, dtype=object), errors="coerce").to_numpy(dtype=np.float64)
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        trip = frame["trip"].iloc[starts[bad[0]]]
        raise ValueError(
            f"trip {spelled(trip)} has weight {spelled(given[bad[0]])}; expected a finite number, 0 or more"
        )
    if not weights.any():
        raise ValueError("every trip has weight 0; give some more")
    return weights


def _exits(
    network: RouteNetwork, frame: pd.DataFrame, starts: Array, last: Array, faults: _Faults
) -> tuple[Array, Array]:
    """(destinations [N], exits [N]), -1 where there is a fault."""
    rows = starts[1:] - 1
    given = _per_trip(frame, starts, "destination", faults)
    if given is None:
        count = np.bincount(network.exit_links, minlength=network.num_links)
        only = np.full(network.num_links, -1)
        only[network.exit_links] = np.arange(len(network.exits))
        for i in np.flatnonzero((last >= 0) & (count[last] != 1)):
            what = "has no exit" if not count[last[i]] else f"has {count[last[i]]} exits, and trips has no destination"
            faults.add(rows[i], f"its last link {spelled(faults.key(rows[i]))} {what}")
        exits = np.where((last >= 0) & (count[last] == 1), only[last], -1)
        return np.where(exits >= 0, network.exit_destinations[exits], -1), exits
    destinations = key_places(pd.Series(given, dtype=object), network.destination_index)
    pairs = last * len(network.destination_index) + destinations
    exits = np.where((last >= 0) & (destinations >= 0), network.exit_lookup.get_indexer(pd.Index(pairs)), -1)
    for i in np.flatnonzero(destinations < 0):
        if pd.isna(given[i]):
            faults.add(rows[i], "it has no destination, and other trips have")
        else:
            near = faults.near(given[i], network.destination_index)
            faults.add(rows[i], f"its destination {spelled(given[i])} has no exit in the network{near}")
    for i in np.flatnonzero((destinations >= 0) & (last >= 0) & (exits < 0)):
        faults.add(
            rows[i], f"its last link {spelled(faults.key(rows[i]))} has no exit to its destination {spelled(given[i])}"
        )
    return destinations, exits


class _Faults:
    """The first thing wrong with each trip, by row."""

    def __init__(self, frame: pd.DataFrame, labels: pd.Index, trip: Array) -> None:
        self.rows, self.labels, self.trip = frame, labels, trip
        self.found: dict[int, str] = {}
        self._seen: dict[int, int] = {}
        self._near: dict[str, str] = {}

    @property
    def count(self) -> int:
        return len(self.found)

    def key(self, row: Any) -> Any:
        return self.rows["link"].iloc[int(row)]

    def add(self, row: Any, reason: str) -> None:
        """Keeps the fault with the lowest position of each trip."""
        row, trip = int(row), int(self.trip[row])
        earlier = self._seen.get(trip)
        if earlier is None or row < earlier:
            if earlier is not None:
                del self.found[earlier]
            self._seen[trip], self.found[row] = row, reason

    def near(self, key: Any, index: pd.Index) -> str:
        """What may be meant by the first few keys that nobody knows; a search among thousands of keys takes long."""
        if str(key) not in self._near and len(self._near) < SUGGESTED:
            self._near[str(key)] = did_you_mean(str(key), map(str, index))
        return self._near.get(str(key), "")

    def links(self, links: Array, network: RouteNetwork) -> None:
        for row in np.flatnonzero(links < 0):
            near = self.near(self.key(row), network.link_index)
            self.add(row, f"the network has no link {spelled(self.key(row))}{near}")

    def turns(self, inner: Array, turns: Array, links: Array) -> None:
        for row in inner[turns[inner] < 0]:
            if links[row] >= 0 and links[row + 1] >= 0:
                self.add(row, f"the network has no turn from {spelled(self.key(row))} to {spelled(self.key(row + 1))}")

    def passes(self, inner: Array, network: RouteNetwork, links: Array, destinations: Array) -> None:
        """Where trips end on entering their destination, no link but the last may be one of its exit links."""
        known = inner[(links[inner] >= 0) & (destinations[inner] >= 0)]
        pairs = links[known] * len(network.destination_index) + destinations[known]
        for row in known[network.exit_lookup.get_indexer(pd.Index(pairs)) >= 0]:
            self.add(
                row,
                f"it has arrived at its destination on link {spelled(self.key(row))} and goes on to "
                f"{spelled(self.key(row + 1))}; with ends='absorb' a trip ends there (ends='exit' lets trips pass)",
            )

    def frame(self) -> pd.DataFrame:
        rows = sorted(self.found)
        trips = [self.labels[self.trip[row]] for row in rows]
        positions = [float(self.rows["position"].iloc[row]) for row in rows]
        return pd.DataFrame({"trip": trips, "position": positions, "reason": [self.found[row] for row in rows]})
