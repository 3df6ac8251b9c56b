"""Mean and variance of the return of a chain that ends: two linear systems (Sobel 1982).

The return from s on is G(s) = r + G(s'), and 0 once the chain has ended, by the discount's fall too. So

    E[G(s)]   = E[r + E[G(s')]]
    Var[G(s)] = E[(r + E[G(s')] - E[G(s)])^2] + E[Var[G(s')]],

the law of total variance: nothing is subtracted from a second moment, so a small variance beside a large mean is right.
The discount is part of the chain, which goes on with probability gamma: there is no gamma^2 here as there is in Sobel's
equation, whose return is the discounted sum along a chain that does not end.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cai.inference.tabular.markov.chains import EndingChain
from cai.inference.tabular.markov.reachability import leads_to

__all__ = ["ReturnMoments", "return_moments"]


class ReturnMoments(NamedTuple):
    """Of the return from each state on; 0 where the chain has ended or never is.

    Attributes:
        mean: [S], reward units; -inf where something forbidden can happen.
        deviation: [S], the standard deviation; inf where something forbidden can happen.
        whole: the standard deviation of the whole return, that of the start's draw included.
    """

    mean: Tensor
    deviation: Tensor
    whole: float


def return_moments(chain: EndingChain) -> ReturnMoments:
    """Mean and standard deviation of what a chain earns, in reward units and by its model's rewards.

    Raises:
        ValueError: if the chain ends too late for float64 to tell.
    """
    model, counts = chain.model, chain.counts
    chances = chain.moves + chain.falls
    paid = torch.where(chances > 0, model.reward_table(0).detach().to(chances), torch.zeros_like(chances))
    forbidden = leads_to(*chain.edges, counts & torch.isinf(paid).any(-1).any(-1)) & counts
    inside = counts & ~forbidden  # what leads to -inf is worth that, and the rest does not lead there
    paid = torch.where(inside[:, None, None], paid, torch.zeros_like(paid))
    size = float(paid.abs().max())
    size = size if size > 0 else 1.0  # squares of 1e-200 are no floats
    paid = paid / size
    mean = chain.sums((chances * paid).sum((1, 2)))
    here, following = mean[:, None, None], model.mdp.gather(mean).expand_as(chances)
    goes, falls = (paid + following - here) ** 2, (paid - here) ** 2
    spread = torch.where(inside, (chain.moves * goes + chain.falls * falls).sum((1, 2)), torch.zeros_like(mean))
    deviation = size * chain.sums(spread).clamp(min=0).sqrt()
    start = chain.initial
    drawn = (start * (mean - (start * mean).sum()) ** 2).sum()
    whole = size * float(((chain.visits() * spread).sum() + drawn).sqrt())
    mean = torch.where(forbidden, torch.full_like(mean, -torch.inf), size * mean)
    deviation = torch.where(forbidden, torch.full_like(mean, torch.inf), deviation)
    return ReturnMoments(mean, deviation, float("inf") if bool((forbidden & (start > 0)).any()) else whole)
