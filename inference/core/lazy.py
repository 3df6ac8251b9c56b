"""Attributes that are worked out when they are first looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["Later", "deferrable", "mapped", "resolved", "stored_fields"]


class Later:
    """A value to be worked out on demand, with gradients recorded iff they were when it was promised.

    Args:
        compute: returns the value.
        held: whether the value is kept once it is known, or worked out anew each time.
    """

    def __init__(self, compute: Callable[[], Any], *, held: bool = True) -> None:
        self.compute: Callable[[], Any] | None = compute
        self.held = held
        self.records = torch.is_grad_enabled()
        self.value: Any = None

    def __call__(self) -> Any:
        if self.compute is None:
            return self.value
        with torch.set_grad_enabled(self.records):
            value = self.compute()
        if self.held:
            self.value, self.compute = value, None  # what it was made of may go
        return value


class _Field:
    """An attribute that may hold a `Later`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            raise AttributeError(self.name)
        value = instance.__dict__[self.name]
        return value() if isinstance(value, Later) else value

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self.name] = value


def deferrable(cls: type, *names: str) -> None:
    """Lets the named fields of a dataclass be given as `Later`."""
    for name in names:
        setattr(cls, name, _Field(name))


def stored_fields(instance: Any) -> dict[str, Any]:
    """The fields of a dataclass as they are stored, nothing worked out."""
    return {name: instance.__dict__[name] for name in instance.__dataclass_fields__}


def resolved(value: Any) -> Any:
    """The value, worked out if it is a `Later`."""
    return value() if isinstance(value, Later) else value


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """The function of a value; of a `Later` it will be worked out with it, and kept iff that is."""
    return Later(lambda: function(value()), held=value.held) if isinstance(value, Later) else function(value)
