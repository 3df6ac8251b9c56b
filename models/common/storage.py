"""Files that hold tables and words and nothing that runs: safetensors, with one JSON document in the header.

What can be stored is None, booleans, numbers, strings, tensors, NumPy arrays, lists, tuples, dicts, and objects of the
classes that were declared by `storable`, nested at will; what is shared is stored once. Reading builds objects of
declared classes alone, so a file from a stranger can be damaged or wrong, but runs nothing.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import enum
import importlib
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from cai.models.common.files import MissingFile, StorageError, is_there, make_folder, write_atomically
from cai.models.common.rebuild import Kind, rebuild
from cai.models.common.schema import check_document, no_number, unique_keys, whole

__all__ = ["Saved", "StorageError", "can_store", "declared_in", "load", "save", "storable", "stored_bytes"]
__all__ += ["stored_kind"]

VERSION = 1  # of the document's layout; raised when older files can no longer be read the same way
FILE = "cai.safetensors"  # the file of an object that was saved as a folder
C = TypeVar("C", bound=type)


_BY_NAME: dict[str, Kind] = {}
_BY_CLASS: dict[type, Kind] = {}
_BUILT: contextvars.ContextVar[Mapping[int, Any]] = contextvars.ContextVar("built by the reader at work, by id")
_HOMES: dict[str, str] = {}  # the module that declares kinds of a first word, imported when a file holds one


def declared_in(module: str, *words: str) -> None:
    """Says which module declares all kinds that begin with one of some words ("word-..."), so that files find it."""
    _HOMES.update(dict.fromkeys(words, module))


def storable(
    kind: str,
    *,
    pack: Callable[[Any], Mapping[str, Any]] | None = None,
    unpack: Callable[[dict[str, Any]], Any] | None = None,
    axes: Mapping[str, str] | None = None,
) -> Callable[[C], C]:
    """Declares that objects of a class can be stored; a decorator. A subclass is declared by itself, by its own kind.

    Args:
        kind: the tag in the file; never change it, or older files cannot be read.
        pack: object -> its parts by name. The init fields of a dataclass or the fields of a NamedTuple unless given,
            and of another class all attributes.
        unpack: parts -> object. The constructor with keywords unless given; an object with these attributes where they
            are all attributes. Enums need neither.
        axes: of tables, {"states": "T+1 n"}, of a NamedTuple; other classes say so by `_stored_axes`.
    """

    def declare(cls: C) -> C:
        known = _BY_NAME.get(kind)
        if known is not None and known.cls.__qualname__ != cls.__qualname__:
            raise ValueError(f"kind {kind!r} is taken by {known.cls.__qualname__}")
        if issubclass(cls, enum.Enum):
            made = Kind(kind, cls, lambda member: {"name": member.name}, lambda parts: cls[parts["name"]], True)
        else:
            fields = dataclasses.is_dataclass(cls) or issubclass(cls, tuple)
            called = fields or pack is not None
            built = (lambda parts: cls(**parts)) if called else (lambda parts: _with(cls, parts))
            made = Kind(
                kind, cls, pack or (_fields if fields else vars), unpack or built, bool(pack or unpack), axes or {}
            )
        _BY_NAME[kind] = _BY_CLASS[cls] = made
        return cls

    return declare


def _fields(value: Any) -> dict[str, Any]:
    if isinstance(value, tuple):
        return value._asdict()  # type: ignore[attr-defined]
    return {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value) if entry.init}


def _with(cls: type, parts: dict[str, Any]) -> Any:
    made: Any = object.__new__(cls)
    made.__dict__.update(parts)
    return made


# ---- writing --------------------------------------------------------------------------------------------------------


class _Writer:
    """Turns a value into a JSON document and the tensors that it names."""

    def __init__(self, *, copies: bool = True) -> None:
        self.copies = copies
        self.tensors: dict[str, Tensor] = {}
        self.sums: dict[str, int] = {}
        self.objects: list[Any] = []
        self.seen: dict[int, tuple[Any, Any]] = {}  # by id: the value, which must stay alive, and what stands for it

    def encode(self, value: Any, where: str) -> Any:
        if isinstance(value, enum.Enum) or type(value) in _BY_CLASS:
            return self._once(value, lambda: self._object(value, where))
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, (int, float, numpy.number, numpy.bool_)):
            plain = value.item() if isinstance(value, (numpy.number, numpy.bool_)) else value
            return plain if math.isfinite(plain) else {"$": "float", "is": repr(float(plain))}
        if isinstance(value, Tensor):
            return self._once(value, lambda: {"$": "tensor", "is": self._tensor(value, where)})
        if isinstance(value, numpy.ndarray):
            return self._once(value, lambda: {"$": "array", "is": self._tensor(torch.as_tensor(value), where)})
        if isinstance(value, (torch.dtype, torch.device)):
            return {"$": type(value).__name__, "is": str(value).removeprefix("torch.")}
        if isinstance(value, (list, tuple)) and type(value) in (list, tuple, torch.Size):
            items = [self.encode(item, f"{where}.{i}") for i, item in enumerate(value)]
            return items if isinstance(value, list) else {"$": "tuple", "is": items}
        if isinstance(value, Mapping):
            if all(isinstance(key, str) and key != "$" for key in value):
                return {key: self.encode(item, f"{where}.{key}") for key, item in value.items()}
            pairs = [[self.encode(part, f"{where}.{i}") for part in pair] for i, pair in enumerate(value.items())]
            return {"$": "pairs", "is": pairs}
        raise StorageError(
            f"{where} is a {type(value).__qualname__}, which cannot be saved: files hold tables, numbers and words, "
            "and classes declared by cai.models.common.storage.storable"
        )

    def _once(self, value: Any, encode: Callable[[], Any]) -> Any:
        if not self.copies and id(value) in _BUILT.get({}):
            return None  # out of a file, which can hold it
        if id(value) not in self.seen:
            self.seen[id(value)] = (value, encode())
        return self.seen[id(value)][1]

    def _object(self, value: Any, where: str) -> dict[str, Any]:
        kind = _BY_CLASS.get(type(value))
        if kind is None:
            raise StorageError(f"{where} is a {type(value).__qualname__}, which is not declared as storable")
        parts = {name: self.encode(part, f"{where}.{name}") for name, part in kind.pack(value).items()}
        self.objects.append({"kind": kind.name, "parts": parts})  # parts first, so an object names earlier ones alone
        return {"$": "object", "is": len(self.objects) - 1}

    def _tensor(self, value: Tensor, where: str) -> str:
        if not self.copies:
            return where
        plain = value.detach().cpu()
        plain = plain.to_dense() if plain.layout is not torch.strided else plain
        self.tensors[where] = plain.clone(memory_format=torch.contiguous_format)  # shares no memory with another
        self.sums[where] = _checksum(self.tensors[where])
        return where


def _checksum(table: Tensor) -> int:
    return zlib.crc32(table.reshape(-1).view(torch.uint8).numpy().tobytes()) if table.numel() else 0


def can_store(value: Any) -> bool:
    """Whether `save` would accept the value."""
    try:
        _Writer(copies=False).encode(value, "value")
    except (ValueError, TypeError):
        return False
    return True


def save(path: str | Path, value: Any, *, folder: bool = False) -> Path:
    """Writes a value to a file, all of it or nothing; numbers alone, without gradients.

    Args:
        path: of the file, or of the folder.
        value: what can be stored.
        folder: whether `path` is a folder, made if need be, in which the file lies.

    Returns:
        The path as it was given.

    Raises:
        StorageError: if a part cannot be stored, or the file not written; names it.
    """
    target, content = Path(path), stored_bytes(value)
    if folder:
        make_folder(target, "what is saved there")
    write_atomically(target / FILE if folder else target, content)
    return target


def stored_bytes(value: Any) -> bytes:
    """The file that `save` would write; equal values make equal bytes.

    Raises:
        StorageError: if a part cannot be stored; names it.
    """
    writer = _Writer()
    kind = _BY_CLASS.get(type(value))
    name = type(value).__name__ if kind is None else kind.name
    root = writer.encode(value, name)
    document = {"version": VERSION, "kind": name, "root": root, "objects": writer.objects, "sums": writer.sums}
    text = json.dumps(document, allow_nan=False)
    header = {"cai": text, "crc": str(zlib.crc32(text.encode()))}
    return _same_each_time(to_bytes(writer.tensors, metadata=header))


def _same_each_time(content: bytes) -> bytes:
    """A safetensors file whose header is in a fixed order, so that equal values make equal bytes.

    The library writes the two parts of our metadata in an order that differs from one run to the next.
    """
    length = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + length])
    entries["__metadata__"] = dict(sorted(entries["__metadata__"].items()))
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # what follows stays aligned
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


# ---- reading --------------------------------------------------------------------------------------------------------


_TAGS = {"tensor": str, "array": str, "object": int, "tuple": list, "pairs": list}
_TAGS |= {"dtype": str, "device": str, "float": str}


class _Reader:
    """Builds the value of a document."""

    def __init__(self, document: dict[str, Any], file: Any) -> None:
        self.document, self.file = document, file
        self.tensors: dict[str, Tensor] = {}
        self.objects: list[Any] = []
        self.built: dict[int, Any] = {}
        self.field = "the header"

    def value(self) -> Any:
        for entry in self.document["objects"]:
            self.field = entry["kind"]
            parts = {name: self._decode(part, f"{entry['kind']}.{name}") for name, part in entry["parts"].items()}
            home = _HOMES.get(entry["kind"].partition("-")[0])
            if entry["kind"] not in _BY_NAME and home is not None:
                importlib.import_module(home)
            if entry["kind"] not in _BY_NAME:
                raise StorageError(f"kind {entry['kind']!r} is unknown; import the package that wrote it first")
            self.field = entry["kind"]
            made = rebuild(_BY_NAME[entry["kind"]], parts, lambda value: _BY_CLASS.get(type(value)))
            self.objects.append(made)
            self.built[id(made)] = made
        value = self._decode(self.document["root"], self.document["kind"])
        kind, called = _BY_CLASS.get(type(value)), self.document["kind"]
        if called != kind.name if kind is not None else called in _BY_NAME:
            raise ValueError(f"the header calls it a {called}, and it is a {kind.name if kind else type(value)}")
        return value

    def _decode(self, value: Any, where: str) -> Any:
        self.field = where
        if isinstance(value, list):
            return [self._decode(item, f"{where}.{i}") for i, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if "$" not in value:
            return {key: self._decode(item, f"{where}.{key}") for key, item in value.items()}
        tag, inner = value["$"], value["is"]
        held: Any = type(inner)
        if set(value) != {"$", "is"} or held is not _TAGS.get(tag):
            raise ValueError(f"{value!r:.60} says nothing that can be read")
        if tag == "tensor":
            return self._tensor(inner)
        if tag == "array":
            return self._tensor(inner).numpy()
        if tag == "object":
            return self.objects[range(len(self.objects))[inner] if inner >= 0 else len(self.objects)]
        if tag == "tuple":
            return tuple(self._decode(inner, where))
        if tag == "pairs":
            return unique_keys(self._decode(inner, where))
        if tag == "dtype":
            if not isinstance(getattr(torch, inner, None), torch.dtype):
                raise ValueError(f"{inner!r} is no dtype")
            return getattr(torch, inner)
        if tag == "device":
            return torch.device(inner)
        return float(inner)

    def _tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            self.field = name
            found = self.file.get_tensor(name)
            if _checksum(found) != self.document["sums"][name]:
                raise ValueError("its numbers are not those that were written")
            self.tensors[name] = found.clone()  # no longer in the file, which others may overwrite
        return self.tensors[name]


def load(path: str | Path, *, expected: str | tuple[str, ...] | None = None) -> Any:
    """Reads what `save` wrote, from a file or a folder; tensors come back on the CPU and without gradients.

    Args:
        path: of the file or the folder.
        expected: the kinds that will do; any if None.

    Raises:
        FileNotFoundError: if there is nothing.
        StorageError: if the file is damaged, newer than this version, or holds another kind; says which field.
    """
    with _opened(path) as (document, file):
        if expected is not None and document["kind"] not in ((expected,) if isinstance(expected, str) else expected):
            raise StorageError(f"{str(path)!r} holds a {document['kind']}; expected {expected}; cai.load takes any")
        reader = _Reader(document, file)
        before = _BUILT.set(reader.built)
        try:
            return reader.value()
        except StorageError as error:
            raise StorageError(f"{str(path)!r}, field {reader.field}: {error}") from None
        except Exception as error:
            raise StorageError(
                f"{str(path)!r} is damaged at field {reader.field}: {error!r}; save it again, or take a copy"
            ) from error
        finally:
            _BUILT.reset(before)


class Saved:
    """What objects of a declared class do with a path."""

    def save(self, path: str | Path) -> Path:
        """Writes it to a file that `cai.load` reads, numbers without gradients; returns the path.

        Raises:
            StorageError: if a part of it cannot be stored; names it.
        """
        return save(path, self)


def stored_kind(path: str | Path) -> str:
    """The kind of what a file or folder holds; no table is read.

    Raises:
        FileNotFoundError, StorageError: as `load`.
    """
    with _opened(path) as (document, _):
        return str(document["kind"])


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[tuple[dict[str, Any], Any]]:
    place = Path(path)
    place = place / FILE if path != "" and os.path.isdir(place) else place
    if not is_there(place):
        raise MissingFile(f"there is nothing saved at {str(path)!r}")
    if not place.is_file():
        raise StorageError(f"{str(path)!r} is no file; give what save wrote")
    try:
        opened = safe_open(str(place), framework="pt")
    except (SafetensorError, OSError) as error:
        raise StorageError(f"{str(path)!r} is damaged or no safetensors file: {error}") from None
    with opened as file:
        header = file.metadata() or {}
        if "cai" not in header:
            raise StorageError(f"{str(path)!r} holds nothing that cai wrote")
        if header.get("crc") != str(zlib.crc32(header["cai"].encode())):
            raise StorageError(f"{str(path)!r} is damaged: its header is not the one that was written")
        document = _document(path, header["cai"])
        yield document, file


def _document(path: str | Path, text: str) -> dict[str, Any]:
    """The header of a file, of the layout that this version writes."""
    try:
        document = json.loads(text, object_pairs_hook=unique_keys, parse_constant=no_number, parse_int=whole)
        newer = document["version"] if isinstance(document, dict) and "version" in document else 0
        if isinstance(newer, int) and newer > VERSION:
            raise StorageError(
                f"{str(path)!r} was written by a newer version (layout {newer}, this one reads up to {VERSION}); "
                "install a newer control-as-inference"
            )
        check_document(document)
    except StorageError:
        raise
    except RecursionError:
        raise StorageError(f"{str(path)!r} is damaged: its header is nested without end") from None
    except ValueError as error:
        raise StorageError(f"{str(path)!r} is damaged: {error}") from None
    return dict(document)
