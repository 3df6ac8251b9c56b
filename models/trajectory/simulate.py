"""Drawing trajectories of tabular problems: one step of N chains, whole rollouts, and samples of a posterior.

Every draw is by the inverse cumulative distribution, from one uniform number each: what has probability zero is never
drawn, and the same generator gives the same draws on any device. Outcomes are drawn as they are listed, so nothing of
size S is made for processes with successor lists.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from cai.models.common.memory import require_chains
from cai.models.common.simulator import Transition
from cai.models.processes.mdp import MDP
from cai.models.rewards.base import RewardFactor, Step, evaluate_factor

logger = logging.getLogger("cai.models")

__all__ = ["Drawn", "TabularSimulator", "draw_rows", "draw_start", "inverse_cdf", "sample_chain", "warn_of_cut"]

TABLE_LIMIT = 2_000_000  # entries of all reward tables together up to which they are looked up, not evaluated


def inverse_cdf(cumulative: Tensor, low: Tensor, high: Tensor, uniform: Tensor) -> Tensor:
    """The entries of a cumulative sum in which points between two of its values fall; none of weight zero.

    Args:
        cumulative: [..., M], cumulative sums of weights >= 0.
        low: [..., N], the cumulative sum before the entries that may be drawn.
        high: [..., N], the one at the last of them, > low.
        uniform: [..., N], in [0, 1).

    Returns:
        int64 [..., N], indices into the cumulative sum.
    """
    below = torch.nextafter(high, low)  # the point may round up to the end, and belong to the next entry
    points = torch.minimum(low + uniform * (high - low), below)
    return torch.searchsorted(cumulative, torch.maximum(points, low), right=True)


def draw_rows(rows: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """int64 [N], one index for each row of weights [N, K], which need not sum to 1 but must not be all zero."""
    cumulative = rows.double().cumsum(-1)
    total = cumulative[:, -1:]
    return inverse_cdf(cumulative, torch.zeros_like(total), total, _uniform(rows, (len(rows), 1), generator))[:, 0]


def draw_start(weights: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """int64 [n], independent indices into one row of weights [S]; O(S + n log S)."""
    require_chains(n)
    cumulative = weights.double().cumsum(0)
    uniform = _uniform(weights, (n,), generator)
    return inverse_cdf(cumulative, torch.zeros_like(uniform), cumulative[-1].expand_as(uniform), uniform)


def _uniform(like: Tensor, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    device = torch.device("cpu") if generator is None else generator.device
    return torch.rand(shape, dtype=torch.float64, generator=generator, device=device).to(like.device)


class Drawn(NamedTuple):
    """What N chains met in one step of a tabular problem.

    Attributes:
        next_states: int64 [N]; S once the discount has ended the chain.
        rewards: [N], reward units; 0 for a chain that had ended before.
        alive: bool [N], whether the chain goes on: neither in a terminal state nor ended by the discount.
        outcomes: int64 [N], which of the K listed outcomes happened; 0 for a chain in state S.
    """

    next_states: Tensor
    rewards: Tensor
    alive: Tensor
    outcomes: Tensor


class _Problem(Protocol):
    @property
    def mdp(self) -> MDP: ...

    @property
    def reward(self) -> RewardFactor: ...

    @property
    def discount(self) -> float: ...

    @property
    def is_finite(self) -> bool: ...

    @property
    def is_average(self) -> bool: ...

    @property
    def reward_times(self) -> range: ...

    def reward_table(self, t: int) -> Tensor: ...


class TabularSimulator:
    """The true world of a tabular problem, in which N chains are run side by side; see `cai.models.Simulator`.

    No gradient passes through it. Terminal states pay nothing and are not left; with a discount, a live chain falls
    into state S with probability 1 - discount after each step, the reward of that step paid.

    Args:
        model: the `TrajectoryModel`. Reward tables that are kept are looked up; where they are too many to keep,
            rewards are evaluated at the steps that are drawn, in O(N).
    """

    def __init__(self, model: _Problem) -> None:
        mdp = model.mdp
        self.model = model
        self.num_states, self.num_actions = mdp.num_states, mdp.num_actions
        self._outcomes_pay, self._stationary = model.reward.reads_outcome, not model.reward.reads_time
        entries = mdp.num_states * mdp.num_actions * (mdp.num_outcomes if self._outcomes_pay else 1)
        self._looks_up = self._stationary or len(model.reward_times) * entries <= TABLE_LIMIT
        self._probabilities, self._next_states = mdp.probabilities.detach(), mdp.next_states
        self._nonterminal = torch.cat([~mdp.terminal, mdp.terminal.new_zeros(1)])  # [S + 1]

    def reset(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """The states int64 [n] in which n chains start."""
        return draw_start(self.model.mdp.initial.detach(), n, generator)

    def step(self, states: Tensor, actions: Tensor, t: int, generator: torch.Generator | None = None) -> Transition:
        """Moves N chains by one step.

        Args:
            states: int64 [N], 0 to S; S is the absorbing state of the discount.
            actions: int64 [N], available where they are taken.
            t: the time index, from 0.
            generator: of the draws; torch's global one unless given.
        """
        return Transition(*self.draw(states, actions, t, generator)[:3])

    def draw(
        self,
        states: Tensor,
        actions: Tensor,
        t: int,
        generator: torch.Generator | None = None,
        *,
        falls: bool = True,
        rewards: Tensor | None = None,
    ) -> Drawn:
        """One step of N chains, with the outcomes that were drawn.

        Args:
            states: int64 [N], 0 to S; S is the absorbing state of the discount.
            actions: int64 [N], available where they are taken.
            t: the time index, from 0.
            generator: of the draws; torch's global one unless given.
            falls: whether the discount ends chains; False leaves it to the weights of the caller.
            rewards: the table [S, A, 1 or K] of this step, if it is at hand; reward units.
        """
        inside = states.clamp(max=self.num_states - 1)
        outcomes = draw_rows(self._probabilities[inside, actions], generator)
        following = outcomes if self._next_states is None else self._next_states[inside, actions, outcomes]
        nonterminal = self._nonterminal[states]
        paid = self._rewards(inside, actions, outcomes, following, t, rewards)
        paid = torch.where(nonterminal, paid, torch.zeros_like(paid))
        following = torch.where(nonterminal, following, states)
        if falls and self.model.discount < 1:
            lost = nonterminal & (_uniform(states, states.shape, generator) >= self.model.discount)
            following = following.masked_fill(lost, self.num_states)
        outcomes = outcomes.masked_fill(states == self.num_states, 0)
        return Drawn(following, paid, self._nonterminal[following], outcomes)

    def _rewards(
        self, states: Tensor, actions: Tensor, outcomes: Tensor, following: Tensor, t: int, table: Tensor | None
    ) -> Tensor:
        """[N], what a step pays in nonterminal states, reward units."""
        zero = torch.zeros_like(outcomes)
        if table is None and self._looks_up:
            table = self.model.reward_table(0 if self._stationary else t).detach()
        if table is not None:
            return table[states, actions, outcomes if self._outcomes_pay else zero]
        step = Step(states, actions, outcomes, following, t)
        if not self._outcomes_pay:
            step = Step(states, actions, zero, zero, t)
        return evaluate_factor(self.model.reward, self.model.mdp, step).detach().expand(states.shape)

    def returns(self, policy: Tensor, n: int, max_steps: int, generator: torch.Generator | None = None) -> Tensor:
        """The returns [n] of n chains under a policy, in reward units; stops once every chain has ended.

        A warning says how many chains of an infinite sum of rewards had not ended when they were cut off.

        Args:
            policy: [T, S, A], or [1, S, A] for one that is stationary.
            n: how many chains.
            max_steps: after so many steps the rest is cut off.
            generator: of the draws; torch's global one unless given.
        """
        table = self.model.reward_table(0).detach() if self._stationary else None
        states = self.reset(n, generator)
        total = policy.new_zeros(n)
        alive = self._nonterminal[states]
        for t in range(max_steps):
            if not bool(alive.any()):
                break
            rows = policy[t if len(policy) > 1 else 0][states.clamp(max=self.num_states - 1)]
            states, rewards, alive, _ = self.draw(states, draw_rows(rows, generator), t, generator, rewards=table)
            total = total + rewards
        if not self.model.is_finite and not self.model.is_average:
            warn_of_cut(int(alive.sum()), n, max_steps)
        return total


def warn_of_cut(left: int, number: int, steps: int) -> None:
    """Says that so many of a number of rollouts over an infinite horizon had not ended when they were cut off."""
    if left:
        logger.warning(
            "%d of %d rollouts had not ended after %d steps and were cut off: what is measured by rollouts counts what "
            "they had earned by then; a lower discount or a finite horizon ends them",
            left,
            number,
            steps,
        )


def sample_chain(
    initial: Tensor,
    policy: Callable[[int], Tensor],
    moves: Callable[[int], tuple[Tensor, Tensor]],
    next_states: Tensor | None,
    steps: int,
    n: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Draws n trajectories of any Markov chain on S states, e.g. of a posterior, whose dynamics change over time.

    Args:
        initial: [S], q(s_1).
        policy: t -> [S, A], q(a_t | s_t).
        moves: t -> (weights [S, A, K] of the listed outcomes, weights [S, A] of falling into the absorbing state S).
        next_states: int64 [S, A, K], where the outcomes lead; None where they are the states themselves, K = S.
        steps: T.
        n: how many trajectories.
        generator: of the draws.

    Returns:
        States int64 [n, T + 1] and actions int64 [n, T]; in the absorbing state S actions are uniform.
    """
    num_states = len(initial)
    require_chains(n, steps=steps)
    state = draw_start(initial.detach(), n, generator)
    states, actions = [state], []
    for t in range(steps):
        inside, absorbed = state.clamp(max=num_states - 1), state == num_states
        rows = policy(t).detach()[inside]
        action = draw_rows(torch.where(absorbed[:, None], torch.ones_like(rows), rows), generator)
        weights, fallen = (part.detach()[inside, action] for part in moves(t))
        outcome = draw_rows(torch.cat([weights, fallen[:, None]], -1), generator)
        falls = absorbed | (outcome == weights.shape[-1])
        outcome = outcome.masked_fill(falls, 0)
        following = outcome if next_states is None else next_states[inside, action, outcome]
        state = following.masked_fill(falls, num_states)
        actions.append(action)
        states.append(state)
    return torch.stack(states, -1), torch.stack(actions, -1)
