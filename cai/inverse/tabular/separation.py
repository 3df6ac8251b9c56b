"""Features of which demonstrations hold the least, or the most, that anybody could have: known before fitting."""

from __future__ import annotations

import torch
from torch import Tensor

from cai.inference.core.lazy import without_gradient
from cai.inference.kernels.backups import hard_choice
from cai.inference.kernels.tables import process_table
from cai.inference.tabular.recursion import FIXED, Recursion, tilted_recursion
from cai.inference.tabular.stationary.iteration import ConvergenceCriterion, stationary_messages
from cai.inverse.tabular.objective import ModelObjective
from cai.inverse.tabular.reward_parameters import LinearParameters
from cai.models.processes.mdp import MDP
from cai.models.rewards.tables import EvaluatedReward

__all__ = ["separated"]

CLOSE = 1e-9  # of the size of what is compared
ENTRIES = 2**24  # of q-values that are held at a time


def separated(asked: ModelObjective) -> list[tuple[str, str, float]]:
    """(name, sentence, sign) of the coefficients that have no finite estimate, because of one feature alone.

    With the best q-values q_f of a hard control that is paid feature f, or minus it: for "moments" and "path" the
    demonstrations hold the extreme where their counts add up to the best values of their first states; for "likelihood"
    where every action that was taken is among the best, and not every action is. Then the larger the coefficient, the
    more probable they become.
    """
    if not isinstance(asked.parameters, LinearParameters):
        return []
    found = []
    number = len(asked.names)
    size = max(1, ENTRIES // max(1, asked.base_model.steps * asked.base_model.action_prior.numel()) // 2)
    for begin in range(0, number, size):
        some = range(begin, min(begin + size, number))
        for sign, most in ((1.0, True), (-1.0, False)):
            table = _best(asked, some, sign)
            found += [
                (f, most) for f, q in zip(some, table, strict=True) if q is not None and _extreme(asked, f, sign, q)
            ]
    told: dict[int, list[bool]] = {}
    for f, most in sorted(found):
        told.setdefault(f, []).append(most)
    return [
        (
            asked.names[f],
            f"every demonstration has the {'most' if kinds[0] else 'least'} of it that could be had",
            1.0 if kinds[0] else -1.0,
        )
        for f, kinds in told.items()
        if len(kinds) == 1  # both: a constant, which is not identified
    ]


def _best(asked: ModelObjective, some: range, sign: float) -> list[Tensor | None]:
    """For each feature [T, S, A], the q-values of hard control that is paid it; None where they are not known."""
    if asked.base_model.is_finite:
        return list(_backed_up(asked, some, sign))
    exact = asked.objective == "path"
    recursion = tilted_recursion(float("inf"), hard_choice) if exact else Recursion(FIXED.backup, hard_choice, 0.0)
    tables: list[Tensor | None] = []
    for f in some:
        paid = sign * asked._slopes(0)[..., f] * float(asked.base_model.temperature)
        paid = torch.where(torch.isinf(_forbidden(asked, 0)), _forbidden(asked, 0), paid)
        with torch.no_grad():
            model = asked._asked.replace(reward=EvaluatedReward(paid[None]))
            answer = stationary_messages(model, recursion, ConvergenceCriterion())
        usable = answer.status.ok
        tables.append(without_gradient(answer.messages.q_values) if usable else None)
    return tables


def _forbidden(asked: ModelObjective, t: int) -> Tensor:
    """[S, A, 1 or K], -inf where another factor forbids, 0 elsewhere."""
    assert isinstance(asked.parameters, LinearParameters)
    base = asked.parameters.base(t)
    barred = torch.isinf(base)
    if asked.objective != "path" and base.shape[-1] > 1:  # fixed dynamics cannot avoid an outcome
        barred = (barred & (asked.base_model.mdp.probabilities > 0)).any(-1, keepdim=True)
    return torch.where(barred, -torch.inf, torch.zeros(()).double())


def _backed_up(asked: ModelObjective, some: range, sign: float) -> Tensor:
    """[F, T, S, A], all of a finite horizon side by side."""
    model, mdp = asked.base_model, asked.base_model.mdp
    exact = asked.objective == "path"
    values = torch.zeros(mdp.num_states, len(some), dtype=torch.float64)
    barred = model.action_prior == 0
    rows = []
    for t in reversed(range(model.steps)):
        paid = sign * asked._slopes(t)[..., some.start : some.stop] + _forbidden(asked, t)[..., None]
        if exact:
            arrived = paid + (values if mdp.next_states is None else values[mdp.next_states])
            arrived = torch.where((mdp.probabilities > 0)[..., None], arrived, -torch.inf)
            q_values = arrived.amax(-2)
        else:
            known = torch.where(torch.isinf(values), torch.zeros_like(values), values)
            moved, lost = (_mean(mdp, part) for part in (known, torch.isinf(values).double()))
            q_values = paid[..., 0, :] + model.discount * torch.where(lost > 0, -torch.inf, moved)
        q_values = torch.where(barred[..., None], -torch.inf, q_values)
        q_values = torch.where(model.nonterminal[:, None, None], q_values, torch.zeros_like(q_values))
        rows.append(q_values)
        values = torch.where(model.nonterminal[:, None], q_values.amax(1), torch.zeros_like(values))
    return torch.stack(rows[::-1]).permute(3, 0, 1, 2)


def _mean(mdp: MDP, values: Tensor) -> Tensor:
    """[S, A, F], values [S, F] of the next states in the mean."""
    return process_table(mdp).product(values).view(mdp.num_states, mdp.num_actions, -1)


def _extreme(asked: ModelObjective, f: int, sign: float, q_values: Tensor) -> bool:
    """Whether the demonstrations are among the best for hard control with q-values [T, S, A], and others are not."""
    steps, model = asked.steps, asked.base_model
    counts = asked.weights > 0
    possible = (model.action_prior > 0) & model.nonterminal[:, None]
    if asked.objective == "likelihood":
        t = steps.times if len(q_values) > 1 else torch.zeros_like(steps.times)
        rows = q_values[t, steps.states]
        best = torch.where(possible[steps.states], rows, -torch.inf).amax(-1)
        size = 1 + torch.where(torch.isfinite(rows), rows, torch.zeros_like(rows)).abs().amax(-1)
        taken = rows.gather(-1, steps.actions[:, None])[:, 0]
        near = taken >= best - CLOSE * size
        worse = possible[steps.states] & (rows < (best - CLOSE * size)[:, None])
        return bool(near[counts[steps.rows]].all()) and bool(worse[counts[steps.rows]].any())
    held = sign * asked._observed_counts()[:, f]
    best = torch.where(possible, q_values[0], -torch.inf).amax(-1)[steps.starts]
    best = torch.where(model.nonterminal[steps.starts], best, torch.zeros_like(best))
    most = float(asked.weights[counts] @ best[counts])
    if not float(asked.weights @ held) >= most - CLOSE * (1 + abs(most)):  # by luck it may be more
        return False
    return _differs(q_values, possible)


def _differs(q_values: Tensor, possible: Tensor) -> bool:
    """Whether any state has actions of which some are worse than others."""
    finite = torch.where(torch.isfinite(q_values) & possible, q_values, torch.nan)
    spread = finite.nan_to_num(nan=-torch.inf).amax(-1) - finite.nan_to_num(nan=torch.inf).amin(-1)
    return bool((spread > CLOSE * (1 + finite.nan_to_num(nan=0.0).abs().amax(-1))).any())
