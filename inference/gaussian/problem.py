"""A linear-quadratic problem as plain tensors: all that the soft Riccati recursion reads, without any model class."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cai.inference.core.storage import storable
from cai.models.common.shapes import broadcast_shapes

__all__ = [
    "GaussianPrior",
    "GaussianProblem",
    "Quadratic",
    "at_steps",
    "product",
    "quick_product",
    "stacked",
    "symmetric",
    "times",
]


@storable("quadratic", axes={"P": "... n n", "p": "... n", "rho": "..."})
class Quadratic(NamedTuple):
    """The function s -> 1/2 s' P s + p' s + rho, a cost; its negative is a value.

    Attributes:
        P: [..., n, n], symmetric.
        p: [..., n].
        rho: [...].
    """

    P: Tensor
    p: Tensor
    rho: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        """[...], at states [..., n] whose leading axes broadcast with those of the coefficients."""
        return (states * (times(self.P, states) / 2 + self.p)).sum(-1) + self.rho


@storable("gaussian-prior", axes={"gain": "... m n", "offset": "... m", "covariance": "... m m"})
class GaussianPrior(NamedTuple):
    """The action prior N(gain s + offset, covariance), with a time axis of length T or 1.

    Attributes:
        gain: [..., T, m, n].
        offset: [..., T, m].
        covariance: [..., T, m, m], positive definite.
    """

    gain: Tensor
    offset: Tensor
    covariance: Tensor


@storable("gaussian-problem")
@dataclass(frozen=True, eq=False)
class GaussianProblem:
    """s_{t+1} = A s_t + B a_t + offset + N(0, noise), with costs -r(z) = 1/2 z'Cz + g'z + constant of z = (s, a).

    Every part but start and final cost has a time axis of length T or 1 before its own axes; what stands before it is
    batch, and batch axes broadcast. All are float tensors of one dtype; gradients pass through each of them.

    Attributes:
        A: [..., T, n, n].
        B: [..., T, n, m]; m = 0 for a chain without actions.
        offset: [..., T, n].
        noise: [..., T, n, n], covariances, which may be singular or zero.
        cost: [..., T, n + m, n + m], C, symmetric.
        linear: [..., T, n + m], g.
        constant: [..., T].
        final: the cost of s_{T+1}.
        mean: [..., n], of s_1.
        covariance: [..., n, n], of s_1; may be singular or zero.
        horizon: T >= 0.
        temperature: alpha, 0-dim or of the batch's shape.
        discount: multiplies the value of what follows, see `discounts` (fixed dynamics alone).
        prior: of the actions; None for the flat one, Lebesgue measure.
        endless: whether the final cost stands for further steps, which the discount reaches.
    """

    A: Tensor
    B: Tensor
    offset: Tensor
    noise: Tensor
    cost: Tensor
    linear: Tensor
    constant: Tensor
    final: Quadratic
    mean: Tensor
    covariance: Tensor
    horizon: int
    temperature: Tensor
    discount: float = 1.0
    prior: GaussianPrior | None = None
    endless: bool = False

    @property
    def num_states(self) -> int:
        """n, the number of coordinates of a state."""
        return self.A.shape[-1]

    @property
    def num_actions(self) -> int:
        """m, the number of coordinates of an action."""
        return self.B.shape[-1]

    @cached_property
    def batch(self) -> torch.Size:
        """The shape that all batch axes broadcast to."""
        stepped = [(self.A, 3), (self.B, 3), (self.offset, 2), (self.noise, 3), (self.cost, 3), (self.linear, 2)]
        stepped += [(self.constant, 1), (self.mean, 1), (self.covariance, 2), (self.temperature, 0)]
        stepped += [(part, 2 - axis) for axis, part in enumerate(self.final)]
        if self.prior is not None:
            stepped += [(self.prior.gain, 3), (self.prior.offset, 2), (self.prior.covariance, 3)]
        return broadcast_shapes(*(part.shape[: part.dim() - own] for part, own in stepped))

    @property
    def discounts(self) -> tuple[float, ...]:
        """T numbers, what the value of s_2 .. s_{T+1} is multiplied by: the discount, but 1 for the final reward.

        The final reward is paid with the last step, before the discount takes the chain away.
        """
        last = float(self.discount) if self.endless else 1.0
        return (float(self.discount),) * (self.horizon - 1) + (last,) * min(self.horizon, 1)

    def centred(self) -> GaussianProblem:
        """The same problem about e = a - K0 s - k0, what an action adds to the mean of its prior: e ~ N(0, L).

        Messages are the same. Where L is small against the temperature, folding K0' L^-1 K0 into the cost of states and
        eliminating the action again would leave no digit of the reward; here nothing of the prior reaches that cost.
        """
        if self.prior is None:
            return self
        gain, offset, covariance = self.prior
        if not any(part.requires_grad or bool(part.any()) for part in (gain, offset)):
            return self
        n, m = self.num_states, self.num_actions
        own = torch.eye(n + m, dtype=gain.dtype, device=gain.device).expand(*gain.shape[:-2], -1, -1)
        basis = torch.cat([own[..., :n, :], torch.cat([gain, own[..., n:, n:]], -1)], -2)
        middle = torch.cat([offset.new_zeros(*offset.shape[:-1], n), offset], -1)
        return replace(
            self,
            A=self.A + self.B @ gain,
            offset=self.offset + times(self.B, offset),
            cost=symmetric(basis.mT @ self.cost @ basis),
            linear=times(basis.mT, self.linear + times(self.cost, middle)),
            constant=self.constant + (middle * (times(self.cost, middle) / 2 + self.linear)).sum(-1),
            prior=GaussianPrior(torch.zeros_like(gain), torch.zeros_like(offset), covariance),
        )

    def folded(self) -> Quadratic:
        """The stage cost with the action prior folded in: P [..., T, n + m, n + m], p [..., T, n + m], rho [..., T].

        A Gaussian prior adds alpha/2 |a - K0 s - k0|^2 in L^-1 and alpha/2 log|2 pi L|; a flat one adds nothing.
        """
        if self.prior is None:
            return Quadratic(self.cost, self.linear, self.constant)
        gain, offset, covariance = self.prior
        alpha = self.temperature[..., None]
        root = torch.linalg.cholesky(covariance)
        own = torch.eye(self.num_actions, dtype=gain.dtype, device=gain.device).expand(*gain.shape[:-2], -1, -1)
        scaled = torch.linalg.solve_triangular(root, torch.cat([-gain, own], -1), upper=False)
        centre = torch.linalg.solve_triangular(root, offset[..., None], upper=False)[..., 0]
        width = root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + self.num_actions * math.log(2 * math.pi) / 2
        return Quadratic(
            self.cost + alpha[..., None, None] * scaled.mT @ scaled,
            self.linear - alpha[..., None] * times(scaled.mT, centre),
            self.constant + alpha * (centre.square().sum(-1) / 2 + width),
        )


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """[..., i], the product of matrices [..., i, j] and vectors [..., j]."""
    return (matrix @ vector[..., None])[..., 0]


def product(left: Tensor, right: Tensor) -> Tensor:
    """[..., i, k] of [..., i, j] and [..., j, k]: left @ right.

    Where no gradient is recorded numpy multiplies, which is three times as fast as torch with many small matrices.
    """
    with np.errstate(all="ignore"):  # torch does not warn of what is infinite either
        return quick_product(left, right)


def quick_product(left: Tensor, right: Tensor) -> Tensor:
    """The same within `np.errstate(all="ignore")`, which a long loop enters once."""
    records = torch.is_grad_enabled() and (left.requires_grad or right.requires_grad)
    if records or left.device.type != "cpu" or left.dtype != right.dtype:
        return left @ right
    try:
        return torch.from_numpy(np.matmul(left.detach().numpy(), right.detach().numpy()))
    except RuntimeError:  # under torch.func.vmap tensors have no numbers of their own
        return left @ right


def stacked(parts: list[Tensor]) -> Tensor:
    """[len, ...], the tensors side by side.

    Large results come from numpy, whose memory lies on huge pages: filling it first costs a tenth of what torch's does.
    """
    if parts[0].device.type != "cpu" or any(part.requires_grad for part in parts):
        return torch.stack(parts)
    room = torch.from_numpy(np.empty((len(parts), *parts[0].shape), dtype=str(parts[0].dtype).removeprefix("torch.")))
    return torch.stack(parts, out=room)


def symmetric(matrix: Tensor) -> Tensor:
    """The symmetric part of [..., i, i]."""
    return (matrix + matrix.mT).mul_(0.5)


def at_steps(part: Tensor, own: int, horizon: int) -> list[Tensor]:
    """T tensors, one a step, of a part whose time axis (T or 1) stands before its `own` axes."""
    steps = part.unbind(part.dim() - own - 1)
    return list(steps) if len(steps) == horizon else list(steps[:1]) * horizon
