"""What a backend is: the contract of every inference method."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, runtime_checkable

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target
from cai.models.continuous.linear_gaussian import LinearGaussianModel
from cai.models.continuous.world import World
from cai.models.trajectory.batch import ModelBatch
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Backend", "check_criterion", "refuse_continuous", "require_model"]


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
        """Answers a model that `supports` accepts; whatever is drawn depends on the seed alone."""


def check_criterion(backend: Any, model: Any) -> None:
    """Raises ValueError if a model asks for the average of a long run, and the backend answers about sums alone."""
    model = model.base if isinstance(model, ModelBatch) else model
    if getattr(model, "criterion", "total") == "average" and not getattr(backend, "averages", False):
        others = "'exact', 'variational', 'optimistic', 'risk', 'value-iteration' or 'z-iteration'"
        if isinstance(model, World):
            others = "'variational'"
        raise ValueError(
            f"backend {backend.name!r} is about sums of rewards, and this model has criterion='average'; ask "
            f"{others}, or give a finite horizon in place of the criterion"
        )


def require_model(model: Any, backend: str, instead: str) -> None:
    """Raises ValueError unless `model` is a `TrajectoryModel`."""
    if isinstance(model, World):
        refuse_continuous(model, backend)
    if not isinstance(model, TrajectoryModel):
        kind = "a Pyro program" if callable(model) else f"a {type(model).__name__}"
        if isinstance(getattr(model, "program", None), World):  # a continuous model whose sites are set or known
            kind, instead = f"{kind} with continuous sites", "'smc' or 'importance'"
        raise ValueError(
            f"backend {backend!r} works on the tables of a TrajectoryModel, and this is {kind}; "
            f"for a program use {instead}"
        )


def refuse_continuous(model: World, backend: str) -> None:
    """Raises ValueError: a backend of tables is asked about a continuous model; says which backends take it."""
    linear = isinstance(model, LinearGaussianModel)
    known = "'exact', 'variational', 'risk', 'max-product', 'smc'" if linear else "'ilqr', 'mppi', 'smc'"
    raise ValueError(
        f"backend {backend!r} works on the tables of a TrajectoryModel, and this is a {type(model).__name__}, whose "
        f"states are continuous; use {known}, or cai.models.discretize(model, ...)"
    )
