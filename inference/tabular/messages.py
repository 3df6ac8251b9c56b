"""Messages: backward and forward passes over a whole horizon, for every tabular backend.

A `Recursion` is one backup of values over outcomes with one choice of actions (`cai.inference.kernels.backups`); every
tabular backend is one. The two soft ones run as `SoftPass`, with gradients by hand; the others step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from cai.inference.core.lazy import Lazy, lazy, table
from cai.inference.kernels.backups import fixed_backup, hard_choice, optimistic_backup, soft_policy, tilted_backup
from cai.inference.kernels.gradients import asks_for_gradients, soft_values
from cai.inference.kernels.passes import make_pass, make_sweep
from cai.inference.tabular.believed_dynamics import FixedDynamics, OutcomeDynamics, TiltedDynamics, tilted_start
from cai.models.common.devices import new_table
from cai.models.common.numerics import (
    categorical_divergence,
    certainty_equivalent,
    expectation,
    safe_log,
    safe_logsumexp,
)
from cai.models.trajectory.model import TrajectoryModel

__all__ = [
    "Backup",
    "Choice",
    "EXACT",
    "FIXED",
    "KEEP",
    "Messages",
    "Recursion",
    "backward",
    "fixed_backup",
    "forward",
    "hard_choice",
    "occupancies",
    "optimistic_backup",
    "policy_backward",
    "soft_policy",
    "tilted_backup",
    "tilted_recursion",
    "with_absorbed",
]

Backup = Callable[[TrajectoryModel, Tensor, int], Tensor]
Choice = Callable[[TrajectoryModel, Tensor, Tensor], tuple[Tensor, Tensor]]
KEEP = ("values", "evidence")
PIECE = 2**14  # states of a start that are weighed at a time
_KINDS: dict[Backup, Literal["exact", "fixed"]] = {optimistic_backup: "exact", fixed_backup: "fixed"}


class Messages(Lazy):
    """Backward messages in nats. What was not kept is computed when it is looked at.

    Attributes:
        start: the certainty equivalent of v(s_1) at the recursion's eta; 0-dim.
        model: what they are about, where some of them are computed later; likewise what follows.
        recursion: one of the two soft ones.
        log_prior: [T, S, A], in place of the model's action prior; None for that.
        kernel: how sums over outcomes are computed.
    """

    start: Tensor
    model: TrajectoryModel
    recursion: Recursion
    log_prior: Tensor | None = None
    kernel: str

    @table
    def values(self) -> Tensor:
        """[T + 1, S], log beta_t(s); the last row is 0. Over an infinite horizon [2, S], both rows the same."""
        assert self.recursion.kind is not None
        found = soft_values(self.model, self.recursion.kind, kernel=self.kernel, log_prior=self.log_prior)[1]
        assert found is not None
        return found

    @table
    def q_values(self) -> Tensor:
        """[T, S, A], log beta_t(s, a)."""
        records = asks_for_gradients(self.model, self.log_prior)
        return _q_values(self.model, self.recursion, self.values, self.kernel, records)

    @table
    def policy(self) -> Tensor:
        """[T, S, A], pi(a | s); the action prior where v = -inf."""
        choice, model, prior = self.recursion.choice, self.model, self.log_prior
        own = model.log_action_prior
        rows = enumerate(self.q_values)
        return torch.stack([choice(model, q, own if prior is None else prior[t])[1] for t, q in rows])

    @lazy
    def first_values(self) -> Tensor:
        """[S], the values of the first step."""
        return self.values[0]


@dataclass(frozen=True, eq=False)
class Recursion:
    """One way to plan backward: a backup of values over outcomes, and a choice of actions.

    Attributes:
        backup: (model, v [S], t) -> q [S, A], nats.
        choice: (model, q [S, A], log prior [S, A]) -> (v [S], pi [S, A]).
        eta: how the backup weighs outcomes, and so which dynamics it believes in; see `TiltedDynamics`.
    """

    backup: Backup
    choice: Choice = soft_policy
    eta: float = 1.0

    @property
    def is_soft(self) -> bool:
        """Whether it is one of the two soft recursions of `SoftPass`."""
        return self.kind is not None and self.choice is soft_policy

    @property
    def kind(self) -> Literal["exact", "fixed"] | None:
        """Which `SoftPass` computes the backup, if one does."""
        return _KINDS.get(self.backup)

    def start(self, model: TrajectoryModel, values: Tensor) -> Tensor:
        """What the start is worth, nats: the log evidence at eta = 1, the mean of v at eta = 0; 0-dim."""
        # The certainty equivalent of those of its pieces: the temporaries of one piece are all the memory it takes.
        shares, worth = [], []
        for initial, part in zip(model.mdp.initial.split(PIECE), values.split(PIECE), strict=True):
            possible = initial.detach() > 0  # often few
            if bool(possible.any()):
                weights = initial[possible]
                shares.append(weights.sum())
                worth.append(self.equivalent(weights / shares[-1], part[possible]))
        return self.equivalent(torch.stack(shares), torch.stack(worth))

    def equivalent(self, weights: Tensor, values: Tensor) -> Tensor:
        """What values [..., S] are worth that come with probabilities `weights` [..., S], nats."""
        if self.eta == 1:
            return safe_logsumexp(safe_log(weights) + values)
        return certainty_equivalent(weights, values, self.eta)

    def believed_start(self, model: TrajectoryModel, values: Tensor) -> Tensor:
        """q(s_1) [S], from v_1 [S]."""
        return model.mdp.initial if self.eta == 0 else tilted_start(model, values, self.eta)

    def beliefs(self, model: TrajectoryModel, values: Tensor) -> tuple[Tensor, OutcomeDynamics]:
        """q(s_1) [S] and the dynamics that the recursion believes in, from v [T + 1, S]."""
        if self.eta == 0:
            return model.mdp.initial, FixedDynamics(model)
        return self.believed_start(model, values[0]), TiltedDynamics(model, values, self.eta)


EXACT = Recursion(optimistic_backup, eta=1.0)
FIXED = Recursion(fixed_backup, eta=0.0)


def tilted_recursion(eta: float, choice: Choice = soft_policy) -> Recursion:
    """The recursion with outcomes tilted by eta."""
    return Recursion(partial(tilted_backup, eta=eta), choice, eta)


def backward(
    model: TrajectoryModel,
    recursion: Recursion,
    prior: Tensor | None = None,
    *,
    keep: str = "values",
    kernel: str = "auto",
) -> Messages:
    """All backward messages of a finite horizon, O(T S A K) time.

    What is kept sets the memory: "values" T S numbers, and "evidence" 18 S (with gradients T S where that is under
    64 MiB; beyond, 2 sqrt(T) S, and every value is computed twice). With "values" q-values and policies are computed
    when they are first looked at, and then held, T S A numbers each; with "evidence" they are computed at every look.

    Args:
        model: the trajectory model.
        recursion: how to back up and choose.
        prior: [T, S, A], in place of the model's action prior.
        keep: one of KEEP.
        kernel: for the soft recursions, see `cai.inference.kernels.choose`.
    """
    log_prior = None if prior is None else safe_log(prior)
    records = asks_for_gradients(model, log_prior)
    if not recursion.is_soft or recursion.kind is None:
        return _step_by_step(model, recursion, log_prior, kernel, records)
    first, kept = soft_values(model, recursion.kind, kernel=kernel, log_prior=log_prior, all_steps=keep != "evidence")
    parts = {} if kept is None else {"values": kept}
    return Messages(
        model=model,
        recursion=recursion,
        log_prior=log_prior,
        kernel=kernel,
        start=recursion.start(model, first),
        first_values=first,
        holds_tables=keep != "evidence",
        **parts,
    )


def _q_values(model: TrajectoryModel, recursion: Recursion, values: Tensor, kernel: str, records: bool) -> Tensor:
    """[T, S, A] from [T + 1, S], recorded by autograd if need be."""
    backup = _fast_backup(model, recursion, kernel, records)
    return torch.stack([backup(values[t + 1], t) for t in range(model.steps)])


def _fast_backup(
    model: TrajectoryModel, recursion: Recursion, kernel: str, records: bool
) -> Callable[[Tensor, int], Tensor]:
    """(v [S], t) -> q [S, A], the fastest way that records what must be recorded."""
    if recursion.kind is None or records:
        return lambda values, t: recursion.backup(model, values, t)
    kernel = "auto" if kernel == "collapsed" else kernel
    return make_pass(model, recursion.kind, kernel=kernel).q_values


def _step_by_step(
    model: TrajectoryModel, recursion: Recursion, log_prior: Tensor | None, kernel: str, records: bool
) -> Messages:
    """Any recursion, all of it kept."""
    backup = _fast_backup(model, recursion, kernel, records)
    own = model.log_action_prior
    values = torch.zeros_like(model.mdp.initial)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for t in reversed(range(model.steps)):
        q_values = backup(values, t)
        following = values
        values, policy = recursion.choice(model, q_values, own if log_prior is None else log_prior[t])
        rows.append((following, q_values, policy))
    parts = [torch.stack(part) for part in zip(*reversed(rows), strict=True)]
    start = recursion.start(model, values)
    return Messages(values=torch.cat([values[None], parts[0]]), q_values=parts[1], policy=parts[2], start=start)


def occupancies(
    model: TrajectoryModel, recursion: Recursion, initial: Tensor, values: Tensor, kernel: str = "auto"
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Where a soft recursion expects to be: (marginals [T + 1, S] and absorbed [T + 1]; visits of (s, a) [S, A]).

    One forward sweep, about as long as the backward pass.

    Args:
        model: the trajectory model.
        recursion: EXACT or FIXED.
        initial: [S], q(s_1).
        values: [T + 1, S], nats.
        kernel: see `cai.inference.kernels.choose`.
    """
    assert recursion.kind is not None
    with torch.no_grad():
        soft = make_pass(model, recursion.kind, kernel=kernel, values_only=True)
        marginals = new_table(values, tuple(values.shape))
        sweep = make_sweep(soft, values.detach(), list(range(model.steps + 1)))
        marginals[0] = sweep.received(None, initial)
        for t, here, following in sweep.pairs():
            _, passed = sweep.shares(t, here, following, marginals[t])
            marginals[t + 1] = torch.where(model.live, passed, passed + marginals[t])
        visits = sweep.total
    return with_absorbed(model, marginals), visits


def policy_backward(model: TrajectoryModel, policy: Tensor, dynamics: OutcomeDynamics) -> tuple[Tensor, Tensor]:
    """What q's own tail is worth in nats, KL terms counted: values [T, S] and q_values [T, S, A]."""
    values = torch.zeros_like(model.mdp.initial)
    rows = []
    for t in reversed(range(model.steps)):
        alive, fallen, divergence = dynamics.step(t)
        chances = alive if fallen is None else alive + fallen
        rewards = expectation(chances, model.log_potential(t))
        q_values = rewards + expectation(alive, model.mdp.gather(values))
        q_values = q_values if divergence is None else q_values - divergence
        q_values = torch.where(model.live[:, None], q_values, torch.zeros_like(q_values))
        values = expectation(policy[t], q_values) - categorical_divergence(policy[t], model.action_prior)
        values = torch.where(model.live, values, torch.zeros_like(values))
        rows.append((values, q_values))
    stacked = [torch.stack(part) for part in zip(*reversed(rows), strict=True)]
    return stacked[0], stacked[1]


def forward(
    model: TrajectoryModel, initial: Tensor, policy: Tensor, dynamics: OutcomeDynamics
) -> tuple[Tensor, Tensor]:
    """State marginals [T + 1, S] of q, and the probability of having been absorbed [T + 1]."""
    rows = [initial]
    for t in range(model.steps):
        alive, _ = dynamics.outcomes(t)
        rows.append(model.mdp.scatter((rows[-1][:, None] * policy[t])[..., None] * alive))
    return with_absorbed(model, torch.stack(rows))


def with_absorbed(model: TrajectoryModel, marginals: Tensor) -> tuple[Tensor, Tensor]:
    """(q(s_t) [T + 1, S], the rest of the probability [T + 1], which a discount has taken)."""
    if model.discount == 1:
        return marginals, marginals.new_zeros(len(marginals))
    return marginals, (1 - marginals.sum(-1)).clamp(min=0)
