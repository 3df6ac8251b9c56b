"""A Gaussian answer as an xarray dataset."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor

from cai.inference.gaussian.messages import Messages
from cai.inference.gaussian.moments import Moments
from cai.inference.gaussian.problem import GaussianPrior

__all__ = ["as_dataset"]

STATES, ACTIONS = ("time", "state", "state_2"), ("step", "action", "action_2")


def as_dataset(
    policy: GaussianPrior,
    moments: Moments | None,
    messages: Messages | None,
    batch: torch.Size,
    attributes: dict[str, Any],
) -> xarray.Dataset:
    """Policy, messages and moments with named axes.

    Args:
        policy: gain [..., T, m, n], offset and covariance.
        moments: along q; None over an infinite horizon.
        messages: None where there are none.
        batch: the shape of the batch axes, which lead as batch_1, batch_2, ...
        attributes: numbers and words of the answer.

    Returns:
        By name: gain (step, action, state), offset, covariance; P, p, rho (time, ...) where there are messages;
        state_mean, state_covariance, action_mean and action_covariance over a finite horizon. `time` counts the T + 1
        states from 0, `step` the T actions.
    """
    leading = tuple(f"batch_{i + 1}" for i in range(len(batch)))
    found: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}

    def put(name: str, dims: tuple[str, ...], part: Tensor) -> None:
        part = part.expand(*batch, *part.shape[part.dim() - len(dims) :])
        found[name] = ((*leading, *dims), part.detach().cpu().numpy())

    put("gain", ("step", "action", "state"), policy.gain)
    put("offset", ("step", "action"), policy.offset)
    put("covariance", ACTIONS, policy.covariance)
    if moments is not None:
        put("state_mean", STATES[:2], moments.state_means)
        put("state_covariance", STATES, moments.state_covariances)
        put("action_mean", ACTIONS[:2], moments.action_means)
        put("action_covariance", ACTIONS, moments.action_covariances)
    if messages is not None:
        P, p, rho = messages.cost_to_go
        put("P", STATES, P)
        put("p", STATES[:2], p)
        put("rho", STATES[:1], rho)
    steps, m, n = policy.gain.shape[-3:]
    sizes = {"step": steps, "state": n, "action": m}
    if "time" in {dim for dims, _ in found.values() for dim in dims}:
        sizes["time"] = steps + 1
    coordinates = {name: np.arange(size) for name, size in sizes.items()}
    return xarray.Dataset(found, coords=coordinates, attrs=attributes)
