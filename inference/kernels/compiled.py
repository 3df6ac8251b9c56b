"""The steps of a `SoftPass` as one fused loop each, written and compiled by `torch.compile`: never chosen by itself.

What the other kernels do in several sweeps over [S, A] is done in one: it pays for batches, whose tables are far larger
than any cache, for very large processes, and for full tables, whose product torch makes on one core. The first call
with a new shape compiles for 5 to 20 seconds and needs a C++ compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cai.inference.kernels.outcome_sums import DenseSums, ListSums, OutcomeSums
from cai.inference.kernels.soft_backward import SoftPass
from cai.inference.kernels.step_constants import Constants
from cai.models.common.numerics import BITS, NATS

__all__ = ["CompiledPass"]

WIDEST = 16  # outcomes of one (s, a) that are written out one by one in the loop


def _fixed(following: Tensor, columns: list[Tensor], weights: list[Tensor], offsets: Tensor, out: Tensor) -> None:
    """v_t in bits from gamma v_{t+1} in bits; offsets [A, S] or [A, S, B] hold rho + log prior in bits."""
    scores = []
    for action in range(offsets.shape[0]):
        score = offsets[action]
        for column, weight in zip(columns, weights, strict=True):
            chance = weight[action].reshape(-1, *[1] * (following.dim() - 1))
            reached = following[column[action]]
            score = score + torch.where(chance > 0, chance * reached, torch.zeros_like(reached))
        scores.append(score)
    largest = scores[0]
    for score in scores[1:]:
        largest = torch.maximum(largest, score)
    shift = torch.where(torch.isinf(largest), torch.zeros_like(largest), largest)
    total = torch.exp2(scores[0] - shift)
    for score in scores[1:]:
        total = total + torch.exp2(score - shift)
    out.copy_(torch.log2(total) + shift)


def _exact(arrived: Tensor, columns: list[Tensor], weights: list[Tensor], shares: Tensor, out: Tensor) -> None:
    """The sums over actions and outcomes from e^{v - c}; shares [A, S] or [A, S, B] hold p(a|s) e^rho, scaled."""
    total = torch.zeros_like(out)
    for action in range(shares.shape[0]):
        part = torch.zeros_like(out)
        for column, weight in zip(columns, weights, strict=True):
            part = part + weight[action].reshape(-1, *[1] * (arrived.dim() - 1)) * arrived[column[action]]
        total = total + part * shares[action]
    out.copy_(total)


def _unshifted(arrived: Tensor, columns: list[Tensor], weights: list[Tensor], offsets: Tensor, out: Tensor) -> None:
    """As `_fixed`, where no score leaves the floats."""
    total = torch.zeros_like(out)
    for action in range(offsets.shape[0]):
        score = offsets[action]
        for column, weight in zip(columns, weights, strict=True):
            score = score + weight[action] * arrived[column[action]]
        total = total + torch.exp2(score)
    out.copy_(torch.log2(total))


def _dense_unshifted(arrived: Tensor, table: Tensor, offsets: Tensor, out: Tensor) -> None:
    """As `_unshifted`, of a full table [S, A, S] and offsets [S, A]."""
    out.copy_(torch.log2(torch.exp2((table * arrived).sum(-1) + offsets).sum(-1)))


def _dense_exact(arrived: Tensor, table: Tensor, shares: Tensor, out: Tensor) -> None:
    """As `_exact`, of a full table [S, A, S] and shares [S, A]."""
    out.copy_(((table * arrived).sum(-1) * shares).sum(-1))


_compiled: dict[Callable[..., None], Any] = {}


class CompiledPass(SoftPass):
    """A `SoftPass` whose steps are fused. What they do not do, such as q-values, is done by gathers.

    Raises:
        ValueError: if some (s, a) has more outcomes than can be written out.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.dense = isinstance(self.sums, DenseSums)
        width = 0 if self.dense else len(_lists(self.sums).columns)
        if width > WIDEST:
            raise ValueError(
                f"kernel 'compiled' writes out every outcome, and this process has up to {width} for one "
                f"(s, a), more than {WIDEST}; use kernel='auto'"
            )
        self._tables_made: tuple[Constants, list[Tensor], list[Tensor], Tensor] | None = None
        self._offsets_made: tuple[Constants, Tensor] | None = None

    @property
    def by_row(self) -> bool:
        """Always."""
        return True

    @property
    def shared_prior(self) -> float:
        """0, as the offsets hold it."""
        return 0.0

    def _fixed_step(self, following: Tensor, t: int, out: Tensor) -> None:
        if self.dense:
            super()._fixed_step(following, t, out)
            return
        arrived = torch.mul(following, self.model.discount * BITS, out=self.whole("arrivals", following))
        _call(_fixed, arrived, *self._tables(self.constants(t)), out)
        out.mul_(NATS)

    def fixed_logs(self, x: Tensor, made: Constants, out: Tensor) -> Tensor:
        arrived = x if self.model.discount == 1 else x * self.model.discount
        if self.dense:
            _call(_dense_unshifted, arrived, _table(made.sums), self._offsets(made), out)
        else:
            _call(_unshifted, arrived, *self._tables(made), out)
        return out

    def exact_sums(self, x: Tensor, made: Constants, out: Tensor) -> None:
        if not self.dense:
            _call(_exact, x, *self._tables(made), out)
        elif x.dim() > 1 or self.collapsed is not None:
            super().exact_sums(x, made, out)
        else:
            _call(_dense_exact, x, _table(made.sums), self._offsets(made), out)

    def _offsets(self, made: Constants) -> Tensor:
        """[S, A], what actions add or share."""
        if self._offsets_made is None or self._offsets_made[0] is not made:
            self._offsets_made = made, self.all_scores(made)
        return self._offsets_made[1]

    def _tables(self, made: Constants) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Columns and weights of each outcome [A, S], and what actions add or share, actions first."""
        if self._tables_made is None or self._tables_made[0] is not made:
            lists, shape = _lists(made.sums), (self.num_states, self.num_actions)
            columns = [column.view(shape).t().contiguous() for column in lists.columns]
            weights = [weight.view(shape).t().contiguous() for weight in lists.weights]
            self._tables_made = made, columns, weights, self.all_scores(made).movedim(1, 0).contiguous()
        return self._tables_made[1:]


def _table(sums: OutcomeSums) -> Tensor:
    assert isinstance(sums, DenseSums)
    return sums.matrix.view(sums.num_states, sums.rows_per_state, -1)


def _lists(sums: OutcomeSums) -> ListSums:
    assert isinstance(sums, ListSums)  # the kernel of a compiled pass is that of 'successors'
    return sums


def _call(function: Callable[..., None], *arguments: Any) -> None:
    if function not in _compiled:
        _compiled[function] = torch.compile(function, dynamic=False)
    try:
        _compiled[function](*arguments)
    except torch._dynamo.exc.TorchDynamoException as error:  # no compiler, for one
        raise RuntimeError(
            f"kernel 'compiled' could not be compiled ({type(error).__name__}: {str(error).splitlines()[0]}); it needs "
            "a C++ compiler that torch.compile finds: install one, or use kernel='auto'"
        ) from error
