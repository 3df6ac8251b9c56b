"""What a backend is: the contract of every inference method."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, runtime_checkable

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target

__all__ = ["Backend"]


@runtime_checkable
class Backend(Protocol):
    """An inference method: a frozen dataclass of hyper-parameters that answers models.

    A backend may also have `memory(model) -> Need` (`cai.inference.core.memory`), what `run` will allocate, by which
    `infer` refuses what does not fit before it begins.

    Attributes:
        name: how it is called in tables and on the command line.
        target: what it approximates.
        accepts: what it takes, in a few words for the list of backends.
        cost: time and memory in T, S, A and K.
    """

    name: ClassVar[str]
    target: ClassVar[Target]
    accepts: ClassVar[str]
    cost: ClassVar[str]

    def supports(self, model: Any) -> None:
        """Raises ValueError with the reason, and a backend that fits, if `run` cannot answer the model."""

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers the model."""
