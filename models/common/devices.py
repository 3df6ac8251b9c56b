"""Where tensors live and how exact they are: devices and dtypes of models."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["new_table", "place_tensor", "resolve_place"]

DTYPES = (torch.float64, torch.float32)


def new_table(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Memory for a large result, not initialised, on the device and in the dtype of `like`.

    On the CPU it is NumPy's, which asks the system for huge pages where an array is large: to touch a gigabyte for the
    first time otherwise takes about as long as a backward pass that fills it.
    """
    if like.device.type != "cpu" or type(like) is not Tensor:
        return like.new_empty(shape)
    return torch.from_numpy(np.empty(shape, dtype=np.float64 if like.dtype == torch.float64 else np.float32))


def resolve_place(device: Any, dtype: Any, now: tuple[torch.device, torch.dtype]) -> tuple[torch.device, torch.dtype]:
    """The device and dtype that are meant, with the number of the device spelled out.

    Args:
        device: a `torch.device`, its name, or None for the present one.
        dtype: torch.float64, torch.float32, or None for the present one.
        now: the present ones.

    Raises:
        TypeError, ValueError: if one is no device or dtype, or not one that a model can have here.
    """
    if isinstance(device, torch.dtype):
        raise TypeError(f"the device is given as {device}, which is a dtype; write to(dtype={device})")
    if isinstance(device, Tensor):
        raise TypeError("the device is given as a tensor; write to(tensor.device, tensor.dtype)")
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype is {dtype!r}; expected torch.float64 or torch.float32")
    dtype = now[1] if dtype is None else dtype
    if dtype not in DTYPES:
        raise ValueError(
            f"dtype is {dtype}; expected torch.float64, or torch.float32 (shorter floats lose the small probabilities "
            "that messages are made of)"
        )
    try:
        device = now[0] if device is None else torch.device(device)
        return torch.empty(0, device=device, dtype=dtype).device, dtype
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"tensors of {dtype} cannot be made on device {device!s}: {reason}; give a device that this torch has "
            "('cpu' is always one; 'mps' has torch.float32 only)"
        ) from None


def place_tensor(tensor: Tensor, device: torch.device, dtype: torch.dtype, what: str) -> Tensor:
    """The tensor there and so, with its autograd history; masks and indices keep their dtype.

    Args:
        tensor: any.
        device: where to.
        dtype: of the result, if the tensor is of floats.
        what: how it is called in messages.

    Raises:
        ValueError: if a finite entry is too large for the dtype.
    """
    if not tensor.is_floating_point():
        return tensor.to(device)
    placed = tensor.to(device, dtype)
    if torch.finfo(dtype).max < torch.finfo(tensor.dtype).max:
        lost = torch.isinf(placed.detach()) & torch.isfinite(tensor.detach()).to(device)
        if lost.any():
            largest = torch.finfo(dtype).max
            raise ValueError(
                f"{what} holds numbers beyond {largest:.3g}, the largest of {dtype}; scale the problem, write -inf for "
                "what is forbidden, or keep torch.float64"
            )
    return placed
