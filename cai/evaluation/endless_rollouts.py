"""Rollouts of a stationary policy over an infinite horizon: whole returns, of bounded work however late they end.

A chain is followed until what is left of its return is known (it has ended, or its return no longer varies), or until
the work is done. What is left then is drawn from the law that a return tends to where a chain ends late, a sum over an
exponential time: V E + sqrt((D^2 - V^2) E) Z for a mean V and a deviation D >= |V|, with E exponential of mean 1 and Z
normal; a gamma variable of this mean and deviation where D < |V|. So mean and deviation of all returns are right, cut
or not, and quantiles as far as that law is.
"""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
from torch import Tensor

from cai.inference.tabular.markov.chains import EndingChain
from cai.inference.tabular.markov.moments import ReturnMoments
from cai.models.trajectory.model import TrajectoryModel
from cai.models.trajectory.simulate import draw_start

__all__ = ["endless_returns"]

logger = logging.getLogger("cai.evaluation")

WORK = 8_000_000  # steps of chains that are taken in all, about a second
OVERHEAD = 500  # chains that a step of any number costs as much as
KNOWN = 1e-12  # of the largest mean or reward: what is left varies by no more than rounding


def endless_returns(
    model: TrajectoryModel,
    chain: EndingChain,
    moments: ReturnMoments,
    number: int,
    generator: torch.Generator,
) -> tuple[Tensor, int]:
    """Draws returns of a policy that surely ends.

    Args:
        model: the trajectory model, whose dynamics are the truth.
        chain: of a policy in that model.
        moments: of its returns.
        number: N, how many.
        generator: of the draws.

    Returns:
        (the returns [N], reward units; how many of the chains were cut, of which the rest is drawn as said above; a
        warning says so, too).
    """
    places, cumulative, targets, paid = _listed(model, chain)
    mean, deviation = moments.mean.numpy(), moments.deviation.numpy()
    sizes = np.abs(mean[np.isfinite(mean)])
    rewards = np.abs(paid[np.isfinite(paid)])
    known = deviation <= KNOWN * max(sizes.max(initial=0.0), rewards.max(initial=0.0))
    state = draw_start(model.mdp.initial.detach(), number, generator).numpy()
    draws = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    returns, running = np.zeros(number), np.arange(number)
    left = np.full(number, math.inf)  # steps until the discount ends each chain
    if model.discount < 1:
        left = np.floor(np.log1p(-draws.random(number)) / math.log(model.discount)) + 1
    passes = int(np.ceil(np.log2(np.diff(places).max(initial=1) + 1)))
    work, steps = WORK, 0
    while len(running):
        settled = known[state]
        returns[running[settled]] += mean[state[settled]]
        running, state, left = running[~settled], state[~settled], left[~settled]
        if not len(running) or work <= 0:
            break
        work, steps = work - len(running) - OVERHEAD, steps + 1
        edge, last = places[state], places[state + 1] - 1
        point = draws.random(len(running)) * cumulative[last]
        for _ in range(passes):  # the first edge whose cumulative weight is above the point
            middle = (edge + last) // 2
            below = cumulative[middle] <= point
            edge, last = np.where(below, np.minimum(middle + 1, last), edge), np.where(below, last, middle)
        returns[running] += paid[edge]
        left = left - 1
        goes = left > 0
        running, state, left = running[goes], targets[edge[goes]], left[goes]
    if len(running):
        returns[running] += _rest(mean[state], deviation[state], draws)
        logger.warning(
            "%d of %d rollouts had not ended after %d steps and were cut off: the rest of their return is drawn from a "
            "law with the right mean and standard deviation, so the worst returns are approximate; a lower discount or "
            "a finite horizon ends them",
            len(running),
            number,
            steps,
        )
    return torch.from_numpy(returns), len(running)


def _listed(model: TrajectoryModel, chain: EndingChain) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(first edge of each state [S + 1], cumulative weights [E] in each state, next states [E], rewards [E])."""
    chances = chain.moves + chain.falls
    states, actions, outcomes = torch.nonzero(chances, as_tuple=True)
    weights = chances[states, actions, outcomes].numpy()
    table = model.reward_table(0).detach()
    paid = table[states, actions, outcomes if table.shape[-1] > 1 else 0].numpy()
    following = model.mdp.successors().expand_as(chances)[states, actions, outcomes].numpy()
    places = np.searchsorted(states.numpy(), np.arange(len(chances) + 1))
    return places, _cumulative(weights, places), following, paid


def _cumulative(weights: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Cumulative weights [E], which begin anew in each state."""
    counts = np.diff(places)
    found = np.empty_like(weights)
    order = np.argsort(counts, kind="stable")
    for states in np.split(order, np.flatnonzero(np.diff(counts[order])) + 1):  # states of as many edges
        edges = places[states][:, None] + np.arange(counts[states[0]])
        found[edges] = np.cumsum(weights[edges], 1)
    return found


def _rest(mean: np.ndarray, deviation: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """Draws [N] of what is left, each of its mean and deviation; -inf where the mean is."""
    found = np.full(len(mean), -math.inf)
    finite = np.isfinite(mean)
    mean, deviation = mean[finite], deviation[finite]
    size = np.maximum(np.abs(mean), deviation)
    middle, width = mean / size, deviation / size
    late = draws.exponential(size=len(mean))
    varied = middle * late + np.sqrt(np.maximum(width**2 - middle**2, 0.0) * late) * draws.standard_normal(len(mean))
    with np.errstate(divide="ignore"):
        shape = np.where(width < np.abs(middle), (middle / np.maximum(width, 1e-300)) ** 2, 1.0)
    even = middle * draws.standard_gamma(shape) / shape
    found[finite] = size * np.where(width < np.abs(middle), even, varied)
    return found
