"""Gradients of V(start) where messages were passed in square roots, by the envelope theorem.

V(start) is an extreme over q of E_q[sum of rewards] - alpha KL - luck / theta, so its derivative is that of this
expression with q held (Danskin 1967, The theory of max-min): moments of q, and of the costate y = P s + p of what
follows each step, by which moves and noises are paid. With f(x) the cost of a mean outcome x = A s + B a + c,

    df / dx = E y,   df / dW = 1/2 (P~ - theta E[yy']),   df / dtheta = -luck / theta^2.

A costate is U'e + l with e = U x + u. Where costs are far apart e is a small difference of large numbers, and so it is
taken from the triangularisation that eliminated the action (see `Kept`), not from x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cai.inference.core.status import NotKnown
from cai.inference.gaussian.moments import alive
from cai.inference.gaussian.problem import GaussianPrior, GaussianProblem, Quadratic, times
from cai.inference.gaussian.rooted import Rooted, refined
from cai.inference.gaussian.square_roots import Kept, Left, Passed
from cai.inference.gaussian.squares import solved, spread_over

__all__ = ["asks_for_gradients", "with_slopes", "with_slopes_of"]

AGREE = {torch.float64: 1e-12, torch.float32: 1e-5}  # of gradients, by which those of the plain pass may be off


def asks_for_gradients(problem: GaussianProblem) -> bool:
    """Whether gradients of any part of a problem are recorded."""
    return torch.is_grad_enabled() and any(part.requires_grad for part, _ in _parts(problem))


def with_slopes(problem: GaussianProblem, plain: Tensor, passed: Passed, rooted: Rooted, members: Tensor) -> Tensor:
    """V(start) [...], with numbers and gradients by square roots where these hold.

    Where the gradients of the plain pass agree with them they are taken instead, and with them those of higher orders.

    Args:
        problem: the linear-quadratic problem, of at least one step.
        plain: V(start) of the plain pass, with its gradients.
        passed: the pass in square roots, with what it kept.
        rooted: what q does.
        members: bool [...], whom square roots hold for.
    """
    return _enveloped(problem, plain, passed.messages.start, _slopes(problem, passed, rooted), members)


def with_slopes_of(
    worth: Callable[[GaussianProblem], Tensor], problem: GaussianProblem, plain: Tensor, better: Tensor
) -> Tensor:
    """The better numbers [...] of a stationary answer, with the gradients of what its policy is worth, this held.

    Gradients of the plain numbers are taken where they agree with these, as in `with_slopes`.

    Args:
        worth: what the answer's policy, which has no gradients, earns and pays in a problem, [...].
        problem: the problem of one step.
        plain: the numbers, with gradients that may have lost their digits.
        better: the numbers.
    """
    parts, own = zip(*_parts(problem), strict=True)
    wide = [spread_over(part.detach(), problem.batch, axes) for part, axes in zip(parts, own, strict=True)]
    which = tuple(range(len(wide)))
    slopes = torch.func.grad(lambda *found: worth(_made_of(problem, found)).sum(), argnums=which)(*wide)
    return _enveloped(problem, plain, better, list(slopes), torch.ones_like(better, dtype=torch.bool))


def _enveloped(
    problem: GaussianProblem, plain: Tensor, better: Tensor, slopes: list[Tensor], members: Tensor
) -> Tensor:
    """Of some members the better numbers, with derivatives in each part of a problem; of the others the plain ones."""
    parts, own = zip(*_parts(problem), strict=True)
    slopes = [torch.where(members[(..., *[None] * axes)], slope, 0.0) for slope, axes in zip(slopes, own, strict=True)]
    if _agree(torch.where(members, plain, 0.0), slopes, parts):
        return refined(plain, better, members)
    found: Tensor = _Enveloped.apply(better, *slopes, *parts)
    return found if bool(members.all()) else torch.where(members, found, plain)


def _agree(plain: Tensor, slopes: list[Tensor], parts: tuple[Tensor, ...]) -> bool:
    """Whether the gradients of the plain pass, summed over members, are these; not so where they cannot be asked."""
    asked = [part for part in parts if part.requires_grad]
    known = [slope for slope, part in zip(slopes, parts, strict=True) if part.requires_grad]
    try:
        found = torch.autograd.grad(plain.sum(), asked, retain_graph=True, materialize_grads=True)
    except (RuntimeError, NotKnown):  # within the transforms of torch.func, or of a pass that has lost its digits
        return False
    wholes = [slope.sum_to_size(part.shape) for slope, part in zip(known, asked, strict=True)]
    apart = [
        (one - two).abs().amax() <= AGREE[plain.dtype] * two.abs().amax()
        for one, two in zip(found, wholes, strict=True)
    ]
    return all(map(bool, apart))


def _parts(problem: GaussianProblem) -> list[tuple[Tensor, int]]:
    """The tensors of a problem, and how many axes of each are none of the batch's."""
    moves = [(problem.A, 3), (problem.B, 3), (problem.offset, 2), (problem.noise, 3)]
    costs = [(problem.cost, 3), (problem.linear, 2), (problem.constant, 1)]
    ends = [*zip(problem.final, (2, 1, 0), strict=True), (problem.mean, 1), (problem.covariance, 2)]
    prior = [] if problem.prior is None else zip(problem.prior, (3, 2, 3), strict=True)
    return [*moves, *costs, *ends, (problem.temperature, 0), *prior]


def _made_of(problem: GaussianProblem, parts: tuple[Tensor, ...]) -> GaussianProblem:
    """The problem with other tensors, in the order of `_parts`."""
    A, B, offset, noise, cost, linear, constant, P, p, rho, mean, covariance, temperature, *prior = parts
    return replace(
        problem,
        A=A,
        B=B,
        offset=offset,
        noise=noise,
        cost=cost,
        linear=linear,
        constant=constant,
        final=Quadratic(P, p, rho),
        mean=mean,
        covariance=covariance,
        temperature=temperature,
        prior=GaussianPrior(*prior) if prior else None,
    )


class _Vector(NamedTuple):
    """A Gaussian vector: its mean [..., i] and rows [..., k, i] of deviations along the same k directions as others."""

    mean: Tensor
    rows: Tensor

    def by(self, other: _Vector) -> Tensor:
        """E[self other'], [..., i, j]."""
        return self.mean[..., :, None] * other.mean[..., None, :] + self.rows.mT @ other.rows


@torch.no_grad()
def _slopes(problem: GaussianProblem, passed: Passed, rooted: Rooted) -> list[Tensor]:
    """The derivatives of V(start) in each part of a problem, with all axes of the batch and of time."""
    messages, moments, kept, roots = passed.messages, rooted.moments, passed.kept, rooted.roots
    assert kept is not None
    theta, alpha, weights = messages.theta, problem.temperature, alive(problem)
    steps, last, over = weights[:-1, None, None], weights[-1], roots[..., :-1, :, :]
    wide = alpha[..., None, None, None].sqrt()
    own = torch.eye(problem.num_actions, dtype=roots.dtype, device=roots.device)
    state, act = moments.state_means[..., :-1, :], moments.action_means

    ahead = _residuals(problem, kept, state, bool((theta != 0).any()))
    apart = over @ kept.before.U.mT

    def rows(left: Left) -> _Vector:
        deviations = torch.cat([apart @ left.turn.mT, wide * left.act.mT], -2)
        return _Vector(times(left.turn, ahead) + left.rest, deviations)

    s = _Vector(state, torch.cat([over, over.new_zeros(*over.shape[:-2], len(own), over.shape[-1])], -2))
    a = _Vector(act, torch.cat([over @ messages.gain.mT, wide * solved(messages.root, own, upper=False)], -2))
    z = _Vector(torch.cat([s.mean, a.mean], -1), torch.cat([s.rows, a.rows], -1))
    e, U = rows(kept.outcome), kept.after.U
    y = _Vector(times(U.mT, e.mean) + kept.after.linear, e.rows @ U)
    after = U.mT @ U
    U, u, linear, _ = kept.start
    first = times(U.mT, times(U, problem.mean) + u) + linear
    end = _Vector(moments.state_means[..., -1, :], roots[..., -1, :, :])
    tilt = theta[..., None, None]
    paid, luck = rooted.account.policy_divergence, rooted.lucks.sum(-1)
    found = [
        -steps * y.by(s),
        -steps * y.by(a),
        -steps[..., 0] * y.mean,
        -steps * (after - tilt[..., None] * y.by(y)) / 2,
        -steps * z.by(z) / 2,
        -steps[..., 0] * z.mean,
        (-steps[..., 0, 0]).expand(*problem.batch, -1),
        -last * end.by(end) / 2,
        -last * end.mean,
        (-last).expand(problem.batch),
        -first,
        -(U.mT @ U - tilt * first[..., :, None] * first[..., None, :]) / 2,
        -paid - torch.where(theta != 0, luck / (theta * alpha), 0.0),
    ]
    if problem.prior is None or kept.prior is None:
        return found
    w, width = rows(kept.prior), torch.linalg.cholesky(problem.prior.covariance)
    width = width.expand(*w.mean.shape[:-1], *own.shape)
    scaled = wide * torch.linalg.solve_triangular(width, own.expand_as(width), upper=False)
    pull = _Vector(times(scaled.mT, w.mean), w.rows @ scaled)
    known = pull.by(pull) / alpha[..., None, None, None] - scaled.mT @ scaled
    return [*found, steps * pull.by(s), steps[..., 0] * pull.mean, steps * known / 2]


def _residuals(problem: GaussianProblem, kept: Kept, state: Tensor, tilted: bool) -> Tensor:
    """U s + u of the mean of each step's state [..., T, n].

    Where no outcome is tilted it is what the step before left, which keeps digits where U is large and s all but fits.
    """
    U, u = kept.before.U, kept.before.u
    found = times(U, state) + u
    if tilted:
        return found
    one, steps = found[..., 0, :], [found[..., 0, :]]
    for t, discount in enumerate(problem.discounts[:-1]):
        one = (times(kept.outcome.turn[..., t, :, :], one) + kept.outcome.rest[..., t, :]) / discount**0.5
        steps.append(one)
    return torch.stack(steps, -2)


class _Enveloped(torch.autograd.Function):
    """Numbers [...] with derivatives that are known in each of some tensors, once."""

    generate_vmap_rule = True

    @staticmethod
    def forward(numbers: Tensor, *slopes_and_parts: Tensor) -> Tensor:
        return numbers.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        half = len(ctx.saved_tensors) // 2
        slopes, parts = ctx.saved_tensors[:half], ctx.saved_tensors[half:]
        found: list[Tensor | None] = []
        for known, part in zip(slopes, parts, strict=True):
            whole = slope[(..., *[None] * (known.dim() - slope.dim()))] * known
            found.append(_Once.apply(whole.sum_to_size(part.shape), *parts))
        return None, *[None] * half, *found


class _Once(torch.autograd.Function):
    """A gradient in which no further ones are known."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, *parts: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, ...]:
        raise NotKnown(
            "second derivatives",
            "an answer whose costs or noises are so many orders apart that it was passed in square roots",
            "bring them nearer to each other, or take differences of gradients",
            "the pass that they are taken of has lost its digits",
        )
