"""Gymnasium environments that publish their transition table `P`, as trajectory models."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from cai.models.common.names import did_you_mean
from cai.models.processes.layout import GridLayout
from cai.models.processes.mdp import MDP
from cai.models.rewards.base import raw_table
from cai.models.rewards.tables import OutcomeReward, TableReward
from cai.models.trajectory.model import TrajectoryModel
from cai.models.zoo.transition_tables import FORM, TransitionTable, read_table

__all__ = ["fitting_temperature", "from_gymnasium", "gymnasium_model", "make_environment", "process_of_table"]


ACTION_NAMES = {
    "FrozenLakeEnv": ("left", "down", "right", "up"),
    "CliffWalkingEnv": ("up", "right", "down", "left"),
    "TaxiEnv": ("south", "north", "east", "west", "pickup", "dropoff"),
}
ARROWS = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}
ARROWS |= {"west": (0, -1), "south": (1, 0), "east": (0, 1), "north": (-1, 0)}
PLACES = "RGYB"  # where Taxi's passengers wait and want to go, in the order of its numbers


def from_gymnasium(
    environment: Any, *, initial: Any = None, **make_options: Any
) -> tuple[MDP, TableReward | OutcomeReward]:
    """Reads the process and the reward out of an environment with a `P` table.

    The table is P[state][action] = [(probability, next state, reward, terminated), ...]. States and actions may be
    called by numbers, words or tuples, which become their names; states may have different actions; and states that
    episodes end in need no entry.

    In such a table `terminated` belongs to the transition. It leads to its state if that state is only ever entered
    so; else to an added absorbing state, called "terminated". Equal outcomes (same next state, reward and
    termination) of one (s, a) are added up.

    Args:
        environment: an id such as "FrozenLake-v1", an environment, its class, or a table P itself.
        initial: where episodes start, in place of the environment's `initial_state_distrib`: a state as the table calls
            it, {state: probability}, or probabilities for the states of the table.
        **make_options: passed to `gymnasium.make` with an id.

    Returns:
        The process, and its reward: [S, A] where outcomes do not matter, else one per outcome.

    Raises:
        TypeError, ValueError: if the environment does not exist, has no `P` table, or one that cannot be read.
    """
    environment = make_environment(environment, make_options)
    base = getattr(environment, "unwrapped", None)
    owner = "the table" if base is None else type(base).__name__
    if base is not None and getattr(base, "P", None) is None:
        raise ValueError(
            f"{owner} has no transition table P, so its dynamics are not known. Three ways on: "
            "cai.infer(cai.models.environment_model(environment, discount=..., temperature=...), 'soft-actor-critic') "
            "learns from it; cai.models.count_model(environment, bins=...) counts a table along random steps; or write "
            "the dynamics as a Pyro program with sites s_1, a_1, O_1, s_2, ..., which backend 'smc' answers as it is. "
            "Toy-text environments (FrozenLake-v1, CliffWalking-v1, Taxi-v4) have a table"
        )
    table = read_table(environment if base is None else base.P, owner)
    return process_of_table(table, table.start(*_initial(base, owner, initial)), base)


def process_of_table(
    table: TransitionTable, start: np.ndarray, base: Any = None
) -> tuple[MDP, TableReward | OutcomeReward]:
    """The process and the reward of a table, its transitions that terminate leading to states that are terminal.

    Args:
        table: what was read.
        start: [S], where episodes start.
        base: the environment that the table belongs to, for names of actions and a picture where its map is known.
    """
    num_states, num_actions = len(table.states), len(table.actions)
    ending: set[int] = set()
    ordinary = set(np.flatnonzero(start).tolist())
    for state, row in enumerate(table.rows):
        for outcomes in row.values():
            for following, _, terminated in outcomes:
                if terminated:
                    ending.add(following)
                elif following != state:  # a state that only ever leads to itself is entered once the episode is over
                    ordinary.add(following)
    terminal = (ending - ordinary) | {state for state, row in enumerate(table.rows) if not row}
    sink = num_states
    needs_sink = bool(ending - terminal)
    total = num_states + needs_sink
    next_states: list[list[list[int]]] = [[[]] * num_actions for _ in range(total)]
    probabilities: list[list[list[float]]] = [[[]] * num_actions for _ in range(total)]
    rewards: list[list[list[float]]] = [[[]] * num_actions for _ in range(total)]
    for state, row in enumerate(table.rows):
        for action, outcomes in row.items() if state not in terminal else ():
            next_states[state][action] = [sink if end and n not in terminal else n for n, _, end in outcomes]
            probabilities[state][action] = list(outcomes.values())
            rewards[state][action] = [reward for _, reward, _ in outcomes]
    names = [str(state) for state in table.states]
    sink_name = "terminated" if "terminated" not in names else "terminated (added)"
    known = ACTION_NAMES.get(type(base).__name__)
    actions = known if table.counts_from_zero else tuple(str(action) for action in table.actions)
    numbered = table.states == list(range(num_states))
    layout, regions = _picture(base, total, actions) if numbered else (None, {})
    if layout is not None and type(base).__name__ == "TaxiEnv":
        names = [_taxi_name(base, state) for state in range(num_states)]
    regions = {key: mask for key, mask in regions.items() if any(mask)}
    if needs_sink:
        regions["terminated"] = [state == sink for state in range(total)]
    mdp = MDP.from_successors(
        next_states,
        probabilities,
        np.concatenate([start, np.zeros(int(needs_sink))]),
        available=[
            [state in terminal or a in table.rows[state] for a in range(num_actions)] for state in range(num_states)
        ]
        + [[True] * num_actions] * needs_sink,
        terminal=sorted(terminal) + [sink] * needs_sink,
        state_names=names + [sink_name] * needs_sink,
        action_names=actions,
        layout=layout,
        regions=regions,
    )
    return mdp, _reward(rewards, mdp)


def gymnasium_model(
    environment: Any,
    *,
    horizon: int | float | None = None,
    temperature: float | None = None,
    discount: float = 1.0,
    initial: Any = None,
    **make_options: Any,
) -> TrajectoryModel:
    """A trajectory model of an environment with a `P` table.

    Args:
        environment: an id such as "FrozenLake-v1", an environment, its class, or a table P itself.
        horizon: T; the environment's own limit of steps unless given (100 where it has none).
        temperature: alpha, in reward units per nat; unless given, a hundredth of the largest reward of the table in
            absolute value, so that what a step earns outweighs a choice of actions. (At 1, FrozenLake's goal of 1 moves
            the policy by less than a thousandth of a nat.)
        discount: in (0, 1].
        initial: where episodes start, as in `from_gymnasium`; where the environment does, unless given.
        **make_options: passed to `gymnasium.make` with an id, e.g. `is_slippery=False`.
    """
    environment = make_environment(environment, make_options)
    spec = getattr(environment, "spec", None)
    mdp, reward = from_gymnasium(environment, initial=initial)
    if horizon is None:
        horizon = (spec.max_episode_steps if spec is not None else None) or 100
    name = spec.id if spec is not None else type(getattr(environment, "unwrapped", environment)).__name__
    if temperature is None:
        temperature = fitting_temperature(mdp, reward)
    return TrajectoryModel(mdp, reward, horizon, temperature, discount, name=name)


def fitting_temperature(mdp: MDP, reward: TableReward | OutcomeReward) -> float:
    """A hundredth of the largest reward that is paid, in absolute value; there the policy is not all but the prior."""
    rewards = raw_table(reward, mdp, 0)
    return float(torch.where((mdp.probabilities > 0) & torch.isfinite(rewards), rewards, 0.0).abs().max()) / 100 or 1.0


def make_environment(environment: Any, options: dict[str, Any]) -> Any:
    """An environment by its id, of a class or a function, or itself; Gymnasium's own warnings stay warnings."""
    import gymnasium  # takes a second to import, so only where it is needed

    if inspect.isclass(environment) or (callable(environment) and not hasattr(environment, "unwrapped")):
        return make_environment(environment(**options), {})
    if not isinstance(environment, str):
        if options:
            raise ValueError(
                f"options {sorted(options)} are for an environment's id; this environment is made already"
                + _meant(options)
            )
        table = isinstance(environment, (Mapping, list, tuple)) or hasattr(environment, "shape")
        if not table and not hasattr(environment, "unwrapped"):
            raise TypeError(
                f"the environment is {environment!r:.60}; give a Gymnasium environment, its class, its id, or its "
                f"table P, {FORM}"
            )
        return environment
    try:
        return gymnasium.make(environment, **options)
    except (gymnasium.error.Error, ImportError) as error:
        raise ValueError(f"Gymnasium cannot make {environment!r}: {error}") from None
    except TypeError as error:
        raise ValueError(
            f"Gymnasium environment {environment!r} does not take these options: {error}{_meant(options)}"
        ) from None


def _meant(options: dict[str, Any]) -> str:
    found = (did_you_mean(name, ("horizon", "temperature", "discount", "initial")) for name in options)
    return next(filter(None, found), "")


def _initial(base: Any, owner: str, initial: Any) -> tuple[Any, str]:
    """Where episodes start, and what says so."""
    if initial is not None:
        return initial, "initial"
    distribution = getattr(base, "initial_state_distrib", None)
    if distribution is None:
        raise ValueError(
            f"{owner} does not say where it starts{'' if base is None else ' (no initial_state_distrib)'}; say it with "
            "initial=..., a state or {state: probability}"
        )
    return distribution, "initial_state_distrib"


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
    if kind == "TaxiEnv":
        return _taxi_rooms(base, total, actions), {}
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
    if padding < 0:  # some cells were never seen
        return None, {}
    cells = [(i, j) for i in range(height) for j in range(width)] + [None] * padding
    labels = [char if char in "SGH~" else "" for char in chars] + [""] * padding
    arrows = tuple(ARROWS.get(action) for action in actions or ())
    layout = GridLayout(height, width, tuple(cells), arrows, tuple(labels))
    return layout, {key: mask + [False] * padding for key, mask in regions.items()}


def _taxi_rooms(base: Any, total: int, actions: tuple[str, ...] | None) -> GridLayout | None:
    """The town once for each wish: a line of towns for each destination, in it one for each place of the passenger."""
    towns = np.asarray(base.desc)[1:-1, 1:-1:2]
    (height, width), wishes = towns.shape, (len(PLACES), len(PLACES) + 1)
    if total < height * width * wishes[0] * wishes[1]:
        return None
    cells: list[tuple[int, int] | None] = [None] * total
    labels = [""] * total
    for state in range(height * width * wishes[0] * wishes[1]):
        row, column, passenger, destination = base.decode(state)
        cells[state] = (destination * (height + 1) + 1 + row, passenger * (width + 1) + column)
        labels[state] = towns[row, column].decode().strip()
    arrows = tuple(ARROWS.get(action) for action in actions or ())
    size = (wishes[0] * (height + 1), wishes[1] * (width + 1) - 1)
    return GridLayout(*size, tuple(cells), arrows, tuple(labels))


def _taxi_name(base: Any, state: int) -> str:
    """Such as "from R to G: (2,3)": the passenger waits at R and wants to G, and the taxi is in row 2, column 3."""
    row, column, passenger, destination = base.decode(state)
    where = f"from {PLACES[passenger]}" if passenger < len(PLACES) else "aboard"
    return f"{where} to {PLACES[destination]}: ({row},{column})"
