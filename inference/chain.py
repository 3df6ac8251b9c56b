"""Chains without an end: where they can go, how often they are where, and whether they ever stop."""

from __future__ import annotations

import torch
from torch import Tensor

from cai.inference.dynamics import OutcomeDynamics
from cai.models.trajectory import TrajectoryModel

__all__ = [
    "SOLVE_LIMIT",
    "always_ends",
    "can_succeed",
    "expected_visits",
    "has_trap",
    "reaches_terminal",
    "transition_matrix",
]

SOLVE_LIMIT = 3000  # states up to which [S, S] systems are formed and solved; beyond, sums are run to their end
SOLVE_STEPS = 10**6


def transition_matrix(model: TrajectoryModel, policy: Tensor, dynamics: OutcomeDynamics) -> Tensor:
    """[S, S], the probability under a policy [S, A] and stationary dynamics of going on from s to s'."""
    weights = policy[..., None] * dynamics.outcomes(0)[0]
    num_states = model.mdp.num_states
    following = model.mdp.successors().expand_as(weights)
    matrix = torch.zeros(num_states, num_states, dtype=torch.float64)
    return matrix.scatter_add(1, following.reshape(num_states, -1), weights.reshape(num_states, -1))


def expected_visits(
    model: TrajectoryModel, initial: Tensor, policy: Tensor, dynamics: OutcomeDynamics
) -> tuple[Tensor, Tensor]:
    """Expected visits of the live states [1, S], and the probability of ending in the absorbing state [1].

    They solve d = p(s_1) + P^T d on the live states, P being where the chain goes on to.

    Raises:
        ValueError: if the chain can get to where it never ends, so that visits do not add up to a number.
    """
    mdp, live = model.mdp, model.live
    alive, fallen = dynamics.outcomes(0)
    moves = policy[0][..., None] * alive * live[:, None, None]
    falls = (policy[0][..., None] * fallen).sum((1, 2))
    met = _met(model, moves.detach() > 0)
    ends = _leads_to(model, moves.detach() > 0, ~live | (falls.detach() > 0))
    if bool((met & ~ends).any()):
        state = int(torch.nonzero(met & ~ends)[0])
        raise ValueError(
            f"the policy can get to state {mdp.state_name(state)} and never end from there, so expectations over "
            "an infinite horizon do not exist; give a discount < 1 or a finite horizon"
        )
    counts = live & met
    here = torch.where(counts, initial, torch.zeros_like(initial))
    if mdp.num_states <= SOLVE_LIMIT:
        inside = transition_matrix(model, policy[0], dynamics)[counts][:, counts]
        eye = torch.eye(int(counts.sum()), dtype=torch.float64)
        solved = torch.linalg.solve(eye - inside.T, here[counts][:, None])[:, 0]
        visits = torch.zeros_like(initial).index_add(0, torch.nonzero(counts).flatten(), solved.clamp(min=0))
    else:
        visits = here
        for _ in range(SOLVE_STEPS):
            here = torch.where(counts, mdp.scatter(here[:, None, None] * moves), torch.zeros_like(here))
            visits = visits + here
            if float(here.detach().sum()) <= 1e-14 * float(visits.detach().sum()):
                break
    return visits[None], (visits * falls).sum()[None]


def _met(model: TrajectoryModel, possible: Tensor) -> Tensor:
    """Bool [S]: states that the start can get to along possible outcomes [S, A, K]."""
    met = model.mdp.initial.detach() > 0
    while True:
        more = met | (model.mdp.scatter((possible & met[:, None, None]).double()) > 0)
        if bool((more == met).all()):
            return met
        met = more


def has_trap(model: TrajectoryModel) -> bool:
    """Whether, without a discount, the start can lead to a live state from which no terminal state is within reach."""
    if model.discount < 1:
        return False
    possible = (model.action_prior[..., None] * model.mdp.probabilities).detach() > 0
    return bool((_met(model, possible) & model.live & ~_leads_to(model, possible, model.mdp.terminal)).any())


def can_succeed(model: TrajectoryModel) -> bool:
    """Whether some trajectory of an infinite horizon ends, by a terminal state or a discount, and meets no -inf."""
    weights = (model.action_prior[..., None] * model.mdp.probabilities).detach()
    possible = (weights > 0) & ~torch.isinf(model.reward_table(0).detach())
    ends = model.mdp.terminal
    if model.discount < 1:
        ends = ends | possible.any(-1).any(-1)
    return bool(((model.mdp.initial.detach() > 0) & _leads_to(model, possible, ends)).any())


def always_ends(model: TrajectoryModel) -> bool:
    """Whether every policy ends: the discount is below 1, or no live states can be stayed in for ever by any choice.

    Backups then contract in a weighted maximum norm whatever the rewards (Bertsekas and Tsitsiklis 1991).
    """
    if model.discount < 1:
        return True
    leads = model.mdp.probabilities.detach() > 0
    offered = model.action_prior.detach() > 0
    stays = model.live
    while bool(stays.any()):
        keeps = (~leads | model.mdp.gather(stays)).all(-1) & offered
        fewer = stays & keeps.any(-1)
        if bool((fewer == stays).all()):
            return False
        stays = fewer
    return True


def reaches_terminal(model: TrajectoryModel) -> Tensor:
    """Bool [S]: states from which some actions lead to a terminal state with positive probability, without -inf."""
    mdp = model.mdp
    weights = model.action_prior[..., None] * mdp.probabilities
    possible = (weights > 0) & ~torch.isinf(model.reward_table(0).detach())
    return _leads_to(model, possible, mdp.terminal)


def _leads_to(model: TrajectoryModel, possible: Tensor, goal: Tensor) -> Tensor:
    """Bool [S]: states with a path to the goal, bool [S], along possible outcomes [S, A, K]."""
    reached = goal
    while True:
        more = reached | (possible & model.mdp.gather(reached)).any(-1).any(-1)
        if bool((more == reached).all()):
            return reached
        reached = more
