"""Distributions of vectors that Pyro lacks: Gaussians whose covariance may be singular, and states that stay."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import pyro.distributions
import torch
from pyro.distributions import Delta, Independent, MultivariateNormal, TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints

from cai.models.common.random_draws import OwnDraws
from cai.models.common.shapes import broadcast_shapes

__all__ = ["CovarianceRoot", "SingularNormal", "Staying", "as_pyro", "covariance_root", "gaussian", "in_double"]

SUPPORT = 1e-9  # how far off its subspace a value of a singular Gaussian may lie, as a share of its size
POSITIVE = 1e-14  # of the largest eigenvalue, at and below which an eigenvalue counts as zero


def as_pyro(distribution: Any) -> Any:
    """Pyro's kind of a distribution of torch's, which programs can draw from; itself if it is Pyro's, or there is none.

    Args:
        distribution: e.g. `torch.distributions.Normal(0.0, 1.0)`.
    """
    kind = type(distribution)
    if issubclass(kind, TorchDistributionMixin):
        return distribution
    twin = getattr(pyro.distributions, kind.__name__, None)
    if not (isinstance(twin, type) and issubclass(twin, kind)):
        return distribution
    made = copy.copy(distribution)
    made.__class__ = twin  # Pyro's kinds add methods to torch's, and no numbers
    if isinstance(made, Independent):
        made.base_dist = as_pyro(made.base_dist)
    return made


def in_double(distribution: TorchDistribution, what: str) -> TorchDistribution:
    """The distribution with float64 parameters; itself, if it has them.

    Args:
        distribution: e.g. made of `torch.zeros(2)`, which is float32.
        what: how it is called in messages.

    Raises:
        ValueError: if it is not known how to convert it.
    """
    if isinstance(distribution, Independent):
        base = in_double(distribution.base_dist, what)
        same = base is distribution.base_dist
        return distribution if same else base.to_event(distribution.reinterpreted_batch_ndims)
    if isinstance(distribution, Delta):
        if distribution.v.dtype == torch.float64:
            return distribution
        return Delta(distribution.v.double(), event_dim=distribution.event_dim, validate_args=False)
    held = {name: vars(distribution).get(name) for name in distribution.arg_constraints}
    parts = {name: part for name, part in held.items() if isinstance(part, Tensor) and part.is_floating_point()}
    if all(part.dtype == torch.float64 for part in parts.values()):
        return distribution
    try:
        made: TorchDistribution = type(distribution)(**{name: part.double() for name, part in parts.items()})
        return made
    except TypeError as error:
        raise ValueError(
            f"{what} is a {type(distribution).__name__} in {next(iter(parts.values())).dtype}; models compute in "
            "float64: make its parameters with dtype=torch.float64"
        ) from error


class CovarianceRoot(NamedTuple):
    """What is worked out of a covariance once: exactly one of the first two, and neither where it is zero.

    Attributes:
        cholesky: [..., n, n], lower triangular; where every one has an inverse.
        spectrum: (variances [..., n], directions [..., n, n] as columns), where one is singular; the variances that are
            rounding are 0.
    """

    cholesky: Tensor | None
    spectrum: tuple[Tensor, Tensor] | None


def covariance_root(covariance: Tensor) -> CovarianceRoot:
    """The root of covariances [..., n, n], which may be singular; gradients pass where every one has an inverse."""
    variances, directions = torch.linalg.eigh(covariance.detach())
    zero = variances <= POSITIVE * variances[..., -1:].clamp(min=0)
    if not bool(zero.any()):
        return CovarianceRoot(torch.linalg.cholesky(covariance), None)
    if bool(zero.all()):
        return CovarianceRoot(None, None)
    return CovarianceRoot(None, (torch.where(zero, torch.zeros_like(variances), variances), directions))


def gaussian(mean: Tensor, covariance: Tensor, root: CovarianceRoot) -> TorchDistribution:
    """N(mean [..., n], covariance [..., n, n]); a point mass where the covariance is zero.

    Args:
        mean: its leading axes may exceed those of the covariance.
        covariance: may be singular.
        root: of it.
    """
    if root.cholesky is not None:
        return MultivariateNormal(mean, scale_tril=root.cholesky, validate_args=False)
    if root.spectrum is not None:
        return SingularNormal(mean, covariance, root.spectrum)
    return Delta(mean, event_dim=1, validate_args=False)


class SingularNormal(TorchDistribution):
    """A Gaussian on a subspace: its density is that with respect to the volume of mean + range(covariance).

        x = mean + U sqrt(D) e,  e ~ N(0, I),   covariance = U D U'

    Values off the subspace have log density -inf.

    Args:
        mean: [..., n].
        covariance: [..., n, n], positive semi-definite.
        spectrum: its variances and directions, as `covariance_root` finds them.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, mean: Tensor, covariance: Tensor, spectrum: tuple[Tensor, Tensor]) -> None:
        self.mean_, self.covariance_matrix = mean, covariance
        self.variances, self.vectors = spectrum
        batch = broadcast_shapes(mean.shape[:-1], covariance.shape[:-2])
        super().__init__(batch, mean.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """[..., n]."""
        return self.mean_.expand(*self.batch_shape, *self.event_shape)

    @property
    def variance(self) -> Tensor:
        """[..., n], of each coordinate."""
        return self.covariance_matrix.diagonal(dim1=-2, dim2=-1).expand(*self.batch_shape, *self.event_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SingularNormal:
        """A distribution with the larger batch shape."""
        mean = self.mean_.expand(*batch_shape, *self.event_shape)
        return SingularNormal(mean, self.covariance_matrix, (self.variances, self.vectors))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draws [*sample_shape, ..., n]; gradients pass to the mean."""
        noise = torch.randn(self._extended_shape(sample_shape), dtype=self.mean_.dtype, device=self.mean_.device)
        scaled = self.variances.sqrt() * noise
        return self.mean_ + (self.vectors @ scaled[..., None])[..., 0]

    def log_prob(self, value: Tensor) -> Tensor:
        """[...], nats."""
        offset = value - self.mean_
        along = (self.vectors.mT @ offset[..., None])[..., 0]
        kept = self.variances > 0
        safe = torch.where(kept, self.variances, torch.ones_like(self.variances))
        terms = along.square() / safe + safe.log() + math.log(2 * math.pi)
        score = -0.5 * torch.where(kept, terms, torch.zeros_like(terms)).sum(-1)
        size = SUPPORT * (1 + value.detach().abs().amax(-1) + self.mean_.detach().abs().amax(-1))
        off = torch.where(kept, torch.zeros_like(along), along).detach().abs().amax(-1) > size
        return torch.where(off, torch.full_like(score, -torch.inf), score)


class Staying(TorchDistribution):
    """The next state of chains some of which have ended and stay where they are.

    Args:
        moves: the distribution of the next state [..., n] of chains that go on.
        state: [..., n], where they are.
        ended: bool [...].
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector

    def __init__(self, moves: TorchDistribution, state: Tensor, ended: Tensor) -> None:
        self.moves, self.state, self.ended = moves, state, ended
        batch = broadcast_shapes(moves.batch_shape, state.shape[:-1], ended.shape)
        super().__init__(batch, moves.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        """Whether gradients pass through draws."""
        return bool(self.moves.has_rsample)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Staying:
        """A distribution with the larger batch shape."""
        moves = self.moves.expand(torch.Size(batch_shape))
        return Staying(moves, self.state.expand(*batch_shape, *self.event_shape), self.ended.expand(batch_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draws [*sample_shape, ..., n] through which gradients pass."""
        return torch.where(self.ended[..., None], self.state, self.moves.rsample(sample_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draws [*sample_shape, ..., n]."""
        with torch.no_grad():
            return torch.where(self.ended[..., None], self.state, self.moves.sample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """[...], nats; of chains that have ended 0 where they are, -inf elsewhere."""
        zero = torch.zeros((), dtype=value.dtype, device=value.device)
        stays = torch.where((value == self.state).all(-1), zero, zero - torch.inf)
        with OwnDraws(), torch.no_grad():
            possible = self.moves.sample()  # where a chain has ended its state need not be one that moves could draw
        safe = torch.where(self.ended[..., None], possible, value)
        return torch.where(self.ended, stays, self.moves.log_prob(safe))
