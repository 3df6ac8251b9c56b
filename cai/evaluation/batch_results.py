"""What becomes of policies in the worlds of a batch, one by one and stacked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor

from cai.inference.core.posterior_batch import padded_stack
from cai.models.common.storage import Saved, storable

if TYPE_CHECKING:
    from cai.evaluation.evaluate import Outcome

__all__ = ["OutcomeBatch"]


@storable("outcome-batch", pack=lambda batch: {"outcomes": list(batch)})
class OutcomeBatch(Sequence["Outcome"], Saved):
    """B outcomes, in the order of the batch, and their numbers as tensors [B].

    Args:
        outcomes: one for each member.
    """

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes = tuple(outcomes)

    def __len__(self) -> int:
        return len(self._outcomes)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Outcome, ...]: ...

    def __getitem__(self, index: int | slice) -> Outcome | tuple[Outcome, ...]:
        return self._outcomes[index]

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self._outcomes)

    def __repr__(self) -> str:
        low, high = (float(end) for end in self.expected_return.aminmax())
        return f"OutcomeBatch({len(self)} members, expected_return {low:.6g} to {high:.6g})"

    @property
    def expected_return(self) -> Tensor:
        """[B], exact, reward units; -inf where something forbidden can happen."""
        return self._numbers("expected_return")

    @property
    def standard_error(self) -> Tensor:
        """[B], of the means of the sampled returns."""
        return self._numbers("standard_error")

    @property
    def std(self) -> Tensor:
        """[B], standard deviations of the return, exact over infinite horizons and else from rollouts."""
        return self._numbers("std")

    @property
    def cvar(self) -> Tensor:
        """[B], means of the worst returns, from rollouts."""
        return self._numbers("cvar")

    @property
    def entropy(self) -> Tensor:
        """[B], expected sums over live steps of the policy's entropy, nats, exact."""
        return self._numbers("entropy")

    @property
    def absorbed(self) -> Tensor:
        """[B], the probabilities that the discount has ended the chain by the horizon."""
        return self._numbers("absorbed")

    @property
    def returns(self) -> Tensor:
        """[B, N], the sampled returns."""
        return torch.stack([outcome.returns for outcome in self])

    @property
    def cut(self) -> Tensor:
        """[B], how many of the rollouts over an infinite horizon were cut because they end too late."""
        return self._numbers("cut")

    @property
    def occupancy(self) -> Tensor:
        """[B, T + 1, S], T the longest horizon; a shorter one stays where it ended."""
        tables = [outcome.occupancy for outcome in self]
        finite = {outcome.ends_in is not None for outcome in self}
        return padded_stack(tables, [table[-1] for table in tables], len(finite) == 1)

    @property
    def ends_in(self) -> dict[str, Tensor] | None:
        """For each region [B], the probabilities of ending in it; None where a horizon is infinite."""
        return self._regions("ends_in")

    @property
    def visits(self) -> dict[str, Tensor] | None:
        """For each region [B], the probabilities of entering it at all; None where a horizon is infinite."""
        return self._regions("visits")

    def _numbers(self, name: str) -> Tensor:
        first = self[0].occupancy
        return torch.tensor([getattr(outcome, name) for outcome in self], dtype=first.dtype, device=first.device)

    def _regions(self, name: str) -> dict[str, Tensor] | None:
        found = [getattr(outcome, name) for outcome in self]
        if any(part is None for part in found):
            return None
        like = self[0].occupancy
        return {
            key: torch.tensor([part[key] for part in found], dtype=like.dtype, device=like.device) for key in found[0]
        }
