"""Features of states, of (state, action) pairs or of whole steps, which rewards are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.models.common.checks import float_tensor
from cai.models.common.labels import in_order, taken_apart
from cai.models.processes.mdp import MDP

__all__ = ["check_features", "features_in_order", "read_features"]


def read_features(given: Any) -> tuple[Tensor, Any]:
    """Converts features to float64, [S, F], [S, A, F] or [S, A, S, F].

    Returns:
        The features, and for each axis the labels that a table of pandas or xarray had, else None; see `taken_apart`.

    Raises:
        ValueError: if the shape is another, or an entry is not finite.
    """
    array, labels = taken_apart(given, "features")
    features, _ = float_tensor(array, "features")
    if features.dim() not in (2, 3, 4):
        raise ValueError(f"features has shape {list(features.shape)}; expected [S, F], [S, A, F] or [S, A, S, F]")
    if not torch.isfinite(features.detach()).all():
        raise ValueError("features holds NaN or infinite entries; forbid outcomes with a reward of -inf instead")
    return features, labels


def features_in_order(features: Tensor, labels: Any, mdp: MDP) -> Tensor:
    """Features that had labels, in the order of the states and actions of a process; those of F axes stay.

    Raises:
        ValueError: if labels are not the names of the process.
    """
    states = (mdp.state_names, "state")
    axes = [states, (mdp.action_names, "action"), states][: features.dim() - 1]
    return in_order(features, labels, axes, "features")


def check_features(features: Tensor, mdp: MDP) -> None:
    """Raises ValueError unless features belong to the states and actions of a process."""
    full = (mdp.num_states, mdp.num_actions, mdp.num_states)
    if tuple(features.shape[:-1]) != full[: features.dim() - 1]:
        raise ValueError(
            f"features has shape {list(features.shape)}; this process has S = {mdp.num_states}, "
            f"A = {mdp.num_actions}: expected [S, F], [S, A, F] or [S, A, S, F]"
        )
