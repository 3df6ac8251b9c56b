"""A backend that does nothing but follow the action prior: the least that a backend has to be."""

from dataclasses import dataclass
from typing import ClassVar

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.tabular.believed_dynamics import FixedDynamics
from cai.inference.tabular.dynamic_programming import require_finite
from cai.inference.tabular.policy_evaluation import policy_backward
from cai.inference.tabular.posterior import tabular_posterior
from cai.models.common.numerics import expectation


@dataclass(frozen=True)
class FollowThePrior:
    """The action prior in the true world; its bound is what is expected along it."""

    name: ClassVar[str] = "follow-the-prior"
    target: ClassVar[Target] = Target.OTHER
    accepts: ClassVar[str] = "a TrajectoryModel with a finite horizon"
    cost: ClassVar[str] = "T S A K time"

    def supports(self, model) -> None:
        """Refuses what is no model with a finite horizon."""
        require_finite(model, self.name, "'variational'")

    def run(self, model, *, seed: int = 0) -> Posterior:
        """The answer."""
        policy = model.action_prior.expand(model.steps, -1, -1)
        dynamics = FixedDynamics(model)
        values, q_values = policy_backward(model, policy, dynamics)
        return tabular_posterior(
            model,
            backend=self.name,
            target=self.target,
            status=Status.SUCCESS,
            log_evidence=None,
            elbo=expectation(model.mdp.initial, values[0]),
            values=values,
            q_values=q_values,
            policy=policy,
            initial=model.mdp.initial,
            dynamics=dynamics,
        )
