"""Tables, series and indices of pandas in parts that files can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["frame_of", "index_of", "packed_frame", "packed_index", "packed_series", "series_of"]

ARRAYS = ("b", "i", "f")  # kinds of numbers that are stored as arrays


def packed_frame(frame: pd.DataFrame | None) -> dict[str, Any] | None:
    """A table without its index."""
    if frame is None:
        return None
    return {"columns": list(frame.columns), "values": [_values(frame[name]) for name in frame.columns]}


def frame_of(parts: dict[str, Any] | None) -> Any:
    """The reverse of `packed_frame`; rows are numbered."""
    import pandas as pd

    if parts is None:
        return None
    names, rows = parts["columns"], [_column(part) for part in parts["values"]]
    made = pd.DataFrame(dict(enumerate(rows)))
    made.columns = pd.Index(names, tupleize_cols=False)
    return made


def packed_series(series: pd.Series) -> dict[str, Any]:
    """A series of numbers by name."""
    return {"index": packed_index(series.index), "values": np.array(series, dtype=np.float64), "name": series.name}


def series_of(parts: dict[str, Any]) -> Any:
    """The reverse of `packed_series`."""
    import pandas as pd

    return pd.Series(parts["values"], index=index_of(parts["index"]), name=parts["name"])


def packed_index(index: pd.Index) -> Any:
    """Labels: numbers as an array, others as a list."""
    return _values(index.to_series())


def index_of(parts: Any) -> Any:
    """The reverse of `packed_index`."""
    import pandas as pd

    return pd.Index(_column(parts), tupleize_cols=False)


def _values(column: pd.Series) -> Any:
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in ARRAYS:
        return np.array(column)  # which may be written to, as tensors are
    words = {"words": not isinstance(column.dtype, np.dtype)}  # of a dtype of pandas' own, else of any objects
    missing = column.isna().tolist()
    plain = [None if gone else _plain(value) for gone, value in zip(missing, column.tolist(), strict=True)]
    return words | {"values": plain}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _column(parts: Any) -> Any:
    import pandas as pd

    if isinstance(parts, np.ndarray):
        return pd.Series(parts)
    if parts["words"]:
        return pd.Series(parts["values"])
    made = pd.Series([None] * len(parts["values"]), dtype=object)
    for place, value in enumerate(parts["values"]):  # one by one, as values may be tuples
        made.iat[place] = value
    return made
