"""What an estimate asks about demonstrations on vectors, whatever their likelihood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cai.inference import infer
from cai.inference.core.status import NotKnown
from cai.inverse.search.objective import Data
from cai.models.common.fingerprint import fingerprint
from cai.models.demonstrations.continuous import ContinuousDemonstrations

__all__ = ["ContinuousObjective"]


class ContinuousObjective:
    """Demonstrations with the names of coefficients; a likelihood is added by subclasses, as `_log_probs`.

    Args:
        demonstrations: what was shown.
        names: F names.
        start: [F].
        fitted: coefficients -> the model.
        read: demonstrations -> the objective of others; a partial function of (model, {name: feature}).

    Attributes:
        kind: "model".
        objective: "likelihood".
        form: "kl", relative to the action prior.
    """

    kind = "model"
    objective = "likelihood"
    form = "kl"

    def __init__(
        self,
        demonstrations: ContinuousDemonstrations,
        names: Sequence[str],
        start: Tensor,
        fitted: Callable[[Tensor], Any],
        read: Callable[..., Any],
    ) -> None:
        self.demonstrations, self.names, self.start = demonstrations, tuple(names), start
        self.weights: Tensor = demonstrations.weights
        self.persons: Sequence[Any] | None = demonstrations.persons
        self._fitted, self._read = fitted, read

    def __reduce__(self) -> Any:
        """Read again elsewhere: what is made of a model has functions in it that no pickle holds."""
        return _read_again, (self._read, self.demonstrations)

    def _log_probs(self, coefficients: Tensor) -> Tensor | None:
        """[N]; None where the coefficients are infeasible."""
        raise NotImplementedError

    @property
    def num_demonstrations(self) -> float:
        """The sum of the weights."""
        return float(self.weights.sum())

    @property
    def num_choices(self) -> float:
        """Actions, weighted."""
        return float(self.weights.sum()) * self.demonstrations.actions.shape[1]

    @property
    def data(self) -> Data:
        """Digests of demonstrations, model and features, functions by their code."""
        shown = self.demonstrations
        model, features = self._read.args  # type: ignore[attr-defined]
        world = fingerprint((type(self).__name__, model))
        named = {str(name): fingerprint(feature) for name, feature in features.items()}
        return Data(fingerprint((shown.states, shown.actions, shown.weights)), world, named)

    def log_probs(self, coefficients: Tensor) -> Tensor:
        """[N], nats, of each demonstration, unweighted; -inf throughout where the coefficients are infeasible."""
        with torch.no_grad():
            found = self._log_probs(coefficients.detach())
        return torch.full_like(self.weights, -torch.inf) if found is None else found

    def log_prob(self, coefficients: Tensor, demonstrations: Any) -> Tensor:
        """[N], nats, of other demonstrations, unweighted."""
        found: Tensor = self._read(demonstrations).log_probs(coefficients)
        return found

    def model(self, coefficients: Tensor, destination: Any = None) -> Any:
        """The model with these coefficients in its reward."""
        if destination is not None:
            raise ValueError(f"destination is {destination!r}; a model has none: leave it out")
        return self._fitted(coefficients.detach())

    def sample(self, coefficients: Tensor, n: int, origin: Any, destination: Any, seed: int) -> Any:
        """N demonstrations of somebody with these coefficients, in the true world."""
        if origin is not None:
            raise ValueError(f"origin is {origin!r}; a continuous model draws its own start: replace its initial")
        model = self.model(coefficients, destination)
        answer = infer(model, "variational" if hasattr(model, "matrices") else "ilqr")
        return ContinuousDemonstrations(*answer.sample(n, seed=seed))

    def counts(self, coefficients: Tensor) -> Any:
        """Refused: vectors are not counted.

        Raises:
            NotKnown: always.
        """
        raise NotKnown("counts", "the estimate of a continuous model", "compare est.sample(n) with the demonstrations")


def _read_again(read: Callable[..., Any], demonstrations: ContinuousDemonstrations) -> Any:
    return read(demonstrations)
