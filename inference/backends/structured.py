"""What the backends with a structured guide share: their options, and which solver answers a model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from cai.inference.core.backend import refuse_continuous
from cai.inference.core.driver import drive
from cai.inference.core.memory import Need, enumerated_need, soft_need
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target
from cai.inference.gaussian.solve import gaussian_need, gaussian_posterior, require_answerable
from cai.inference.programs.answers import GuideAnswer
from cai.inference.programs.requirements import check_enumerable, check_program, table_bytes
from cai.inference.programs.svi import FitOptions, GuideLearner
from cai.inference.tabular.dynamic_programming import check_keep, closed_form_posterior
from cai.inference.tabular.recursion import EXACT, FIXED
from cai.inference.tabular.stationary.iteration import ConvergenceCriterion
from cai.models.continuous.linear_gaussian import LinearGaussianModel
from cai.models.continuous.world import World
from cai.models.programs.inspect import ProgramInfo, inspect_program
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["StructuredBackend"]

SOLVERS = ("auto", "closed-form", "svi")


@dataclass(frozen=True)
class StructuredBackend:
    """A guide that is the program itself, some of its sites re-distributed; the options are those of its two solvers.

    Args:
        solver: "closed-form", dynamic programming on the tables of a `TrajectoryModel`; "svi", gradient steps on the
            enumerated bound, for any trajectory program of discrete sites; "auto" takes the first where there are
            tables and else the second.
        max_iterations: the most gradient steps (1000 unless given), or over an infinite horizon backups (a million).
        learning_rate: of the gradient steps along the natural gradient, in (0, 1]; 1 solves a chain of T steps in
            about T.
        tolerance: in nats. Gradient steps stop when no entry of the natural gradient exceeds it, or when the bound has
            grown by less than it, relative to its size once that exceeds 1 nat, over (10 + 2 T) / learning_rate steps;
            over an infinite horizon the largest error of a value, relative to the largest value or reward that the
            start leads to (where rewards have one sign, to the value itself).
        accelerate: over an infinite horizon, whether values are solved for by policy iteration; else by backups alone.
        keep: of the closed form: "values", what is looked at is computed and then held; "evidence", nothing else is.
        kernel: of the closed form, how its sums are formed.
    """

    solver: Literal["auto", "closed-form", "svi"] = "auto"
    max_iterations: int | None = None
    learning_rate: float = 1.0
    tolerance: float = 1e-9
    accelerate: bool = True
    keep: Literal["values", "evidence"] = "values"
    kernel: Literal["auto", "native", "torch"] = "auto"

    name: ClassVar[str]
    target: ClassVar[Target]
    free_dynamics: ClassVar[bool]
    answers_in_place: ClassVar[bool] = True  # on the device and in the dtype of a moved LinearGaussianModel
    accepts: ClassVar[str] = (
        "a TrajectoryModel or LinearGaussianModel, any horizon; any program of discrete sites (svi)"
    )
    averages: ClassVar[bool] = True
    cost: ClassVar[str] = "T S A K time (closed form); T S A S time and memory a step (svi)"

    def __init_subclass__(cls) -> None:
        options = (StructuredBackend.__doc__ or "").partition("Args:")
        cls.__doc__ = f"{cls.__doc__}\n    {options[1]}{options[2]}"  # the options stand in every help text

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(f"solver is {self.solver!r}; expected one of {', '.join(SOLVERS)}")
        if self.max_iterations is not None and self.max_iterations < 1:
            raise ValueError(f"max_iterations is {self.max_iterations}; it must be >= 1")
        if not 0 < self.learning_rate <= 1:
            raise ValueError(f"learning_rate is {self.learning_rate}; along the natural gradient it lies in (0, 1]")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance is {self.tolerance}; it must be > 0")
        if self.tolerance == math.inf:
            raise ValueError("tolerance is inf, with which no answer is wrong; give a finite number")
        check_keep(self.keep, self.kernel)

    @property
    def _eta(self) -> float:
        """How outcomes are tilted by the messages of a linear-Gaussian model."""
        return 1.0 if self.free_dynamics else 0.0

    @property
    def soft_recursion(self) -> str | None:
        """The soft recursion that its closed form is; None where the solver is another."""
        return None if self.solver == "svi" else "exact" if self.free_dynamics else "fixed"

    def supports(self, model: Any) -> None:
        """Raises ValueError if the solver cannot answer this model, and says which can."""
        if isinstance(model, TrajectoryModel):
            if self.solver == "svi":
                check_enumerable(model, self.name, "solver='closed-form'")
            return
        if isinstance(model, LinearGaussianModel):
            if self.solver == "svi":
                raise ValueError(f"backend {self.name!r}: solver='svi' is for discrete sites; leave it out")
            return require_answerable(model, self.name, self._eta)
        if isinstance(model, World):
            refuse_continuous(model, self.name)
        if self.solver == "closed-form":
            raise ValueError(
                f"backend {self.name!r} has a closed form only for a TrajectoryModel, whose tables it reads; "
                "for a program use solver='svi'"
            )
        self._outside(model)

    def _outside(self, program: Any) -> ProgramInfo:
        """What gradient steps work on; refuses what they cannot."""
        info = inspect_program(program)
        check_program(info, self.name)
        return info

    def memory(self, model: Any) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        if isinstance(model, TrajectoryModel):
            if self.solver != "svi":
                return soft_need(model, self.keep)
            return enumerated_need(model.steps, model.dense_bytes, "use solver='closed-form'")
        if isinstance(model, LinearGaussianModel):
            return gaussian_need(model)
        info = inspect_program(model)
        return enumerated_need(info.horizon, table_bytes(info), "give the program fewer steps, or ask 'smc'")

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers a model or a program; `seed` is for programs that draw while they are enumerated."""
        if isinstance(model, LinearGaussianModel):
            self.supports(model)
            return gaussian_posterior(model, self._eta, backend=self.name, target=self.target)
        learner = self.learner(model)
        if learner is not None:
            return drive(learner, model, seed=seed)
        return closed_form_posterior(
            model,
            EXACT if self.free_dynamics else FIXED,
            backend=self.name,
            target=self.target,
            settling=ConvergenceCriterion(self.tolerance, self.max_iterations or 1_000_000, self.accelerate),
            keep=self.keep,
            kernel=self.kernel,
        )

    def learner(self, model: Any) -> GuideLearner | None:
        """The iteration by gradient steps; None where the model is answered in closed form."""
        if isinstance(model, (TrajectoryModel, World)) or self.solver == "closed-form":
            self.supports(model)
            if self.solver != "svi":
                return None
        options = FitOptions(self.max_iterations or 1000, self.learning_rate, self.tolerance)
        answer = GuideAnswer(self.name, self.target)
        return GuideLearner(self._outside(model), self.free_dynamics, options, answer)
