"""How the messages of a soft recursion move with the rewards: tangents, adjoints and curvature, exact.

In nats, with x_f(k) = rho_f(k) + m(k) dv_f(s'_k) the slope of what outcome k is worth along direction f of the rewards,
omega the outcomes that the recursion believes in (the true ones, or those given optimality) and m = gamma for fixed
dynamics, 1 for the exact target,

    tangent     dq_f = sum_k omega_k x_f(k),   dv_f = sum_a pi(a|s) dq_f
    adjoint     of L = sum_t sum_{s,a} c_t(s,a) (q_t - v_t) + sum_s b(s) v_1(s):
                u_1 = b - c_1,   w_t(s,a) = c_t(s,a) + u_t(s) pi_t(a|s),   u_{t+1}(s') = -c_{t+1}(s') + sum m omega w_t
    gradient    dL / d rho_t(s,a,k) = w_t(s,a) omega_t(k)
    curvature   d2L = sum_t sum_s u_t(s) Cov_pi(dq) + sum_{s,a} w_t(s,a) Cov_omega(x)   (the last one for exact alone)

so a Hessian takes one adjoint and F tangents, and no pair of directions is solved for. Over an infinite horizon the
same equations have one step, and are linear systems (I - P) x = b with the chain of the answer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from cai.inference.kernels.backups import soft_log_policy
from cai.inference.kernels.problem import Kind
from cai.inference.kernels.tables import process_table
from cai.inference.tabular.backward import backward, in_chunks
from cai.inference.tabular.believed_dynamics import TiltedDynamics
from cai.inference.tabular.markov.chains import ChainSystems, ended_states
from cai.inference.tabular.markov.linear_systems import LinearSystem
from cai.inference.tabular.recursion import EXACT, FIXED
from cai.inference.tabular.stationary.iteration import ConvergenceCriterion, stationary_messages
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["SoftSensitivity"]

Slopes = Callable[[int], Tensor]  # time index -> [S, A, 1 or K, F], derivatives of the rewards in nats
SETTLING = ConvergenceCriterion(tolerance=1e-13)
LOOSE = ConvergenceCriterion(tolerance=1e-11)


class SoftSensitivity:
    """The messages of a model under one of the two soft recursions, and how they move with its rewards.

    Args:
        model: float64 on the CPU, of total rewards; the exact target takes discount 1 alone. Over an infinite horizon
            its start should be able to reach every state that is asked about.
        kind: "fixed" or "exact".

    Attributes:
        found: whether there are messages: False where an infinite horizon has no answer.
        values: [T + 1, S], nats; the last row is 0, over an infinite horizon both rows are the same.
        policy: [T, S, A].
    """

    def __init__(self, model: TrajectoryModel, kind: Kind) -> None:
        if kind == "exact" and model.discount < 1:
            raise ValueError("sensitivities of the exact target need discount 1: write the absorbing state out")
        self.model, self.kind = model, kind
        recursion = EXACT if kind == "exact" else FIXED
        with torch.no_grad():
            if model.is_finite:
                messages, self.found = backward(model, recursion), True
            else:
                stationary = stationary_messages(model, recursion, SETTLING)
                if not stationary.status.ok:  # rounding may not let it come so near
                    stationary = stationary_messages(model, recursion, LOOSE)
                messages, self.found = stationary.messages, stationary.status.ok
            self.values, self.q_values, self.policy = messages.values, messages.q_values, messages.policy
            alive = model.nonterminal[:, None] & torch.isfinite(self.values[:-1])[..., None]
            self.policy = torch.where(alive, self.policy, torch.zeros_like(self.policy))
        self.steps = model.steps
        self._beliefs = TiltedDynamics(model, self.values, 1.0)
        self._held: dict[int, Tensor] = {}

    def under_true_dynamics(self) -> SoftSensitivity:
        """The same messages and policy, in a world whose outcomes are the true ones: for adjoints alone."""
        moved = copy.copy(self)
        moved.kind = "fixed"
        for name in ("_chains", "_system"):
            moved.__dict__.pop(name, None)
        return moved

    @cached_property
    def log_policy(self) -> Tensor:
        """[T, S, A], log pi_t(a | s) in nats."""
        with torch.no_grad():
            return in_chunks(
                lambda part: soft_log_policy(self.model, self.q_values[part]), self.steps, self.q_values[0].numel()
            )

    def outcomes(self, t: int) -> Tensor:
        """[S, A, K], the outcomes that the recursion believes in at time index t."""
        if self.kind == "fixed":
            return self.model.mdp.probabilities
        if t not in self._held:
            if len(self._held) * self.model.mdp.probabilities.numel() > 2**24:
                self._held.clear()
            with torch.no_grad():
                self._held[t] = self._beliefs.outcomes(t)[0]
        return self._held[t]

    # ---- tangents -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def tangents(self, slopes: Slopes) -> tuple[Tensor, Tensor]:
        """Derivatives of all messages along F directions of the rewards: values [T + 1, S, F], q_values [T, S, A, F].

        They are 0 where a message is -inf, and in terminal states.
        """
        first = slopes(0)
        shape = (self.model.mdp.num_states, first.shape[-1])
        values, pairs = [first.new_zeros(shape)], []
        if self.model.is_finite:
            for t in reversed(range(self.steps)):
                pairs.append(self._paid(slopes(t), t) + self._carried(values[-1], t))
                values.append((self.policy[t][..., None] * pairs[-1]).sum(1))
            return torch.stack(values[::-1]), torch.stack(pairs[::-1])
        paid = self._paid(first, 0)
        side = (self.policy[0][..., None] * paid).sum(1)
        solved = torch.zeros(shape, dtype=side.dtype)
        solved[self._chains.counts] = self._system.solve(side[self._chains.counts])
        moved = paid + self._carried(solved, 0)
        return torch.stack([solved, solved]), moved[None]

    def _paid(self, slopes: Tensor, t: int) -> Tensor:
        """[S, A, F], expected slopes of what a step pays."""
        paid = (slopes if slopes.shape[-2] == 1 else self.outcomes(t)[..., None, :] @ slopes)[..., 0, :]
        return torch.where(self._possible(t)[..., None], paid, torch.zeros_like(paid))

    def _carried(self, values: Tensor, t: int) -> Tensor:
        """[S, A, F], what slopes [S, F] of the next values are worth before the step."""
        mdp = self.model.mdp
        if self.kind == "fixed":
            moved = process_table(mdp).product(values).view(mdp.num_states, mdp.num_actions, -1)
        elif mdp.next_states is None:
            moved = self.outcomes(t) @ values
        else:
            moved = (self.outcomes(t)[..., None, :] @ values[mdp.next_states])[..., 0, :]
        moved = moved * self.model.discount
        return torch.where(self._possible(t)[..., None], moved, torch.zeros_like(moved))

    def _possible(self, t: int) -> Tensor:
        """Bool [S, A], nonterminal pairs whose message is finite."""
        return self._finite[t]

    @cached_property
    def _finite(self) -> Tensor:
        return self.model.nonterminal[:, None] & torch.isfinite(self.q_values)

    # ---- adjoints -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def adjoint(self, pairs: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """The masses of L = sum_t sum c_t(s,a) (q_t - v_t)(s,a) + sum b(s) v_1(s): u [T, S] and w [T, S, A].

        Args:
            pairs: [T, S, A], c; over an infinite horizon [1, S, A], summed over time.
            start: [S], b.
        """
        if self.model.is_finite:
            states, masses = [start - pairs[0].sum(-1)], []
            for t in range(self.steps):
                masses.append(pairs[t] + states[-1][:, None] * self.policy[t])
                if t + 1 < self.steps:
                    states.append(self._scattered(masses[-1], t) - pairs[t + 1].sum(-1))
            return torch.stack(states), torch.stack(masses)
        counts = self._chains.counts
        side = start - pairs[0].sum(-1) + self._scattered(pairs[0], 0)
        solved = torch.zeros_like(start)
        solved[counts] = self._system.solve(side[counts, None], transposed=True)[:, 0]
        return solved[None], (pairs[0] + solved[:, None] * self.policy[0])[None]

    def _scattered(self, masses: Tensor, t: int) -> Tensor:
        """[S], masses [S, A] one step later; what terminal states are given is gone."""
        kept, mdp = masses * self._possible(t), self.model.mdp
        if self.kind == "fixed":
            passed = process_table(mdp).scatter(kept.reshape(-1, 1))[:, 0]
        else:
            passed = mdp.scatter(kept[..., None] * self.outcomes(t))
        return torch.where(self.model.nonterminal, self.model.discount * passed, torch.zeros_like(passed))

    @torch.no_grad()
    def gradient(self, slopes: Slopes, masses: Tensor, *, alike: bool = False) -> Tensor:
        """[F], the derivative of L along directions of the rewards, from w [T, S, A] of `adjoint`.

        Args:
            slopes: of the rewards in nats.
            masses: w [T, S, A].
            alike: whether slopes are those of step 0 at every time.
        """
        first = slopes(0)
        if alike and first.shape[-2] == 1:
            return torch.einsum("sa,saf->f", masses.sum(0), first[..., 0, :])
        total = first.new_zeros(first.shape[-1])
        for t in range(len(masses)):
            total = total + torch.einsum("sa,saf->f", masses[t], self._paid(slopes(t), t))
        return total

    @torch.no_grad()
    def reward_gradient(self, masses: Tensor, t: int, outcomes: int) -> Tensor:
        """[S, A, 1 or K], the derivative of L with respect to the rewards of step t, in nats, from w of `adjoint`."""
        found = torch.where(self._possible(t), masses[t], torch.zeros_like(masses[t]))[..., None]
        return found if outcomes == 1 else found * self.outcomes(t)

    @torch.no_grad()
    def curvature(self, slopes: Slopes, tangents: tuple[Tensor, Tensor], adjoint: tuple[Tensor, Tensor]) -> Tensor:
        """[F, F], the second derivative of L along directions of the rewards that they are linear in."""
        (values, pairs), (states, masses) = tangents, adjoint
        total = values.new_zeros(values.shape[-1], values.shape[-1])
        for t in range(len(states)):
            deviation = pairs[t] - values[t][:, None]
            weights = states[t][:, None] * self.policy[t]
            total = total + torch.einsum("sa,saf,sag->fg", weights, deviation, deviation)
            if self.kind == "exact":
                following = values[t + 1] if self.model.is_finite else values[t]
                total = total + self._outcome_curvature(slopes(t), following, pairs[t], masses[t], t)
        return (total + total.T) / 2

    def _outcome_curvature(self, slopes: Tensor, following: Tensor, means: Tensor, masses: Tensor, t: int) -> Tensor:
        chances, mdp = self.outcomes(t), self.model.mdp
        total = following.new_zeros(slopes.shape[-1], slopes.shape[-1])
        size = max(1, 2**21 // (chances[0].numel() * slopes.shape[-1]))
        possible = self._possible(t)
        for begin in range(0, mdp.num_states, size):
            part = slice(begin, begin + size)
            arrived = following if mdp.next_states is None else following[mdp.next_states[part]]
            x = slopes[part] + arrived - means[part][..., None, :]
            weights = (
                torch.where(possible[part], masses[part], torch.zeros_like(masses[part]))[..., None] * chances[part]
            )
            x = torch.where((weights != 0)[..., None], x, torch.zeros_like(x)).flatten(0, -2)
            total = total + x.T @ (weights.reshape(-1, 1) * x)
        return total

    # ---- infinite horizons --------------------------------------------------------------------------------------

    @cached_property
    def _chains(self) -> ChainSystems:
        model = self.model
        alive = self.outcomes(0)
        counts = model.nonterminal & torch.isfinite(self.values[0])
        counts &= ~ended_states(model, self.policy[0], alive)
        return ChainSystems(model, counts)

    @cached_property
    def _system(self) -> LinearSystem:
        alive = self.policy[0][..., None] * self.outcomes(0) * self._possible(0)[..., None]
        gamma = self.model.discount
        return self._chains.system(gamma * alive, None if gamma == 1 else (1 - gamma) * alive)
