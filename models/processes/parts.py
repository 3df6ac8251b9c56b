"""What a process is made of besides its probabilities, checked: names, where it starts, where it ends, what exists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from cai.models.common.checks import (
    available_mask,
    check_distribution,
    check_shape,
    float_tensor,
    named_index,
    whole_number,
)
from cai.models.common.labels import by_name

__all__ = ["Rows", "check_absorbing", "checked_names", "complete_rows", "leaving_probability", "start_distribution"]

MENDS = ", or let normalize=True do it"


def checked_names(names: Sequence[str] | None, size: int, what: str) -> tuple[str, ...] | None:
    """The names as text, if there is one for each and no two are alike; `what` is "state" or "action"."""
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"{what}_names is {names!r}; give a list of names")
    listed = tuple(str(name) for name in names)
    if len(listed) != size or len(set(listed)) != size:
        raise ValueError(
            f"{what}_names holds {len(set(listed))} different names among {len(listed)}; expected {size}, one for each "
            f"{what}"
        )
    return listed


def start_distribution(initial: Any, num_states: int, names: Sequence[str] | None, miss: float | None = None) -> Tensor:
    """Float64 [S], p(s_1), from probabilities, a state that is certain, or {state: probability}.

    Args:
        initial: [S]; or the name or the number of the first state; or {name or number: probability}.
        num_states: S.
        names: of the states, or None.
        miss: by how much the sum may miss 1, unless the dtype is to say so.

    Raises:
        TypeError, ValueError: if it is none of these, or no distribution.
    """
    if isinstance(initial, Mapping):
        values = np.zeros(num_states)
        for state, probability in initial.items():
            values[_state(state, num_states, names)] += float(probability)
        return check_distribution(torch.from_numpy(values), "initial", torch.float64, miss=miss, hint=MENDS)
    if isinstance(initial, str) or whole_number(initial) is not None:
        return torch.eye(1, num_states, dtype=torch.float64).roll(_state(initial, num_states, names), 1)[0]
    tensor, source = float_tensor(by_name(initial, [(names, "state")], "initial"), "initial")
    check_shape(tensor, (num_states,), "initial", "[S]")
    return check_distribution(tensor, "initial", source, miss=miss, hint=MENDS)


def _state(state: Any, num_states: int, names: Sequence[str] | None) -> int:
    if isinstance(state, str):
        return named_index(names, state, "state")
    number = whole_number(state)
    if number is None:
        raise TypeError(f"initial: {state!r} is no state; give its number or its name")
    if not 0 <= number < num_states:
        raise ValueError(f"initial: state {number} does not exist; states are 0 to {num_states - 1}")
    return number


class _Process(Protocol):
    probabilities: Tensor
    next_states: Tensor | None
    terminal: Tensor
    available: Tensor

    def state_name(self, state: int) -> str: ...


def leaving_probability(mdp: _Process) -> Tensor:
    """[S], the largest probability of leaving a terminal state; 0 elsewhere."""
    states = torch.nonzero(mdp.terminal).flatten()
    rows = mdp.probabilities.detach()[states]
    if mdp.next_states is None:
        stays = rows[torch.arange(len(states)), :, states]
    else:
        stays = torch.where(mdp.next_states[states] == states[:, None, None], rows, 0.0).sum(-1)
    result = rows.new_zeros(len(mdp.terminal))
    result[states] = torch.where(mdp.available[states], (1 - stays).clamp(min=0), 0.0).amax(-1)
    return result


def check_absorbing(mdp: _Process) -> None:
    """Raises ValueError if a terminal state can be left."""
    leaves = leaving_probability(mdp)
    if (leaves > 1e-9).any():
        state = int(torch.nonzero(leaves > 1e-9)[0])
        raise ValueError(
            f"terminal state {mdp.state_name(state)} can be left (with probability up to "
            f"{leaves[state].item():.3g}); a terminal state must lead to itself under every action"
        )


class Rows(NamedTuple):
    """What every (state, action) leads to, whole: also for actions that do not exist, and in terminal states.

    Attributes:
        probabilities: [S, A, K], rows sum to 1.
        next_states: int64 [S, A, K], or None when dense.
        available: bool [S, A].
    """

    probabilities: Tensor
    next_states: Tensor | None
    available: Tensor


def complete_rows(
    probabilities: Tensor,
    next_states: Tensor | None,
    available: Any,
    terminal: Tensor,
    name: str,
    source: torch.dtype,
    miss: float | None,
    state_name: Callable[[int], str],
) -> Rows:
    """Checks the rows that say something, and stores "stay" where nothing needs to be said.

    That is: the empty rows of actions that do not exist; the empty rows of terminal states; and a terminal state that
    has no action at all gets every action, as it stays under each.

    Args:
        probabilities: float64 [S, A, K].
        next_states: int64 [S, A, K], or None when dense.
        available: as given to `MDP`.
        terminal: bool [S].
        name: how the probabilities are called in messages.
        source: the dtype that they came in.
        miss: by how much a row may miss 1, unless the dtype is to say so.
        state_name: of a state's number, for messages.

    Raises:
        TypeError, ValueError: if a row is no distribution, or a state that does not end the episode has no action.
    """
    num_states, num_actions, num_outcomes = probabilities.shape
    exists = torch.ones(num_states, num_actions, dtype=torch.bool)
    if available is not None:
        exists = available_mask(available, num_states, num_actions, terminal)
    ended = terminal & ~exists.any(-1)
    empty = (probabilities.detach() == 0).all(-1)
    nothing = exists & empty & ~terminal[:, None]
    if nothing.any():
        state, action = torch.nonzero(nothing)[0].tolist()
        label = state_name(state)
        label = label if label == str(state) else repr(label)
        raise ValueError(
            f"{name}[{state}, {action}] sums to 0, not to 1: nothing follows action {action} in state {label}; if the "
            f"episode ends there, say terminal=[..., {label}], if the action does not exist there, say so by "
            "available=[S, A], else add the missing outcome"
        )
    probabilities = check_distribution(probabilities, name, source, rows=exists & ~empty, miss=miss, hint=MENDS)
    stays = (empty & (~exists | terminal[:, None])) | ended[:, None]
    if stays.any():
        stay = torch.zeros(num_states, num_actions, num_outcomes, dtype=torch.float64)
        if next_states is None:
            stay[torch.arange(num_states), :, torch.arange(num_states)] = 1.0
        else:
            stay[..., 0] = 1.0
            here = torch.arange(num_states)[:, None, None].expand_as(next_states)
            next_states = torch.where(stays[..., None], here, next_states)
        probabilities = torch.where(stays[..., None], stay, probabilities)
    return Rows(probabilities, next_states, exists | ended[:, None])
