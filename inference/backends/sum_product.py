"""Exact inference by sum-product messages, of tables and of quadratic functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from cai.inference.core.backend import require_model
from cai.inference.core.memory import Need, soft_need
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target
from cai.inference.gaussian.solve import gaussian_need, gaussian_posterior, require_answerable
from cai.inference.tabular.dynamic_programming import check_soft_options, closed_form_posterior
from cai.inference.tabular.recursion import EXACT
from cai.inference.tabular.stationary.iteration import ConvergenceCriterion
from cai.models.continuous.linear_gaussian import LinearGaussianModel
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["SumProduct"]


@dataclass(frozen=True)
class SumProduct:
    """The posterior over trajectories given optimality, by backward messages (Levine 2018, sections 2.3 and 2.4).

    Policy, dynamics and start are all conditioned on O_{1:T} = 1: the answer believes that the world will be kind
    (equation 7). `Posterior.luck` says how much it believes so. Messages are vectors over the states of a
    `TrajectoryModel`, and quadratic functions on a `LinearGaussianModel`, to which the options do not apply: it takes
    finite horizons without a discount, and its status is INFINITE where a message has no finite value.

    Args:
        tolerance: over an infinite horizon, the largest error of a value, by a bound that holds, relative to the
            largest value or reward that the start leads to; where rewards have one sign, relative to each value itself.
        max_iterations: over an infinite horizon, the most backups and policies.
        accelerate: over an infinite horizon, whether values are solved for by policy iteration (Newton's method, which
            takes one linear system where the problem is one); else backups run until the same bound holds.
        keep: what of a finite horizon stays in memory: "values", T S numbers (q-values, policies and marginals are
            computed when they are first looked at, and then held); or "evidence", 18 S (where gradients are asked for,
            T S up to 64 MiB; beyond, 2 sqrt(T) S, and every value is computed twice), and what is looked at is
            computed again.
        kernel: how sums over outcomes are computed, see `cai.inference.kernels.choose`; "auto" chooses.
    """

    tolerance: float = 1e-10
    max_iterations: int = 1_000_000
    accelerate: bool = True
    keep: Literal["values", "evidence"] = "values"
    kernel: Literal["auto", "native", "torch"] = "auto"

    name: ClassVar[str] = "exact"
    target: ClassVar[Target] = Target.EXACT
    answers_in_place: ClassVar[bool] = True  # on the device and in the dtype of a moved LinearGaussianModel
    soft_recursion: ClassVar[str | None] = "exact"
    accepts: ClassVar[str] = "a TrajectoryModel, any horizon; a LinearGaussianModel, finite"
    averages: ClassVar[bool] = True
    cost: ClassVar[str] = "T S A K time, T S A memory"

    def __post_init__(self) -> None:
        check_soft_options(self.tolerance, self.max_iterations, self.keep, self.kernel)

    def supports(self, model: Any) -> None:
        """Raises ValueError unless the model is a `TrajectoryModel`, or linear-Gaussian with an answer."""
        if isinstance(model, LinearGaussianModel):
            return require_answerable(model, self.name, 1.0)
        if not isinstance(model, TrajectoryModel):
            require_model(model, self.name, "'enumeration'")

    def memory(self, model: Any) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        return gaussian_need(model) if isinstance(model, LinearGaussianModel) else soft_need(model, self.keep)

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers the model; nothing here is random."""
        self.supports(model)
        if isinstance(model, LinearGaussianModel):
            return gaussian_posterior(model, 1.0, backend=self.name, target=self.target)
        settling = ConvergenceCriterion(self.tolerance, self.max_iterations, self.accelerate)
        return closed_form_posterior(
            model,
            EXACT,
            backend=self.name,
            target=self.target,
            settling=settling,
            keep=self.keep,
            kernel=self.kernel,
        )
