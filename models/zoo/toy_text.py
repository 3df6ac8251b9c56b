"""Gymnasium environments that publish their transition table `P`, as trajectory models."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import torch

from cai.models.processes.layout import GridLayout
from cai.models.processes.mdp import MDP
from cai.models.rewards.tables import OutcomeReward, TableReward
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["from_gymnasium", "gymnasium_model"]

logger = logging.getLogger("cai.models")

ACTION_NAMES = {
    "FrozenLakeEnv": ("left", "down", "right", "up"),
    "CliffWalkingEnv": ("up", "right", "down", "left"),
    "TaxiEnv": ("south", "north", "east", "west", "pickup", "dropoff"),
}
ARROWS = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}


def from_gymnasium(environment: Any, **make_options: Any) -> tuple[MDP, TableReward | OutcomeReward]:
    """Reads the process and the reward out of an environment with a `P` table.

    In such a table `terminated` belongs to the transition. It leads to its state if that state is only ever entered
    so; else to an added absorbing state, called "terminated". Equal outcomes (same next state, reward and
    termination) of one (s, a) are added up.

    Args:
        environment: an id such as "FrozenLake-v1", or an environment.
        **make_options: passed to `gymnasium.make` with an id.

    Returns:
        The process, and its reward: [S, A] where outcomes do not matter, else one per outcome.

    Raises:
        ValueError: if the environment does not exist or has no `P` table.
    """
    environment = _make(environment, make_options)
    base = environment.unwrapped
    table = getattr(base, "P", None)
    if table is None:
        raise ValueError(
            f"{type(base).__name__} has no transition table P, so its dynamics are not known; "
            "toy-text environments (FrozenLake-v1, CliffWalking-v1, Taxi-v4) have one"
        )
    num_states, num_actions = len(table), len(table[0])
    merged = [[_merge(table[s][a]) for a in range(num_actions)] for s in range(num_states)]
    start = _initial(base, num_states)
    ending: set[int] = set()
    ordinary = set(np.flatnonzero(start).tolist())
    for state, rows in enumerate(merged):
        for row in rows:
            for following, _, terminated in row:
                if terminated:
                    ending.add(following)
                elif following != state:  # a state that only ever leads to itself is entered once the episode is over
                    ordinary.add(following)
    terminal = ending - ordinary
    needs_sink = bool(ending & ordinary)
    sink = num_states
    next_states: list[list[list[int]]] = []
    probabilities: list[list[list[float]]] = []
    rewards: list[list[list[float]]] = []
    for state, rows in enumerate(merged):
        if state in terminal:
            rows = [{(state, 0.0, False): 1.0}] * num_actions
        next_states.append([[sink if (end and n not in terminal) else n for n, _, end in row] for row in rows])
        probabilities.append([list(row.values()) for row in rows])
        rewards.append([[reward for _, reward, _ in row] for row in rows])
    if needs_sink:
        next_states.append([[sink]] * num_actions)
        probabilities.append([[1.0]] * num_actions)
        rewards.append([[0.0]] * num_actions)
    total = num_states + needs_sink
    initial = np.zeros(total)
    initial[:num_states] = start
    names = [str(state) for state in range(num_states)] + ["terminated"] * needs_sink
    actions = ACTION_NAMES.get(type(base).__name__)
    layout, regions = _picture(base, total, actions)
    regions = {key: mask for key, mask in regions.items() if any(mask)}
    if needs_sink:
        regions["terminated"] = [state == sink for state in range(total)]
    mdp = MDP.from_successors(
        next_states,
        probabilities,
        initial,
        terminal=sorted(terminal) + [sink] * needs_sink,
        state_names=names,
        action_names=actions,
        layout=layout,
        regions=regions,
    )
    return mdp, _reward(rewards, mdp)


def gymnasium_model(
    environment: Any,
    *,
    horizon: int | float | None = None,
    temperature: float = 1.0,
    discount: float = 1.0,
    **make_options: Any,
) -> TrajectoryModel:
    """A trajectory model of an environment with a `P` table.

    Args:
        environment: an id such as "FrozenLake-v1", or an environment.
        horizon: T; the environment's own limit of steps unless given (100 where it has none).
        temperature: alpha, in reward units per nat.
        discount: in (0, 1].
        **make_options: passed to `gymnasium.make` with an id, e.g. `is_slippery=False`.
    """
    environment = _make(environment, make_options)
    spec = environment.spec
    mdp, reward = from_gymnasium(environment)
    if horizon is None:
        horizon = (spec.max_episode_steps if spec is not None else None) or 100
    name = spec.id if spec is not None else type(environment.unwrapped).__name__
    return TrajectoryModel(mdp, reward, horizon, temperature, discount, name=name)


def _make(environment: Any, options: dict[str, Any]) -> Any:
    import gymnasium  # takes a second to import, so only where it is needed

    if not isinstance(environment, str):
        if options:
            raise ValueError(f"options {sorted(options)} are for an environment's id; this environment is made already")
        return environment
    try:
        with warnings.catch_warnings(record=True) as caught:
            made = gymnasium.make(environment, **options)
    except (gymnasium.error.Error, ImportError) as error:
        raise ValueError(f"Gymnasium cannot make {environment!r}: {error}") from None
    except TypeError as error:
        raise ValueError(f"Gymnasium environment {environment!r} does not take these options: {error}") from None
    for warning in caught:
        logger.warning("%s", warning.message)
    return made


def _merge(outcomes: Any) -> dict[tuple[int, float, bool], float]:
    """(next state, reward, terminated) -> probability, without what cannot happen."""
    result: dict[tuple[int, float, bool], float] = {}
    for probability, following, reward, terminated in outcomes:
        if probability > 0:
            key = (int(following), float(reward), bool(terminated))
            result[key] = result.get(key, 0.0) + float(probability)
    return result


def _initial(base: Any, num_states: int) -> np.ndarray:
    distribution = getattr(base, "initial_state_distrib", None)
    if distribution is None:
        raise ValueError(
            f"{type(base).__name__} does not say where it starts (no initial_state_distrib); "
            "build the MDP from its P table with MDP.from_successors and your own initial distribution"
        )
    values = np.asarray(distribution, dtype=np.float64)
    if values.shape != (num_states,):
        raise ValueError(f"initial_state_distrib has shape {list(values.shape)}; expected [{num_states}]")
    return values / values.sum()


def _reward(rewards: list[list[list[float]]], mdp: MDP) -> TableReward | OutcomeReward:
    table = torch.zeros(mdp.probabilities.shape, dtype=torch.float64)
    for state, rows in enumerate(rewards):
        for action, row in enumerate(rows):
            table[state, action, : len(row)] = torch.tensor(row, dtype=torch.float64)
    first = table[..., :1]
    if bool(((table == first) | (mdp.probabilities == 0)).all()):
        return TableReward(first[..., 0])
    return OutcomeReward(table)


def _picture(base: Any, total: int, actions: tuple[str, ...] | None) -> tuple[GridLayout | None, dict[str, list[bool]]]:
    """The layout and the named regions of the environments whose map is known."""
    kind = type(base).__name__
    if kind == "FrozenLakeEnv":
        rows = [[char.decode() for char in row] for row in base.desc]
        chars = [char for row in rows for char in row]
        regions = {what: [c == char for c in chars] for what, char in (("hole", "H"), ("goal", "G"))}
    elif kind == "CliffWalkingEnv":
        cliff = np.asarray(base._cliff, dtype=bool)
        chars = ["~" if cell else "." for cell in cliff.reshape(-1)]
        chars[int(base.start_state_index)] = "S"
        chars[-1] = "G"
        rows = np.array(chars).reshape(cliff.shape).tolist()
        regions = {"goal": [char == "G" for char in chars]}
    else:
        return None, {}
    height, width = len(rows), len(rows[0])
    padding = total - height * width
    cells = [(i, j) for i in range(height) for j in range(width)] + [None] * padding
    labels = [char if char in "SGH~" else "" for char in chars] + [""] * padding
    arrows = tuple(ARROWS.get(action) for action in actions or ())
    layout = GridLayout(height, width, tuple(cells), arrows, tuple(labels))
    return layout, {key: mask + [False] * padding for key, mask in regions.items()}
