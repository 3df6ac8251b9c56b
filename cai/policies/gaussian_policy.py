"""Linear-Gaussian policies that also run in environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cai.inference.core.policy import policy_classes
from cai.inference.gaussian.policy import GaussianPolicy as LinearGaussian
from cai.models.common.storage import storable
from cai.policies.environments import Runs, check_box

__all__ = ["GaussianPolicy"]


@storable("gaussian-policy-that-runs")
@dataclass(frozen=True, eq=False, repr=False)
class GaussianPolicy(LinearGaussian, Runs):
    """a_t ~ N(K_t s_t + k_t, Sigma_t), for each time or stationary, also in environments with vectors (`run`).

    Args:
        gain: K [..., T, m, n]; batch axes lead. With `stationary`, T is 1.
        offset: k [..., T, m].
        covariance: Sigma [..., T, m, m]; zero for a policy that is certain.
        stationary: whether the one step serves every time.
        source: the backend that it came from, for tables.
        on_estimates: whether "states" are a filter's means, E[s_t | y_1 .. y_t], as for `lqg`.

    Raises:
        ValueError: if shapes do not fit each other, or a stationary policy has more than one step.
    """

    def _check_spaces(self, observations: Any, actions: Any) -> None:
        m, n = self.gain.shape[-2:]
        check_box("observation", observations, n)
        check_box("action", actions, m)
        if self.gain.dim() > 3:
            raise ValueError(f"a batch of policies, of shape {list(self.gain.shape[:-3])}, runs in no environment")


policy_classes["gaussian"] = GaussianPolicy  # what posteriors make
