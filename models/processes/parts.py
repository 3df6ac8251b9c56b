"""What a process is made of besides its start, checked: names, rows of probabilities, where it ends, what exists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from cai.models.common.checks import MENDS, available_mask, check_distribution, named_index, state_mask

__all__ = ["Named", "Rows", "check_absorbing", "checked_names", "complete_rows", "leaving_probability", "region_masks"]


def checked_names(names: Sequence[str], size: int, what: str) -> tuple[str, ...]:
    """The names as text, if there is one for each and no two are alike; `what` is "state" or "action"."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"{what}_names is {names!r}; give a list of names")
    listed = tuple(str(name) for name in names)
    if len(listed) != size or len(set(listed)) != size:
        raise ValueError(
            f"{what}_names holds {len(set(listed))} different names among {len(listed)}; expected {size}, one for each "
            f"{what}"
        )
    return listed


class Named:
    """Base of what has states and actions with names, or none."""

    state_names: Sequence[str] | None
    action_names: Sequence[str] | None

    def state_index(self, name: str) -> int:
        """The number of a state, by its name."""
        return named_index(self.state_names, name, "state")

    def action_index(self, name: str) -> int:
        """The number of an action, by its name."""
        return named_index(self.action_names, name, "action")

    def state_name(self, state: int) -> str:
        """The name of a state, or its number."""
        return str(state) if self.state_names is None else self.state_names[state]

    def action_name(self, action: int) -> str:
        """The name of an action, or its number."""
        return str(action) if self.action_names is None else self.action_names[action]


def region_masks(regions: Mapping[str, Any], num_states: int, names: Sequence[str] | None) -> dict[str, Tensor]:
    """Named sets of states as masks, bool [S]."""
    if not isinstance(regions, Mapping):
        raise TypeError(f"regions is {regions!r}; give a dict from names to states, e.g. {{'exit': [3]}}")
    return {str(key): state_mask(states, num_states, names, f"region {key!r}") for key, states in regions.items()}


class _Process(Protocol):
    @property
    def probabilities(self) -> Tensor: ...
    @property
    def next_states(self) -> Tensor | None: ...
    @property
    def terminal(self) -> Tensor: ...
    @property
    def available(self) -> Tensor: ...
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
