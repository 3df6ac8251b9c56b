"""The dtype of numbers that are made of Python's, for one thread: torch's own default belongs to the whole process."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["NumbersOf"]

_CONVERSIONS = {"float", "type"}  # functions whose caller names the dtype without a torch.dtype
_INNERMOST = threading.local()


class NumbersOf(TorchFunctionMode):
    """Inside the block, Python numbers that meet whole indices become numbers of this dtype: 0.1 * state is no float32.

    A result that has torch's default dtype although none of the arguments asks for it is computed again from arguments
    of the block's dtype.

    Args:
        dtype: of floats.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self._outer: NumbersOf | None = None

    def __enter__(self) -> Any:
        self._outer, _INNERMOST.block = getattr(_INNERMOST, "block", None), self
        return self if self._idle else super().__enter__()

    def __exit__(self, *error: Any) -> None:
        if not self._idle:
            super().__exit__(*error)
        _INNERMOST.block = self._outer

    @property
    def _idle(self) -> bool:
        """Whether the block around this one does the same."""
        return self._outer is not None and self._outer.dtype == self.dtype

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        default = torch.get_default_dtype()
        if not isinstance(result, Tensor) or result.dtype != default or default == self.dtype:
            return result
        if _INNERMOST.block.dtype != self.dtype:
            return result
        given = tree_leaves((args, kwargs))
        named = func.__name__ in _CONVERSIONS or any(isinstance(value, (torch.dtype, np.ndarray)) for value in given)
        tensors = [value for value in given if isinstance(value, Tensor)]
        floats = any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors)
        if named or floats:
            return result
        return self._again(func, args, kwargs, result, bool(tensors))

    def _again(self, func: Any, args: Any, kwargs: Any, result: Tensor, has_tensors: bool) -> Any:
        """The result in the block's dtype; as it was where the function does not take the arguments in it."""
        if not has_tensors:
            try:
                return func(*args, **kwargs, dtype=self.dtype)
            except TypeError:
                return result
        for converted in (("whole",), ("whole", "float"), ("whole", "float", "bool")):
            args_now, kwargs_now = tree_map(lambda value, kinds=converted: self._convert(value, kinds), (args, kwargs))
            try:
                again = func(*args_now, **kwargs_now)
            except (TypeError, RuntimeError):
                continue
            if again.dtype == self.dtype:
                return again
        return result

    def _convert(self, value: Any, kinds: tuple[str, ...]) -> Any:
        if isinstance(value, Tensor):
            return value.to(self.dtype) if ("bool" if value.dtype == torch.bool else "whole") in kinds else value
        return torch.tensor(value, dtype=self.dtype) if isinstance(value, float) and "float" in kinds else value
