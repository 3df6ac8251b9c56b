"""A backend that does nothing but follow the action prior: the least that a backend has to be."""

from dataclasses import dataclass
from typing import ClassVar

from cai.inference.extend import Posterior, Target, policy_posterior, require_model


@dataclass(frozen=True)
class FollowThePrior:
    """The action prior in the true world; its bound is what is expected along it."""

    name: ClassVar[str] = "follow-the-prior"
    target: ClassVar[Target] = Target.OTHER
    accepts: ClassVar[str] = "a TrajectoryModel, any horizon"
    cost: ClassVar[str] = "T S A K time"

    def supports(self, model) -> None:
        """Refuses what is no model with tables."""
        require_model(model, self.name, "'enumeration'")

    def run(self, model, *, seed: int = 0) -> Posterior:
        """The answer; nothing here is random."""
        return policy_posterior(self, model, model.action_prior.expand(model.steps, -1, -1))
