"""How a fit ended, and how failures are raised."""

from __future__ import annotations

from enum import Enum
from typing import Any

from cai.models.common.storage import storable

__all__ = ["FitError", "FitStatus"]


@storable("inverse-status")
class FitStatus(str, Enum):
    """How a fit ended; the text of every failure says what to do."""

    SUCCESS = "success"
    NOT_CONVERGED = (
        "not converged: the search stopped before its criterion was met (of coefficients: g'(-H)^-1 g below the "
        "tolerance), so the estimate is not final; raise max_iterations, give start= nearer to the answer, or loosen "
        "tolerance; a run that was cut short and is kept in a folder goes on by cai.resume(folder)"
    )
    INFEASIBLE_START = (
        "infeasible start: no coefficients were found at which the log-likelihood is finite; give start= with larger "
        "costs (more negative coefficients), or add a feature that costs in every turn"
    )
    SEPARATED = (
        "separated: the demonstrations always have the least, or always the most, of a feature, so its coefficient has "
        "no finite estimate; give penalty=, set the coefficient with fixed={name: value}, or leave the feature out"
    )
    NOT_IDENTIFIED = (
        "not identified: along some combination of coefficients the log-likelihood is flat, so those coefficients are "
        "nan; leave one of the features out, set it with fixed={name: value}, or give penalty="
    )
    AT_BOUND = (
        "at bound: a coefficient lies at one of its bounds, where the log-likelihood still rises outward, so it has no "
        "standard error; widen bounds, or set it with fixed={name: value} if the bound is meant"
    )
    APPROXIMATE = (
        "approximate: the likelihood of a continuous model is a Laplace approximation around the demonstrations, and "
        "around the best plans of the estimate it is another one, so that coefficients may be far off, beyond their "
        "standard errors; show demonstrations of a lower temperature or over a shorter horizon, or discretize the model"
    )
    DISTINGUISHABLE = (
        "distinguishable: the policy is told from the demonstrations by more than 0.02 nats of Jensen-Shannon "
        "divergence, or there are too few of them to say, so that it may do something else, and the reward explain "
        "something else; give the learner more steps, show more demonstrations, or let both see what the other saw"
    )

    UNSTABLE = (
        "unstable: a loss or a value left the floats while a policy was learned against a discriminator, so policy and "
        "reward mean nothing; lower learning_rate, that of the learner or that of the discriminator"
    )

    label: str
    """The first words of the text, for tables."""
    ok: bool
    """Whether the estimate can be used as it is."""

    def __init__(self, text: str) -> None:
        self.label, self.ok = text.split(":")[0], text == "success"

    def __str__(self) -> str:
        return self.value


class FitError(RuntimeError):
    """Raised by `cai.inverse.fit` when its status is not success; `estimate` holds what was found all the same."""

    def __init__(self, status: FitStatus, estimate: Any = None, detail: str = "") -> None:
        self.status, self.estimate, self.detail = status, estimate, detail
        super().__init__(f"{status}" + (f" ({detail})" if detail else ""))

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.status, self.estimate, self.detail)
