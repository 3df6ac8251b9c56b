"""Linear-quadratic problems around demonstrations, whose costs are linear in the coefficients of features.

Around a demonstration the dynamics are linear and the costs quadratic to second order, so that what remains of it is a
linear-quadratic problem with the demonstration in the middle, and log pi(a_t | s_t) is that of its Gaussian policy
(Levine and Koltun 2012, "Continuous inverse optimal control with locally optimal examples"). Curvature of the dynamics
is left out, as in `ilqr`. A linear-Gaussian model is such a problem itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cai.inference.gaussian.problem import GaussianPrior, GaussianProblem, Quadratic
from cai.inference.planning.around import world_around
from cai.inference.planning.derivatives import expand
from cai.inference.planning.problem import PlanningProblem, Times

__all__ = ["CostTerm", "Family", "cost_term", "family_around", "feature_problem"]

Paid = Callable[[Tensor, Tensor, Times], Tensor]


class CostTerm(NamedTuple):
    """What one feature costs where its coefficient is 1, in reward units.

    Attributes:
        cost: [..., T or 1, n + m, n + m], of z = (s, a).
        linear: [..., T or 1, n + m].
        constant: [..., T or 1].
        final: of s_{T+1}.
    """

    cost: Tensor
    linear: Tensor
    constant: Tensor
    final: Quadratic


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """Linear-quadratic problems whose costs are base + sum_f w_f term_f.

    Attributes:
        base: what is there whatever the coefficients.
        terms: F of them.
    """

    base: GaussianProblem
    terms: tuple[CostTerm, ...]

    def at(self, coefficients: Tensor) -> GaussianProblem:
        """The problem with coefficients [F]; gradients pass."""
        base = self.base
        cost, linear, constant = base.cost, base.linear, base.constant
        P, p, rho = base.final
        for weight, term in zip(coefficients, self.terms, strict=True):
            cost, linear, constant = (
                cost + weight * term.cost,
                linear + weight * term.linear,
                constant + weight * term.constant,
            )
            P, p, rho = P + weight * term.final.P, p + weight * term.final.p, rho + weight * term.final.rho
        return dataclasses.replace(base, cost=cost, linear=linear, constant=constant, final=Quadratic(P, p, rho))


def cost_term(problem: GaussianProblem) -> CostTerm:
    """The costs of a problem by themselves."""
    return CostTerm(problem.cost, problem.linear, problem.constant, problem.final)


def family_around(
    problem: PlanningProblem,
    features: Sequence[tuple[Paid | None, Callable[[Tensor], Tensor] | None]],
    states: Tensor,
    actions: Tensor,
) -> Family:
    """The problems around demonstrations, of batch shape [N].

    Args:
        problem: the model, with the reward that is paid whatever the coefficients.
        features: (reward of a step, reward of s_{T+1}) of each feature, in reward units.
        states: [N, T + 1, n].
        actions: [N, T, m].
    """
    asked = [problem, *(feature_problem(problem, *feature) for feature in features)]
    worlds = [
        [world_around(one, s, a, expand(one, s, a, projected=False)) for s, a in zip(states, actions, strict=True)]
        for one in asked
    ]
    base, *others = (_side_by_side(row) for row in worlds)
    return Family(base, tuple(cost_term(other) for other in others))


def feature_problem(
    problem: PlanningProblem, paid: Paid | None, final: Callable[[Tensor], Tensor] | None
) -> PlanningProblem:
    """The problem with the costs of one feature alone."""

    def nothing(state: Tensor, action: Tensor, t: Times) -> Tensor:
        return 0.0 * state.sum(-1)

    def cost(state: Tensor) -> Tensor:
        return 0.0 * state.sum(-1) if final is None else -final(state)

    return dataclasses.replace(problem, reward=nothing if paid is None else paid, final_cost=cost, prior=None)


def _side_by_side(problems: list[GaussianProblem]) -> GaussianProblem:
    """One problem of a batch."""
    first = problems[0]

    def joined(parts: list[Tensor]) -> Tensor:
        return torch.stack(parts)

    names = ("A", "B", "offset", "noise", "cost", "linear", "constant", "mean", "covariance")
    parts: dict[str, Any] = {name: joined([getattr(problem, name) for problem in problems]) for name in names}
    final = Quadratic(*(joined([problem.final[i] for problem in problems]) for i in range(3)))
    prior = None
    if first.prior is not None:
        prior = GaussianPrior(*(part[None] for part in first.prior))
    return dataclasses.replace(first, **parts, final=final, prior=prior)
