"""Which actions are as good as the best, up to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np

from cai.inference.tabular.stationary.problem.moves import Moves, Values
from cai.inference.tabular.stationary.problem.steps import Steps
from cai.inference.tabular.stationary.problem.tables import apart_of

__all__ = ["TIES", "as_good"]

Array = np.ndarray[Any, Any]
TIES = 1e-12  # of what a move changes: moves worse by less are as good


def as_good(steps: Steps, moves: Moves, values: Values, ties: float = TIES, least: float = 0.0) -> Array:
    """Bool [R], the pairs that are as good as the best of their state, up to rounding.

    Args:
        steps: the problem.
        moves: at the values.
        values: of its states.
        ties: how much worse a pair may be, relative to what it or the best changes.
        least: what these change at least, nats.
    """
    scale = moves.sizes
    if steps.table is not None and steps.eta != 0:
        scale = apart_of(steps.table, np.append(values.total, 0.0), steps.states)
    elif steps.eta != 0:
        total = np.append(values.total, 0.0)
        changes = steps.chances * np.abs(steps.gains + total[steps.targets] - total[steps.sources])
        scale = np.abs(steps.rewards) + np.add.reduceat(changes, steps.first_edges)
    best = np.where(moves.advantages >= moves.delta[steps.states], scale, least)
    scale = np.maximum(scale, np.maximum.reduceat(best, steps.first_pairs)[steps.states])
    return np.asarray(moves.advantages >= (moves.delta - moves.rounding)[steps.states] - ties * scale)
