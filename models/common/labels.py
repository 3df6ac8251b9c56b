"""Tables that carry the names of what they are about (pandas, xarray): put into the order of a process, or refused."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Axis", "axis_labels", "by_name", "in_order", "is_labelled", "mask_by_name", "refuse_labels", "taken_apart"]

Axis = tuple[Sequence[str] | None, str]  # names in their order (None: they have numbers alone), and what they name


def _is_frame(values: Any) -> bool:
    """Whether it is a Series or DataFrame of pandas, or a DataArray of xarray."""
    library = type(values).__module__.partition(".")[0]
    if library == "pandas":
        return hasattr(values, "axes")
    return library == "xarray" and hasattr(values, "dims") and hasattr(values, "dtype")


def axis_labels(values: Any) -> list[list[Any] | None]:
    """For every axis of a labelled table its labels; None where they only count from 0. [] for anything else."""
    if not _is_frame(values):
        return []
    found: list[list[Any] | None] = []
    for axis in values.axes if hasattr(values, "axes") else map(values.indexes.get, values.dims):
        labels = None if axis is None else list(axis)
        counts = labels is None or (axis.dtype.kind in "iu" and labels == list(range(len(labels))))
        found.append(None if counts else labels)
    return found


def is_labelled(values: Any) -> bool:
    """Whether it is a table with labels that say more than a position does."""
    return any(labels is not None for labels in axis_labels(values))


def refuse_labels(values: Any, what: str) -> None:
    """Raises ValueError for a table whose labels would be ignored, also for one in a list."""
    if isinstance(values, (list, tuple)):
        if values and not isinstance(values[0], numbers.Number):  # numbers have no labels, and there may be many
            for place, part in enumerate(values):
                refuse_labels(part, f"{what}[{place}]")
        return
    if is_labelled(values):
        first = next(labels for labels in axis_labels(values) if labels is not None)
        library = type(values).__module__.partition(".")[0]
        raise ValueError(
            f"{what} is a {library} {type(values).__name__} with labels ({_some(first)}), and here only positions "
            "count; put it into the order of the states or actions, e.g. table.loc[list(mdp.state_names)], and pass "
            ".to_numpy()"
        )


def by_name(values: Any, axes: Sequence[Axis | None], what: str) -> Any:
    """A labelled table as an array in the order of the names; anything else as it is.

    An index of several levels (pandas.MultiIndex) stands for an axis a level, unless its entries are the names.

    Args:
        values: a Series, a DataFrame, a DataArray, or anything else.
        axes: for each axis the names in the order that is wanted; None for an axis whose labels do not matter.
        what: how the argument is called in messages.

    Raises:
        ValueError: if the labels of an axis are not the names, each once; or if they count from 0, and the names are
            the same numbers in another order.
    """
    if not _is_frame(values):
        return values
    plain, labelled = np.array(values), axis_labels(values)
    levels = [len(own[0]) if own and isinstance(own[0], tuple) else 1 for own in labelled]
    named = any(
        level > 1 and axis is not None and set(map(str, own or ())) == set(axis[0] or ())
        for own, level, axis in zip(labelled, levels, axes, strict=False)
    )
    if not named and sum(levels) > max(len(axes), plain.ndim):
        raise ValueError(
            f"{what} has labels of {sum(levels)} levels, for {len(axes) or plain.ndim} axes; give each label as one "
            "word, e.g. table.set_axis([str(label) for label in table.index])"
        )
    table, labelled = (plain, labelled) if named else _spread(values, what)
    if table.dtype == object and all(isinstance(entry, (bool, np.bool_)) for entry in table.flat):
        table = table.astype(bool)
    for place, labels in enumerate(labelled):
        if place >= len(axes) or (axis := axes[place]) is None:
            continue
        names, kind = axis
        if labels is not None:
            table = np.take(table, _order(labels, names, kind, what), place)
            continue
        counted = [str(number) for number in range(table.shape[place])]
        if names is not None and counted != list(names) and sorted(counted) == sorted(names):
            raise ValueError(
                f"{what} has the labels 0 to {len(counted) - 1}, and the {kind}s are called {_some(list(names))}: they "
                f"could be names or positions; pass .to_numpy() in the order of the {kind}s"
            )
    return table


def taken_apart(values: Any, what: str) -> tuple[Any, tuple[tuple[Any, ...] | None, ...] | None]:
    """(a labelled table as an array, the labels of its axes, as `axis_labels`); anything else as it is, and None.

    Tables in a list, which may differ in their order, become one with an axis more, in the order of the first.
    """
    if isinstance(values, (list, tuple)) and values and _is_frame(values[0]) and any(map(is_labelled, values)):
        return _listed(values, what)
    if not is_labelled(values):
        return values, None
    table, labels = _spread(values, what)
    kept = [
        None if own is None else tuple(label if isinstance(label, int) else _word(label) for label in own)
        for own in labels
    ]
    return table, tuple(kept)


def _listed(values: Sequence[Any], what: str) -> tuple[Any, tuple[tuple[Any, ...] | None, ...] | None]:
    """`taken_apart` of tables in a list."""
    parts = [taken_apart(part, f"{what}[{place}]") for place, part in enumerate(values)]
    first = parts[0][1]
    for place, (table, labels) in enumerate(parts):
        if first is None or labels is None or np.shape(table) != np.shape(parts[0][0]):
            raise ValueError(f"{what}[{place}] and {what}[0] differ in their shapes, or one alone has labels")
    assert first is not None
    axes = [None if own is None else (own, "label") for own in first]
    placed = [
        np.asarray(table) if labels == first else _ordered(table, labels or (), axes, f"{what}[{place}]")
        for place, (table, labels) in enumerate(parts)
    ]
    return np.stack(placed), (None, *first)


def _ordered(table: Any, labels: Sequence[Any], axes: Sequence[Any], what: str) -> Any:
    """An array in the order of the labels in `axes`, from its own."""
    for place, (own, axis) in enumerate(zip(labels, axes, strict=True)):
        if (own is None) != (axis is None):
            raise ValueError(f"{what} and the table before it differ: only one of them has labels on axis {place}")
        if own is not None:
            table = np.take(table, _order(list(own), [str(name) for name in axis[0]], axis[1], what), place)
    return table


def _spread(values: Any, what: str) -> tuple[Any, list[list[Any] | None]]:
    """(a labelled table as an array, the labels of its axes), of an index of several levels an axis for each.

    Raises:
        ValueError: if such an index lacks a combination of its labels, or has one twice.
    """
    table, labelled = np.array(values), axis_labels(values)
    shape: list[int] = []
    found: list[list[Any] | None] = []
    for place, labels in enumerate(labelled):
        if labels is None or not labels or not isinstance(labels[0], tuple):
            shape, found = [*shape, table.shape[place]], [*found, labels]
            continue
        levels = [list(dict.fromkeys(level)) for level in zip(*labels, strict=True)]
        wanted = list(itertools.product(*levels))
        at = {label: position for position, label in enumerate(labels)}
        missing = next((label for label in wanted if label not in at), None)
        if missing is not None or len(at) < len(labels):
            twice = next((label for label in labels if labels.count(label) > 1), None)
            raise ValueError(
                f"{what} has an index of several levels, and {missing} is not in it; fill it up, e.g. table.reindex("
                "pandas.MultiIndex.from_product(table.index.levels), fill_value=0)"
                if missing is not None
                else f"{what} has an index of several levels, and {twice} is in it twice"
            )
        table = np.take(table, [at[label] for label in wanted], place)
        shape, found = [*shape, *map(len, levels)], [*found, *levels]
    return table.reshape(shape), found


def _word(label: Any) -> Any:
    return int(label) if isinstance(label, np.integer) else label if isinstance(label, tuple) else str(label)


def in_order(table: Tensor, labels: Sequence[Sequence[Any] | None] | None, axes: Sequence[Axis], what: str) -> Tensor:
    """A table in the order of the names, from the labels that its axes had; with its autograd history.

    Args:
        table: of at most as many axes as there are names.
        labels: for each axis its labels, None for an axis that is in order; None where all are.
        axes: for each axis the names in the order that is wanted, and what they name.
        what: how the argument is called in messages.

    Raises:
        ValueError: if the labels of an axis are not the names, each once.
    """
    for place, (own, (names, kind)) in enumerate(zip(labels or (), axes, strict=False)):
        if own is not None:
            order = torch.tensor(_order(list(own), names, kind, what))
            table = table.index_select(place, order.to(table.device))
    return table


def mask_by_name(values: Any, axis: Axis, what: str) -> Any:
    """A labelled column of bools in the order of the names, or the entries of one that lists indices or names.

    Raises:
        TypeError: if it is no column, or holds numbers under names, which could be a mask or a list.
        ValueError: as `by_name`.
    """
    names, kind = axis
    if values.ndim != 1:
        raise TypeError(
            f"{what} is a {type(values).__name__} with {values.ndim} axes; give a column or a list of names"
        )
    entries = np.array(values).tolist()
    if all(isinstance(entry, bool) for entry in entries):
        return by_name(values, [axis], what)
    labels = axis_labels(values)[0] or []
    if set(map(str, labels)) & set(names or ()) and not all(isinstance(entry, str) for entry in entries):
        raise TypeError(
            f"{what} holds {entries[0]!r} for {kind} {labels[0]!r}; give bools (table == 1), or a list of names"
        )
    return entries


def _order(labels: list[Any], names: Sequence[str] | None, kind: str, what: str) -> list[int]:
    """For each name the place of its label."""
    if any(isinstance(label, tuple) for label in labels) and {*map(str, labels)} != {*(names or ())}:
        raise ValueError(
            f"{what} has tuples for labels ({_some(labels)}), which are not the {kind}s; give each {kind} one label"
        )
    given = [str(label) for label in labels]
    if names is None and not all(isinstance(label, (int, np.integer)) for label in labels):
        raise ValueError(
            f"{what} has the labels {_some(given)}, and the {kind}s have numbers alone; give {kind}_names, or pass "
            f".to_numpy() in the order of the {kind}s"
        )
    wanted = [str(number) for number in range(len(labels))] if names is None else list(names)
    if len(set(given)) < len(given):
        twice = next(label for label in given if given.count(label) > 1)
        raise ValueError(f"{what} has the label {twice!r} twice; give each {kind} once")
    unknown = [label for label in given if label not in set(wanted)]
    missing = [name for name in wanted if name not in set(given)]
    if unknown or missing:
        said = [f"no {kind} is called {_some(unknown)}"] * bool(unknown)
        said += [f"there is nothing for {_some(missing)}"] * bool(missing)
        raise ValueError(
            f"{what} is labelled, and {' and '.join(said)}; give each {kind} its label ({_some(wanted)}), or pass "
            ".to_numpy() if positions are meant"
        )
    places = {label: place for place, label in enumerate(given)}
    return [places[name] for name in wanted]


def _some(labels: Sequence[Any]) -> str:
    return ", ".join(repr(str(label)) for label in labels[:4]) + (", ..." if len(labels) > 4 else "")
