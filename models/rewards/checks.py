"""What is looked at once when a reward meets a model: every value, and what a user's own factor may get wrong."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from cai.models.common.checks import first_index
from cai.models.processes.mdp import MDP
from cai.models.rewards.algebra import Wrapper
from cai.models.rewards.base import RewardFactor, Setting, Step, evaluate_factor, raw_table
from cai.models.rewards.functions import CallableReward, digits_lost

logger = logging.getLogger("cai.models")

__all__ = ["check_reward"]

PROBES = 7  # steps that a user's factor is asked about once more, on their own
COST = re.compile(r"(^|_)(cost|costs|penalty|penalties|expense|expenses|loss|losses)($|_)", re.IGNORECASE)
_warned: WeakKeyDictionary[RewardFactor, set[str]] = WeakKeyDictionary()


def check_reward(factor: RewardFactor, model: Setting, mdp: MDP, times: range) -> None:
    """Looks at everything that a factor says of a model, once.

    Args:
        factor: of the model.
        model: the horizon and the discount that it is meant for.
        mdp: the process, as it was checked.
        times: the time indices at which the factor may differ.

    Raises:
        TypeError, ValueError: if it does not fit, holds NaN or +inf, pays in terminal states, or does not treat each
            step by itself.
    """
    if type(factor).check_model is not RewardFactor.check_model:  # else it fits every model
        factor.check_model(model)
    whole, own = factor.whole_table(mdp), []
    if whole is None:  # else there is no code to look at
        own = [term for term in factor.terms() if any(_is_users(root) for root in _roots(term))]
    for t in times:
        table = raw_table(factor, mdp, t) if whole is None else whole[..., None]
        _check_values(factor, mdp, table, t)
        if own and t == times[0]:
            _check_elementwise(factor, own, mdp, table, t)
        if own and t == times[-1]:
            _warn_of_habits(own, mdp, t)


def _check_values(factor: RewardFactor, mdp: MDP, table: Tensor, t: int) -> None:
    """Refuses NaN, +inf, and rewards in terminal states; names the term, the state, the action and the next state."""
    table = table.detach()
    when = f" at time index {t}" if factor.reads_time else ""
    for bad, what in ((torch.isnan(table), "NaN"), (table == torch.inf, "+inf")):
        if bad.any():
            place = tuple(torch.nonzero(bad)[0].tolist())
            raise ValueError(
                f"reward{first_index(bad)}{when} is {what} {_where(factor, mdp, place)}"
                f"{_source(factor, mdp, place, t, lambda x: not x < torch.inf)}; rewards are numbers, or -inf for what "
                "is forbidden" + ("; a log, root or quotient needs torch.where around its argument" * (what == "NaN"))
            )
    final = torch.nonzero(mdp.terminal).flatten()
    real = (mdp.probabilities.detach()[final] > 0) & mdp.available[final, :, None]
    if table.shape[-1] == 1:
        real = real.any(-1, keepdim=True)
    paid = (table[final] != 0) & real
    if paid.any():
        row, action, outcome = torch.nonzero(paid)[0].tolist()
        state = int(final[row])
        source = _source(factor, mdp, (state, action, outcome), t, lambda x: x != 0)
        if table.shape[-1] > 1:  # it may be the arrival that was meant to pay
            advice = (
                "it leads to itself, so what is paid for the next state is paid again at every step: pay it on entry "
                "alone, with Goal(...), or make it 0 there (torch.where(mdp.terminal[state], 0.0, ...), or "
                "table[mdp.terminal] = 0), or restrict it with as_reward(reward).at(states=~mdp.terminal)"
            )
        else:
            advice = (
                "pay it on entry with Goal(...) or a reward of the next state, or restrict it with "
                "as_reward(reward).at(states=~mdp.terminal)"
            )
        raise ValueError(
            f"reward[{state}, {action}, {outcome}]{when} is {float(table[state, action, outcome]):g} in terminal "
            f"state {mdp.state_name(state)}; a terminal state earns nothing: {advice}{source}"
        )


def _check_elementwise(factor: RewardFactor, own: list[RewardFactor], mdp: MDP, table: Tensor, t: int) -> None:
    """Asks the terms of a user's own about a few steps alone, and holds the answers against the whole table.

    A result that only happens to broadcast (flattened, or summed over an axis) gives other rewards in other company.
    """
    number = table.numel()
    flat = torch.linspace(0, number - 1, min(PROBES, number), dtype=torch.float64).long()
    places = [torch.div(flat, table[0].numel(), rounding_mode="floor")]
    places += [torch.div(flat, table.shape[-1], rounding_mode="floor") % table.shape[1], flat % table.shape[2]]
    state, action, outcome = places
    for term in own:
        whole = (table if term is factor else raw_table(term, mdp, t)).detach().expand(table.shape)
        following = torch.zeros_like(outcome)
        if term.reads_outcome:
            following = mdp.successors().expand_as(mdp.probabilities)[state, action, outcome]
        together, known = whole[state, action, outcome], whole[torch.isfinite(whole)].abs()
        near = 1e-5 * min(float(known.max()), 1.0) if known.numel() else 0.0  # networks round to their size
        everyone = slice(None)
        for asked in (everyone, *(slice(i, i + 1) for i in {0, len(flat) // 2, len(flat) - 1})):
            step = Step(state[asked], action[asked], outcome[asked], following[asked], t)
            alone = evaluate_factor(term, mdp, step).detach().expand(step.state.shape)
            differs = ~torch.isclose(alone, together[asked], rtol=1e-4, atol=near, equal_nan=True)
            if differs.any():
                i = int(torch.nonzero(differs)[0])
                place = tuple(int(part[asked][i]) for part in (state, action, outcome))
                raise ValueError(
                    f"{term.label} says {float(together[asked][i]):g} in a table of all steps and {float(alone[i]):g} "
                    f"for the same step among {len(alone)} {_where(term, mdp, place)}; each reward must depend on its "
                    "own step alone: index with the tensors as they are given, without flatten, sum, max or sorting"
                )


def _warn_of_habits(own: list[RewardFactor], mdp: MDP, t: int) -> None:
    """Logs what is surely not meant: a cost returned as a reward, gradients that were lost, digits that were lost."""
    for term in own:
        for root in _roots(term):
            if not isinstance(root, CallableReward):
                continue
            told = _warned.setdefault(root, set())
            _warn_of_cost(term, root, mdp, t, told)
            if root.learns and torch.is_grad_enabled() and not root.seen.get("gradient") and "gradient" not in told:
                told.add("gradient")
                logger.warning(
                    "%s sees tensors that require grad, and its results do not: nothing can be learned through it. "
                    "Use torch operations on them, without .detach(), .data, .item() or NumPy",
                    root.label,
                )
            source, example = root.seen.get("dtype"), ""
            if source in (torch.float32, torch.float16) and "digits" not in told and not root.seen.get("gradient"):
                example = digits_lost(raw_table(root, mdp, t), source)
            if example:
                told.add("digits")
                logger.warning(
                    "%s returned %s with %s; make the tensors that it reads with dtype=torch.float64",
                    root.label,
                    str(source).removeprefix("torch."),
                    example,
                )


def _warn_of_cost(term: RewardFactor, root: CallableReward, mdp: MDP, t: int, told: set[str]) -> None:
    if "cost" in told or not COST.search(root.name):
        return
    table = raw_table(term, mdp, t).detach()
    if bool((table >= 0).all()) and bool((table > 0).any()):
        told.add("cost")
        logger.warning(
            "%s is called a cost and adds rewards of up to %g, none below 0: what costs is a negative reward. Use "
            "-%s, or return the cost with a minus (or give the function another name)",
            term.label,
            float(table.max()),
            root.name,
        )


def _is_users(root: RewardFactor) -> bool:
    return isinstance(root, CallableReward) or not type(root).__module__.startswith("cai.models.")


def _roots(term: RewardFactor) -> Iterator[RewardFactor]:
    """The factors that one term of a reward is made of."""
    if not isinstance(term, Wrapper):
        yield term
        return
    for inner in term.factor.terms():
        yield from _roots(inner)


def _where(factor: RewardFactor, mdp: MDP, place: tuple[int, ...]) -> str:
    state, action = place[:2]
    words = f"(state {mdp.state_name(state)}, action {mdp.action_name(action)}"
    if factor.reads_outcome:
        following = mdp.successors().expand_as(mdp.probabilities)[place]
        words += f", next state {mdp.state_name(int(following))}"
    return f"{words})"


def _source(factor: RewardFactor, mdp: MDP, place: tuple[int, ...], t: int, wrong: Callable[[Tensor], Any]) -> str:
    """Which term of a reward it comes from."""
    terms = factor.terms()
    for term in terms:
        table = raw_table(term, mdp, t).detach()
        if wrong(table.expand(*table.shape[:2], max(table.shape[-1], place[2] + 1))[place]):
            return f" (it comes from {term.label})"
    return ""
