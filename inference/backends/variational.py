"""Structured variational inference with the dynamics held fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cai.inference.backends.structured import StructuredBackend
from cai.inference.core.status import Target

__all__ = ["StructuredVariational"]


@dataclass(frozen=True)
class StructuredVariational(StructuredBackend):
    """The best policy under the true dynamics: q(s_1) and q(s_{t+1} | s_t, a_t) are the program's own.

    Levine 2018, sections 3.1 and 3.2: maximises E_q[sum_t r_t] / alpha - KL(policy || prior), equation (19). The guide
    is the program with its action sites re-distributed by a policy that sees s_t and t; the closed form is the soft
    Bellman backup of equations (15) and (16).
    """

    name: ClassVar[str] = "variational"
    target: ClassVar[Target] = Target.FIXED_DYNAMICS
    free_dynamics: ClassVar[bool] = False
