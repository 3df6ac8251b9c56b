"""The posterior of coefficients given demonstrations, by Hamiltonian Monte Carlo on the exact derivatives of a fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cai.inverse.estimation.fitting import Task, fit_objective
from cai.inverse.estimation.status import FitStatus
from cai.inverse.fit import task_of
from cai.inverse.search.penalties import LogDensity, curvature, derivatives, log_density, supported
from cai.inverse.search.settings import Settings
from cai.models.common.checks import as_count
from cai.models.common.random_draws import OwnDraws, without_draws

__all__ = ["fit_bayes"]


def fit_bayes(
    problem: Any,
    demonstrations: Any,
    prior: Any,
    num_samples: int = 1000,
    chains: int = 4,
    seed: int = 0,
    *,
    features: Sequence[str] | None = None,
    objective: Literal["likelihood", "path"] = "likelihood",
    start: Any = None,
    warmup: int | None = None,
    progress: bool = False,
) -> Any:
    """Draws coefficients from their posterior by the no-U-turn sampler of Pyro (Hoffman and Gelman 2014).

    The sampler runs in coordinates in which the posterior at its mode has unit curvature, by the exact Hessian; chains
    begin around the mode, spread as it says. Coefficients that are infeasible have log density -inf.

    Args:
        problem: a `RouteNetwork` or a model, as `cai.inverse.fit` takes it.
        demonstrations: as for `fit`.
        prior: of the coefficients: `L2(s)`, a distribution of torch or Pyro over one coefficient or over all, a mapping
            {name: distribution} with one for each, or a function of a tensor [F] that returns a log density in nats.
        num_samples: draws of each chain.
        chains: how many.
        seed: of the draws; chain number n has the seed `seed + n`. The global random state is left alone.
        features: of a network, as for `fit`.
        objective: "likelihood" or "path"; "moments" is no log-likelihood.
        start: where the search for the mode begins, as for `fit`.
        warmup: steps before the draws, in which the step size is adapted; half of `num_samples` unless given.
        progress: whether a bar is shown.

    Returns:
        What the installed ArviZ calls it, InferenceData or a DataTree, with the groups posterior (`coefficients`, dims
        chain, draw, feature), sample_stats (`lp`, nats; `diverging`) and log_likelihood (`demonstrations`, nats).

    Raises:
        ImportError: if ArviZ is not installed.
        ValueError, TypeError: on bad input, a prior that is none, where no mode is found, or a Laplace
            approximation cannot be trusted there.
    """
    arviz = _arviz()
    as_count(num_samples, "num_samples")
    as_count(chains, "chains")
    steps = max(1, num_samples // 2) if warmup is None else as_count(warmup, "warmup")
    if objective not in ("likelihood", "path"):
        raise ValueError(
            f"objective is {objective!r}; a posterior needs a log-likelihood, 'likelihood' or 'path'; 'moments' is none"
        )
    task = task_of(problem, demonstrations, features, objective, None)
    if not task.curved:
        raise ValueError(
            "parameters of modules have no exact Hessian, by which the sampler is scaled; fit linear rewards"
        )
    density = _density(prior, task.objective.names)
    center, half = _scaled(task, density, start)
    numbers = range(seed, seed + chains)
    drawn = [_chain(task, density, center, half, num_samples, steps, number, progress) for number in numbers]
    coefficients = torch.stack([places for places, _, _ in drawn])
    each = torch.stack([torch.stack([_likelihoods(task, w) for w in rows]) for rows in coefficients])
    groups = {
        "posterior": {"coefficients": coefficients.numpy()},
        "sample_stats": {
            "lp": np.stack([lp for _, lp, _ in drawn]),
            "diverging": np.stack([bad for _, _, bad in drawn]),
        },
        "log_likelihood": {"demonstrations": each.numpy()},
    }
    named: dict[str, Any] = {"dims": {"coefficients": ["feature"], "demonstrations": ["demonstration"]}}
    named["coords"] = {"feature": list(task.objective.names), "demonstration": list(range(each.shape[-1]))}
    if hasattr(arviz, "InferenceData"):
        return arviz.from_dict(**groups, **named)
    return arviz.from_dict(groups, **named)


def _arviz() -> Any:
    try:
        import arviz
    except ImportError:
        raise ImportError("fit_bayes returns what ArviZ reads; install it: pip install arviz") from None
    return arviz


def _density(prior: Any, names: tuple[str, ...]) -> LogDensity:
    """The log density of all coefficients in nats."""
    if isinstance(prior, Mapping):
        lacking = [name for name in names if name not in prior] or [name for name in prior if name not in names]
        if lacking:
            raise ValueError(
                f"the prior and the coefficients do not share {lacking[0]!r}; give one distribution for each of "
                f"{', '.join(names)}"
            )
        listed = [prior[name] for name in names]

        def joint(coefficients: Tensor) -> Tensor:
            return torch.stack([supported(own, w) for own, w in zip(listed, coefficients, strict=True)]).sum()

        return joint
    density = log_density(prior)
    if density is None:
        raise TypeError(
            f"prior is {prior!r}; expected L2(s), a distribution, a mapping {{name: distribution}}, or a log density"
        )
    return density


def _scaled(task: Task, density: LogDensity, start: Any) -> tuple[Tensor, Tensor]:
    """The mode [F], and a matrix L [F, F] with L L' the inverse of the curvature there."""
    estimate = fit_objective(task, Settings(start=start, penalty=density, throw=False, tolerance=1e-8))
    if bool(torch.tensor(estimate.coefficients.to_numpy(dtype=float)).isnan().any()):
        raise ValueError(f"no mode of the posterior was found: {estimate.status}; give a narrower prior, or start=")
    if estimate.status is FitStatus.APPROXIMATE:
        raise ValueError(f"there is no posterior to draw from: {estimate.status} ({estimate.warnings[-1]})")
    center = estimate.vector
    bend = -task.objective.hessian(center) - curvature(density, center)
    sizes = bend.diagonal().abs().clamp(min=1e-300).sqrt()  # coefficients differ by the units of their features
    values, vectors = torch.linalg.eigh((bend + bend.T) / 2 / sizes[:, None] / sizes)
    least = 1e-8 * values.abs().max()
    return center, vectors / values.abs().clamp(min=least).sqrt() / sizes[:, None]


class _Energy(torch.autograd.Function):
    """Minus the log density at scaled coordinates; its derivative was found with it."""

    @staticmethod
    def forward(ctx: Any, place: Tensor, value: float, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return place.new_tensor(value)

    @staticmethod
    def backward(ctx: Any, rise: Tensor) -> tuple[Tensor, None, None]:
        return rise * ctx.saved_tensors[0], None, None


def _chain(
    task: Task,
    density: LogDensity,
    center: Tensor,
    half: Tensor,
    num_samples: int,
    warmup: int,
    seed: int,
    progress: bool,
) -> tuple[Tensor, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Coefficients [draws, F], log densities [draws] and whether each draw's trajectory diverged."""
    from pyro.infer import MCMC, NUTS

    def at(place: Tensor) -> tuple[float, Tensor] | None:
        coefficients = center + half @ place
        known = derivatives(density, coefficients)
        found = None if known is None else task.objective.evaluate(coefficients)
        if known is None or found is None:
            return None
        return found[0] + known[0], half.T @ (found[1] + known[1])

    def energy(sites: Mapping[str, Tensor]) -> Tensor:
        place = sites["place"]
        with without_draws():
            found = at(place.detach())
        value, slope = (math.inf, torch.zeros_like(place)) if found is None else (-found[0], -found[1])
        result: Tensor = _Energy.apply(place, value, slope)
        return result

    with OwnDraws(seed):
        place = torch.randn(len(center), dtype=torch.float64)
        while at(place) is None:  # the mode itself is feasible
            place = place / 2
        kernel = NUTS(potential_fn=energy, adapt_mass_matrix=False)
        run = MCMC(
            kernel, num_samples, warmup_steps=warmup, initial_params={"place": place}, disable_progbar=not progress
        )
        run.run()
        drawn = run.get_samples()["place"].detach()
        told = run.diagnostics().get("divergences", {}).get("chain 0", [])
    diverging = np.zeros(num_samples, dtype=bool)
    diverging[list(told)] = True
    heights = [at(row) for row in drawn]
    lp = np.array([-math.inf if height is None else height[0] for height in heights])
    return center + drawn @ half.T, lp, diverging


def _likelihoods(task: Task, coefficients: Tensor) -> Tensor:
    """[N], nats, of each demonstration, unweighted."""
    ask: Any = task.objective
    found: Tensor = ask.log_probs(coefficients)
    return found
