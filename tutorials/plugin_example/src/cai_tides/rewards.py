"""Two reward factors: a class with options, and a function that is ready as it is."""

import math
from dataclasses import dataclass

import torch

from cai.models import RewardFactor, reward_factor


@dataclass(frozen=True, eq=False)
class Tide(RewardFactor):
    """Charges for wading, the more the higher the water: -price (1 + sin(2 pi t / period)) / 2 in some states.

    Args:
        states: where one wades (mask, indices or names, or the name of a region).
        price: at high water, in reward units.
        period: steps from one high water to the next.
    """

    states: object
    price: float = 2.0
    period: float = 12.0
    reads_outcome = False

    def check(self, mdp):
        mdp.states(self.states)
        if not self.period > 0:
            raise ValueError(f"the period of Tide is {self.period}; give a number of steps above 0")

    def evaluate(self, mdp, step):
        water = (1 + math.sin(2 * math.pi * step.t / self.period)) / 2
        wades = mdp.states(self.states) & ~mdp.terminal
        return torch.where(wades[step.state], -self.price * water, 0.0)


@reward_factor(reads_outcome=False)
def daylight(state, action, next_state, t):
    """Charges 0.1 for every step from the eighth on, when it is dark."""
    return torch.where(state >= 0, -0.1 if t >= 7 else 0.0, 0.0)
