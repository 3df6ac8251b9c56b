"""What a policy earns in a continuous model: exactly where all is linear-Gaussian, else by seeded rollouts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import Any

import torch
from torch import Tensor

from cai.evaluation.programs import mean_of_worst
from cai.inference.gaussian.policy import GaussianPolicy
from cai.inference.gaussian.worth import policy_worth
from cai.models.common.random_draws import seeded
from cai.models.common.storage import Saved, storable
from cai.models.continuous.linear_gaussian import LinearGaussianModel
from cai.models.continuous.world import World

__all__ = ["ContinuousOutcome", "evaluate_continuous"]

LONGEST_ROLLOUT = 2000  # steps after which a rollout over an infinite horizon is cut
STRETCH = 200  # steps of a rollout where the criterion is the average, after as many that do not count


@storable("continuous-outcome")
@dataclass(frozen=True, eq=False)
class ContinuousOutcome(Saved):
    """What happens to a policy in a continuous model under the true dynamics. Returns are of the discounted chain.

    Where the criterion is the average, returns and entropy are per step of the long run, and rollouts are stretches of
    that.

    Attributes:
        expected_return: reward units; exact where `is_exact`, else the mean of the sampled returns.
        expected_return_error: its standard error, 0 where it is exact.
        is_exact: whether model and policy are linear-Gaussian, so that nothing was estimated.
        standard_error: of the mean of the sampled returns, to hold `expected_return` against.
        std: standard deviation of the return, from rollouts; like the two beside it NaN without any.
        cvar: mean of the worst `tail` share of the returns, from rollouts.
        tail: that share.
        entropy: expected sum over live steps of the policy's differential entropy, nats, exact; None where it is not
            known.
        absorbed: the probability that the discount has ended the chain by the horizon, exact; or the share of rollouts
            that ended, where states are terminal.
        returns: [N], the sampled returns.
    """

    expected_return: float
    expected_return_error: float
    is_exact: bool
    standard_error: float
    std: float
    cvar: float
    tail: float
    entropy: float | None
    absorbed: float
    returns: Tensor = field(repr=False)

    _stored_axes = {"expected_return": "", "expected_return_error": "counts", "entropy": "", "returns": "N"}
    _stored_axes |= {"tail": "chances", "absorbed": "chances"}

    # A continuous model has no named regions, whose visits and endings outcomes of tables report.
    ends_in = None
    visits = None

    def _repr_html_(self) -> str:
        """The numbers as a table."""
        names = ("expected_return", "expected_return_error", "standard_error", "std", "cvar", "entropy", "absorbed")
        numbers = {name: getattr(self, name) for name in names}
        lines = "".join(
            f"<tr><th>{escape(name)}</th><td>{value:.6g}</td></tr>"
            for name, value in numbers.items()
            if value is not None
        )
        return f"<table><caption>Outcome in the true world</caption>{lines}</table>"

    def chance(self, what: str, region: str) -> float:
        """The probability "absorbed"; a continuous model has no regions."""
        return float(getattr(self, what))


@torch.no_grad()
def evaluate_continuous(policy: Any, model: World, *, num_rollouts: int, tail: float, seed: int) -> ContinuousOutcome:
    """Runs a policy in a continuous model.

    Args:
        policy: with `act` and `horizon`, on states [N, n].
        model: the continuous model, whose dynamics are the truth; no batch of them.
        num_rollouts: N, all at once; 0 for the exact moments of a linear-Gaussian model alone (spread and tail are NaN
            then); fewer for a policy that can afford fewer (`affordable_rollouts`), as one that plans at every step.
        tail: the share of worst returns that `cvar` averages, in (0, 1].
        seed: of model and policy; the global random state is left alone.

    Raises:
        TypeError: if the policy cannot act on states, or acts on a filter's estimates of them.
        ValueError: if it does not fit the model, the model is a batch, or a rollout leaves the finite numbers (naming
            its step).
    """
    model = model.host
    if model.batch_shape:
        raise ValueError(
            f"the model is a batch of shape {list(model.batch_shape)}; evaluate in one member, model.member(0)"
        )
    if not hasattr(policy, "act") or not hasattr(policy, "horizon") or hasattr(policy, "belief"):
        raise TypeError(f"a {type(policy).__name__} does not act on states; use cai.extract_policy(posterior)")
    if getattr(policy, "on_estimates", False):
        raise TypeError(
            "the policy acts on a filter's estimates, and rollouts show it states; what its whole loop earns is "
            "believed_return of the answer of lqg"
        )
    if policy.horizon < model.horizon:
        raise ValueError(
            f"the policy knows {policy.horizon} steps, the model has {model.horizon}; infer with a longer horizon, or "
            "over an infinite one"
        )
    entropy: float | None = None
    expected: float | None = None
    if isinstance(policy, GaussianPolicy) and isinstance(model, LinearGaussianModel):
        expected, entropy = (float(part) for part in policy_worth(model, policy))
    num_rollouts = min(num_rollouts, getattr(policy, "affordable_rollouts", num_rollouts))
    if num_rollouts == 0 and expected is None:
        raise ValueError(
            f"num_rollouts is 0, and what this policy earns in {model.name!r} is known from rollouts alone: give at "
            "least 2"
        )
    returns, ended = torch.zeros(0, dtype=torch.float64), 0.0
    spread = cvar = error = math.nan
    if num_rollouts:
        returns, ended = _rollouts(policy, model, num_rollouts, seeded(seed))
        spread = float(returns.std()) if bool(torch.isfinite(returns).all()) else math.inf
        error, cvar = spread / math.sqrt(num_rollouts), mean_of_worst(returns, tail)
    falls = 1 - model.discount ** (model.steps - 1) if model.is_finite else float(model.discount < 1)
    return ContinuousOutcome(
        expected_return=float(returns.mean()) if expected is None else expected,
        expected_return_error=error if expected is None else 0.0,
        is_exact=expected is not None,
        standard_error=error,
        std=spread,
        cvar=cvar,
        tail=tail,
        entropy=entropy,
        absorbed=falls if isinstance(model, LinearGaussianModel) else ended,
        returns=returns,
    )


def _rollouts(policy: Any, model: World, number: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """[N], returns, and the share of chains that ended before the last step."""
    states = model.reset(number, generator)
    total = torch.zeros(number, dtype=torch.float64)
    if model.is_average:
        for t in range(2 * STRETCH):
            states, rewards, _ = model.step(states, policy.act(states, t, generator=generator), 0, generator)
            total = total + rewards / STRETCH * (t >= STRETCH)
        return total, 0.0
    alive = torch.ones(number, dtype=torch.bool)
    before = alive
    for t in range(model.steps if model.is_finite else LONGEST_ROLLOUT):
        before = alive
        if not bool(alive.any()):
            break
        inside = torch.where(torch.isfinite(states), states, torch.zeros_like(states))
        actions = policy.act(inside, t, generator=generator)
        states, rewards, alive = model.step(states, actions, t if model.is_finite else 0, generator)
        total = total + rewards
    return total, 1 - float(before.double().mean())
