"""The average criterion: what a step earns in the long run, and what states are worth relative to each other.

The gain g and the relative values h of a class of states that lead to each other solve g + h(s) = F(h)(s), F being one
backup (Puterman 1994, chapter 8). For the exact target that is the Perron root of M, with e^h its right eigenvector;
for fixed dynamics in a sure world Todorov's (2009) average-cost case. States before the class are then a problem of
sums of r - g, in which the class is known.

Bounds: F is monotone and F(h + c) = F(h) + c, so min(F(h) - h) <= g <= max(F(h) - h) for every h. If h is 0 in a state
that is come back to, and F(h + w) <= h + w + g and F(h - w) >= h - w + g elsewhere, then h is right to w.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.inference.core.status import Status
from cai.inference.kernels.backups import hard_choice
from cai.inference.tabular.backward import Messages
from cai.inference.tabular.markov.chains import ChainSystems, long_run
from cai.inference.tabular.markov.graphs import closed_classes, period
from cai.inference.tabular.markov.solve_gradient import ORDERS, Again
from cai.inference.tabular.recursion import Recursion
from cai.inference.tabular.stationary.classify import usable
from cai.inference.tabular.stationary.gain import Rate, soft_rate
from cai.inference.tabular.stationary.hard import by_outcome
from cai.inference.tabular.stationary.hard_gain import hard_rate, worst_rate
from cai.inference.tabular.stationary.iteration import (
    ConvergenceCriterion,
    Fits,
    Stationary,
    policy_at,
    q_values_at,
    solve_group,
)
from cai.inference.tabular.stationary.problem.listing import steps_of
from cai.inference.tabular.stationary.problem.steps import Steps
from cai.inference.tabular.stationary.solve import Solution
from cai.models.common.numerics import plain_number
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["average_messages"]

Array = np.ndarray[Any, Any]
ELSEWHERE = 2_000  # backups at most for states that the start does not lead to
CENTRED = 4 * float(np.finfo(np.float64).eps)  # of the largest value: the rounding of float64 and of a mean


@dataclass(frozen=True)
class _Where:
    """What the start leads to.

    Attributes:
        pairs: bool [R], those that may be used.
        edges: bool [E], those that may be used.
        met: bool [N], states that the start leads to.
        inside: bool [N], the class in which they settle.
    """

    pairs: Array
    edges: Array
    met: Array
    inside: Array


def average_messages(model: TrajectoryModel, recursion: Recursion, settling: ConvergenceCriterion) -> Stationary:
    """Gain and relative values, the policy and the long run that go with them, with their gradients.

    Returns:
        Messages in nats: `values` of mean 0 in the long run, `q_values` less the gain, `start` the gain; the status;
        and what is known besides, "gain" (reward units a step) and "visits" (the long run [1, S]). Details are those of
        `Stationary`, whose "error_bound" is of values relative to each other, with mean 0 in that long run, and
        "gain_bounds" (reward units a step), "period", and "note" where that is not 1.

    Raises:
        ValueError: if the start leads to states that do not all lead to each other, so that there may be no one gain.
    """
    if not recursion.is_listed:
        raise ValueError(
            "criterion='average' is solved for backups that are certainty equivalents, and this one is a plug-in's "
            "own; give a discount below 1 or a finite horizon"
        )
    steps = steps_of(model, recursion.eta, recursion.choice is hard_choice)
    sure = steps.count == len(steps.states)  # then the worst outcome is the best, and the only one
    steps = by_outcome(steps) if steps.hard and (steps.eta == math.inf or (sure and steps.eta != 0)) else steps
    where = _where(model, recursion, steps)
    if where is None:
        return _impossible(model, recursion)
    part = steps.select(where.pairs, where.edges, where.inside, np.zeros(steps.number + 1))
    solver = soft_rate if not steps.hard else hard_rate if steps.eta == 0 else worst_rate
    rate = solver(part, settling.max_iterations, settling.accelerate)
    solution = _spread(model, steps, where, rate, settling)
    return _assembled(model, recursion, solution, where, rate, part)


def _where(model: TrajectoryModel, recursion: Recursion, steps: Steps) -> _Where | None:
    """Where the start leads; None if it cannot but meet a reward of -inf."""
    start = (model.mdp.initial.detach() > 0).cpu().numpy()
    pairs, edges, dead = usable(steps, np.append(np.full(steps.number, np.nan), 0.0))
    lost = start & dead[:-1]
    if lost.any() and (recursion.eta <= 0 or not (start & ~lost).any()):
        return None
    met = steps.reached(np.append(start & ~lost, False), edges)[:-1]
    classes = closed_classes(*steps.ways(edges), met)
    name = model.mdp.state_name
    if len(classes) > 1:
        raise ValueError(
            "criterion='average' needs one gain, and from the start the chain can end up for ever around state "
            f"{name(int(classes[0][0]))} or around state {name(int(classes[1][0]))}, which may earn differently; let "
            "them lead back (say to the start), choose a start that leads to one of them alone, or leave the criterion "
            "out and give a discount below 1"
        )
    inside = np.zeros(steps.number, dtype=bool)
    inside[classes[0]] = True
    before = np.flatnonzero(met & ~inside)
    if len(before) and recursion.eta != 0:
        raise ValueError(
            "criterion='average' with dynamics that are believed to be other than the true ones needs states that all "
            f"lead to each other, and nothing leads back to state {name(int(before[0]))}; start in state "
            f"{name(int(classes[0][0]))} or another that is come back to, let the chain lead back, or ask "
            "'variational', which holds the dynamics fixed"
        )
    return _Where(pairs, edges, met, inside)


def _spread(
    model: TrajectoryModel, steps: Steps, where: _Where, rate: Rate, settling: ConvergenceCriterion
) -> Solution:
    """Values of all states, given the gain and values of the class: sums of r - g elsewhere."""
    gain = rate.gain if np.isfinite(rate.gain) else 0.0
    if steps.eta == 0:
        shifted = replace(steps, rewards=steps.rewards - gain)
    else:
        shifted = replace(steps, edges=steps.edges.shifted(-gain))
    fits = Fits(steps, where.met, settling.tolerance)
    fits.one_sign = False  # values are relative to each other, so none has a size of its own
    solution = Solution(shifted, settling.max_iterations, fits)
    if steps.hard and steps.eta == 0:
        solution.chosen = np.full(steps.number, -1)
    solution.count = rate.count
    mean = rate.law @ rate.values.high + rate.law @ rate.values.low
    seen = rate.law > 0  # elsewhere the width may be inf
    solution.put(where.inside, rate.values.moved(-mean), rate.width + rate.law[seen] @ rate.width[seen])
    before = where.met & ~where.inside
    if before.any():
        solve_group(solution, before, True)
        odd = before & (np.isinf(solution.worth[:-1]) | solution.unsure)
        if odd.any():
            raise ValueError(
                "criterion='average' needs one gain, and before the chain settles it pays to stay around state "
                f"{model.mdp.state_name(int(np.flatnonzero(odd)[0]))} for ever; choose a start among the states that "
                "are come back to, or leave the criterion out and give a discount below 1"
            )
    if not where.met.all():
        easy = steps.eta >= 0 and math.isfinite(steps.eta)
        known = bool(np.isfinite(solution.error[where.inside]).all())  # else there is no answer that these would add to
        solution.limit = solution.count + (settling.max_iterations if easy else ELSEWHERE if known else 0)
        solve_group(solution, ~where.met, True)
    return solution


def _assembled(
    model: TrajectoryModel, recursion: Recursion, solution: Solution, where: _Where, rate: Rate, part: Steps
) -> Stationary:
    """Tables, the long run, and how it ended."""
    alpha, start = plain_number(model.temperature), model.mdp.initial
    worth = np.nan_to_num(solution.worth[:-1], nan=0.0, posinf=np.inf, neginf=-np.inf)
    values = torch.from_numpy(worth.astype(np.float64)).to(start.detach())
    gain = values.new_full((), float(rate.gain))
    policy = policy_at(model, solution, float(np.nan_to_num(rate.gain)))
    met = where.met
    sure = solution.fits(np.full(1, max(rate.high - rate.gain, rate.gain - rate.low)), np.full(1, abs(rate.gain)))
    fine = sure and solution.fits(solution.error[met], np.full(int(met.sum()), np.abs(worth[met]).max(initial=0.0)))
    status, details = Status.SUCCESS if fine else Status.NOT_CONVERGED, _details(model, solution, rate, part, met)
    why = rate.why
    if np.isinf(solution.error[met & ~where.inside]).any():
        why = "before the chain settles it may pay as much to stay on the way for ever, so that values have no limit"
    if not fine and why:
        status, details["why"] = Status.NOT_ASSURED, why
    known: dict[str, Any] = {"gain": alpha * gain}
    if fine:
        with torch.no_grad():
            law = _long_run(model, recursion, values, policy)
        seen = law.cpu().numpy().astype(np.float64)
        mean = seen[seen > 0] @ worth[seen > 0]
        values = torch.from_numpy((worth - mean).astype(np.float64)).to(start.detach())
        values, policy, gain, law = _with_gradients(model, recursion, values, policy, gain, law, where)
        known = {"gain": model.temperature * gain, "visits": (law[None], law.new_zeros(1))}
    q_values = q_values_at(model, recursion, values) - gain
    messages = Messages(values=torch.stack([values, values]), q_values=q_values[None], policy=policy[None], start=gain)
    return Stationary(messages, status, details, known=known)


def _details(model: TrajectoryModel, solution: Solution, rate: Rate, part: Steps, met: Array) -> dict[str, Any]:
    alpha, worth = plain_number(model.temperature), np.abs(solution.worth[:-1][met])
    worth = np.where(np.isfinite(worth), worth, 0.0)
    # To float64, less their mean; then to the dtype of tables in nats, and again in reward units.
    rounded = CENTRED * worth.max(initial=0.0) + 1.01 * torch.finfo(model.mdp.initial.dtype).eps * worth
    width = (solution.error[met] + rounded).max(initial=0.0)
    low, high = (np.nextafter(float(end), to) * alpha for end, to in ((rate.low, -np.inf), (rate.high, np.inf)))
    found: dict[str, Any] = {
        "steps": solution.count,
        "newton_steps": solution.jumps + rate.jumps,
        "error_bound": float(width) * alpha,
        "gain_bounds": (float(np.nextafter(low, -np.inf)), float(np.nextafter(high, np.inf))),
        "changes": (),
        "rate": None,
        "contracts": False,
    }
    sources, targets = part.ways(rate.tight)
    held = np.bincount(sources, minlength=part.number) > 0
    lengths = [_period(sources, targets, states) for states in closed_classes(sources, targets, held)]
    found["period"] = int(np.lcm.reduce(lengths)) if lengths else 1
    if found["period"] > 1:
        found["note"] = (
            f"the chain has period {found['period']}, so over finite horizons V_T - T gain does not settle: values go "
            "round with T"
        )
    return found


def _period(sources: Array, targets: Array, states: Array) -> int:
    """Of a closed class."""
    place = np.full(max(int(sources.max(initial=0)), int(targets.max(initial=0))) + 1, -1)
    place[states] = np.arange(len(states))
    inside = place[sources] >= 0
    return period(place[sources[inside]], place[targets[inside]], len(states))


def _long_run(model: TrajectoryModel, recursion: Recursion, values: Tensor, policy: Tensor) -> Tensor:
    """[S], how often q is where in the long run."""
    initial, dynamics = recursion.beliefs(model, torch.stack([values, values]))
    return long_run(model, initial, policy, dynamics)


def _with_gradients(
    model: TrajectoryModel,
    recursion: Recursion,
    values: Tensor,
    policy: Tensor,
    gain: Tensor,
    law: Tensor,
    where: _Where,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same with first and second derivatives: dg = law dF, (1 - F') dh = dF - dg on the states of the long run.

    Each step adds an order to the derivatives of values and gain, see `iteration.with_gradients`.
    """
    if not torch.is_grad_enabled():
        return values, policy, gain, law
    zero, met = torch.zeros_like(values), torch.from_numpy(where.met).to(values.device)
    counts, system = met.clone(), None
    counts[int(law.argmax())] = False
    for _ in range(ORDERS):
        known, earned = Again.apply(values), Again.apply(gain)
        moved = recursion.choice(model, recursion.backup(model, known, 0), model.log_action_prior)[0]
        if not moved.requires_grad:
            return values, policy, gain, law
        if system is None:
            with torch.no_grad():
                alive, _ = recursion.beliefs(model, torch.stack([values, values]))[1].outcomes(0)
                chains = ChainSystems(model, counts)
                system = chains.system(policy[..., None] * alive)
        left = moved - known - earned
        slope = torch.where(met, left - left.detach(), zero)
        drift = (law * slope).sum()
        values, gain = known + chains.spread(system.solve((slope - drift)[counts])), earned + drift
    if recursion.choice is not hard_choice:
        q_values = recursion.backup(model, torch.where(torch.isfinite(values), values, zero), 0)
        chosen = recursion.choice(model, q_values, model.log_action_prior)[1]
        policy = policy + torch.where(met[:, None], chosen - chosen.detach(), torch.zeros_like(chosen))
    law = _long_run(model, recursion, values, policy)
    return values - torch.where(law > 0, law * values, zero).sum(), policy, gain, law


def _impossible(model: TrajectoryModel, recursion: Recursion) -> Stationary:
    """Where the start cannot but meet -inf: by the dynamics that are believed in, or by any."""
    zero, prior = torch.zeros_like(model.mdp.initial), model.action_prior
    status = Status.IMPOSSIBLE
    if recursion.eta <= 0:
        kind = steps_of(model, 1.0, False)
        dead = usable(kind, np.append(np.full(kind.number, np.nan), 0.0))[2][:-1]
        start = (model.mdp.initial.detach() > 0).cpu().numpy()
        status = Status.UNAVOIDABLE if (start & ~dead).any() else Status.IMPOSSIBLE
    worth = zero - torch.inf
    messages = Messages(
        values=torch.stack([worth, worth]),
        q_values=torch.full_like(prior, -torch.inf)[None],
        policy=prior[None],
        start=zero.new_full((), -torch.inf),
    )
    return Stationary(messages, status, {"steps": 0, "newton_steps": 0})
