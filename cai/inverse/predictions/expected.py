"""Expected visits of a policy and of the posterior, which feature counts are compared with."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from cai.inference.tabular.sensitivity import SoftSensitivity
from cai.models.common.checks import index_tensor
from cai.models.trajectory.batch import with_initial
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["expected_counts"]


def expected_counts(
    model: TrajectoryModel,
    states_1: Any,
    *,
    objective: Literal["path", "moments"] = "path",
    algorithm: Literal["exact", "ziebart-2008"] = "exact",
) -> Tensor:
    """How often each action is expected in each state at each time, from given first states on, added up over these.

    Feature counts that are expected are sums of these times features; observed minus expected ones are the gradient of
    the objective of this name (in nats: over the temperature). Steps from terminal states do not count.

    Args:
        model: the trajectory model, with the reward that is asked about.
        states_1: int [N], first states, each as often as it was seen; or one.
        objective: "path", under the exact posterior p(tau | s_1, O), which needs discount 1; "moments", under the best
            policy with the dynamics held fixed, weighted by gamma^t.
        algorithm: "exact"; or "ziebart-2008", algorithm 1 of Ziebart et al. 2008 for "path", for teaching: its forward
            pass lets the policy of the exact posterior act under the true dynamics, which is right only where the
            dynamics are certain. Its policy is 0 / 0 where optimality is impossible: who gets there is not counted on.

    Returns:
        [T, S, A]; over an infinite horizon [1, S, A], summed over time.

    Raises:
        ValueError: if words or states are not known, a discount meets "path", or optimality is impossible from a first
            state.
    """
    if not isinstance(model, TrajectoryModel):
        raise TypeError(f"the model is a {type(model).__name__}; expected a TrajectoryModel")
    if objective not in ("path", "moments"):
        more = ": the gradient of 'likelihood' is no difference of counts" * (str(objective) == "likelihood")
        raise ValueError(f"objective is {objective!r}; expected 'path' or 'moments'{more}")
    if algorithm not in ("exact", "ziebart-2008"):
        raise ValueError(f"algorithm is {algorithm!r}; expected 'exact' or 'ziebart-2008'")
    if algorithm == "ziebart-2008" and objective != "path":
        raise ValueError("algorithm 'ziebart-2008' is about objective 'path'; 'moments' has algorithm='exact' alone")
    if objective == "path" and model.discount < 1:
        raise ValueError(
            f"objective 'path' needs discount 1, and the model has {model.discount:g}: make the discount an explicit "
            "absorbing state, or ask for 'moments'"
        )
    host = model.host
    start = _start(host, states_1)
    asked = host.replace(mdp=with_initial(host.mdp, start / start.sum()))
    answer = SoftSensitivity(asked, "exact" if objective == "path" else "fixed")
    lost = (start > 0) & ~torch.isfinite(answer.values[0])
    if not answer.found or bool(lost.any()):
        where = f" from state {host.mdp.state_name(int(lost.nonzero()[0]))}" if bool(lost.any()) else ""
        raise ValueError(f"nothing is expected{where}: optimality is impossible, or an infinite horizon has no answer")
    nonterminal = torch.where(host.nonterminal, start, torch.zeros_like(start))
    if algorithm == "ziebart-2008":
        answer = answer.under_true_dynamics()
    return answer.adjoint(nonterminal.new_zeros(host.steps, host.mdp.num_states, host.mdp.num_actions), nonterminal)[1]


def _start(model: TrajectoryModel, states_1: Any) -> Tensor:
    states = index_tensor(states_1, "states_1").reshape(-1)
    outside = (states < 0) | (states >= model.mdp.num_states)
    if not len(states) or bool(outside.any()):
        odd = f"holds {int(states[outside][0])}" if len(states) else "is empty"
        raise ValueError(f"states_1 {odd}; give first states, 0 to {model.mdp.num_states - 1}")
    return torch.zeros(model.mdp.num_states, dtype=torch.float64).index_add(0, states, torch.ones(len(states)).double())
