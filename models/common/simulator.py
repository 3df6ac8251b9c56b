"""What can be sampled: the contract between worlds and whatever acts or learns in them."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Simulator", "Transition"]


class Transition(NamedTuple):
    """What N chains met in one step.

    Attributes:
        next_states: [N, ...], the states that they are in now.
        rewards: float [N], what the step paid, in reward units; 0 for a chain that had ended before.
        alive: bool [N], whether a chain goes on: False in a terminal state, and once a discount has ended it.
    """

    next_states: Tensor
    rewards: Tensor
    alive: Tensor


@runtime_checkable
class Simulator(Protocol):
    """A world that N independent chains can be run in side by side, from states that the caller holds.

    A `TrajectoryModel` is one (states int64 [N], where S is the absorbing state of a discount). A world keeps no state
    of its own between calls; everything random comes from the generator.
    """

    def reset(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """The states [n, ...] in which n chains start.

        Args:
            n: how many.
            generator: of the draws; torch's global one unless given.
        """

    def step(
        self, states: Tensor, actions: Tensor, t: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Moves every chain by one step.

        Args:
            states: [N, ...], as `reset` or the last step returned them. A chain that has ended stays where it is.
            actions: [N, ...], one for each chain.
            t: the time index, from 0.
            generator: of the draws; torch's global one unless given.

        Returns:
            Next states [N, ...], rewards [N] and alive bool [N], as a `Transition` holds them.
        """
