"""What the options of learners have in common: checks of numbers, and of the models that they are asked about."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from cai.inference.tabular.markov.chains import ended_states
from cai.inference.tabular.markov.reachability import edges_of, leads_to, reached_from
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["TABLE_ENVS", "check_count", "check_share", "check_table_model", "check_untouched", "copies_of"]

TABLE_ENVS = 32  # copies of a tabular world side by side


def check_count(value: Any, name: str, least: int = 1) -> None:
    """Refuses what is no whole number >= least.

    Raises:
        ValueError: naming the option.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}; expected a whole number >= {least}")


def check_share(value: Any, name: str) -> None:
    """Refuses what is no number in [0, 1].

    Raises:
        ValueError: naming the option.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}; expected a number from 0 to 1")


def check_untouched(backend: Any, names: Iterable[str], why: str) -> None:
    """Refuses options that nothing would look at, unless they have their defaults.

    Args:
        backend: whose options they are, a dataclass.
        names: of the options.
        why: what is said of each, after its name.

    Raises:
        ValueError: naming the first that was changed.
    """
    for name in names:
        if getattr(backend, name) != getattr(type(backend), name):
            raise ValueError(f"backend {backend.name!r}: {name} {why}; leave it out")


def copies_of(num_envs: int | None, steps: int, unless_given: int) -> int:
    """How many copies of the world are run side by side.

    Raises:
        ValueError: if one step of all of them takes more than the budget.
    """
    copies = unless_given if num_envs is None else num_envs
    if copies > steps:
        raise ValueError(
            f"steps is {steps}, a budget over all copies, and one step of num_envs={copies} copies takes more; raise "
            "steps, or lower num_envs"
        )
    return copies


def check_table_model(model: TrajectoryModel, name: str) -> None:
    """Refuses a tabular problem from which no samples can be learned.

    Raises:
        ValueError: with the reason, and what to do.
    """
    mdp = model.mdp
    met = (
        (model.action_prior.detach()[..., None] > 0)
        & (mdp.probabilities.detach() > 0)
        & model.nonterminal[:, None, None]
    )
    for t in model.reward_times:
        forbidden = torch.nonzero(met & (model.reward_table(t).detach() == -math.inf))
        if len(forbidden):
            state, action, _ = forbidden[0].tolist()
            raise ValueError(
                f"backend {name!r} learns from sampled rewards, and the reward of action {mdp.action_name(action)} in "
                f"state {mdp.state_name(state)} can be -inf, which no mean of samples survives; make that action "
                "unavailable, give a large negative reward, or ask 'variational'"
            )
    if not model.is_finite and model.discount == 1 and not _ends(model):
        raise ValueError(
            f"backend {name!r} adds up rewards, and over this infinite horizon with discount 1 the start can come to "
            "where no end is within reach; give a discount < 1, a finite horizon, or an end that can be "
            "reached from everywhere"
        )


def _ends(model: TrajectoryModel) -> bool:
    """Whether the start leads to no state without a way to an end, or to where nothing is paid for ever."""
    prior, chances = model.action_prior.detach(), model.mdp.probabilities.detach()
    edges = edges_of((prior[..., None] > 0) & (chances > 0), model.mdp.successors())
    met = reached_from(*edges, model.mdp.initial.detach() > 0)
    return not bool((met & ~leads_to(*edges, ~model.nonterminal | ended_states(model, prior, chances))).any())
