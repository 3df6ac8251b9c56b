"""Transition tables as Gymnasium's toy texts hold them, P[state][action] = outcomes, and as people write them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cai.models.common.checks import float_tensor
from cai.models.common.labels import axis_labels

__all__ = ["FORM", "Outcome", "TransitionTable", "read_table"]

FORM = "{state: {action: [(probability, next state, reward, terminated), ...]}}"

Outcome = tuple[int, float, bool]
"""(next state, reward, terminated), the next state by its number."""


@dataclass(frozen=True)
class TransitionTable:
    """A table that was read: states and actions numbered, outcomes checked.

    Attributes:
        states: what the states were called; those of `rows` with outcomes, and states that episodes end in.
        actions: what the actions were called.
        rows: state number -> action number -> {outcome: probability}, without what cannot happen. A state without
            actions ends the episode.
        written: the numbers of the states that have an entry in the table.
    """

    states: list[Hashable]
    actions: list[Hashable]
    rows: list[dict[int, dict[Outcome, float]]]
    written: list[int]

    @property
    def counts_from_zero(self) -> bool:
        """Whether the actions are 0, 1, 2, ..., and have no names of their own."""
        return self.actions == list(range(len(self.actions)))

    def start(self, initial: Any, what: str = "initial") -> np.ndarray:
        """[S], where episodes start.

        Args:
            initial: a state as the table calls it, {state: probability} or such a Series, or probabilities for the
                states of the table.
            what: how it is called in messages.

        Raises:
            TypeError, ValueError: if it is none of these.
        """
        labels = axis_labels(initial)
        if len(labels) == 1 and labels[0] is not None:  # a column whose labels are states
            initial = dict(zip(labels[0], np.asarray(initial).tolist(), strict=True))
        initial = _plain(initial)
        numbered = {state: number for number, state in enumerate(self.states)}
        values = np.zeros(len(self.states))
        if isinstance(initial, Mapping):
            for state, probability in initial.items():
                values[self._number(state, numbered, what)] += float(probability)
        elif isinstance(initial, Hashable) and self._knows(initial, numbered):
            values[self._number(initial, numbered, what)] = 1.0
        elif isinstance(initial, (str, numbers.Integral)) or self._written_alike(initial):
            self._number(initial, numbered, what)
        else:
            given = float_tensor(initial, what)[0].numpy()
            places = {len(self.written): self.written, len(values): list(range(len(values)))}
            if given.ndim != 1 or len(given) not in places:
                raise ValueError(f"{what} has shape {list(given.shape)}; expected [{len(self.written)}]")
            values[places[len(given)]] = given
        if not (np.isfinite(values).all() and (values >= 0).all() and abs(values.sum() - 1) <= 1e-5):
            raise ValueError(f"{what} sums to {values.sum():g}; give probabilities from 0 to 1 that sum to 1")
        return np.asarray(values / values.sum())

    def _knows(self, state: Any, numbered: Mapping[Hashable, int]) -> bool:
        return _plain(state) in numbered or (isinstance(state, str) and state in map(str, self.states))

    def _written_alike(self, value: Any) -> bool:
        """Whether a tuple looks like one of the states, which are tuples, and not like probabilities."""
        kinds = [tuple(map(type, state)) for state in self.states if isinstance(state, tuple)]
        return isinstance(value, tuple) and tuple(map(type, value)) in kinds

    def _number(self, state: Any, numbered: Mapping[Hashable, int], what: str) -> int:
        state = _plain(state)
        if state in numbered:
            return numbered[state]
        names = [str(known) for known in self.states]
        if state not in names:
            raise ValueError(f"{what}: {state!r} is no state of the table; its states are {_some(self.states)}")
        return names.index(state)


def read_table(table: Any, owner: str) -> TransitionTable:
    """Reads P[state][action] = [(probability, next state, reward, terminated), ...].

    States and actions may be called by anything that can be a key: numbers from 0 or from anywhere, words, tuples.
    States may have different actions, and states that episodes end in need no entry. Equal outcomes are added up. A
    fifth element of an outcome, truncated, may stand there if it is false.

    Args:
        table: a dictionary of dictionaries (lists count from 0).
        owner: whose table it is, for messages.

    Raises:
        TypeError, ValueError: if it is none, naming the state and the action.
    """
    by_state = _keyed(table, f"the transition table P of {owner}")
    given = {
        _plain(state): {_plain(a): outs for a, outs in _keyed(row, f"P[{state!r}] of {owner}").items()}
        for state, row in by_state.items()
    }
    parsed = {
        state: {action: _outcomes(outcomes, f"P[{state!r}][{action!r}] of {owner}") for action, outcomes in row.items()}
        for state, row in given.items()
    }
    missing: dict[Hashable, None] = {}
    for state, row in parsed.items():
        for action, outcomes in row.items():
            for following, _, terminated in outcomes:
                if following in parsed:
                    continue
                if not terminated:
                    raise ValueError(
                        f"P[{state!r}][{action!r}] of {owner} leads to {following!r}, which has no entry in P; give it "
                        "one, or say that the episode ends there: its outcomes are (probability, next state, reward, "
                        f"True). The states of P are {_some(list(parsed))}"
                    )
                missing[following] = None
    states = _ordered([*parsed, *missing])
    written: dict[str, Hashable] = {}
    for state in states:
        if (other := written.setdefault(str(state), state)) != state:
            raise ValueError(
                f"the transition table P of {owner} has the states {other!r} and {state!r}, which read alike; "
                "call them by one kind of key"
            )
    actions = _ordered(list(dict.fromkeys(action for row in parsed.values() for action in row)))
    if not actions:
        raise ValueError(f"the transition table P of {owner} has no action in any state; expected {FORM}")
    number = {state: i for i, state in enumerate(states)}
    action_number = {action: i for i, action in enumerate(actions)}
    rows: list[dict[int, dict[Outcome, float]]] = [{} for _ in states]
    for state, row in parsed.items():
        for action, outcomes in row.items():
            listed = {(number[n], reward, end): chance for (n, reward, end), chance in outcomes.items()}
            rows[number[state]][action_number[action]] = listed
    return TransitionTable(states, actions, rows, sorted(number[state] for state in parsed))


def _keyed(table: Any, what: str) -> Mapping[Any, Any]:
    if isinstance(table, Mapping):
        return table
    if isinstance(table, Sequence) and not isinstance(table, (str, bytes)):
        return dict(enumerate(table))
    hint = (
        "; probabilities in an array are given to MDP(transitions=...) as [S, A, S]" if hasattr(table, "shape") else ""
    )
    raise TypeError(f"{what} is a {type(table).__name__}; expected {FORM}{hint}")


def _outcomes(outcomes: Any, what: str) -> dict[tuple[Hashable, float, bool], float]:
    """(next state, reward, terminated) -> probability, without what cannot happen."""
    if isinstance(outcomes, (str, bytes, Mapping)) or not isinstance(outcomes, Iterable):
        raise TypeError(f"{what} is {outcomes!r:.60}; expected [(probability, next state, reward, terminated), ...]")
    found: dict[tuple[Hashable, float, bool], float] = {}
    for outcome in outcomes:
        parts = tuple(outcome) if isinstance(outcome, Iterable) and not isinstance(outcome, str) else (outcome,)
        if len(parts) not in (4, 5):
            raise ValueError(
                f"{what} holds {outcome!r:.60}; an outcome is (probability, next state, reward, terminated)"
            )
        probability, following, reward, terminated = parts[:4]
        if len(parts) == 5 and not _is_flag(parts[4]):
            raise TypeError(
                f"{what} holds {outcome!r:.60}; a fifth entry says whether the episode was truncated, False: leave out "
                "what else stands there"
            )
        if len(parts) == 5 and parts[4]:
            raise ValueError(
                f"{what} holds {outcome!r:.60}, which is truncated; a cut after so many steps is the horizon of a "
                "model, and no matter of its states: give horizon=..., and False there"
            )
        chance, paid = _real(probability, "the probability", what), _real(reward, "the reward", what)
        if not 0 <= chance < math.inf:
            raise ValueError(f"{what} holds the probability {chance:g}; probabilities are numbers from 0 to 1")
        if paid != paid or paid == math.inf:
            raise ValueError(f"{what} holds the reward {paid:g}; rewards are numbers, or -inf for what is forbidden")
        if not _is_flag(terminated):
            raise TypeError(
                f"{what} holds {terminated!r:.40} where an outcome says whether it terminated, True or False"
            )
        following = _plain(following)
        if not isinstance(following, Hashable):
            raise TypeError(
                f"{what} leads to {following!r:.40}, which cannot be a key of P; use numbers, words or tuples"
            )
        if chance > 0:
            key = (following, paid, bool(terminated))
            found[key] = found.get(key, 0.0) + chance
    total = math.fsum(found.values())
    if abs(total - 1) > 1e-5:
        if total > 1 + 1e-3:
            hint = "divide each by their sum"
        elif total < 1 - 1e-3:
            hint = "add the missing outcome"
        else:
            hint = "if they were rounded, write them with more digits (1 / 3, not .333)"
        raise ValueError(f"the probabilities of {what} sum to {total:.10g}, not to 1; {hint}")
    return found


def _is_flag(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_, numbers.Real)) and value in (True, False)


def _real(value: Any, name: str, what: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"{what} holds {value!r:.40} where {name} belongs; an outcome is (probability, next state, reward, "
            "terminated)"
        ) from None


def _plain(label: Any) -> Any:
    """Numpy's and torch's whole numbers are Python's, also inside tuples."""
    if isinstance(label, tuple):
        return tuple(_plain(part) for part in label)
    item: Callable[[], Any] | None = getattr(label, "item", None)
    plain = item() if item is not None and getattr(label, "shape", None) == () else label
    return int(plain) if isinstance(plain, float) and plain.is_integer() else plain


def _ordered(labels: list[Any]) -> list[Hashable]:
    """Whole numbers by size, everything else as it came."""
    whole = all(isinstance(label, numbers.Integral) and not isinstance(label, bool) for label in labels)
    return sorted(labels) if whole else labels


def _some(labels: Sequence[Any]) -> str:
    return ", ".join(repr(label) for label in labels[:8]) + (", ..." if len(labels) > 8 else "")
