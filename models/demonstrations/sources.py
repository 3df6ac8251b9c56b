"""Where demonstrations come from: tables, policies that are followed, environments that are run, other libraries."""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.models.common.checks import as_count, whole_number
from cai.models.common.random_draws import seeded
from cai.models.demonstrations.demonstrations import Demonstrations
from cai.models.trajectory.model import TrajectoryModel
from cai.models.trajectory.simulate import draw_rows

__all__ = ["draw", "minari_episodes", "read_episodes", "read_frame", "run_episodes"]


def read_frame(frame: Any, mdp: Any) -> Demonstrations:
    """See `Demonstrations.from_frame`."""
    for column in ("trajectory", "time", "state", "action"):
        if column not in frame.columns:
            raise ValueError(
                f"the table has no column {column!r}; it has {', '.join(map(str, frame.columns))}: rename, so that "
                "there are trajectory, time, state and action"
            )
    for column in ("trajectory", "time", "state"):
        if frame[column].isna().any():
            row = _plain(frame.index[frame[column].isna()][0])
            raise ValueError(f"row {row!r} of the table has no {column}")
    states, actions = [], []
    marks: dict[str, list[Any]] = {name: [] for name in ("person", "weight", "complete") if name in frame.columns}
    for key, part in frame.groupby("trajectory", sort=False):
        where = f"trajectory {_plain(key)!r}"
        part = part.sort_values("time", kind="stable")
        twice = part["time"][part["time"].duplicated()]
        if len(twice):
            raise ValueError(f"{where} has time {_plain(twice.iloc[0])!r} twice; give each time one row")
        missing = part["action"].isna().to_numpy()
        times = part["time"].to_numpy()
        if missing[:-1].any():
            raise ValueError(
                f"{where} has no action at time {_plain(times[:-1][missing[:-1]][0])!r}; only its last row has none"
            )
        if not missing[-1]:
            raise ValueError(
                f"{where} has an action at its last time {_plain(times[-1])!r}; add a row with the state that it led "
                "to, without an action"
            )
        states.append([_number(value, "state", where, mdp) for value in part["state"]])
        actions.append([_number(value, "action", where, mdp) for value in part["action"].iloc[:-1]])
        for name, found in marks.items():
            values = part[name].unique()
            if len(values) > 1:
                raise ValueError(
                    f"{where} has several values of {name}: {_plain(values[0])!r}, {_plain(values[1])!r}; give one"
                )
            found.append(bool(values[0]) if name == "complete" else values[0])
    return Demonstrations(
        states, actions, persons=marks.get("person"), weights=marks.get("weight"), complete=marks.get("complete")
    )


def _plain(value: Any) -> Any:
    """Without the wrapping of NumPy, for messages."""
    return value.item() if isinstance(value, np.generic) else value


def _number(value: Any, kind: str, where: str, mdp: Any) -> int:
    if isinstance(value, str):
        if mdp is None:
            raise TypeError(f"{where} has the {kind} {value!r}; give mdp=, by whose names it is read, or numbers")
        return int(mdp.state_index(value) if kind == "state" else mdp.action_index(value))
    number = whole_number(value)
    if number is None and isinstance(value, float) and value.is_integer():
        number = int(value)  # a column with blanks holds floats
    if number is None:
        raise TypeError(f"{where} has the {kind} {value!r}; expected a whole number")
    return number


def draw(policy: Any, model: TrajectoryModel, n: int, seed: int, max_steps: int) -> Demonstrations:
    """See `Demonstrations.from_policy`."""
    if not isinstance(model, TrajectoryModel):
        raise TypeError(f"the model is a {type(model).__name__}; demonstrations are drawn in a TrajectoryModel")
    as_count(n, "n")
    as_count(max_steps, "max_steps")
    generator = seeded(seed)
    probs = _action_probs(policy, model)
    simulator, mdp = model.simulator, model.mdp
    state = simulator.reset(n, generator)
    nonterminal = model.nonterminal.cpu()
    states, actions, going = [state], [], [nonterminal[state]]
    for t in range(int(model.horizon) if model.is_finite else max_steps):
        if not model.is_finite and not bool(going[-1].any()):
            break
        if probs is None:
            action = torch.as_tensor(policy.act(state, t, generator=generator)).long().reshape(n)
        else:
            action = draw_rows(probs[t if len(probs) > 1 else 0][state], generator)
        taken = mdp.available[state, action] | ~going[-1]
        if not bool(taken.all()):
            row = int((~taken).nonzero()[0])
            raise ValueError(
                f"the policy takes action {mdp.action_name(int(action[row]))} in state "
                f"{mdp.state_name(int(state[row]))}, where it is not available"
            )
        state = simulator.draw(state, action, t, generator, falls=False).next_states
        states.append(state)
        actions.append(action)
        going.append(nonterminal[state])
    lengths = torch.stack(going[:-1], -1).sum(-1) if actions else torch.zeros(n, dtype=torch.int64)
    table = torch.stack(actions, -1) if actions else torch.zeros(n, 0, dtype=torch.int64)
    complete = torch.ones(n, dtype=torch.bool) if model.is_finite else ~going[-1]
    return Demonstrations(torch.stack(states, -1), table, lengths, complete=complete)


def _action_probs(policy: Any, model: TrajectoryModel) -> Tensor | None:
    """[T, S, A], or [1, S, A]; None for a policy that has no table."""
    probs = getattr(policy, "action_probs", None)
    if probs is None:
        if not hasattr(policy, "act"):
            raise TypeError(
                f"the policy is a {type(policy).__name__}; give one with action_probs or act(states, t), such as "
                "cai.extract_policy(posterior)"
            )
        return None
    probs = probs.detach().cpu().double()
    want = (model.mdp.num_states, model.mdp.num_actions)
    if tuple(probs.shape[1:]) != want:
        raise ValueError(
            f"the policy knows {probs.shape[1]} states and {probs.shape[2]} actions; the model has {want[0]} and "
            f"{want[1]}"
        )
    if len(probs) > 1 and len(probs) < model.horizon:
        raise ValueError(
            f"the policy knows {len(probs)} steps, and the horizon of the model is {model.horizon}; ask for one over "
            "this horizon"
        )
    if len(probs) == 1 and 1 < model.horizon < math.inf and not getattr(policy, "stationary", True):
        raise ValueError(f"the policy knows one step, and the horizon of the model is {model.horizon}")
    return probs


def run_episodes(environment: Any, policy: Any, n: int, seed: int, end_state: int | None) -> Demonstrations:
    """See `Demonstrations.from_gymnasium`."""
    as_count(n, "n")
    generator = seeded(seed)
    states, actions, complete = [], [], []
    for episode in range(n):
        observation, _ = environment.reset(seed=seed + episode)
        seen, taken = [_whole(observation, "observation")], list[int]()
        ended = cut = False
        while not (ended or cut):
            action = _whole(_action(policy, seen[-1], len(taken), generator), "action")
            observation, _, ended, cut, _ = environment.step(action)
            seen.append(_whole(observation, "observation"))
            taken.append(action)
        if ended and end_state is not None:
            seen[-1] = end_state
        states.append(seen)
        actions.append(taken)
        complete.append(bool(ended))
    return Demonstrations(states, actions, complete=complete)


def _action(policy: Any, observation: int, t: int, generator: torch.Generator) -> Any:
    if hasattr(policy, "act"):
        return policy.act(observation, t, generator=generator)
    if not callable(policy):
        raise TypeError(f"the policy is a {type(policy).__name__}; give one with act(observation, t), or a function")
    return policy(observation)


def _whole(value: Any, what: str) -> int:
    number = whole_number(value)
    if number is None and isinstance(value, np.ndarray) and value.size == 1:
        number = whole_number(value.reshape(())[()])
    if number is None:
        raise TypeError(
            f"the {what} is {value!r:.60}; demonstrations hold numbered states and actions: count the environment into "
            "a table first (cai.models.count_model)"
        )
    return number


def minari_episodes(dataset: Any) -> Iterable[Any]:
    """The episodes of a Minari data set: of the object, of a list of them, or of the folder that it is stored in.

    Raises:
        FileNotFoundError: if a folder holds no `main_data.hdf5`.
        ImportError: if it does, and h5py is not installed.
    """
    if not isinstance(dataset, str | Path):
        return dataset.iterate_episodes() if hasattr(dataset, "iterate_episodes") else dataset
    folder = Path(dataset)
    files = [folder, folder / "main_data.hdf5", folder / "data" / "main_data.hdf5"]
    file = next((path for path in files if path.is_file()), None)
    if file is None:
        raise FileNotFoundError(
            f"{str(folder)!r} holds no data/main_data.hdf5; give the folder of one data set of Minari, such as "
            "~/.minari/datasets/D4RL/door/human-v2"
        )
    try:
        h5py = import_module("h5py")
    except ImportError:
        raise ImportError(
            "folders of Minari are read by h5py; install it (pip install h5py), or give minari.load_dataset(name)"
        ) from None
    names = ("observations", "actions", "terminations", "truncations")
    with h5py.File(file, "r") as held:
        stored = sorted((key for key in held if key.startswith("episode_")), key=lambda key: int(key[8:]))
        return [SimpleNamespace(**{name: held[key][name][()] for name in names if name in held[key]}) for key in stored]


def read_episodes(dataset: Any) -> Demonstrations:
    """See `Demonstrations.from_minari`."""
    episodes = minari_episodes(dataset)
    states, actions, complete = [], [], []
    for number, episode in enumerate(episodes):
        names = ("observations", "actions", "terminations", "truncations")
        if not all(hasattr(episode, name) for name in names):
            raise TypeError(
                f"episode {number} is a {type(episode).__name__} without {', '.join(names)}; give a Minari data set"
            )
        states.append(np.asarray(episode.observations))
        actions.append(np.asarray(episode.actions))
        complete.append(bool(np.asarray(episode.terminations).reshape(-1)[-1:].any()))
    return Demonstrations(states, actions, complete=complete)
