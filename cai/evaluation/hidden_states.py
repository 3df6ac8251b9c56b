"""Runs of belief policies in worlds whose states are hidden, one in full or many side by side."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cai.evaluation.evaluate import fitting_table
from cai.models.common.memory import require_chains
from cai.models.common.random_draws import seeded
from cai.models.common.simulator import Transition
from cai.models.common.storage import Saved, storable
from cai.models.trajectory.model import TrajectoryModel
from cai.models.trajectory.simulate import draw_rows, warn_of_cut
from cai.policies.belief import BeliefPolicy

__all__ = ["BeliefOutcome", "RunRecord", "evaluate_belief_policy", "simulate"]

LONGEST_ROLLOUT = 10**6  # steps after which a rollout over an infinite horizon is cut
CHUNK = 4_000_000  # entries over (run, state, outcome) that rollouts hold at once


@storable("run-record")
@dataclass(frozen=True, eq=False)
class RunRecord(Saved):
    """One run in the true world: n actions, and what there was around them.

    Attributes:
        states: int64 [n + 1], or [n] where the discount ended the run (the state after the last action is none).
        observations: as many as states; None where nothing was observed.
        actions: int64 [n].
        rewards: [n], reward units.
        beliefs: as many rows as states, [n + 1, S], the agent's after each observation.
        ended: "horizon", after all steps asked for; "terminal", in a terminal state; "discount", by falling.
    """

    states: Tensor
    observations: tuple[int | None, ...]
    actions: Tensor
    rewards: Tensor
    beliefs: Tensor
    ended: str

    def __repr__(self) -> str:
        return f"RunRecord of {len(self.actions)} actions: return {self.total:.6g}, ended by {self.ended!r}"

    @property
    def total(self) -> float:
        """The return, in reward units."""
        return float(self.rewards.sum())


@storable("belief-outcome")
@dataclass(frozen=True, eq=False)
class BeliefOutcome(Saved):
    """What a belief policy earned in the true world, in reward units.

    Attributes:
        mean_return: over the rollouts; -inf if one met something forbidden.
        standard_error: of the mean; inf if one met something forbidden.
        returns: [N].
    """

    mean_return: float
    standard_error: float
    returns: Tensor = field(repr=False)


def simulate(
    belief_policy: BeliefPolicy, model: TrajectoryModel, num_steps: int | None = None, seed: int = 0
) -> RunRecord:
    """One run of a belief policy in the true world of a model.

    Args:
        belief_policy: is not changed; a copy of it acts.
        model: the world, with the states and actions that the agent knows. What it shows is drawn from the agent's
            observation model; its dynamics may be others than the agent believes in.
        num_steps: the most actions; the horizon, unless given.
        seed: of world and agent; the global random state is left alone.

    Raises:
        TypeError, ValueError: if the two do not fit, or the world shows what the agent holds impossible.
    """
    _check_world(belief_policy, model)
    longest = min(model.horizon, belief_policy.policy.horizon)
    if num_steps is None:
        if longest == math.inf:
            raise ValueError("the horizon is infinite; say how many steps at most, num_steps=N")
        num_steps = int(longest)
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or not 1 <= num_steps <= longest:
        raise ValueError(f"num_steps is {num_steps!r}; expected a whole number from 1 to the horizon, {longest}")
    with torch.no_grad():
        return _run(copy.copy(belief_policy), model, num_steps, seeded(seed))


def _run(agent: BeliefPolicy, model: TrajectoryModel, num_steps: int, generator: torch.Generator) -> RunRecord:
    state = model.reset(1, generator)
    seen = _shown(agent, state, None, generator)
    agent.reset(seen)
    states, observations, beliefs = [state], [seen], [agent.belief]
    actions: list[Tensor] = []
    rewards: list[Tensor] = []
    ended = "horizon"
    for t in range(num_steps):
        if bool(model.mdp.terminal[state]):
            ended = "terminal"
            break
        action = torch.tensor([agent.sample(generator)])
        state, reward, _ = _advance(model, state, action, t, generator)
        actions.append(action)
        rewards.append(reward)
        if int(state) == model.mdp.num_states:
            ended = "discount"
            break
        seen = _shown(agent, state, action, generator)
        agent.observe(int(action), seen)
        states.append(state)
        observations.append(seen)
        beliefs.append(agent.belief)
    if ended == "horizon" and bool(model.mdp.terminal[state]):
        ended = "terminal"
    nothing = torch.zeros(0, dtype=torch.int64)
    return RunRecord(
        states=torch.cat(states),
        observations=tuple(observations),
        actions=torch.cat([nothing, *actions]),
        rewards=torch.cat([nothing.double(), *rewards]),
        beliefs=torch.stack(beliefs),
        ended=ended,
    )


def evaluate_belief_policy(
    belief_policy: BeliefPolicy, model: TrajectoryModel, num_rollouts: int = 2000, seed: int = 0
) -> BeliefOutcome:
    """The return of a belief policy in the true world of a model, by rollouts side by side.

    Args:
        belief_policy: its filter and policy are used; its own belief is left alone.
        model: the world, as in `simulate`; over an infinite horizon runs last until they end.
        num_rollouts: N >= 2.
        seed: of world and agents; the global random state is left alone.

    Raises:
        TypeError, ValueError: as `simulate`.
    """
    _check_world(belief_policy, model)
    if isinstance(num_rollouts, bool) or not isinstance(num_rollouts, int) or num_rollouts < 2:
        raise ValueError(f"num_rollouts is {num_rollouts!r}; a standard error needs a whole number of at least 2")
    require_chains(num_rollouts)
    generator = seeded(seed)
    mdp = belief_policy.states.mdp
    size = max(1, CHUNK // (mdp.num_states * (1 if mdp.is_dense else mdp.num_outcomes)))
    with torch.no_grad():
        parts = [
            _returns(belief_policy, model, min(size, num_rollouts - begin), generator)
            for begin in range(0, num_rollouts, size)
        ]
    returns = torch.cat(parts)
    if not bool(torch.isfinite(returns).all()):
        return BeliefOutcome(-math.inf, math.inf, returns)
    return BeliefOutcome(float(returns.mean()), float(returns.std()) / math.sqrt(num_rollouts), returns)


def _returns(agent: BeliefPolicy, model: TrajectoryModel, num_runs: int, generator: torch.Generator) -> Tensor:
    """[N], the returns of N runs."""
    returns = torch.zeros(num_runs, dtype=torch.float64)
    running = torch.arange(num_runs)  # the runs that go on; states and beliefs are kept for these alone
    state = model.reset(num_runs, generator)
    alive = model.nonterminal[state]
    log_beliefs, _ = agent.states.start(_shown_to_all(agent, state, None, generator), num_runs)
    t = 0
    while t < min(model.horizon, LONGEST_ROLLOUT):
        running, state, log_beliefs = running[alive], state[alive], log_beliefs[alive]
        if not len(running):
            break
        action = draw_rows(agent.action_probs(log_beliefs, t), generator)
        state, reward, alive = _advance(model, state, action, t, generator)
        returns[running] += reward
        kept = state != model.mdp.num_states
        running, state, action, log_beliefs, alive = (
            part[kept] for part in (running, state, action, log_beliefs, alive)
        )
        if len(running):
            seen = _shown_to_all(agent, state, action, generator)
            log_beliefs, _ = agent.states.update(log_beliefs, action, seen, t)
        t += 1
    if not model.is_finite:
        warn_of_cut(int(alive.sum()), num_runs, t)
    return returns


def _check_world(belief_policy: BeliefPolicy, model: TrajectoryModel) -> None:
    if not isinstance(belief_policy, BeliefPolicy):
        raise TypeError(f"expected a BeliefPolicy(policy, mdp, observation_model), got {type(belief_policy).__name__}")
    if not isinstance(model, TrajectoryModel):
        raise TypeError(f"the world is a {type(model).__name__}; expected a TrajectoryModel, whose rewards it pays")
    fitting_table(belief_policy.policy, model, in_order=False)


def _shown_to_all(
    agent: BeliefPolicy, state: Tensor, action: Tensor | None, generator: torch.Generator
) -> Tensor | None:
    """[N], what N worlds show; None where they show nothing at first."""
    rows = agent.states.observation_model.rows(state, action)
    return None if rows is None else draw_rows(rows, generator)


def _shown(agent: BeliefPolicy, state: Tensor, action: Tensor | None, generator: torch.Generator) -> int | None:
    seen = _shown_to_all(agent, state, action, generator)
    return None if seen is None else int(seen)


def _advance(model: TrajectoryModel, state: Tensor, action: Tensor, t: int, generator: torch.Generator) -> Transition:
    """One step of N live chains, whose actions the world must have."""
    mdp = model.mdp
    missing = ~mdp.available[state, action]
    if missing.any():
        where, what = (int(part[missing][0]) for part in (state, action))
        raise ValueError(
            f"at time index {t} the agent takes action {mdp.action_name(what)}, which is not available in state "
            f"{mdp.state_name(where)} of the world; it believes in a process where it is: give it the world's"
        )
    return model.step(state, action, t, generator)
