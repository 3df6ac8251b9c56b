"""Trajectories of somebody who acted on vectors: states and actions of a continuous model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.models.common.checks import first_index, float_tensor
from cai.models.common.storage import Saved, storable
from cai.models.demonstrations.demonstrations import persons_of

__all__ = ["ContinuousDemonstrations"]


@storable("inverse-continuous-demonstrations")
@dataclass(frozen=True, eq=False, repr=False)
class ContinuousDemonstrations(Saved):
    """N demonstrations on vectors, all of one length.

    Args:
        states: [N, T + 1, n], finite.
        actions: [N, T, m], finite.
        persons: N labels of who showed it, for errors that are clustered; None where nobody knows.
        weights: [N], how often each counts, >= 0; 1 unless given.

    Raises:
        TypeError, ValueError: if shapes do not fit each other, an entry is not finite, or a weight makes no sense.
    """

    states: Any
    actions: Any
    persons: Any = None
    weights: Any = None

    def __post_init__(self) -> None:
        states, actions = (float_tensor(getattr(self, name), name)[0].detach() for name in ("states", "actions"))
        fits = states.dim() == actions.dim() == 3 and states.shape[0] == actions.shape[0] > 0
        if not fits or states.shape[1] != actions.shape[1] + 1 or not actions.shape[1]:
            raise ValueError(
                f"states has shape {list(states.shape)} and actions {list(actions.shape)}; expected [N, T + 1, n] and "
                "[N, T, m]: one state more than actions, the one in which it ended"
            )
        for name, table in (("states", states), ("actions", actions)):
            wrong = ~torch.isfinite(table)
            if bool(wrong.any()):
                raise ValueError(f"{name}{first_index(wrong)} is {float(table[wrong][0])}; demonstrations are finite")
        number = len(states)
        weights = torch.ones(number, dtype=torch.float64)
        if self.weights is not None:
            weights = float_tensor(self.weights, "weights")[0].detach()
            sound = tuple(weights.shape) == (number,) and bool((torch.isfinite(weights) & (weights >= 0)).all())
            if not sound or not bool((weights > 0).any()):
                raise ValueError(f"weights are {weights.tolist()}; give {number} numbers >= 0, not all of them 0")
        put = object.__setattr__
        put(self, "states", states)
        put(self, "actions", actions)
        put(self, "persons", None if self.persons is None else persons_of(self.persons, number))
        put(self, "weights", weights)

    def __len__(self) -> int:
        return len(self.states)

    def __repr__(self) -> str:
        (number, steps, m), n = self.actions.shape, self.states.shape[-1]
        return f"ContinuousDemonstrations({number}, {steps} actions, n={n}, m={m})"

    def select(self, rows: Any) -> ContinuousDemonstrations:
        """Some of the demonstrations, by numbers or bool [N]."""
        chosen: Tensor = torch.arange(len(self))[torch.as_tensor(rows)].reshape(-1)
        persons = None if self.persons is None else [self.persons[n] for n in chosen.tolist()]
        return ContinuousDemonstrations(self.states[chosen], self.actions[chosen], persons, self.weights[chosen])
