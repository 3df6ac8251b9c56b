"""A function of continuous states that is known at the nodes of a grid, and interpolated between them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.models.common.checks import float_tensor
from cai.models.common.storage import storable
from cai.models.continuous.grid import Grid

__all__ = ["GridFunction"]


@storable("grid-function")
@dataclass(frozen=True, eq=False)
class GridFunction:
    """Numbers at the nodes of a grid, multilinear between them; a state outside the box counts as its nearest point.

    `GridFunction([axis, axis], answer.values)` turns the soft values of a `discretize`d model into a function of the
    continuous model's states, e.g. for `cai.infer(model, "restricted", values=..., start=...)`.

    Args:
        axes: n increasing 1-D tensors, those of the states in `discretize`.
        table: [T, S] for t = 0 .. T - 1, or [S] for all times; nodes are numbered row by row, the last axis fastest.

    Raises:
        TypeError, ValueError: if the axes do not increase, or the table's last axis has not one entry for each node.
    """

    axes: Any
    table: Any

    def __post_init__(self) -> None:
        grid = Grid(self.axes, "axes", len(self.axes))
        table, _ = float_tensor(self.table, "table")
        if table.dim() not in (1, 2) or table.shape[-1] != len(grid):
            raise ValueError(
                f"table has shape {list(table.shape)}; expected [T, S] or [S] with S = {len(grid)}, the product of the "
                "lengths of the axes"
            )
        object.__setattr__(self, "axes", grid.axes)
        object.__setattr__(self, "table", table.detach())

    @functools.cached_property
    def _grid(self) -> Grid:
        return Grid(self.axes, "axes", len(self.axes))

    def __call__(self, states: Any, t: int = 0) -> Tensor:
        """[...], the function at states [..., n] and time index t; a table [S] serves every t.

        Raises:
            ValueError: if states have another size or are not finite, or the table does not know t.
        """
        points = torch.as_tensor(states, dtype=self.table.dtype)
        if points.dim() == 0 or points.shape[-1] != len(self.axes):
            raise ValueError(f"states have shape {list(points.shape)}; expected [..., {len(self.axes)}]")
        if not bool(torch.isfinite(points.detach()).all()):
            raise ValueError("a state is NaN or infinite; expected finite numbers")
        rows = self.table
        if rows.dim() == 2:
            if not 0 <= t < len(rows):
                raise ValueError(f"time index {t} is outside the table, which knows 0 to {len(rows) - 1}")
            rows = rows[t]
        numbers, weights = self._grid.around(points)
        held = torch.where(weights > 0, rows[numbers], 0.0)  # a node of weight 0 may hold -inf
        found: Tensor = (held * weights).sum(-1)
        return found

    def __repr__(self) -> str:
        sizes = " x ".join(str(len(axis)) for axis in self.axes)
        return f"{type(self).__name__}({sizes} nodes, table={list(self.table.shape)})"
