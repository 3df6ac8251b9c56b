"""The trajectory model as a Pyro program: what runs when a `TrajectoryModel` is called."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyro
import torch
from pyro.distributions import Categorical
from torch import Tensor

from cai.models.common.numerics import safe_log
from cai.models.rewards.base import Step, evaluate_factor
from cai.models.trajectory.optimality import Optimality

if TYPE_CHECKING:
    from cai.models.trajectory.model import TrajectoryModel

__all__ = ["ProgramTables", "run_program"]

TABLE_LIMIT = 2_000_000  # entries up to which the transition table is kept, instead of rows that are built anew


@dataclass(frozen=True)
class ProgramTables:
    """The logits of the sites, made once for a model.

    Attributes:
        initial: [S], or [S + 1] with a discount, whose absorbing state is the last.
        prior: [S, A] or [S + 1, A].
        outcome: [S, A, K] or [S + 1, A, K], where the program has sites `k_t`.
        transition: [S, A, S] or [S + 1, A, S + 1], where it is small and there are no such sites.
    """

    initial: Tensor
    prior: Tensor
    outcome: Tensor | None
    transition: Tensor | None

    @classmethod
    def of(cls, model: TrajectoryModel) -> ProgramTables:
        """The tables of a model."""
        mdp = model.mdp
        initial, prior = safe_log(mdp.initial), model.log_action_prior
        outcome = safe_log(mdp.probabilities) if model.has_outcome_sites else None
        if model.discount < 1:
            initial = torch.cat([initial, initial.new_full((1,), -torch.inf)])
            prior = torch.cat([prior, prior.new_full((1, mdp.num_actions), -math.log(mdp.num_actions))])
        if model.discount < 1 and outcome is not None:
            absorbed = outcome.new_full((1, *outcome.shape[1:]), -torch.inf)
            absorbed[..., 0] = 0.0
            outcome = torch.cat([outcome, absorbed])
        transition = None
        if outcome is None and model.dense_bytes <= 8 * TABLE_LIMIT:
            states = torch.arange(model.program_states, device=model.device)[:, None]
            actions = torch.arange(mdp.num_actions, device=model.device)
            transition = safe_log(_next_state_rows(model, states, actions, None))
        return cls(initial, prior, outcome, transition)


def run_program(model: TrajectoryModel, tables: ProgramTables) -> None:
    """Draws a trajectory and scores it by its optimality, at the sites `s_1, a_1, (k_1,) O_1, s_2, ..., s_{T+1}`.

    Args:
        model: of a finite horizon.
        tables: of that model.
    """
    state = pyro.sample("s_1", Categorical(logits=tables.initial, validate_args=False))
    for t in pyro.markov(range(model.steps)):
        action = pyro.sample(f"a_{t + 1}", Categorical(logits=tables.prior[state], validate_args=False))
        outcome = None
        if tables.outcome is not None:
            logits = tables.outcome[state, action]
            outcome = pyro.sample(f"k_{t + 1}", Categorical(logits=logits, validate_args=False))
        if tables.transition is not None:
            logits = tables.transition[state, action]
        else:
            logits = safe_log(_next_state_rows(model, state, action, outcome))
        following = pyro.sample(f"s_{t + 2}", Categorical(logits=logits, validate_args=False))
        score = model.in_nats(_step_reward(model, state, action, outcome, following, t))
        if model.optimality == "factor":
            pyro.factor(f"O_{t + 1}", score)
        else:
            # In float32 the best reward may be rounded to above r_max.
            log_probability = (score - model.largest_reward / model.temperature).clamp(max=0)
            pyro.sample(f"O_{t + 1}", Optimality(log_probability), obs=score.new_ones(()))
        state = following


def _next_state_rows(model: TrajectoryModel, state: Tensor, action: Tensor, outcome: Tensor | None) -> Tensor:
    """[..., S or S + 1], p(s_{t+1} | s_t, a_t), or given the outcome too."""
    mdp = model.mdp
    num_states = mdp.num_states
    inside = state.clamp(max=num_states - 1)
    if outcome is not None:
        following = mdp.successors().expand_as(mdp.probabilities)[inside, action, outcome]
        rows = torch.nn.functional.one_hot(following, num_states).to(model.dtype)
    elif mdp.next_states is None:
        rows = mdp.probabilities[inside, action]
    else:
        following, weights = mdp.next_states[inside, action], mdp.probabilities[inside, action]
        rows = weights.new_zeros(*weights.shape[:-1], num_states).scatter_add(-1, following, weights)
    if model.discount == 1:
        return rows
    inside, state = inside.expand(rows.shape[:-1]), state.expand(rows.shape[:-1])
    stays = torch.where(state == num_states, 0.0, model.continuation_probability[inside])[..., None]
    falls = torch.where(state == num_states, 1.0, model.fall[inside])[..., None]
    return torch.cat([rows * stays, falls], -1)


def _step_reward(
    model: TrajectoryModel, state: Tensor, action: Tensor, outcome: Tensor | None, following: Tensor, t: int
) -> Tensor:
    """The reward of the step that was drawn, 0 where no decision was made; reward units."""
    mdp = model.mdp
    num_states = mdp.num_states
    inside = state.clamp(max=num_states - 1)
    zero = inside.new_zeros(())
    if not model.reward.reads_outcome:
        step = Step(inside, action, zero, zero, t)
    elif outcome is not None:
        next_state = mdp.successors().expand_as(mdp.probabilities)[inside, action, outcome]
        step = Step(inside, action, outcome, next_state, t)
    else:
        step = Step(inside, action, _outcome_of(model, inside, action, following), following, t)
    values = evaluate_factor(model.reward, mdp, step)
    lives = (state < num_states) & model.nonterminal[inside]
    return torch.where(lives, values, torch.zeros_like(values))


def _outcome_of(model: TrajectoryModel, state: Tensor, action: Tensor, following: Tensor) -> Tensor:
    """The first outcome of (s, a) that leads to s'; 0 where none does."""
    mdp = model.mdp
    if mdp.next_states is None:
        return following
    leads = mdp.next_states[state, action] == following[..., None]
    possible = mdp.probabilities[state, action] > 0
    return (leads & possible).to(torch.uint8).argmax(-1)
