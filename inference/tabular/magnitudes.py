"""Questions whose numbers floats do not hold: they get a status instead of an answer."""

from __future__ import annotations

from typing import Any

import torch

from cai.inference.core.backend import Backend
from cai.inference.core.status import Status
from cai.inference.tabular.believed_dynamics import FixedDynamics
from cai.inference.tabular.posterior import ModelPosterior
from cai.models.trajectory.batch import ModelBatch
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["LARGEST", "SMALLEST", "VANISHING", "batch_is_in_range", "is_in_range", "out_of_range"]

LARGEST = 1e150  # of a temperature and a return, in reward units and in nats: its square is still a float
SMALLEST = 1e-150  # likewise
SINGLE = 1e30  # of temperatures and returns of models in float32, and 1 / SINGLE: float32 ends at 1e38 and 1e-38
VANISHING = 1e-20  # nats of a whole return, below which a divergence's rounding, 1e-32, is more than nothing
ENDLESS = 1e12  # steps that an infinite horizon without discount counts for


def is_in_range(model: Any, *, soft: bool = False) -> bool:
    """Whether temperature, returns, and returns over the temperature are far from the ends of what floats hold.

    Args:
        model: a `TrajectoryModel`; anything else counts as in range.
        soft: whether the answer divides into return, divergence and luck, of which nothing is left where all
            r / alpha vanish beside 1.
    """
    if not isinstance(model, TrajectoryModel):
        return True
    temperature, size, nats = _sizes(model)
    if model.dtype == torch.float32 and not all(not x or 1 / SINGLE <= x <= SINGLE for x in (temperature, size)):
        return False
    return _in_range(temperature, size, nats, soft)


def batch_is_in_range(batch: ModelBatch, *, soft: bool = False) -> bool:
    """Whether every member of a batch is; in float64 none is made where they share rewards or give tables.

    Args:
        batch: the problems, all of finite horizons.
        soft: as for `is_in_range`.
    """
    base, number, tables = batch.base, len(batch), batch.tables
    if base.dtype == torch.float32:
        return all(is_in_range(member, soft=soft) for member in batch)
    if tables is not None:
        sizes, possible = tables.detach().abs(), base.mdp.probabilities > 0
        counts = torch.isfinite(sizes) & (possible[..., 0] if possible.shape[-1] == 1 else True)
        largest = sizes.masked_fill(~counts, 0.0).amax((1, 2)).tolist()
    elif batch.gives_rewards or base.reward.reads_time:
        return all(is_in_range(member, soft=soft) for member in batch)
    else:
        largest = [base.reward_size] * number
    shared = batch.temperatures is None
    temperatures = torch.as_tensor(base.temperature if shared else batch.temperatures, dtype=torch.float64)
    steps = [_steps(horizon, base.discount) for horizon in batch.horizons]
    for alpha, count, most in zip(temperatures.detach().expand(number).tolist(), steps, largest, strict=True):
        if not _in_range(alpha, count * most, count * most / alpha, soft):
            return False
    return True


def _in_range(temperature: float, size: float, nats: float, soft: bool) -> bool:
    in_reach = all(not value or SMALLEST <= value <= LARGEST for value in (temperature, size))
    return in_reach and (not size or (VANISHING if soft else SMALLEST) <= nats <= LARGEST)


def _steps(horizon: float, discount: float) -> float:
    """How many steps of the largest reward a return is worth, at most."""
    return min(float(horizon), 1 / (1 - discount) if discount < 1 else ENDLESS)


def _sizes(model: TrajectoryModel) -> tuple[float, float, float]:
    """The temperature, and about the largest return, in reward units and in nats."""
    temperature = float(torch.as_tensor(model.temperature, dtype=torch.float64).detach())
    size = _steps(model.horizon, model.discount) * model.reward_size
    return temperature, size, size / temperature


def out_of_range(backend: Backend, model: Any) -> ModelPosterior | None:
    """What is left of an answer where the numbers are too large or too small; None where they are not.

    Args:
        backend: that was asked.
        model: what about.
    """
    soft = getattr(backend, "soft_recursion", None) is not None or getattr(backend, "divides_return", False)
    if is_in_range(model, soft=soft):
        return None
    temperature, size, nats = _sizes(model)
    why = f"returns are of the size of {size:.3g} in reward units, the temperature is "
    why += f"{temperature:.3g}, and so they are of {nats:.3g} nats"
    why += ", in float32" if model.dtype == torch.float32 else ""
    unknown = ("log_evidence", "elbo", "believed_return", "luck", "policy_divergence", "policy_entropy")
    zero = model.mdp.initial.new_zeros(1, model.mdp.num_states)
    return ModelPosterior(
        model=model,
        backend=backend.name,
        target=backend.target,
        status=Status.OUT_OF_RANGE,
        horizon=model.horizon,
        values=None,
        q_values=None,
        action_probs=model.action_prior.expand(model.steps, -1, -1),
        initial=model.mdp.initial,
        world=FixedDynamics(model),
        state_marginals=zero,
        absorbed=zero[:, 0],
        details={"why": why},
        **dict.fromkeys(unknown),
    )
