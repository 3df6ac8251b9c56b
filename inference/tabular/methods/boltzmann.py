"""Two heuristics that look like soft control and are not: Boltzmann exploration, and an entropy bonus of one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cai.inference.core.memory import Need, horizon_need
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Target
from cai.inference.kernels.backups import fixed_backup, soft_policy
from cai.inference.tabular.dynamic_programming import (
    check_settling,
    closed_form_posterior,
    require_finite,
    require_model,
)
from cai.inference.tabular.methods.value_iteration import HARD
from cai.inference.tabular.recursion import Recursion
from cai.inference.tabular.stationary.iteration import ConvergenceCriterion
from cai.models.common.numerics import expectation
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["BoltzmannExploration", "OneStepEntropy"]


@dataclass(frozen=True)
class BoltzmannExploration:
    """Boltzmann exploration: pi(a|s) proportional to p(a|s) e^{Q(s, a) / alpha} over *hard* optimal Q-values.

    It acts at random in proportion to values that assume it will never act at random again: Q is Bellman's, so nothing
    in it knows of the policy's own noise (Levine 2018, section 5.2, where it is a heuristic of exploration that does
    not optimise the entropy of the return). `values` and `q_values` are Bellman's; the bound, which is what the
    policy attains, is at most that of `variational`.

    Target `other`: Bellman's greedy policy as alpha -> 0; at the last step, where nothing follows, the policy of
    `variational`.

    Args:
        tolerance: over an infinite horizon, the largest error of a value, by a bound that holds, relative to the
            largest value or reward that the start leads to; where rewards have one sign, relative to each value itself.
        max_iterations: over an infinite horizon, the most backups and policies.
        accelerate: over an infinite horizon, whether values are solved for by policy iteration; else by backups alone.
    """

    tolerance: float = 1e-10
    max_iterations: int = 1_000_000
    accelerate: bool = True

    name: ClassVar[str] = "boltzmann"
    target: ClassVar[Target] = Target.OTHER
    accepts: ClassVar[str] = "a TrajectoryModel, any horizon"
    divides_return: ClassVar[bool] = True  # into a bound, a divergence and luck, however small it is
    cost: ClassVar[str] = "T S A K time, T S A memory"

    def __post_init__(self) -> None:
        check_settling(self.tolerance, self.max_iterations)

    def supports(self, model: Any) -> None:
        """Raises ValueError unless the model is a `TrajectoryModel`."""
        require_model(model, self.name, "'variational'")

    def memory(self, model: Any) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        return horizon_need(model, rows=2, tables=5, stepwise=True)

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers the model; nothing here is random."""
        self.supports(model)
        settling = ConvergenceCriterion(self.tolerance, self.max_iterations, self.accelerate)
        return closed_form_posterior(
            model, HARD, backend=self.name, target=self.target, settling=settling, acts=soft_policy
        )


def _one_step_choice(model: TrajectoryModel, q_values: Tensor, log_prior: Tensor) -> tuple[Tensor, Tensor]:
    """(E_pi[q] [S], pi [S, A]): the soft policy, but its entropy is worth nothing to the steps before."""
    policy = soft_policy(model, q_values, log_prior)[1]
    values = expectation(policy, q_values)
    return torch.where(model.nonterminal, values, torch.zeros_like(values)), policy


ONE_STEP = Recursion(fixed_backup, _one_step_choice, eta=0.0)


@dataclass(frozen=True)
class OneStepEntropy:
    """Entropy regularisation of single steps: the fixed point of a policy gradient with a bonus at each visited state.

        pi(a|s) proportional to p(a|s) e^{Q^pi(s, a) / alpha},    V^pi(s) = sum_a pi(a|s) Q^pi(s, a)

    The bonus keeps the policy random where it is, and earlier steps know what that randomness will cost them in
    reward, but not what it spares in KL: the return holds no entropy. That is the naive estimator of Schulman et al.
    2017, equation (79), against the proper one of equation (80), whose fixed point is `variational` (see also Levine
    2018, section 5.2). The bound, which is what the policy attains, is at most that of `variational`.

    Target `other`: the policy of `variational` at the last step; Bellman's greedy policy as alpha -> 0. Over an
    infinite horizon the operator need not have one fixed point (Asadi and Littman 2017), so horizons are finite here.
    """

    name: ClassVar[str] = "one-step-entropy"
    target: ClassVar[Target] = Target.OTHER
    accepts: ClassVar[str] = "a TrajectoryModel with a finite horizon"
    divides_return: ClassVar[bool] = True  # into a bound, a divergence and luck, however small it is
    cost: ClassVar[str] = "T S A K time, T S A memory"

    def supports(self, model: Any) -> None:
        """Raises ValueError unless the model is a `TrajectoryModel` with a finite horizon."""
        require_finite(model, self.name, "'variational', whose fixed point is unique")

    def memory(self, model: Any) -> Need:
        """The memory that `run` will need for this model, by estimate; `infer` refuses what does not fit."""
        return horizon_need(model, rows=2, tables=5, stepwise=True)

    def run(self, model: Any, *, seed: int = 0) -> Posterior:
        """Answers the model; nothing here is random."""
        self.supports(model)
        return closed_form_posterior(
            model, ONE_STEP, backend=self.name, target=self.target, settling=ConvergenceCriterion()
        )
