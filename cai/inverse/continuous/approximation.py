"""How far a Laplace approximation around demonstrations can be trusted, by a second one around best plans.

Where rewards are quadratic and dynamics linear between a demonstration and the best plan from its start, both local
models are the same, and so are their policies. Elsewhere they differ by what either of them leaves out: by the log
probability of what was shown, and by their scores g, of which the difference moves the estimate by (-H)^-1 (g' - g).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.inference import infer
from cai.inverse.continuous.objective import GaussianObjective
from cai.models.demonstrations.continuous import ContinuousDemonstrations

__all__ = ["Judgement", "judge"]

MOST = 4  # plans that are searched for
PER_CHOICE = 0.1  # nats
MOVED = 0.5  # standard errors
Judgement = tuple[bool, str]


def judge(objective: GaussianObjective, coefficients: Tensor, free: Tensor) -> Judgement:
    """Whether the approximation can be trusted at an estimate, and a sentence that says by what.

    Args:
        objective: around demonstrations.
        coefficients: [F], the estimate.
        free: int64, places of the coefficients that were fitted.
    """
    shown = objective.demonstrations
    few = _few(shown)
    near, model = objective.around(few, None), objective.model(coefficients)
    plans = []
    for start in few.states[:, 0]:
        found = infer(model.replace(initial=start), "ilqr", throw=False)
        if not found.status.ok:
            return False, f"no best plan was found at the estimate to hold it against ({found.status.label})"
        plans.append((found.plan.states, found.plan.actions))
    far = objective.around(few, (torch.stack([s for s, _ in plans]), torch.stack([a for _, a in plans])))
    both = [part.evaluate(coefficients) for part in (near, far)]
    if both[0] is None or both[1] is None:
        return False, "around the best plans of the estimate a step has no Gaussian policy"
    total = float(few.weights.sum())
    apart = abs(both[1][0] - both[0][0]) / (total * few.actions.shape[1])
    bend = -objective.hessian(coefficients)[free][:, free]
    slope = (both[1][1] - both[0][1])[free] * objective.num_demonstrations / total
    covariance = torch.linalg.pinv(bend, hermitian=True)
    moved = float(((covariance @ slope).abs() / covariance.diagonal().clamp(min=1e-300).sqrt()).max())
    told = (
        f"around the best plans of the estimate, the log probability of what was shown differs by {apart:.2g} nats an "
        f"action, and the estimate would move by {moved:.2g} standard errors"
    )
    return apart <= PER_CHOICE and moved <= MOVED, told


def _few(shown: ContinuousDemonstrations) -> ContinuousDemonstrations:
    """A few demonstrations that count, spread over all."""
    counted = torch.nonzero(shown.weights > 0)[:, 0]
    places: Any = torch.linspace(0, len(counted) - 1, min(MOST, len(counted))).round().long()
    return shown.select(counted[places])
