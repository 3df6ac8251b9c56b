"""Replanning policies that also run in environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cai.inference.core.policy import policy_classes
from cai.inference.planning.replanning import ReplanningPolicy as Replanning
from cai.inference.planning.replanning import stored_parts
from cai.models.common.storage import storable
from cai.policies.environments import Runs, check_box

__all__ = ["ReplanningPolicy"]


@storable("replanning-policy-that-runs", pack=stored_parts)
@dataclass(frozen=True, eq=False, repr=False)
class ReplanningPolicy(Replanning, Runs):
    """The first action of a plan that is made anew in every state, also in environments with vectors (`run`).

    In state s at time index t it draws K action sequences around its plan from t on, lets the model say what each would
    earn, and does their weighted mean (Williams, Aldrich and Theodorou 2017).

    Args:
        model: in which it plans; None in a copy from a file that could not hold it (`with_model` gives it back).
        plan: [T, m], what is done beyond the mean of the action prior (of a flat one, the actions).
        num_samples: K.
        lookahead: H, how many steps a plan is long.
        temperature: lambda of the weights, reward units.
        noise: standard deviation of the action noise; None for the prior's.
        correlation: of the noise from step to step.
        scales: of the noise; samples take them in turn.
        source: the backend that it came from.
    """

    def _check_spaces(self, observations: Any, actions: Any) -> None:
        if self.model is not None:
            check_box("observation", observations, self.model.state_dim)
        check_box("action", actions, self.plan.shape[-1])


policy_classes["replanning"] = ReplanningPolicy  # what posteriors make
