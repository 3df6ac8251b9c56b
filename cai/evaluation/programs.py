"""What a policy earns in the world of a trajectory program, by seeded rollouts: nothing there is conditioned on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor

from cai.inference.particles.program_system import check_vectorised
from cai.inference.programs.guide import ExactSites
from cai.models.common.memory import require_chains
from cai.models.common.numerics import weighted
from cai.models.common.random_draws import OwnDraws
from cai.models.common.storage import Saved, storable
from cai.models.programs.inspect import ProgramInfo, inspect_program, site_time
from cai.models.programs.session import pyro_session
from cai.policies.policy import Policy

__all__ = ["SampledOutcome", "evaluate_program", "mean_of_worst"]


@storable("sampled-outcome")
@dataclass(frozen=True, eq=False)
class SampledOutcome(Saved):
    """What N rollouts of a policy earned.

    Attributes:
        expected_return: their mean, in nats of the program's factors; -inf if one met something forbidden.
        standard_error: of the mean; inf if one met something forbidden.
        std: standard deviation of the return; inf likewise.
        cvar: mean of the worst `tail` share of the returns.
        tail: that share.
        returns: [N].
    """

    expected_return: float
    standard_error: float
    std: float
    cvar: float
    tail: float
    returns: Tensor = field(repr=False)


def evaluate_program(
    policy: Any, program: Callable[[], Any], *, num_rollouts: int, tail: float, seed: int
) -> SampledOutcome:
    """Runs a policy in a program: its action sites take what the policy does in the last state, all else is drawn.

    Args:
        policy: with `act` and `horizon`, on the program's states.
        program: with sites `s_1, a_1, O_1, s_2, ...`, written for stacked values.
        num_rollouts: N, all at once.
        tail: the share of worst returns that `cvar` averages, in (0, 1].
        seed: of program and policy; the global random state is left alone.

    Returns:
        The sums of the program's log factors, in nats.

    Raises:
        TypeError: if the policy cannot act on states.
        ValueError: if it does not fit the program, or the program cannot be run on stacked values.
    """
    info = inspect_program(program)
    if not hasattr(policy, "act") or not hasattr(policy, "horizon") or hasattr(policy, "belief"):
        raise TypeError(
            f"a {type(policy).__name__} does not act on a program's states; use cai.extract_policy(posterior)"
        )
    if policy.horizon < info.horizon:
        raise ValueError(
            f"the policy knows {policy.horizon} steps, the program has {info.horizon}; infer with a longer horizon"
        )
    if isinstance(policy, Policy):
        sizes = tuple(policy.action_probs.shape[1:])
        if info.continuous or sizes != (info.num_states, info.num_actions):
            has = (
                f"site {info.continuous[0]!r} is continuous"
                if info.continuous
                else (f"it has {info.num_states} and {info.num_actions}")
            )
            raise ValueError(f"the policy is for {sizes[0]} states and {sizes[1]} actions of the program; {has}")
    check_vectorised(program, info)
    require_chains(num_rollouts, 1 + len(info.latents))
    acting = _Acting(policy, info, num_rollouts)
    with pyro_session(None), OwnDraws(seed), torch.no_grad(), pyro.plate("_rollouts", num_rollouts, dim=-1):
        acting(ExactSites()(program))()
    returns = acting.returns
    possible = bool(torch.isfinite(returns).all())
    spread = float(returns.std()) if possible else math.inf
    return SampledOutcome(
        expected_return=float(returns.mean()),
        standard_error=spread / math.sqrt(num_rollouts),
        std=spread,
        cvar=mean_of_worst(returns, tail),
        tail=tail,
        returns=returns,
    )


class _Acting(Messenger):
    """Lets a policy choose at every action site, and adds up the log factors.

    Args:
        policy: acts on the last state.
        info: the program's outside.
        number: N, how many rollouts are stacked.
    """

    def __init__(self, policy: Any, info: ProgramInfo, number: int) -> None:
        super().__init__()
        self.policy, self.info = policy, info
        self.returns = torch.zeros(number, dtype=torch.float64)
        self._state = torch.zeros(number)

    def _pyro_sample(self, msg: Any) -> None:
        site = site_time(msg["name"])
        if msg["type"] != "sample" or msg["is_observed"] or site is None or site[0] != "a":
            return
        chosen = self.policy.act(self._state, site[1] - 1)  # from the stream that the program draws from
        if msg["name"] in self.info.sizes:
            chosen = chosen.to(msg["fn"].enumerate_support(expand=False).dtype)
        msg["value"] = chosen

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["type"] != "sample" or msg["infer"].get("_deterministic", False):
            return
        site = site_time(msg["name"])
        if msg["is_observed"]:
            self.returns = self.returns + scale_and_mask(msg["fn"].log_prob(msg["value"]), msg["scale"], msg["mask"])
        elif site is not None and site[0] == "s":
            self._state = msg["value"].long() if msg["name"] in self.info.sizes else msg["value"]


def mean_of_worst(returns: Tensor, tail: float) -> float:
    """The mean of the worst `tail` share of the samples; the last one counts for the part that it stands for."""
    ordered, share = returns.sort().values, tail * len(returns)
    weights = (share - torch.arange(len(returns), dtype=torch.float64)).clamp(0, 1)
    return float(weighted(weights, ordered).sum() / weights.sum())
