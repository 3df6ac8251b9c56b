"""Objects of the parts that a file holds, refused where the parts are not those of such an object.

One rule for every kind of object: parts are of the types that its class declares, tables have the axes and the bounds
that it declares, and the object, written again, gives the parts that were read. The last says that nothing is missing,
added, converted or put in order on the way in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor

from cai.models.common.schema import check_fields, check_tables, declared_types, shown

__all__ = ["Kind", "rebuild"]

Parts = dict[str, Any]


class Kind(NamedTuple):
    """A class of objects that files hold.

    Attributes:
        name: the tag in the file.
        cls: the class.
        pack: object -> its parts by name.
        unpack: parts -> object.
        own: whether its parts are other than its fields.
        axes: of its tables, as `check_tables` reads them, where the class cannot hold them itself.
    """

    name: str
    cls: type
    pack: Callable[[Any], Mapping[str, Any]]
    unpack: Callable[[Parts], Any]
    own: bool
    axes: Mapping[str, str] = MappingProxyType({})


def rebuild(kind: Kind, parts: Parts, kind_of: Callable[[Any], Kind | None]) -> Any:
    """The object of these parts.

    Args:
        kind: of the object.
        parts: as they were read.
        kind_of: value -> its kind; None for a value that is no declared object.

    Raises:
        TypeError, ValueError: naming the part and what is wrong with it.
    """
    fields = dataclasses.is_dataclass(kind.cls) or hasattr(kind.cls, "_fields")
    if fields and not kind.own:  # the parts are the arguments of the constructor
        check_fields(kind.cls, parts)
    made = kind.unpack(dict(parts))
    may_lack = getattr(kind.cls, "_left_behind", ())  # where something else stands for what no file holds
    check_fields(kind.cls, {name: part for name, part in getattr(made, "__dict__", {}).items() if name not in may_lack})
    for name in declared_types(kind.cls):  # of which a class has those that have a default or are computed
        if not (name.startswith("_") or name in may_lack or hasattr(kind.cls, name) or name in vars(made)):
            raise ValueError(f"{name} is missing")
    check_tables(made, kind.axes)
    _check_again(parts, kind.pack(made), kind_of)
    return made


def _check_again(read: Mapping[str, Any], written: Mapping[str, Any], kind_of: Callable[[Any], Kind | None]) -> None:
    """Refuses parts that the object would not be written with."""
    for name in [*read, *written]:
        if name not in read:
            raise ValueError(f"{name} is missing")
        if name not in written:
            raise ValueError(f"{name} is no part of it")
        if not _same(read[name], written[name], kind_of):
            raise ValueError(f"{name} is {shown(read[name])}, which would be written as {shown(written[name])}")


def _same(left: Any, right: Any, kind_of: Callable[[Any], Kind | None]) -> bool:
    """Whether two values would be written alike."""
    if left is right:
        return True
    if isinstance(left, (Tensor, numpy.ndarray)):
        one, other = torch.as_tensor(left), torch.as_tensor(right) if isinstance(right, type(left)) else None
        if other is None or one.dtype != other.dtype or one.shape != other.shape:
            return False
        return bool(((one == other) | ((one != one) & (other != other))).all())  # NaN is NaN
    kind = kind_of(left)
    if kind is not None:
        return type(left) is type(right) and _same(kind.pack(left), kind.pack(right), kind_of)
    if isinstance(left, Mapping):
        return (
            isinstance(right, Mapping)
            and list(left) == list(right)
            and all(_same(part, right[name], kind_of) for name, part in left.items())
        )
    if isinstance(left, Sequence) and not isinstance(left, str):
        return (
            isinstance(left, list) == isinstance(right, list)
            and isinstance(right, Sequence)
            and len(left) == len(right)
            and all(_same(one, other, kind_of) for one, other in zip(left, right, strict=True))
        )
    return type(left) is type(right) and bool(left == right or (left != left and right != right))
