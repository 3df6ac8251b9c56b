"""A dial from optimism to caution: dynamics that are believed to be kind, true or hostile."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, ClassVar

from cai.inference.core.memory import Need, horizon_need
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target
from cai.inference.gaussian.solve import gaussian_need, gaussian_posterior, require_answerable
from cai.inference.tabular.dynamic_programming import check_settling, closed_form_posterior, require_model
from cai.inference.tabular.recursion import tilted_recursion
from cai.inference.tabular.stationary.iteration import ConvergenceCriterion
from cai.models.continuous.linear_gaussian import LinearGaussianModel

__all__ = ["RiskSensitive"]


@dataclass(frozen=True)
class RiskSensitive:
    """Soft control whose backup over outcomes is the entropic certainty equivalent at eta.

        Q(s, a) = (alpha / eta) log E_{s'}[exp(eta (r + V(s')) / alpha)]
        V(s)    = alpha log sum_a p(a|s) exp(Q(s, a) / alpha)

    eta = 1 is the exact posterior (Levine 2018, equation 7), eta -> 0 the structured variational answer with the
    dynamics fixed (equation 15), and eta < 0 plans for dynamics that are unkind, as the closing section there hints at;
    the criterion is that of Howard and Matheson (1972), Risk-sensitive Markov decision processes. In its dual form

        V(start) / alpha = opt over q(s_1), q(s'|s,a) of  E_q[sum_t r_t] / alpha - KL(policy) - luck / eta,

    a maximum over dynamics for eta > 0 and a minimum for eta < 0, so the answer holds the lucky or adversarial dynamics
    that it believes in, their `luck` is what they cost in nats, and values never fall as eta grows. The discount's fall
    is an outcome like any other. `details["start"]` is V(start) / alpha; `elbo` is the bound that q attains, which is
    smaller unless eta is 0 or 1.

    On a `LinearGaussianModel` messages are quadratic functions, eta is finite, and caution can break down: below some
    eta < 0 the worst outcomes are worth -inf. The status then is INFINITE, and details["eta_crit"] holds that eta.

    Target `other`: `exact` at eta = 1, `fixed-dynamics` at eta = 0, the best and the worst successor at eta = +-inf.

    Args:
        eta: any number; +-inf takes the best or the worst possible outcome.
        tolerance: over an infinite horizon, the largest error of a value, by a bound that holds, relative to the
            largest value or reward that the start leads to; where rewards have one sign, relative to each value itself.
        max_iterations: over an infinite horizon, the most backups and policies.
        accelerate: over an infinite horizon, whether values are solved for by policy iteration (eta >= 0), or backups
            shortened by Newton's steps (else); not at all if false.

    Over an infinite horizon values may grow without end for any eta but 0 in a discounted world: the status says so.
    """

    eta: float = -1.0
    tolerance: float = 1e-10
    max_iterations: int = 1_000_000
    accelerate: bool = True

    name: ClassVar[str] = "risk"
    target: ClassVar[Target] = Target.OTHER
    accepts: ClassVar[str] = "a TrajectoryModel, any horizon; a LinearGaussianModel, finite (any at eta = 0)"
    averages: ClassVar[bool] = True
    answers_in_place: ClassVar[bool] = True  # on the device and in the dtype of a moved LinearGaussianModel
    divides_return: ClassVar[bool] = True  # into a bound, a divergence and luck, however small it is
    cost: ClassVar[str] = "T S A K time, T S A memory"

    def __post_init__(self) -> None:
        fits = isinstance(self.eta, numbers.Real) and not isinstance(self.eta, bool)
        try:
            fits = fits and not math.isnan(float(self.eta))
        except OverflowError:
            fits = False
        if not fits:
            raise ValueError(
                f"eta is {self.eta!r}; give a number: 1 is the exact posterior, 0 the true dynamics, below 0 caution"
            )
        check_settling(self.tolerance, self.max_iterations)

    def supports(self, model: Any) -> None:
        """Raises ValueError unless the model is a `TrajectoryModel`, or linear-Gaussian with an answer at eta."""
        if isinstance(model, LinearGaussianModel):
            return require_answerable(model, self.name, float(self.eta))
        require_model(model, self.name, "'enumeration' (eta = 1) or 'variational' (eta = 0)")

    def memory(self, model: Any) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        if isinstance(model, LinearGaussianModel):
            return gaussian_need(model)
        return horizon_need(model, rows=2, tables=4, stepwise=True)

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers the model; nothing here is random."""
        self.supports(model)
        if isinstance(model, LinearGaussianModel):
            eta = float(self.eta)
            return gaussian_posterior(model, eta, backend=self.name, target=self.target, details={"eta": eta})
        return closed_form_posterior(
            model,
            tilted_recursion(float(self.eta)),
            backend=self.name,
            target=self.target,
            settling=ConvergenceCriterion(self.tolerance, self.max_iterations, self.accelerate),
            details={"eta": float(self.eta)},
        )
