"""Problems drawn at random, for tests, timings and averages over many problems."""

from __future__ import annotations

import math

import numpy as np

from cai.models.common.checks import as_count
from cai.models.processes.mdp import MDP
from cai.models.rewards.tables import OutcomeReward, TableReward
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["random_mdp"]

PERMUTED = 2**24  # numbers that are permuted at a time; where there are more, few are drawn rather than taken of them


def random_mdp(
    seed: int = 0,
    *,
    num_states: int = 8,
    num_actions: int = 3,
    branching: int = 2,
    num_terminal: int = 0,
    reward_scale: float = 1.0,
    outcome_rewards: bool = False,
    horizon: int | float = 10,
    temperature: float = 1.0,
    discount: float = 1.0,
) -> TrajectoryModel:
    """A Garnet: every action leads to `branching` states drawn at random, with random probabilities and rewards.

    Garnets (Archibald, McKinnon and Thomas 1995, "On the generation of Markov decision processes"; Bhatnagar et al.
    2009, "Natural actor-critic algorithms"). The next states of an action are different from each other, their
    probabilities the gaps between sorted uniform numbers, and rewards normal. The same arguments give the same problem.

    Args:
        seed: of numpy's generator.
        num_states: S.
        num_actions: A.
        branching: K, the next states of an action, at most S.
        num_terminal: the last so many states are terminal; fewer than S.
        reward_scale: standard deviation of rewards, in reward units.
        outcome_rewards: draw a reward for every outcome [S, A, K], not only for every action [S, A].
        horizon: T.
        temperature: alpha.
        discount: in (0, 1].

    Returns:
        The model; its start is uniform over the states that are not terminal.

    Raises:
        ValueError: if a number does not fit the others.
    """
    as_count(seed, "seed", 0)
    for value, what in ((num_states, "num_states"), (num_actions, "num_actions"), (branching, "branching")):
        as_count(value, what)
    if branching > num_states:
        raise ValueError(
            f"branching is {branching}, and there are {num_states} states; give no more branches than states"
        )
    if as_count(num_terminal, "num_terminal", 0) >= num_states:
        raise ValueError(f"num_terminal is {num_terminal} of {num_states} states; leave at least one to decide in")
    if not 0 <= reward_scale < math.inf:
        raise ValueError(f"reward_scale is {reward_scale}; it is a standard deviation: give a finite number >= 0")
    rng = np.random.default_rng(seed)
    shape = (num_states, num_actions, branching)
    next_states = _different(rng, num_states, shape)
    cuts = np.sort(rng.random((*shape[:2], branching - 1)), axis=-1)
    probabilities = np.diff(cuts, prepend=0.0, append=1.0, axis=-1)
    rewards = rng.normal(0.0, reward_scale, size=shape if outcome_rewards else shape[:2])
    num_nonterminal = num_states - num_terminal
    next_states[num_nonterminal:] = np.arange(num_nonterminal, num_states)[:, None, None]
    probabilities[num_nonterminal:] = np.eye(branching)[0]
    rewards[num_nonterminal:] = 0.0
    mdp = MDP.from_successors(
        next_states,
        probabilities,
        np.where(np.arange(num_states) < num_nonterminal, 1.0 / num_nonterminal, 0.0),
        terminal=range(num_nonterminal, num_states),
        regions={"terminal": range(num_nonterminal, num_states)} if num_terminal else None,
    )
    reward = OutcomeReward(rewards) if outcome_rewards else TableReward(rewards)
    return TrajectoryModel(mdp, reward, horizon, temperature, discount, name="random-mdp")


def _different(rng: np.random.Generator, number: int, shape: tuple[int, ...]) -> np.ndarray:
    """int64 of a shape: numbers below `number` in random order, none twice along the last axis."""
    rows, size = math.prod(shape[:-1]), shape[-1]
    if rows * number <= PERMUTED or size**2 > number:
        block, whole = max(1, PERMUTED // number), np.broadcast_to(np.arange(number), (rows, number))
        blocks = (whole[first : first + block] for first in range(0, rows, block))
        return np.concatenate([rng.permuted(part, axis=-1)[:, :size] for part in blocks]).reshape(shape)
    drawn = rng.integers(number, size=(rows, size))
    again = np.arange(rows)
    while len(again):  # at most two of five rows each time, as size^2 <= number
        ordered = np.sort(drawn[again], axis=-1)
        again = again[(ordered[:, 1:] == ordered[:, :-1]).any(-1)]
        drawn[again] = rng.integers(number, size=(len(again), size))
    return drawn.reshape(shape)
