"""Quadratic messages as sums of squares: twice the digits where one cost outweighs another by many orders.

A matrix P that holds both 1e12 and 1 keeps four digits of the one, however it is computed; its root holds 1e6 and 1
and keeps ten. A cost-to-go is 1/2 |U s + u|^2 + l's + rest here, and a step is a least-squares problem over noise,
action and state, from which an orthogonal triangularisation eliminates noise and action (Bierman 1977, Factorization
methods for discrete sequential estimation; Kailath, Sayed and Hassibi 2000, Linear estimation, chapter 12):

    1/2 |U (A s + B a + c + G v) + u|^2 + |v|^2 / (2 theta) + 1/2 |C^1/2 (s, a) + w|^2,   W = G G'

Noise that is tilted is one more action, whose cost is |v|^2 / (2 theta). For theta < 0 it is an adversary's, and a
Cholesky factor of I + theta G'PG takes the place of the triangularisation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cai.inference.gaussian.messages import Messages, added_constants, choices
from cai.inference.gaussian.problem import GaussianProblem, Quadratic, at_steps, symmetric, times
from cai.inference.gaussian.spectrum import half_log_det
from cai.inference.gaussian.squares import (
    Squares,
    axes_of,
    eliminated,
    factor,
    solved,
    spread_over,
    squares_of,
    triangle,
)
from cai.models.common.random_draws import seeded
from cai.models.common.shapes import broadcast_shapes

__all__ = ["Kept", "Left", "Passed", "Push", "backward_in_roots"]

CERTAIN = 2.0**100  # in place of 1 over the width of what has no noise


class Push(NamedTuple):
    """How tilted noise G v, v ~ N(-(slope x + shift), width'width), follows from a mean outcome x; N(0, I) untilted.

    Attributes:
        slope: [..., n, n].
        shift: [..., n].
        width: [..., n, n].
        log_det: [...], log|I + theta G'PG|.
        curvature: [..., n, n], G'PG.
        kept: [..., n, n], (I + theta W P)^-1, by which x enters the mean of what follows.
        pulled: [..., n], what is added to it.
        spread: [..., n, n], rows of the noise of what follows, whose covariance is spread'spread.
    """

    slope: Tensor
    shift: Tensor
    width: Tensor
    log_det: Tensor
    curvature: Tensor
    kept: Tensor
    pulled: Tensor
    spread: Tensor


class Left(NamedTuple):
    """Rows of costs after the policy acted in s: turn (U s + u) + rest + act v, with v ~ N(0, alpha) its noise.

    Attributes:
        turn: [..., T, k, n].
        rest: [..., T, k].
        act: [..., T, k, m].
    """

    turn: Tensor
    rest: Tensor
    act: Tensor


class Kept(NamedTuple):
    """What gradients need of a pass.

    Attributes:
        start: the cost of the mean of s_1.
        before: the cost of each step's state, [..., T, ...].
        after: that of its mean outcome x, of what the discount leaves.
        outcome: the rows U x + u of the latter.
        prior: the rows (alpha / L)^1/2 (a - K0 s - k0); None if the prior is flat.
    """

    start: Squares
    before: Squares
    after: Squares
    outcome: Left
    prior: Left | None


class Passed(NamedTuple):
    """A backward pass in square roots.

    Attributes:
        messages: of the pass.
        pushes: what tilts the start and each step, None where nothing does.
        members: bool [...], which members they hold for: those whose costs are sums of squares with roots of their own,
            and whose numbers are finite.
        kept: what gradients need, if it was asked for.
    """

    messages: Messages
    pushes: list[Push | None]
    members: Tensor
    kept: Kept | None = None


@torch.no_grad()
def backward_in_roots(
    problem: GaussianProblem,
    messages: Messages,
    *,
    costs: tuple[Squares, Squares] | None = None,
    shaken: bool = False,
    slopes: bool = False,
) -> Passed | None:
    """The messages of a backward pass, passed once more in square roots; None if theta has both signs.

    Args:
        problem: the linear-quadratic problem.
        messages: of the backward pass.
        costs: those of steps, with a time axis, and of the end, where they are known as squares.
        shaken: whether each step adds as much as its rounding, at random: how far numbers then move is how far off
            they may be.
        slopes: whether to keep what gradients need.
    """
    theta, shake = messages.theta, seeded(0) if shaken else None
    signs = theta.sign().unique()
    if len(signs) > 1:
        return None
    tilt = theta if bool(signs != 0) else None
    shape, horizon = problem.batch, problem.horizon
    stage, going, held = _costs(problem, costs, shaken=shaken)
    if tilt is not None:
        held = held & axes_of(problem.noise).held.all(-1) & axes_of(problem.covariance).held
    moves = [(problem.A, 2), (problem.B, 2), (problem.offset, 1), (problem.noise, 2)]
    squares = list(zip(stage, (2, 1, 1, 0), strict=True))
    parts = [[spread_over(step, shape, own) for step in at_steps(part, own, horizon)] for part, own in moves + squares]
    priors = _prior_rows(problem)
    found, acts, pushes, logs, kept = [going], list[_Act](), [], [], list[_Turned]()
    for t in reversed(range(horizon)):
        A, B, c, W, *cost = (part[t] for part in parts)
        going, log, push = _outcome(going, W, tilt, shake)
        logs.append(log)
        pushes.append(push)
        prior = [] if priors is None else [priors[t]]
        going, act, left = _before_action(going, (A, B, c), Squares(*cost), problem.discounts[t], prior, shake)
        if slopes:
            kept.append(left(going))
        acts.append(act)
        found.append(going)
    start, log, push = _outcome(going, spread_over(problem.covariance, shape, 2), tilt, shake)
    made = _gathered(problem, messages, found[::-1], acts[::-1], logs)
    made = replace(made, start=-(start(problem.mean) + log + made.start))
    finite = made.start.isfinite() & made.cost_to_go.P.isfinite().flatten(-3).all(-1)
    held = held & finite
    return Passed(made, [push, *pushes[::-1]], held, _in_order(start, kept[::-1], priors) if kept else None)


class _Turned(NamedTuple):
    """Of one step, what `Kept` has of all."""

    before: Squares
    after: Squares
    rows: Left


def _costs(
    problem: GaussianProblem, known: tuple[Squares, Squares] | None, *, shaken: bool
) -> tuple[Squares, Squares, Tensor]:
    """Costs of steps and of the end as squares, over the batch, and bool [...], which members have such."""
    if known is None:
        stage, fine = squares_of(problem.cost, problem.linear, problem.constant, shaken=shaken)
        end, good = squares_of(*problem.final, shaken=shaken)
        held = fine.all(-1) & good
    else:
        (stage, end), held = known, torch.ones(problem.batch, dtype=torch.bool, device=problem.mean.device)
    parts = zip(end, (2, 1, 1, 0), strict=True)
    return stage, Squares(*(spread_over(part, problem.batch, own) for part, own in parts)), held


def _in_order(start: Squares, kept: list[_Turned], priors: list[Tensor] | None) -> Kept:
    """What was kept of each step, side by side."""

    def together(parts: list[Any], own: tuple[int, ...]) -> list[Tensor]:
        return [torch.stack(part, -1 - axes) for part, axes in zip(zip(*parts, strict=True), own, strict=True)]

    before, after = (Squares(*together([step[k] for step in kept], (2, 1, 1, 0))) for k in range(2))
    turn, rest, act = together([step.rows for step in kept], (2, 1, 2))
    n, m = turn.shape[-1], act.shape[-1]
    outcome = Left(turn[..., :n, :], rest[..., :n], act[..., :n, :])
    prior = None if priors is None else Left(turn[..., -m:, :], rest[..., -m:], act[..., -m:, :])
    return Kept(start, before, after, outcome, prior)


class _Act(NamedTuple):
    """The policy of a step.

    Attributes:
        root: [..., m, m], root root' is the cost of actions, Haa.
        gain: [..., m, n].
        offset: [..., m].
        bare: [..., m, m], Haa without what a prior adds.
    """

    root: Tensor
    gain: Tensor
    offset: Tensor
    bare: Tensor


def _before_action(
    after: Squares,
    move: tuple[Tensor, Tensor, Tensor],
    cost: Squares,
    discount: float,
    prior: list[Tensor],
    shake: torch.Generator | None,
) -> tuple[Squares, _Act, Callable[[Squares], _Turned]]:
    """The cost-to-go before a step, with its action eliminated; the policy; and, of that cost, what gradients need.

    Args:
        after: the cost of a mean outcome.
        move: A, B and c of that outcome.
        cost: of state and action.
        discount: the probability that it lets the step go on.
        prior: what it adds as rows, if there is one.
        shake: see `triangle`.
    """
    (A, B, c), n, m = move, move[0].shape[-1], move[1].shape[-1]
    U, u, linear = discount**0.5 * after.U, discount**0.5 * after.u, discount * after.linear
    above = torch.cat([U @ B, U @ A, (times(U, c) + u)[..., None]], -1)
    below = torch.cat([cost.U[..., n:], cost.U[..., :n], cost.u[..., None]], -1)
    R, turn = eliminated(above, below, *prior, lead=m, shake=shake)
    root, across, shift = R[..., :m, :m], R[..., :m, m : m + n], R[..., :m, m + n]
    lean = solved(root.mT, (times(B.mT, linear) + cost.linear[..., n:])[..., None], upper=False)[..., 0]
    act = solved(root, torch.cat([across, (shift + lean)[..., None]], -1))
    bare = above[..., :m].mT @ above[..., :m] + below[..., :m].mT @ below[..., :m]
    rest = discount * after.rest + cost.rest + (linear * c).sum(-1) + R[..., m + n, m + n].square() / 2
    rest = rest - (lean * (lean / 2 + shift)).sum(-1)

    def turned(before: Squares) -> _Turned:
        Q = turn()
        rest = Q[..., m + n] * R[..., m + n, m + n, None] - times(Q[..., :m], lean)
        return _Turned(before, Squares(U, u, linear, before.rest), Left(Q[..., m : m + n], rest, Q[..., :m]))

    costs = times(A.mT, linear) + cost.linear[..., :n] - times(across.mT, lean)
    before = Squares(R[..., m : m + n, m : m + n], R[..., m : m + n, m + n], costs, rest)
    return before, _Act(root.mT, -act[..., :n] + 0.0, -act[..., n] + 0.0, bare), turned


def _gathered(
    problem: GaussianProblem, messages: Messages, found: list[Squares], acts: list[_Act], logs: list[Tensor]
) -> Messages:
    """Costs-to-go and policies of all steps as messages, whose `start` is what constants add at the first step."""
    root, gain, offset, bare = messages.root, messages.gain, messages.offset, messages.root
    if acts:
        parts = zip(zip(*acts, strict=True), (2, 2, 1, 2), strict=True)
        root, gain, offset, bare = (torch.stack(part, -1 - own) for part, own in parts)
    nothing, rest = torch.zeros_like(problem.constant), torch.zeros_like(found[-1].rest)
    without_constants = replace(problem, constant=nothing, final=problem.final._replace(rho=rest))
    added = added_constants(without_constants, choices(problem, root, bare), logs)
    quadratics = zip(*(part.quadratic() for part in found), strict=True)
    P, p, rho = (torch.stack(part, -1 - own) for part, own in zip(quadratics, (2, 1, 0), strict=True))
    return replace(
        messages,
        cost_to_go=Quadratic(P, p, rho + added),
        gain=gain,
        offset=offset,
        action_cost=symmetric(root @ root.mT),
        root=root,
        chosen=torch.ones_like(messages.chosen),
        start=added[..., 0],
    )


def _prior_rows(problem: GaussianProblem) -> list[Tensor] | None:
    """What a prior adds to each step, (alpha / L)^1/2 (a - K0 s - k0) as rows [..., m, m + n + 1]; None if flat."""
    if problem.prior is None:
        return None
    gain, offset, covariance = problem.prior
    own = torch.eye(problem.num_actions, dtype=gain.dtype, device=gain.device)
    shape = broadcast_shapes(gain.shape[:-2], offset.shape[:-1], covariance.shape[:-2])
    parts = [part.expand(*shape, *part.shape[-2:]) for part in (own, -gain, -offset[..., None])]
    width = torch.linalg.cholesky(covariance)
    rows = problem.temperature[..., None, None, None].sqrt() * solved(width, torch.cat(parts, -1), upper=False)
    return [spread_over(step, problem.batch, 2) for step in at_steps(rows, 2, problem.horizon)]


def _outcome(
    cost: Squares, noise: Tensor, theta: Tensor | None, shake: torch.Generator | None
) -> tuple[Squares, Tensor, Push | None]:
    """The cost of a mean outcome, logarithm apart; log|I + theta W P| / (2 theta); and how the noise is tilted."""
    U, u, linear, rest = cost
    G = factor(noise)
    moved = U @ G
    if theta is None:
        return cost, moved.square().sum((-2, -1)) / 2, None
    n = G.shape[-1]
    lean, tilt, own = times(G.mT, linear), theta[..., None], torch.eye(n, dtype=G.dtype, device=G.device)
    rest = rest - theta * lean.square().sum(-1) / 2
    curvature = moved.mT @ moved
    if bool((theta > 0).all()):
        width = tilt[..., None].sqrt()
        aside = (own / width).expand(*lean.shape[:-1], n, n)
        held = torch.cat([aside, torch.zeros_like(aside), lean[..., None] * width], -1)
        R = triangle(torch.cat([moved, U, u[..., None]], -1), held, shake=shake)
        root = R[..., :n, :n] * width
        rest = rest + R[..., 2 * n, 2 * n].square() / 2
        pulled = solved(root, R[..., :n, n:] * width)
        done = Squares(R[..., n : 2 * n, n : 2 * n], R[..., n : 2 * n, 2 * n], linear, rest)
    else:
        root, fault = torch.linalg.cholesky_ex(own + tilt[..., None] * curvature, upper=True)
        outer, failed = torch.linalg.cholesky_ex(own + tilt[..., None] * moved @ moved.mT)
        root = torch.where(((fault != 0) | (failed != 0))[..., None, None], torch.nan, root)
        beside = torch.cat([U, (u - tilt * times(moved, lean))[..., None]], -1)
        tilted = solved(outer, beside, upper=False)
        done = Squares(tilted[..., :n], tilted[..., n], linear, rest)
        pulled = torch.cat([moved.mT @ U, (times(moved.mT, u) + lean)[..., None]], -1) * tilt[..., None]
        pulled = solved(root, solved(root.mT, pulled, upper=False))
    log_det = 2 * root.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    half = half_log_det(curvature, theta.expand_as(log_det), log_det)
    width = solved(root.mT, own, upper=False)
    mean = _means(cost, noise, theta) if bool((theta > 0).all()) else None
    if mean is None:
        mean = own - G @ pulled[..., :n], -times(G, pulled[..., n]), width @ G.mT
    return done, half, Push(pulled[..., :n], pulled[..., n], width, log_det, curvature, *mean)


def _means(cost: Squares, noise: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`kept`, `pulled` and `spread` of a `Push` by theta > 0.

    A step as `_outcome`, about what follows in place of the noise, in the axes of the noise: where noise is large, x
    and the noise that is hoped for are all but opposite, and their sum would have no digit.
    """
    U, u, linear, _ = cost
    found, n = axes_of(noise), U.shape[-1]
    order = found.values.argsort(-1)  # what is certain is eliminated first, or it would pass through the other rows
    axes = found.axes.gather(-1, order[..., None, :].expand(found.axes.shape))
    inverse = found.inverse.gather(-2, order[..., None].expand(found.axes.shape))
    sizes = theta[..., None].sqrt() * found.roots.gather(-1, order)
    free = sizes > 0
    weights = torch.where(free, 1 / sizes, CERTAIN)
    toward = times(axes.mT, linear) * torch.where(free, sizes, 0.0)
    pairs = [torch.diag_embed(weights), -weights[..., None] * inverse, toward[..., None]]
    shape = broadcast_shapes(U.shape[:-2], weights.shape[:-1])
    pairs = [part.expand(*shape, *part.shape[-2:]) for part in pairs]
    R = triangle(torch.cat([U @ axes, torch.zeros_like(U), u[..., None]], -1), torch.cat(pairs, -1))
    root, own = R[..., :n, :n], torch.eye(n, dtype=U.dtype, device=U.device)
    given = -axes @ solved(root, R[..., :n, n:])
    width = torch.where(free[..., :, None] & free[..., None, :], solved(root.mT, own, upper=False), 0.0)
    return given[..., :n], given[..., n], width @ axes.mT / theta[..., None, None].sqrt()
