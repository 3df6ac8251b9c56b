"""The answer of a planner that ends with a linear-Gaussian model around its plan."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status
from cai.inference.core.storage import storable
from cai.inference.gaussian.existence import Failure, first_failure
from cai.inference.gaussian.messages import backward
from cai.inference.gaussian.policy import GaussianPolicy
from cai.inference.gaussian.posterior import GaussianPosterior
from cai.inference.gaussian.problem import GaussianProblem
from cai.inference.planning.plans import Plan, in_the_world
from cai.models.continuous.linear_gaussian import LinearGaussianModel

__all__ = ["LocalPosterior", "local_posterior"]

NO_GRADIENTS = "none: a search found the plan; ask 'variational' or 'exact' about a LinearGaussianModel"
NUMBERS = ("log_evidence", "elbo", "believed_return", "luck", "policy_divergence", "policy_entropy")


class LocalPosterior(GaussianPosterior):
    """A Gaussian answer about the linear-Gaussian model around a plan, for a world that is none.

    Policy, values, messages, `dynamics(t)` and marginals are those of the local model, in the coordinates of states and
    actions themselves; the policy is what acts in the true world, in closed loop. Trajectories are sampled there too,
    where the answer holds the dynamics fixed.

    Attributes:
        plan: the trajectory around which the model was made.
        holds_dynamics: whether q's dynamics are the true ones.
    """

    plan: Plan | None = None
    holds_dynamics: bool = True
    kind = "local Gaussian"

    @property
    def is_whole(self) -> bool:
        """Whether the local model is all of the model, which then was linear-Gaussian itself."""
        return isinstance(self.model, LinearGaussianModel)

    def policy(self, kind: str = "stochastic") -> GaussianPolicy:
        if self.plan is None:
            why = str(self.details.get("why", "the search found no plan"))
            raise self._unknown("a policy", "infer again with other options", why)
        return super().policy(kind)

    def _draw(self, num_samples: int, seed: int, latents: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        if self.is_whole or not self.holds_dynamics:
            return super()._draw(num_samples, seed, latents)
        if self.model is None:
            why = "its model stayed behind when it was stored"
            raise self._unknown("how to draw trajectories", "infer again", why)
        return *in_the_world(self.model, self.policy(), num_samples, seed), {}

    def _score(self, states: Any, actions: Any) -> Tensor:
        if self.is_whole:
            return super()._score(states, actions)
        why = "its dynamics are those of a local model"
        raise self._unknown("densities of trajectories", "ask its policy for log_prob(actions, states, t)", why)


def local_posterior(
    backend: Any,
    model: Any,
    status: Status,
    world: GaussianProblem | None,
    eta: float,
    details: dict[str, Any],
    plan: tuple[Tensor, Tensor] | None = None,
) -> Posterior:
    """The answer of a planner.

    Args:
        backend: whose name and target it bears.
        model: what was asked.
        status: how the search ended.
        world: the local model; None where there is none.
        eta: the tilt of its outcomes, 0 for fixed dynamics and 1 for the exact target.
        details: further numbers.
        plan: states [T + 1, n] and actions [T, m], around which it was made.
    """
    parts: dict[str, Any] = {"backend": backend.name, "target": backend.target, "model": model}
    parts |= {"horizon": int(model.horizon), "holds_dynamics": eta == 0}
    unknown = dict.fromkeys(NUMBERS)
    details["gradients"] = NO_GRADIENTS
    if world is None or plan is None:
        return LocalPosterior(**parts, **unknown, problem=None, status=status, details=details)
    with torch.no_grad():
        messages = backward(world, eta)
        failure = first_failure(world, messages)
    parts |= {"plan": Plan(*plan), "problem": world}
    if failure is not None:
        details |= {"step": failure.step, "eigenvalue": failure.eigenvalue}
        if isinstance(model, LinearGaussianModel):
            status, details["why"] = Status.INFINITE, failure.sentence()
        else:
            ended = Status.INFINITE if status.ok else status
            status, details["why"] = ended, "; ".join([*filter(None, [details.get("why")]), _no_policy(failure)])
        return LocalPosterior(**parts, **unknown, status=status, details=details)
    parts |= {"messages": messages, "status": status}
    if not isinstance(model, LinearGaussianModel):
        known = {"policy_entropy"} | ({"luck"} if eta == 0 else set())
        parts |= {name: None for name in NUMBERS if name not in known}
        return LocalPosterior(**parts, details=details)
    bound = messages.start / world.temperature
    return LocalPosterior(**parts, elbo=bound, log_evidence=bound if eta == 1 else None, details=details)


def _no_policy(failure: Failure) -> str:
    """Why there is no Gaussian policy around a plan, and what helps, in words."""
    return (
        f"around the plan there is no Gaussian policy, because {failure.sentence()}: where an action costs nothing, "
        "let it cost something, and where its cost has a kink or no curvature, as |a| and a^4 at 0, smooth it "
        "((a^2 + 0.01)^(1/2), say) or add a small quadratic cost"
    )


storable("local-posterior", pack=LocalPosterior._stored, unpack=LocalPosterior._from_stored)(LocalPosterior)
