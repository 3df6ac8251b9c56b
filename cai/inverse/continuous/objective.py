"""The likelihood of demonstrations on vectors: Gaussian policies of linear-quadratic problems, exact derivatives.

    log pi_w(a_t | s_t) = -1/2 (a - K s - k)' (Haa / alpha) (a - K s - k) + 1/2 log|Haa| - m/2 log(2 pi alpha)

with K, k and Haa of the soft Riccati recursion for fixed dynamics. Its gradient passes through the messages; scores
and Hessian are further passes of the same kind, and no differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cai.inference.gaussian.messages import backward
from cai.inference.gaussian.problem import times
from cai.inference.planning.demonstrated import Family
from cai.inverse.continuous.base import ContinuousObjective
from cai.models.demonstrations.continuous import ContinuousDemonstrations

__all__ = ["GaussianObjective"]


class GaussianObjective(ContinuousObjective):
    """The log-likelihood of demonstrations on vectors as a function of the coefficients of a reward.

    Args:
        family: the linear-quadratic problems, one for all demonstrations or one for each.
        demonstrations: what was shown.
        names: F names.
        start: [F].
        fitted: coefficients -> the model.
        read: (demonstrations, center) -> the objective of other demonstrations, its local models around them, or around
            a center (states [N, T + 1, n], actions [N, T, m]).
    """

    def __init__(
        self,
        family: Family,
        demonstrations: ContinuousDemonstrations,
        names: Sequence[str],
        start: Tensor,
        fitted: Callable[[Tensor], Any],
        read: Callable[..., GaussianObjective],
    ) -> None:
        super().__init__(demonstrations, names, start, fitted, read)
        self.family = family

    # ---- values and derivatives ---------------------------------------------------------------------------------

    def _log_probs(self, coefficients: Tensor) -> Tensor | None:
        """[N], with a history; None where a step has no Gaussian policy."""
        problem = self.family.at(coefficients)
        messages = backward(problem, 0.0)
        if not bool(messages.chosen.all()) or not bool(torch.isfinite(messages.gain).all()):
            return None
        states, actions = self.demonstrations.states, self.demonstrations.actions
        steps, m = actions.shape[-2:]
        gain, offset, root = (
            part[..., :steps, :, :] for part in (messages.gain, messages.offset[..., None], messages.root)
        )
        apart = actions - times(gain, states[:, :-1]) - offset[..., 0]
        scaled = times(root.mT, apart).square().sum((-1, -2)) / problem.temperature
        width = root.diagonal(dim1=-2, dim2=-1).log().sum((-1, -2))
        found = width - scaled / 2 - steps * m / 2 * (2 * math.pi * problem.temperature).log()
        return found if bool(torch.isfinite(found).all()) else None

    def evaluate(self, coefficients: Tensor) -> tuple[float, Tensor] | None:
        """The weighted log-likelihood in nats and its gradient [F]; None where there is no Gaussian policy."""
        with torch.enable_grad():
            leaf = coefficients.detach().clone().requires_grad_()
            found = self._log_probs(leaf)
            if found is None:
                return None
            total = self.weights @ found
            (slope,) = torch.autograd.grad(total, leaf)
        return (float(total.detach()), slope) if bool(torch.isfinite(slope).all()) else None

    def scores(self, coefficients: Tensor) -> Tensor:
        """[N, F], the gradient of each demonstration's log-likelihood, unweighted."""
        with torch.enable_grad():
            leaf = coefficients.detach().clone().requires_grad_()
            found = self._feasible(leaf)
            shares = torch.ones_like(found, requires_grad=True)  # the gradient is linear in these
            (slope,) = torch.autograd.grad(found, leaf, shares, create_graph=True)
            columns = [torch.autograd.grad(part, shares, retain_graph=True)[0] for part in slope]
        return torch.stack(columns, -1)

    def hessian(self, coefficients: Tensor) -> Tensor:
        """[F, F], of the weighted log-likelihood."""
        with torch.enable_grad():
            leaf = coefficients.detach().clone().requires_grad_()
            total = self.weights @ self._feasible(leaf)
            (slope,) = torch.autograd.grad(total, leaf, create_graph=True)
            rows = [torch.autograd.grad(part, leaf, retain_graph=True)[0] for part in slope]
        found = torch.stack(rows)
        return (found + found.T) / 2

    def _feasible(self, leaf: Tensor) -> Tensor:
        found = self._log_probs(leaf)
        if found is None:
            raise ValueError(f"the coefficients {leaf.tolist()} are infeasible, where there are no derivatives")
        return found

    def around(
        self, demonstrations: ContinuousDemonstrations, center: tuple[Tensor, Tensor] | None
    ) -> GaussianObjective:
        """The objective of other demonstrations, its local models around them or around other trajectories."""
        return self._read(demonstrations, center)
