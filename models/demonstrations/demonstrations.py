"""Trajectories of somebody who acted: states and actions, how far each goes, who showed it, and what it weighs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cai.models.common.checks import float_tensor, index_tensor
from cai.models.common.facts import fact_table
from cai.models.common.storage import Saved, storable

if TYPE_CHECKING:
    import pandas

    from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Demonstrations", "persons_of"]


@storable("inverse-demonstrations")
@dataclass(frozen=True, eq=False, repr=False)
class Demonstrations(Saved):
    """N demonstrations of numbered states and actions; demonstration n takes `lengths[n]` actions.

    The discount of a model is no part of them: they are what happened in the world, and never hold the absorbing state
    that a discount adds. What follows after `lengths[n]` actions is padding and is not looked at.

    Args:
        states: int [N, T + 1], or N lists that may differ in length; one more than the actions.
        actions: int [N, T], or N lists.
        lengths: int [N], how many actions of each row count; all unless given.
        persons: N labels of who showed it, for errors that are clustered; None where nobody knows.
        weights: [N], how often each counts, >= 0; 1 unless given.
        complete: bool [N], False where a demonstration was cut before its end; None says that all are complete.

    Attributes:
        states: int64 [N, T + 1], each row padded by its last state.
        actions: int64 [N, T].
        lengths: int64 [N].
        persons: a tuple of N labels, or None.
        weights: float64 [N].
        complete: bool [N].

    Raises:
        TypeError, ValueError: naming the demonstration, if entries are no whole numbers or negative, states are not one
            more than actions, a length, weight or label is missing or makes no sense, or nothing is shown at all.
    """

    states: Any
    actions: Any
    lengths: Any = None
    persons: Any = None
    weights: Any = None
    complete: Any = None

    def __post_init__(self) -> None:
        states, widths = _rows(self.states, "states")
        actions, taken = _rows(self.actions, "actions")
        if len(states) != len(actions):
            raise ValueError(
                f"there are {len(states)} rows of states and {len(actions)} of actions; give one of each for a "
                "demonstration"
            )
        for n, (seen, acted) in enumerate(zip(widths.tolist(), taken.tolist(), strict=True)):
            if seen != acted + 1:
                raise ValueError(
                    f"demonstration {n} has {seen} states and {acted} actions; give one state more than actions, the "
                    "one in which it ended"
                )
        lengths = _lengths(self.lengths, taken)
        inside = torch.arange(states.shape[1]) <= lengths[:, None]
        _refuse_negative(states, inside, "states")
        _refuse_negative(actions, inside[:, 1:], "actions")
        last = states.gather(1, lengths[:, None])
        weights = _weights(self.weights, len(states))
        put = object.__setattr__
        put(self, "states", torch.where(inside, states, torch.where(states < 0, last, states)))
        put(self, "actions", torch.where(inside[:, 1:], actions, actions.clamp(min=0)))
        put(self, "lengths", lengths)
        put(self, "persons", None if self.persons is None else persons_of(self.persons, len(states)))
        put(self, "weights", weights)
        put(self, "complete", _flags(self.complete, len(states)))

    def __len__(self) -> int:
        return len(self.states)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(states [L + 1], actions [L]) of each."""
        for states, actions, length in zip(self.states, self.actions, self.lengths.tolist(), strict=True):
            yield states[: length + 1], actions[:length]

    def select(self, rows: Any) -> Demonstrations:
        """Some of the demonstrations.

        Args:
            rows: numbers of demonstrations, each as often as it is wanted; or bool [N].

        Raises:
            IndexError: if there is no such demonstration.
        """
        chosen = torch.arange(len(self))[torch.as_tensor(rows)].reshape(-1)
        persons = None if self.persons is None else [self.persons[n] for n in chosen.tolist()]
        return Demonstrations(
            self.states[chosen],
            self.actions[chosen],
            self.lengths[chosen],
            persons,
            self.weights[chosen],
            self.complete[chosen],
        )

    def __repr__(self) -> str:
        shortest, longest = int(self.lengths.min()), int(self.lengths.max())
        steps = f"{longest}" if shortest == longest else f"{shortest} to {longest}"
        cut = int((~self.complete).sum())
        people = "" if self.persons is None else f", {len(set(self.persons))} persons"
        return f"Demonstrations({len(self)}, {steps} actions{f', {cut} cut' if cut else ''}{people})"

    def _repr_html_(self) -> str:
        facts: dict[str, Any] = {
            "demonstrations": len(self),
            "actions": int(self.lengths.sum()),
            "cut": int((~self.complete).sum()),
        }
        facts |= {"total weight": f"{float(self.weights.sum()):g}"}
        return fact_table("Demonstrations", facts)

    # ---- where they come from -----------------------------------------------------------------------------------

    @classmethod
    def from_frame(cls, frame: pandas.DataFrame, *, mdp: Any = None) -> Demonstrations:
        """Reads a table with a row for each state that was seen.

        Args:
            frame: columns `trajectory`, `time` (rows are sorted by it; times need not be dense), `state` and `action`.
                The last row of a trajectory has no action. Optional columns, the same in all rows of a trajectory:
                `person`, `weight` and `complete`.
            mdp: the process by whose names states and actions are read, where they are no numbers.

        Raises:
            TypeError, ValueError: naming trajectory and time, if a column is missing, a time is given twice, an action
                is missing or follows the last state, or a state or an action is not known.
        """
        from cai.models.demonstrations.sources import read_frame

        return read_frame(frame, mdp)

    @classmethod
    def from_policy(
        cls, policy: Any, model: TrajectoryModel, n: int, seed: int = 0, *, max_steps: int = 1000
    ) -> Demonstrations:
        """Draws demonstrations of somebody who follows a policy in the true world, without the discount of the model.

        Args:
            policy: with `action_probs` [T, S, A] ([1, S, A] if stationary), as policies and tabular answers have; or
                with `act(states, t, generator=...)`.
            model: whose process and horizon are used.
            n: N.
            seed: of the draws.
            max_steps: over an infinite horizon, after how many steps those that have not ended are cut.

        Returns:
            N demonstrations, complete unless they were cut; `lengths` count the steps from states that are not
            terminal.

        Raises:
            ValueError: if the policy knows other states, actions or times than the model.
        """
        from cai.models.demonstrations.sources import draw

        return draw(policy, model, n, seed, max_steps)

    @classmethod
    def from_gymnasium(
        cls, environment: Any, policy: Any, n: int, seed: int = 0, *, end_state: int | None = None
    ) -> Demonstrations:
        """Runs a policy in a Gymnasium environment whose observations and actions are numbered, for n episodes.

        Args:
            environment: an environment; it is not closed.
            policy: with `act(observation, t)`, or a function of the observation.
            n: how many episodes.
            seed: of the first episode's reset; later ones count on from it. It seeds the draws of the policy, too.
            end_state: the number that takes the place of the last state of episodes that terminate, for models that
                have a state of their own for it; the last observation unless given.

        Returns:
            N demonstrations; truncated episodes are marked as cut.

        Raises:
            TypeError, ValueError: if observations or actions are no whole numbers.
        """
        from cai.models.demonstrations.sources import run_episodes

        return run_episodes(environment, policy, n, seed, end_state)

    @classmethod
    def from_minari(cls, dataset: Any) -> Demonstrations:
        """Reads the episodes of a Minari data set: T + 1 observations, T actions, truncated ones marked as cut.

        Args:
            dataset: with `iterate_episodes()`, or episodes with `observations`, `actions`, `terminations` and
                `truncations`; or the folder where one is stored, which is read by h5py.

        Raises:
            FileNotFoundError: if the folder holds no data set.
            TypeError, ValueError: if observations or actions are no whole numbers.
        """
        from cai.models.demonstrations.sources import read_episodes

        return read_episodes(dataset)

    @classmethod
    def from_imitation(cls, trajectories: Sequence[Any]) -> Demonstrations:
        """Reads trajectories of the imitation library: `obs` [T + 1], `acts` [T], `terminal` False where it was cut.

        Args:
            trajectories: objects with these attributes.

        Raises:
            TypeError, ValueError: if observations or actions are no whole numbers.
        """
        rows = list(trajectories)
        for number, row in enumerate(rows):
            if not all(hasattr(row, name) for name in ("obs", "acts", "terminal")):
                raise TypeError(
                    f"trajectory {number} is a {type(row).__name__} without obs, acts and terminal; give the "
                    "trajectories of the imitation library"
                )
        complete = [bool(row.terminal) for row in rows]
        return cls([np.asarray(row.obs) for row in rows], [np.asarray(row.acts) for row in rows], complete=complete)


def persons_of(persons: Any, number: int) -> tuple[Any, ...]:
    """N labels of persons, each of which says who it was.

    Raises:
        ValueError: if there are not N, or one is missing (None or NaN).
    """
    given = persons.tolist() if hasattr(persons, "tolist") else list(persons)
    if len(given) != number:
        raise ValueError(f"persons holds {len(given)} labels for {number} demonstrations; give one for each")
    for n, person in enumerate(given):
        if person is None or (isinstance(person, float) and math.isnan(person)) or str(person) in ("NaT", "<NA>"):
            raise ValueError(
                f"persons[{n}] is {person!r}; errors are clustered by person, so give everybody a label, or leave "
                "persons out"
            )
    return tuple(given)


def _rows(given: Any, what: str) -> tuple[Tensor, Tensor]:
    """int64 [N, W] of rows that may be ragged, and how long each is [N]; short ones are padded by -1."""
    if hasattr(given, "__len__") and not len(given):
        raise ValueError(f"{what} is empty: there is no demonstration; give at least one")
    ragged = isinstance(given, (list, tuple)) and len({_length(row, what, n) for n, row in enumerate(given)}) > 1
    empty = isinstance(given, (list, tuple)) and len(given) > 0 and all(_length(row, what, 0) == 0 for row in given)
    if not ragged and not empty:
        table = index_tensor(np.stack([np.asarray(row) for row in given]) if _of_arrays(given) else given, what)
        if table.dim() != 2:
            raise ValueError(
                f"{what} has shape {list(table.shape)}; expected rows, one for each demonstration: [N, "
                f"{'T + 1' if what == 'states' else 'T'}]"
            )
        return table, torch.full((len(table),), table.shape[1])
    rows = [torch.zeros(0, dtype=torch.int64) if not len(row) else index_tensor(row, what) for row in given]
    widths = torch.tensor([len(row) for row in rows])
    table = torch.full((len(rows), int(widths.max())), -1, dtype=torch.int64)
    for n, row in enumerate(rows):
        if row.dim() != 1:
            raise ValueError(f"row {n} of {what} has shape {list(row.shape)}; expected one number for each time")
        if bool((row < 0).any()):
            raise ValueError(f"{what}[{n}] holds {int(row.min())}; they are numbered from 0")
        table[n, : len(row)] = row
    return table, widths


def _length(row: Any, what: str, number: int) -> int:
    if not hasattr(row, "__len__") or isinstance(row, str):
        raise ValueError(
            f"{what} holds {row!r} in place {number}; give rows, one for each demonstration: for a single one write "
            f"[{what}]"
        )
    return len(row)


def _of_arrays(given: Any) -> bool:
    return isinstance(given, (list, tuple)) and len(given) > 0 and not isinstance(given[0], (list, tuple))


def _lengths(given: Any, taken: Tensor) -> Tensor:
    if given is None:
        return taken
    lengths = index_tensor(given, "lengths")
    if tuple(lengths.shape) != tuple(taken.shape):
        raise ValueError(f"lengths has shape {list(lengths.shape)}; expected one for each of {len(taken)}")
    wrong = (lengths < 0) | (lengths > taken)
    if bool(wrong.any()):
        n = int(wrong.nonzero()[0])
        raise ValueError(
            f"lengths[{n}] is {int(lengths[n])}, and demonstration {n} holds {int(taken[n])} actions; lengths count "
            "actions"
        )
    return lengths


def _weights(given: Any, number: int) -> Tensor:
    if given is None:
        return torch.ones(number, dtype=torch.float64)
    weights = float_tensor(given, "weights")[0].detach()
    if tuple(weights.shape) != (number,):
        raise ValueError(f"weights has shape {list(weights.shape)}; expected one for each of {number}")
    wrong = ~(torch.isfinite(weights) & (weights >= 0))
    if bool(wrong.any()):
        n = int(wrong.nonzero()[0])
        raise ValueError(f"weights[{n}] is {float(weights[n])}; a weight says how often it counts: give a number >= 0")
    if not bool((weights > 0).any()):
        raise ValueError("all weights are 0; nothing is shown")
    return weights


def _flags(given: Any, number: int) -> Tensor:
    if given is None:
        return torch.ones(number, dtype=torch.bool)
    flags = torch.as_tensor(np.asarray(given) if not isinstance(given, Tensor) else given)
    if flags.dtype != torch.bool or tuple(flags.shape) != (number,):
        raise ValueError(
            f"complete holds {flags.dtype} of shape {list(flags.shape)}; expected True or False for each of {number}"
        )
    return flags.clone()


def _refuse_negative(table: Tensor, inside: Tensor, what: str) -> None:
    wrong = (table < 0) & inside
    if bool(wrong.any()):
        n, t = wrong.nonzero()[0].tolist()
        raise ValueError(f"{what}[{n}, {t}] is {int(table[n, t])}; they are numbered from 0")
