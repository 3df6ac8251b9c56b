"""Runs of observations and actions as the filter is given them: one or many, by numbers or names, None for unseen."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from cai.models.common.checks import whole_number
from cai.models.processes.mdp import MDP
from cai.models.processes.observation import ObservationModel

__all__ = ["ObservedRuns", "action_number", "named", "read_runs"]

Run = Sequence[Any] | Tensor


class ObservedRuns(NamedTuple):
    """N runs of n actions.

    Attributes:
        seen: int [N, n + 1], -1 where nothing was observed.
        taken: int [N, n].
        single: whether one run was given, and no batch of one.
    """

    seen: np.ndarray
    taken: np.ndarray
    single: bool


def action_number(mdp: MDP, action: Any) -> int:
    """The number of an action, by its name or number; refuses what does not exist."""
    if isinstance(action, str):
        return mdp.action_index(action)
    number = whole_number(action)
    if number is None:
        raise TypeError(f"{action!r} is no action; give its number or its name")
    if not 0 <= number < mdp.num_actions:
        raise ValueError(f"action {number} does not exist; actions are 0 to {mdp.num_actions - 1}")
    return number


def read_runs(mdp: MDP, model: ObservationModel, observations: Any, actions: Any) -> ObservedRuns:
    """One run, or a batch of them of one length.

    Args:
        mdp: the process that was acted in.
        model: what is seen of its states.
        observations: n + 1 numbers, names or None; or N such runs.
        actions: n numbers or names; or N such runs.

    Raises:
        TypeError, ValueError: naming the entry, if there is no such observation or action, or lengths do not fit.
    """
    outer = _listed(observations, "observations")
    if not (len(outer) and _is_run(outer[0])):
        return _stacked([_read_run(mdp, model, outer, _listed(actions, "actions"))], single=True)
    others = _listed(actions, "actions")
    if len(others) != len(outer) or not all(map(_is_run, (*outer, *others))):
        raise ValueError(
            f"observations holds {len(outer)} runs, so actions must hold as many, one list each; it holds "
            f"{len(others)} entries"
        )
    runs = []
    for i, (seen, taken) in enumerate(zip(outer, others, strict=True)):
        with named(f"run {i}"):
            runs.append(_read_run(mdp, model, list(seen), list(taken)))
    lengths = [len(taken) for _, taken in runs]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"the runs of a batch have {min(lengths)} to {max(lengths)} actions; give runs of one length: pad "
            "short ones at their end with None for observations (and any action that is available), or filter them "
            "one by one"
        )
    return _stacked(runs, single=False)


def _stacked(runs: list[tuple[np.ndarray, np.ndarray]], single: bool) -> ObservedRuns:
    return ObservedRuns(np.stack([seen for seen, _ in runs]), np.stack([taken for _, taken in runs]), single)


def _read_run(mdp: MDP, model: ObservationModel, observations: list[Any], actions: list[Any]) -> Any:
    seen = _numbers(observations, "observations", model.num_observations, model.index)
    taken = _numbers(actions, "actions", mdp.num_actions, lambda action: action_number(mdp, action))
    if len(seen) != len(taken) + 1:
        advice = "o_1 comes before the first action, and one more after each (None where nothing was observed)"
        if model.first is None and len(seen) == len(taken):
            advice = "nothing is observed before the first action here, so put None first: [None, *observations]"
        raise ValueError(
            f"a run of {len(taken)} actions has {len(taken) + 1} observations, and {len(seen)} are given; {advice}"
        )
    if seen[0] >= 0 and model.first is None:
        raise ValueError(
            f"observations[0] is {model.name(int(seen[0]))}, but nothing is observed before the first action where "
            "observations depend on actions; put None first, or give ObservationModel(..., first=[S, Z])"
        )
    return seen, taken


def _numbers(values: list[Any], what: str, size: int, number: Callable[[Any], int]) -> np.ndarray:
    """Int [n], -1 for None; a plain list of numbers is looked at as a whole."""
    if values and all(type(value) is int for value in values):
        found = np.array(values)
        if found.dtype.kind == "i" and found.min() >= 0 and found.max() < size:
            return found
    missing = [t for t, value in enumerate(values) if isinstance(value, float) and math.isnan(value)]
    if missing:
        raise TypeError(f"{what}[{missing[0]}] is nan" + "; write None where nothing was observed" * (what[0] == "o"))
    result = []
    for t, value in enumerate(values):
        if value is None and what == "observations":
            result.append(-1)
            continue
        with named(f"{what}[{t}]"):
            result.append(number(value))
    return np.array(result, dtype=np.int64)


def _is_run(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str) and getattr(value, "ndim", 1) > 0


def _listed(values: Any, what: str) -> list[Any]:
    ordered = hasattr(values, "__iter__") and hasattr(values, "__len__") and not isinstance(values, (Mapping, Set))
    if isinstance(values, str) or not ordered:
        raise TypeError(f"{what} is {values!r}; give a list of numbers or names, one for each time")
    # What iterates over its columns' labels (a DataFrame) is a table of runs all the same.
    array = values if hasattr(values, "tolist") or not hasattr(values, "to_numpy") else values.to_numpy()
    listed: list[Any] = array.tolist() if hasattr(array, "tolist") else list(array)
    return listed


@contextlib.contextmanager
def named(what: str) -> Iterator[None]:
    """Says in the message which entry of the run is meant."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{what}: {error}") from None
