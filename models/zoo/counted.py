"""Transition tables counted along steps of an environment that has none."""

from __future__ import annotations

import logging
import numbers
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cai.models.common.checks import as_count
from cai.models.trajectory.model import TrajectoryModel
from cai.models.zoo.toy_text import fitting_temperature, make_environment, process_of_table
from cai.models.zoo.transition_tables import read_table

__all__ = ["count_model"]

logger = logging.getLogger("cai.models")

WIDE = 1e6  # bounds of an observation beyond this say nothing about where it lies


class _Steps(NamedTuple):
    """What was seen: observations [N + episodes], and of each step the places of both ends, the action and the rest."""

    observations: list[Any]
    starts: list[int]
    moves: list[tuple[int, int, int, float, bool]]


def count_model(
    environment: Any,
    *,
    bins: Any = None,
    steps: int = 50_000,
    actions: Sequence[Any] | None = None,
    policy: Callable[[Any], int] | None = None,
    horizon: int | float | None = None,
    temperature: float | None = None,
    discount: float = 1.0,
    seed: int = 0,
    **make_options: Any,
) -> TrajectoryModel:
    """A trajectory model of an environment without a table: relative frequencies of what followed, in bins.

    A state is a bin of observations, called by its numbers, e.g. "(3, 0)"; the chain of bins is taken for Markov, which
    it is as far as the bins are fine. Rewards are means over what was paid for the same (state, action, next state). An
    action that was never tried in a state does not exist there, and a bin in which nothing was tried counts as never
    seen. Nothing tells how far a frequency is from the truth: count more steps and compare.

    Args:
        environment: an id such as "CartPole-v1", an environment, or a class or function that makes one; its actions are
            discrete, or `actions` lists some.
        bins: how an observation of real numbers becomes a state: the number of equal bins for each of its numbers
            (between the bounds of the space, or where it has none, of what was seen); or one such number each; or a
            list of inner edges each; or a function of the observation that returns what the state is called. Whole
            numbers need none.
        steps: how many are counted.
        actions: the actions that are tried, for environments whose actions are not discrete.
        policy: observation -> the number of an action, to see what random actions do not reach; uniform unless given.
        horizon: T; the environment's own limit of steps unless given (100 where it has none).
        temperature: alpha, in reward units per nat; as in `gymnasium_model` unless given.
        discount: in (0, 1].
        seed: of the environment and of random actions.
        **make_options: passed to `gymnasium.make` with an id, or to the class or function.

    Raises:
        TypeError, ValueError: if observations or actions cannot be counted, or bins do not fit.
    """
    environment = make_environment(environment, make_options)
    name = type(environment.unwrapped).__name__
    tried = _actions(environment.action_space, actions, name)
    seen = _run(environment, tried, policy, as_count(steps, "steps"), int(seed))
    labels = _labels(seen.observations, environment.observation_space, bins, name)
    known = _closed(labels, seen.moves)
    counts: dict[tuple[Hashable, int], dict[tuple[Hashable, bool], list[float]]] = {}
    for before, after, action, reward, terminated in seen.moves:
        if labels[before] in known and (terminated or labels[after] in known):
            row = counts.setdefault((labels[before], action), {})
            cell = row.setdefault((labels[after], terminated), [0.0, 0.0])
            cell[0], cell[1] = cell[0] + 1, cell[1] + reward
    table: dict[Hashable, dict[int, list[Any]]] = {state: {} for state in sorted(known, key=_order)}
    for (state, action), row in counts.items():
        total = sum(number for number, _ in row.values())
        table[state][action] = [(n / total, to, paid / n, end) for (to, end), (n, paid) in row.items()]
    first = [labels[place] for place in seen.starts if labels[place] in known]
    if not first:
        raise ValueError(f"in {steps} steps no state of {name} was seen twice; use fewer bins, or more steps")
    left_out = len(set(labels)) - len({to for row in counts.values() for to, _ in row} | known)
    if left_out:
        logger.warning("%s: %d states in which no action was tried are left out; count more steps", name, left_out)
    read = read_table({state: dict(sorted(row.items())) for state, row in table.items()}, name)
    start: dict[Any, float] = {}
    for state in first:
        start[state] = start.get(state, 0.0) + 1 / len(first)
    mdp, reward_factor = process_of_table(read, read.start(start), environment.unwrapped)
    limit = environment.spec.max_episode_steps if environment.spec is not None else None
    temperature = fitting_temperature(mdp, reward_factor) if temperature is None else temperature
    return TrajectoryModel(mdp, reward_factor, horizon or limit or 100, temperature, discount, name=f"{name} (counted)")


def _actions(space: Any, actions: Sequence[Any] | None, name: str) -> list[Any]:
    from gymnasium.spaces import Discrete

    if actions is not None:
        return list(actions)
    if not isinstance(space, Discrete):
        raise ValueError(
            f"the actions of {name} are {space}, which cannot be counted; give some of them: actions=[...], each "
            "as the environment's step takes it"
        )
    return [int(space.start) + action for action in range(int(space.n))]


def _run(environment: Any, tried: list[Any], policy: Callable[[Any], int] | None, steps: int, seed: int) -> _Steps:
    random = np.random.default_rng(seed)
    observations: list[Any] = []
    starts: list[int] = []
    moves: list[tuple[int, int, int, float, bool]] = []
    over, observation = True, None
    drawn = random.integers(len(tried), size=steps).tolist()
    for choice in drawn:
        if over:
            observation, _ = environment.reset(seed=seed if not starts else None)
            starts.append(len(observations))
            observations.append(observation)
        action = choice if policy is None else int(policy(observation))
        observation, reward, terminated, truncated, _ = environment.step(tried[action])
        observations.append(observation)
        moves.append((len(observations) - 2, len(observations) - 1, action, float(reward), bool(terminated)))
        over = terminated or truncated
    return _Steps(observations, starts, moves)


def _closed(labels: list[Hashable], moves: list[tuple[int, int, int, float, bool]]) -> set[Hashable]:
    """The states in which some action leads to such a state again, or ends the episode."""
    edges = {(labels[before], labels[after], end) for before, after, _, _, end in moves}
    known = {before for before, _, _ in edges}
    while True:
        kept = {before for before, after, end in edges if before in known and (end or after in known)}
        if kept == known:
            return known
        known = kept


def _labels(observations: list[Any], space: Any, bins: Any, name: str) -> list[Hashable]:
    """What the state of each observation is called."""
    if callable(bins):
        return [bins(observation) for observation in observations]
    if isinstance(observations[0], Mapping):
        raise ValueError(
            f"{name} is observed as a dictionary; give bins=function, from the observation to what the state is called"
        )
    try:
        values = np.asarray([_flat(observation) for observation in observations])
    except ValueError:
        values = np.asarray([])
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise ValueError(
            f"observations of {name} are {space}, which no bins fit; give bins=function, from the observation "
            "to what the state is called"
        )
    if values.dtype.kind == "f":
        values = _binned(values, space, bins, name)
    elif bins is not None:
        raise ValueError(f"observations of {name} are whole numbers, which need no bins; leave bins out")
    scalar = values.shape[1] == 1
    return [row[0] if scalar else tuple(row) for row in values.tolist()]


def _flat(observation: Any) -> np.ndarray:
    """The numbers of an observation in a row, also those of a tuple of spaces."""
    parts = observation if isinstance(observation, tuple) else (observation,)
    return np.concatenate([np.ravel(part) for part in parts])


def _binned(values: np.ndarray, space: Any, bins: Any, name: str) -> np.ndarray:
    size = values.shape[1]
    if bins is None:
        raise ValueError(
            f"observations of {name} hold {size} real numbers; say how they become states: bins=8 (equal bins), "
            f"bins={[8] * size if size < 5 else '[8, 8, ...]'}, a list of edges for each, or a function"
        )
    each = [bins] * size if isinstance(bins, numbers.Integral) else list(bins)
    if len(each) != size:
        raise ValueError(f"bins holds {len(each)} entries; observations of {name} hold {size} numbers")
    low, high = (
        np.broadcast_to(getattr(space, end, np.nan), space.shape or (size,)).ravel() for end in ("low", "high")
    )
    columns = []
    for column, given in enumerate(each):
        entries = values[:, column]
        if isinstance(given, numbers.Integral):
            bounds = [float(low[column]), float(high[column])]
            if not max(map(abs, bounds)) < WIDE:
                bounds = [float(entries.min()), float(entries.max())]
            edges = np.linspace(bounds[0], bounds[1], as_count(int(given), f"bins[{column}]") + 1)[1:-1]
        else:
            edges = np.asarray(given, dtype=np.float64)
            if edges.ndim != 1 or not (np.diff(edges) > 0).all():
                raise ValueError(f"bins[{column}] is {given!r}; give a number of bins, or edges that rise")
        columns.append(np.digitize(entries, edges))
    return np.stack(columns, 1)


def _order(label: Any) -> Any:
    """Numbers and tuples of them by size, whatever else by how it is written."""
    parts = label if isinstance(label, tuple) else (label,)
    plain = all(isinstance(part, numbers.Real) for part in parts)
    return (0, tuple(map(float, parts)), "") if plain else (1, (), str(label))
