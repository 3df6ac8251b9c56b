"""The soft Riccati recursion: quadratic messages backward through outcomes and actions, for any tilt of the outcomes.

With theta = eta / alpha and V_t(s) = -1/2 s'P s - p's - rho:

    outcome   P~ = P (I + theta W P)^-1,   p~ = (I + theta P W)^-1 p,
              rho~ = rho + log|I + theta W P| / (2 theta) - theta/2 p'(I + theta W P)^-1 W p
    action    H = C + F'P~F,  h = g + F'(P~c + p~),  F = [A B];   K = -Haa^-1 Has,  k = -Haa^-1 ha,
              Sigma = alpha Haa^-1;   P = Hss + Hsa K,  p = hs + Hsa k

These are Levine 2018, equations 7 (eta = 1) and 15 (eta = 0), for quadratic functions; other tilts are those of
Jacobson (1973), Optimal stochastic linear systems with exponential performance criteria.

The affine parts ride along in homogeneous coordinates: over x = (s, 1) the cost 1/2 s'Ps + p's + rho is one matrix
[[P, p], [p', 2 rho]], and the recursions of p and of the quadratic terms of rho are that of P. What logarithms of
determinants add to rho is added when all steps are known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cai.inference.core.storage import storable
from cai.inference.gaussian.problem import GaussianProblem, Quadratic, at_steps, stacked, symmetric
from cai.inference.gaussian.spectrum import half_log_det

__all__ = ["Messages", "backward", "outcome_step"]


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

    @cached_property
    def covariance(self) -> Tensor:
        """[..., T, m, m], Sigma of the policy."""
        own = torch.eye(self.root.shape[-1], dtype=self.root.dtype, device=self.root.device)
        inverse = torch.cholesky_solve(own.expand_as(self.root), self.root) if self.root.numel() else self.root
        return self.temperature[..., None, None, None] * inverse

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
        return outcome_step(self.following, problem.noise, self.theta[..., None] if tilts else None), problem.survival


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
    maps, costs = _homogeneous(problem)
    noises, survival = at_steps(problem.noise, 2, horizon), problem.survival
    message = _bordered(problem.final.P, problem.final.p, 2 * problem.final.rho).expand(*problem.batch, -1, -1)
    going, gains, stages, roots, faults, logs = [message], [], [], [], [], []
    for t in reversed(range(horizon)):
        message, log = _tilt(message, noises[t], moves)
        logs.append(log)
        if survival[t] != 1:
            message = survival[t] * message
        stage = costs[t] + maps[t].mT @ (message @ maps[t])
        message = stage[..., : n + 1, : n + 1]
        if m:
            across = stage[..., n + 1 :, : n + 1]
            stages.append(stage[..., n + 1 :, n + 1 :].contiguous())
            root, fault = torch.linalg.cholesky_ex(stages[-1])
            gains.append(torch.cholesky_solve(across, root))
            message = message - across.mT @ gains[-1]
            roots.append(root)
            faults.append(fault)
        message = symmetric(message)
        going.append(message)
    shape = problem.batch
    gain = _in_order(gains, (*shape, horizon, m, n + 1), message)
    root = _in_order(roots, (*shape, horizon, m, m), message)
    cost_to_go = _unbordered(
        _in_order(going, (*shape, horizon + 1, n + 1, n + 1), message), _added_logs(problem, root, logs)
    )
    P, p, rho = cost_to_go
    first = Quadratic(P[..., 0, :, :], p[..., 0, :], rho[..., 0])
    return Messages(
        cost_to_go=cost_to_go,
        gain=0.0 - gain[..., :n],
        offset=0.0 - gain[..., n],
        action_cost=_in_order(stages, (*shape, horizon, m, m), message),
        root=root,
        chosen=torch.stack(faults[::-1], -1) == 0 if faults else torch.ones(*shape, horizon, dtype=torch.bool),
        theta=theta,
        temperature=alpha,
        start=-outcome_step(first, problem.covariance, moves)(problem.mean),
    )


def outcome_step(cost: Quadratic, noise: Tensor, theta: Tensor | None) -> Quadratic:
    """The cost -(1 / theta) log E exp(-theta cost(x + w)), w ~ N(0, noise), as a function of x.

    Args:
        cost: P [..., n, n], p [..., n], rho [...].
        noise: [..., n, n].
        theta: [...]; None for the mean, the limit at 0.
    """
    return _unbordered(*_tilt(_bordered(cost.P, cost.p, 2 * cost.rho), noise, theta))


def _tilt(message: Tensor, noise: Tensor, theta: Tensor | None) -> tuple[Tensor, Tensor]:
    """A bordered message after an outcome step, logarithm apart, and log|I + theta W P| / (2 theta) [...]."""
    n = noise.shape[-1]
    if theta is None:
        return message, (message[..., :n, :n] * noise).sum((-2, -1)) / 2
    top, tilt = message[..., :n, :], theta[..., None, None]
    product = message[..., :n, :n] @ noise
    own = torch.eye(n, dtype=noise.dtype, device=noise.device)
    factor, pivots, _ = torch.linalg.lu_factor_ex(own + tilt * product)
    solved = torch.linalg.lu_solve(factor, pivots, top.expand(*factor.shape[:-1], n + 1))
    linear = solved[..., n:]
    corner = message[..., n:, n:] - tilt * (message[..., n:, :n] @ (noise @ linear))
    tilted = torch.cat([solved, torch.cat([linear.mT, corner], -1)], -2)
    log_det = factor.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    return symmetric(tilted), half_log_det(product, theta.expand_as(log_det), log_det)


def _homogeneous(problem: GaussianProblem) -> tuple[list[Tensor], list[Tensor]]:
    """Of each step the map (s, 1, a) -> (s', 1), [..., n + 1, n + 1 + m], and its cost in the same coordinates."""
    n, m = problem.num_states, problem.num_actions
    middle = problem.offset[..., None]
    shape = torch.broadcast_shapes(problem.A.shape[:-2], problem.B.shape[:-2], middle.shape[:-2])
    parts = [part.expand(*shape, *part.shape[-2:]) for part in (problem.A, middle, problem.B)]
    last = torch.zeros(n + 1 + m, dtype=middle.dtype, device=middle.device)
    last[n] = 1.0
    maps = torch.cat([torch.cat(parts, -1), last.expand(*shape, 1, -1)], -2)
    stage = problem.folded()
    bordered = _bordered(stage.P, stage.p, 2 * stage.rho)
    order = [*range(n), n + m, *range(n, n + m)]
    costs = bordered[..., order, :][..., order] if m else bordered
    return at_steps(maps, 2, problem.horizon), at_steps(costs, 2, problem.horizon)


def _bordered(P: Tensor, p: Tensor, corner: Tensor) -> Tensor:
    """[[P, p], [p', corner]], [..., i + 1, i + 1]."""
    shape = torch.broadcast_shapes(P.shape[:-2], p.shape[:-1], corner.shape)
    size = P.shape[-1]
    column = p[..., None].expand(*shape, size, 1)
    last = torch.cat([column.mT, corner[..., None, None].expand(*shape, 1, 1)], -1)
    return torch.cat([torch.cat([P.expand(*shape, size, size), column], -1), last], -2)


def _unbordered(message: Tensor, logs: Tensor) -> Quadratic:
    """The function that a bordered matrix and what logarithms add to its constant stand for."""
    n = message.shape[-1] - 1
    return Quadratic(message[..., :n, :n], message[..., :n, n], message[..., n, n] / 2 + logs)


def _in_order(backwards: list[Tensor], shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Of a shape [..., T, i, j] that holds matrices [..., i, j], found from the end; empty ones were not looked for."""
    if not backwards:
        return like.new_zeros(shape)
    return stacked(backwards[::-1]).movedim(0, -3)


def _added_logs(problem: GaussianProblem, root: Tensor, outcomes: list[Tensor]) -> Tensor:
    """[..., T + 1], what logarithms of determinants add to the cost-to-go; those of outcomes come from the end."""
    m, alpha = problem.num_actions, problem.temperature[..., None]
    own = alpha * (root.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1) - m / 2 * (2 * math.pi * alpha).log())
    total = own.new_zeros(problem.batch)
    found = [total]
    steps = zip(reversed(own.unbind(-1)), reversed(problem.survival), outcomes, strict=True)
    for chosen, kept, tilted in steps:
        total = chosen + kept * (tilted + total)
        found.append(total)
    return torch.stack(found[::-1], -1)
