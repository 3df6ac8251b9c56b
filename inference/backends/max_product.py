"""The most probable trajectory given optimality, by max-product messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cai.inference.core.memory import Need, horizon_need
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target
from cai.inference.gaussian.solve import gaussian_need, gaussian_posterior, mean_trajectory, require_answerable
from cai.inference.tabular.dynamic_programming import require_finite
from cai.inference.tabular.methods.max_product import max_product_posterior
from cai.models.continuous.linear_gaussian import LinearGaussianModel

__all__ = ["MaxProduct"]


@dataclass(frozen=True)
class MaxProduct:
    """The trajectory that maximises p(tau | O_{1:T} = 1), as a plan (Levine 2018, section 2.2, equation 4).

        q(s, a) = max_s' [log sum_{k: s'_k = s'} p_k e^{rho_k} + v(s')],      v(s) = max_a [log p(a|s) + q(s, a)]

    in nats; the fall of a discount is one more outcome, worth 0. The trajectory ends where a terminal or absorbing
    state is reached: what is done there is not part of it. Outcomes that share their next state count together.

    The answer q is that one trajectory: its start, its actions and its successors are certain, so `elbo` is
    log p(tau*, O), and `luck` -log p of everything that the world was asked to do. Each row of `action_probs` is the
    first action of the best trajectory *from that state on*, so `extract_policy(posterior)` is the closed loop that
    plans anew at every step, and `extract_policy(posterior, "plan")` the open loop, which plays the planned actions
    whatever happens. In a deterministic world both reach what they plan. `values` are alpha times v.

    The most probable trajectory of a `LinearGaussianModel` is the mean of its exact posterior, and the best trajectory
    from any state on that of the same gains: the policy is K s + k without noise. A certainty among densities has no
    bound, so only the return of the trajectory is known.

    Target `other`: the mode of the exact posterior. Equals are broken by the first action and the first successor.
    """

    name: ClassVar[str] = "max-product"
    target: ClassVar[Target] = Target.OTHER
    answers_in_place: ClassVar[bool] = True  # on the device and in the dtype of a moved LinearGaussianModel
    accepts: ClassVar[str] = "a TrajectoryModel or a LinearGaussianModel with a finite horizon"
    cost: ClassVar[str] = "T S A K time, T S A memory"

    def supports(self, model: Any) -> None:
        """Raises ValueError unless the model is a `TrajectoryModel`, or linear-Gaussian, with a finite horizon."""
        if isinstance(model, LinearGaussianModel):
            return require_answerable(model, self.name, 1.0)
        require_finite(model, self.name, "'value-iteration' with successors='best'")

    def memory(self, model: Any) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        if isinstance(model, LinearGaussianModel):
            return gaussian_need(model)
        return horizon_need(model, rows=2, tables=4, stepwise=True)

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers the model; nothing here is random."""
        self.supports(model)
        if isinstance(model, LinearGaussianModel):
            exact = gaussian_posterior(model, 1.0, backend=self.name, target=self.target)
            return mean_trajectory(exact, backend=self.name) if exact.status.ok else exact
        return max_product_posterior(model, backend=self.name, target=self.target)
