"""Which sizes hard choices over a finite horizon are judged by, computed only where some choice is close."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cai.inference.kernels.backups import sizes_of
from cai.models.common.numerics import rounding
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Ties"]

ABOVE = 1.01  # a bound on sizes is more than they are, whatever rounding


class Ties:
    """The sizes of `sizes_of` from the end of a horizon on, as far as choices need them.

    None is larger than the sum of the largest rewards of the steps that follow. Where no action falls short of the best
    by so little that this would make it as good, sizes decide nothing, and are not computed; once one does, those of
    all steps behind it are.

    Args:
        model: the trajectory model.
        backup: (v_{t+1} [S], t) -> q [S, A], nats.
        eta: of the backup, 0 or +-inf.
        rows: (v_{t+1} [S], q [S, A], policy [S, A]) of the steps done, from the last step on; the caller adds to it.
    """

    def __init__(
        self,
        model: TrajectoryModel,
        backup: Callable[[Tensor, int], Tensor],
        eta: float,
        rows: Sequence[tuple[Tensor, Tensor, Tensor]],
    ) -> None:
        self.model, self.backup, self.eta, self.rows = model, backup, eta, rows
        self._known, self._done = torch.zeros_like(model.mdp.initial.detach()), 0
        self._bound, self._paid = 0.0, None if model.reward.reads_time else self._largest(0)

    @torch.no_grad()
    def sizes(self, t: int, values: Tensor, q_values: Tensor, log_prior: Tensor) -> Tensor:
        """[S, A] for `hard_choice`: of the numbers that q adds up, or 0 where that is as good.

        Args:
            t: the step; they are asked for from the last step on, each once.
            values: [S], v_{t+1}, nats.
            q_values: [S, A], nats.
            log_prior: [S, A].
        """
        self._bound += self._largest(t) if self._paid is None else self._paid
        offered = q_values.masked_fill(torch.isneginf(log_prior), -torch.inf)
        short = offered.amax(-1, keepdim=True) - offered  # NaN where nothing can be had: no less than anything
        if not bool(((short > 0) & (short <= ABOVE * rounding(q_values) * self._bound)).any()):
            return torch.zeros_like(q_values)
        for step in range(self._done, len(self.rows)):
            following, done, policy = self.rows[step]
            summed = sizes_of(self.model, self.backup, following, self._known, self.model.steps - 1 - step, self.eta)
            counts = (policy > 0) & torch.isfinite(done) & self.model.nonterminal[:, None]
            self._known = torch.where(counts, summed, torch.zeros_like(summed)).amax(-1)
        self._done = len(self.rows)
        return sizes_of(self.model, self.backup, values, self._known, t, self.eta)

    @torch.no_grad()
    def _largest(self, t: int) -> float:
        """The largest |r| / alpha of a step that is finite; that of what no outcome pays may count."""
        paid = self.model.log_potential(t)
        return float(torch.where(torch.isfinite(paid), paid, torch.zeros_like(paid)).abs().amax())
