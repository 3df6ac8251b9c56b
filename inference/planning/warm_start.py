"""Controls to begin with: those of an answer, of a policy, or of the action prior."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.inference.core.policy import Policy
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import NotKnown
from cai.inference.core.tabular import TabularPosterior
from cai.inference.planning.problem import PlanningProblem

__all__ = ["first_actions"]


@torch.no_grad()
def first_actions(problem: PlanningProblem, given: Any, seed: int) -> Tensor:
    """[T, m], controls along the mean dynamics.

    Args:
        problem: of the model.
        given: None for the mean of the action prior (zeros where it is flat); the answer of a backend, of which the
            plan is taken where it has one, and else the mean action of its policy, followed from the mean start on
            (of an answer to `discretize(model, ...)` the most probable action of the nearest node; a draw where no one
            action stands for the policy, as of a flow); a policy; or controls [T, m].
        seed: of a policy that draws.

    Raises:
        TypeError, ValueError: if it is none of these, or does not fit.
    """
    if given is None:
        return _of_prior(problem)
    plan = getattr(given, "__dict__", {}).get("plan")
    if isinstance(given, Posterior) and plan is not None:
        return _checked(problem, plan.actions)
    if isinstance(given, TabularPosterior):
        return _of_policy(problem, _OnGrid(given, problem), seed)
    if isinstance(given, Posterior):
        return _of_policy(problem, given.policy(), seed)
    if isinstance(given, Policy):
        return _of_policy(problem, given, seed)
    try:
        controls = torch.as_tensor(given, dtype=problem.start.dtype)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"warm_start is a {type(given).__name__}; give an answer of infer, a policy, or controls [T, m]"
        ) from None
    return _checked(problem, controls)


class _OnGrid:
    """The policy of an answer to a grid of the model, on the states between its nodes, too.

    The nodes are known by the names that `discretize` gives them, their coordinates.
    """

    def __init__(self, answer: TabularPosterior, problem: PlanningProblem) -> None:
        mdp = answer.mdp
        states = None if mdp is None else _coordinates(mdp.state_names, problem.state_dim)
        actions = None if mdp is None else _coordinates(mdp.action_names, problem.action_dim)
        if states is None or actions is None:
            raise ValueError(
                f"warm_start is the answer of {answer.backend!r} to tables whose states and actions are not named by "
                "their coordinates, as those of cai.models.discretize(model, ...) are; give controls [T, m]"
            )
        self.table, self.states, self.actions = answer.policy("greedy"), states, actions
        self.scale = (states.amax(0) - states.amin(0)).clamp(min=1e-300)
        self.horizon = self.table.horizon

    def act(self, state: Tensor, t: int, **_: Any) -> Tensor:
        """[m], what is done at the node that is nearest to a state [n], in shares of the grid's width."""
        node = ((self.states - state) / self.scale).square().sum(-1).argmin()
        return self.actions[self.table.act(node, t, deterministic=True)]


def _coordinates(names: Any, size: int) -> Tensor | None:
    """[N, size], of names such as "0.5, -1"; None if they are others."""
    try:
        rows = [[float(part) for part in name.split(",")] for name in names or ()]
    except ValueError:
        return None
    fits = bool(rows) and all(len(row) == size for row in rows)
    return torch.tensor(rows, dtype=torch.float64) if fits else None


def _of_prior(problem: PlanningProblem) -> Tensor:
    prior = problem.prior
    if prior is None:
        return problem.start.new_zeros(problem.horizon, problem.action_dim)
    return problem.follow(prior.mean)[0]


def _of_policy(problem: PlanningProblem, policy: Any, seed: int) -> Tensor:
    if policy.horizon < problem.horizon:
        raise ValueError(
            f"warm_start knows {policy.horizon} steps, the model has {problem.horizon}; infer with the same horizon"
        )
    generator = torch.Generator().manual_seed(seed)

    def act(state: Tensor, t: int) -> Tensor:
        try:
            action = policy.act(state, t, generator=generator, deterministic=True).to(state)
        except NotKnown:  # no one action stands for its law
            action = policy.act(state, t, generator=generator).to(state)
        if action.numel() != problem.action_dim:
            raise ValueError(
                f"warm_start acts by numbers of shape {list(action.shape)} in one state, the model takes "
                f"[{problem.action_dim}]; of a batch give the answer of one member, infer(model.member(i), ...)"
            )
        return action.reshape(-1)

    return _checked(problem, problem.follow(act)[0])


def _checked(problem: PlanningProblem, actions: Tensor) -> Tensor:
    wanted = (problem.horizon, problem.action_dim)
    if tuple(actions.shape) != wanted:
        raise ValueError(f"warm_start has controls of shape {list(actions.shape)}; the model takes {list(wanted)}")
    if not bool(torch.isfinite(actions).all()):
        raise ValueError("warm_start holds controls that are NaN or infinite; its answer may have failed")
    return actions.detach().to(problem.start)
