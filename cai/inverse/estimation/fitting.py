"""From an objective to an estimate: start, scaling, search, what is identified, standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor

from cai.inverse.estimation.covariance import covariance_matrix, covariance_name, few_scatter
from cai.inverse.estimation.estimate import Estimate
from cai.inverse.estimation.status import FitError, FitStatus
from cai.inverse.search.coordinates import Coordinates, Scaled
from cai.inverse.search.curvature import spectrum
from cai.inverse.search.maximize import Box, Found, maximize
from cai.inverse.search.objective import Objective, Problem
from cai.inverse.search.penalties import L1
from cai.inverse.search.separation import runs_away
from cai.inverse.search.settings import Settings

__all__ = ["Task", "fit_objective"]

DOUBLINGS = 20
TOO_WEAK = (
    "the penalty bends the log-likelihood there by less than rounding: give a narrower one, or measure the feature in "
    "larger units, so that it has smaller numbers"
)
INVOLVED = (
    1e-6  # entries of a flat direction of length 1 in scaled features, below which a coefficient is no part of it
)


@dataclass(frozen=True)
class Task:
    """What is fitted, beside what the user chose.

    Attributes:
        objective: what is maximised.
        problem: what the estimate may be asked about.
        initial: [F], where the search begins unless the user says.
        scales: [F] > 0, the sizes of the features; the search runs in coefficient x scale.
        doubles: whether the start is doubled until it is feasible.
        separated: (name, sentence, sign) of coefficients without a finite estimate, found before fitting; the
            log-likelihood rises as they go to sign x infinity.
        explain: says why coefficients are infeasible.
        default_covariance: unless the user says.
        refused_covariance: {kind: why}, e.g. "hessian" under objective "moments".
        curved: whether the exact Hessian is asked for; without it there are no standard errors.
        tolerance: the default of `tolerance`, where rounding hides smaller gains; None for that of all fits.
        known_up_to: what flat directions mean ("shaping"): the coefficients of smallest norm are then returned.
        newton: the default of `method`.
        check: says at an estimate (coefficients [F], places of the free ones) whether an approximation can be trusted,
            and in a sentence by what; None where the objective is exact.
        warnings: sentences that the estimate gets.
        dropped: demonstrations that were left out.
        rounding: of the curvature in scaled coefficients, see `rounding_of`.
    """

    objective: Objective
    problem: Problem
    initial: Tensor
    scales: Tensor
    doubles: bool = False
    separated: Sequence[tuple[str, str, float]] = ()
    explain: Callable[[Tensor], str] | None = None
    default_covariance: str = "hessian"
    refused_covariance: dict[str, str] = field(default_factory=dict)
    curved: bool = True
    tolerance: float | None = None
    known_up_to: str | None = None
    newton: bool = False
    check: Callable[[Tensor, Tensor], tuple[bool, str]] | None = None
    warnings: tuple[str, ...] = ()
    dropped: pd.DataFrame | None = None
    rounding: float = 0.0


def fit_objective(task: Task, settings: Settings) -> Estimate:
    """Maximises an objective as the settings say, and measures what was found.

    Raises:
        ValueError: if settings do not fit the objective, or a start that was given is infeasible.
        FitError: on anything but success, unless `throw=False`.
    """
    coordinates = Coordinates.of(task.objective.names, task.scales, settings).penalised(task.initial, settings)
    covariance = covariance_name(settings.covariance, task)
    estimate, detail = _fitted(task, settings, coordinates, covariance)
    if settings.throw and not estimate.status.ok:
        raise FitError(estimate.status, estimate, detail or "; ".join(estimate.warnings))
    return estimate


def _fitted(task: Task, settings: Settings, coordinates: Coordinates, covariance: str) -> tuple[Estimate, str]:
    free = coordinates.free_names
    answer = _Answer(task, coordinates, covariance, settings)
    bounds = coordinates.bounds(settings)
    if settings.penalty is None:
        names = [
            (name, sentence)
            for name, sentence, sign in task.separated
            if name in free and not math.isfinite(bounds.get(name, (-math.inf, math.inf))[sign > 0])
        ]
        if names:
            told = tuple(f"{name}: {sentence}" for name, sentence in names)
            return answer.empty(FitStatus.SEPARATED, told), ", ".join(name for name, _ in names)
    smooth = Scaled(task.objective, coordinates, settings.penalty)
    start = _start(task, settings, coordinates, smooth)
    if start is None:
        why = _why(task, coordinates.default_start(task.initial, settings)) or ""
        return answer.empty(FitStatus.INFEASIBLE_START, (why,) if why else ()), why
    if not free:
        return answer.evaluated(start), ""
    low, high = coordinates.box(settings)
    sharp = coordinates.sharp(settings.penalty)
    found = maximize(
        smooth,
        start,
        Box(low, high, sharp),
        newton=task.newton if settings.method is None else settings.method == "newton",
        exact=task.curved,
        tolerance=settings.tolerance,
        max_iterations=settings.max_iterations,
        rounding=task.rounding,
        show=settings.progress,
    )
    return answer.of(found, smooth, Box(low, high, sharp)), ""


def _start(task: Task, settings: Settings, coordinates: Coordinates, smooth: Scaled) -> Tensor | None:
    """The scaled free coordinates where the search begins; None where no feasible ones were found."""
    start = coordinates.default_start(task.initial, settings)
    low, high = coordinates.box(settings)
    free = coordinates.scaled(start).clamp(low, high) if settings.start is None else coordinates.scaled(start)
    if settings.start is not None and not bool(((free >= low) & (free <= high)).all()):
        raise ValueError("start lies outside bounds; give a start within them")
    for _ in range(DOUBLINGS + 1):
        if smooth.evaluate(free) is not None:
            return free
        if settings.start is not None:
            why = _why(task, coordinates.full(free)) or "the log-likelihood is not finite there"
            raise ValueError(f"start is infeasible: {why}")
        if not task.doubles or not bool((free != 0).any()):
            return None
        free = (2 * free).clamp(low, high)
    return None


def _why(task: Task, coefficients: Tensor) -> str | None:
    """Why no search can begin at some coefficients [F], as far as that is known."""
    if task.objective.evaluate(coefficients) is not None:
        return "the penalty is not finite there; give start= where it is, such as its mode"
    return task.explain(coefficients) if task.explain else None


@dataclass
class _Answer:
    """Makes estimates of what a search has found."""

    task: Task
    coordinates: Coordinates
    covariance: str
    settings: Settings

    def empty(self, status: FitStatus, warnings: tuple[str, ...]) -> Estimate:
        """Nothing was fitted: every number is nan."""
        size = len(self.coordinates.free_names)
        nothing = torch.full((len(self.coordinates.names),), math.nan, dtype=torch.float64)
        square = torch.full((size, size), math.nan, dtype=torch.float64)
        scores = torch.full((len(self.task.objective.weights), size), math.nan, dtype=torch.float64)
        return self._estimate(nothing, square, math.nan, scores, square, math.nan, status, warnings, (0, 0))

    def evaluated(self, start: Tensor) -> Estimate:
        """Every coefficient is fixed."""
        coefficients = self.coordinates.full(start)
        found = self.task.objective.evaluate(coefficients)
        assert found is not None
        square = torch.zeros(0, 0, dtype=torch.float64)
        scores = torch.zeros(len(self.task.objective.weights), 0, dtype=torch.float64)
        return self._estimate(coefficients, square, found[0], scores, square, 0.0, FitStatus.SUCCESS, (), (0, 1))

    def of(self, found: Found, smooth: Scaled, box: Box) -> Estimate:
        """A search that has ended, converged or not."""
        coordinates, settings, task = self.coordinates, self.settings, self.task
        status = FitStatus.SUCCESS if found.converged else FitStatus.NOT_CONVERGED
        told: list[str] = []
        if not found.converged:
            told.append(f"g'(-H)^-1 g is {found.decrement:.1e} nats after {found.steps} steps")
        coefficients = coordinates.within(coordinates.full(found.place), found.place, settings)
        value = task.objective.evaluate(coefficients)
        assert value is not None
        names = coordinates.free_names
        at_bound = _held(found, box)
        fixed_here = at_bound | ((box.sharp > 0) & (found.place == 0))
        lost = torch.zeros(len(names), dtype=torch.bool)
        size = len(names)
        scale = coordinates.free_scales
        hessian = torch.full((size, size), math.nan, dtype=torch.float64)
        covariance = hessian.clone()
        scores = torch.full((len(task.objective.weights), size), math.nan, dtype=torch.float64)
        if task.curved:
            scores = task.objective.scores(coefficients)[:, coordinates.free]
            hessian = task.objective.hessian(coefficients)[coordinates.free][:, coordinates.free]
            assert found.hessian is not None
            inner = torch.nonzero(~fixed_here).flatten()
            shape = spectrum(-found.hessian[inner][:, inner], task.rounding) if len(inner) else None
            if shape is not None and bool(shape.flat.any()):
                lost[inner] = (shape.directions.abs() > INVOLVED).any(0)
                told.extend(self._combinations(shape.directions, inner))
                if task.known_up_to is not None:
                    basis = torch.linalg.qr((shape.directions / scale[inner]).T).Q
                    ends = coefficients[coordinates.free][inner]
                    coefficients[coordinates.free[inner]] = ends - basis @ (basis.T @ ends)
                    told.append(
                        f"known up to {task.known_up_to}: of all coefficients with this likelihood these have the "
                        "smallest norm"
                    )
                elif found.converged:
                    status = FitStatus.NOT_IDENTIFIED
                    if settings.penalty is not None:
                        told.append(TOO_WEAK)
            if shape is not None and settings.penalty is None:
                names_away = runs_away(smooth, found, shape, inner, names)
                if names_away:
                    status, told = FitStatus.SEPARATED, []
                    told.append(f"the log-likelihood rises without end along a combination of {', '.join(names_away)}")
                    lost[:] = True
            if len(inner) and not isinstance(settings.penalty, L1):
                bend, slopes, size_of = found.hessian[inner][:, inner], scores[:, inner], scale[inner]
                known = inner[~lost[inner]]
                if len(known):
                    whole = covariance_matrix(self.covariance, -bend, slopes / size_of, task.objective)
                    whole = whole / size_of[:, None] / size_of
                    kept = ~lost[inner]
                    covariance[known[:, None], known] = whole[kept][:, kept]
                    compared = "hessian" not in task.refused_covariance and settings.penalty is None
                    named = {k: names[i] for k, i in enumerate(inner.tolist()) if compared and not lost[i]}
                    few = few_scatter(self.covariance, -bend, slopes / size_of, task.objective, task.rounding, named)
                    told.extend([few] if few else [])
        if isinstance(settings.penalty, L1):
            told.append("no standard errors: an L1 penalty moves coefficients to 0, and the rest towards it")
        if status is FitStatus.SUCCESS and bool(at_bound.any()):
            status = FitStatus.AT_BOUND
            told.append(f"at a bound: {', '.join(n for n, b in zip(names, at_bound.tolist(), strict=True) if b)}")
        if status is FitStatus.SUCCESS and task.check is not None:
            sound, sentence = task.check(coefficients, coordinates.free)
            told.append(sentence)
            status = FitStatus.SUCCESS if sound else FitStatus.APPROXIMATE
        if bool(lost.any()) and task.known_up_to is None:
            coefficients[coordinates.free[lost]] = math.nan
        norm = float((found.gradient * scale).norm())
        counts = (found.steps, found.evaluations)
        return self._estimate(coefficients, covariance, value[0], scores, hessian, norm, status, tuple(told), counts)

    def _combinations(self, directions: Tensor, inner: Tensor) -> list[str]:
        """Sentences that name what is flat, in the user's units."""
        names, scale = self.coordinates.free_names, self.coordinates.free_scales
        sentences = []
        for direction in directions[:5]:
            parts = [
                (names[int(i)], float(share / scale[int(i)]))
                for i, share in zip(inner, direction, strict=True)
                if abs(float(share)) > INVOLVED
            ]
            largest = max((factor for _, factor in parts), key=abs)
            terms = " ".join(f"{factor / largest:+.4g} {name}" for name, factor in parts)
            sentences.append(f"not identified: the log-likelihood is flat when coefficients move by {terms}")
        if len(directions) > 5:
            sentences.append(f"and {len(directions) - 5} more such directions; see null_space()")
        return sentences

    def _estimate(
        self,
        coefficients: Tensor,
        covariance: Tensor,
        value: float,
        scores: Tensor,
        hessian: Tensor,
        norm: float,
        status: FitStatus,
        warnings: tuple[str, ...],
        counts: tuple[int, int],
    ) -> Estimate:
        task, coordinates = self.task, self.coordinates
        errors = torch.full((len(coordinates.names),), math.nan, dtype=torch.float64)
        errors[coordinates.free] = covariance.diagonal().sqrt()
        null = task.objective.evaluate(torch.zeros(len(coordinates.names), dtype=torch.float64))
        return Estimate(
            coefficients=pd.Series(coefficients.numpy(), index=list(coordinates.names), name="coefficient"),
            standard_errors=pd.Series(errors.numpy(), index=list(coordinates.names), name="standard_error"),
            covariance=covariance,
            log_likelihood=value,
            null_log_likelihood=None if null is None else null[0],
            num_demonstrations=_whole(task.problem.num_demonstrations),
            num_choices=_whole(task.problem.num_choices),
            gradient_norm=norm,
            steps=counts[0],
            evaluations=counts[1],
            status=status,
            warnings=(*task.warnings, *warnings),
            scores=scores,
            hessian=hessian,
            objective=task.problem.objective,
            form=task.problem.form,
            covariance_kind=self.covariance,
            free=coordinates.free_names,
            penalised=self.settings.penalty is not None,
            problem=task.problem,
            data=task.problem.data,
            dropped=task.dropped,
            scales=task.scales[coordinates.free],
            rounding=task.rounding,
        )


def _held(found: Found, box: Box) -> Tensor:
    """Bool [F], coordinates at a bound where what is maximised, absolute values included, still rises outward."""
    place, slope = found.place, found.gradient
    down = (place <= box.lower) & (-slope - torch.where(place > 0, -box.sharp, box.sharp) >= 0)
    up = (place >= box.upper) & (slope - torch.where(place < 0, -box.sharp, box.sharp) >= 0)
    return down | up


def _whole(number: float) -> float:
    """Ints where a sum of weights is whole."""
    return int(number) if float(number).is_integer() else float(number)
