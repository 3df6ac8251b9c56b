"""The soft Riccati recursion: quadratic messages backward through outcomes and actions, for any tilt of the outcomes.

With theta = eta / alpha and V_t(s) = -1/2 s'P s - p's - rho:

    outcome   P~ = P (I + theta W P)^-1,   p~ = (I + theta P W)^-1 p,
              rho~ = rho + log|I + theta W P| / (2 theta) - theta/2 p'(I + theta W P)^-1 W p
    action    H = C + F'P~F,  h = g + F'(P~c + p~),  F = [A B];   K = -Haa^-1 Has,  k = -Haa^-1 ha,
              Sigma = alpha Haa^-1;   P = Hss + Hsa K,  p = hs + Hsa k

These are Levine 2018, equations 7 (eta = 1) and 15 (eta = 0), for quadratic functions; other tilts are those of
Jacobson (1973), Optimal stochastic linear systems with exponential performance criteria.

The affine parts ride along in homogeneous coordinates: over x = (s, 1) the cost 1/2 s'Ps + p's + rho is one matrix
[[P, p], [p', 2 rho]], and the recursions of p and of the quadratic terms of rho are that of P. Constants of costs and
logarithms of determinants are added when all steps are known, and where nothing is affine there is no border.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.inference.core.storage import storable
from cai.inference.gaussian.problem import GaussianProblem, Quadratic, at_steps, quick_product, stacked, symmetric
from cai.inference.gaussian.spectrum import half_log_det
from cai.models.common.shapes import broadcast_shapes

__all__ = ["Messages", "added_constants", "backward", "choices", "outcome_step"]


@storable("gaussian-messages")
@dataclass(frozen=True, eq=False)
class Messages:
    """What a backward pass leaves. Costs are in reward units, and a value is the negative of its cost.

    Attributes:
        cost_to_go: of s_1 .. s_{T+1}: P [..., T + 1, n, n], p [..., T + 1, n], rho [..., T + 1].
        gain: [..., T, m, n], K of the policy N(K s + k, Sigma).
        offset: [..., T, m], k.
        action_cost: [..., T, m, m], Haa = alpha Sigma^-1.
        root: [..., T, m, m], its lower Cholesky factor.
        chosen: bool [..., T], whether it has one.
        theta: eta / alpha, 0-dim or of the batch's shape.
        temperature: alpha.
        start: [...], V(start): the outcome step once more, with the distribution of s_1; reward units.
    """

    cost_to_go: Quadratic
    gain: Tensor
    offset: Tensor
    action_cost: Tensor
    root: Tensor
    chosen: Tensor
    theta: Tensor
    temperature: Tensor
    start: Tensor
    _stored_axes = {"gain": "... T m n", "offset": "... T m", "action_cost": "... T m m", "root": "... T m m"}
    _stored_axes |= {"chosen": "... T any", "theta": "...", "temperature": "...", "start": "..."}

    @cached_property
    def covariance(self) -> Tensor:
        """[..., T, m, m], Sigma of the policy."""
        own = torch.eye(self.root.shape[-1], dtype=self.root.dtype, device=self.root.device)
        inverse = torch.cholesky_solve(own.expand_as(self.root), self.root) if self.root.numel() else self.root
        return self.temperature[..., None, None, None] * inverse

    @property
    def width(self) -> Tensor:
        """[..., T, m, m], an upper triangular factor of Sigma, width width'."""
        own = torch.eye(self.root.shape[-1], dtype=self.root.dtype, device=self.root.device)
        inverse = torch.linalg.solve_triangular(self.root, own, upper=False)
        return self.temperature[..., None, None, None].sqrt() * inverse.mT

    @property
    def first(self) -> Quadratic:
        """The cost-to-go of s_1, [...]."""
        P, p, rho = self.cost_to_go
        return Quadratic(P[..., 0, :, :], p[..., 0, :], rho[..., 0])

    @property
    def following(self) -> Quadratic:
        """The cost-to-go of s_2 .. s_{T+1}, [..., T, ...]."""
        P, p, rho = self.cost_to_go
        return Quadratic(P[..., 1:, :, :], p[..., 1:, :], rho[..., 1:])

    def ahead(self, problem: GaussianProblem) -> tuple[Quadratic, tuple[float, ...]]:
        """The cost-to-go of s_2 .. s_{T+1} as a function of the mean outcome, and what the discount leaves of it."""
        tilts = bool((self.theta != 0).any())
        return outcome_step(self.following, problem.noise, self.theta[..., None] if tilts else None), problem.discounts


@np.errstate(all="ignore")  # torch does not warn of what is infinite either
def backward(problem: GaussianProblem, eta: float | Tensor = 0.0) -> Messages:
    """Passes quadratic messages from the end to the start.

    Nothing is refused here: where a step has no finite value the numbers mean nothing, which
    `cai.inference.gaussian.existence.first_failure` tells from them.

    Args:
        problem: the linear-quadratic problem, of batch shape [...].
        eta: how outcomes are tilted: 1 for the exact posterior, 0 for fixed dynamics, below 0 for caution.
    """
    n, m, horizon, alpha = problem.num_states, problem.num_actions, problem.horizon, problem.temperature
    theta = torch.as_tensor(eta, dtype=alpha.dtype, device=alpha.device) / alpha
    moves = theta if bool((theta != 0).any()) or (isinstance(eta, Tensor) and eta.requires_grad) else None
    asked, problem = problem, problem.centred()
    maps, costs, message = _homogeneous(problem, affine=_is_affine(problem))
    spread, own = _paid_by_actions(problem), torch.eye(m, dtype=alpha.dtype, device=alpha.device)
    size = message.shape[-1]  # n + 1, or n where nothing is affine
    noises, discounts = at_steps(problem.noise, 2, horizon), problem.discounts
    room = _room(horizon + 1, message)
    going, gains, stages, bare, roots, faults, logs = [message], [], [], [], [], [], []
    for t in reversed(range(horizon)):
        message, log = _tilt(message, noises[t], moves)
        logs.append(log)
        if discounts[t] != 1:
            message = discounts[t] * message
        (closed, push), (paid, given, act) = maps[t], costs[t]
        if m:
            pulled = quick_product(push.mT, message)
            bare.append(quick_product(pulled, push).add_(act))
            stages.append(bare[-1] if spread is None else bare[-1] + spread[t])
            root, fault = torch.linalg.cholesky_ex(stages[-1])
            inverse = torch.linalg.solve_triangular(root, own, upper=False)
            gains.append(quick_product(inverse.mT, quick_product(inverse, quick_product(pulled, closed).add_(given))))
            closed = quick_product(push, gains[-1]).neg_().add_(closed)
            act = act if spread is None else act + spread[t]
            paid = quick_product(gains[-1].mT, quick_product(act, gains[-1]).sub_(given, alpha=2)).add_(paid)
            roots.append(root)
            faults.append(fault)
        message = quick_product(closed.mT, quick_product(message, closed)).add_(paid)
        if room is not None and not _symmetrised(message, room[t]):
            room = None
        message = symmetric(message) if room is None else room[t]
        going.append(message)
    shape = problem.batch
    gain = _in_order(gains, (*shape, horizon, m, size), message).mul_(-1.0).add_(0.0)  # no zero is a negative one
    root = _in_order(roots, (*shape, horizon, m, m), message)
    chosen = choices(problem, root, _in_order(bare, (*shape, horizon, m, m), message))
    every = _in_order(going, (*shape, horizon + 1, size, size), message) if room is None else room.movedim(0, -3)
    cost_to_go = _unbordered(every, n, added_constants(problem, chosen, logs))
    P, p, rho = cost_to_go
    first = Quadratic(P[..., 0, :, :], p[..., 0, :], rho[..., 0])
    lean, shift = gain[..., :n], gain[..., n] if size > n else gain.new_zeros(*shape, horizon, m)
    if asked is not problem and asked.prior is not None:
        lean, shift = lean + asked.prior.gain, shift + asked.prior.offset
    return Messages(
        cost_to_go=cost_to_go,
        gain=lean,
        offset=shift,
        action_cost=_in_order(stages, (*shape, horizon, m, m), message),
        root=root,
        chosen=torch.stack(faults[::-1], -1) == 0 if faults else root.new_ones(*shape, horizon, dtype=torch.bool),
        theta=theta,
        temperature=alpha,
        start=-outcome_step(first, problem.covariance, moves)(problem.mean),
    )


@np.errstate(all="ignore")
def outcome_step(cost: Quadratic, noise: Tensor, theta: Tensor | None) -> Quadratic:
    """The cost -(1 / theta) log E exp(-theta cost(x + w)), w ~ N(0, noise), as a function of x.

    Args:
        cost: P [..., n, n], p [..., n], rho [...].
        noise: [..., n, n].
        theta: [...]; None for the mean, the limit at 0.
    """
    message, log = _tilt(_bordered(cost.P, cost.p, 2 * cost.rho), noise, theta)
    return _unbordered(message, cost.P.shape[-1], log)


def _tilt(message: Tensor, noise: Tensor, theta: Tensor | None) -> tuple[Tensor, Tensor]:
    """A bordered message after an outcome step, logarithm apart, and log|I + theta W P| / (2 theta) [...]."""
    n = noise.shape[-1]
    if theta is None:
        return message, (message[..., :n, :n] * noise).sum((-2, -1)) / 2
    top, tilt = message[..., :n, :], theta[..., None, None]
    tilted_noise = quick_product(message[..., :n, :n], noise)
    own = torch.eye(n, dtype=noise.dtype, device=noise.device)
    factor, pivots, _ = torch.linalg.lu_factor_ex(torch.addcmul(own, tilted_noise, tilt))
    tilted = torch.linalg.lu_solve(factor, pivots, top.expand(*factor.shape[:-1], top.shape[-1]))
    if top.shape[-1] > n:
        linear = tilted[..., n:]
        corner = message[..., n:, n:] - tilt * (message[..., n:, :n] @ (noise @ linear))
        tilted = torch.cat([tilted, torch.cat([linear.mT, corner], -1)], -2)
    log_det = factor.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    return symmetric(tilted), half_log_det(tilted_noise, theta.expand_as(log_det), log_det)


def _is_affine(problem: GaussianProblem) -> bool:
    """Whether any message has a linear part, or gradients ask for one."""
    parts = [problem.offset, problem.linear, problem.final.p]
    parts += [] if problem.prior is None else [problem.prior.offset]
    return any(part.requires_grad or bool(part.any()) for part in parts)


def _homogeneous(problem: GaussianProblem, *, affine: bool) -> tuple[list[Any], list[Any], Tensor]:
    """The maps and the costs of each step over x = (s, 1), and the final cost; constants and prior stay out.

    Returns:
        Of each step x -> x' [..., n + 1, n + 1] and a -> x' [..., n + 1, m]; and its cost: of x [..., n + 1, n + 1], of
        a and x together [..., m, n + 1], and of a [..., m, m]; the final cost, of the batch's shape. All are without
        the coordinate 1 where nothing is affine.
    """
    n, horizon, final = problem.num_states, problem.horizon, problem.final

    def moved(A: Tensor, B: Tensor, *c: Tensor) -> tuple[Tensor, Tensor]:
        if not c:
            return A, B
        row = _beside(A, c[0][..., None])
        last = row.new_zeros(n + 1).index_fill_(0, torch.tensor(n, device=row.device), 1.0)
        drift = torch.cat([row, last.expand(*row.shape[:-2], 1, -1)], -2)
        return drift, torch.cat([B, torch.zeros_like(B[..., :1, :])], -2)

    def paid(C: Tensor, *g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own, given, act = C[..., :n, :n], C[..., n:, :n], C[..., n:, n:].contiguous()
        if not g:
            return own.contiguous(), given.contiguous(), act
        linear = g[0][..., None]
        return _bordered(own, g[0][..., :n], torch.zeros_like(g[0][..., 0])), _beside(given, linear[..., n:, :]), act

    maps = _each_step(moved, [(problem.A, 2), (problem.B, 2), *[(problem.offset, 1)] * affine], horizon)
    costs = _each_step(paid, [(problem.cost, 2), *[(problem.linear, 1)] * affine], horizon)
    last = _bordered(final.P, final.p, torch.zeros_like(final.p[..., 0])) if affine else final.P
    return maps, costs, last.expand(*problem.batch, -1, -1)


def _each_step(make: Callable[..., Any], parts: list[tuple[Tensor, int]], horizon: int) -> list[Any]:
    """What is made of the parts of each step; once for all steps where none of them changes with time."""
    if horizon and all(part.shape[part.dim() - own - 1] == 1 for part, own in parts):
        return [make(*(part.select(part.dim() - own - 1, 0) for part, own in parts))] * horizon
    return [make(*step) for step in zip(*(at_steps(part, own, horizon) for part, own in parts), strict=True)]


def _beside(*parts: Tensor) -> Tensor:
    """Matrices [..., i, j] with the same rows, side by side."""
    shape = broadcast_shapes(*(part.shape[:-2] for part in parts))
    return torch.cat([part.expand(*shape, *part.shape[-2:]) for part in parts], -1)


def _bordered(P: Tensor, p: Tensor, corner: Tensor) -> Tensor:
    """[[P, p], [p', corner]], [..., i + 1, i + 1]."""
    shape = broadcast_shapes(P.shape[:-2], p.shape[:-1], corner.shape)
    size = P.shape[-1]
    column = p[..., None].expand(*shape, size, 1)
    last = torch.cat([column.mT, corner[..., None, None].expand(*shape, 1, 1)], -1)
    return torch.cat([torch.cat([P.expand(*shape, size, size), column], -1), last], -2)


def _unbordered(message: Tensor, n: int, constant: Tensor) -> Quadratic:
    """The function of n coordinates that a matrix, bordered or not, and what is added to its constant stand for."""
    P = message[..., :n, :n]
    if message.shape[-1] == n:
        return Quadratic(P, torch.zeros_like(P[..., 0]), constant.expand(P.shape[:-2]))
    return Quadratic(P, message[..., :n, n], message[..., n, n] / 2 + constant)


def _room(steps: int, last: Tensor) -> Tensor | None:
    """Memory for the messages of all steps, with the last one in its place, so that none is copied; None on a GPU."""
    if last.device.type != "cpu" or last.requires_grad:
        return None
    try:
        numbers = last.numpy()
    except RuntimeError:  # under the transforms of torch.func tensors have no numbers of their own
        return None
    room = np.empty((steps, *last.shape), dtype=numbers.dtype)
    room[-1] = numbers
    return torch.from_numpy(room)


def _symmetrised(matrix: Tensor, place: Tensor) -> bool:
    """Writes the symmetric part of matrices into a place; False where they record gradients or hold no numbers."""
    try:
        numbers = matrix.numpy()
    except RuntimeError:  # it records gradients, or is transformed by torch.func
        return False
    held = place.numpy()
    np.add(numbers, np.swapaxes(numbers, -1, -2), out=held)
    np.multiply(held, 0.5, out=held)
    return True


def _in_order(backwards: list[Tensor], shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Of a shape [..., T, i, j] that holds matrices [..., i, j], found from the end; empty ones were not looked for."""
    if not backwards:
        return like.new_zeros(shape)
    return stacked(backwards[::-1]).movedim(0, -3)


def _paid_by_actions(problem: GaussianProblem) -> list[Tensor] | None:
    """What a centred prior adds to the cost of each step's actions, alpha L^-1 [..., m, m]; None if it is flat."""
    if problem.prior is None:
        return None
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(problem.prior.covariance))
    return at_steps(problem.temperature[..., None, None, None] * inverse, 2, problem.horizon)


def choices(problem: GaussianProblem, root: Tensor, bare: Tensor) -> Tensor:
    """[..., T], -alpha times the logarithm of each step's integral over actions, of what is quadratic in them.

    Under a centred prior N(0, L) that is alpha/2 log|I + L (Haa - alpha L^-1) / alpha|, of which no digit is lost
    however large alpha is.

    Args:
        problem: for temperature and prior, which is centred.
        root: [..., T, m, m], Cholesky factors of Haa.
        bare: [..., T, m, m], Haa without what the prior adds.
    """
    m, alpha = problem.num_actions, problem.temperature[..., None]
    half = root.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    if problem.prior is None or not m:
        return alpha * (half - m / 2 * (2 * math.pi * alpha).log())
    covariance = problem.prior.covariance
    width = torch.linalg.cholesky(covariance).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_det = 2 * (half + width) - m * alpha.log()
    return half_log_det(covariance @ bare, (1 / alpha).expand_as(log_det), log_det)


def added_constants(problem: GaussianProblem, choices: Tensor, outcomes: list[Tensor]) -> Tensor:
    """[..., T + 1], what constants of costs and logarithms of determinants add to the cost-to-go.

    Args:
        problem: for the constants.
        choices: [..., T], those of the integrals over actions.
        outcomes: [...] of each step from the end, the logarithm of its outcome step.
    """
    own = choices + problem.constant
    total = problem.final.rho.expand(problem.batch)
    found = [total]
    steps = zip(reversed(own.unbind(-1)), reversed(problem.discounts), outcomes, strict=True)
    for chosen, kept, tilted in steps:
        total = chosen + kept * (tilted + total)
        found.append(total)
    return torch.stack(found[::-1], -1)
