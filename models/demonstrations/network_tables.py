"""Tables of links, turns and exits at the door: their columns, keys and numbers, each refused with a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cai.models.common.names import did_you_mean

__all__ = [
    "from_file",
    "key_index",
    "key_places",
    "numbers",
    "plain",
    "read_table",
    "spelled",
    "unique_pairs",
    "whole_number",
    "whole_numbers",
]

WHOLE = re.compile(r"[+-]?\d{1,18}(\.0*)?")  # how whole numbers are written, by what writes all of them as floats too
PLAIN = re.compile(r"(-?(?:0|[1-9]\d*))(?:\.0*)?")  # the same without zeros in front, which belong to a name
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "<NA>", "#N/A")  # numbers and persons


def read_table(given: Any, what: str, keys: Iterable[str]) -> pd.DataFrame:
    """A frame, or a CSV file whose keys are read as text, without blanks around it.

    Args:
        given: DataFrame, what makes one, or the path of a file.
        what: "links", for messages.
        keys: columns that must be there.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file is empty or broken, a column is missing, a name is repeated, or a key is.
    """
    keys = list(keys)
    if from_file(given):
        labels = (*keys, "trip", "link", "destination", "person")
        frame = _from_file(given, what, labels)
        for key in set(labels) & set(frame.columns) - {"position"}:
            texts = frame[key].str.strip()
            frame[key] = texts.mask(texts == "").astype(object)
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
    columns: list[str] = []
    try:
        columns = list(pd.read_csv(path, nrows=0, skipinitialspace=True).columns)  # blanks may be behind them
        missing: dict[str, list[str]] = {}
        types: Any = {}
        for column in columns:
            label = column.strip() in labels
            missing[column] = [""] if label and column.strip() != "person" else list(MISSING)
            types |= {column: "string"} if label else {}
        # Raises where the first row is longer than the header, which else is taken for names of rows.
        pd.read_csv(path, nrows=2, header=None, skipinitialspace=True)
        frame = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=missing, skipinitialspace=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"{what}: there is no file {str(path)!r}") from None
    except pd.errors.ParserError as error:
        raise ValueError(
            f"{what}: {str(path)!r} cannot be read as a CSV file: {str(error).strip()}; give every row as many entries "
            f"as there are columns ({', '.join(map(str, columns))}), no comma at its end, and close quotation marks"
        ) from error
    except UnicodeError as error:
        raise ValueError(f"{what}: {str(path)!r} is not written in UTF-8, save it again as such: {error}") from error
    except (ValueError, OSError) as error:  # pandas' own errors of empty and broken files are ValueErrors
        raise ValueError(f"{what}: {str(path)!r} cannot be read as a CSV file: {error}") from error
    frame.columns = frame.columns.str.strip()
    for mark, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars"), (" ", "blanks")):
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


def from_file(given: Any) -> bool:
    """Whether a table is given by its path."""
    return isinstance(given, str | Path)


def whole_number(key: Any) -> Any:
    """Text that is written as a whole number as an int; anything else as it is."""
    return int(key.partition(".")[0]) if isinstance(key, str) and WHOLE.fullmatch(key) else key


def whole_numbers(columns: Sequence[Any]) -> list[Any]:
    """Columns (Series) of text as ints, if all of it that is there is written as whole numbers; blanks stay blanks.

    They stay text where two keys of the first column, such as 1 and 01, would become one.
    """
    whole = all(isinstance(key, str) and WHOLE.fullmatch(key) for column in columns for key in column.dropna().unique())
    if not whole or not any(column.notna().any() for column in columns):
        return list(columns)
    made = [column.map(whole_number, na_action="ignore") for column in columns]
    if made[0].nunique() < columns[0].nunique():
        return list(columns)
    return [column.astype(object if column.isna().any() else np.int64) for column in made]


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
    """int64, the place of each key in an index, -1 where it has none.

    A key that is not there itself is looked for in another spelling: 12, 12.0, "12" and "12.0" are one, if only one of
    them is in the index.
    """
    keys = pd.Index(column, tupleize_cols=False)
    places = np.array(index.get_indexer(keys), dtype=np.int64)
    lost = np.flatnonzero(places < 0)
    if len(lost):
        known: dict[str | None, int] = {}
        for place, name in enumerate(map(_spelling, index)):
            known[name] = -1 if name in known else place
        known[None] = -1
        places[lost] = [known.get(_spelling(key), -1) for key in keys[lost]]
    return places


def _spelling(key: Any) -> str | None:
    """The text of a key, that of a whole number without point and zeros behind it; None of what has no other."""
    if isinstance(key, bool | np.bool_):
        return None
    if isinstance(key, int | np.integer):
        return str(int(key))
    if isinstance(key, float | np.floating):
        number = float(key)
        return str(int(number)) if number.is_integer() and abs(number) < 2**53 else None
    if not isinstance(key, str):
        return None
    written = PLAIN.fullmatch(key.strip())
    return written[1] if written else key.strip()


def plain(key: Any) -> Any:
    """A key, name or number as Python has it, whatever array it came from."""
    return key.item() if isinstance(key, np.generic) else key


def spelled(key: Any) -> str:
    """The same as a user would write it."""
    return repr(plain(key))


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
