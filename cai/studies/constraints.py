"""Soft constraints: the plan that enters some states no more often than allowed, by the price that entering must have.

    maximise the bound  subject to  E_q[N] <= limit,  N the number of entries

has the dual function  elbo(lambda) + lambda limit / alpha, convex in lambda, where elbo(lambda) is the bound with the
reward r - lambda on each entry. Its slope is (limit - E_q[N]) / alpha (the envelope theorem), so E_q[N] falls as the
price rises, and the multiplier is found by bisection (Altman 1999, chapter 3; Haarnoja et al. 2018, "Soft actor-critic
algorithms and applications", section 5, for a multiplier on entropy).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from cai.inference.core.backend import Backend
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target
from cai.inference.registry import infer, make_backend
from cai.models.common.numerics import plain_number
from cai.models.common.storage import Saved, storable
from cai.models.rewards.goals import Goal
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Limited", "limit_entries"]

HIGHEST = 1e6  # prices up to this times the temperature are tried
TRIALS = 200


@storable("limited-entries")
@dataclass(frozen=True, eq=False)
class Limited(Saved):
    """A plan that keeps to a limit.

    Attributes:
        multiplier: the price of an entry, in reward units; 0 where the limit does not bind.
        entries: E_q[N], the expected number of entries under the answer; no less than the probability of any.
        limit: what was allowed.
        model: the model with the price in its reward.
        posterior: the answer to it.
    """

    multiplier: float
    entries: float
    limit: float
    model: TrajectoryModel
    posterior: Posterior


def limit_entries(
    model: TrajectoryModel,
    states: Any,
    probability: float,
    *,
    backend: str | Backend = "variational",
    tolerance: float = 1e-6,
) -> Limited:
    """Finds the price of entering some states at which the answer enters them with at most a given probability.

    What is held to the limit is the expected number of entries from outside, which is at least the probability of
    entering at all, and equals it where the states are terminal. Where the chain may come back the plan is therefore
    more careful than it has to be. An entry counts before a discount takes the chain away.

    Args:
        model: the question without the constraint.
        states: mask, indices or names of the states, or the name of a region.
        probability: the most that is allowed, in (0, 1]. For 0 forbid the states: `Goal(states, -math.inf)`.
        backend: of target "fixed-dynamics", whose limit holds in the true world; or "exact", whose limit holds under
            the dynamics that it believes in, and those may be lucky.
        tolerance: by which part of the limit the answer may stay below it; it never exceeds it.

    Raises:
        ValueError: if no price keeps the answer to the limit, or the backend is of another target.
        InferenceError: if the model has no answer.
    """
    if not isinstance(model, TrajectoryModel):
        raise TypeError(f"expected a TrajectoryModel, got {type(model).__name__}")
    if not 0 < probability <= 1:
        raise ValueError(
            f"probability is {probability}; give a number in (0, 1], or forbid the states with Goal(states, -math.inf)"
        )
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}; give a part of the limit, in (0, 1)")
    chosen = make_backend(backend)
    if chosen.target not in (Target.EXACT, Target.FIXED_DYNAMICS):
        raise ValueError(f"backend {chosen.name!r} has target {chosen.target}; use 'variational' or 'exact'")

    def entries_at(price: float) -> float:
        return _entries(model, states, chosen, price)

    def answer(price: float, entries: float) -> Limited:
        final = model.replace(reward=model.reward + Goal(states, -price)) if price else model
        return Limited(price, entries, probability, final, infer(final, chosen))

    entries = entries_at(0.0)
    if entries <= probability:
        return answer(0.0, entries)
    alpha = plain_number(model.temperature)
    low, high = 0.0, alpha
    while (entries := entries_at(high)) > probability:
        low, high = high, 4 * high
        if high > HIGHEST * alpha:
            raise ValueError(
                f"at a price of {low:g} for each entry the answer still enters with an expectation of "
                f"{entries:.6g}, and {probability:g} is allowed: as far as can be told no policy does better; "
                "allow more, or check that there is another way"
            )
    for _ in range(TRIALS):
        if entries >= (1 - tolerance) * probability or high - low <= 1e-14 * high:
            break
        middle = (low + high) / 2
        trial = entries_at(middle)
        if trial > probability:
            low = middle
        else:
            high, entries = middle, trial
    return answer(high, entries)


def _entries(model: TrajectoryModel, states: Any, backend: Backend, price: float) -> float:
    """Expected entries of the answer at a price: minus alpha times the slope of the bound in the price."""
    with torch.enable_grad():
        value = torch.tensor(-price, dtype=torch.float64, requires_grad=True)
        posterior = infer(model.replace(reward=model.reward + Goal(states, value)), backend)
        bound = posterior.log_evidence if posterior.log_evidence is not None else posterior.elbo
        if bound is None or not bound.requires_grad:
            raise ValueError(f"backend {backend.name!r} gives no gradients; use 'variational' or 'exact'")
        (slope,) = torch.autograd.grad(bound, value)
    entries = max(0.0, float(slope) * plain_number(model.temperature))
    if not math.isfinite(entries):
        raise ValueError(f"the expected number of entries at price {price:g} is not finite")
    return entries
