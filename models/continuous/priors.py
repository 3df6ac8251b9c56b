"""Action priors on continuous actions: a linear-Gaussian one, and the flat one, which is no distribution."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from cai.models.common.checks import as_count, float_tensor
from cai.models.common.names import KnownNames
from cai.models.common.storage import storable
from cai.models.continuous.matrices import check_covariance, read_matrix

__all__ = ["Flat", "LinearNormal"]


@storable("linear-normal")
@dataclass(frozen=True, eq=False)
class LinearNormal(KnownNames):
    """The action prior N(a; K0 s + k0, L).

    Args:
        K0: [m, n], or [..., T, m, n] where it changes over time; zeros unless given.
        k0: [m], or [..., T, m]; zeros unless given.
        L: [m, m], or [..., T, m, m], the covariance; it needs an inverse. In squared units of the action.

    Raises:
        TypeError, ValueError: if L is missing, no covariance, or singular; the model checks how all three fit it.
    """

    K0: Any = None
    k0: Any = None
    L: Any = None

    def __post_init__(self) -> None:
        if self.L is None:
            raise ValueError("LinearNormal has no covariance L; give L = [m, m], or Flat() for no prior at all")
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None:
                object.__setattr__(self, entry.name, float_tensor(value, entry.name)[0])

    @property
    def dim(self) -> int | None:
        """m, the number of action coordinates, as L has it."""
        return int(self.L.shape[-1]) if self.L.dim() else None

    def fitted(self, n: int, m: int, horizon: int | float) -> LinearNormal:
        """The same prior with nothing left out, checked against a model of n states, m actions and T steps."""
        sizes = {"n": n, "m": m}
        L, rounding = read_matrix(self.L, "the action prior's L", "m m", sizes, horizon)
        L = check_covariance(L, "the action prior's L", rounding, horizon, proper=True)
        K0 = L.new_zeros(m, n) if self.K0 is None else self.K0
        k0 = L.new_zeros(m) if self.k0 is None else self.k0
        K0, _ = read_matrix(K0, "the action prior's K0", "m n", sizes, horizon)
        k0, _ = read_matrix(k0, "the action prior's k0", "m", sizes, horizon)
        return LinearNormal(K0, k0, L)

    def __repr__(self) -> str:
        return f"LinearNormal(m={self.dim})"


@storable("flat")
@dataclass(frozen=True)
class Flat(KnownNames):
    """No action prior: Lebesgue measure da in its place, which favours no action and has no total mass.

    Every evidence is then the log of an integral over actions and depends on their unit, so it compares with no
    evidence under a proper prior. A model with it can be simulated, but it is no Pyro program.

    Args:
        dim: m, the number of action coordinates. A `LinearGaussianModel` reads it off B; a `ContinuousModel` takes 1
            unless given, and refuses that where its dynamics would take more.
    """

    dim: int | None = None

    def __post_init__(self) -> None:
        if self.dim is not None:
            object.__setattr__(self, "dim", as_count(self.dim, "dim"))


def prior_parts(prior: Any) -> dict[str, tuple[Tensor, int]]:
    """The tensors of a prior by name, each with the number of its axes that are not time or batch."""
    return {"K0": (prior.K0, 2), "k0": (prior.k0, 1), "L": (prior.L, 2)} if isinstance(prior, LinearNormal) else {}
