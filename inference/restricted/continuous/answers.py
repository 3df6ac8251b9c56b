"""The answer of a policy that was fitted to trajectories of a continuous model."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Delta, Empirical
from torch import Tensor

from cai.inference.core.lazy import lazy
from cai.inference.core.policy import Policy, policy_classes
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status
from cai.inference.core.storage import storable
from cai.inference.restricted.continuous.guides import LinearGuide
from cai.inference.restricted.continuous.rollouts import WorldDraws, WorldProblem
from cai.models.common.numerics import plain_number
from cai.models.common.random_draws import OwnDraws, seeded
from cai.models.continuous.simulate import draw_start, draw_step

__all__ = ["FittedPosterior", "fitted_answer"]

KINDS = ("stochastic", "greedy")
NO_GRADIENTS = "none: a search found the policy"
MARGINAL_SAMPLES = 10_000


class FittedPosterior(Posterior):
    """A policy under the true dynamics of a continuous model, known by its trajectories.

    `elbo`, `believed_return`, `policy_divergence` and `policy_entropy` are means over trajectories that were drawn
    afresh for them; `details["standard_error"]` is that of `elbo`. Trajectories are those of chains that the discount
    has not ended; once a chain comes to a terminal state, it stays there and its actions are 0.

    Attributes:
        acting: the policy; None in a copy from a file that could not hold it.
    """

    acting: Any
    kind = "sampled"
    _of_program = ("model", "acting")

    def policy(self, kind: str = "stochastic") -> Policy:
        """What the answer says to do, ready to act.

        Args:
            kind: "stochastic", q(a_t | s_t) itself; "greedy", one action for each state: what the mean stands for, of a
                mixture the middle of its heaviest component.

        Raises:
            ValueError: if there is no such kind.
            NotKnown: if the policy stayed behind in a file, or ("greedy") no one action stands for it.
        """
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
        if self.acting is None:
            why = "its module stayed behind when it was stored"
            raise self._unknown("its policy", "infer again", why)
        found: Policy = self.acting
        if kind == "stochastic":
            return found
        if hasattr(found, "covariance"):
            made = policy_classes["gaussian"]
            certain = torch.zeros_like(found.covariance)
            return made(found.gain, found.offset, certain, found.stationary, found.source)  # type: ignore[attr-defined]
        greedy: Policy = policy_classes["guide"](**_parts(found) | {"greedy": True})
        greedy.act(torch.zeros(1, greedy.state_dim), 0)  # type: ignore[attr-defined]  # refused here if it is not known
        return greedy

    def _draw(self, num_samples: int, seed: int, latents: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        model, policy = self._world(), self.policy()
        generator = seeded(seed)
        with torch.no_grad():
            state = draw_start(model, num_samples, generator)
            states, actions = [state], []
            for t in range(self.steps):
                action = policy.act(state, t, generator=generator)
                ends = model.has_ended(state)
                if ends is not None:
                    action = torch.where(ends[..., None], torch.zeros_like(action), action)
                actions.append(action)
                state = draw_step(model, state, actions[-1], t, generator, falls=False).next_states
                states.append(state)
        return torch.stack(states, 1), torch.stack(actions, 1), {}

    def _score(self, states: Any, actions: Any) -> Tensor:
        model, policy = self._world(), self.policy()
        states, actions = (torch.as_tensor(part, dtype=torch.float64) for part in (states, actions))
        wanted = [self.steps + 1, model.state_dim], [self.steps, model.action_dim]
        if list(states.shape[1:]) != wanted[0] or list(actions.shape[1:]) != wanted[1]:
            raise ValueError(
                f"states and actions have shapes {list(states.shape)} and {list(actions.shape)}; expected "
                f"[N, T + 1, n] and [N, T, m] with {wanted[0]} and {wanted[1]}"
            )
        laws = [model.start_distribution()]
        laws += [model.transition(states[:, t], actions[:, t], t) for t in range(self.steps)]
        if any(isinstance(law, Delta) for law in laws):
            why = "its start or its dynamics are certain"
            raise self._unknown("densities of trajectories", "ask its policy for log_prob(actions, states, t)", why)
        total = laws[0].log_prob(states[:, 0])
        for t in range(self.steps):
            step = policy.log_prob(actions[:, t], states[:, t], t) + laws[t + 1].log_prob(states[:, t + 1])
            ends = model.has_ended(states[:, t])
            total = total + (step if ends is None else torch.where(ends, torch.zeros_like(step), step))
        return total

    @lazy
    def cloud(self) -> tuple[Tensor, Tensor]:
        """States [N, T + 1, n] and actions [N, T, m] by which marginals are told."""
        states, actions = self.sample(MARGINAL_SAMPLES, seed=0)
        return states, actions

    def _marginal(self, kind: str, t: int) -> Any:
        """Of s_1 the model's own start; of any other site the empirical distribution of 10,000 trajectories."""
        if (kind, t) == ("s", 1):
            return self._world().start_distribution()
        values = self.cloud[0 if kind == "s" else 1][:, t - 1]
        return Empirical(values, torch.zeros(len(values), dtype=values.dtype))

    def _world(self) -> Any:
        if self.model is None:
            why = "its model stayed behind when it was stored"
            raise self._unknown("how to draw trajectories", "infer again", why)
        return self.model


storable("fitted-posterior", pack=FittedPosterior._stored, unpack=FittedPosterior._from_stored)(FittedPosterior)


def _parts(policy: Any) -> dict[str, Any]:
    names = ("policy_class", "parameters", "state_dim", "action_dim", "steps", "boxed", "source")
    return {name: getattr(policy, name) for name in names}


@torch.no_grad()
def fitted_answer(
    backend: Any, policy_class: Any, problem: WorldProblem, status: Status, details: dict[str, Any], draws: WorldDraws
) -> FittedPosterior:
    """What the problem's policy amounts to.

    Args:
        backend: whose name and target it bears.
        policy_class: of the policy.
        problem: with the policy at the fitted parameters.
        status: how the fit ended.
        details: its further numbers, the "estimate" of the bound among them.
        draws: fresh trajectories of the policy.
    """
    model, guide = problem.model, problem.policy.guide
    with OwnDraws(0):
        parameters = {name: part.detach().clone() for name, part in guide.state_dict().items()}
    if isinstance(guide, LinearGuide):
        roots = guide.roots()
        parts = (guide.gain.detach().clone(), guide.offset.detach().clone(), roots @ roots.mT)
        acting = policy_classes["gaussian"](*parts, len(parts[0]) == 1, backend.name)
    else:
        sizes = guide.sizes
        acting = policy_classes["guide"](
            policy_class, parameters, sizes.states, sizes.actions, sizes.steps, sizes.boxed, source=backend.name
        )
    alpha = plain_number(model.temperature)
    zero = torch.zeros((), dtype=torch.float64)
    numbers: dict[str, Any] = {"elbo": details["estimate"], "luck": zero}
    details = details | {"gradient": "pathwise" if problem.pathwise else "sampled", "gradients": NO_GRADIENTS}
    if model.is_flat:
        details["note"] = "bound, divergence and entropy are relative to da, the action prior being flat"
    if draws.diverged is not None:
        details |= {"step": draws.diverged, "why": _diverged(draws.diverged)}
        numbers |= {"elbo": None, "believed_return": None, "policy_divergence": None, "policy_entropy": None}
    else:
        numbers |= {
            "believed_return": alpha * draws.rewards.sum(0).mean(),
            "policy_divergence": draws.ratios.sum(0).mean(),
            "policy_entropy": draws.entropies.sum(0).mean(),
        }
    return FittedPosterior(
        backend=backend.name,
        target=backend.target,
        status=status,
        model=model,
        horizon=int(model.horizon),
        acting=acting,
        details=details,
        **numbers,
    )


def _diverged(step: int) -> str:
    return (
        f"a trajectory left the finite numbers at time index {step}: lower learning_rate, give a shorter horizon, or "
        "take smaller time steps"
    )
