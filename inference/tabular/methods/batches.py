"""Answers to many problems of one process in one call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.backend import Backend
from cai.inference.core.posterior import Posterior
from cai.inference.core.posterior_batch import PosteriorBatch
from cai.inference.core.progress import progress
from cai.inference.core.status import InferenceError, Status
from cai.inference.kernels.values import batched_values, soft_values
from cai.inference.tabular.backward import Messages
from cai.inference.tabular.dynamic_programming import failure_status, messages_posterior
from cai.inference.tabular.magnitudes import batch_is_in_range
from cai.inference.tabular.recursion import EXACT, FIXED, Recursion
from cai.models.common.numerics import certainty_equivalent, expectation, safe_log, weighted
from cai.models.common.threads import spare_core
from cai.models.trajectory.batch import ModelBatch
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["BatchError", "infer_batch"]

_SOFT = {"exact": EXACT, "fixed": FIXED}


class BatchError(InferenceError):
    """Raised by `cai.infer` on a batch of which some member did not succeed.

    Attributes:
        answers: all of them; `posterior` is the first that failed.
    """

    def __init__(self, answers: PosteriorBatch) -> None:
        failed = [member for member, status in enumerate(answers.statuses) if not status.ok]
        posterior = answers[failed[0]]
        why = str(posterior.details.get("why", ""))
        others = f"; so did {len(failed) - 1} more" if len(failed) > 1 else ""
        detail = f"{why}; " if why else ""
        detail += f"member {failed[0]} of {len(answers)} failed{others}; throw=False returns all answers"
        super().__init__(answers.backend, posterior.status, posterior, detail)
        self.answers = answers

    def __reduce__(self) -> tuple[type, tuple[PosteriorBatch]]:
        return type(self), (self.answers,)


def infer_batch(
    batch: ModelBatch, backend: Backend, ask: Callable[[TrajectoryModel], Posterior], *, throw: bool
) -> PosteriorBatch:
    """Answers every member, in one backward pass where that can be.

    It can for a backend that says that it is one of the two soft recursions (`soft_recursion` is "exact" or "fixed":
    'exact', and 'variational' and 'optimistic' in closed form), over finite horizons, if no reward reads
    t and, unless the dynamics are fixed, none reads the outcome. Where members differ in their starts alone, rewards
    may read what they like; where in starts and horizons, anything but t. Everything else is answered member by member:
    other backends, other rewards, and infinite horizons.

    Args:
        batch: the problems.
        backend: which backend.
        ask: asks it about one member.
        throw: whether to raise, after all members have been answered, if one did not succeed.

    Raises:
        ValueError: if the backend does not accept a member.
        BatchError: if a member did not succeed and `throw` is True; it holds all answers.
    """
    recursion = _SOFT.get(str(getattr(backend, "soft_recursion", None)))
    if recursion is not None and _in_one_pass(batch, recursion, backend) and batch_is_in_range(batch, soft=True):
        with spare_core():
            answers = _OnePass(batch, recursion, backend).answers()
    else:
        answers = _one_by_one(batch, backend, ask)
    if throw and not all(status.ok for status in answers.statuses):
        raise BatchError(answers)
    return answers


def _one_by_one(batch: ModelBatch, backend: Backend, ask: Callable[[TrajectoryModel], Posterior]) -> PosteriorBatch:
    for member, model in enumerate(batch):
        try:
            backend.supports(model)
        except ValueError as error:
            raise ValueError(f"member {member} of the batch: {error}") from None
    found = [ask(batch[member]) for member in progress(len(batch), "answering the batch")]
    return PosteriorBatch(
        batch,
        backend=backend.name,
        target=backend.target,
        statuses=[posterior.status for posterior in found],
        member=found.__getitem__,
    )


def _in_one_pass(batch: ModelBatch, recursion: Recursion, backend: Any) -> bool:
    if not all(math.isfinite(horizon) for horizon in batch.horizons):
        return False
    if not batch.varies_step:
        return not batch.base.reward.reads_time or len(set(batch.horizons)) == 1
    if batch.gives_tables:
        return True
    rewards = [model.reward for model in batch] if batch.gives_rewards else [batch.base.reward]
    reads_outcome = any(reward.reads_outcome for reward in rewards)
    return not any(reward.reads_time for reward in rewards) and (recursion is FIXED or not reads_outcome)


class _OnePass:
    """The answers of a soft recursion to members that share their process, from one backward pass.

    Values are kept once, [B, T + 1, S] (or [T + 1, S], where all members have the same); q-values, policies and what is
    expected along a member are worked out when they are looked at. With keep='evidence' the first values alone stay.
    """

    def __init__(self, batch: ModelBatch, recursion: Recursion, backend: Any) -> None:
        self.batch, self.recursion, self.backend = batch, recursion, backend
        self.keep, self.kernel, self.records = backend.keep, backend.kernel, torch.is_grad_enabled()
        self.horizons = [int(horizon) for horizon in batch.horizons]
        self.steps = max(self.horizons)
        base = batch.base
        # A member has a reward that fits its horizon, which that of the base need not.
        self.model = base if base.horizon == self.steps else batch[self.horizons.index(self.steps)]
        assert recursion.kind is not None
        if batch.varies_step:
            self.first, self.columns = batched_values(
                self.model,
                recursion.kind,
                self._rewards(),
                None if batch.action_priors is None else safe_log(batch.action_priors),
                self.horizons,
                kernel=self.kernel,
                all_steps=self.keep != "evidence",
            )
        else:
            several = len(set(self.horizons)) > 1
            all_steps = several or self.keep != "evidence"
            first, kept = soft_values(self.model, recursion.kind, kernel=self.kernel, all_steps=all_steps)
            begins = [self.steps - horizon for horizon in self.horizons]
            self.first = kept[begins] if several and kept is not None else first.expand(len(batch), -1)
            self.columns = [] if kept is None or self.keep == "evidence" else kept.expand(len(batch), -1, -1)
        initial = self.model.mdp.initial if batch.initials is None else batch.initials
        self.starts = certainty_equivalent(initial, self.first, recursion.eta)

    def _rewards(self) -> Tensor:
        """[B, S, A], nats; what a reward says of outcomes as its expectation, which fixed dynamics leave."""
        batch, tables = self.batch, self.batch.tables
        if tables is None and batch.gives_rewards:
            tables = torch.stack([self._expected(model.reward_table(0)) for model in batch])
        elif tables is None:
            tables = self._expected(self.model.reward_table(0)).expand(len(batch), -1, -1)
        temperature = self.model.temperature if batch.temperatures is None else batch.temperatures[:, None, None]
        if isinstance(temperature, float) and temperature == 1:
            return tables
        finite = torch.isfinite(tables)
        scaled = torch.where(finite, tables, torch.zeros_like(tables)) / temperature  # -inf would make gradients NaN
        return torch.where(finite, scaled, torch.full_like(scaled, -torch.inf))

    def _expected(self, table: Tensor) -> Tensor:
        """[S, A] from rewards [S, A, 1] or [S, A, K]."""
        return table[..., 0] if table.shape[-1] == 1 else expectation(self.model.mdp.probabilities, table)

    def answers(self) -> PosteriorBatch:
        """All of them, of which only numbers and values are known so far."""
        finite = torch.isfinite(self.starts.detach()).tolist()
        self.statuses = [
            Status.SUCCESS if fine else failure_status(self.batch[member], self.recursion)
            for member, fine in enumerate(finite)
        ]
        bounds = self.starts
        if self.batch.base.optimality != "factor":
            offsets = [model.evidence_offset for model in self.batch]
            bounds = torch.stack([start + offset for start, offset in zip(bounds, offsets, strict=True)])
        return PosteriorBatch(
            self.batch,
            backend=self.backend.name,
            target=self.backend.target,
            statuses=self.statuses,
            member=self._member,
            log_evidence=bounds if self.recursion is EXACT else None,
            elbo=bounds,
            values=self._all_values if len(self.columns) and len(set(self.horizons)) == 1 else None,
        )

    def _all_values(self) -> Tensor:
        """[B, T, S], reward units."""
        values = torch.stack(self.columns) if isinstance(self.columns, list) else self.columns
        values = values[:, : self.steps]
        temperatures = self.batch.temperatures
        scale = self.model.temperature if temperatures is None else temperatures[:, None, None]
        if isinstance(scale, Tensor) and scale.requires_grad:
            return weighted(scale, values)  # -inf would make its gradient NaN
        return values if isinstance(scale, float) and scale == 1 else values * scale

    def _member(self, member: int) -> Posterior:
        with torch.set_grad_enabled(self.records):
            model = self.batch[member]
            return messages_posterior(
                model,
                self.recursion,
                self._messages(member, model),
                self.statuses[member],
                backend=self.backend.name,
                target=self.backend.target,
                keep=self.keep,
                kernel=self.kernel,
            )

    def _messages(self, member: int, model: TrajectoryModel) -> Messages:
        kept = {"values": self.columns[member][self.steps - self.horizons[member] :]} if len(self.columns) else {}
        return Messages(
            model=model,
            recursion=self.recursion,
            kernel=self.kernel,
            start=self.starts[member],
            first_values=self.first[member],
            holds_tables=self.keep != "evidence",
            **kept,
        )
