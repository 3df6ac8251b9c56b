"""A grid over a box of R^n: its nodes, their trapezoid weights, and points as weighted nodes around them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cai.models.common.checks import float_tensor
from cai.models.common.memory import require_memory

__all__ = ["Grid", "merged"]

# Of a spacing, within which a point lies on a node, by the dtype that the axes were given in.
SNAP = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-2}
FINE = 1e-9  # the same for all others


class Grid:
    """The product of increasing axes; nodes are numbered row by row, the last axis fastest.

    Args:
        axes: n one-dimensional arrays of at least two numbers each, increasing.
        name: how they are called in messages, "states" or "actions".
        dim: n.

    Raises:
        TypeError, ValueError: if an axis is no increasing row of finite numbers, or there are not n of them.

    Attributes:
        axes: n tensors.
        snap: the share of a spacing within which a point lies on a node.
    """

    def __init__(self, axes: Any, name: str, dim: int) -> None:
        if isinstance(axes, Tensor) or not isinstance(axes, Sequence) or isinstance(axes, str):
            raise TypeError(
                f"{name} is a {type(axes).__name__}; give a list of axes, one for each of {dim} coordinates"
            )
        if len(axes) != dim:
            raise ValueError(
                f"{name} has {len(axes)} axes; the model has {dim} coordinate{'s' * (dim > 1)}: give one axis each, "
                "e.g. [torch.linspace(-1, 1, 21)]"
            )
        read = [_read_axis(axis, f"{name}[{i}]") for i, axis in enumerate(axes)]
        self.axes = tuple(axis for axis, _ in read)
        self.snap = max(SNAP.get(source, FINE) for _, source in read)
        self.name = name
        sizes = [len(axis) for axis in self.axes]
        self._strides = [math.prod(sizes[i + 1 :]) for i in range(dim)]

    def __len__(self) -> int:
        return math.prod(len(axis) for axis in self.axes)

    @cached_property
    def nodes(self) -> Tensor:
        """[S, n].

        Raises:
            TooLarge: if they do not fit into the memory that there is.
        """
        advice = "use fewer nodes on an axis"
        require_memory(32 * len(self.axes) * len(self), f"a grid of {len(self):,} {self.name}", advice)
        return torch.cartesian_prod(*self.axes).reshape(-1, len(self.axes))

    @cached_property
    def weights(self) -> Tensor:
        """[S], the trapezoid weights; their sum is the volume of the box."""
        parts = [_trapezoid(axis) for axis in self.axes]
        return torch.cartesian_prod(*parts).reshape(-1, len(parts)).prod(-1)

    @property
    def volume(self) -> float:
        """Of the box."""
        return math.prod(float(axis[-1] - axis[0]) for axis in self.axes)

    @property
    def spacing(self) -> Tensor:
        """[n], the widest gap of each axis."""
        return torch.stack([axis.diff().max() for axis in self.axes])

    def inside(self, share: float) -> Tensor:
        """[S, n], the nodes, each drawn a share of its distance towards the middle of the box."""
        middle = torch.stack([(axis[0] + axis[-1]) / 2 for axis in self.axes])
        return middle + (self.nodes - middle) * (1 - share)

    def outside(self, points: Tensor) -> Tensor:
        """Bool [...], whether points [..., n] lie outside the box, by more than rounding."""
        low = torch.stack([axis[0] for axis in self.axes])
        high = torch.stack([axis[-1] for axis in self.axes])
        slack = self.snap * self.spacing
        return ((points < low - slack) | (points > high + slack)).any(-1)

    def around(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points as weighted nodes: the corners of the cells that they lie in, with multilinear weights.

        The weighted mean of the corners is the point. A point outside the box is first brought to its boundary.

        Args:
            points: [..., n].

        Returns:
            (int64 [..., 2^n] numbers of nodes, [..., 2^n] weights that sum to 1, many of which may be 0).
        """
        lower, shares = [], []
        for i, axis in enumerate(self.axes):
            x = points[..., i]
            at = (torch.searchsorted(axis, x.detach().contiguous(), right=True) - 1).clamp(0, len(axis) - 2)
            share = ((x - axis[at]) / (axis[at + 1] - axis[at])).clamp(0, 1)
            share = torch.where(share.detach() < self.snap, torch.zeros_like(share), share)
            share = torch.where(share.detach() > 1 - self.snap, torch.ones_like(share), share)
            lower.append(at)
            shares.append(share)
        numbers, weights = [], []
        for corner in itertools.product((0, 1), repeat=len(self.axes)):
            number, weight = torch.zeros_like(lower[0]), torch.ones_like(shares[0])
            for up, at, share, stride in zip(corner, lower, shares, self._strides, strict=True):
                number = number + (at + up) * stride
                weight = weight * (share if up else 1 - share)
            numbers.append(number)
            weights.append(weight)
        return torch.stack(numbers, -1), torch.stack(weights, -1)

    def names(self) -> list[str] | None:
        """A name for each node, its coordinates; None where six digits do not tell nodes apart."""
        words = [[f"{value:g}" for value in axis.tolist()] for axis in self.axes]
        if any(len(set(row)) < len(row) for row in words):
            return None
        return [", ".join(parts) for parts in itertools.product(*words)]


def merged(numbers: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Lists of weighted nodes without zeros and with every node once, as short as the longest of them.

    Args:
        numbers: int64 [..., K], with repetitions.
        weights: [..., K], >= 0.

    Returns:
        (int64 [..., L], [..., L]), shorter lists filled up with their first node and weight 0.
    """
    nothing = int(numbers.max()) + 1
    numbers = torch.where(weights.detach() > 0, numbers, nothing)
    numbers, order = numbers.sort(-1)
    weights = weights.gather(-1, order)
    starts = torch.ones_like(numbers, dtype=torch.bool)
    starts[..., 1:] = numbers[..., 1:] != numbers[..., :-1]
    place = starts.long().cumsum(-1) - 1
    length = int((starts & (numbers != nothing)).sum(-1).max())
    kept = torch.zeros_like(weights).scatter_add(-1, place, torch.where(numbers != nothing, weights, 0.0))
    found = torch.zeros_like(numbers).scatter_reduce(-1, place, numbers, "amax", include_self=False)
    kept, found = kept[..., :length], found[..., :length]
    return torch.where(kept.detach() > 0, found, found[..., :1]), kept


def _trapezoid(axis: Tensor) -> Tensor:
    gaps = axis.diff()
    weights = torch.zeros_like(axis)
    weights[:-1] += gaps / 2
    weights[1:] += gaps / 2
    return weights


def _read_axis(axis: Any, name: str) -> tuple[Tensor, torch.dtype]:
    tensor, source = float_tensor(axis, name)
    tensor = tensor.detach()
    if tensor.dim() != 1 or len(tensor) < 2:
        raise ValueError(f"{name} has shape {list(tensor.shape)}; an axis is a row of at least two increasing numbers")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} holds NaN or inf; an axis is a row of increasing numbers")
    falls = torch.nonzero(tensor.diff() <= 0)
    if len(falls):
        i = int(falls[0])
        raise ValueError(
            f"{name} does not increase: {tensor[i]:g} is followed by {tensor[i + 1]:g}; sort it, and leave out what "
            "stands there twice"
        )
    return tensor, source
