"""Small processes written down outcome by outcome: who goes where, how likely, and what it pays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from cai.models.processes.mdp import MDP
from cai.models.rewards.tables import OutcomeReward, RewardFactor, TableReward

__all__ = ["Outcomes", "Table", "tabulate"]

Outcomes = Sequence[tuple[float, str, float]]
"""Of one state and action: (probability, next state, reward), in any order."""

Table = Mapping[str, Mapping[str, Outcomes]]
"""State -> action -> outcomes; a state without actions is terminal."""


def tabulate(
    table: Table, initial: str | Mapping[str, float], *, regions: Mapping[str, Any] | None = None
) -> tuple[MDP, RewardFactor]:
    """The process and the reward of a table of outcomes.

    Outcomes of probability 0 are left out, and equal ones (same next state and reward) added up. Actions are those that
    the table names, in the order in which it first does; a state has those that are listed for it.

    Args:
        table: state -> action -> outcomes. States without actions are terminal.
        initial: the first state, or state -> probability.
        regions: named sets of states, as in `MDP`.

    Returns:
        The process, with names; and its reward [S, A], or [S, A, K] where what is paid depends on the outcome.
    """
    states = list(table)
    index = {state: i for i, state in enumerate(states)}
    actions = list(dict.fromkeys(action for row in table.values() for action in row))
    merged = [[_merge(row.get(action, ())) for action in actions] for row in table.values()]
    width = max(len(outcomes) for row in merged for outcomes in row)
    here = torch.arange(len(states))[:, None, None]
    next_states = here.expand(-1, len(actions), width).clone()
    probabilities = torch.zeros(next_states.shape, dtype=torch.float64)
    rewards = torch.zeros(next_states.shape, dtype=torch.float64)
    for s, row in enumerate(merged):
        for a, outcomes in enumerate(row):
            for k, ((following, reward), probability) in enumerate(outcomes.items()):
                next_states[s, a, k], probabilities[s, a, k], rewards[s, a, k] = index[following], probability, reward
    terminal = torch.tensor([not row for row in table.values()])
    probabilities[terminal, :, 0] = 1.0
    start = {initial: 1.0} if isinstance(initial, str) else initial
    mdp = MDP.from_successors(
        next_states,
        probabilities,
        torch.tensor([start.get(state, 0.0) for state in states], dtype=torch.float64),
        available=torch.tensor([[action in row or not row for action in actions] for row in table.values()]),
        terminal=terminal,
        state_names=states,
        action_names=actions,
        regions=regions,
    )
    first = rewards[..., :1]
    alike = (rewards == first) | (probabilities == 0)
    return mdp, TableReward(first[..., 0]) if bool(alike.all()) else OutcomeReward(rewards)


def _merge(outcomes: Outcomes) -> dict[tuple[str, float], float]:
    """(next state, reward) -> probability."""
    found: dict[tuple[str, float], float] = {}
    for probability, following, reward in outcomes:
        if probability > 0:
            key = (following, float(reward))
            found[key] = math.fsum((found.get(key, 0.0), probability))
    return found
