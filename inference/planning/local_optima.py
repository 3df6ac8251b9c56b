"""Plans to the last digits by Newton's steps, and how they move when costs change.

A plan minimises the sum of costs J(a) along mean dynamics f, whose Hessian holds the curvature of the dynamics beside
that of the costs (Jacobson and Mayne 1970, differential dynamic programming). With the adjoint lambda of the states,

    lambda_t = c_s + gamma f_s' lambda_{t+1},    C~ = c_zz + gamma sum_i lambda_{t+1, i} f_i,zz,    z = (s, a)

a pass with C~ in place of the costs' own Hessian c_zz solves J'' d = -g for a whole trajectory. With g the gradient at
the plan it is Newton's step; with g the derivative of the gradient by a coefficient, it is that of the plan.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad

from cai.inference.gaussian.problem import times
from cai.inference.planning.derivatives import Expansion, along, expand, first_order, second_order, with_dynamics
from cai.inference.planning.local import Improvement, improvement, line_search
from cai.inference.planning.problem import PlanningProblem, Rollout, Times
from cai.inference.planning.search import LAST, PlanSearch, chosen, higher, lower

__all__ = ["LocalOptima", "moved_by", "projected_slope", "local_optima", "slopes_along"]

ROUGH = 1e-5  # of the cost, that a search may leave to Newton's steps
NEAR = 1e-7  # of the cost, below which steps are taken whole, as costs do not tell them any more
EXACT = 1e-20  # of the temperature, that a step promises at the end: 1e-10 of the width of the policy
STEPS = 40  # near a plan
SEARCHED, ROUGHLY = 400, 150  # after a search, and of it


class LocalOptima(NamedTuple):
    """Local optima of the costs, each from a start of its own.

    Attributes:
        states: [R, T + 1, n].
        actions: [R, T, m].
        costs: [R], reward units.
        local: first and second order of dynamics and costs; Hessians are the costs' own, not projected.
        whole: the same with the curvature of the dynamics in its Hessians.
    """

    states: Tensor
    actions: Tensor
    costs: Tensor
    local: Expansion
    whole: Expansion

    def select(self, rows: Tensor) -> LocalOptima:
        """Some of the plans, by numbers."""
        local, whole = (Expansion(*(part[rows] for part in model)) for model in (self.local, self.whole))
        return LocalOptima(self.states[rows], self.actions[rows], self.costs[rows], local, whole)


@torch.no_grad()
def local_optima(
    problem: PlanningProblem, starts: Tensor, actions: Tensor, *, search: bool = True, damped: int = SEARCHED
) -> LocalOptima | None:
    """The plans near given actions; None where one is not found, or is no strict minimum.

    Args:
        problem: dynamics and costs; the covariance of its noise does not change.
        starts: [R, n].
        actions: [R, T, m], where to begin.
        search: whether to begin with the safeguarded steps of `ilqr`; else, near a plan, Newton's at once, undamped.
        damped: after a search, steps that may be damped, at most.
    """
    if not search:
        return _by_newton(problem, starts, actions, STEPS, damps=False)
    found = _searched(problem, starts, actions)
    return None if found is None else _by_newton(problem, starts, found, damped, damps=True)


def _by_newton(
    problem: PlanningProblem, starts: Tensor, actions: Tensor, limit: int, *, damps: bool
) -> LocalOptima | None:
    """Newton's steps from given actions, until they promise nothing more; None where they lead nowhere.

    Where the whole Hessian is not positive definite, as at saddles that `ilqr` passes by small steps, or a step brings
    nothing, actions are damped (Levenberg 1944), each plan by itself. The last steps are not.
    """
    taken, passed = problem.follow(lambda state, t: actions[:, t], (len(starts),), starts)
    states, actions, costs = passed.states, taken, passed.costs
    if not bool(torch.isfinite(costs).all()):
        return None
    share, before = torch.zeros_like(costs), float("inf")
    for _ in range(limit):
        local = expand(problem, states, actions, projected=False)
        whole = with_dynamics(problem, states, actions, local)
        bends = whole.hessian.diagonal(dim1=-2, dim2=-1)[..., problem.state_dim :].abs().mean((-2, -1))
        advice = improvement(problem, whole, share * bends.clamp(min=1e-12))
        size = costs.abs().clamp(min=problem.temperature)
        plain = advice.sound & (share == 0)
        promised = float((advice.promised / problem.temperature).max())
        if bool(plain.all()):
            if promised <= EXACT or (promised >= before / 4 and bool((advice.promised <= 1e-12 * size).all())):
                return LocalOptima(states, actions, costs, local, whole)
            before = promised
            if bool((advice.promised <= NEAR * size).all()):
                actions, passed = _whole_step(problem, states, actions, advice)
                states, costs = passed.states, passed.costs
                continue
        tried, found = line_search(problem, states, actions, advice)
        better = advice.sound & (found.costs < costs)
        near = advice.sound & (advice.promised <= NEAR * size)  # these wait for the others, undamped
        share = torch.where(better, lower(share), torch.where(near, torch.zeros_like(share), higher(share)))
        if bool((share > LAST).any()) or (bool((share > 0).any()) and not damps):
            return None
        actions, states = chosen(better, tried, actions), chosen(better, found.states, states)
        costs = torch.where(better, found.costs, costs)
    return None


def _searched(problem: PlanningProblem, starts: Tensor, actions: Tensor) -> Tensor | None:
    """[R, T, m] that `ilqr` makes of given actions, roughly; None where none of their trajectories is finite."""
    unasked: Any = None  # a search that is stepped by hand is not asked for an answer
    search = PlanSearch("", ROUGHLY, ROUGH, lambda _: problem, lambda _, seed: actions, unasked, starts)
    state = search.init(None, seed=0)
    for _ in range(ROUGHLY):
        if state.status is not None:
            break
        state, _ = search.step(state)
    return state.actions if bool(torch.isfinite(state.costs).all()) else None


def _whole_step(
    problem: PlanningProblem, states: Tensor, actions: Tensor, advice: Improvement
) -> tuple[Tensor, Rollout]:
    bases = actions + advice.offset

    def act(state: Tensor, t: int) -> Tensor:
        return bases[:, t] + times(advice.gain[:, t], state - states[:, t])

    return problem.follow(act, (len(states),), states[:, 0])


@torch.no_grad()
def moved_by(
    problem: PlanningProblem, plans: LocalOptima, gradients: Tensor, final_gradients: Tensor
) -> tuple[Tensor, Tensor]:
    """How plans move with F coefficients of their costs: states [R, F, T + 1, n] and actions [R, F, T, m].

    Args:
        problem: as for `local_optima`.
        plans: R of them.
        gradients: [R, F, T, n + m], of the stage cost of each coefficient at the plan.
        final_gradients: [R, F, n].
    """
    rows, features, horizon, d = gradients.shape
    n = problem.state_dim

    def each(part: Tensor) -> Tensor:
        return part[:, None].expand(-1, features, *part.shape[1:]).reshape(rows * features, *part.shape[1:])

    whole = plans.whole
    asked = whole._replace(
        slope=each(whole.slope),
        gradient=gradients.reshape(-1, horizon, d),
        hessian=each(whole.hessian),
        final_gradient=final_gradients.reshape(-1, n),
        final_hessian=each(whole.final_hessian),
    )
    advice = improvement(problem, asked, torch.zeros(rows * features, dtype=gradients.dtype))
    state = gradients.new_zeros(rows * features, n)
    states, actions = [state], []
    for t in range(horizon):
        actions.append(advice.offset[:, t] + times(advice.gain[:, t], state))
        state = times(asked.slope[:, t], torch.cat([state, actions[-1]], -1))
        states.append(state)
    return (
        torch.stack(states, 1).reshape(rows, features, horizon + 1, n),
        torch.stack(actions, 1).reshape(rows, features, horizon, -1),
    )


def slopes_along(
    problem: PlanningProblem, plans: LocalOptima, states: Tensor, actions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives of the local models when plans move: of F_t, of the costs' Hessians, and of the final one.

    Args:
        problem: as for `local_optima`.
        plans: R of them.
        states: [R, F, T + 1, n], by how much they move.
        actions: [R, F, T, m].

    Returns:
        [R, F, T, n, n + m], [R, F, T, n + m, n + m], [R, F, n, n].
    """
    n, moves = problem.state_dim, torch.cat([states[..., :-1, :], actions], -1)
    shape = moves.shape[:2]

    def at(part: Tensor) -> Tensor:
        return part[:, None].expand(*shape, *part.shape[1:]).contiguous()

    def derived(s: Tensor, a: Tensor, t: Times, name: str) -> tuple[Tensor]:
        z = torch.cat([s, a], -1)
        way = moves if isinstance(t, Tensor) else moves[..., t, :]

        def function(x: Tensor) -> Tensor:
            found: Tensor = getattr(problem, name)(x[..., :n], x[..., n:], t)
            return found

        def pushed(x: Tensor) -> Tensor:
            return times(first_order(function, x), way)

        return (_hessian_along(function, z, way) if name == "cost" else first_order(pushed, z),)

    found = []
    for name in ("mean_step", "cost"):
        step = along(problem, name, partial(derived, name=name))
        found.append(step(at(plans.states[:, :-1]), at(plans.actions))[0])
    last = _hessian_along(problem.final_cost, at(plans.states[:, -1]), states[..., -1, :])
    return found[0], found[1], last


def _hessian_along(function: Callable[[Tensor], Tensor], z: Tensor, way: Tensor) -> Tensor:
    """[..., d, d], the derivative of the Hessian of a function [..., d] -> [...] along [..., d]."""

    def slope(x: Tensor) -> Tensor:
        found: Tensor = grad(lambda y: function(y).sum())(x)
        return (found * way).sum(-1)

    return second_order(slope, z)[1]


def projected_slope(matrix: Tensor, slope: Tensor) -> Tensor:
    """The derivative of `project(matrix)` when a matrix [..., d, d] moves by a slope (Daleckii and Krein 1965)."""
    values, vectors = torch.linalg.eigh(matrix)
    kept = values.clamp(min=0)
    apart = values[..., :, None] - values[..., None, :]
    same = apart.abs() <= 1e-12 * values.abs().amax(-1)[..., None, None].clamp(min=1e-300)
    share = (kept[..., :, None] - kept[..., None, :]) / torch.where(same, torch.ones_like(apart), apart)
    both = ((values > 0)[..., :, None] & (values > 0)[..., None, :]).to(values.dtype)
    share = torch.where(same, both, share)
    return vectors @ (share * (vectors.mT @ slope @ vectors)) @ vectors.mT
