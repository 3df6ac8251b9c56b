"""How far a learned policy is from demonstrations, by a classifier that had no part in the learning."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cai.inference.learning.networks.experience.buffer import Columns
from cai.inference.learning.networks.experience.collector import Collector
from cai.inference.learning.networks.experience.interface import Interface
from cai.inference.learning.networks.layers.flat import Adam
from cai.inference.learning.networks.updates.brain import Brain
from cai.inverse.adversarial.brain import steps_of
from cai.inverse.adversarial.discriminator import Discriminator, Steps
from cai.models.environments.streams import EVALUATION_COPY, reset_seed

__all__ = ["fresh_steps", "measured_divergence"]

EPISODES = 20  # side by side
MOST = 4000  # fresh steps, about
BATCH, UPDATES, LOOK = 256, 300, 20
RATE = 5e-3


@torch.no_grad()
def fresh_steps(
    world: Any, interface: Interface, brain: Brain, longest: int, number: int, seed: int
) -> tuple[Steps, Tensor]:
    """Steps of new episodes of a policy, cut after `longest`, and of which episode each is [M].

    Args:
        world: the world.
        interface: how networks see it.
        brain: what acts.
        longest: steps of an episode at most.
        number: of steps, at least, unless there are more than 4,000; whole episodes.
        seed: of the run; resets have seeds that training never uses.
    """
    copies = getattr(world, "fixed_number", None) or EPISODES
    runs = Collector(world, interface, copies, reset_seed(seed, EVALUATION_COPY, 0))
    generator = torch.Generator().manual_seed(seed)
    episodes, ages = torch.arange(copies), torch.zeros(copies, dtype=torch.int64)
    rows, owners, active = [], [], torch.ones(copies, dtype=torch.bool)
    count, last = 0, copies
    while bool(active.any()):
        actions = brain.act(runs.observations, runs.allowed, generator)
        step = runs.step(actions, actions)
        inside = active & (ages < longest)
        rows.append(step.rows[inside])
        owners.append(episodes[inside])
        count += int(inside.sum())
        ends = torch.as_tensor(step.ends)
        ages = torch.where(ends, 0, ages + 1)
        over = active & (ends | (ages >= longest))  # what is cut here goes on, unseen, until the world resets it
        episodes[over] = last + torch.arange(int(over.sum()))
        last += int(over.sum())
        if count >= min(number, MOST):
            active = active & ~over
        elif bool((over & ~ends).any()):
            runs.begin_anew(over & ~ends)
            ages[over] = 0
    runs.close()
    return steps_of(torch.cat(rows), Columns(interface.size, interface.action_size, 0)), torch.cat(owners)


def measured_divergence(
    like: Discriminator, shown: tuple[Steps, Tensor], done: tuple[Steps, Tensor], seed: int
) -> float:
    """The Jensen-Shannon divergence of steps of demonstrations and of a policy, nats, as far as a classifier sees it.

    (log 4 - loss) / 2, at most log 2. The classifier learns from every other episode and is measured on those between,
    at its best moment; a single episode is divided step by step. It sees state and action, and the ends of episodes.

    Args:
        like: whose inputs it sees.
        shown: steps, and of which demonstration each is.
        done: the same of the policy.
        seed: of what it draws.
    """
    judge = Discriminator(like.interface, "gail", (64, 64), like.gamma, False, like.center, like.scale)
    generator = torch.Generator().manual_seed(seed)
    fit = Adam(judge.start(generator), RATE)
    halves = [_halves(*part) for part in (shown, done)]
    nothing = tuple(torch.zeros(len(test.weights)) for _, test in halves)
    least = math.log(4.0)
    for number in range(1, UPDATES + 1):
        batches = [_drawn(train, generator) for train, _ in halves]
        zeros = (torch.zeros(BATCH), torch.zeros(BATCH))
        fit.descend(judge.loss(fit.flat, batches[0], batches[1], zeros))
        if number % LOOK == 0:
            with torch.no_grad():
                found = judge.loss(fit.flat, halves[0][1], halves[1][1], (nothing[0], nothing[1]))
            least = min(least, float(found))
    return (math.log(4.0) - least) / 2


def _halves(steps: Steps, owners: Tensor) -> tuple[Steps, Steps]:
    several = len(owners.unique()) > 1
    odd = (owners if several else torch.arange(len(owners))) % 2 == 1
    if not bool((steps.weights[odd] > 0).any() and (steps.weights[~odd] > 0).any()):
        return steps, steps
    return Steps(*(part[~odd] for part in steps)), Steps(*(part[odd] for part in steps))


def _drawn(steps: Steps, generator: torch.Generator) -> Steps:
    return steps.drawn(torch.multinomial(steps.weights, BATCH, replacement=True, generator=generator))
