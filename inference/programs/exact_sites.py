"""Sites as their author meant them: zero stays zero, and sums are float64.

`Categorical(probs=...)` clamps 0 to 1e-7 in float32, and an optimistic posterior then walks through walls; a float32
observation rounds its score; and float32 next to float64 breaks Pyro's contractions. A program need not know.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Bernoulli, Categorical, TorchDistribution, Unit
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution

from cai.models.common.numerics import safe_log

__all__ = ["ExactSites", "Redistributed", "redistribute", "support_logits"]


class Redistributed(TorchDistribution):
    """Other probabilities on the support 0..N-1 of a discrete distribution that is no Categorical.

    Args:
        base: the distribution whose support and value type are kept.
        logits: [..., N], unnormalised log probabilities.
    """

    arg_constraints: dict[str, Any] = {}
    has_enumerate_support = True

    def __init__(self, base: Distribution, logits: Tensor) -> None:
        self.base = base
        self.categorical = Categorical(logits=logits, validate_args=False)
        super().__init__(self.categorical.batch_shape, torch.Size(), validate_args=False)

    @property
    def support(self) -> Any:
        """That of the base."""
        return self.base.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> Redistributed:
        """A distribution with the larger batch shape."""
        shape = torch.Size(batch_shape)
        return Redistributed(self.base, self.categorical.logits.expand(shape + self.categorical.logits.shape[-1:]))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draws in the value type of the base."""
        return self.categorical.sample(sample_shape).to(self.base.enumerate_support(expand=False).dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log q(value)."""
        return self.categorical.log_prob(torch.as_tensor(value).long())

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """[N, ...], in the value type of the base."""
        values = self.base.enumerate_support(expand=False).reshape((-1,) + (1,) * len(self.batch_shape))
        return values.expand((-1, *self.batch_shape)) if expand else values


def support_logits(fn: Distribution) -> Tensor:
    """[..., N], log probabilities of a discrete distribution over its support, float64, with its exact zeros."""
    if isinstance(fn, Redistributed):
        return fn.categorical.logits
    given = fn.__dict__.get("probs")
    if isinstance(fn, Categorical):
        return fn.logits.double() if given is None else safe_log(given.double())
    if isinstance(fn, Bernoulli) and given is not None:
        return safe_log(torch.stack([1 - given.double(), given.double()], -1))
    return fn.log_prob(fn.enumerate_support(expand=False)).movedim(0, -1).double()


def redistribute(fn: Distribution, logits: Tensor) -> Distribution:
    """The same support with other log probabilities [..., N]."""
    if isinstance(fn, Categorical):
        return Categorical(logits=logits, validate_args=False)
    return Redistributed(fn.base if isinstance(fn, Redistributed) else fn, logits)


class ExactSites(Messenger):
    """Gives every discrete latent exact float64 logits, and every observation its float64 score."""

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if msg["type"] != "sample" or msg["done"] or not isinstance(fn, TorchDistributionMixin):
            return
        if msg["infer"].get("_deterministic", False):  # a record of pyro.deterministic, which scores nothing
            return
        if msg["is_observed"]:
            if isinstance(fn, Unit):
                score = fn.log_factor
            else:
                score = _score(fn, torch.as_tensor(msg["value"]))
                msg["value"] = torch.empty((*score.shape, 0))
            msg["fn"] = Unit(score.double(), validate_args=False)
        elif fn.has_enumerate_support and not fn.event_shape and not _is_exact(fn):
            msg["fn"] = redistribute(fn, support_logits(fn))


def _score(fn: Distribution, value: Tensor) -> Tensor:
    """Log p(value) in float64, -inf where the probability is exactly 0."""
    if isinstance(fn, (Bernoulli, Categorical)):
        logits = support_logits(fn)
        index = value.long().expand(torch.broadcast_shapes(value.shape, logits.shape[:-1]))
        return logits.expand(*index.shape, -1).gather(-1, index[..., None])[..., 0]
    return fn.log_prob(value.double() if value.is_floating_point() else value)


def _is_exact(fn: Distribution) -> bool:
    if isinstance(fn, Redistributed):
        return True
    return isinstance(fn, Categorical) and "probs" not in fn.__dict__ and fn.logits.dtype == torch.float64
