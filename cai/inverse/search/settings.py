"""What a user may choose about a fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cai.inverse.search.penalties import Penalty, log_density

__all__ = ["COVARIANCES", "Settings"]

COVARIANCES = ("hessian", "sandwich", "cluster")
METHODS = ("bfgs", "newton")


@dataclass(frozen=True)
class Settings:
    """Choices about a fit, checked but for names, which only the objective knows.

    Args:
        start: {name: value} or [F], where the search begins; what is not named begins at its default.
        fixed: {name: value}, coefficients that are not fitted.
        bounds: {name: (lower, upper)}; None or an infinite number where there is none.
        penalty: `L2(s)`, `L1(s)`, a log density of the free coefficients, or None.
        covariance: "hessian", "sandwich" or "cluster" (by persons); None takes the objective's default.
        method: "bfgs" or "newton"; None takes the objective's default.
        tolerance: of g'(-H)^-1 g, in nats.
        max_iterations: steps of the search at most.
        seed: of whatever is drawn.
        progress: whether a bar is shown.
        throw: whether anything but success raises `FitError`.
    """

    start: Any = None
    fixed: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    penalty: Penalty | None = None
    covariance: str | None = None
    method: str | None = None
    tolerance: float = 1e-12
    max_iterations: int = 500
    seed: int = 0
    progress: bool = False
    throw: bool = True

    def __post_init__(self) -> None:
        for name in ("fixed", "bounds"):
            given = getattr(self, name)
            object.__setattr__(self, name, {} if given is None else dict(given))
        if self.covariance not in (None, *COVARIANCES):
            raise ValueError(f"covariance is {self.covariance!r}; expected 'hessian', 'sandwich' or 'cluster'")
        if self.method not in (None, *METHODS):
            raise ValueError(f"method is {self.method!r}; expected 'bfgs' or 'newton'")
        if isinstance(self.tolerance, bool) or not 0 < self.tolerance < math.inf:
            raise ValueError(f"tolerance is {self.tolerance!r}; expected a number of nats above 0")
        if isinstance(self.max_iterations, bool) or int(self.max_iterations) != self.max_iterations:
            raise ValueError(f"max_iterations is {self.max_iterations!r}; expected a whole number")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations is {self.max_iterations}; expected 1 or more")
        log_density(self.penalty)  # raises on what is no penalty
