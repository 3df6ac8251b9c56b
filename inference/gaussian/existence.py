"""Where a quadratic message has no finite value: which step, by how much, and at which caution it breaks down."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cai.inference.gaussian.messages import Messages, backward
from cai.inference.gaussian.problem import GaussianProblem
from cai.inference.gaussian.spectrum import root_of

__all__ = ["Failure", "critical_eta", "digits_lost_to_caution", "first_failure", "slack"]

SLACK = 64  # units of rounding: pivots below so many of what they are a difference of are rounding
ACCURACY = 1e-7  # relative, of a critical eta
TINY = 1e-300
DOUBLINGS = 60  # how often eta is doubled in search of a breakdown


@dataclass(frozen=True)
class Failure:
    """The first step, seen from the end, that has no finite value.

    Attributes:
        kind: "outcome", I + theta W^1/2 P W^1/2 is not positive definite; "action", Haa is not; "start", the first
            with the covariance of s_1; "overflow", numbers left the range of floats.
        step: the time index; None for the start.
        eigenvalue: the smallest of the matrix that should be positive definite; NaN after an overflow.
        member: the index of the batch member, () where there is no batch.
    """

    kind: str
    step: int | None
    eigenvalue: float
    member: tuple[int, ...] = ()

    def sentence(self) -> str:
        """What failed, in words."""
        where = "at the start" if self.step is None else f"at step {self.step}"
        member = f" of batch member {list(self.member)}" if self.member else ""
        if self.kind == "overflow":
            return f"numbers leave the range of floats {where}{member}"
        matrix = {
            "outcome": "I + (eta / alpha) W^1/2 P W^1/2, by which outcomes are weighed,",
            "action": "Haa, the quadratic cost of an action and of what it leads to,",
            "start": "I + (eta / alpha) S1^1/2 P S1^1/2, by which starts are weighed,",
        }[self.kind]
        return f"{matrix} is not positive definite {where}{member}: its smallest eigenvalue is {self.eigenvalue:.4g}"


@torch.no_grad()
def first_failure(problem: GaussianProblem, messages: Messages, rooted: Tensor | None = None) -> Failure | None:
    """The first failure of a backward pass, seen from the end; None where every value is finite.

    Tests are relative: a matrix counts as positive definite only if each pivot of its Cholesky factor is more than the
    rounding of what it is a difference of.

    Args:
        problem: the linear-quadratic problem.
        messages: of a backward pass.
        rooted: bool [...], members whose messages were passed in square roots, so that rounding is that of roots.
    """
    shape, P = (*problem.batch, problem.horizon), messages.cost_to_go.P
    outcomes = actions = torch.ones(shape, dtype=torch.bool, device=P.device)
    start = P[..., 0, :, :].isfinite().all(-1).all(-1)
    if bool((messages.theta < 0).any()) or (bool((messages.theta > 0).any()) and not _is_convex(problem)):
        if bool((problem.noise != 0).any()):
            outcomes = _definite(_shift(problem.noise, P[..., 1:, :, :], messages.theta[..., None]))
        start = start & _definite(_shift(problem.covariance, P[..., 0, :, :], messages.theta))
    if problem.num_actions:
        stage = messages.action_cost.diagonal(dim1=-2, dim2=-1)
        own = problem.folded().P.diagonal(dim1=-2, dim2=-1)[..., problem.num_states :]
        pivots = messages.root.diagonal(dim1=-2, dim2=-1).square()
        rounding = slack(P) if rooted is None else torch.where(rooted, slack(P) ** 2, slack(P))[..., None, None]
        scale = rounding * (problem.num_states + problem.num_actions) * (own.abs() + (stage - own).abs())
        actions = messages.chosen & (pivots > scale).all(-1)
    steps = torch.stack([outcomes.expand(shape), actions.expand(shape)], -1).flip(-2).flatten(-2)
    good = torch.cat([steps, start.expand(problem.batch)[..., None]], -1)
    if bool(good.all()):
        return None
    *member, place = (int(index) for index in torch.nonzero(~good)[0])
    return _failure(problem, messages, tuple(member), place)


def critical_eta(problem: GaussianProblem, eta: float, failure: Failure) -> float | None:
    """The eta < 0 below which an outcome step, the start's included, has no finite value; to 1e-7 of itself.

    Args:
        problem: the linear-quadratic problem; of a batch, that of the member that breaks down first.
        eta: < 0, at which a pass failed.
        failure: how it failed.

    Returns:
        The critical eta; None if there is none, as without noise.
    """
    known = {0.0: 1.0} if failure.kind == "action" else {0.0: 1.0, eta: _below(failure)}

    def margin(tilt: float) -> float:
        if tilt not in known:
            known[tilt] = _margin(problem, tilt)
        return known[tilt]

    low, high = eta, 0.0
    if failure.kind == "action":
        low = next((eta * 2.0**k for k in range(1, DOUBLINGS) if margin(eta * 2.0**k) < 0), 0.0)
        high = eta
        if low == 0.0:
            return None
    from scipy.optimize import brentq  # `import cai` loads no scipy

    return float(brentq(margin, low, high, xtol=math.ulp(0.0), rtol=ACCURACY))


def _below(failure: Failure) -> float:
    """The smallest eigenvalue of a matrix that is not positive definite; what counts as none is below 0."""
    return min(failure.eigenvalue, -TINY) if math.isfinite(failure.eigenvalue) else -1.0


@torch.no_grad()
def _margin(problem: GaussianProblem, eta: float) -> float:
    """The smallest eigenvalue that outcome steps and the start need above 0; below it where one has no finite value.

    It passes 0 where they break down, nearly in a straight line, so that few passes find the place.
    """
    messages = backward(problem, eta)
    failure = first_failure(problem, messages)
    if failure is not None:
        return 1.0 if failure.kind == "action" else _below(failure)
    P, theta = messages.cost_to_go.P, messages.theta
    shifts = (
        _shift(problem.covariance, P[..., 0, :, :], theta),
        _shift(problem.noise, P[..., 1:, :, :], theta[..., None]),
    )
    return max(TINY, 1 + min(float(torch.linalg.eigvalsh(shift).min()) for shift in shifts))


@torch.no_grad()
def digits_lost_to_caution(problem: GaussianProblem, messages: Messages) -> Tensor:
    """[...], by what share of itself a message of eta < 0 may be off, as what I + theta W^1/2 P W^1/2 leaves of I.

    Near a breakdown little is left, and that is a difference of numbers that are rounded.

    Args:
        problem: the linear-quadratic problem.
        messages: of a backward pass with theta < 0, all of which are finite.
    """
    P, theta = messages.cost_to_go.P, messages.theta
    start = _lost(_shift(problem.covariance, P[..., 0, :, :], theta))
    return torch.maximum(start, _lost(_shift(problem.noise, P[..., 1:, :, :], theta[..., None])).amax(-1))


def slack(part: Tensor) -> float:
    """The share of a number that is rounding in its dtype."""
    return SLACK * torch.finfo(part.dtype).eps


def _shift(noise: Tensor, P: Tensor, theta: Tensor) -> Tensor:
    """Theta U'P U [..., n, n], where U U' is the covariance `noise`: what is added to I."""
    root = root_of(noise)
    return theta[..., None, None] * (root.mT @ P @ root)


def _definite(shift: Tensor) -> Tensor:
    """Bool [...], whether I + shift is positive definite by more than rounding."""
    pivots, scale, sound = _pivots(shift)
    return sound & (pivots > slack(shift) * shift.shape[-1] * scale).all(-1)


def _lost(shift: Tensor) -> Tensor:
    """[...], the rounding of the pivots of I + shift over what they are."""
    pivots, scale, _ = _pivots(shift)
    return (torch.finfo(shift.dtype).eps * scale / pivots).amax(-1)


def _pivots(shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pivots [..., n] of I + shift, what they are differences of, and bool [...], whether there are such."""
    own = torch.eye(shift.shape[-1], dtype=shift.dtype, device=shift.device)
    root, fault = torch.linalg.cholesky_ex(shift + own)
    return root.diagonal(dim1=-2, dim2=-1).square(), 1 + shift.diagonal(dim1=-2, dim2=-1).abs(), fault == 0


def _is_convex(problem: GaussianProblem) -> bool:
    """Whether all costs are bounded below; no tilt by theta > 0 can break down then, whatever the noise.

    The action prior is left out: it cannot make bounded costs unbounded, and its size may hide one that is not.
    """
    return all(_is_semidefinite(cost) for cost in (problem.final.P, problem.cost))


def _is_semidefinite(matrix: Tensor) -> bool:
    """Up to the rounding of each coordinate by itself, so that a large one hides no small one below zero."""
    width = matrix.diagonal(dim1=-2, dim2=-1).abs().sqrt()
    unit = matrix / torch.where(width > 0, width, 1.0)[..., None] / torch.where(width > 0, width, 1.0)[..., None, :]
    values = torch.linalg.eigvalsh(unit)
    return bool((values[..., 0] >= -slack(matrix) * matrix.shape[-1]).all())


def _failure(problem: GaussianProblem, messages: Messages, member: tuple[int, ...], place: int) -> Failure:
    """What failed in a batch member; `place` counts outcome and action of each step from the end, then the start."""
    if place == 2 * problem.horizon:
        kind, step = "start", None
        shift = _shift(problem.covariance, messages.cost_to_go.P[..., 0, :, :], messages.theta)
    else:
        step = problem.horizon - 1 - place // 2
        kind = ("outcome", "action")[place % 2]
        if kind == "outcome":
            shift = _shift(problem.noise, messages.cost_to_go.P[..., 1:, :, :], messages.theta[..., None])
        else:
            shift = messages.action_cost
        shift = shift.expand(*problem.batch, problem.horizon, *shift.shape[-2:])[..., step, :, :]
    matrix = shift.expand(*problem.batch, *shift.shape[-2:])[member]
    if not bool(torch.isfinite(matrix).all()):
        return Failure("overflow", step, float("nan"), member)
    smallest = float(torch.linalg.eigvalsh(matrix)[0])
    return Failure(kind, step, smallest if kind == "action" else 1 + smallest, member)
