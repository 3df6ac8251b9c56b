"""Structured variational inference with the dynamics held fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target
from cai.inference.programs.solve import check_options, check_support, guide_learner, solve
from cai.inference.programs.svi import GuideLearner
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["StructuredVariational"]


@dataclass(frozen=True)
class StructuredVariational:
    """The best policy under the true dynamics: q(s_1) and q(s_{t+1} | s_t, a_t) are the program's own.

    Levine 2018, sections 3.1 and 3.2: maximises E_q[sum_t r_t] / alpha - KL(policy || prior), equation (19). The guide
    is the program itself with its action sites re-distributed; the closed form is the soft Bellman backup of
    equations (15) and (16).

    Args:
        solver: "closed-form", dynamic programming on the tables of a `TrajectoryModel`; "svi", Pyro's SVI on the
            enumerated bound, for any trajectory program of discrete sites; "auto" takes the first where there are
            tables and else the second.
        max_steps: the most gradient steps of SVI.
        learning_rate: of SVI along its natural gradient, in (0, 1]; 1 solves a chain of T steps in about T.
        tolerance: SVI stops when no entry of the natural gradient exceeds it, in nats, or when the bound has grown by
            less than it, relative to its size once that exceeds 1 nat, over (10 + 2 T) / learning_rate steps; over an
            infinite horizon the backups stop when the values are known to this, relative in the same way.
        max_backups: over an infinite horizon, the most backups.
        accelerate: over an infinite horizon, whether Newton steps (soft policy iteration) may shorten what has not
            settled after 200 backups; the criterion stays that of plain backups.
        keep: of the closed form, as in `SumProduct`.
        kernel: likewise.
    """

    solver: Literal["auto", "closed-form", "svi"] = "auto"
    max_steps: int = 1000
    learning_rate: float = 1.0
    tolerance: float = 1e-9
    max_backups: int = 1_000_000
    accelerate: bool = True
    keep: Literal["values", "evidence"] = "values"
    kernel: Literal["auto", "native", "torch"] = "auto"

    name: ClassVar[str] = "variational"
    target: ClassVar[Target] = Target.FIXED_DYNAMICS
    accepts: ClassVar[str] = "a TrajectoryModel, any horizon; or any program of discrete sites (svi)"
    cost: ClassVar[str] = "T S A K time (closed form); T S A S time and memory a step (svi)"

    @property
    def soft_recursion(self) -> str | None:
        """Which soft recursion it is in closed form."""
        return None if self.solver == "svi" else "fixed"

    def __post_init__(self) -> None:
        check_options(self)

    def supports(self, model: Any) -> None:
        """Raises ValueError if the solver cannot answer this model, and says which can."""
        check_support(model, self.name, self.solver)

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers a model or a program; `seed` is for programs that draw while they are enumerated."""
        return solve(self, model, seed=seed, free_dynamics=False)

    def learner(self, model: Any) -> GuideLearner | None:
        """SVI, where the model is not answered in closed form."""
        if isinstance(model, TrajectoryModel) and self.solver != "svi":
            return None
        return guide_learner(self, model, free_dynamics=False)
