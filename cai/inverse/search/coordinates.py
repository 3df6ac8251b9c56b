"""Coefficients by name, the free ones among them, and the scaled coordinates in which the search runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cai.inverse.search.objective import Objective
from cai.inverse.search.penalties import Penalty, curvature, derivatives, log_density, sharpness, steepness
from cai.inverse.search.settings import Settings
from cai.models.common.names import did_you_mean

__all__ = ["Coordinates", "Scaled"]


@dataclass(frozen=True)
class Coordinates:
    """F coefficients by name; free ones are searched as coefficient x scale.

    Attributes:
        names: of all coefficients.
        fixed: [F], values of those that are fixed, nan elsewhere.
        free: int64 [K], the places of those that are not.
        scales: [F] > 0.
    """

    names: tuple[str, ...]
    fixed: Tensor
    free: Tensor
    scales: Tensor

    @classmethod
    def of(cls, names: Sequence[str], scales: Tensor, settings: Settings) -> Coordinates:
        """Checks the names of the settings.

        Raises:
            ValueError: if a name is unknown, a fixed value is not finite, or a bound is none.
        """
        fixed = torch.full((len(names),), math.nan, dtype=torch.float64)
        for name, value in settings.fixed.items():
            fixed[_place(name, names, "fixed")] = _finite(value, f"fixed[{name!r}]")
        free = torch.nonzero(fixed.isnan()).flatten()
        made = cls(tuple(names), fixed, free, scales)
        made.bounds(settings)
        return made

    def penalised(self, initial: Tensor, settings: Settings) -> Coordinates:
        """The same, by units in which neither a feature nor its penalty bends by more than 1.

        A feature in units that make it tiny would else be penalised by a curvature beside which all others are nothing.

        Args:
            initial: [F], where the penalty is looked at, unless the user says.
            settings: with the penalty.
        """
        scales = self.scales.clone()
        at = self.default_start(initial, settings)[self.free]
        scales[self.free] = torch.maximum(scales[self.free], steepness(settings.penalty, at))
        return replace(self, scales=scales)

    @property
    def free_names(self) -> tuple[str, ...]:
        """K names."""
        return tuple(self.names[int(i)] for i in self.free)

    @property
    def free_scales(self) -> Tensor:
        """[K]."""
        return self.scales[self.free]

    def full(self, place: Tensor) -> Tensor:
        """[F] coefficients of scaled free coordinates [K]."""
        coefficients = self.fixed.clone()
        coefficients[self.free] = place / self.free_scales
        return coefficients

    def scaled(self, coefficients: Tensor) -> Tensor:
        """[K] of [F]."""
        return coefficients[self.free] * self.free_scales

    def default_start(self, initial: Tensor, settings: Settings) -> Tensor:
        """[F]: what the user gave, else the objective's own; fixed values are kept.

        Raises:
            ValueError: if names, length or numbers do not fit.
        """
        start = initial.clone()
        given: Any = settings.start
        if given is not None:
            if hasattr(given, "items"):
                entries: Mapping[str, Any] = dict(given.items())
                for name, value in entries.items():
                    start[_place(name, self.names, "start")] = _finite(value, f"start[{name!r}]")
            else:
                values = torch.as_tensor(given, dtype=torch.float64).reshape(-1)
                if len(values) != len(self.names) or not bool(torch.isfinite(values).all()):
                    raise ValueError(
                        f"start has {len(values)} entries; expected {len(self.names)} finite numbers, in the order "
                        f"{', '.join(self.names)}, or a mapping by name"
                    )
                start = values.clone()
        return torch.where(self.fixed.isnan(), start, self.fixed)

    def bounds(self, settings: Settings) -> dict[str, tuple[float, float]]:
        """{name: (lower, upper)} of the free coefficients that have any.

        Raises:
            ValueError: if a name is unknown, or the lower bound is not below the upper one.
        """
        found = {}
        for name, pair in settings.bounds.items():
            place = _place(name, self.names, "bounds")
            try:
                low, high = pair
                low = -math.inf if low is None else float(low)
                high = math.inf if high is None else float(high)
            except (TypeError, ValueError):
                raise ValueError(f"bounds[{name!r}] is {pair!r}; expected (lower, upper), None for no bound") from None
            if not low < high:
                raise ValueError(f"bounds[{name!r}] is {pair!r}; the lower must be below the upper (or use fixed=)")
            if bool(self.fixed[place].isnan()):
                found[name] = (low, high)
        return found

    def box(self, settings: Settings) -> tuple[Tensor, Tensor]:
        """Scaled bounds [K] and [K]."""
        found = self.bounds(settings)
        pairs = [found.get(name, (-math.inf, math.inf)) for name in self.free_names]
        table = torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2)
        return table[:, 0] * self.free_scales, table[:, 1] * self.free_scales

    def within(self, coefficients: Tensor, place: Tensor, settings: Settings) -> Tensor:
        """[F], coefficients of a place, exactly at bounds where it is, which rounding of the scales would miss."""
        low, high = self.box(settings)
        exact = coefficients.clone()
        for name, (lower, upper) in self.bounds(settings).items():
            i, k = self.names.index(name), self.free_names.index(name)
            exact[i] = lower if place[k] <= low[k] else upper if place[k] >= high[k] else exact[i]
        return exact

    def sharp(self, penalty: Penalty | None) -> Tensor:
        """[K], slopes of absolute values of scaled coordinates."""
        return sharpness(penalty) / self.free_scales


@dataclass(frozen=True)
class Scaled:
    """The penalised log-likelihood as a function of scaled free coordinates."""

    objective: Objective
    coordinates: Coordinates
    penalty: Penalty | None

    def evaluate(self, place: Tensor) -> tuple[float, Tensor] | None:
        """Value and gradient [K], or None where they are not finite."""
        found = self.objective.evaluate(self.coordinates.full(place))
        if found is None:
            return None
        value, slope = float(found[0]), found[1][self.coordinates.free]
        density = log_density(self.penalty)
        if density is not None:
            more = derivatives(density, place / self.coordinates.free_scales)
            if more is None:
                return None
            value, slope = value + more[0], slope + more[1]
        if not math.isfinite(value) or not bool(torch.isfinite(slope).all()):
            return None
        return value, slope / self.coordinates.free_scales

    def hessian(self, place: Tensor) -> Tensor:
        """[K, K]."""
        free, scales = self.coordinates.free, self.coordinates.free_scales
        bend = self.objective.hessian(self.coordinates.full(place))[free][:, free]
        density = log_density(self.penalty)
        if density is not None:
            bend = bend + curvature(density, place / scales)
        return bend / scales[:, None] / scales


def _place(name: Any, names: Sequence[str], what: str) -> int:
    if name not in names:
        raise ValueError(f"{what} names {name!r}{did_you_mean(str(name), names)}; the features are {', '.join(names)}")
    return list(names).index(name)


def _finite(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{what} is {value!r}; expected a finite number")
    return number
