"""Quadratic rewards, as costs: r = -(s'Qs / 2 + s'Na + a'Ra / 2 + q's + r'a + const)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.models.common.checks import float_tensor
from cai.models.common.names import KnownNames
from cai.models.common.storage import storable
from cai.models.continuous.matrices import read_matrix, symmetric

__all__ = ["QuadraticReward", "quadratic_form"]

AXES = {"Q": "n n", "R": "m m", "N": "n m", "q": "n", "r": "m", "const": ""}
FINAL = {"Qf": "n n", "qf": "n", "constf": ""}


@storable("quadratic-reward")
@dataclass(frozen=True, eq=False)
class QuadraticReward(KnownNames):
    """A reward that is a quadratic function of state and action, given by its costs, in reward units.

        r_t(s, a) = -1/2 s'Qs - s'Na - 1/2 a'Ra - q's - r'a - const,      final: -1/2 s'Qf s - qf's - constf on s_{T+1}

    Whatever is left out is zero. Each may change over time and from member to member of a batch: its last axes are
    those below, the axis before them is time (T or 1), and those before that are batch. The final reward has no time
    axis. Of Q, R and Qf the symmetric part counts. They need not be positive: whether an answer exists is for the
    backend to find out.

    Args:
        Q: [n, n], cost of the state.
        R: [m, m], cost of the action.
        N: [n, m], cost of both together.
        q: [n].
        r: [m].
        const: a number, [T] or [..., T].
        final: (Qf [..., n, n], qf [..., n], constf [...]), or the first one or two of them, or Qf alone.

    Raises:
        TypeError, ValueError: if an entry holds no numbers; the model checks the shapes.
    """

    Q: Any = None
    R: Any = None
    N: Any = None
    q: Any = None
    r: Any = None
    const: Any = None
    final: Any = None

    def __post_init__(self) -> None:
        for name in AXES:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _numbers(value, name))
        if self.final is None:
            return
        parts = self.final if isinstance(self.final, tuple) else (self.final,)
        if not 1 <= len(parts) <= len(FINAL):
            raise ValueError(f"final has {len(parts)} parts; expected (Qf, qf, constf)")
        read = [None if part is None else _numbers(part, name) for part, name in zip(parts, FINAL, strict=False)]
        object.__setattr__(self, "final", (*read, *[None] * (len(FINAL) - len(read))))

    @property
    def has_final(self) -> bool:
        """Whether there is a final reward: a part of it that is not zero, or has a history."""
        parts = [part for part in self.final or () if part is not None]
        return any(bool(part.detach().any()) or part.requires_grad for part in parts)

    def fitted(self, n: int, m: int, horizon: int | float) -> QuadraticReward:
        """The same reward with nothing left out, checked against a model of n states, m actions and T steps.

        Raises:
            ValueError: naming the matrix whose shape does not fit, or that holds NaN.
        """
        sizes = {"n": n, "m": m}
        found = {name: _fitted(getattr(self, name), name, axes, sizes, horizon) for name, axes in AXES.items()}
        given = self.final or (None,) * len(FINAL)
        final = tuple(
            _fitted(part, f"the final reward's {name}", axes, sizes, None)
            for part, (name, axes) in zip(given, FINAL.items(), strict=True)
        )
        return QuadraticReward(**found, final=final)

    def __repr__(self) -> str:
        given = [f"{name} {list(getattr(self, name).shape)}" for name in AXES if getattr(self, name) is not None]
        given += [] if self.final is None else ["final"]
        return f"QuadraticReward({', '.join(given)})"


def _numbers(value: Any, name: str) -> Tensor:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float_tensor(torch.tensor(value, dtype=torch.float64) if number else value, name)[0]


def _fitted(
    value: Tensor | None, name: str, axes: str, sizes: Mapping[str, int], horizon: int | float | None
) -> Tensor:
    if value is None:
        return torch.zeros([sizes[letter] for letter in axes.split()], dtype=torch.float64)
    tensor, _ = read_matrix(value, name, axes, sizes, horizon)
    return symmetric(tensor) if axes in ("n n", "m m") else tensor


def quadratic_form(left: Tensor, matrix: Tensor, right: Tensor) -> Tensor:
    """Left' matrix right along the last axes: [..., n], [..., n, m], [..., m] give [...]."""
    return ((left[..., None, :] @ matrix)[..., 0, :] * right).sum(-1)
