"""Solving (I - M) x = b for destinations: all rows alike, or with rows of M that are 0 for each destination apart."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from cai.inference.tabular.markov.linear_systems import LinearSystem

__all__ = ["AbsorbingSolver", "PlainSolver", "Solver"]

Array = np.ndarray[Any, Any]


class Solver(Protocol):
    """Both sides of the matrix of each column's destination; None where float64 does not get there."""

    def solve(self, sides: Array) -> Array | None:
        """X [L, R]."""
        ...

    def adjoint(self, sides: Array) -> Array | None:
        """The solution of the transposed systems [L, R]."""
        ...

    def moving(self, table: Array) -> Array:
        """[L, R], 0 in rows of M that are 0: what M sends on. In place."""
        ...


class PlainSolver:
    """One matrix for all columns."""

    def __init__(self, system: LinearSystem) -> None:
        self.system = system

    def solve(self, sides: Array) -> Array | None:
        return self.system.answer(sides, corrected=False)

    def adjoint(self, sides: Array) -> Array | None:
        return self.system.answer(sides, True, corrected=False)

    def moving(self, table: Array) -> Array:
        return table


class AbsorbingSolver:
    """Column r has rows D_r of M set to 0, by corrections of rank |D_r| to solves with the whole M.

    (I - P M) x = b, P = 1 - [D]: x = y + G[:, D] c with y = G P b and c such that x = b on D. Transposed, x is
    P m + [D] (b + M^T m), where m = G^T (P b + [D] c) is 0 on D.

    Args:
        system: I - M.
        links: int64 [Y], members of the sets D.
        columns: int64 [Y], ascending: which column each belongs to.
        number: R.
    """

    def __init__(self, system: LinearSystem, links: Array, columns: Array, number: int) -> None:
        self.system, self.links, self.columns = system, links, columns
        self.begins = np.searchsorted(columns, np.arange(number + 1))
        self._ahead: Array | None = None
        self._back: Array | None = None
        self._shares: Array | None = None  # c of the first solution

    def _unit(self) -> Array:
        sides = np.zeros((self.system.pattern.number, len(self.links)), order="F")
        sides[self.links, np.arange(len(self.links))] = 1.0
        return sides

    def sizes(self, column: int) -> Array:
        """[L], the sum of the absolute terms of G[:, D] c in a column of what `solve` found first."""
        assert self._ahead is not None
        assert self._shares is not None
        mine = slice(self.begins[column], self.begins[column + 1])
        return self._ahead[:, mine] @ np.abs(self._shares[mine])

    def moving(self, table: Array) -> Array:
        table[self.links, self.columns] = 0.0
        return table

    def solve(self, sides: Array) -> Array | None:
        if self._ahead is None:
            self._ahead = self.system.answer(self._unit(), corrected=False)
            if self._ahead is None:
                return None
        ends = sides[self.links, self.columns]
        rest = self.moving(sides.copy(order="K"))
        found = self.system.answer(rest, corrected=False) if rest.any() else np.zeros_like(sides)
        if found is None:
            return None
        return self._corrected(found, self._ahead, ends - found[self.links, self.columns], ends)

    def adjoint(self, sides: Array) -> Array | None:
        if self._back is None:
            self._back = self.system.answer(self._unit(), True, corrected=False)
            if self._back is None:
                return None
        found = self.system.answer(self.moving(sides.copy(order="K")), True, corrected=False)
        if found is None:
            return None
        moved = self._corrected(found, self._back, -found[self.links, self.columns], np.zeros(len(self.links)))
        arrived = np.zeros(len(self.links))
        rows, columns, weights = self.system._listed
        entering = np.isin(columns, self.links)
        rows, columns, weights = rows[entering], columns[entering], weights[entering]
        order = np.argsort(columns, kind="stable")
        rows, columns, weights = rows[order], columns[order], weights[order]
        low, high = np.searchsorted(columns, self.links), np.searchsorted(columns, self.links, side="right")
        for i, (start, stop) in enumerate(zip(low, high, strict=True)):
            arrived[i] = weights[start:stop] @ moved[rows[start:stop], self.columns[i]]
        moved[self.links, self.columns] = sides[self.links, self.columns] + arrived
        return moved

    def _corrected(self, found: Array, units: Array, missing: Array, wanted: Array) -> Array:
        """Found + units c in each column, with c such that the rows D come out as wanted."""
        shares = np.zeros(len(self.links))
        for r, (start, stop) in enumerate(zip(self.begins[:-1], self.begins[1:], strict=True)):
            if start == stop:
                continue
            inner = units[self.links[start:stop], start:stop]
            factors = (
                missing[start:stop] / inner[0, 0] if stop == start + 1 else np.linalg.solve(inner, missing[start:stop])
            )
            found[:, r] += units[:, start:stop] @ factors
            shares[start:stop] = factors
            found[self.links[start:stop], r] = wanted[start:stop]
        self._shares = shares if self._shares is None else self._shares
        return found
