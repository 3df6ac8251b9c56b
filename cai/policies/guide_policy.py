"""Policies of fitted classes that also run in environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cai.inference.core.policy import policy_classes
from cai.inference.restricted.continuous.policy import GuidePolicy as Fitted
from cai.models.common.storage import storable
from cai.policies.environments import Runs, check_box

__all__ = ["GuidePolicy"]


@storable("guide-policy-that-runs")
@dataclass(frozen=True, eq=False, repr=False)
class GuidePolicy(Fitted, Runs):
    """q(a_t | s_t) of a class of policies with fitted parameters, also in environments with vectors (`run`).

    Args:
        policy_class: e.g. `TanhGaussianPolicy()`.
        parameters: of its guide, by name.
        state_dim: n.
        action_dim: m.
        steps: T, the number of steps that it knows.
        boxed: whether actions lie in the box that the parameters hold.
        greedy: whether it takes what stands for its law instead of a draw.
        source: the backend that it came from, for tables.

    Raises:
        ValueError: if the parameters are not those of the class.
    """

    def _check_spaces(self, observations: Any, actions: Any) -> None:
        check_box("observation", observations, self.state_dim)
        check_box("action", actions, self.action_dim)


policy_classes["guide"] = GuidePolicy  # what posteriors make
