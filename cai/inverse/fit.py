"""The one entry point of inverse problems: coefficients of a reward from demonstrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cai.inverse.estimate import Estimate
from cai.inverse.fitting import Task, fit_objective
from cai.inverse.network_task import network_task
from cai.inverse.penalties import Penalty
from cai.inverse.settings import Settings
from cai.models.demonstrations.route_network import RouteNetwork

__all__ = ["fit", "task_of"]

OBJECTIVES = ("likelihood", "moments", "path")


def fit(
    problem: Any,
    demonstrations: Any,
    *,
    features: Sequence[str] | None = None,
    objective: Literal["likelihood", "moments", "path"] = "likelihood",
    start: Any = None,
    fixed: Mapping[str, float] | None = None,
    bounds: Mapping[str, tuple[float | None, float | None]] | None = None,
    penalty: Penalty | None = None,
    covariance: Literal["hessian", "sandwich", "cluster"] | None = None,
    method: Literal["bfgs", "newton"] | None = None,
    tolerance: float = 1e-12,
    max_iterations: int = 500,
    seed: int = 0,
    progress: bool = False,
    throw: bool = True,
    drop: Literal["report"] | None = None,
) -> Estimate:
    """Fits the coefficients of a reward to demonstrations, by maximum likelihood or a relative of it.

        est = cai.inverse.fit(network, trips, features=["minutes", "left", "u_turn"])
        print(est.summary())

    Demonstrations are conditioned on where they begin; on a network also on where they go.

    Args:
        problem: a `RouteNetwork`.
        demonstrations: of a network: a DataFrame or CSV file with columns trip, position, link, and optionally
            destination, person and weight.
        features: of a network: the attributes that are paid, one coefficient each.
        objective: "likelihood", sum log pi_w(a | s); "moments", returns less values; "path", log p(tau | s_1, O). On a
            network, where turns are deterministic, all three are the same number.
        start: {name: value} or [F], where the search begins.
        fixed: {name: value}, coefficients that are not fitted.
        bounds: {name: (lower, upper)}.
        penalty: `L2(s)`, `L1(s)`, a log density of the free coefficients, or a distribution.
        covariance: "hessian", "sandwich" or "cluster" (by person). "hessian" unless given; "sandwich" for "moments".
        method: "bfgs" (exact Hessian at the end) or "newton" (in each step).
        tolerance: of g'(-H)^-1 g in nats, at which the search has converged.
        max_iterations: steps at most.
        seed: of whatever is drawn; nothing is, on a network.
        progress: whether a bar is shown.
        throw: whether anything but success raises.
        drop: of a network: "report" leaves trips out that do not fit, and lists them in `est.dropped`.

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
        tolerance=tolerance,
        max_iterations=max_iterations,
        seed=seed,
        progress=progress,
        throw=throw,
    )
    return fit_objective(task_of(problem, demonstrations, features, objective, drop), settings)


def task_of(
    problem: Any,
    demonstrations: Any,
    features: Sequence[str] | None,
    objective: str,
    drop: Literal["report"] | None,
) -> Task:
    """What is fitted, by the kind of problem; arguments as of `fit`.

    Raises:
        TypeError: if nothing can be fitted of it.
    """
    if isinstance(problem, RouteNetwork):
        return network_task(problem, demonstrations, features, objective, drop)
    raise TypeError(f"cannot fit a {type(problem).__name__}; expected a RouteNetwork")
