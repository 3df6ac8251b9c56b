"""Tables of links, turns and exits at the door: their columns, keys and numbers, each refused with a sentence."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cai.models.common.names import did_you_mean

__all__ = ["key_index", "key_places", "numbers", "read_table", "spelled", "unique_pairs"]

MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "<NA>", "#N/A")  # numbers and persons


def read_table(given: Any, what: str, keys: Iterable[str]) -> pd.DataFrame:
    """A frame, or a CSV file whose keys are read as text, and as ints if all of a column are.

    Args:
        given: DataFrame, what makes one, or the path of a file.
        what: "links", for messages.
        keys: columns that must be there.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file is empty or broken, a column is missing, a name is repeated, or a key is.
    """
    keys = list(keys)
    if isinstance(given, str | Path):
        labels = (*keys, "trip", "link", "destination", "person")
        frame = _from_file(given, what, labels)
        for key in set(labels) & set(frame.columns) - {"position"}:
            frame[key] = _whole(frame[key])
        if "position" in frame.columns:
            frame["position"] = _numbers_or_text(frame["position"])
    elif isinstance(given, pd.DataFrame):
        frame = given.reset_index(drop=True)
    else:
        try:
            frame = pd.DataFrame(given)
        except (TypeError, ValueError) as error:
            message = f"{what} is a {type(given).__name__}; expected a DataFrame or the path of a CSV file"
            raise TypeError(message) from error
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise ValueError(f"{what} has two columns {repeated[0]!r}; keep one")
    for key in keys:
        if key not in frame.columns:
            known = ", ".join(map(str, frame.columns))
            raise ValueError(
                f"{what} has no column {key!r}{did_you_mean(key, map(str, frame.columns))}; it has {known}, and needs "
                f"{', '.join(keys)}"
            )
        empty = np.flatnonzero(frame[key].isna())
        if len(empty):
            raise ValueError(
                f"{what} has no {key} in row {empty[0]} ({len(empty)} such rows); fill it in or drop the row"
            )
    return frame


def _from_file(path: str | Path, what: str, labels: tuple[str, ...]) -> pd.DataFrame:
    """The table of a CSV file, its labels as text; the message of one that cannot be read names it.

    A link may be called NA or None: of labels blanks alone are missing, and of persons `MISSING`.
    """
    try:
        columns = list(pd.read_csv(path, nrows=0).columns)
        missing = {name: [""] if name in labels and name != "person" else list(MISSING) for name in columns}
        types: Any = dict.fromkeys(labels, "string")
        frame = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=missing)
    except FileNotFoundError:
        raise FileNotFoundError(f"{what}: there is no file {str(path)!r}") from None
    except (ValueError, OSError) as error:  # pandas' own errors of empty and broken files are ValueErrors
        raise ValueError(f"{what}: {str(path)!r} cannot be read as a CSV file in UTF-8: {error}") from error
    for mark, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(columns) == 1 and mark in str(columns[0]):
            raise ValueError(
                f"{what}: the columns of {str(path)!r} are divided by {name}; write it with commas, and a point in "
                "numbers"
            )
    return frame


def _numbers_or_text(column: pd.Series) -> pd.Series:
    """Numbers where all that is there is one; else as it is, so that a message can show it."""
    found = pd.to_numeric(column, errors="coerce")
    return found.astype(float) if not (found.isna() & column.notna()).any() else column.astype(object)


def _whole(column: pd.Series) -> pd.Series:
    """Text as ints, if all of it that is there is written as whole numbers; blanks stay blanks."""
    present = column.dropna().str.strip()
    if len(present) and present.str.fullmatch(r"[+-]?\d{1,18}").all():
        made = column.str.strip().map(lambda text: text if pd.isna(text) else int(text))
        return made.astype(object if column.isna().any() else np.int64)
    return column.astype(object)


def key_index(column: pd.Series, what: str) -> pd.Index:
    """The keys of a table in its order.

    Raises:
        ValueError: if one is listed twice.
    """
    index = pd.Index(column, tupleize_cols=False)
    if not index.is_unique:
        first = index[index.duplicated()][0]
        raise ValueError(f"{what} lists {spelled(first)} twice; keep one row for each {what.removesuffix('s')}")
    return index


def key_places(column: pd.Series, index: pd.Index) -> np.ndarray[Any, Any]:
    """int64, the place of each key in an index, -1 where it has none."""
    return np.asarray(index.get_indexer(pd.Index(column, tupleize_cols=False)), dtype=np.int64)


def spelled(key: Any) -> str:
    """A key or number as a user would write it, whatever array it came from."""
    return repr(key.item() if isinstance(key, np.generic) else key)


def unique_pairs(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> int | None:
    """The row of a pair that an earlier row has too, or None."""
    pairs = pd.Series(first * (int(second.max(initial=0)) + 1) + second)
    repeated = np.flatnonzero(pairs.duplicated())
    return int(repeated[0]) if len(repeated) else None


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def numbers(frame: pd.DataFrame, column: str, what: str) -> np.ndarray[Any, Any]:
    """float64, a column of attributes.

    Raises:
        ValueError: if it holds no numbers, or one that is NaN or infinite.
    """
    try:
        values = frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        row, held = next((i, value) for i, value in enumerate(frame[column]) if not _is_number(value))
        raise ValueError(
            f"column {column!r} of {what} holds {spelled(held)} in row {row}, not numbers; write them with a decimal "
            "point, and kinds as one column of 0 and 1 for each"
        ) from None
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(
            f"column {column!r} of {what} is {values[bad[0]]} in row {bad[0]} ({len(bad)} such rows); give a finite "
            "number, 0 where there is nothing to pay"
        )
    return values
