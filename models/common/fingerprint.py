"""A digest by which a question is known again: of tables, words, models, backends and functions."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cai.models.common.storage import StorageError, stored_bytes

__all__ = ["fingerprint"]


def fingerprint(value: Any) -> str:
    """64 hexadecimal digits, the same in every process for equal values.

    What `cai.load` could read is known by the file that holds it; a module by its layers and weights; a function by its
    code, its defaults, what it encloses, and the numbers, words, tables and functions of its own module that it names;
    any other object by the arguments of its dataclass, or by its attributes.

    Args:
        value: anything.
    """
    reader = _Reader()
    reader.read(value)
    return reader.digest.hexdigest()


class _Reader:
    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.seen: dict[int, tuple[int, Any]] = {}  # by id: its number, and the value, which must stay alive

    def say(self, *words: object) -> None:
        for word in words:
            text = str(word).encode()
            self.digest.update(f"{len(text)}:".encode() + text)

    def read(self, value: Any) -> None:
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.device, Path)):
            self.say(type(value).__name__, repr(value))
        elif isinstance(value, enum.Enum):
            self.say("enum", type(value).__qualname__, value.name)
        elif id(value) in self.seen:
            self.say("again", self.seen[id(value)][0])
        else:
            self.seen[id(value)] = len(self.seen), value
            self._read(value)

    def _read(self, value: Any) -> None:
        if isinstance(value, (Tensor, np.ndarray, np.generic)):
            self._table(value)
        elif isinstance(value, Mapping):
            self.say("mapping", len(value))
            for key, item in value.items():
                self.read(key)
                self.read(item)
        elif isinstance(value, (list, tuple, range)):
            self._all(type(value).__name__, value)
        elif isinstance(value, (set, frozenset)):
            self._all("set", sorted(value, key=repr))
        elif isinstance(value, types.CodeType):
            self._all("code", (value.co_code, value.co_consts, value.co_names, value.co_varnames))
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self._all("method", (value.__self__, value.__func__))
        elif isinstance(value, functools.partial):
            self._all("partial", (value.func, value.args, value.keywords))
        elif isinstance(value, (type, types.BuiltinFunctionType, types.ModuleType)):
            self.say("named", getattr(value, "__module__", ""), getattr(value, "__qualname__", value))
        elif isinstance(value, nn.Module):
            self._all("module", (str(value), dict(value.state_dict())))
        elif hasattr(value, "to_numpy"):  # pandas
            self._frame(value)
        else:
            self._object(value)

    def _all(self, what: str, items: Iterable[Any]) -> None:
        parts = list(items)
        self.say(what, len(parts))
        for part in parts:
            self.read(part)

    def _table(self, value: Any) -> None:
        if isinstance(value, Tensor):
            plain = value.detach().cpu()
            plain = plain.to_dense() if plain.layout is not torch.strided else plain
            value = plain.contiguous().numpy()
        array = np.asarray(value)
        if array.dtype.kind == "O":
            self._all("array", [list(array.shape), array.reshape(-1).tolist()])
        else:
            self.say("array", array.dtype.str, list(array.shape))
            self.digest.update(np.ascontiguousarray(array).tobytes())

    def _function(self, function: types.FunctionType) -> None:
        self.say("function", function.__module__, function.__qualname__)
        cells = [cell.cell_contents for cell in function.__closure__ or () if _is_full(cell)]
        self._all("of", (function.__code__, function.__defaults__, function.__kwdefaults__, cells))
        for name in function.__code__.co_names:
            named = function.__globals__.get(name)
            mine = isinstance(named, (types.FunctionType, type)) and named.__module__ == function.__module__
            if mine or isinstance(named, (bool, int, float, str, list, tuple, dict, Tensor, np.ndarray)):
                self.say(name)
                self.read(named)

    def _frame(self, value: Any) -> None:
        self.say(type(value).__name__)
        if hasattr(value, "columns"):
            self._all("columns", list(value.columns))
            self.read(value.index)
            for place in range(value.shape[1]):
                self._table(value.iloc[:, place].to_numpy())
        else:
            self.read(getattr(value, "index", None) if hasattr(value, "iloc") else None)
            self._table(value.to_numpy())

    def _object(self, value: Any) -> None:
        self.say("object", type(value).__module__, type(value).__qualname__)
        try:
            self.digest.update(stored_bytes(value))
        except (StorageError, TypeError, ValueError):
            if dataclasses.is_dataclass(value):
                self.read({field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init})
            else:
                self.read(dict(getattr(value, "__dict__", {})))


def _is_full(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
