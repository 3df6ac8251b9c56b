"""Matrices at the door: their shapes, their time and batch axes, and which of them are covariances."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cai.models.common.checks import float_tensor
from cai.models.common.shapes import broadcast_shapes

__all__ = ["at_time", "batch_shape", "check_covariance", "read_matrix", "symmetric"]

ASYMMETRY = {torch.float32: 1e-5}  # of the largest entry that is put down to rounding, by the dtype that was given
NEGATIVE = 1e-10  # of the largest eigenvalue that is put down to rounding
SINGULAR = 1e-14  # of the largest eigenvalue, at and below which a matrix has no inverse


def read_matrix(
    values: Any, name: str, letters: str, sizes: Mapping[str, int], horizon: int | float | None
) -> tuple[Tensor, float]:
    """A tensor of finite numbers with the matrix axes last, before them time, before that any batch axes.

    Args:
        values: numbers, whose last axes are the matrix; before them time (T or 1), if it has a time axis, and batch.
        name: how it is called in messages.
        letters: the last axes, e.g. "n m"; "" for a number.
        sizes: of the letters.
        horizon: T, or math.inf; None where there is no time axis.

    Returns:
        The tensor, float64, and how large an asymmetry is rounding, as a share of its largest entry.

    Raises:
        TypeError, ValueError: if it holds no numbers, or the shape is another one.
    """
    number = isinstance(values, (int, float)) and not isinstance(values, bool)
    tensor, source = float_tensor(torch.tensor(values, dtype=torch.float64) if number else values, name)
    shape = tuple(sizes[letter] for letter in letters.split())
    axes = len(shape)
    lead = tensor.dim() - axes
    if lead < 0 or tuple(tensor.shape[lead:]) != shape:
        want = ", ".join(f"{letter} = {sizes[letter]}" for letter in dict.fromkeys(letters.split()))
        timed = "" if horizon is None else f" or {_axes('...', 'T', *letters.split())}"
        advice = "; write a number as an array of these axes, e.g. [[0.5]]" if not tensor.dim() else ""
        raise ValueError(
            f"{name} has shape {list(tensor.shape)}; expected {_axes(*letters.split())}{timed} with {want}{advice}"
        )
    if horizon is not None and lead and tensor.shape[lead - 1] not in (1, horizon):
        least = "1, as the horizon is infinite" if horizon == math.inf else f"T = {horizon}, or 1"
        raise ValueError(
            f"{name} has shape {list(tensor.shape)}: the axis before {_axes(*letters.split())} is time and must have "
            f"length {least}; a batch of constants is {_axes('B', '1', *letters.split())}"
        )
    bad = ~torch.isfinite(tensor.detach())
    if bad.any():
        raise ValueError(f"{name}{_place(bad, axes, horizon)} holds NaN or inf; give finite numbers")
    return tensor, ASYMMETRY.get(source, NEGATIVE)


def _axes(*names: str) -> str:
    return f"[{', '.join(names)}]"


def symmetric(tensor: Tensor) -> Tensor:
    """The symmetric part of matrices [..., n, n], all that a quadratic form sees of them."""
    return 0.5 * (tensor + tensor.mT)


def check_covariance(
    tensor: Tensor, name: str, rounding: float, horizon: int | float | None, *, proper: bool = False
) -> Tensor:
    """Covariances [..., n, n], made symmetric to the last bit.

    Args:
        tensor: float64.
        name: how it is called in messages.
        rounding: the asymmetry, as a share of the largest entry, that is put down to rounding.
        horizon: T; None where there is no time axis.
        proper: whether an inverse must exist.

    Raises:
        ValueError: if one is asymmetric, has a negative eigenvalue, or is singular where it must not be; says which.
    """
    values = tensor.detach()
    largest = values.abs().amax((-2, -1))
    uneven = (values - values.mT).abs().amax((-2, -1)) > rounding * largest
    if uneven.any():
        raise ValueError(f"{name}{_place(uneven, 0, horizon)} is not symmetric, and a covariance is; give (M + M') / 2")
    eigenvalues = torch.linalg.eigvalsh(symmetric(values))
    least, most = eigenvalues[..., 0], eigenvalues[..., -1].clamp(min=0)
    negative = least < -rounding * torch.maximum(most, -least)
    if negative.any():
        worst = float(least[negative][0])
        raise ValueError(
            f"{name}{_place(negative, 0, horizon)} has the eigenvalue {worst:.3g} and is no covariance; give one with "
            "eigenvalues >= 0, e.g. M M'"
        )
    flat = least <= SINGULAR * most
    if proper and flat.any():
        raise ValueError(
            f"{name}{_place(flat, 0, horizon)} is singular, so the prior has no density over actions; give every "
            "action some noise, or leave out the actions that have none"
        )
    return symmetric(tensor)


def _place(mask: Tensor, axes: int, horizon: int | float | None) -> str:
    """Where the first true entry is: the member of the batch and the step, as far as there are any."""
    at = torch.nonzero(mask)[0].tolist() if mask.dim() else []
    lead = at[: len(at) - axes] if axes else at
    if not lead:
        return ""
    step = [] if horizon is None else [f"step t = {lead.pop()}"]
    member = [f"member {lead if len(lead) > 1 else lead[0]} of the batch"] if lead else []
    return f" ({', '.join(member + step)})"


def batch_shape(parts: dict[str, tuple[Tensor, int]]) -> torch.Size:
    """The batch axes that all parts broadcast to.

    Args:
        parts: by name, a tensor and the number of its last axes that are not batch, time included.

    Raises:
        ValueError: if two do not fit together, naming them.
    """
    found, named = torch.Size(), ""
    for name, (tensor, axes) in parts.items():
        lead = tensor.shape[: max(0, tensor.dim() - axes)]
        try:
            wider = broadcast_shapes(found, lead)
        except RuntimeError:
            raise ValueError(
                f"the batch axes of {name}, {list(lead)}, do not fit those of {named}, {list(found)}; a batch of "
                "constants is [B, 1, n, n]"
            ) from None
        named = name if wider != found else named
        found = wider
    return found


def at_time(tensor: Tensor, axes: int, t: int, batch: torch.Size) -> Tensor:
    """[*batch, ...], what a tensor with `axes` last axes is at time index t."""
    if tensor.dim() > axes:
        tensor = tensor.select(-axes - 1, t if tensor.shape[-axes - 1] > 1 else 0)
    return tensor.expand((*batch, *tensor.shape[tensor.dim() - axes :]))
