"""The answer of a planner: one trajectory that it would follow without noise, and a policy around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from cai.inference.core.policy import Policy, policy_classes
from cai.inference.core.posterior import Posterior
from cai.inference.core.storage import storable
from cai.inference.gaussian.policy import GaussianPolicy
from cai.models.common.memory import require_chains
from cai.models.common.random_draws import seeded

if TYPE_CHECKING:
    import xarray

__all__ = ["Plan", "PlanPosterior", "in_the_world"]

KINDS = ("stochastic", "greedy", "plan")


@storable("plan", axes={"states": "T+1 n", "actions": "T m"})
class Plan(NamedTuple):
    """A trajectory that a planner follows where there is no noise.

    Attributes:
        states: [T + 1, n].
        actions: [T, m].
    """

    states: Tensor
    actions: Tensor


class PlanPosterior(Posterior):
    """What a planner says: a plan, and a policy that acts in closed loop around it, under the true dynamics.

    q is that policy in the true world, so `sample` rolls it out.

    Attributes:
        plan: the trajectory without noise.
        acting: the policy.
    """

    plan: Plan
    acting: Any
    kind = "planned"
    _of_program = ("model",)

    def policy(self, kind: str = "stochastic") -> Policy:
        """What the answer says to do, ready to act.

        Args:
            kind: "stochastic", the policy; "greedy", its mean action; "plan", the actions of the plan, whatever happens
                (open loop).

        Raises:
            ValueError: if there is no such kind, or the plan did not reach the end.
        """
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
        if kind != "plan":
            found: Policy = self.acting
            return found
        states, actions = self.plan
        if len(actions) < self.steps:
            raise ValueError(f"the plan ends after {len(actions)} of {self.steps} steps: {self.status}")
        steps, m = actions.shape
        gain, certain = actions.new_zeros(steps, m, states.shape[-1]), actions.new_zeros(steps, m, m)
        made: GaussianPolicy = policy_classes["gaussian"](gain, actions, certain, source=self.backend)
        return made

    @property
    def temperature(self) -> Any:
        """The temperature alpha."""
        return self.model.temperature

    def to_xarray(self) -> xarray.Dataset:
        """The plan with named axes: states by (time from 0 to T, state coordinate), actions by (step, coordinate)."""
        import xarray

        tables = {
            "plan_states": (("time", "state"), self.plan.states.numpy()),
            "plan_actions": (("step", "action"), self.plan.actions.numpy()),
        }
        return xarray.Dataset(tables, attrs=self._xarray_attributes())

    def _draw(self, num_samples: int, seed: int, latents: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        if self.model is None:
            why = "its model stayed behind when it was stored"
            raise self._unknown("how to draw trajectories", "infer again", why)
        return *in_the_world(self.model, self.policy(), num_samples, seed), {}


@torch.no_grad()
def in_the_world(model: Any, policy: Policy, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """States [N, T + 1, n] and actions [N, T, m] of a policy in a continuous model; inf once a chain ended."""
    require_chains(num_samples, model.state_dim + model.action_dim, model.steps)
    generator = seeded(seed)
    state = model.reset(num_samples, generator)
    states, actions = [state], []
    for t in range(model.steps):
        here = torch.where(state.isfinite(), state, torch.zeros_like(state))
        actions.append(policy.act(here, t, generator=generator))
        state = model.step(state, actions[-1], t, generator).next_states
        states.append(state)
    return torch.stack(states, 1), torch.stack(actions, 1)


storable("plan-posterior", pack=PlanPosterior._stored, unpack=PlanPosterior._from_stored)(PlanPosterior)
