"""The steps of a `SoftPass` as one fused loop each, written and compiled by `torch.compile`: never chosen by itself.

What the other kernels do in several sweeps over [S, A] is done in one: it pays for batches, whose tables are far larger
than any cache, and for very large processes. The first call with a new shape compiles for 5 to 20 seconds and needs a
C++ compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cai.inference.kernels import ListSums, outcome_sums

if TYPE_CHECKING:
    from cai.inference.soft_pass import Constants, SoftPass

__all__ = ["CompiledSteps"]

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


_compiled: dict[Callable[..., None], Any] = {}


class CompiledSteps:
    """The fused steps of one pass.

    Args:
        soft: the pass.

    Raises:
        ValueError: if some (s, a) has more outcomes than can be written out.
    """

    def __init__(self, soft: SoftPass) -> None:
        self.soft = soft
        lists = outcome_sums(soft.model.mdp, "successors")
        assert isinstance(lists, ListSums)
        if len(lists.columns) > WIDEST:
            raise ValueError(
                f"kernel 'compiled' writes out every outcome, and this process has up to {len(lists.columns)} for one "
                f"(s, a), more than {WIDEST}; use kernel='auto'"
            )
        self._made: tuple[Constants, list[Tensor], list[Tensor], Tensor] | None = None

    def fixed(self, following: Tensor, made: Constants, out: Tensor) -> None:
        """Writes v_t in bits from gamma v_{t+1} in bits, -inf included."""
        columns, weights, offsets = self._tables(made)
        _call(_fixed, following, columns, weights, offsets, out)

    def exact(self, arrived: Tensor, made: Constants, out: Tensor) -> None:
        """Writes the sums over actions and outcomes, as `SoftPass` has them before the logarithm."""
        columns, weights, shares = self._tables(made)
        _call(_exact, arrived, columns, weights, shares, out)

    def _tables(self, made: Constants) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Columns and weights of each outcome [A, S], and what actions add or share, actions first."""
        if self._made is None or self._made[0] is not made:
            soft = self.soft
            lists = made.sums if isinstance(made.sums, ListSums) else outcome_sums(soft.model.mdp, "successors")
            assert isinstance(lists, ListSums)
            shape = (soft.num_states, soft.num_actions)
            columns = [column.view(shape).t().contiguous() for column in lists.columns]
            weights = [weight.view(shape).t().contiguous() for weight in lists.weights]
            self._made = made, columns, weights, soft.all_scores(made).movedim(1, 0).contiguous()
        return self._made[1:]


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
