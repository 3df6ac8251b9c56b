"""Backend "policy-gradient": the gradient of the bound from the policy's own samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cai.inference.learning.backend import LearnerOptions
from cai.inference.learning.options import check_share
from cai.inference.learning.tables.policy_gradient import PolicyGradientRule
from cai.inference.learning.tables.world import TableWorld

__all__ = ["PolicyGradient"]

TABLE_LAMBDA = 0.8


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(LearnerOptions):
    """Maximises the bound by its gradient: grad log pi times soft advantages, generalised advantage estimation.

    Levine 2018, section 4.1, equations (16) to (18) (which print the entropy with the wrong sign in J); Schulman 2016
    for the estimate, with the soft reward r - alpha log pi/p in it, entropy term included: deltas without that term
    beside a soft V are right at lambda = 0 alone.

    On a `TrajectoryModel` logits and V are tables, and the gradient is taken in its natural form, entry by entry.

    Args:
        gae_lambda: lambda in [0, 1] of the advantage estimates; 0.8 on tables unless given, where V is learned well
            and what it saves of noise is worth more than what it still has of error.

    Of the answer's `details`, "critic" holds the learned "values" [T, S], "history" an `xarray.Dataset` along `step`,
    "steps" the transitions used and "form" "KL" or "entropy". `elbo` and `values` are exact ones of the learned policy.
    """

    gae_lambda: float | None = None

    name: ClassVar[str] = "policy-gradient"
    accepts: ClassVar[str] = "a TrajectoryModel"
    cost: ClassVar[str] = "N (A + K) time a step of N copies; T S A memory"
    stationary: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gae_lambda is not None:
            check_share(self.gae_lambda, "gae_lambda")

    def rule(self, world: TableWorld) -> PolicyGradientRule:
        """How its tables change."""
        return PolicyGradientRule(TABLE_LAMBDA if self.gae_lambda is None else self.gae_lambda, self.observe_time)
