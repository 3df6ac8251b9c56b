"""What a backend is: the contract of every inference method."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, runtime_checkable

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target
from cai.models.continuous.world import World
from cai.models.trajectory.batch import ModelBatch
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Backend", "check_criterion"]


@runtime_checkable
class Backend(Protocol):
    """An inference method: a frozen dataclass of hyper-parameters that answers models.

    A backend may also have `memory(model) -> Need` (`cai.inference.core.memory`), what `run` will allocate, by which
    `infer` refuses what does not fit before it begins; and `averages: ClassVar[bool]`, whether it answers a
    model with criterion="average", which `infer` asks about no other.

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


def check_criterion(backend: Any, model: Any) -> None:
    """Raises ValueError if a model asks for the average of a long run, and the backend answers about sums alone."""
    model = model.base if isinstance(model, ModelBatch) else model
    if isinstance(model, (TrajectoryModel, World)) and model.is_average and not getattr(backend, "averages", False):
        raise ValueError(
            f"backend {backend.name!r} is about sums of rewards, and this model has criterion='average'; ask 'exact', "
            "'variational', 'optimistic', 'risk', 'value-iteration' or 'z-iteration', or leave the criterion out"
        )
