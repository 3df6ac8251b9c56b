"""What the chain of a choice earns: its values without those before them, which a large step would have to undo."""

from __future__ import annotations

from typing import Any

import numpy as np

from cai.inference.tabular.stationary.problem.moves import Moves, Tilted
from cai.inference.tabular.stationary.problem.steps import Steps

__all__ = ["UNDONE", "earned_by"]

Array = np.ndarray[Any, Any]
UNDONE = 1e-6  # of a step: values that are less have lost too many digits of theirs to it


def earned_by(steps: Steps, moves: Moves) -> Array:
    """[N], what a step of the chain that moves values is paid, less what its policy and dynamics diverge by."""
    assert not isinstance(moves.outcomes, Tilted)  # of a table
    edges = moves.outcomes * steps.paid
    pairs = moves.policy * steps.rewards
    with np.errstate(divide="ignore", invalid="ignore"):
        if steps.eta != 0 and np.isfinite(steps.eta):
            tilt = moves.outcomes * np.log(moves.outcomes / steps.weighed) / steps.eta
            edges = edges - np.where(moves.outcomes > 0, tilt, 0)
        if not steps.hard:
            pairs = pairs - np.where(moves.policy > 0, moves.policy * np.log(moves.policy / steps.prior), 0)
    pairs = pairs + moves.policy * np.add.reduceat(edges, steps.first_edges)
    return np.asarray(np.add.reduceat(pairs, steps.first_pairs))
