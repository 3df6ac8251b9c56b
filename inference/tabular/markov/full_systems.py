"""Linear systems (I - M) x = b whose M is a whole table [N, N] with few entries that are 0.

What `linear_systems` does with a list of entries, without a list: the same factors, the same residual.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.inference.tabular.markov.linear_systems import LinearSystem, SystemPattern

__all__ = ["FullPattern"]

Array = np.ndarray[Any, Any]
ROWS = 16  # of a table that are looked at together


class FullPattern(SystemPattern):
    """All places of M [N, N], row by row.

    Args:
        number: N.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    @cached_property
    def rows(self) -> Tensor:  # type: ignore[override]
        """int64 [N * N]."""
        return torch.arange(self.number).repeat_interleave(self.number)

    @cached_property
    def columns(self) -> Tensor:  # type: ignore[override]
        """int64 [N * N]."""
        return torch.arange(self.number).repeat(self.number)

    @property
    def method(self) -> str:
        """Always "dense"."""
        return "dense"

    def system(self, weights: Tensor, exits: Tensor | None = None) -> LinearSystem:
        return _FullSystem(self, weights, exits)


class _FullSystem(LinearSystem):
    """See `LinearSystem`."""

    @cached_property
    def _table(self) -> Array:
        """M [N, N]."""
        number = self.pattern.number
        return np.asarray(self._entries.cpu().numpy().reshape(number, number))

    @cached_property
    def _leading(self) -> tuple[Array, Array]:
        others = self._table.copy()
        np.fill_diagonal(others, 0.0)
        assert self.exits is not None
        return others, others.sum(1) + self.exits

    @cached_property
    def _matrix(self) -> Array:
        if self.exits is None:
            found = -self._table
            found.flat[:: len(found) + 1] += 1.0
            return found
        others, leaves = self._leading
        found = others / -leaves[:, None]
        np.fill_diagonal(found, 1.0)
        return found

    def _residual(self, x: Array, sides: Array, transposed: bool) -> tuple[Array, Array]:
        (others, leaves), exits = self._leading, self.exits[:, None]  # type: ignore[index]
        if transposed:
            sent = leaves[:, None] * x
            return sides + others.T @ x - sent, np.abs(sides) + np.abs(sent)
        drops, size = np.empty_like(x), np.empty_like(x)
        for column in range(x.shape[1]):
            along = x[:, column]
            for low in range(0, len(x), ROWS):
                rows = slice(low, low + ROWS)
                parts = along - along[rows, None]
                parts *= others[rows]
                drops[rows, column] = parts.sum(1)
                size[rows, column] = np.abs(parts, out=parts).sum(1)
        return sides + drops - exits * x, np.abs(sides) + size + exits * np.abs(x)
