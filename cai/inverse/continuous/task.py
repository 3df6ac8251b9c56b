"""What a fit of a continuous model begins with: its features as quadratic costs, its start, and the scales of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cai.inference.gaussian.read import read_problem
from cai.inference.planning.demonstrated import Family, cost_term, family_around, feature_problem
from cai.inference.planning.problem import PlanningProblem
from cai.inference.planning.read_model import planning_problem, require_smooth
from cai.inference.planning.search import no_curvature
from cai.inverse.continuous.approximation import judge
from cai.inverse.continuous.base import ContinuousObjective
from cai.inverse.continuous.objective import GaussianObjective
from cai.inverse.continuous.planned import PlannedObjective
from cai.inverse.estimation.fitting import Task
from cai.models.common.storage import storable
from cai.models.continuous.linear_gaussian import LinearGaussianModel
from cai.models.continuous.model import ContinuousModel
from cai.models.continuous.quadratic import AXES, FINAL, QuadraticReward
from cai.models.demonstrations.continuous import ContinuousDemonstrations

__all__ = ["gaussian_task"]

ROUNDED = 1e-8  # nats, which plans tell
INFEASIBLE = (
    "with these coefficients a step has no Gaussian policy, as its cost does not rise in every direction of the "
    "action; give start= with larger coefficients of what actions cost"
)
NO_PLAN = (
    "; nor was a best plan found next to what was shown: one that `ilqr` left too early is none, so let it go on, "
    "with IterativeLQR(tolerance=1e-9, max_iterations=5000)"
)
UNPLANNED = (
    "with these coefficients no best plan was found next to what was shown, or one that is no strict minimum of the "
    "costs; give start= nearer to coefficients that explain it, all costs rising away from what was done"
)


def gaussian_task(model: Any, demonstrations: Any, features: Any, objective: str) -> Task:
    """What is fitted of a `LinearGaussianModel`, exactly, or of a `ContinuousModel`, by the Laplace approximation.

    Raises:
        TypeError, ValueError: if features are missing or do not fit, demonstrations have other sizes, or the objective
            is not "likelihood".
    """
    if objective != "likelihood":
        raise ValueError(f"objective is {objective!r}; continuous models are fitted by 'likelihood'")
    if model.batch_shape or not model.is_finite:
        raise ValueError("the model is a batch, or its horizon is infinite; fit one model over horizon=N")
    make = _linear if isinstance(model, LinearGaussianModel) else _written
    asked: Any = make(model, _read(model, demonstrations), features)
    return Task(
        objective=asked,
        problem=asked,
        initial=asked.start.clone(),
        scales=_scales(asked),
        doubles=True,
        explain=lambda coefficients: _why(asked, make is _written),
        check=partial(judge, asked) if isinstance(asked, GaussianObjective) and make is _written else None,
        newton=isinstance(asked, PlannedObjective),
        tolerance=ROUNDED if isinstance(asked, PlannedObjective) else None,
    )


def _why(asked: Any, written: bool) -> str:
    if isinstance(asked, PlannedObjective):
        return UNPLANNED
    return INFEASIBLE + NO_PLAN if written else INFEASIBLE


def _read(model: Any, given: Any) -> ContinuousDemonstrations:
    if isinstance(given, tuple) and len(given) == 2:
        given = ContinuousDemonstrations(*given)
    if not isinstance(given, ContinuousDemonstrations):
        raise TypeError(
            f"the demonstrations are a {type(given).__name__}; a continuous model takes ContinuousDemonstrations("
            "states, actions), or the pair that Posterior.sample returns"
        )
    want = (model.steps, model.state_dim, model.action_dim)
    got = (given.actions.shape[1], given.states.shape[2], given.actions.shape[2])
    if got != want:
        raise ValueError(
            f"demonstrations have T = {got[0]}, n = {got[1]}, m = {got[2]}, and the model T = {want[0]}, "
            f"n = {want[1]}, m = {want[2]}; they must be the same"
        )
    return given


def _scales(asked: Any) -> Tensor:
    """[F], how far the log-likelihood bends in each coefficient where the search begins; 1 where that is not known."""
    if asked.evaluate(asked.start) is None:
        return torch.ones_like(asked.start)
    bends = asked.hessian(asked.start).diagonal().abs() / float(asked.weights.sum())
    return torch.where(bends > 0, bends.sqrt(), torch.ones_like(bends))


# ---- linear-Gaussian models -----------------------------------------------------------------------------------------


def _linear(model: LinearGaussianModel, given: ContinuousDemonstrations, features: Any) -> GaussianObjective:
    base, terms, start = model.reward, dict[str, QuadraticReward](), list[float]()
    if features is None:
        base, terms, start = _entries(model)
    else:
        for name, term in _named(features).items():
            if not isinstance(term, QuadraticReward):
                raise TypeError(
                    f"feature {name!r} is a {type(term).__name__}; of a LinearGaussianModel features are "
                    "QuadraticRewards"
                )
            terms[name] = term.fitted(model.state_dim, model.action_dim, model.horizon)
            start.append(1.0)
    steps = model.replace(reward=_detached(base))
    family = Family(
        _plain(read_problem(steps)),
        tuple(cost_term(_plain(read_problem(model.replace(reward=_detached(term))))) for term in terms.values()),
    )

    fitted, read = partial(_with_terms, steps, terms), partial(_linear_again, steps, terms)
    return GaussianProblem(family, given, tuple(terms), torch.tensor(start, dtype=torch.float64), fitted, read)


def _with_terms(model: LinearGaussianModel, terms: Mapping[str, QuadraticReward], coefficients: Tensor) -> Any:
    return model.replace(reward=_sum(model.reward, list(terms.values()), coefficients))


def _linear_again(model: LinearGaussianModel, terms: Mapping[str, QuadraticReward], other: Any) -> GaussianObjective:
    return _linear(model, _read(model, other), terms)


def _parts(problem: GaussianProblem) -> dict[str, Any]:
    model, terms = problem._read.args  # type: ignore[attr-defined]
    return {"model": model, "terms": dict(terms), "demonstrations": problem.demonstrations}


def _problem_of(parts: dict[str, Any]) -> GaussianObjective:
    return _linear(parts["model"], parts["demonstrations"], parts["terms"])


@storable("inverse-gaussian-problem", pack=_parts, unpack=_problem_of)
class GaussianProblem(GaussianObjective):
    """`GaussianObjective` of a `LinearGaussianModel`, which files hold."""


def _entries(model: LinearGaussianModel) -> tuple[QuadraticReward, dict[str, QuadraticReward], list[float]]:
    """The reward without the entries that require grad, and each of these by itself."""
    own = {name: getattr(model.reward, name) for name in AXES} | dict(zip(FINAL, model.reward.final, strict=True))
    kept, terms, start = dict(own), dict[str, QuadraticReward](), list[float]()
    for name, value in own.items():
        if not value.requires_grad:
            continue
        axes = (AXES | FINAL)[name].split()
        if value.dim() > len(axes):
            raise ValueError(f"{name} changes over time and requires grad; learn its share by features= instead")
        kept[name] = torch.zeros_like(value)
        mirrored = axes in (["n", "n"], ["m", "m"])
        for place in torch.nonzero(torch.ones_like(value)).tolist():
            if mirrored and place[0] > place[1]:
                continue
            unit = torch.zeros_like(value).detach()
            unit[tuple(place)] = 1.0
            if mirrored:
                unit[place[1], place[0]] = 1.0
            zeros = {key: torch.zeros_like(part.detach()) for key, part in own.items()} | {name: unit}
            terms[f"{name}{place}" if place else name] = _of_parts(zeros)
            start.append(float(value.detach()[tuple(place)]))
    if not terms:
        raise ValueError(
            "there is nothing to learn: give features={name: QuadraticReward(...)}, or a QuadraticReward whose "
            "matrices require grad"
        )
    return _of_parts(kept), terms, start


def _of_parts(parts: Mapping[str, Tensor]) -> QuadraticReward:
    return QuadraticReward(**{name: parts[name] for name in AXES}, final=tuple(parts[name] for name in FINAL))


def _detached(reward: QuadraticReward) -> QuadraticReward:
    parts = {name: getattr(reward, name).detach() for name in AXES}
    return QuadraticReward(**parts, final=tuple(part.detach() for part in reward.final))


def _sum(base: QuadraticReward, terms: list[QuadraticReward], coefficients: Tensor) -> QuadraticReward:
    parts = {name: getattr(base, name) for name in AXES}
    final = list(base.final)
    for weight, term in zip(coefficients, terms, strict=True):
        parts = {name: part + weight * getattr(term, name) for name, part in parts.items()}
        final = [part + weight * other for part, other in zip(final, term.final, strict=True)]
    return QuadraticReward(**parts, final=tuple(final))


def _plain(problem: Any) -> Any:
    """The problem without gradients of its own."""
    names = [field.name for field in dataclasses.fields(problem)]
    tensors = {name: part.detach() for name in names if isinstance(part := getattr(problem, name), Tensor)}
    return dataclasses.replace(problem, **tensors)


# ---- other continuous models ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightedReward:
    """base + sum_f w_f feature_f, of a step or of the last state.

    Attributes:
        base: a function, or None.
        features: functions, or None where one pays nothing.
        weights: as many numbers.
    """

    base: Callable[..., Tensor] | None
    features: tuple[Callable[..., Tensor] | None, ...]
    weights: tuple[float, ...]

    def __call__(self, state: Tensor, *rest: Any) -> Tensor:
        total = torch.zeros_like(state[..., 0]) if self.base is None else self.base(state, *rest)
        for feature, weight in zip(self.features, self.weights, strict=True):
            if feature is not None:
                total = total + weight * feature(state, *rest)
        return total


def _written(model: ContinuousModel, given: ContinuousDemonstrations, features: Any) -> ContinuousObjective:
    """Around plans; around demonstrations where there is none to begin with, or noise that changes moves it, too."""
    require_smooth(model, "ilqr")
    named = {name: _pair(name, feature) for name, feature in _named(features).items()}
    problem = planning_problem(model)
    costs = [feature_problem(problem, *pair) for pair in named.values()]
    parts = (tuple(named), _first(costs, given), partial(_with_weights, model, named))
    if no_curvature(problem, given.states, given.actions) is not None:
        return _around(model, features, given)

    planned = PlannedObjective(partial(_paid, model, named), costs, given, *parts, partial(_again, model, features))
    return _around(model, features, given) if planned.evaluate(planned.start) is None else planned


def _paid(model: ContinuousModel, named: Mapping[str, Any], coefficients: Tensor) -> PlanningProblem:
    return planning_problem(_with_weights(model, named, coefficients))


def _again(model: ContinuousModel, features: Any, other: Any) -> ContinuousObjective:
    return _written(model, _read(model, other), features)


def _first(costs: Sequence[PlanningProblem], given: ContinuousDemonstrations) -> Tensor:
    """[F], where the search begins: -1 for what is 0 or more wherever it was seen, as who pays for it; else 1."""
    found = []
    for one in costs:
        steps = one.over_time(one.cost, "cost")(given.states[:, :-1], given.actions)
        every = -torch.cat([steps.flatten(), one.final_cost(given.states[:, -1]).flatten()])
        found.append(-1.0 if bool((every >= 0).all()) and bool((every > 0).any()) else 1.0)
    return torch.tensor(found, dtype=torch.float64)


def _around(model: ContinuousModel, features: Any, given: Any, center: Any = None) -> GaussianObjective:
    given, named = _read(model, given), {name: _pair(name, feature) for name, feature in _named(features).items()}
    states, actions = (given.states, given.actions) if center is None else center
    problem = planning_problem(model)
    family = family_around(problem, list(named.values()), states, actions)
    start = _first([feature_problem(problem, *pair) for pair in named.values()], given)
    fitted = partial(_with_weights, model, named)
    return GaussianObjective(family, given, tuple(named), start, fitted, partial(_around, model, features))


def _with_weights(model: ContinuousModel, named: Mapping[str, Any], coefficients: Tensor) -> ContinuousModel:
    weights = tuple(coefficients.tolist())
    paid, final = (tuple(pair[i] for pair in named.values()) for i in range(2))
    ends = WeightedReward(model.final_reward, final, weights)
    last = ends if model.final_reward is not None or any(final) else None
    return model.replace(reward=WeightedReward(model.reward, paid, weights), final_reward=last)


def _pair(name: str, feature: Any) -> tuple[Any, Any]:
    """(reward of a step, reward of the last state)."""
    pair = feature if isinstance(feature, tuple) else (feature, None)
    sound = len(pair) == 2 and any(part is not None for part in pair)
    if not sound or not all(part is None or callable(part) for part in pair):
        raise TypeError(
            f"feature {name!r} is {feature!r}; expected a function (s, a, t) -> [...], or a pair of it and a function "
            "(s) -> [...] of the last state, None for one that pays nothing"
        )
    return pair[0], pair[1]


def _named(features: Any) -> dict[str, Any]:
    if not isinstance(features, Mapping) or not features:
        raise TypeError(
            f"features is {features!r}; a continuous model takes a mapping {{name: reward}}, whose rewards are "
            "weighted and added to the model's own"
        )
    return {str(name): feature for name, feature in features.items()}
