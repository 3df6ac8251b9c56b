"""The likelihood of demonstrations under the local Gaussian policies around best plans, and its exact derivatives.

    log pi_w(a_t | s_t) = 1/2 log|Haa / (2 pi alpha)| - (a - a* - K (s - s*))' Haa (a - a* - K (s - s*)) / (2 alpha)

with (s*, a*) the plan of coefficients w from where a demonstration begins, the local optimum next to it, and K and Haa
of the quadratic model of `ilqr` around that plan (Levine and Koltun 2012 expand around the demonstration instead, which
is the same where rewards are quadratic and dynamics linear between the two). As w moves, the plan moves by the implicit
function theorem, and K and Haa with it, so third derivatives of costs and second ones of dynamics are part of scores.

In place of the Hessian there is minus the information, E[scores scores'] given the states that were shown, which for
Gaussians is known:

    I_fg = sum_t d_f mu' Haa d_g mu / alpha + 1/2 tr(Haa^-1 d_f Haa Haa^-1 d_g Haa),   mu = a* + K (s - s*)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cai.inference.gaussian.problem import times
from cai.inference.planning.derivatives import expand, project
from cai.inference.planning.local_optima import (
    LocalOptima,
    local_optima,
    moved_by,
    projected_slope,
    slopes_along,
)
from cai.inference.planning.problem import PlanningProblem
from cai.inverse.continuous.base import ContinuousObjective
from cai.models.demonstrations.continuous import ContinuousDemonstrations

__all__ = ["PlannedObjective"]

NEARBY = 40  # damped steps from one plan to the next, where there may be none; as many as it takes lead to the first
SAME = 1e-6  # between two plans from one start, relative to the larger one


@dataclass(frozen=True, eq=False)
class _Local:
    """The policies around the plans of some coefficients, and how they move with these.

    Attributes:
        problem: with these coefficients.
        features: F problems, each with the cost of one feature.
        plans: R of them.
    """

    problem: PlanningProblem
    features: Sequence[PlanningProblem]
    plans: LocalOptima

    @cached_property
    def policy(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """(K [R, T, m, n], Haa [R, T, m, m], P of s_1 .. s_{T+1})."""
        local, n, horizon = self.plans.local, self.problem.state_dim, self.problem.horizon
        costs, P = project(local.hessian), project(local.final_hessian)
        gains, stages, going = [], [], [P]
        for t in reversed(range(horizon)):
            F = local.slope[:, t]
            H = costs[:, t] + self._kept(t) * F.mT @ P @ F
            root, _ = torch.linalg.cholesky_ex(H[:, n:, n:])
            gains.append(-torch.cholesky_solve(H[:, n:, :n], root))
            stages.append(H[:, n:, n:])
            P = H[:, :n, :n] + H[:, :n, n:] @ gains[-1]
            P = (P + P.mT) / 2
            going.append(P)
        return torch.stack(gains[::-1], 1), torch.stack(stages[::-1], 1), going[::-1]

    def _kept(self, t: int) -> float:
        return self.problem.discount if t < self.problem.horizon - 1 else 1.0

    @cached_property
    def slopes(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Derivatives by the coefficients: of s* [R, F, T, n], a* [R, F, T, m], K and Haa [R, F, T, ...]."""
        n, plans = self.problem.state_dim, self.plans
        own = [expand(one, plans.states, plans.actions, projected=False) for one in self.features]
        gradients = torch.stack([each.gradient for each in own], 1)
        finals = torch.stack([each.final_gradient for each in own], 1)
        states, actions = moved_by(self.problem, plans, gradients, finals)
        of_slope, of_cost, of_final = slopes_along(self.problem, plans, states, actions)
        of_cost = of_cost + torch.stack([each.hessian for each in own], 1)
        of_final = of_final + torch.stack([each.final_hessian for each in own], 1)
        of_cost = projected_slope(plans.local.hessian[:, None], of_cost)
        dP = projected_slope(plans.local.final_hessian[:, None], of_final)
        gains, stages, going = self.policy
        of_gains, of_stages = [], []
        for t in reversed(range(self.problem.horizon)):
            F, dF, P, K = plans.local.slope[:, None, t], of_slope[:, :, t], going[t + 1][:, None], gains[:, None, t]
            bent = F.mT @ P @ dF
            dH = of_cost[:, :, t] + self._kept(t) * (bent + bent.mT + F.mT @ dP @ F)
            right = dH[..., n:, :n] + dH[..., n:, n:] @ K
            of_gains.append(-torch.linalg.solve(stages[:, None, t], right))
            of_stages.append(dH[..., n:, n:])
            dP = dH[..., :n, :n] + K.mT @ dH[..., n:, :n] + dH[..., :n, n:] @ K + K.mT @ dH[..., n:, n:] @ K
        return states[..., :-1, :], actions, torch.stack(of_gains[::-1], 2), torch.stack(of_stages[::-1], 2)


class PlannedObjective(ContinuousObjective):
    """The log-likelihood of demonstrations of a `ContinuousModel` as a function of the coefficients of its features.

    Args:
        problem: (coefficients) -> the planning problem with them.
        features: F problems, each with the cost of one feature alone.
        demonstrations: what was shown.
        names: F names.
        start: [F].
        fitted: coefficients -> the model.
        read: demonstrations -> the objective of others.
    """

    def __init__(
        self,
        problem: Callable[[Tensor], PlanningProblem],
        features: Sequence[PlanningProblem],
        demonstrations: ContinuousDemonstrations,
        names: Sequence[str],
        start: Tensor,
        fitted: Callable[[Tensor], Any],
        read: Callable[..., Any],
    ) -> None:
        super().__init__(demonstrations, names, start, fitted, read)
        self._problem, self._features = problem, features
        self._rows = torch.arange(len(demonstrations))  # of each demonstration, which of the plans
        self._near: LocalOptima | None = None
        self._known: tuple[bytes, _Local | None] | None = None

    def _at(self, coefficients: Tensor) -> _Local | None:
        """The policies around the plans that are next to the demonstrations, or to the plans that were found last."""
        key = coefficients.detach().numpy().tobytes()
        if self._known is None or self._known[0] != key:
            self._known = key, self._found(coefficients.detach())
        return self._known[1]

    def _found(self, coefficients: Tensor) -> _Local | None:
        problem = self._problem(coefficients)
        if self._near is None:
            plans = self._first(problem)
        else:
            starts, actions = self._near.states[:, 0], self._near.actions
            plans = local_optima(problem, starts, actions, search=False)
            plans = local_optima(problem, starts, actions, damped=NEARBY) if plans is None else plans
        if plans is None:
            return None
        found = _Local(problem, self._features, plans)
        with torch.no_grad():
            gains, stages, _ = found.policy
        sound = bool(torch.isfinite(gains).all()) and bool((torch.linalg.eigvalsh(stages)[..., 0] > 0).all())
        if not sound:
            return None
        self._near = plans
        return found

    def _first(self, problem: PlanningProblem) -> LocalOptima | None:
        """Plans from the actions that were shown; what is the same for several demonstrations is kept once."""
        shown = self.demonstrations
        plans = local_optima(problem, shown.states[:, 0], shown.actions)
        if plans is None:
            return None
        kept, rows = list[int](), list[int]()
        for i, path in enumerate(plans.states):
            size = path.abs().amax(-2)
            like = [j for j, k in enumerate(kept) if bool(((path - plans.states[k]).abs() <= SAME * size).all())]
            rows.append(like[0] if like else len(kept))
            kept += [] if like else [i]
        self._rows = torch.tensor(rows)
        return plans.select(torch.tensor(kept))

    def _apart(self, found: _Local) -> tuple[Tensor, Tensor]:
        """(s - s* [N, T, n], a - mu [N, T, m])."""
        shown, rows = self.demonstrations, self._rows
        away = shown.states[:, :-1] - found.plans.states[rows, :-1]
        return away, shown.actions - found.plans.actions[rows] - times(found.policy[0][rows], away)

    @torch.no_grad()
    def _log_probs(self, coefficients: Tensor) -> Tensor | None:
        found = self._at(coefficients)
        if found is None:
            return None
        alpha, (_, apart) = found.problem.temperature, self._apart(found)
        stages = found.policy[1]
        widths = torch.linalg.slogdet(stages)[1].sum(-1) / 2
        squares = (apart * times(stages[self._rows], apart)).sum((-2, -1)) / alpha
        number = apart.shape[-2] * apart.shape[-1]
        logs = widths[self._rows] - squares / 2 - number / 2 * math.log(2 * math.pi * alpha)
        return logs if bool(torch.isfinite(logs).all()) else None

    def evaluate(self, coefficients: Tensor) -> tuple[float, Tensor] | None:
        """The weighted log-likelihood in nats and its gradient [F]; None where there is no plan with a policy."""
        found = self._log_probs(coefficients)
        if found is None:
            return None
        slope = self.weights @ self.scores(coefficients)
        return (float(self.weights @ found), slope) if bool(torch.isfinite(slope).all()) else None

    def _moves(self, coefficients: Tensor) -> tuple[_Local, Tensor, Tensor, Tensor]:
        """(policies, a - mu [N, T, m], d mu [N, F, T, m], Haa^-1 d Haa [R, F, T, m, m])."""
        found = self._at(coefficients)
        if found is None:
            raise ValueError(f"the coefficients {coefficients.tolist()} are infeasible, where there are no derivatives")
        away, apart = self._apart(found)
        states, actions, gains, stages = (part for part in found.slopes)
        rows, gain = self._rows, found.policy[0][self._rows][:, None]
        means = actions[rows] + times(gains[rows], away[:, None]) - times(gain, states[rows])
        return found, apart, means, torch.linalg.solve(found.policy[1][:, None], stages)

    @torch.no_grad()
    def scores(self, coefficients: Tensor) -> Tensor:
        """[N, F], the gradient of each demonstration's log-likelihood, unweighted."""
        found, apart, means, shares = self._moves(coefficients)
        alpha, pulled = found.problem.temperature, times(found.policy[1][self._rows], apart)[:, None]
        widths = shares.diagonal(dim1=-2, dim2=-1).sum((-2, -1)) / 2
        squares = (pulled * times(shares[self._rows], apart[:, None])).sum((-2, -1))
        return widths[self._rows] + ((means * pulled).sum((-2, -1)) - squares / 2) / alpha

    @torch.no_grad()
    def hessian(self, coefficients: Tensor) -> Tensor:
        """[F, F], what is expected of it given the states that were shown."""
        found, _, means, shares = self._moves(coefficients)
        pulled = times(found.policy[1][self._rows][:, None], means) / found.problem.temperature
        of_means = torch.einsum("n,nftm,ngtm->fg", self.weights, means, pulled)
        each = torch.einsum("rftij,rgtji->rfg", shares, shares) / 2
        counts = torch.zeros(len(each), dtype=self.weights.dtype).index_add_(0, self._rows, self.weights)
        total = of_means + torch.einsum("r,rfg->fg", counts, each)
        return -(total + total.T) / 2
