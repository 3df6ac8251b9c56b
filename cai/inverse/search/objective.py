"""What a fit maximises, and what its estimate may later ask of the thing that was fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor

from cai.inference.core.status import NotKnown
from cai.models.common.storage import storable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Data", "LeftBehind", "Objective", "Problem"]


class Objective(Protocol):
    """A log-likelihood of demonstrations as a function of coefficients, with exact derivatives.

    Attributes:
        names: F names, one for each coefficient, in the order of every vector here.
        weights: [N] float64, weights of the demonstrations.
        persons: N labels of who made each demonstration, or None; the clusters of standard errors.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def weights(self) -> Tensor: ...

    @property
    def persons(self) -> Sequence[Any] | None: ...

    def evaluate(self, coefficients: Tensor) -> tuple[float, Tensor] | None:
        """The weighted log-likelihood in nats and its gradient [F]; None where the coefficients are infeasible."""
        ...

    def scores(self, coefficients: Tensor) -> Tensor:
        """[N, F], the gradient of each demonstration's log-likelihood, unweighted: gradient = weights @ scores."""
        ...

    def hessian(self, coefficients: Tensor) -> Tensor:
        """[F, F], of the weighted log-likelihood, exact."""
        ...


@storable("inverse-data")
class Data(NamedTuple):
    """What a fit was given, as digests by which two fits know whether they can be compared.

    Attributes:
        demonstrations: of what was shown, with its weights.
        world: of all else but what coefficients weigh: a network and its ways to end, or a process and its fixed
            rewards.
        features: {name of a coefficient: digest of what it weighs}.
    """

    demonstrations: str
    world: str
    features: dict[str, str]


class Problem(Protocol):
    """What was fitted: a network or a model with its demonstrations. Coefficients are full vectors, fixed ones too.

    Attributes:
        kind: "network" or "model", for messages.
        objective: "likelihood", "moments" or "path".
        form: "entropy" or "kl".
        num_demonstrations: the sum of the weights; as many as there are demonstrations where all weigh 1.
        num_choices: the steps with two or more available actions, weighted likewise.
        data: what it holds, as digests.
    """

    @property
    def kind(self) -> str: ...

    @property
    def objective(self) -> str: ...

    @property
    def form(self) -> str: ...

    @property
    def num_demonstrations(self) -> float: ...

    @property
    def num_choices(self) -> float: ...

    @property
    def data(self) -> Data: ...

    def log_prob(self, coefficients: Tensor, demonstrations: Any) -> Tensor:
        """[N], nats, of other demonstrations of the same kind, unweighted."""
        ...

    def model(self, coefficients: Tensor, destination: Any = None) -> Any:
        """The decision problem with these coefficients, as `cai.infer` takes it."""
        ...

    def sample(self, coefficients: Tensor, n: int, origin: Any, destination: Any, seed: int) -> Any:
        """Demonstrations drawn from the fitted policy."""
        ...

    def counts(self, coefficients: Tensor) -> pd.DataFrame:
        """Columns observed and expected, one row for each turn, or each state and action."""
        ...


@storable("inverse-problem-left-behind")
@dataclass(frozen=True)
class LeftBehind:
    """What is told of a problem that no file can hold, as it has functions or modules in it."""

    kind: str
    objective: str
    form: str
    num_demonstrations: float
    num_choices: float

    @classmethod
    def of(cls, problem: Problem) -> LeftBehind:
        """What is told of one."""
        counts = float(problem.num_demonstrations), float(problem.num_choices)
        return cls(problem.kind, problem.objective, problem.form, *counts)

    def __getattr__(self, name: str) -> Any:
        if name not in ("log_prob", "model", "sample", "counts", "transfer"):
            raise AttributeError(name)
        why = "what was fitted has functions or modules in it, and stayed behind when it was saved"
        raise NotKnown(name, f"the estimate of a {self.kind}", "fit again", why)
