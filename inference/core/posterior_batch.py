"""The answers to a batch of problems, one by one and stacked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from cai.inference.core.lazy import without_gradient
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.core.storage import save, storable
from cai.models.common.facts import fact_table
from cai.models.trajectory.batch import ModelBatch

__all__ = ["PosteriorBatch", "padded_stack"]


class _stacked:
    """An attribute of all members, stacked by a method of the batch; None where no member knows it."""

    def __init__(self, method: str, doc: str) -> None:
        self.method, self.__doc__ = method, doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, batch: Any, owner: type) -> Any:
        return self if batch is None else getattr(batch, self.method)(self.name)


class PosteriorBatch(Sequence[Posterior]):
    """B posteriors, in the order of the batch. `answers[b]` is a member's, made when it is looked at.

    What is stacked is None where no member knows it. Tables are stacked anew whenever they are looked at. Where
    horizons differ, a shorter one goes on to the longest, T, as nothing that counts any more: values and q-values are
    0, the policy is the action prior, and marginals stay as they were at the end.

    Args:
        models: what was asked.
        backend: the name of the backend.
        target: what it approximates.
        statuses: how each member ended; what follows stands for a member only where its status is success.
        member: makes the posterior of a member.
        log_evidence: [B], log p(O_{1:T} = 1) in nats, where it is known already.
        elbo: [B], the bounds in nats, likewise.
        values: returns [B, T, S] in reward units, where they are stacked already.
    """

    def __init__(
        self,
        models: ModelBatch,
        *,
        backend: str,
        target: Target,
        statuses: Sequence[Status],
        member: Callable[[int], Posterior],
        log_evidence: Tensor | None = None,
        elbo: Tensor | None = None,
        values: Callable[[], Tensor] | None = None,
    ) -> None:
        self.models, self.backend, self.target = models, backend, target
        self.statuses = tuple(statuses)
        self._member, self._log_evidence, self._elbo, self._values = member, log_evidence, elbo, values
        self._made: dict[int, Posterior] = {}

    # ---- members ------------------------------------------------------------------------------------------------

    def _parts(self) -> dict[str, Any]:
        """What a copy is made of; its members hold numbers without gradients."""
        known = {"log_evidence": self._log_evidence, "elbo": self._elbo}
        named = {"models": self.models, "backend": self.backend, "target": self.target, "statuses": self.statuses}
        return named | {name: without_gradient(part) for name, part in known.items()} | {"members": list(self)}

    def __getstate__(self) -> dict[str, Any]:
        return self._parts()

    def __setstate__(self, parts: dict[str, Any]) -> None:
        members = parts.pop("members")
        self.__init__(member=members.__getitem__, **parts)  # type: ignore[misc]

    def save(self, folder: str | Path) -> Path:
        """Writes all answers to a folder that `cai.load` reads, as `Posterior.save` does; returns the folder."""
        return save(folder, self, folder=True)

    def __len__(self) -> int:
        return len(self.statuses)

    @overload
    def __getitem__(self, index: int) -> Posterior: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Posterior, ...]: ...

    def __getitem__(self, index: int | slice) -> Posterior | tuple[Posterior, ...]:
        if isinstance(index, slice):
            return tuple(self[member] for member in range(len(self))[index])
        try:
            member = range(len(self))[index]
        except IndexError:
            raise IndexError(f"member {index} is outside the batch; it has members 0 to {len(self) - 1}") from None
        if member not in self._made:
            self._made[member] = self._member(member)
        return self._made[member]

    def __iter__(self) -> Iterator[Posterior]:
        return (self[member] for member in range(len(self)))

    def __repr__(self) -> str:
        return f"PosteriorBatch({self.backend!r}, target={self.target}, {len(self)} members: {self._endings()})"

    def _repr_html_(self) -> str:
        facts = {"backend": self.backend, "target": self.target, "members": len(self), "status": self._endings()}
        return fact_table("PosteriorBatch", facts)

    def _endings(self) -> str:
        labels = [status.label for status in self.statuses]
        return ", ".join(f"{labels.count(label)} {label}" for label in dict.fromkeys(labels))

    @property
    def ok(self) -> Tensor:
        """Bool [B], where the status is success."""
        return torch.tensor([status.ok for status in self.statuses])

    # ---- numbers ------------------------------------------------------------------------------------------------

    @property
    def log_evidence(self) -> Tensor | None:
        """[B], log p(O_{1:T} = 1), nats; None unless the backend is exact."""
        return self._numbers("log_evidence") if self._log_evidence is None else self._log_evidence

    @property
    def elbo(self) -> Tensor | None:
        """[B], the bound on the log evidence that each q attains, nats."""
        return self._numbers("elbo") if self._elbo is None else self._elbo

    @property
    def values(self) -> Tensor | None:
        """[B, T, S], soft values in reward units."""
        return self._tables("values") if self._values is None else self._values()

    @property
    def action_probs(self) -> Tensor:
        """[B, T, S, A], q(a_t | s_t)."""
        tables = [posterior.action_probs for posterior in self]
        return padded_stack(tables, [posterior.model.action_prior for posterior in self], self._same_kind())

    believed_return = _stacked("_numbers", "[B], expected sums of rewards under each q, reward units.")
    luck = _stacked("_numbers", "[B], KL of each q's dynamics and start from the true ones, nats.")
    policy_divergence = _stacked("_numbers", "[B], KL of each q's policy from the action prior along q, nats.")
    policy_entropy = _stacked("_numbers", "[B], expected sums over live steps of H(q(. | s_t)), nats.")
    q_values = _stacked("_tables", "[B, T, S, A], in reward units.")
    initial = _stacked("_numbers", "[B, S], q(s_1).")
    state_marginals = _stacked("_lasting", "[B, T + 1, S], q(s_t).")
    absorbed = _stacked("_lasting", "[B, T + 1], the probability of having fallen into the absorbing state.")

    def _lasting(self, name: str) -> Tensor:
        tables = [getattr(posterior, name) for posterior in self]
        return padded_stack(tables, [table[-1] for table in tables], self._same_kind())

    def _numbers(self, name: str) -> Tensor | None:
        known = self._known(name)
        return None if known is None else torch.stack(known)

    def _tables(self, name: str) -> Tensor | None:
        known = self._known(name)
        if known is None:
            return None
        return padded_stack(known, [table.new_zeros(()) for table in known], self._same_kind())

    def _known(self, name: str) -> list[Tensor] | None:
        """What each member has of that name; None where none has any."""
        found = [getattr(posterior, name) for posterior in self]
        missing = [member for member, part in enumerate(found) if part is None]
        if len(missing) == len(found):
            return None
        if missing:
            status = self.statuses[missing[0]].label
            raise ValueError(
                f"{name} cannot be stacked: member {missing[0]} has none ({status}); look at answers[b].{name} of the "
                "others"
            )
        return found

    def _same_kind(self) -> bool:
        return len({horizon == float("inf") for horizon in self.models.horizons}) == 1


def _batch(parts: dict[str, Any]) -> PosteriorBatch:
    made = object.__new__(PosteriorBatch)
    made.__setstate__(parts)
    return made


storable("posterior-batch", pack=PosteriorBatch._parts, unpack=_batch)(PosteriorBatch)


def padded_stack(tables: Sequence[Tensor], endings: Sequence[Tensor], alike: bool) -> Tensor:
    """Tables [T_b, ...] as one [B, T, ...], T the longest; rows past the end of a table are its ending.

    Args:
        tables: one for each member.
        endings: what broadcasts to a row of each.
        alike: whether all horizons are finite, or none is.

    Raises:
        ValueError: if they are not alike: one row stands for all of an infinite horizon.
    """
    if not alike:
        raise ValueError(
            "tables of finite and of infinite horizons cannot be stacked: the one row of a stationary answer stands "
            "for every step; look at the members one by one"
        )
    longest = max(len(table) for table in tables)
    rows = []
    for table, ending in zip(tables, endings, strict=True):
        missing = longest - len(table)
        rows.append(torch.cat([table, ending.expand(missing, *table.shape[1:])]) if missing else table)
    return torch.stack(rows)
