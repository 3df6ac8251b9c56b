"""A tabular problem as learners meet it: N copies that are stepped at once, each at a time index of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from cai.inference.tabular.markov.chains import ended_states
from cai.models.common.numerics import plain_number
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Met", "TableWorld", "draw_columns"]

Array = np.ndarray[Any, Any]

# An episode over an infinite horizon that may last for ever is cut off with this chance at each step and begins anew.
# What is learned from its last transition does not depend on that (a cut is no end), but the start is seen again.
LEAST_CUT, MOST_CUT = 1e-3, 0.1
SWEEP = 32  # times of a finite horizon that steps are looked at from, each time that is learned


class Met(NamedTuple):
    """What N copies met in one step, [N] each; of L steps [L, N] each.

    Attributes:
        times: int [N], the time index of the step; 0 in tables without time.
        states: int [N].
        actions: int [N].
        rewards: float [N], reward units.
        next_states: int [N].
        terminated: bool [N], whether nothing follows: a terminal state, or the end of the horizon.
        cut: bool [N], whether the episode stops here although something would have followed.
        later: int [N], the time index of what follows; 0 where nothing does.
        ages: int [N], steps since the episode began, before this one.
    """

    times: Array
    states: Array
    actions: Array
    rewards: Array
    next_states: Array
    terminated: Array
    cut: Array
    later: Array
    ages: Array

    def flat(self) -> Met:
        """All steps as one axis."""
        return Met(*(part.reshape(-1) for part in self))


def draw_columns(weights: Array, uniforms: Array) -> Array:
    """Int [N], a column for each row of weights [N, K] >= 0, by the inverse cumulative distribution; none of weight 0.

    Args:
        weights: [N, K], rows that sum to more than 0.
        uniforms: [N], in [0, 1).
    """
    cumulative = weights.cumsum(1)
    return (cumulative / cumulative[:, -1:] <= uniforms[:, None]).sum(1)


class TableWorld:
    """Tables of a model as numpy arrays, for steps of N copies.

    Args:
        model: the trajectory model; the tables are read on the CPU in float64.
        entropy_form: whether rewards are those of `model.entropy_form()`.

    Attributes:
        steps: T, or 1 where the horizon is infinite.
        finite: whether the horizon is.
        timeless: whether it is finite and no reward depends on time; a step then says as much about any other time.
        prior: [S, A], the action prior.
        log_prior: [S, A], -inf where an action is not available.
        finite_log_prior: [S, A], the same with 0 there, for means under the prior.
        even: [S, A], the uniform distribution over the actions that the prior takes.
        nonterminal: bool [S], where a decision is made; states that nothing is paid in for ever count as terminal.
        discount: gamma.
        temperature: alpha.
        bonus: [S], log|A(s)| on nonterminal states in the entropy form, else 0; rewards hold it times the temperature.
        cut: the chance that an episode without an end stops after a step.
    """

    def __init__(self, model: TrajectoryModel, *, entropy_form: bool = False) -> None:
        host, mdp = (model.entropy_form() if entropy_form else model).host, model.mdp.host
        prior = host.action_prior.detach()
        ended = torch.zeros_like(host.nonterminal)
        if not host.is_finite:
            ended = ended_states(host, prior, mdp.probabilities.detach())
        self.steps, self.finite = host.steps, host.is_finite
        self.num_states, self.num_actions = mdp.num_states, mdp.num_actions
        self.discount, self.temperature = host.discount, plain_number(host.temperature)
        self.timeless = self.finite and len(host.reward_times) == 1
        self.nonterminal: Array = (host.nonterminal & ~ended).numpy()
        self.prior: Array = prior.numpy()
        with np.errstate(divide="ignore"):
            self.log_prior: Array = np.log(self.prior)
        self.finite_log_prior: Array = np.where(self.prior > 0, self.log_prior, 0.0)
        taken = self.prior > 0
        self.even: Array = taken / np.maximum(taken.sum(1, keepdims=True), 1)
        self.cut = 0.0 if host.is_finite else min(max(1 - host.discount, LEAST_CUT), MOST_CUT)
        cumulative = mdp.probabilities.detach().cumsum(-1)
        total = cumulative[..., -1:]
        self._cumulative: Array = torch.where(total > 0, cumulative / total, 1.0).numpy()  # absent actions have no row
        self._next: Array | None = None if mdp.next_states is None else mdp.next_states.numpy()
        counts: Array = mdp.available.sum(-1).double().numpy()
        self.bonus: Array = np.where(self.nonterminal & entropy_form, np.log(np.maximum(counts, 1.0)), 0.0)
        rewards = torch.stack([host.reward_table(t).detach() for t in host.reward_times])
        self._rewards: Array = rewards.numpy()  # [T or 1, S, A, 1 or K]
        start = np.where(self.nonterminal, mdp.initial.detach().numpy(), 0.0)
        start = (
            start if start.any() else self.nonterminal.astype(np.float64)
        ).cumsum()  # no episode begins where it has ended
        self._start: Array = start / start[-1] if start[-1] else start

    def begin(self, uniforms: Array) -> Array:
        """Int [N], the states in which episodes begin."""
        return np.searchsorted(self._start, uniforms, side="right")

    def move(self, states: Array, actions: Array, ages: Array, uniforms: Array, cuts: Array) -> Met:
        """Steps every copy once.

        Args:
            states: int [N], nonterminal.
            actions: int [N], available.
            ages: int [N], steps since each episode began.
            uniforms: [N], in [0, 1), for the outcomes.
            cuts: [N], in [0, 1), for what is cut off.
        """
        outcomes = (self._cumulative[states, actions] <= uniforms[:, None]).sum(1)
        following = outcomes if self._next is None else self._next[states, actions, outcomes]
        when = ages if len(self._rewards) > 1 else 0
        paid = self._rewards[when, states, actions, outcomes if self._rewards.shape[-1] > 1 else 0]
        terminated = ~self.nonterminal[following]
        if self.finite:
            terminated |= ages == self.steps - 1
        cut = ~terminated & (cuts < self.cut)
        times = self.times(ages)
        later = np.where(terminated, 0, times + self.finite)
        return Met(times, states, actions, paid, following, terminated, cut, later, ages)

    def at_times(self, met: Met, turn: Array) -> Iterator[Met]:
        """What was met, and where the world is `timeless` as if it had been met at other times, the last ones first.

        The policy of a time needs the values of the next, so that one pass over the times is a whole backup. Of a long
        horizon each call takes a part, and the step as it was met; the next call goes on with the part before.

        Args:
            met: steps, of any shape.
            turn: [1], how many parts were taken so far; changed in place.

        Yields:
            The same steps, at one time each where `met` itself is not meant.
        """
        if not self.timeless or self.steps > SWEEP:
            yield met
        if not self.timeless:
            return
        parts = -(-self.steps // SWEEP)
        first = self.steps - SWEEP * int(turn[0] % parts)
        turn += 1
        ended = ~self.nonterminal[met.next_states]
        for t in range(first - 1, max(first - SWEEP, 0) - 1, -1):
            terminated = ended | (t == self.steps - 1)
            yield met._replace(
                times=np.full_like(met.times, t),
                terminated=terminated,
                cut=(met.terminated | met.cut) & ~terminated,
                later=np.where(terminated, 0, t + 1),
            )

    def times(self, ages: Array) -> Array:
        """Int [N], the rows of tables [T, ...] that belong to steps of episodes: 0 over an infinite horizon."""
        return ages if self.finite else np.zeros_like(ages)

    def soft_values(self, q_values: Array, states: Array, temperature: float) -> tuple[Array, Array]:
        """Alpha log sum_a p(a|s) exp(Q(s, a) / alpha) [N], and the log of the policy that attains it [N, A].

        Args:
            q_values: [N, A], reward units.
            states: int [N].
            temperature: alpha.
        """
        scores = self.log_prior[states] + q_values / temperature
        largest = scores.max(1, keepdims=True)
        shifted = np.exp(scores - largest)
        total = shifted.sum(1, keepdims=True)
        log_total = np.log(total) + largest
        return temperature * log_total[:, 0], scores - log_total
