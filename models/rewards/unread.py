"""What stands in for an index that a reward is declared not to read: an object that refuses every use."""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["Unread", "UnreadIndexError"]

# Python looks these up on the class, past __getattr__. `is`, isinstance and repr alone say nothing of the value.
_COMPARED = {"eq", "ne", "lt", "le", "gt", "ge"}
_COMPUTED = {"add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow", "lshift", "rshift"}
_COMPUTED |= {"and", "or", "xor"}
_CONVERTED = {"neg", "pos", "abs", "invert", "bool", "int", "float", "complex", "index", "round", "trunc", "floor"}
_CONVERTED |= {"ceil", "hash", "str", "format", "call"}
_TAKEN_APART = {"len", "iter", "next", "reversed", "contains", "getitem", "setitem", "delitem"}
_COPIED = {"copy", "deepcopy", "reduce", "reduce_ex"}
_NUMPY = {"array", "array_ufunc", "array_function"}
_OPERATORS = _COMPARED | _CONVERTED | _TAKEN_APART | _COPIED | _NUMPY
_OPERATORS |= {p + name for name in _COMPUTED for p in ("", "r", "i")}


class UnreadIndexError(ValueError):
    """A reward has used an index that it is declared not to read."""


class Unread:
    """An index that a reward was not given.

    Comparing None with a number is False, and a reward that is paid on such a comparison would be 0 everywhere, without
    a word. Comparing, indexing, copying and computing with this object raise, and so do torch and NumPy.

    Args:
        message: of the error.

    Attributes:
        used: whether anything was tried with it, also where its error was caught on the way.
    """

    def __init__(self, message: str) -> None:
        self.__dict__.update(message=message, used=False)

    def refuse(self) -> NoReturn:
        """Raises the error."""
        self.__dict__["used"] = True
        raise UnreadIndexError(self.__dict__["message"])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what asks for a protocol goes on to another
            raise AttributeError(name)
        self.refuse()

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        pending = [*args, *(kwargs or {}).values()]
        while pending:
            part = pending.pop()
            if isinstance(part, Unread):
                part.refuse()
            pending += part if isinstance(part, (list, tuple)) else []
        return NotImplemented

    def __repr__(self) -> str:
        return "<an index that was not given>"


def _refusing(name: str) -> Any:
    def method(self: Unread, *args: Any, **kwargs: Any) -> NoReturn:
        self.refuse()

    method.__name__ = name
    return method


for _name in _OPERATORS:
    setattr(Unread, f"__{_name}__", _refusing(f"__{_name}__"))
