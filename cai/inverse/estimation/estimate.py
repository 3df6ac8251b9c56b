"""The result of a fit: coefficients, how sure they are, and what follows from them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cai.inference.core.status import NotKnown
from cai.inverse.estimation.hypotheses import HypothesisTest, two_sided, wald_test
from cai.inverse.estimation.hypotheses import likelihood_ratio as ratio_test
from cai.inverse.estimation.status import FitStatus
from cai.inverse.search.curvature import spectrum
from cai.inverse.search.objective import Data, LeftBehind, Problem
from cai.models.common.frames import frame_of, packed_frame, packed_series, series_of
from cai.models.common.storage import Saved, can_store, storable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Estimate"]


def _parts(estimate: Estimate) -> dict[str, Any]:
    """What a file holds; a problem with code in it stays behind."""
    parts = {entry.name: getattr(estimate, entry.name) for entry in fields(estimate)}
    parts |= {name: packed_series(parts[name]) for name in ("coefficients", "standard_errors")}
    problem = estimate.problem if can_store(estimate.problem) else LeftBehind.of(estimate.problem)
    return parts | {"dropped": packed_frame(estimate.dropped), "problem": problem}


def _of_parts(parts: dict[str, Any]) -> Estimate:
    made = {name: series_of(parts[name]) for name in ("coefficients", "standard_errors")}
    return Estimate(**parts | made | {"dropped": frame_of(parts["dropped"])})


@storable("inverse-estimate", pack=_parts, unpack=_of_parts)
@dataclass(frozen=True, eq=False)
class Estimate(Saved):
    """Coefficients of a reward, fitted to demonstrations.

    `scores`, `hessian` and `covariance` are over the free coefficients in the order of the features; Series are over
    all of them. What is not known is nan there, and None where it is a number.

    Attributes:
        coefficients: Series by name, in nats per unit of the feature (reward units, for a model with a temperature).
        standard_errors: Series; nan for coefficients that were fixed, lie at a bound, or are not identified.
        covariance: [F, F], of the free coefficients.
        log_likelihood: nats, weighted, without the penalty; under objective "moments" the value that is maximised.
        null_log_likelihood: with all coefficients 0, or None where that is infeasible.
        num_demonstrations: the sum of the weights: as many as there are demonstrations where all weigh 1.
        num_choices: steps with two or more available actions, weighted likewise.
        gradient_norm: Euclidean, of the penalised log-likelihood by the free coefficients.
        steps: of the search.
        evaluations: of the log-likelihood with its gradient, by the search.
        status: how the fit ended.
        warnings: sentences.
        scores: [N, F], the gradient of each demonstration's log-likelihood, unweighted.
        hessian: [F, F], of the log-likelihood, without the penalty.
        objective: "likelihood", "moments" or "path".
        form: "entropy" or "kl": whether actions are weighed alike, or by the action prior.
        covariance_kind: "hessian", "sandwich" or "cluster".
        free: the names of the free coefficients.
        penalised: whether a penalty was part of what was maximised.
        dropped: the demonstrations that were left out, and why, where that was asked for; else None.
        problem: what was fitted.
        data: digests of demonstrations, world and features, which stay with the estimate wherever it goes.
        scales: [F], sizes of the free features, by which those of different units are compared; None for ones.
        rounding: curvature in scaled coefficients below which nothing is told from rounding.
    """

    coefficients: pd.Series
    standard_errors: pd.Series
    covariance: Tensor
    log_likelihood: float
    null_log_likelihood: float | None
    num_demonstrations: float
    num_choices: float
    gradient_norm: float
    steps: int
    evaluations: int
    status: FitStatus
    warnings: tuple[str, ...]
    scores: Tensor
    hessian: Tensor
    objective: str
    form: str
    covariance_kind: str
    free: tuple[str, ...]
    penalised: bool
    problem: Problem = field(repr=False)
    data: Data = field(repr=False)
    dropped: pd.DataFrame | None = None
    scales: Tensor | None = field(default=None, repr=False)
    rounding: float = field(default=0.0, repr=False)

    _left_behind = ("problem",)
    _stored_axes = {"covariance": "F F gaps", "scores": "N F gaps", "hessian": "F F gaps", "scales": "F"}
    _stored_axes |= {"log_likelihood": "", "num_demonstrations": "counts", "num_choices": "counts", "steps": "counts"}

    # ---- numbers ------------------------------------------------------------------------------------------------

    @property
    def z_values(self) -> pd.Series:
        """Coefficients over their standard errors."""
        return self.coefficients / self.standard_errors

    @property
    def p_values(self) -> pd.Series:
        """Two-sided, of coefficient = 0, by the normal distribution."""
        return self.z_values.map(two_sided)

    def intervals(self, level: float = 0.95) -> pd.DataFrame:
        """Columns lower and upper, by the normal distribution.

        Args:
            level: the probability with which an interval covers the truth, in (0, 1).

        Raises:
            ValueError: if it is not in (0, 1).
        """
        if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
            raise ValueError(f"level is {level!r}; expected a probability in (0, 1), such as .95")
        from scipy.special import ndtri

        reach = float(ndtri(0.5 + level / 2)) * self.standard_errors
        return pd.DataFrame({"lower": self.coefficients - reach, "upper": self.coefficients + reach})

    @property
    def aic(self) -> float | None:
        """2 F - 2 log-likelihood, F counting free coefficients; None under a penalty or objective "moments"."""
        return 2 * len(self.free) - 2 * self.log_likelihood if self._is_maximum_likelihood else None

    @property
    def bic(self) -> float | None:
        """F log(num_demonstrations) - 2 log-likelihood; None as `aic`."""
        if not self._is_maximum_likelihood or not self.num_demonstrations > 0:
            return None
        return len(self.free) * math.log(self.num_demonstrations) - 2 * self.log_likelihood

    @property
    def _is_maximum_likelihood(self) -> bool:
        return self.objective != "moments" and not self.penalised and math.isfinite(self.log_likelihood)

    @property
    def vector(self) -> Tensor:
        """[F], all coefficients, float64.

        Raises:
            NotKnown: if one of them is nan.
        """
        values = torch.tensor(self.coefficients.to_numpy(dtype=np.float64))
        if bool(values.isnan().any()):
            names = ", ".join(self.coefficients.index[self.coefficients.isna()])
            raise NotKnown(names, f"a fit with status {self.status.label!r}", "fit again as its status advises")
        return values

    # ---- tests --------------------------------------------------------------------------------------------------

    def wald(self, R: Any, r: Any = 0.0) -> HypothesisTest:
        """Tests R w = r by (R w - r)' (R C R')^-1 (R w - r), which is chi-squared if that is true.

        Args:
            R: [Q, F] or [F], over the free coefficients; or a name, a list of names, or one mapping {name: factor}.
            r: [Q], or one number.

        Raises:
            ValueError: if shapes do not fit, or rows of R depend on each other.
        """
        return wald_test(self, R, r)

    def likelihood_ratio(self, other: Estimate) -> HypothesisTest | None:
        """Tests a fit against one with fewer free coefficients: twice the difference of the log-likelihoods.

        Args:
            other: of the same demonstrations, world and objective; whichever of the two has fewer free coefficients
                must be a special case of the other: each of its coefficients is free in the other too, or has a value
                that the other can take. Features are the same if name and numbers are.

        Returns:
            The test, or None where values are no log-likelihoods: objective "moments", or a penalty.

        Raises:
            ValueError: if the two are not of the same demonstrations, world or objective, one did not succeed, or none
                is a special case of the other.
        """
        return ratio_test(self, other)

    def null_space(self) -> pd.DataFrame:
        """Directions along which the log-likelihood is flat: one row each, columns the free coefficients.

        Rows have length 1; there are none where all coefficients are identified.
        """
        if not self.free or not bool(torch.isfinite(self.hessian).all()):
            return pd.DataFrame(columns=list(self.free), dtype=float)
        scales = torch.ones(len(self.free), dtype=torch.float64) if self.scales is None else self.scales
        flat = spectrum(-self.hessian / scales[:, None] / scales, self.rounding).directions / scales
        return pd.DataFrame(torch.linalg.qr(flat.T).Q.T.numpy(), columns=list(self.free))

    # ---- what follows -------------------------------------------------------------------------------------------

    def log_prob(self, demonstrations: Any) -> Tensor:
        """[N], nats, log-likelihoods of other demonstrations of the same kind, unweighted."""
        return self.problem.log_prob(self.vector, demonstrations)

    def model(self, destination: Any = None) -> Any:
        """The decision problem with the fitted coefficients, as `cai.infer` takes it.

        Args:
            destination: of a network, which needs one; None for a model.
        """
        return self.problem.model(self.vector, destination)

    def sample(self, n: int, origin: Any = None, destination: Any = None, seed: int = 0) -> Any:
        """Demonstrations drawn from the fitted policy in the true world.

        Args:
            n: how many.
            origin: of a network, the link where all of them begin; a model begins as it does.
            destination: of a network.
            seed: of the draws.
        """
        return self.problem.sample(self.vector, n, origin, destination, seed)

    def transfer(self, model: Any) -> Any:
        """The policy of the fitted reward in another world, and its largest change along flat directions.

        Args:
            model: the other world, whose reward has the same coefficients.
        """
        if isinstance(self.problem, LeftBehind):
            return self.problem.transfer  # which says why there is none
        ask = getattr(self.problem, "transfer", None)
        if ask is None:
            way = "fit(other, trips, features=..., fixed=est.coefficients.to_dict()) evaluates them on another one"
            raise NotKnown("transfer", f"the estimate of a {self.problem.kind}", way)
        return ask(self, model)

    # ---- reports ------------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """A table of coefficients below what was fitted and how, as text."""
        from cai.inverse.estimation.summary import summary

        return summary(self)

    def to_frame(self) -> pd.DataFrame:
        """Columns coefficient, standard_error, z, p, lower, upper (of 95%), one row a coefficient."""
        frame = pd.DataFrame(
            {
                "coefficient": self.coefficients,
                "standard_error": self.standard_errors,
                "z": self.z_values,
                "p": self.p_values,
            }
        )
        frame = frame.join(self.intervals())
        frame.index.name = "feature"
        return frame

    def to_json(self) -> str:
        """One JSON object whose keys are the names of the fields; null where a number is unknown or not finite."""
        intervals = self.intervals()
        numbers = {
            "coefficients": _mapping(self.coefficients),
            "standard_errors": _mapping(self.standard_errors),
            "z_values": _mapping(self.z_values),
            "intervals": {
                name: [_number(low), _number(high)]
                for name, low, high in zip(intervals.index, intervals["lower"], intervals["upper"], strict=True)
            },
            "covariance": [[_number(entry) for entry in row] for row in self.covariance.tolist()],
            "free": list(self.free),
            "dropped": None if self.dropped is None else json.loads(self.dropped.to_json(orient="records")),
        }
        plain = ("log_likelihood", "null_log_likelihood", "aic", "bic", "num_demonstrations", "num_choices")
        numbers |= {name: _number(getattr(self, name)) for name in (*plain, "gradient_norm")}
        words = {
            "steps": self.steps,
            "evaluations": self.evaluations,
            "status": self.status.label,
            "warnings": list(self.warnings),
            "objective": self.objective,
            "form": self.form,
            "covariance_kind": self.covariance_kind,
        }
        return json.dumps(numbers | words, indent=1)

    def plot(self, level: float = 0.95, ax: Axes | None = None) -> Figure:
        """Coefficients with their intervals; returns the figure.

        Args:
            level: of the intervals.
            ax: where to draw, or None for a new figure.
        """
        from cai.inverse.estimation.pictures import plot_coefficients

        return plot_coefficients(self, level, ax)

    def plot_counts(self, ax: Axes | None = None) -> Figure:
        """Observed counts against those that the fit expects; returns the figure.

        Args:
            ax: where to draw, or None for a new figure.
        """
        from cai.inverse.estimation.pictures import plot_counts

        return plot_counts(self, ax)

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(float_format=lambda value: f"{value:.4g}")


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _mapping(series: pd.Series) -> dict[str, float | None]:
    return {str(name): _number(float(value)) for name, value in series.items()}
