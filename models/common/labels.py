"""Tables that carry the names of what they are about (pandas): put into the order of a process, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["axis_labels", "by_name", "is_labelled", "refuse_labels"]

Axis = tuple[Sequence[str] | None, str]  # names in their order (None: they have numbers alone), and what they name


def _is_frame(values: Any) -> bool:
    return type(values).__module__.partition(".")[0] == "pandas" and hasattr(values, "axes")


def axis_labels(values: Any) -> list[list[Any] | None]:
    """For every axis of a Series or DataFrame its labels; None where they only count from 0. [] for anything else."""
    if not _is_frame(values):
        return []
    found: list[list[Any] | None] = []
    for axis in values.axes:
        labels = list(axis)
        counts = axis.dtype.kind in "iu" and labels == list(range(len(labels)))
        found.append(None if counts else labels)
    return found


def is_labelled(values: Any) -> bool:
    """Whether it is a Series or DataFrame with labels that say more than a position does."""
    return any(labels is not None for labels in axis_labels(values))


def refuse_labels(values: Any, what: str) -> None:
    """Raises ValueError for a table whose labels would be ignored."""
    if is_labelled(values):
        first = next(labels for labels in axis_labels(values) if labels is not None)
        raise ValueError(
            f"{what} is a pandas {type(values).__name__} with labels ({_some(first)}), and here only positions count; "
            "put it into the order of the states or actions, e.g. table.loc[list(mdp.state_names)], and pass "
            ".to_numpy()"
        )


def by_name(values: Any, axes: Sequence[Axis | None], what: str) -> Any:
    """A pandas table as an array in the order of the names; anything else as it is.

    Args:
        values: a Series, a DataFrame, or anything else.
        axes: for each axis the names in the order that is wanted; None for an axis whose labels do not matter.
        what: how the argument is called in messages.

    Raises:
        ValueError: if the labels of an axis are not the names, each once.
    """
    if not _is_frame(values):
        return values
    table = np.array(values)
    for place, labels in enumerate(axis_labels(values)):
        if labels is None or place >= len(axes) or (axis := axes[place]) is None:
            continue
        names, kind = axis
        table = np.take(table, _order(labels, names, kind, what), place)
    return table


def _order(labels: list[Any], names: Sequence[str] | None, kind: str, what: str) -> list[int]:
    """For each name the place of its label."""
    if any(isinstance(label, tuple) for label in labels):
        raise ValueError(f"{what} has labels of several levels ({_some(labels)}); give a table: unstack() it")
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
