"""Policies that act on observations of a model's states, written as tables over the states themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cai.models.trajectory.model import TrajectoryModel
from cai.policies.policy import Policy

__all__ = ["tabulated"]


@torch.no_grad()
def tabulated(
    policy: Any, model: TrajectoryModel, *, observe: Any = "one-hot", observation_space: Any = None
) -> Policy:
    """What a policy of networks amounts to on the model behind its environment, exactly.

    So what it does can be evaluated without a sample (`cai.evaluate`), and drawn on a map. States that nothing is
    decided in keep the action prior.

    Args:
        policy: learned in `vector_environment(model, ..., observe=observe)`; with `log_prob(actions, observations,
            action_mask=...)`.
        model: the model.
        observe: how the policy sees its states, as for `vector_environment`.
        observation_space: of a function `observe`.

    Returns:
        A policy over states: [T, S, A], stationary over an infinite horizon.

    Raises:
        TypeError, ValueError: if the policy has no probabilities to give, or sees other observations.
    """
    from cai.models.environments.observers import see_table

    if not hasattr(policy, "log_prob") or hasattr(policy, "action_probs"):
        raise TypeError(
            f"a {type(policy).__name__} gives no probabilities of actions on observations; expected the policy of a "
            "learner with networks: answer.policy()"
        )
    mdp = model.mdp
    observer = see_table(observe, observation_space, mdp.num_states, model.horizon)
    states, available = np.arange(mdp.num_states), mdp.host.available
    tables = []
    for t in range(model.steps):
        seen = observer.see(states, np.full(mdp.num_states, t))
        scores = [
            policy.log_prob(np.full(mdp.num_states, a), seen, action_mask=available) for a in range(mdp.num_actions)
        ]
        rows = torch.stack(scores, -1).double().exp()
        rows = rows / rows.sum(-1, keepdim=True)
        tables.append(torch.where(model.host.nonterminal[:, None], rows, model.host.action_prior.detach()))
    return Policy(
        torch.stack(tables),
        stationary=not model.is_finite,
        state_names=None if mdp.state_names is None else tuple(mdp.state_names),
        action_names=None if mdp.action_names is None else tuple(mdp.action_names),
        source=getattr(policy, "source", ""),
    )
