"""Infinite horizons: backups run to a tolerance, under the conditions that make them settle (`conditions`).

Newton steps solve systems of [S, S] as `linear_systems` decides. Without a discount news crosses a large
world one step a backup. So above 1,000 live states, where an end is assured, the iteration begins near its answer and
with Newton steps at once: at the linear solution, where one solve gives all values (the exact target, and any soft one
where every action has one next state), else at the best paths. On a road network of 300,000 states these are a few
sparse factorisations of 3 s each, in place of more than a thousand backups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.status import Status
from cai.inference.tabular.backward import Messages
from cai.inference.tabular.recursion import Recursion
from cai.inference.tabular.stationary.chains import ChainSystems
from cai.inference.tabular.stationary.convergence import Conditions, conditions_of, first_values
from cai.inference.tabular.stationary.linear_systems import LinearSystem
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Settling", "stationary_messages"]

ROUNDING = 1e-13  # changes below this, relative to the largest value, are those of rounding
PATIENCE = 200  # plain backups before Newton steps are tried
HISTORY = 10_000  # changes that are kept
ULPS = 8 * torch.finfo(torch.float64).eps  # a change of so little, relative to the largest value, is rounding alone
FAR = 1e12  # changes ahead at which growth is looked for
NEWTON_STEPS = 50


@dataclass(frozen=True)
class Settling:
    """When an iteration over an infinite horizon stops.

    Attributes:
        tolerance: in nats, relative to the largest value once that exceeds 1.
        max_iterations: the most backups.
        accelerate: whether Newton steps may shorten what has not settled after 200 backups, and large worlds begin near
            their answer.
    """

    tolerance: float = 1e-10
    max_iterations: int = 1_000_000
    accelerate: bool = True


def stationary_messages(
    model: TrajectoryModel, recursion: Recursion, settling: Settling
) -> tuple[Messages, Status, dict[str, Any]]:
    """Iterates a backup until its values stand still, then attaches their gradients.

    Discounted fixed dynamics contract by gamma, so the error left is at most the last change times gamma / (1 - gamma).
    Elsewhere every state's own ratio of successive changes stands for the rate: a state that has only begun to change
    has none yet, so nothing stops before news has been everywhere. (A backup never enlarges the largest change.)

    Newton steps solve the linear system that the backup is at the current policy and dynamics (soft policy iteration).
    Near the answer the length of such a step is the error that is left, so the iteration also ends when that is within
    the tolerance. A step that does not shrink the largest change is taken back.

    Where nothing assures an end, growth is looked for: values that still move as they do, however far they are pushed
    along, have no limit.

    Returns:
        Messages with one step, the status, and details: "steps" (backups), "newton_steps", "rate" (the bound on the
        linear rate: gamma, or gamma rho(M); None where it is not known), "contracts" (whether the rate bounds every
        backup, and not just the end), "change" (the largest of the last backup) and "changes" (those of all backups,
        up to 10,000); "why", where it diverged.
    """
    conditions = conditions_of(model, recursion)
    iteration = _Iteration(model, recursion, settling, conditions)
    status = Status.DIVERGED if conditions.why else iteration.run()
    values = iteration.with_gradients() if status.ok else iteration.values
    q_values = recursion.backup(model, values, 0)
    policy = recursion.choice(model, q_values, model.log_action_prior)[1]
    start = recursion.start(model, values)
    details: dict[str, Any] = {
        "steps": iteration.step,
        "newton_steps": iteration.jumps,
        "rate": conditions.rate,
        "contracts": conditions.contracts,
        "change": float(iteration.change.max()),
        "changes": tuple(iteration.changes[:HISTORY]),
    }
    if status is Status.DIVERGED:
        details["why"] = conditions.why or f"values still grew after {iteration.step} backups, however far they were"
    found = Messages(values=torch.stack([values, values]), q_values=q_values[None], policy=policy[None], start=start)
    return found, status, details


class _Iteration:
    """Backups of one model, and the Newton steps between them."""

    def __init__(
        self, model: TrajectoryModel, recursion: Recursion, settling: Settling, conditions: Conditions
    ) -> None:
        self.model, self.recursion, self.settling, self.conditions = model, recursion, settling, conditions
        self.values, self.near = first_values(model, recursion, conditions, settling.accelerate)
        self.chains: ChainSystems | None = None
        self.change = torch.full_like(self.values, math.inf)
        self.speed = torch.zeros_like(
            self.values
        )  # of each state: the last ratio of its changes that stood above rounding
        self.step = self.jumps = 0
        self.changes: list[float] = []

    def run(self) -> Status:
        """Backs up until the error left is within the tolerance."""
        while self.step < self.settling.max_iterations:
            self._backup()
            if self._error_left() <= self.settling.tolerance * self._size():
                return Status.SUCCESS
            power_of_two = self.step & (self.step - 1) == 0
            if (
                not self.conditions.assured
                and power_of_two
                and self.step >= 8
                and self._grows(min(self.step // 2, 128))
            ):
                return Status.DIVERGED
            patient = self.step >= PATIENCE and power_of_two | (self.step == PATIENCE)
            if (self.near and self.step == 1) or (self.settling.accelerate and patient):
                status = self._jump()
                if status is not None:
                    return status
        return Status.NOT_CONVERGED

    def _backup(self) -> None:
        with torch.no_grad():
            following = _advance(self.model, self.recursion, self.values)
        previous, self.change = self.change, _change(following, self.values)
        told = torch.isfinite(previous) & (previous > ROUNDING * self._size())
        fresh = torch.where(self.change > 0, torch.full_like(self.change, math.inf), self.speed)
        begun = torch.isinf(previous) | (previous == 0)
        ratio = self.change / torch.where(told, previous, torch.ones_like(previous))
        self.speed = torch.where(told, ratio, torch.where(begun, fresh, self.speed))
        self.values, self.step = following, self.step + 1
        self.changes.append(float(self.change.max()))

    def _size(self) -> float:
        finite = self.values[torch.isfinite(self.values)]
        return max(1.0, float(finite.abs().max()) if finite.numel() else 1.0)

    def _error_left(self) -> float:
        """What the values may still move by, in nats; rounding counts as long as its effect is not known to fade."""
        speed = self.speed
        if self.conditions.contracts:
            speed = torch.full_like(speed, self.conditions.rate or 0.0)
        moves = torch.maximum(
            self.change, torch.where(self.change > 0, torch.full_like(speed, ULPS * self._size()), speed * 0)
        )
        left = torch.where(speed < 1, moves * speed / (1 - speed), torch.full_like(moves, math.inf))
        left = torch.where(self.change == 0, torch.zeros_like(left), left)
        return float(left.nan_to_num(math.inf).max())

    def _grows(self, count: int) -> bool:
        """Whether the states that move most in so many backups would move on as they do, however far along they are."""
        with torch.no_grad():
            moved = self._moved(self.values, count)
            counts = torch.isfinite(moved)
            size = torch.where(counts, moved.abs(), torch.zeros_like(moved))
            largest = float(size.max())
            if largest <= ROUNDING * self._size():
                return False
            sign = float(moved[int(size.argmax())].sign())
            leading = counts & (sign * moved >= 0.5 * largest)
            far = self.values + torch.where(leading, sign * FAR * largest, 0.0)
            return bool((sign * self._moved(far, count) >= 0.5 * sign * moved)[leading].all())

    def _moved(self, values: Tensor, count: int) -> Tensor:
        """What so many backups change, [S]; NaN where a value is infinite."""
        following = values
        for _ in range(count):
            following = _advance(self.model, self.recursion, following)
        return following - values

    def _jump(self) -> Status | None:
        """Newton steps from here, for as long as they help; a status if they settle the matter."""
        start, length = self.values, math.inf
        for _ in range(NEWTON_STEPS):
            if not self.conditions.assured and self._grows(1):
                return Status.DIVERGED
            leap = self._newton_step()
            if leap is None:
                break
            self.jumps += 1
            values, before = self.values, float(self.change.max())
            self.values = self.values + leap
            self.change = torch.full_like(self.change, math.inf)  # a jump says nothing of the rate
            self._backup()
            earlier, length, size = length, float(leap.abs().max()), self._size()
            closes = earlier <= 1e-3 * size or math.isinf(earlier)  # where values grow like log n, steps stay about 1
            if length <= self.settling.tolerance * size and closes:
                return Status.SUCCESS
            if float(self.change.max()) >= before:
                self.values = values
                if closes and length <= 1e-6 * size and before <= ULPS * size:
                    return Status.SUCCESS  # as close as rounding allows
                break
        self.values = start  # the steps led nowhere
        self.change = torch.full_like(self.change, math.inf)
        return None

    def _slope(self) -> tuple[LinearSystem, ChainSystems]:
        """1 - F'(v) on the states that count, and which these are.

        F'(s, s') is the probability under q of going on from s to s', so it serves Newton steps and every gradient.
        """
        model, recursion, values = self.model, self.recursion, self.values
        q_values = recursion.backup(model, values, 0)
        policy = recursion.choice(model, q_values, model.log_action_prior)[1]
        dynamics = recursion.beliefs(model, torch.stack([values, values]))[1]
        counts = model.live & torch.isfinite(values)
        if self.chains is None or not torch.equal(self.chains.counts, counts):
            self.chains = ChainSystems(model, counts)
        return self.chains.system(policy[..., None] * dynamics.outcomes(0)[0]), self.chains

    def _newton_step(self) -> Tensor | None:
        """[S], (1 - F'(v))^-1 (F(v) - v), or None where that is no step."""
        with torch.no_grad():
            system, chains = self._slope()
            difference = (_advance(self.model, self.recursion, self.values) - self.values)[chains.counts]
            if not bool(torch.isfinite(difference).all()):
                return None
            try:
                solved = system.solve(difference)
            except ArithmeticError:
                return None
            return chains.spread(solved) if bool(torch.isfinite(solved).all()) else None

    def with_gradients(self) -> Tensor:
        """The fixed point v = F(v) with the derivative that the implicit function theorem gives it, (1 - F')^-1 dF.

        Raises:
            ValueError: if 1 - F' is singular as far as float64 can tell, so that v has no derivative.
        """
        if not torch.is_grad_enabled():
            return self.values
        moved = _advance(self.model, self.recursion, self.values)
        if not moved.requires_grad:
            return self.values
        with torch.no_grad():
            system, chains = self._slope()
        difference = moved[chains.counts] - moved[chains.counts].detach()
        try:
            return self.values + chains.spread(system.solve(difference))
        except ArithmeticError as error:
            raise ValueError(
                f"the gradient over this infinite horizon is not known: {error}; give a lower discount or a finite "
                "horizon, or ask under torch.no_grad()"
            ) from None


def _advance(model: TrajectoryModel, recursion: Recursion, values: Tensor) -> Tensor:
    """One backup of values [S] and the choice on it."""
    return recursion.choice(model, recursion.backup(model, values, 0), model.log_action_prior)[0]


def _change(left: Tensor, right: Tensor) -> Tensor:
    """[S], |left - right|, 0 where both are the same infinity."""
    return torch.where(left == right, torch.zeros_like(left), (left - right).abs()).nan_to_num(torch.inf)
