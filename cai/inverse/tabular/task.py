"""What a fit of a trajectory model begins with: scales, start, rules of its standard errors, and what is flat."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.inverse.estimation.fitting import Task
from cai.inverse.search.curvature import rounding_of
from cai.inverse.tabular.data import require_objective
from cai.inverse.tabular.objective import ModelObjective
from cai.inverse.tabular.problem import ModelProblem
from cai.inverse.tabular.reward_parameters import LinearParameters
from cai.inverse.tabular.separation import separated
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["model_task"]

UNCURVED = 1e-6  # nats, where updates of the search stand for the Hessian

NO_HESSIAN = (
    "the negative inverse Hessian is not the variance under objective 'moments', whose score varies with the noise of "
    "the dynamics, too: true errors are larger; use 'sandwich' or 'cluster'"
)
FEW = 12  # coefficients up to which an exact Hessian costs about as much as the few values that it saves
NO_ERRORS = "coefficients of modules have no standard errors; the estimate holds the coefficients alone"


def model_task(model: TrajectoryModel, demonstrations: Any, objective: str) -> Task:
    """What is fitted of a `TrajectoryModel`.

    Raises:
        TypeError, ValueError: see `ModelObjective`; also if a feature is 0 wherever one can be.
    """
    require_objective(objective)
    asked = ModelProblem(model, demonstrations, objective)
    rules: dict[str, Any] = {}
    if objective == "moments":
        rules = {"default_covariance": "sandwich", "refused_covariance": {"hessian": NO_HESSIAN}}
    if not asked.is_linear:
        return Task(
            objective=asked,
            problem=asked,
            initial=asked.start.clone(),
            scales=torch.ones_like(asked.start),
            explain=_explained(asked),
            curved=False,
            tolerance=UNCURVED,
            warnings=(NO_ERRORS,),
            **rules,
        )
    free = isinstance(asked.parameters, LinearParameters) and asked.parameters.free is not None
    shaping = free and model.discount < 1 and not model.is_finite and objective != "path"
    return Task(
        objective=asked,
        problem=asked,
        initial=asked.start.clone(),
        scales=_scales(asked),
        doubles=True,
        separated=separated(asked),
        explain=_explained(asked),
        known_up_to="shaping" if shaping else None,
        newton=len(asked.names) <= FEW,
        rounding=rounding_of(asked.weights, asked.steps.summed(torch.ones(len(asked.steps.rows)).double())),
        **rules,
    )


def _scales(asked: ModelObjective) -> Tensor:
    """[F], the sizes of the features in nats: root mean squares over what is possible."""
    parameters, model = asked.parameters, asked.base_model
    assert isinstance(parameters, LinearParameters)
    possible = ((model.action_prior > 0) & model.nonterminal[:, None])[..., None]
    times = range(model.steps) if parameters.varies else range(1)
    total, number = torch.zeros(len(asked.names), dtype=torch.float64), 0
    for t in times:
        features = parameters.features(t)
        weigh = possible & (model.mdp.probabilities > 0) if features.shape[-2] > 1 else possible
        chosen = features[weigh.expand(features.shape[:-1])]
        total, number = total + chosen.square().sum(0), number + len(chosen)
    scales = (total / max(number, 1)).sqrt() / float(model.temperature)
    if not bool((scales > 0).all()):
        name = asked.names[int((scales == 0).nonzero()[0])]
        raise ValueError(f"feature {name!r} is 0 in every step that can be taken; leave it out")
    return scales


def _explained(asked: ModelObjective) -> Any:
    def explain(coefficients: Tensor) -> str:
        if asked.base_model.is_finite:
            return (
                "optimality is impossible from where demonstrations are, or an action that was taken leads to what is "
                "forbidden; look at the factors of the reward that are not learned"
            )
        return (
            "an infinite horizon has no answer with these coefficients: sums of rewards grow without end; give "
            "start= with larger costs (more negative), a discount, or a finite horizon"
        )

    return explain
