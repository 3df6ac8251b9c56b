"""Logarithms and sums that keep exact zeros, and whose gradients hold no NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from cai.models.common.threads import one_thread

__all__ = [
    "NEAR_ZERO",
    "BITS",
    "NATS",
    "by_rows",
    "categorical_divergence",
    "certainty_equivalent",
    "divergence_from_ratio",
    "expectation",
    "held",
    "over_temperature",
    "rounding",
    "plain_number",
    "safe_log",
    "safe_logsumexp",
    "start_value",
    "tilted_log_ratio",
    "weighted",
]

NEAR_ZERO = 1e-3  # nats: where all x are nearer to 0, a logarithm of sums of e^x loses digits of x

NATS = math.log(2.0)  # in one bit
BITS = 1.0 / NATS  # in one nat
CACHED = 2**14  # numbers that stay in a core's cache together with what is computed of them
CHUNK = 2**14  # initial states that are weighed at a time


def rounding(table: Tensor) -> float:
    """How far two sums of the numbers of a table may differ, relative to their size, and count as equal.

    1e-12 in float64; 32 units in the last place in shorter floats, which have no digits to be generous with.
    """
    return 1e-12 if table.dtype == torch.float64 else 32 * torch.finfo(table.dtype).eps


def plain_number(value: float | Tensor) -> float:
    """A number, or a 0-dim tensor that may require grad, as a Python float."""
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def over_temperature(rewards: Tensor, temperature: float | Tensor) -> Tensor:
    """Rewards in nats; what is forbidden has no gradient, whatever the temperature."""
    if not isinstance(temperature, Tensor):
        return rewards / temperature
    forbidden = torch.isinf(rewards)
    finite = torch.where(forbidden, torch.zeros_like(rewards), rewards)
    return torch.where(forbidden, rewards.detach(), finite / temperature)


class held:
    """A property of a tensor that is computed once and held, unless it has an autograd history.

    A graph must be new for every backward pass; whether there is one is seen wherever the property is asked for.
    """

    def __init__(self, function: Callable[[Any], Tensor]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> held: ...

    @overload
    def __get__(self, instance: object, owner: type) -> Tensor: ...

    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None:
            return self
        with torch.enable_grad():
            found = self.function(instance)
        if found.requires_grad:
            return found if torch.is_grad_enabled() else found.detach()
        instance.__dict__[self.name] = found
        return found


def by_rows(table: Tensor, function: Callable[[slice], Any]) -> list[Any]:
    """What a function of rows of a table [R, ...] gives, in blocks that a core's cache holds, and in one thread.

    One block of all rows, in as many threads as there are, where the table is small or not on the CPU. Measured on one
    core, tables of 4e6 numbers take a fourth of the time in blocks: what is computed on the way is never in memory.
    """
    if table.numel() <= 4 * CACHED or table.device.type != "cpu":
        return [function(slice(None))]
    size = max(CACHED * len(table) // table.numel(), 1)
    with one_thread():
        return [function(slice(low, low + size)) for low in range(0, len(table), size)]


def safe_log(values: Tensor) -> Tensor:
    """Log x for x >= 0: -inf at zero, with zero gradient there instead of NaN."""
    if not (torch.is_grad_enabled() and values.requires_grad):
        return values.clamp(min=0).log()
    positive = values > 0
    ones = torch.ones_like(values)
    return torch.where(positive, torch.log(torch.where(positive, values, ones)), torch.full_like(values, -torch.inf))


def safe_logsumexp(values: Tensor, dim: int = -1) -> Tensor:
    """Log sum exp along `dim`; rows that are -inf throughout give -inf, with zero gradient instead of NaN."""
    shift = values.detach().amax(dim, keepdim=True)
    shift = torch.where(torch.isfinite(shift), shift, torch.zeros_like(shift))
    return safe_log((values - shift).exp().sum(dim)) + shift.squeeze(dim)


def weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Weights * values with 0 * (+-inf) = 0: what has no probability does not count, and gradients hold no NaN."""
    counts = weights > 0
    infinite = torch.isinf(values)
    product = weights * torch.where(counts & ~infinite, values, torch.zeros_like(values))
    return torch.where(counts & infinite, values.detach().expand_as(product), product)


def expectation(weights: Tensor, values: Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
    """Sum of weights * values along `dim`; -inf as soon as a value of -inf has positive weight."""
    weights, values = torch.broadcast_tensors(weights, values)
    return weighted(weights, values).sum(dim)


def certainty_equivalent(weights: Tensor, values: Tensor, eta: float) -> Tensor:
    """(1 / eta) log sum_k w_k e^{eta x_k} along the last axis, the mean as eta -> 0, the extremes as eta -> +-inf.

    Exact to rounding for every eta, see `_tilt`. A value of -inf with positive weight makes the result -inf for
    eta <= 0; for eta > 0 its weight is lost.

    Args:
        weights: [..., K], probabilities; rows sum to 1.
        values: [..., K], finite or -inf; broadcasts with the weights.
        eta: any number, +-inf included.

    Returns:
        [...], in the unit of the values.
    """
    weights, values = torch.broadcast_tensors(weights, values)
    nothing = values.new_full((), -torch.inf)
    if math.isinf(eta):
        possible = weights > 0
        sign = 1.0 if eta > 0 else -1.0
        result = sign * torch.where(possible & torch.isfinite(values), sign * values, nothing).amax(-1)
        infeasible = torch.isinf(result) | ((possible & torch.isinf(values)).any(-1) & (eta < 0))
        return torch.where(infeasible, nothing, result)
    tilt = _tilt(weights, values, eta)
    result = tilt.reference
    if eta != 0:
        result = result + (tilt.log_norm + tilt.log_kept) / eta
    return torch.where(tilt.infeasible, nothing, result)


def start_value(initial: Tensor, log_messages: Tensor, eta: float) -> Tensor:
    """`certainty_equivalent` of the initial distribution [S], 0-dim, in the memory of a chunk of states."""
    if len(initial) <= CHUNK:
        possible = initial.detach() > 0  # often few
        return certainty_equivalent(initial[possible], log_messages[possible], eta)
    shares, worth = [], []
    for start, part in zip(initial.split(CHUNK), log_messages.split(CHUNK), strict=True):
        possible = start.detach() > 0
        if bool(possible.any()):
            weights = start[possible]
            shares.append(weights.sum())
            worth.append(certainty_equivalent(weights / shares[-1], part[possible], eta))
    return certainty_equivalent(torch.stack(shares), torch.stack(worth), eta)


def tilted_log_ratio(weights: Tensor, values: Tensor, eta: float) -> Tensor:
    """Log of q_k / w_k along the last axis, where q_k is proportional to w_k e^{eta x_k}, for finite eta.

    Args:
        weights: [..., K], probabilities; rows sum to 1.
        values: [..., K], finite or -inf (which for eta > 0 leaves no probability).
        eta: any finite number.

    Returns:
        [..., K], nats; 0 where the weight is 0, and in rows whose certainty equivalent is -inf.
    """
    weights, values = torch.broadcast_tensors(weights, values)
    tilt = _tilt(weights, values, eta)
    ratio = tilt.exponents - (tilt.log_norm + tilt.log_kept)[..., None]
    if bool(tilt.counts.all()) and not bool(tilt.infeasible.any()):
        return ratio
    ratio = torch.where(tilt.counts, ratio, torch.full_like(ratio, -torch.inf))
    return torch.where((weights > 0) & ~tilt.infeasible[..., None], ratio, torch.zeros_like(ratio))


class _Tilt(NamedTuple):
    """Log sum_k w_k e^{eta x_k} = eta reference + log_norm + log_kept, and its terms.

    Attributes:
        reference: [...], a value that the exponents are taken from: the mean where eta times the spread is at most 1,
            where everything is a sum over deviations in which nothing cancels, else the extreme.
        exponents: [..., K], eta (x - reference), 0 where x does not count.
        log_norm: [...], log of sum of shares times e^exponents.
        log_kept: [...], log of the weight that is not lost to -inf.
        counts: bool [..., K], where the weight is positive and x finite.
        infeasible: bool [...], where the sum is 0, or eta <= 0 and something is lost.
    """

    reference: Tensor
    exponents: Tensor
    log_norm: Tensor
    log_kept: Tensor
    counts: Tensor
    infeasible: Tensor


def _tilt(weights: Tensor, values: Tensor, eta: float) -> _Tilt:
    possible = weights > 0
    counts = possible & torch.isfinite(values)
    zero, whole = values.new_zeros(()), bool(counts.all())  # whole: nothing is left out, and need not be masked

    def kept_of(numbers: Tensor, other: Tensor = zero) -> Tensor:
        return numbers if whole else torch.where(counts, numbers, other)

    shares = kept_of(weights)
    kept = shares.sum(-1)
    lost = torch.zeros_like(kept) if whole else torch.where(possible & ~counts, weights, zero).sum(-1)
    infeasible = (kept == 0) | ((lost > 0) if eta <= 0 else torch.zeros_like(kept, dtype=torch.bool))
    sign = 1.0 if eta >= 0 else -1.0
    low = values.new_full((), -torch.inf)
    extreme = values.detach().amax(-1) if whole and eta >= 0 else sign * kept_of(sign * values.detach(), low).amax(-1)
    extreme = torch.where(torch.isfinite(extreme), extreme, zero)
    offsets = kept_of(values - extreme[..., None])
    shares = shares / torch.where(kept > 0, kept, torch.ones_like(kept))[..., None]
    mean = (shares * offsets).sum(-1)
    deviations = kept_of(offsets - mean[..., None])
    near = (abs(eta) * deviations.detach().abs().amax(-1) <= 1) | (eta == 0)
    every = bool(near.all())
    small = deviations if every else torch.where(near[..., None], deviations, zero)
    # Sum of w (e^y - 1): its first order is what rounding has left of the mean, and the rest has no sign to cancel.
    first = (shares * small).sum(-1)
    log_norm, exponents = zero, eta * small
    if every or bool(near.any()):
        log_norm = torch.log1p(eta * first + (shares * _expm1_beyond_first(exponents)).sum(-1))
    if not every:
        exponents = eta * torch.where(near[..., None], zero, offsets)
        log_norm = torch.where(near, log_norm, safe_log((shares * exponents.exp()).sum(-1)))
        exponents = torch.where(near[..., None], eta * small, exponents)
    # Little lost is counted exactly from what was lost, much from what was kept.
    little = lost < 0.5
    log_kept = torch.where(little, torch.log1p(-torch.where(little, lost, zero)), safe_log(kept))
    return _Tilt(
        reference=extreme + torch.where(near, mean + (first if eta == 0 else 0.0), zero),
        exponents=exponents,
        log_norm=log_norm,
        log_kept=torch.where((lost > 0) & ~infeasible, log_kept, zero),
        counts=counts,
        infeasible=infeasible,
    )


def _expm1_beyond_first(y: Tensor) -> Tensor:
    """e^y - 1 - y for |y| up to about 1."""
    tiny = y.abs() < 0.01
    if not bool(tiny.any()):
        return torch.expm1(y) - y
    x = torch.where(tiny, y, torch.zeros_like(y))
    series = x * x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * (1 / 720 + x / 5040)))))
    return torch.where(tiny, series, torch.expm1(y) - y)


def divergence_from_ratio(weights: Tensor, log_ratio: Tensor) -> Tensor:
    """KL(q || p) along the last axis from p and log(q / p): sum_k p_k (x e^x - e^x + 1), x = log(q_k / p_k).

    No term is negative, so nothing cancels, and a ratio that differs from 1 by 1e-12 still counts.

    Args:
        weights: [..., K], p.
        log_ratio: [..., K]; -inf where q is 0, 0 where p is.
    """
    near = log_ratio.abs() < 0.01
    x = torch.where(near, log_ratio, torch.zeros_like(log_ratio))
    series = x * x * (1 / 2 + x * (1 / 3 + x * (1 / 8 + x * (1 / 30 + x * (1 / 144 + x / 840)))))
    gone = torch.isinf(log_ratio) & (log_ratio < 0)
    y = torch.where(near | gone, torch.zeros_like(log_ratio), log_ratio)
    log_weights = safe_log(weights)
    moved = (log_weights + y).exp()  # q: the ratio alone may overflow
    direct = moved * y - moved + weights
    direct = torch.where(gone, weights.expand_as(direct), direct)
    return torch.where(near, weights * series, torch.where(weights > 0, direct, torch.zeros_like(direct))).sum(-1)


def categorical_divergence(posterior: Tensor, prior: Tensor) -> Tensor:
    """KL(posterior || prior) along the last axis in nats, with 0 log 0 = 0; inf where the prior rules q out."""
    posterior, prior = torch.broadcast_tensors(posterior, prior)
    both = (posterior > 0) & (prior > 0)
    ones = torch.ones_like(prior)
    q, p = torch.where(both, posterior, ones), torch.where(both, prior, ones)
    close = (q - p).abs() < 0.5 * p  # there the difference is exact, and that of logarithms is not
    ratio = torch.where(
        close, torch.log1p(torch.where(close, q - p, torch.zeros_like(p)) / p), torch.log(q) - torch.log(p)
    )
    ratio = torch.where((prior > 0) & ~both, torch.full_like(ratio, -torch.inf), ratio)
    divergence = divergence_from_ratio(prior, ratio)
    outside = ((posterior > 0) & (prior == 0)).any(-1)
    return torch.where(outside, torch.full_like(divergence, torch.inf), divergence)
