"""What planners will allocate, estimated from sizes alone."""

from __future__ import annotations

from typing import Any

from cai.inference.core.memory import Need

__all__ = ["bundle_need", "local_need"]

NEIGHBOURS = 30  # times a trajectory's numbers: ten step lengths, each with states, actions and what follows
COPIES = 24  # times d^2: the copies that derivatives are taken by, what is recorded of them, and the local models


def local_need(model: Any, trajectories: int, instead: str) -> Need:
    """Of local models around trajectories, with d = n + m."""
    d = model.state_dim + model.action_dim
    numbers = trajectories * int(model.horizon) * (COPIES * d**2 + NEIGHBOURS * d)
    what = f"local models of {trajectories:,} trajectories, T = {int(model.horizon):,}, n + m = {d}"
    return Need(8 * numbers, what, instead)


def bundle_need(model: Any, num_samples: int, lookahead: int, instead: str) -> Need:
    """Of one bundle of trajectories, and the plan."""
    steps = min(lookahead, int(model.horizon))
    each = 3 * (model.state_dim + 2 * model.action_dim)
    plan = int(model.horizon) * (model.state_dim + 2 * model.action_dim)
    what = f"bundles of {num_samples:,} trajectories of {steps:,} steps"
    return Need(8 * (num_samples * steps * each + plan), what, instead)
