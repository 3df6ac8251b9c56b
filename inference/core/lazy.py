"""Frozen objects whose attributes are given, or computed when they are first looked at and then held."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

import torch
from torch import Tensor

from cai.models.common.threads import spare_core

__all__ = ["Lazy", "lazy", "table", "view", "without_gradient"]

T = TypeVar("T", covariant=True)


class lazy(Generic[T]):
    """A method of a `Lazy` as an attribute, computed when first looked at unless it was given; then held.

    Gradients are recorded iff they were when the object was made.
    """

    stays = True  # whether every object keeps the value

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute, self.__doc__ = compute, compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: Any, owner: type) -> T: ...

    def __get__(self, instance: Any, owner: type) -> Self | T:
        if instance is None:
            return self
        shared = torch.get_num_threads() > 1  # not so where an attribute is computed for another one
        with torch.set_grad_enabled(instance._records), spare_core() if shared else contextlib.nullcontext():
            value = self.compute(instance)
        if self.stays or instance.holds_tables:
            instance.__dict__[self.name] = value  # found there from now on, before this descriptor
        return value


class table(lazy[T]):
    """A `lazy` that is computed anew at each look where the object is to stay small (`holds_tables` is False)."""

    stays = False


class view(lazy[T]):
    """A `lazy` that is made at each look, since it is quickly made of what is held."""

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        with torch.set_grad_enabled(instance._records):
            return self.compute(instance)


class Lazy:
    """A frozen object with `lazy` attributes; it can be pickled and copied if what it was given can.

    Args:
        **parts: attributes of the class, by name.

    Attributes:
        holds_tables: whether a `table` stays in memory once it was computed.
    """

    holds_tables: bool = True
    _records: bool

    def __init__(self, **parts: Any) -> None:
        self._check(parts)
        self.__dict__.update(parts, _records=torch.is_grad_enabled())

    @classmethod
    @functools.cache
    def names(cls) -> dict[str, None]:
        """All attributes that may be given, base classes first."""
        found: dict[str, None] = {}
        for base in reversed(cls.mro()):
            found |= dict.fromkeys(vars(base).get("__annotations__", ()))
            found |= dict.fromkeys(name for name, value in vars(base).items() if isinstance(value, lazy))
        return {name: None for name in found if not name.startswith("_")}

    def _check(self, parts: dict[str, Any]) -> None:
        unknown = sorted(parts.keys() - self.names().keys())
        if unknown:
            raise TypeError(f"a {type(self).__name__} has no attribute {unknown[0]!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a {type(self).__name__} is frozen; use replace({name}=...) to get a changed copy")

    def replace(self, **changes: Any) -> Self:
        """A copy with some attributes changed; all others stay what they are, whatever they were computed from."""
        self._check(changes)
        if any(isinstance(getattr(type(self), name, None), lazy) for name in changes):
            for name in self.names():  # so that what was not computed yet does not follow the change
                getattr(self, name, None)
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__ | changes)
        return copied

    def __copy__(self) -> Self:
        return self.replace()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = object.__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self._state(), memo))
        return copied

    def _state(self) -> dict[str, Any]:
        """Everything given or held, without gradients: a graph cannot leave the process that recorded it."""
        return {name: without_gradient(value) for name, value in self.__dict__.items()} | {"_records": False}

    def __getstate__(self) -> dict[str, Any]:
        return self._state()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def without_gradient(value: Any) -> Any:
    """A tensor, or tensors in a tuple or list, without the graph or the larger storage that they are part of."""
    if isinstance(value, Tensor):
        plain = value.detach() if value.requires_grad else value
        part = plain.layout is torch.strided and plain.untyped_storage().nbytes() > plain.nbytes
        return plain.clone(memory_format=torch.contiguous_format) if part else plain
    if type(value) in (tuple, list):
        return type(value)(without_gradient(item) for item in value)
    return value
