"""Hard control: the limit of the soft backups as the temperature goes to 0."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from cai.inference.core.memory import Need, horizon_need
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target
from cai.inference.kernels.backups import fixed_backup, hard_choice
from cai.inference.tabular.dynamic_programming import check_settling, closed_form_posterior, require_model
from cai.inference.tabular.recursion import Recursion, tilted_recursion
from cai.inference.tabular.stationary.iteration import ConvergenceCriterion

__all__ = ["HARD", "ValueIteration"]

HARD = Recursion(fixed_backup, hard_choice, eta=0.0)
SUCCESSORS = {"expected": 0.0, "best": math.inf, "worst": -math.inf}


@dataclass(frozen=True)
class ValueIteration:
    """Bellman's optimal control: V(s) = max_a Q(s, a) over the actions of positive prior.

        expected   Q(s, a) = sum_s' p(s'|s,a) (r + gamma V(s'))
        best       Q(s, a) = max_s' (r + max(V(s'), 0 if gamma < 1))      over the outcomes that are possible
        worst      Q(s, a) = min_s' (r + min(V(s'), 0 if gamma < 1))

    Target `other`: the first is the limit alpha -> 0 of the fixed-dynamics target, the second that of the exact target,
    which in a cold world believes in the best of all possible outcomes (Levine 2018, sections 2.3 and 2.4 for the soft
    forms); the third that of adversarial dynamics. Equally good actions, up to rounding, share by their prior, and
    so do outcomes. The reward's temperature plays no part but in the bound, which is what this policy attains.

    Args:
        successors: how the values of the next states are weighed.
        tolerance: over an infinite horizon, the largest error of a value, by a bound that holds, relative to the
            largest value or reward that the start leads to; where rewards have one sign, relative to each value itself.
        max_iterations: over an infinite horizon, the most backups and policies.
        accelerate: over an infinite horizon, whether values are solved for by policy iteration; else by backups alone.
    """

    successors: Literal["expected", "best", "worst"] = "expected"
    tolerance: float = 1e-10
    max_iterations: int = 1_000_000
    accelerate: bool = True

    name: ClassVar[str] = "value-iteration"
    target: ClassVar[Target] = Target.OTHER
    accepts: ClassVar[str] = "a TrajectoryModel, any horizon"
    averages: ClassVar[bool] = True
    cost: ClassVar[str] = "T S A K time, T S A memory"

    def __post_init__(self) -> None:
        if self.successors not in SUCCESSORS:
            raise ValueError(f"successors is {self.successors!r}; expected one of {', '.join(SUCCESSORS)}")
        check_settling(self.tolerance, self.max_iterations)

    def supports(self, model: Any) -> None:
        """Raises ValueError unless the model is a `TrajectoryModel`."""
        require_model(model, self.name, "'variational' (soft, with fixed dynamics)")

    def memory(self, model: Any) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        return horizon_need(model, rows=2, tables=4, stepwise=True)

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers the model; nothing here is random."""
        self.supports(model)
        recursion = (
            HARD if self.successors == "expected" else tilted_recursion(SUCCESSORS[self.successors], hard_choice)
        )
        settling = ConvergenceCriterion(self.tolerance, self.max_iterations, self.accelerate)
        return closed_form_posterior(model, recursion, backend=self.name, target=self.target, settling=settling)
