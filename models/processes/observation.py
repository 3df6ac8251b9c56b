"""What an agent sees of a state that is hidden from it: p(o_t | s_t), or p(o_{t+1} | a_t, s_{t+1}).

The observation function of a partially observable decision process (Kaelbling, Littman and Cassandra 1998, "Planning
and acting in partially observable stochastic domains", section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.models.common.checks import check_distribution, check_shape, float_tensor, index_tensor, whole_number
from cai.models.common.labels import axis_labels, in_order, taken_apart
from cai.models.common.storage import storable
from cai.models.processes.mdp import MDP

__all__ = ["ObservationModel"]


@storable("observation-model")
@dataclass(frozen=True, eq=False)
class ObservationModel:
    """A distribution over Z observations for each state, or for each action and the state that it led to.

    The first observation o_1 comes before any action. Where what is seen does not depend on actions it is seen like
    every other; where it does, nothing is seen at first, unless `first` says what.

    Args:
        probabilities: [S, Z], p(o_t | s_t); or [A, S, Z], p(o_{t+1} | a_t, s_{t+1}). float64 once checked, with the
            autograd history of what was given.
        observation_names: Z names, so that observations can be given by name.
        first: [S, Z], p(o_1 | s_1), if it differs from the rest.
        state_names: S names, which those of a process must then be; rows are put into its order where the two meet. The
            labels of a pandas table are the names of states and observations, unless these are given: then its rows and
            columns are put in their order.

    Raises:
        ValueError, TypeError: if a row does not sum to 1, an entry is negative or not finite, a shape does not fit, or
            names are missing or the same.
    """

    probabilities: Any
    observation_names: Sequence[str] | None = None
    first: Any = None
    state_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for what, own in zip(("state_names", "observation_names"), axis_labels(self.probabilities), strict=False):
            if own is not None and getattr(self, what) is None:
                object.__setattr__(self, what, tuple(str(label) for label in own))
        axes = [(self.state_names, "state"), (self.observation_names, "observation")]
        table, source = float_tensor(self.probabilities, "observation probabilities", axes)
        if table.dim() not in (2, 3) or 0 in table.shape:
            raise ValueError(
                f"observation probabilities have shape {list(table.shape)}; expected [S, Z] with p(o | s) at [s, o], "
                "or [A, S, Z] with p(o | a, s') at [a, s', o]"
            )
        table = check_distribution(table, "observation probabilities", source)
        first = table if table.dim() == 2 else None
        if self.first is not None:
            given, source = float_tensor(self.first, "first", axes)
            check_shape(given, tuple(table.shape[-2:]), "first", "[S, Z]")
            first = check_distribution(given, "first", source)
        names = self.observation_names
        if names is not None:
            if isinstance(names, str) or not isinstance(names, Sequence):
                raise TypeError(f"observation_names is {names!r}; give a list of names")
            names = tuple(str(name) for name in names)
            if len(names) != table.shape[-1] or len(set(names)) != len(names):
                raise ValueError(
                    f"observation_names holds {len(set(names))} different names among {len(names)}; "
                    f"expected {table.shape[-1]}, one for each observation"
                )
        for key, value in (("probabilities", table), ("first", first), ("observation_names", names)):
            object.__setattr__(self, key, value)

    @classmethod
    def deterministic(cls, observations: Any, observation_names: Sequence[str] | None = None) -> ObservationModel:
        """Every state always shows the same observation; states that share one look alike.

        Args:
            observations: int [S], what each state shows, numbered from 0. Labels of a pandas column name the states.
            observation_names: Z names; without them Z is one more than the largest number.
        """
        given, labels = taken_apart(observations, "observations")
        shown = index_tensor(given, "observations")
        if shown.dim() != 1 or shown.numel() == 0:
            raise ValueError(f"observations has shape {list(shown.shape)}; expected [S], one number for each state")
        size = int(shown.max()) + 1 if observation_names is None else len(observation_names)
        wrong = (shown < 0) | (shown >= size)
        if wrong.any():
            state = int(torch.nonzero(wrong)[0])
            raise ValueError(
                f"observations[{state}] is {int(shown[state])}; there are {size} observations: give 0 to {size - 1}"
            )
        names = None if labels is None else labels[0]
        return cls(torch.nn.functional.one_hot(shown, size).double(), observation_names, state_names=names)

    @property
    def num_states(self) -> int:
        """How many states there are, S."""
        return int(self.probabilities.shape[-2])

    @property
    def num_observations(self) -> int:
        """How many observations there are, Z."""
        return int(self.probabilities.shape[-1])

    @property
    def reads_action(self) -> bool:
        """Whether what is seen depends on the action before it."""
        return self.probabilities.dim() == 3

    def __repr__(self) -> str:
        shape = "A={}, S={}, Z={}" if self.reads_action else "S={}, Z={}"
        first = "" if self.first is not None else ", no first observation"
        return f"ObservationModel({shape.format(*self.probabilities.shape)}{first})"

    def in_order_of(self, mdp: MDP) -> ObservationModel:
        """The same model with its rows in the order of the states of a process; itself where they are.

        Raises:
            ValueError: if states or actions of the process are not the observation model's.
        """
        if self.num_states != mdp.num_states:
            raise ValueError(
                f"the observation model is for {self.num_states} states, and the process has {mdp.num_states}; "
                "give one row for each state, terminal ones included"
            )
        if self.reads_action and self.probabilities.shape[0] != mdp.num_actions:
            raise ValueError(
                f"the observation model is for {self.probabilities.shape[0]} actions, and the process has "
                f"{mdp.num_actions}; give probabilities [A, S, Z] with one table for each action"
            )
        own = self.state_names
        if own is None or tuple(own) == tuple(mdp.state_names or map(str, range(mdp.num_states))):
            return self
        parts = {"probabilities": self.probabilities.movedim(-2, 0)}
        parts |= {} if self.first is None else {"first": self.first}
        axes = [(mdp.state_names, "state")]
        placed = {name: in_order(part, [own], axes, "the observation model") for name, part in parts.items()}
        placed["probabilities"] = placed["probabilities"].movedim(0, -2)
        return ObservationModel(observation_names=self.observation_names, state_names=mdp.state_names, **placed)

    def index(self, observation: int | str) -> int:
        """The number of an observation, by its name or number; refuses what does not exist."""
        if isinstance(observation, str):
            if self.observation_names is None or observation not in self.observation_names:
                names = self.observation_names
                known = "observations have no names here" if names is None else f"names are {', '.join(names[:12])}"
                raise ValueError(f"no observation is called {observation!r}; {known}")
            return self.observation_names.index(observation)
        number = whole_number(observation)
        if number is None:
            raise TypeError(f"{observation!r} is no observation; give its number or its name")
        if not 0 <= number < self.num_observations:
            raise ValueError(f"observation {number} does not exist; observations are 0 to {self.num_observations - 1}")
        return number

    def name(self, observation: int) -> str:
        """The name of an observation, or its number."""
        return str(observation) if self.observation_names is None else self.observation_names[observation]

    def rows(self, states: Tensor, actions: Tensor | None) -> Tensor | None:
        """p(. | s) of what is seen in states after actions, [..., Z].

        Args:
            states: int [...].
            actions: int [...], those that led to the states; None for the first observation.

        Returns:
            [..., Z], or None where nothing is seen at first.
        """
        if actions is None:
            return None if self.first is None else self.first[states]
        return self.probabilities[actions, states] if self.reads_action else self.probabilities[states]

    def likelihoods(self, observations: Tensor, actions: Tensor | None) -> Tensor:
        """p(o | s) of what was seen, for every state: [N, S].

        Args:
            observations: int [N].
            actions: int [N], those before; None for the first observation.

        Raises:
            ValueError: if there is no first observation.
        """
        if actions is None:
            if self.first is None:
                raise ValueError(
                    "nothing is observed before the first action where observations depend on actions; put None for "
                    "the first observation, or give the observation model first=[S, Z]"
                )
            return self.first[:, observations].T
        if self.reads_action:
            return self.probabilities[actions, :, observations]
        return self.probabilities[:, observations].T
