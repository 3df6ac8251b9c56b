"""Recursions: one backup of messages over outcomes with one choice of actions; every tabular backend is one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from cai.inference.kernels.backups import (
    fixed_backup,
    hard_choice,
    is_certain,
    optimistic_backup,
    soft_policy,
    tilted_backup,
)
from cai.inference.kernels.problem import Kind
from cai.inference.tabular.believed_dynamics import FixedDynamics, OutcomeDynamics, TiltedDynamics, tilted_start
from cai.models.common.numerics import start_value
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["EXACT", "FIXED", "Backup", "Choice", "Recursion", "tilted_recursion"]

Backup = Callable[[TrajectoryModel, Tensor, int], Tensor]
Choice = Callable[[TrajectoryModel, Tensor, Tensor], tuple[Tensor, Tensor]]
_KINDS: dict[Backup, Kind] = {optimistic_backup: "exact", fixed_backup: "fixed"}


@dataclass(frozen=True, eq=False)
class Recursion:
    """One way to plan backward: a backup of messages over outcomes, and a choice of actions.

    Attributes:
        backup: (model, v [S], t) -> q [S, A], nats.
        choice: (model, q [..., S, A], log prior [..., S, A]) -> (v [..., S], pi [..., S, A]).
        eta: how the backup weighs outcomes, and so which dynamics it believes in: those tilted by eta, 0 for the true
            ones.
        kind: the name of its backup if that is one of the two of the soft recursions.
        is_soft: whether it is one of the two soft recursions, which run over whole horizons at once.
        is_listed: whether it is a certainty equivalent at eta with the soft or the hard choice, so that stationary
            values are solved for from lists of what may happen.
    """

    backup: Backup
    choice: Choice = soft_policy
    eta: float = 1.0
    kind: Kind | None = field(init=False)
    is_soft: bool = field(init=False)
    is_listed: bool = field(init=False)

    def __post_init__(self) -> None:
        kind = _KINDS.get(self.backup)
        tilts = isinstance(self.backup, partial) and self.backup.func is tilted_backup
        listed = (kind is not None or tilts) and self.choice in (soft_policy, hard_choice)
        self.__dict__.update(kind=kind, is_soft=kind is not None and self.choice is soft_policy, is_listed=listed)

    def start(self, model: TrajectoryModel, log_messages: Tensor) -> Tensor:
        """What the start is worth, nats: the log evidence at eta = 1, the mean of v at eta = 0; 0-dim.

        Args:
            model: for the initial distribution.
            log_messages: [S], v of the first step.
        """
        return start_value(model.mdp.initial, log_messages, self.eta)

    def believed_start(self, model: TrajectoryModel, log_messages: Tensor) -> Tensor:
        """The start that the answer believes in, q(s_1) [S], from the messages of the first step, v_1 [S], in nats."""
        return model.mdp.initial if self.eta == 0 else tilted_start(model, log_messages, self.eta)

    def beliefs(self, model: TrajectoryModel, log_messages: Tensor) -> tuple[Tensor, OutcomeDynamics]:
        """q(s_1) [S] and the dynamics that the recursion believes in, from v [T + 1, S]."""
        if self.eta == 0 or (is_certain(model) and not math.isinf(self.eta)):
            return self.believed_start(model, log_messages[0]), FixedDynamics(model)
        tilted = TiltedDynamics(model, log_messages, self.eta, soft=self.choice is not hard_choice)
        start = tilted_start(model, log_messages[0], self.eta, None if tilted.sizes is None else tilted.sizes[0])
        return start, FixedDynamics(model) if is_certain(model) else tilted


EXACT = Recursion(optimistic_backup, eta=1.0)
FIXED = Recursion(fixed_backup, eta=0.0)


def tilted_recursion(eta: float, choice: Choice = soft_policy) -> Recursion:
    """The recursion with outcomes tilted by eta."""
    return Recursion(partial(tilted_backup, eta=eta), choice, eta)
