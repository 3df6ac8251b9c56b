"""What all ways to learn a table have in common: the contract of a rule, and steps that shrink with visits."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from cai.inference.learning.tables.replay import first_memory, remember
from cai.inference.learning.tables.world import Met, TableWorld

__all__ = [
    "POWER",
    "Array",
    "Losses",
    "Rule",
    "Tables",
    "first_critic",
    "half_square",
    "mean_share",
    "move_critic",
    "move_towards",
    "normalised",
    "pair_keys",
    "relative_entropy",
    "shift_level",
    "state_keys",
]

Array = np.ndarray[Any, Any]
Tables = dict[str, Array]

POWER = 0.7  # the n-th visit of an entry moves it by n^-POWER: slow enough to settle, fast enough to forget the start
LATE = 3  # the mean over n visits weighs the k-th by about (k / n)^LATE


class Losses(NamedTuple):
    """What one step of learning tells.

    Attributes:
        critic: half the mean squared error of the critic, squared reward units; NaN where there is none.
        actor: the actor's loss, reward units; NaN where there is none.
    """

    critic: float = float("nan")
    actor: float = float("nan")


class Rule(Protocol):
    """How a learner changes its tables, which are given anew for every block of steps and may be changed in place."""

    @property
    def length(self) -> int:
        """L, after how many steps of all copies it learns from them."""

    def start(self, world: TableWorld) -> Tables:
        """The first tables."""

    def log_policy(self, world: TableWorld, tables: Tables, times: Array, states: Array) -> Array:
        """[N, A], log pi(a | s) in nats of the policy that acts."""

    def log_answer(self, world: TableWorld, tables: Tables, times: Array, states: Array) -> Array:
        """[N, A], log pi(a | s) in nats of the policy that is the answer so far."""

    def chances(self, world: TableWorld, tables: Tables, times: Array, states: Array) -> Array:
        """[N, A], the weights by which the next actions of the N copies are drawn."""

    def learn(self, world: TableWorld, tables: Tables, met: Met) -> Losses:
        """Takes L steps of all copies, [L, N] each, into account."""

    def critic(self, world: TableWorld, tables: Tables) -> dict[str, Array]:
        """What the learner itself believes that states, or actions, are worth, in reward units."""

    def temperature(self, world: TableWorld, tables: Tables) -> float:
        """alpha, reward units a nat."""

    def at_bound(self, world: TableWorld, tables: Tables) -> bool:
        """Whether a learned temperature has run to a bound of its range."""


def state_keys(world: TableWorld, times: Array, states: Array) -> Array:
    """Places in a flat table [T, S]."""
    return times * world.num_states + states


def pair_keys(world: TableWorld, times: Array, states: Array, actions: Array) -> Array:
    """Places in a flat table [T, S, A]."""
    return state_keys(world, times, states) * world.num_actions + actions


def move_towards(table: Array, mean: Array, visits: Array, keys: Array, targets: Array) -> Array:
    """Moves entries towards sampled targets by n^-0.7, n counting the visits of an entry; the errors [N] before.

    Entries that are met several times at once move towards the mean of their targets, by as much as one after another.
    The mean of an entry over its visits, the late ones counting more, has much less noise than its last value: an
    answer is made of means (Polyak and Juditsky 1992), while targets look at the last values, which are more recent.

    Args:
        table: any shape of M entries, changed in place.
        mean: of each entry over its visits, changed in place.
        visits: how often each entry was met, changed in place.
        keys: int [N], places in the flat table.
        targets: [N].
    """
    table, mean, visits = table.reshape(-1), mean.reshape(-1), visits.reshape(-1)
    errors = targets - table[keys]
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    first = np.flatnonzero(np.diff(sorted_keys, prepend=-1))  # where the run of each entry begins
    entries, counts = sorted_keys[first], np.diff(first, append=len(keys))
    before = visits[entries]
    visit = np.arange(1, len(keys) + 1) + np.repeat(before - first, counts)  # of its entry, from 1
    kept = np.multiply.reduceat(1 - visit**-POWER, first)
    table[entries] += (1 - kept) * np.add.reduceat(errors[order], first) / counts
    visits[entries] = before + counts
    mean[entries] += mean_share(visits[entries], counts) * (table[entries] - mean[entries])
    return errors


def mean_share(visits: Array, counts: Array) -> Array:
    """[M], by how much of the way means move to present values, as those of the last counts [M] of visits [M]."""
    return np.minimum(1.0, counts * (LATE + 1) / (visits + LATE))


def first_critic(shape: tuple[int, ...]) -> Tables:
    """The first tables of a critic Q of shape [T, S, A]: its values, their means, and what was met of each entry."""
    tables = {name: np.zeros(shape) for name in ("q", "q_mean", "visits")}
    return tables | first_memory(shape) | {"level": np.zeros(2), "turn": np.zeros(1)}


def move_critic(world: TableWorld, tables: Tables, met: Met, targets: Array) -> Array:
    """Moves Q towards sampled targets; the errors [N] before.

    The steps n^-0.7 of `move_towards` average over the noise of outcomes. An entry that has led to the same state with
    the same reward at every visit has shown none, so it takes its target as it is: the sampled backup is then the whole
    one. With the first outcome that differs it becomes one of the others, all its visits counted.

    Args:
        world: the world.
        tables: those of `first_critic`, changed in place.
        met: N steps.
        targets: [N].
    """
    keys = pair_keys(world, met.times, met.states, met.actions)
    alike = remember(tables, keys, met)
    errors = move_towards(tables["q"], tables["q_mean"], tables["visits"], keys, targets)
    for name in ("q", "q_mean"):
        tables[name].reshape(-1)[keys[alike]] = targets[alike]
    shift_level(world, tables, met, np.where(alike, 0.0, errors), ("q", "q_mean"))
    return errors


def shift_level(world: TableWorld, tables: Tables, met: Met, errors: Array, names: tuple[str, ...]) -> None:
    """Moves all values of nonterminal states at once by what the errors of a step have in common.

    Over an infinite horizon errors of the level that all states share die out by 1 - gamma a visit only, far too slowly
    where steps shrink, and entries that are seldom met would lag behind the others. Errors that are 0 in the mean move
    nothing, so what is learned stays the same.

    Args:
        world: the world.
        tables: "level", [2], the shifts so far, and the share of steps that went on; and the tables that are moved.
        met: the steps.
        errors: targets less values.
        names: of the tables that are moved, [1, S, ...].
    """
    if world.finite:
        return
    level = tables["level"]
    level[0] += 1
    level[1] += (1 - met.terminated.mean() - level[1]) / level[0]
    shift = level[0] ** -POWER * errors.mean() / (1 - world.discount * level[1] + 1e-6)
    for name in names:
        tables[name][:, world.nonterminal] += shift


def half_square(errors: Array) -> float:
    """Half the mean of squares."""
    return 0.5 * float(errors @ errors) / len(errors)


def normalised(scores: Array) -> Array:
    """Rows of log probabilities [..., A] from scores [..., A], -inf allowed."""
    shifted = scores - scores.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def relative_entropy(world: TableWorld, states: Array, log_policy: Array) -> tuple[Array, Array]:
    """Log pi / p, 0 where an action is never taken, and pi, both [N, A]."""
    probs = np.exp(log_policy)
    with np.errstate(invalid="ignore"):
        ratio = np.where(probs > 0, log_policy - world.log_prior[states], 0.0)
    return ratio, probs
