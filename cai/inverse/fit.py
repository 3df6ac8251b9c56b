"""The one entry point of inverse problems: coefficients of a reward from demonstrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from cai.inverse.continuous.task import gaussian_task
from cai.inverse.estimation.estimate import Estimate
from cai.inverse.estimation.fitting import Task, fit_objective
from cai.inverse.networks.task import network_task
from cai.inverse.search.penalties import Penalty
from cai.inverse.search.settings import Settings
from cai.inverse.tabular.task import model_task
from cai.models.continuous.linear_gaussian import LinearGaussianModel
from cai.models.continuous.model import ContinuousModel
from cai.models.demonstrations.route_network import RouteNetwork
from cai.models.trajectory.model import TrajectoryModel
from cai.tasks.mapping import Map, check_map

__all__ = ["fit", "task_of"]

OBJECTIVES = ("likelihood", "moments", "path")


def fit(
    problem: Any,
    demonstrations: Any,
    *,
    features: Sequence[str] | Mapping[str, Any] | None = None,
    objective: Literal["likelihood", "moments", "path"] = "likelihood",
    start: Any = None,
    fixed: Mapping[str, float] | None = None,
    bounds: Mapping[str, tuple[float | None, float | None]] | None = None,
    penalty: Penalty | None = None,
    covariance: Literal["hessian", "sandwich", "cluster"] | None = None,
    method: Literal["bfgs", "newton"] | None = None,
    tolerance: float | None = None,
    max_iterations: int = 500,
    seed: int = 0,
    progress: bool = False,
    throw: bool = True,
    drop: Literal["report"] | None = None,
    map: Map | None = None,
) -> Estimate:
    """Fits the coefficients of a reward to demonstrations, by maximum likelihood or a relative of it.

        est = cai.inverse.fit(network, trips, features=["minutes", "left", "u_turn"])
        est = cai.inverse.fit(model, demonstrations)  # the weights of its LinearReward
        print(est.summary())

    Demonstrations are conditioned on where they begin; on a network also on where they go.

    Args:
        problem: a `RouteNetwork`; or a `TrajectoryModel`, of whose reward the weights of every `LinearReward` are
            learned, with the parameters that require grad of every `ModuleReward` (without standard errors); where
            there is neither, one `TableReward` whose table requires grad, entry by entry. Other factors stay.
            Of a `LinearGaussianModel` (exact) and a `ContinuousModel` the coefficients of `features`. Of the latter
            the policy that is fitted is that of `ilqr`, the Laplace approximation around best plans: each
            demonstration has the local optimum next to it from where it begins, which moves with the coefficients, and
            standard errors are those of the information that is expected in the states that were shown. Where no strict
            optimum lies next to a demonstration when the search begins (at coefficients of 1, of -1 for what is never
            below 0), or noise that changes with state or action moves plans, too, the approximation is around each
            demonstration instead (Levine and Koltun 2012). It is held against one around the best plans of the
            estimate, and the status is `approximate` where these differ by more than 0.1 nats an action, or the
            estimate would move by more than half a standard error.
        demonstrations: of a network: a DataFrame or CSV file with columns trip, position, link, and optionally
            destination, person and weight; of a model: `Demonstrations`; of a continuous one
            `ContinuousDemonstrations`, or the pair (states, actions) that `Posterior.sample` returns.
        features: of a network: the attributes that are paid, one coefficient each. Of a continuous model: {name:
            reward}, weighted and added to its own reward; a reward is a `QuadraticReward` for a `LinearGaussianModel`
            (None learns the entries of its matrices that require grad), else a function (s, a, t), or a pair of it and
            a function of the last state.
        objective: "likelihood", sum log pi_w(a | s); "moments", returns less values; "path", log p(tau | s_1, O). Where
            the dynamics are certain all three differ by constants.
        start: {name: value} or [F], where the search begins.
        fixed: {name: value}, coefficients that are not fitted.
        bounds: {name: (lower, upper)}.
        penalty: `L2(s)`, `L1(s)`, a log density of the free coefficients, or a distribution.
        covariance: "hessian", "sandwich" or "cluster" (by person). "hessian" unless given; "sandwich" for "moments".
        method: "bfgs" (exact Hessian at the end) or "newton" (in each step).
        tolerance: of g'(-H)^-1 g in nats, at which the search has converged. Unless given 1e-12; 1e-6 of modules, where
            the updates of the search stand for H; and 1e-8 where plans are searched for, whose rounding hides less.
        max_iterations: steps at most.
        seed: of whatever is drawn; nothing is, by these objectives.
        progress: whether a bar is shown.
        throw: whether anything but success raises.
        drop: of a network: "report" leaves trips out that do not fit, and lists them in `est.dropped`.
        map: of a network: who does parts of each evaluation, as in `cai.compare`, such as `pool.map` or
            `cai.dask_map(client)`. A part has 256 destinations or more, and factorises the network where it is done; so
            it takes 512 destinations before there are two. Estimates are the same bits for any map and any number of
            workers. Unless given all is done here, with the same estimate up to rounding.

    Returns:
        The estimate.

    Raises:
        ValueError, TypeError: on bad input; each says what was got, what was expected, and what to do.
        FitError: on anything but success, unless `throw=False`; its `estimate` holds what was found.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}; expected 'likelihood', 'moments' or 'path'")
    settings = Settings(
        start=start,
        fixed=fixed or {},
        bounds=bounds or {},
        penalty=penalty,
        covariance=covariance,
        method=method,
        tolerance=Settings.tolerance if tolerance is None else tolerance,
        max_iterations=max_iterations,
        seed=seed,
        progress=progress,
        throw=throw,
    )
    task = task_of(problem, demonstrations, features, objective, drop, map)
    if tolerance is None and task.tolerance is not None:
        settings = replace(settings, tolerance=task.tolerance)
    return fit_objective(task, settings)


def task_of(
    problem: Any,
    demonstrations: Any,
    features: Any,
    objective: str,
    drop: Literal["report"] | None,
    map: Map | None = None,
) -> Task:
    """What is fitted, by the kind of problem; arguments as of `fit`.

    Raises:
        TypeError: if nothing can be fitted of it.
    """
    if map is not None:
        check_map(map)
    if isinstance(problem, RouteNetwork):
        return network_task(problem, demonstrations, features, objective, drop, map)
    if map is not None:
        raise ValueError(
            f"map belongs to networks, whose destinations it shares out, and this is a {type(problem).__name__}; leave "
            "it out, or give it to cai.inverse.bootstrap, which makes many fits"
        )
    if isinstance(problem, LinearGaussianModel | ContinuousModel):
        return gaussian_task(problem, demonstrations, features, objective)
    if isinstance(problem, TrajectoryModel):
        if features is not None or drop is not None:
            raise ValueError("features and drop belong to networks; of a model all weights of its rewards are learned")
        return model_task(problem, demonstrations, objective)
    raise TypeError(
        f"cannot fit a {type(problem).__name__}; expected a RouteNetwork, a TrajectoryModel or a continuous model"
    )
