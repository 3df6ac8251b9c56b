"""Potential-based shaping: rewards that speed a plan up or make it readable, and change no policy.

With F_t(s, a, s') = gamma Phi_{t+1}(s') - Phi_t(s), Phi = 0 in terminal states and at the end, V' = V - Phi solves both

    fixed dynamics  Q' = sum_{s'} p(s'|s,a) (r + F + gamma V'(s'))                       = Q - Phi,  any gamma
    optimistic      Q' = alpha log sum_{s'} p(s'|s,a) exp((r + F + V'(s')) / alpha)      = Q - Phi,  gamma = 1

as gamma V' + F = gamma V - Phi(s). So pi = p(a|s) exp((Q - V) / alpha) stays, and so do the dynamics given
optimality (Ng, Harada and Russell 1999 for the hard maximum; Grzes 2017 for why Phi must be 0 where an episode ends,
the last step of a finite horizon included; Devlin and Kudenko 2012 for potentials that depend on t).

For the optimistic backup with gamma < 1 it does not hold: there V(s') becomes U(V) = alpha log(gamma e^{V/alpha} + 1 -
gamma), and F would have to be U(V) - U(V - Phi) - Phi(s), which depends on V. In words: a reward is paid before the
discount takes the chain away, so it cannot give the potential back on the way out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from cai.models.common.checks import first_index, float_tensor
from cai.models.common.labels import by_name
from cai.models.common.storage import storable
from cai.models.processes.mdp import MDP
from cai.models.rewards.base import RewardFactor, Setting, Step
from cai.models.trajectory.model import TrajectoryModel

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PotentialShaping", "shaped"]


@storable("reward-shaping")
@dataclass(frozen=True, eq=False)
class PotentialShaping(RewardFactor):
    """Gamma Phi(s_{t+1}) - Phi(s_t), where Phi counts as 0 in terminal states and after the last step.

    `shaped(model, potential)` fills in discount and horizon. A model with others is refused, as there the policy would
    change. Multiples of it are shaping too; what is restricted with `at` or scheduled is not.

    Args:
        potential: Phi, [S] or [T, S] over time; finite, in reward units. It may require grad, and receives the gradient
            of the evidence, -q(s_1) / alpha at t = 0 (fixed dynamics: -p(s_1) / alpha).
        discount: gamma of the model.
        horizon: T of the model, or math.inf.
    """

    potential: Any
    discount: float = 1.0
    horizon: int | float = math.inf

    def __post_init__(self) -> None:
        table, _ = float_tensor(self.potential, "the potential")
        if table.dim() not in (1, 2):
            raise ValueError(f"the potential has shape {list(table.shape)}; expected [S], or [T, S] over time")
        bad = ~torch.isfinite(table.detach())
        if bad.any():
            raise ValueError(
                f"the potential{first_index(bad)} is {table.detach()[bad][0].item()}; a potential is finite: forbid "
                "with a reward of -inf instead"
            )
        if table.dim() == 2 and len(table) != self.horizon:
            raise ValueError(
                f"the potential has {len(table)} rows over time and the horizon is {self.horizon}; give a row for each "
                "step, or one potential [S] for all"
            )
        object.__setattr__(self, "potential", table)
        object.__setattr__(self, "reads_time", self.horizon != math.inf)

    def check(self, mdp: MDP) -> None:
        if self.potential.shape[-1] != mdp.num_states:
            raise ValueError(
                f"the potential has shape {list(self.potential.shape)}; this process has S = {mdp.num_states}: "
                "expected [S] or [T, S]"
            )

    def check_model(self, model: Setting) -> None:
        if model.discount != self.discount or model.horizon != self.horizon:
            raise ValueError(
                f"the shaping was made for discount {self.discount:g} and horizon {self.horizon}; the model has "
                f"discount {model.discount:g} and horizon {model.horizon}, where it would change the policy: use "
                "shaped(model, potential), or PotentialShaping(potential, discount, horizon)"
            )

    def evaluate(self, mdp: MDP, step: Step) -> Tensor:
        t = step.t if self.reads_time else 0
        before = self._at(mdp, t)[step.state]
        if t + 1 == self.horizon:
            return -before
        return self.discount * self._at(mdp, t + 1)[step.next_state] - before

    def _at(self, mdp: MDP, t: int) -> Tensor:
        table = self.potential if self.potential.dim() == 1 else self.potential[t]
        return torch.where(mdp.terminal, torch.zeros_like(table), table)


def shaped(
    model: TrajectoryModel,
    potential: Tensor | Callable[[Tensor], Tensor] | Any,
    *,
    target: Literal["fixed-dynamics", "exact"] = "fixed-dynamics",
) -> TrajectoryModel:
    """The same model with a reward that is shaped by a potential; its policies are those of the model.

    Fixed dynamics: no policy changes, over any horizon, with any discount and start; values become V - Phi, and the
    bound moves by -E[Phi(s_1)] / alpha under p(s_1). Exact target, discount 1: neither the policy nor the dynamics
    given optimality change; but p(s_1 | O) is proportional to p(s_1) e^{(V - Phi)(s_1) / alpha}, so that with a
    random start the belief about it moves (not where Phi is the same in every possible start). Over infinite horizons
    without a discount the shaped rewards may no longer be negative, and then no answer is assured beforehand for
    fixed dynamics.

    Args:
        model: what to shape.
        potential: Phi, [S] or [T, S], finite, in reward units; or a function of all state indices [S]. What it says of
            terminal states is ignored: there it is 0.
        target: what will be asked: with a discount below 1, "exact" is refused (see the head of this module).

    Raises:
        ValueError: if no potential leaves the policies of this target alone.
    """
    if not isinstance(model, TrajectoryModel):
        raise TypeError(f"expected a TrajectoryModel, got {type(model).__name__}")
    if target not in ("fixed-dynamics", "exact"):
        raise ValueError(f"target is {target!r}; expected 'fixed-dynamics' or 'exact'")
    if target == "exact" and model.discount < 1:
        raise ValueError(
            f"the discount is {model.discount:g}: under the exact target shaping changes policies, as it cannot give "
            "the potential back when the discount ends the chain; use target='fixed-dynamics', or discount=1 with the "
            "absorbing state written out as a terminal state of the process"
        )
    if callable(potential) and not isinstance(potential, Tensor):
        potential = potential(torch.arange(model.mdp.num_states))
    states = (model.mdp.state_names, "state")
    potential = by_name(potential, [states] if getattr(potential, "ndim", 1) == 1 else [None, states], "the potential")
    extra = PotentialShaping(potential, model.discount, model.horizon)
    return model.replace(reward=model.reward + extra)
