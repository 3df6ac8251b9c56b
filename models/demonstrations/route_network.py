"""Networks for route choice: links as states, turns as actions, and exits at destinations (recursive logit).

A trip is an origin link, ..., a last link, and an exit. The origin is not paid; a turn pays its own attributes and
those of the link that it enters, the exit pays its own (Fosgerau, Frejinger and Karlstrom 2013, "A link based network
route choice model with unrestricted choice set").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from cai.models.common.frames import frame_of, packed_frame
from cai.models.common.names import did_you_mean
from cai.models.common.storage import Saved, storable
from cai.models.demonstrations.network_tables import (
    from_file,
    key_index,
    key_places,
    numbers,
    plain,
    read_table,
    spelled,
    unique_pairs,
    whole_numbers,
)

__all__ = ["RouteNetwork"]

Array = np.ndarray[Any, Any]
LINKS = (("links", "link"), ("turns", "from"), ("turns", "to"), ("exits", "link"))  # tables and columns that name them
DESTINATIONS = (("exits", "destination"),)
PLACES = ("x0", "y0", "x1", "y1")  # columns of links that say where they lie


def _parts(network: RouteNetwork) -> dict[str, Any]:
    tables = {name: packed_frame(getattr(network, name)) for name in ("links", "turns", "exits")}
    return tables | {"ends": network.ends, "prior": network.prior}


def _of_parts(parts: dict[str, Any]) -> RouteNetwork:
    return RouteNetwork(**parts | {name: frame_of(parts[name]) for name in ("links", "turns", "exits")})


@storable("inverse-network", pack=_parts, unpack=_of_parts)
@dataclass(frozen=True, eq=False)
class RouteNetwork(Saved):
    """Links, the turns from one to another, and the exits where trips may end.

    Keys of links and destinations are kept as they are (strings or ints). Attributes are columns of any of the three
    tables; a column of both links and turns adds up, and is 0 where a table lacks it.

    Args:
        links: columns link and attributes, one row a link; optional x0, y0, x1, y1 for pictures. A DataFrame.
        turns: columns from, to and attributes, one row a turn.
        exits: columns link, destination and attributes, one row a link where a destination is reached.
        ends: "exit": one may pass an exit link without leaving. "absorb": whoever enters an exit link of the
            destination has arrived.
        prior: the column (of links, turns or exits) with log p of a turn or exit: the KL form. Without it all turns
            weigh alike, the entropy form of recursive logit.

    Raises:
        ValueError, TypeError: if a column is missing, a key is listed twice or unknown, or there is no turn or exit.
    """

    links: pd.DataFrame
    turns: pd.DataFrame
    exits: pd.DataFrame
    ends: Literal["exit", "absorb"] = field(default="exit", kw_only=True)
    prior: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.ends not in ("exit", "absorb"):
            raise ValueError(f"ends is {self.ends!r}; expected 'exit' or 'absorb'")
        tables = {"links": ("link",), "turns": ("from", "to"), "exits": ("link", "destination")}
        files = {name for name in tables if from_file(getattr(self, name))}
        for name, keys in tables.items():
            object.__setattr__(self, name, read_table(getattr(self, name), name, keys))
        for group in (LINKS, DESTINATIONS):  # keys of one kind: text, if not all are ints
            read = [(getattr(self, name), column) for name, column in group if name in files]
            if read:
                for (frame, column), made in zip(read, whole_numbers([f[c] for f, c in read]), strict=True):
                    frame[column] = made
        if not len(self.exits):
            raise ValueError("exits is empty; give a link and a destination at least")
        for what, column in (("turns", "from"), ("turns", "to"), ("exits", "link")):
            frame = getattr(self, what)
            unknown = np.flatnonzero(key_places(frame[column], self.link_index) < 0)
            if len(unknown):
                key = frame[column].iloc[unknown[0]]
                raise ValueError(
                    f"{what} names the link {spelled(key)} in column {column!r}, row {unknown[0]}, which links does "
                    f"not hold{did_you_mean(str(key), map(str, self.link_index))}; add it to links, or drop the row"
                )
        for what, pair, columns in (
            ("turns", (self.tails, self.heads), ("from", "to")),
            ("exits", (self.exit_links, self.exit_destinations), ("link", "destination")),
        ):
            row = unique_pairs(*pair)
            if row is not None:
                first, second = (getattr(self, what)[column].iloc[row] for column in columns)
                raise ValueError(
                    f"{what} lists ({spelled(first)}, {spelled(second)}) twice, again in row {row}; keep one of them"
                )
        if self.prior is not None:
            self._column(self.prior)

    @classmethod
    def read_csv(cls, links: Any, turns: Any, exits: Any, **options: Any) -> RouteNetwork:
        """Reads three CSV files; keys are read as text, and as ints where all keys of links are whole numbers.

        Links that differ in zeros in front alone, such as 1 and 01, stay text.

        Args:
            links: path of a file with the columns of `links`.
            turns: path.
            exits: path.
            **options: as in the constructor: `ends`, `prior`.
        """
        return cls(links, turns, exits, **options)

    @classmethod
    def from_graph(cls, graph: Any, *, exits: Any = None, turns: Any = None, **options: Any) -> RouteNetwork:
        """A network whose links are the edges of a directed graph, with a turn wherever one edge follows another.

        Args:
            graph: networkx DiGraph or MultiDiGraph; numbers on its edges become attributes. Links are called by the
                edge attribute "link" where all edges have one, else (u, v), or (u, v, key) in a multigraph.
            exits: a DataFrame of exits; or nodes, each a destination that is reached by every edge into it; every node
                with an edge into it unless given.
            turns: a function of (edge, next edge) that returns {attribute: number}, or None where it is forbidden.
            **options: as in the constructor: `ends`, `prior`.

        Raises:
            TypeError: if it is no directed graph.
        """
        from cai.models.demonstrations.network_from_graph import graph_tables

        return cls(*graph_tables(graph, exits, turns), **options)

    # ---- keys and places ----------------------------------------------------------------------------------------

    @cached_property
    def link_index(self) -> pd.Index:
        """The keys of all L links, in the order of their numbers."""
        return key_index(self.links["link"], "links")

    @cached_property
    def destination_index(self) -> pd.Index:
        """Keys of destinations, in the order of their first exit."""
        return pd.Index(self.exits["destination"], tupleize_cols=False).unique()

    @cached_property
    def tails(self) -> Array:
        """int64 [E], the link that each turn leaves."""
        return key_places(self.turns["from"], self.link_index)

    @cached_property
    def heads(self) -> Array:
        """int64 [E], the link that each turn enters."""
        return key_places(self.turns["to"], self.link_index)

    @cached_property
    def exit_links(self) -> Array:
        """int64 [X], the link of each exit."""
        return key_places(self.exits["link"], self.link_index)

    @cached_property
    def exit_destinations(self) -> Array:
        """int64 [X], the destination of each exit, as a place in `destination_index`."""
        return key_places(self.exits["destination"], self.destination_index)

    @cached_property
    def turn_lookup(self) -> pd.Index:
        """Places of turns by from * L + to."""
        return pd.Index(self.tails * self.num_links + self.heads)

    @cached_property
    def exit_lookup(self) -> pd.Index:
        """Places of exits by link * D + destination."""
        return pd.Index(self.exit_links * len(self.destination_index) + self.exit_destinations)

    @property
    def num_links(self) -> int:
        """How many links there are, L."""
        return len(self.links)

    @property
    def num_turns(self) -> int:
        """How many turns there are, E."""
        return len(self.turns)

    @property
    def positions(self) -> Array | None:
        """[L, 4], x and y of both ends of each link, or None where links does not say."""
        if not set(PLACES) <= set(self.links.columns):
            return None
        return self.links[list(PLACES)].to_numpy(dtype=np.float64)

    def link(self, key: Any, what: str = "link") -> int:
        """The place of a link.

        Raises:
            ValueError: if there is none of that key.
        """
        return _place(self.link_index, key, what, "links")

    def destination(self, key: Any) -> int:
        """The place of a destination.

        Raises:
            ValueError: if no exit leads there.
        """
        return _place(self.destination_index, key, "destination", "exits")

    # ---- attributes ---------------------------------------------------------------------------------------------

    @property
    def attributes(self) -> tuple[str, ...]:
        """Columns that may be features: those with numbers, of any table, but keys and places."""
        keys = {"link", "from", "to", "destination", *PLACES}
        found: dict[str, None] = {}
        for frame in (self.links, self.turns, self.exits):
            for column in frame.columns:
                kind = frame[column]
                if column not in keys and (pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind)):
                    found[column] = None
        return tuple(found)

    def features(self, names: Sequence[str]) -> tuple[Array, Array]:
        """([E, F], [X, F]), what a turn and what an exit has of each feature.

        Args:
            names: of attributes.

        Raises:
            ValueError: if there is none, one is unknown, repeated, 0 everywhere, or holds NaN.
        """
        if isinstance(names, str):
            raise TypeError(f"features is {names!r}; expected a list of names: [{names!r}]")
        names = [plain(name) for name in names]
        if not names:
            raise ValueError(f"features is empty; name some of {', '.join(self.attributes)}")
        for i, name in enumerate(names):
            if name in names[:i]:
                raise ValueError(f"features names {name!r} twice; keep one")
        pairs = [self._column(name) for name in names]
        for name, (of_turns, of_exits) in zip(names, pairs, strict=True):
            if not of_turns.any() and not of_exits.any():
                raise ValueError(
                    f"feature {name!r} is 0 on every turn and exit, so nothing can be learned about it; leave it out"
                )
        return np.stack([pair[0] for pair in pairs], -1), np.stack([pair[1] for pair in pairs], -1)

    @cached_property
    def offsets(self) -> tuple[Array, Array]:
        """([E], [X]), log p of turns and exits; 0 without a prior."""
        if self.prior is None:
            return np.zeros(len(self.turns)), np.zeros(len(self.exits))
        return self._column(self.prior)

    def _column(self, name: str) -> tuple[Array, Array]:
        tables = {"links": self.links, "turns": self.turns, "exits": self.exits}
        holds = [what for what, frame in tables.items() if name in frame.columns]
        if not holds or name in ("link", "from", "to", "destination"):
            raise ValueError(
                f"no table has an attribute {name!r}{did_you_mean(str(name), self.attributes)}; there are "
                f"{', '.join(self.attributes) or 'none'}"
            )
        of_turns, of_exits = np.zeros(len(self.turns)), np.zeros(len(self.exits))
        if "links" in holds:
            of_turns = of_turns + numbers(self.links, name, "links")[self.heads]
        if "turns" in holds:
            of_turns = of_turns + numbers(self.turns, name, "turns")
        if "exits" in holds:
            of_exits = of_exits + numbers(self.exits, name, "exits")
        return of_turns, of_exits

    def __repr__(self) -> str:
        return (
            f"RouteNetwork({self.num_links:,} links, {self.num_turns:,} turns, {len(self.exits):,} exits to "
            f"{len(self.destination_index):,} destinations, ends={self.ends!r}"
            + (f", prior={self.prior!r})" if self.prior else ")")
        )


def _place(index: pd.Index, key: Any, what: str, table: str) -> int:
    place = int(key_places(pd.Series([key]), index)[0])
    if place < 0:
        raise ValueError(
            f"{what} is {spelled(key)}, which {table} does not hold{did_you_mean(str(key), map(str, index))}; give "
            f"one of its {len(index):,} keys, such as {spelled(index[0])}"
        )
    return place
