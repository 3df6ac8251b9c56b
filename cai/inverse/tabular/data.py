"""Demonstrations read by a trajectory model: every step that is a choice, checked, as index tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.models.demonstrations.demonstrations import Demonstrations
from cai.models.processes.mdp import MDP
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["ModelSteps", "read_demonstrations", "require_objective"]

OBJECTIVES = ("likelihood", "moments", "path")


@dataclass(frozen=True, eq=False)
class ModelSteps:
    """M steps of N demonstrations out of states that are not terminal; steps of padding are left out.

    Attributes:
        rows: int64 [M], of which demonstration.
        times: int64 [M], time indices.
        states: int64 [M].
        actions: int64 [M].
        outcomes: bool [M, K], which of the listed outcomes led to the next state.
        starts: int64 [N], s_1.
        ended: bool [N], whether it came to a terminal state.
        weights: float64 [N].
    """

    rows: Tensor
    times: Tensor
    states: Tensor
    actions: Tensor
    outcomes: Tensor
    starts: Tensor
    ended: Tensor
    weights: Tensor

    @property
    def number(self) -> int:
        """N."""
        return len(self.starts)

    def summed(self, parts: Tensor) -> Tensor:
        """Parts [M] or [M, F] of the steps added up for each demonstration: [N] or [N, F]."""
        return parts.new_zeros(self.number, *parts.shape[1:]).index_add(0, self.rows, parts)

    def counts(self, steps: int, num_states: int, num_actions: int) -> Tensor:
        """[T, S, A], weighted counts of the steps; with T = 1 those of all times."""
        t = self.times if steps > 1 else torch.zeros_like(self.times)
        flat = (t * num_states + self.states) * num_actions + self.actions
        total = torch.zeros(steps * num_states * num_actions, dtype=torch.float64)
        return total.index_add(0, flat, self.weights[self.rows]).view(steps, num_states, num_actions)


def require_objective(objective: str) -> None:
    """Raises ValueError unless it is one of the three."""
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}; expected one of {', '.join(map(repr, OBJECTIVES))}")


def read_demonstrations(model: TrajectoryModel, demonstrations: Any, objective: str) -> ModelSteps:
    """The steps that demonstrations of a model hold.

    Args:
        model: the trajectory model.
        demonstrations: `Demonstrations`.
        objective: "likelihood", "moments" or "path"; the last two refuse what was cut.

    Raises:
        TypeError, ValueError: naming the first demonstration, if it does not fit the process or the horizon.
    """
    require_objective(objective)
    if not isinstance(demonstrations, Demonstrations):
        raise TypeError(
            f"the demonstrations are a {type(demonstrations).__name__}; a TrajectoryModel takes "
            "cai.inverse.Demonstrations(states, actions)"
        )
    if objective == "path" and model.discount < 1:
        raise ValueError(
            f"objective 'path' needs discount 1, and the model has {model.discount:g}: demonstrations hold survivors "
            "alone; make the discount an explicit absorbing state, or use 'likelihood' or 'moments'"
        )
    mdp, given = model.mdp, demonstrations
    inside = torch.arange(given.actions.shape[1]) < given.lengths[:, None]
    _check_numbers(model, given, inside)
    before, after = given.states[:, :-1], given.states[:, 1:]
    nonterminal = inside & ~mdp.terminal[before]
    last = given.states.gather(1, given.lengths[:, None])[:, 0]
    ended = mdp.terminal[last]
    _check_ends(model, given, ended, objective)
    left = inside & mdp.terminal[before] & (before != after)
    if bool(left.any()):
        n, t = left.nonzero()[0].tolist()
        raise ValueError(
            f"demonstration {n} goes on from terminal state {mdp.state_name(int(before[n, t]))} at time index {t}; "
            "episodes end there: split it"
        )
    rows, times = nonterminal.nonzero(as_tuple=True)
    states, actions, following = before[nonterminal], given.actions[nonterminal], after[nonterminal]
    steps = ModelSteps(rows, times, states, actions, torch.zeros(0), given.states[:, 0], ended, given.weights)
    barred = model.action_prior[states, actions] == 0
    if bool(barred.any()):
        where = _where(mdp, steps, int(barred.nonzero()[0]))
        raise ValueError(f"{where}, an action that is not available there (its prior is 0)")
    reached = _outcomes(mdp, states, actions, following)
    impossible = ~reached.any(-1)
    if bool(impossible.any()):
        place = int(impossible.nonzero()[0])
        raise ValueError(
            f"{_where(mdp, steps, place)}, and comes to {mdp.state_name(int(following[place]))}, which has probability "
            "0: is it a demonstration of another process?"
        )
    return ModelSteps(rows, times, states, actions, reached, given.states[:, 0], ended, given.weights)


def _outcomes(mdp: MDP, states: Tensor, actions: Tensor, following: Tensor) -> Tensor:
    """Bool [M, K], the possible outcomes that lead to the next state."""
    possible = mdp.probabilities[states, actions] > 0
    if mdp.next_states is None:
        return possible & torch.nn.functional.one_hot(following, mdp.num_states).bool()
    return possible & (mdp.next_states[states, actions] == following[:, None])


def _check_numbers(model: TrajectoryModel, given: Demonstrations, inside: Tensor) -> None:
    mdp = model.mdp
    shown = torch.cat([torch.ones(len(given), 1, dtype=torch.bool), inside], 1)
    for what, table, counts, size in (
        ("state", given.states, shown, mdp.num_states),
        ("action", given.actions, inside, mdp.num_actions),
    ):
        outside = (table >= size) & counts
        if not bool(outside.any()):
            continue
        n, t = outside.nonzero()[0].tolist()
        number = int(table[n, t])
        if what == "state" and number == size and model.discount < 1:
            raise ValueError(
                f"demonstration {n} holds state {number} at time index {t}, the absorbing state of the discount; "
                "demonstrations hold what happened in the world: draw them with Demonstrations.from_policy, or cut "
                "them before it"
            )
        raise ValueError(f"demonstration {n} holds {what} {number} at time index {t}; the model has 0 to {size - 1}")


def _check_ends(model: TrajectoryModel, given: Demonstrations, ended: Tensor, objective: str) -> None:
    lengths, horizon = given.lengths, model.horizon
    too_long = lengths > horizon
    if bool(too_long.any()):
        n = int(too_long.nonzero()[0])
        raise ValueError(
            f"demonstration {n} takes {int(lengths[n])} actions, and the horizon is {horizon}; split it, or give the "
            "model a longer horizon"
        )
    if objective != "likelihood":
        cut = ~given.complete
        if bool(cut.any()):
            n = int(cut.nonzero()[0])
            raise ValueError(
                f"demonstration {n} was cut, and objective {objective!r} counts what whole trajectories hold; leave it "
                "out, or use 'likelihood'"
            )
    short = given.complete & ~ended & (lengths < horizon)
    if horizon == math.inf and objective == "likelihood":
        return  # each choice counts by itself, wherever the rest was cut
    if bool(short.any()):
        n = int(short.nonzero()[0])
        last = model.mdp.state_name(int(given.states[n, lengths[n]]))
        advice = "mark it as cut (complete[n] = False) and use 'likelihood'"
        raise ValueError(
            f"demonstration {n} stops after {int(lengths[n])} actions in state {last}, which is not terminal, and the "
            f"horizon is {horizon}; {advice}, or give the rest"
        )


def _where(mdp: MDP, steps: ModelSteps, place: int) -> str:
    state, action = mdp.state_name(int(steps.states[place])), mdp.action_name(int(steps.actions[place]))
    n, t = int(steps.rows[place]), int(steps.times[place])
    return f"demonstration {n} takes action {action} in state {state} at time index {t}"
