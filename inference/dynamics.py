"""What q believes of the world: q(s_{t+1} | s_t, a_t) over the listed outcomes, true, tilted or given as tables."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cai.models.numerics import categorical_divergence, divergence_from_ratio, safe_log, tilted_log_ratio
from cai.models.trajectory import TrajectoryModel

__all__ = ["FixedDynamics", "OutcomeDynamics", "TableDynamics", "TiltedDynamics", "tilted_start"]


class OutcomeDynamics:
    """q(s_{t+1} | s_t, a_t) over the listed outcomes, the rest being the fall into the absorbing state."""

    def __init__(self, model: TrajectoryModel) -> None:
        self.model = model

    def outcomes(self, t: int) -> tuple[Tensor, Tensor]:
        """(alive [S, A, K], fallen [S, A, K]): the chance that an outcome happens and the chain goes on, or falls."""
        raise NotImplementedError

    def divergence(self, t: int) -> Tensor:
        """[S, A], KL of the step's dynamics from the true ones, in nats."""
        raise NotImplementedError


class FixedDynamics(OutcomeDynamics):
    """The true dynamics, discount included."""

    def outcomes(self, t: int) -> tuple[Tensor, Tensor]:
        model = self.model
        stays = model.survival[:, None, None]
        return model.mdp.probabilities * stays, model.mdp.probabilities * (1 - stays)

    def divergence(self, t: int) -> Tensor:
        return torch.zeros(self.model.mdp.num_states, self.model.mdp.num_actions, dtype=torch.float64)


class TiltedDynamics(OutcomeDynamics):
    """Dynamics bent towards what is worth more: q_k proportional to p_k e^{eta (rho_k + v(s'_k))}, falls included.

    With eta = 1 these are the dynamics given optimality, p(s_{t+1} | s_t, a_t, O_{1:T}) (Levine 2018, section 2.4);
    eta = 0 leaves the true ones, eta < 0 bends towards what is worth less, and eta = +-inf leaves the best or worst
    outcomes alone, in their true proportions. Where nothing can be hoped for, the true ones stand.

    Args:
        model: the trajectory model.
        values: [T + 1, S], backward messages in nats.
        q_values: [T, S, A], the certainty equivalents of rho + v under the true dynamics, in nats.
        eta: the tilt.
    """

    def __init__(self, model: TrajectoryModel, values: Tensor, q_values: Tensor, eta: float) -> None:
        super().__init__(model)
        self.values = values
        self.q_values = q_values
        self.eta = eta

    def _log_ratios(self, t: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(true alive, true fallen, log of q over each of the two), all [S, A, K]."""
        model = self.model
        alive, fallen = FixedDynamics(model).outcomes(t)
        lost = model.reward_table(t) / model.temperature
        kept = (lost + model.mdp.gather(self.values[t + 1])).expand(alive.shape)
        worth, weights = torch.cat([kept, lost.expand(alive.shape)], -1), torch.cat([alive, fallen], -1)
        ratios = self._extremes(worth, weights) if math.isinf(self.eta) else tilted_log_ratio(weights, worth, self.eta)
        applies = (model.live[:, None] & torch.isfinite(self.q_values[t]))[..., None]
        ratio_alive, ratio_fallen = torch.where(applies, ratios, torch.zeros_like(ratios)).split(alive.shape[-1], -1)
        return alive, fallen, ratio_alive, ratio_fallen

    def _extremes(self, worth: Tensor, weights: Tensor) -> Tensor:
        """Log ratios that leave the outcomes alone whose worth is the largest (eta = inf) or the smallest."""
        sign = 1.0 if self.eta > 0 else -1.0
        off = torch.where(weights > 0, sign * worth, torch.full_like(worth, -torch.inf))
        best = off.amax(-1, keepdim=True)
        slack = 1e-12 * best.abs().clamp(min=1.0)
        mass = torch.where(off >= best - slack, weights, torch.zeros_like(weights))
        return torch.where(mass > 0, -safe_log(mass.sum(-1, keepdim=True)), torch.full_like(worth, -torch.inf))

    def outcomes(self, t: int) -> tuple[Tensor, Tensor]:
        alive, fallen, ratio_alive, ratio_fallen = self._log_ratios(t)
        alive = (safe_log(alive) + ratio_alive).exp()
        fallen = (safe_log(fallen) + ratio_fallen).exp()
        total = (alive + fallen).sum(-1, keepdim=True)
        return alive / total, fallen / total

    def divergence(self, t: int) -> Tensor:
        alive, fallen, ratio_alive, ratio_fallen = self._log_ratios(t)
        true, ratio = torch.cat([alive, fallen], -1), torch.cat([ratio_alive, ratio_fallen], -1)
        return divergence_from_ratio(true, torch.where(true > 0, ratio, torch.zeros_like(ratio)))


def tilted_start(model: TrajectoryModel, values: Tensor, eta: float) -> Tensor:
    """[S], q(s_1) proportional to p(s_1) e^{eta v(s_1)}, as `TiltedDynamics`; p(s_1) where nothing can be hoped for."""
    initial = model.mdp.initial
    possible = (initial > 0) & torch.isfinite(values)
    if not bool(possible.any()):
        return initial
    if math.isinf(eta):
        sign = 1.0 if eta > 0 else -1.0
        off = torch.where(possible, sign * values.detach(), torch.full_like(values, -torch.inf))
        slack = 1e-12 * float(off.max().abs().clamp(min=1.0))
        weights = torch.where(off >= off.max() - slack, initial, torch.zeros_like(initial))
    else:
        weights = (safe_log(initial) + tilted_log_ratio(initial, values, eta)).exp()
    return weights / weights.sum()


class TableDynamics(OutcomeDynamics):
    """Dynamics given as tables for each step.

    Args:
        model: the trajectory model.
        tables: T pairs (alive [S, A, K], fallen [S, A, K]) as `outcomes` returns them.
    """

    def __init__(self, model: TrajectoryModel, tables: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__(model)
        self.tables = tables

    def outcomes(self, t: int) -> tuple[Tensor, Tensor]:
        return self.tables[t]

    def divergence(self, t: int) -> Tensor:
        return _outcome_divergence(self, t)


def _outcome_divergence(dynamics: OutcomeDynamics, t: int) -> Tensor:
    prior = torch.cat(FixedDynamics(dynamics.model).outcomes(t), -1)
    return categorical_divergence(torch.cat(dynamics.outcomes(t), -1), prior)
