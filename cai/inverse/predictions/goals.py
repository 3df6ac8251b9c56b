"""Which of several rewards somebody acts for, by the steps that they took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cai.inference import infer
from cai.models.common.checks import float_tensor, index_tensor
from cai.models.common.numerics import safe_log
from cai.models.trajectory.batch import with_initial
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["goals"]


def goals(
    models: Sequence[TrajectoryModel], states: Any, actions: Any, prior: Any = None, backend: str = "variational"
) -> Tensor:
    """p(m | s_1, a_1, ..., s_t, a_t) after each step, for models of the same states and actions that differ in reward.

    Proportional to p(m) prod_t pi_m(a_t | s_t): everybody acts optimally for their own reward, so that how much a
    reward can earn is no evidence for it (Baker, Saxe and Tenenbaum 2009; Ziebart et al. 2008, section 5, where
    destinations are told by sums over paths). Who leaves a state where a model ends does not act for that model.

    Args:
        models: M models.
        states: int [T + 1], s_1 to s_{T+1}; or [T], as the last one tells nothing.
        actions: int [T].
        prior: [M], p(m); uniform unless given.
        backend: whose policy they follow, as `cai.infer` takes it.

    Returns:
        [T + 1, M]; row 0 is the prior, row t what is known after t actions.

    Raises:
        ValueError: if models differ in the number of states or actions, lengths or indices do not fit, there are more
            steps than a model has, or no model takes these steps.
        TypeError: if something is no model, or not whole numbers.
        InferenceError: if a model has no answer from s_1, as where every way costs infinitely much.
    """
    models = list(models)
    _check_models(models)
    seen, taken = _check_steps(models, states, actions)
    number = len(models)
    if prior is None:
        start = torch.full((number,), 1.0 / number, dtype=torch.float64)
    else:
        start = float_tensor(prior, "prior")[0]
        fits = tuple(start.shape) == (number,) and bool((start >= 0).all()) and abs(float(start.sum()) - 1) < 1e-9
        if not fits:
            raise ValueError(f"prior is {prior!r}; expected {number} probabilities that sum to 1, one for each model")
    steps = torch.arange(len(taken))
    evidence = []
    for model in models:
        probs = infer(_begun(model, seen), backend).action_probs.detach().double().cpu()
        logs = safe_log(probs[steps if len(probs) > 1 else torch.zeros_like(steps), seen[: len(taken)], taken])
        following = seen[1 : len(taken) + 1]
        ended = model.mdp.terminal.cpu()[seen[: len(taken)]]
        left = ended.clone()
        left[: len(following)] &= following != seen[: len(following)]
        if len(following) < len(taken):
            left[-1] = False
        logs = torch.where(ended, torch.zeros_like(logs), logs)
        evidence.append(torch.where(left, torch.full_like(logs, -torch.inf), logs))
    logs = torch.cat([safe_log(start)[None], torch.stack(evidence, -1)]).cumsum(0)
    total = torch.logsumexp(logs, -1)
    lost = torch.isinf(total)
    if bool(lost.any()):
        t = int(lost.nonzero()[0]) - 1
        raise ValueError(
            f"no model takes the steps up to action {int(taken[t])} in state {int(seen[t])} at time index {t}; add one "
            "that does, or give models a higher temperature"
        )
    return (logs - total[:, None]).exp()


def _begun(model: TrajectoryModel, seen: Tensor) -> TrajectoryModel:
    """A model that begins where a trajectory did, so that it need not have an answer anywhere else."""
    if not len(seen):
        return model
    start = torch.zeros(model.mdp.num_states, dtype=torch.float64)
    start[seen[0]] = 1.0
    return model.replace(mdp=with_initial(model.mdp, start))


def _check_models(models: list[Any]) -> None:
    if not models:
        raise ValueError("there is no model; give at least one")
    for number, model in enumerate(models):
        if not isinstance(model, TrajectoryModel):
            raise TypeError(f"models[{number}] is a {type(model).__name__}; expected TrajectoryModels")
        sizes = [(other.mdp.num_states, other.mdp.num_actions) for other in (models[0], model)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"models[{number}] has {sizes[1][0]} states and {sizes[1][1]} actions, models[0] has {sizes[0][0]} and "
                f"{sizes[0][1]}; steps tell models of the same process apart"
            )


def _check_steps(models: list[TrajectoryModel], states: Any, actions: Any) -> tuple[Tensor, Tensor]:
    seen, taken = index_tensor(states, "states"), index_tensor(actions, "actions")
    if seen.dim() != 1 or taken.dim() != 1 or len(seen) not in (len(taken), len(taken) + 1):
        raise ValueError(
            f"states has shape {list(seen.shape)} and actions {list(taken.shape)}; expected [T + 1] and [T] of one "
            "trajectory"
        )
    mdp = models[0].mdp
    for what, found, size in (("states", seen, mdp.num_states), ("actions", taken, mdp.num_actions)):
        outside = (found < 0) | (found >= size)
        if bool(outside.any()):
            raise ValueError(f"{what} holds {int(found[outside][0])}; expected 0 to {size - 1}")
    for number, model in enumerate(models):
        if len(taken) > model.horizon:
            raise ValueError(f"there are {len(taken)} actions, and models[{number}] has {model.horizon} steps")
    return seen, taken
