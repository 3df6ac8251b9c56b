"""The optimistic posterior: the structured guide with its dynamics and start freed as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target
from cai.inference.programs.solve import check_options, check_support, guide_learner, solve
from cai.inference.programs.svi import GuideLearner
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Optimistic"]


@dataclass(frozen=True)
class Optimistic:
    """The posterior as a plan: a policy, and the dynamics and start that it believes in.

    The same derived guide as `StructuredVariational`, with every other latent free too (Levine 2018, section 2.4,
    equations 9 and 10: inference may bend the dynamics, and pays for it by KL). What it pays is `Posterior.luck`;
    at the optimum its bound is the log evidence, and its policy that of `SumProduct`.

    Args:
        solver: "closed-form", the conditionals read off the messages of a `TrajectoryModel`; "svi", Pyro's SVI on the
            enumerated bound, for any trajectory program of discrete sites; "auto" takes the first where there are
            tables and else the second.
        max_steps: as in `StructuredVariational`, like what follows.
        learning_rate: see there.
        tolerance: see there.
        max_backups: see there.
        accelerate: see there.

    For a program with further latents the bound closes on the evidence if s_t screens off the past and every further
    latent of a step is drawn after its action. Else it stays below: the policy sees s_t alone, and a freed site only
    what was drawn since the last state.
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

    name: ClassVar[str] = "optimistic"
    target: ClassVar[Target] = Target.EXACT
    accepts: ClassVar[str] = "a TrajectoryModel, any horizon; or any program of discrete sites (svi)"
    cost: ClassVar[str] = "T S A K time (closed form); T S A S time and memory a step (svi)"

    @property
    def soft_recursion(self) -> str | None:
        """Which soft recursion it is in closed form."""
        return None if self.solver == "svi" else "exact"

    def __post_init__(self) -> None:
        check_options(self)

    def supports(self, model: Any) -> None:
        """Raises ValueError if the solver cannot answer this model, and says which can."""
        check_support(model, self.name, self.solver)

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers a model or a program; `seed` is for programs that draw while they are enumerated."""
        return solve(self, model, seed=seed, free_dynamics=True)

    def learner(self, model: Any) -> GuideLearner | None:
        """SVI, where the model is not answered in closed form."""
        if isinstance(model, TrajectoryModel) and self.solver != "svi":
            return None
        return guide_learner(self, model, free_dynamics=True)
