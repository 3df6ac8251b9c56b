"""Stationary values of a recursion of a plug-in's own, of which nothing is known but that it is monotone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.inference.core.status import Status
from cai.inference.tabular.recursion import Recursion
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["solve_own"]

EPS = 16 * torch.finfo(torch.float64).eps
HISTORY = 10_000


@torch.no_grad()
def solve_own(
    model: TrajectoryModel, recursion: Recursion, tolerance: float, limit: int
) -> tuple[Tensor, Status, dict[str, Any]]:
    """Backs up from 0 until two bounds enclose the fixed point of a monotone backup.

    If values move by at most c and shrink what moves by rate < 1 a backup, v +- c rate / (1 - rate) are likely bounds.
    They are ones if a backup of the upper one is nowhere above it, and of the lower one nowhere below.

    Returns:
        (values [S], nats; the status; details as in `Stationary`).
    """
    nonterminal = model.nonterminal

    def backup(values: Tensor) -> Tensor:
        q_values = recursion.backup(model, values, 0)
        return recursion.choice(model, q_values, model.log_action_prior)[0]

    values, changes, bound = torch.zeros_like(model.mdp.initial.detach()), [], float("inf")
    status, steps, wait = Status.NOT_CONVERGED, 0, 1
    previous = float("inf")
    for steps in range(1, limit + 1):
        following = backup(values)
        change = float((following - values).nan_to_num(posinf=0.0, neginf=0.0).abs().max())
        fresh = bool((torch.isinf(following) != torch.isinf(values)).any())
        values = following
        changes.append(change)
        rate, previous = (change / previous if previous > 0 else 0.0), change
        size = float(values[torch.isfinite(values)].abs().max()) if bool(torch.isfinite(values).any()) else 0.0
        if fresh or rate >= 1 or steps < wait:
            continue
        width = 2 * change * rate / (1 - rate) + EPS * size / (1 - rate)
        if width > tolerance * size:
            continue
        slack = torch.where(nonterminal, torch.full_like(values, width), torch.zeros_like(values))
        rounding = EPS * size * (1 - rate) / 4
        upper, lower = backup(values + slack) - (values + slack), backup(values - slack) - (values - slack)
        inside = torch.isfinite(values)
        if bool((upper[inside] <= rounding).all()) and bool((lower[inside] >= -rounding).all()):
            status, bound = Status.SUCCESS, width
            break
        wait = 2 * steps
    details: dict[str, Any] = {"steps": steps, "newton_steps": 0, "error_bound": bound * float(model.temperature)}
    details |= {"changes": tuple(changes[:HISTORY]), "rate": None, "contracts": False}
    return values, status, details
