"""What a fitted reward says about another world, and how much of that the demonstrations leave open."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.inference.backends.sum_product import SumProduct
from cai.inference.backends.variational import StructuredVariational
from cai.inverse.estimation.estimate import Estimate
from cai.inverse.estimation.fitting import fit_objective
from cai.inverse.search.settings import Settings
from cai.inverse.tabular.reward_parameters import RewardParameters, find_parameters
from cai.models.common.storage import Saved, storable
from cai.models.trajectory.model import TrajectoryModel
from cai.policies.policy import Policy, extract_policy

__all__ = ["Transfer", "transferred"]

logger = logging.getLogger("cai.inverse")
OPEN = 0.01  # change of a probability above which the transfer is warned about


@storable("inverse-transfer")
@dataclass(frozen=True, eq=False)
class Transfer(Saved):
    """The policy of a fitted reward in another world.

    Attributes:
        policy: there.
        change: the largest change of an action's probability in any state when the coefficients move along a direction
            that the demonstrations leave open, as far as the coefficients are long (by 1 at least), either way; 0 where
            nothing is open, inf where there is no policy any more.
        warning: a sentence where the change is above 0.01, else None.
    """

    policy: Policy
    change: float
    warning: str | None


def transferred(estimate: Estimate, model: TrajectoryModel, task: Any) -> Transfer:
    """The policy of an estimate in another world, and how far it is settled.

    A reward that explains demonstrations in one world need not be settled where it matters in another: shaping by a
    potential leaves policies alone in its own world only (Ng, Harada and Russell 1999; Fu, Luo and Levine 2018; Kim et
    al. 2021, "Reward identification in inverse reinforcement learning").

    Args:
        estimate: of a model, with any status that leaves coefficients.
        model: the other world, whose reward has coefficients of the same names.
        task: what was fitted, to find coefficients where the estimate left them open.

    Raises:
        ValueError: if coefficients differ by name, or the reward has no answer in the other world.
    """
    there = find_parameters(model)
    names = tuple(estimate.coefficients.index)
    if set(there.names) != set(names):
        lacking = [name for name in names if name not in there.names] or [n for n in there.names if n not in names]
        raise ValueError(
            f"the other model and the estimate do not share the coefficient {lacking[0]!r}; give the reward of the "
            f"other world the same names: {', '.join(names[:6])}"
        )
    order = torch.tensor([names.index(name) for name in there.names])
    weights = _representative(estimate, task)
    backend: Any = SumProduct() if estimate.objective == "path" else StructuredVariational()
    settled = _policy(there, weights[order], backend)
    if settled is None:
        raise ValueError(
            "the fitted reward has no answer in the other world: its sums grow without end, or all is -inf"
        )
    change, length = 0.0, max(1.0, float(weights.norm()))
    free = torch.tensor([names.index(name) for name in estimate.free])
    for row in torch.tensor(estimate.null_space().to_numpy(dtype=float)):
        for sign in (1.0, -1.0):
            moved = weights.clone()
            moved[free] += sign * length * row
            other = _policy(there, moved[order], backend)
            apart = float("inf") if other is None else float((other[0] - settled[0])[:, model.nonterminal].abs().max())
            change = max(change, apart)
    warning = None
    if change > OPEN:
        warning = (
            f"probabilities of actions in this world change by up to {change:.3g} along directions of the reward that "
            "the demonstrations leave open; give demonstrations in more worlds, or fewer features"
        )
        logger.warning("%s", warning)
    return Transfer(settled[1], change, warning)


def _policy(parameters: RewardParameters, weights: Tensor, backend: Any) -> tuple[Tensor, Policy] | None:
    answer = backend.run(parameters.fitted(weights))
    return (answer.action_probs, extract_policy(answer)) if answer.status.ok else None


def _representative(estimate: Estimate, task: Any) -> Tensor:
    """[F], the coefficients of smallest norm among those that are as good, where the estimate left some open."""
    known = torch.tensor(estimate.coefficients.to_numpy(dtype=float))
    if not bool(known.isnan().any()):
        return known
    names = list(estimate.coefficients.index)
    fixed = {name: float(known[i]) for i, name in enumerate(names) if name not in estimate.free}
    again = fit_objective(dataclasses.replace(task, known_up_to="flat directions"), Settings(fixed=fixed, throw=False))
    return again.vector
