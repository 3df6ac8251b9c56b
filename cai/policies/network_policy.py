"""Policies of networks that also run in environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cai.inference.core.policy import policy_classes
from cai.inference.learning.networks.answers.policy import LearnedPolicy as Learned
from cai.models.common.storage import storable
from cai.policies.environments import Runs, check_discrete

__all__ = ["LearnedPolicy"]

SLACK = 1e-6  # of the width of a box: what float32 may take from its edge


@storable("learned-policy")  # in place of the class that it extends, so that every file gives a policy that runs
@dataclass(frozen=True, eq=False, repr=False)
class LearnedPolicy(Learned, Runs):
    """pi(a | o) by a network, also in environments (`run`); it is told which actions are available.

    Args:
        interface: how the network sees the world.
        sizes: of the observation, the hidden layers and what the policy needs.
        parameters: of the networks, by name.
        temperature: alpha, where the logits are values.
        log_prior: the action prior of discrete actions where it is not uniform.
        source: the backend that it came from.
        kind: what acts in a box: "gaussian", "flow", "stein", or "module"; "composed" where there are `parts`.
        beneath: the policy whose flow is beneath this one's; None for none.
        network: the module that turns observations into features first; None for none.
        module: the module that acts; None for none.
        parts: whose critics are averaged.
        shares: their weights.
    """

    def _check_spaces(self, observations: Any, actions: Any) -> None:
        interface = self.interface
        categories = interface.categories
        width = len(categories) or (interface.size - (self.horizon < float("inf")))
        sees = f"{width} whole numbers below {list(categories)}" if categories else f"{width} numbers"
        sizes = (observations.n,) if hasattr(observations, "n") else tuple(np.ravel(getattr(observations, "nvec", ())))
        shape = getattr(observations, "shape", None)
        fits = sizes == categories and bool(shape is not None and int(np.prod(shape)) == width)
        if not fits or np.any(getattr(observations, "start", 0)):
            raise ValueError(f"the environment's observation space is {observations}; this policy sees {sees}, from 0")
        if interface.num_actions:
            number = interface.num_actions
            check_discrete("action", actions, range(number, number + 1), f"the policy is for {number} actions")
            return
        low, high = (getattr(actions, name, None) for name in ("low", "high"))
        if low is None or high is None or actions.shape != interface.shape:
            raise ValueError(
                f"the environment's action space is {actions}; this policy's actions are arrays of shape "
                f"{list(interface.shape)}, which needs a Box of that shape"
            )
        least, most = interface.low.numpy(), interface.high.numpy()
        slack = SLACK * (most - least)
        if np.any(np.ravel(low) > least + slack) or np.any(np.ravel(high) < most - slack):
            raise ValueError(
                f"the environment's action space is {actions}; this policy acts from {least.tolist()} to "
                f"{most.tolist()}, which is not within it: it was made for another problem"
            )


policy_classes["learned"] = LearnedPolicy  # what posteriors make
