"""Infinite horizons: backups run to a tolerance, under the conditions that make them settle.

Fixed dynamics: gamma < 1 (the soft backup is then a contraction, Haarnoja 2017, appendix A.2), or strictly negative
live rewards and a terminal state within reach. Exact target: gamma rho(M) < 1 on the live states, where
M(s, s') = sum_a p(a|s) p(s'|s,a) e^{r / alpha}, because e^v solves a linear system in M. Other tilts have no condition
that is easy to check: there the growth of the values is watched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.inference.chain import SOLVE_LIMIT, always_ends, reaches_terminal, transition_matrix
from cai.inference.messages import Messages, Recursion, soft_policy
from cai.inference.status import Status
from cai.models.numerics import expectation, safe_log, safe_logsumexp
from cai.models.trajectory import TrajectoryModel

__all__ = ["Settling", "spectral_radius", "stationary_messages"]

ROUNDING = 1e-13  # changes below this, relative to the largest value, are those of rounding
PATIENCE = 200  # plain backups before Newton steps are tried
EIGENVALUE_LIMIT = 1000  # live states up to which rho(M) is computed; beyond, growth is watched instead
HISTORY = 10_000  # changes that are kept
NARROW = 30.0  # nats between the entries of M, up to which its eigenvalues need no scaling
ULPS = 8 * torch.finfo(torch.float64).eps  # a change of so little, relative to the largest value, is rounding alone
FAR = 1e12  # changes ahead at which growth is looked for
NEWTON_STEPS = 50


@dataclass(frozen=True)
class Settling:
    """When an iteration over an infinite horizon stops.

    Attributes:
        tolerance: in nats, relative to the largest value once that exceeds 1.
        max_steps: the most backups.
        accelerate: whether Newton steps may shorten what has not settled after 200 backups.
    """

    tolerance: float = 1e-10
    max_steps: int = 1_000_000
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
    conditions = _conditions(model, recursion)
    iteration = _Iteration(model, recursion, settling, conditions)
    status = Status.DIVERGED if conditions.why else iteration.run()
    values = _with_gradients(model, recursion, iteration.values) if status.ok else iteration.values
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
    return Messages(torch.stack([values, values]), q_values[None], policy[None], start), status, details


class _Iteration:
    """Backups of one model, and the Newton steps between them."""

    def __init__(
        self, model: TrajectoryModel, recursion: Recursion, settling: Settling, conditions: _Conditions
    ) -> None:
        self.model, self.recursion, self.settling, self.conditions = model, recursion, settling, conditions
        num_states = model.mdp.num_states
        reaches = reaches_terminal(model) if model.discount == 1 else torch.ones(num_states, dtype=torch.bool)
        zeros = torch.zeros(num_states, dtype=torch.float64)
        self.values = torch.where(reaches, zeros, torch.full_like(zeros, -torch.inf))
        self.change = torch.full_like(zeros, math.inf)
        self.speed = zeros  # of each state: the last ratio of its changes that stood above rounding
        self.step = self.jumps = 0
        self.changes: list[float] = []

    def run(self) -> Status:
        """Backs up until the error left is within the tolerance."""
        accelerates = self.settling.accelerate and self.model.mdp.num_states <= SOLVE_LIMIT
        while self.step < self.settling.max_steps:
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
            if accelerates and self.step >= PATIENCE and power_of_two | (self.step == PATIENCE):
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
            leap = _newton_step(self.model, self.recursion, self.values)
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


@dataclass(frozen=True)
class _Conditions:
    """What is known of an iteration beforehand.

    Attributes:
        rate: bound on its linear rate, or None.
        contracts: whether every backup contracts by it in the sup norm.
        assured: whether it is known to settle.
        why: why no stationary answer is assured; empty where nothing stands against one.
    """

    rate: float | None
    contracts: bool
    assured: bool
    why: str


def _conditions(model: TrajectoryModel, recursion: Recursion) -> _Conditions:
    soft = recursion.choice is soft_policy
    if recursion.eta == 1 and soft and int(model.live.sum()) <= EIGENVALUE_LIMIT:
        rate = spectral_radius(model)
        why = f"discount * rho(M) is {rate:.6g}" if rate >= 1 - 1e-12 else ""
        return _Conditions(rate, False, not why, why)
    if recursion.eta <= 0 and model.discount == 1:
        why = "" if always_ends(model) else _reward_not_negative(model)
        why = f"{why}, and a policy may go on for ever" if why else ""
        return _Conditions(None, False, recursion.eta == 0 and not why, why)
    if recursion.eta == 0:
        return _Conditions(model.discount, True, True, "")
    return _Conditions(None, False, False, "")


def _advance(model: TrajectoryModel, recursion: Recursion, values: Tensor) -> Tensor:
    """One backup of values [S] and the choice on it."""
    return recursion.choice(model, recursion.backup(model, values, 0), model.log_action_prior)[0]


def _slope(model: TrajectoryModel, recursion: Recursion, values: Tensor) -> tuple[Tensor, Tensor]:
    """(F'(v) on the states that count, bool [S] which these are).

    F'(s, s') is the probability under q of going on from s to s', so it serves Newton steps and every gradient.
    """
    q_values = recursion.backup(model, values, 0)
    policy = recursion.choice(model, q_values, model.log_action_prior)[1]
    dynamics = recursion.beliefs(model, torch.stack([values, values]), q_values[None])[1]
    counts = model.live & torch.isfinite(values)
    return transition_matrix(model, policy, dynamics)[counts][:, counts], counts


def _newton_step(model: TrajectoryModel, recursion: Recursion, values: Tensor) -> Tensor | None:
    """[S], (1 - F'(v))^-1 (F(v) - v), or None where that is no step."""
    with torch.no_grad():
        slope, counts = _slope(model, recursion, values)
        difference = (_advance(model, recursion, values) - values)[counts]
        system = torch.eye(slope.shape[0], dtype=torch.float64) - slope
        solved, info = torch.linalg.solve_ex(system, difference[:, None])
        if int(info) != 0 or not bool(torch.isfinite(solved).all()):
            return None
        return torch.zeros_like(values).index_add(0, torch.nonzero(counts).flatten(), solved[:, 0])


def _with_gradients(model: TrajectoryModel, recursion: Recursion, values: Tensor) -> Tensor:
    """The fixed point v = F(v) with the derivative that the implicit function theorem gives it, (1 - F')^-1 dF."""
    if not torch.is_grad_enabled():
        return values
    moved = _advance(model, recursion, values)
    if not moved.requires_grad:
        return values
    if model.mdp.num_states > SOLVE_LIMIT:
        raise ValueError(
            f"gradients over an infinite horizon solve a system of [S, S], and S = {model.mdp.num_states} is above "
            f"{SOLVE_LIMIT}; give a finite horizon, or ask under torch.no_grad()"
        )
    with torch.no_grad():
        slope, counts = _slope(model, recursion, values)
    difference = moved[counts] - moved[counts].detach()
    shift = torch.linalg.solve(torch.eye(int(counts.sum()), dtype=torch.float64) - slope, difference[:, None])[:, 0]
    return values.index_add(0, torch.nonzero(counts).flatten(), shift)


def _change(left: Tensor, right: Tensor) -> Tensor:
    """[S], |left - right|, 0 where both are the same infinity."""
    return torch.where(left == right, torch.zeros_like(left), (left - right).abs()).nan_to_num(torch.inf)


def spectral_radius(model: TrajectoryModel) -> float:
    """Gamma rho(M) on the live states, the rate at which exact messages settle over an infinite horizon.

    M's entries may lie further apart than floats do, so M is scaled to a similar matrix e^{h(s') - h(s) - c} M(s, s')
    of entries up to 1 that are 1 along a cycle: what vanishes in it does not count.
    """
    with torch.no_grad():
        log_matrix = _log_matrix(model)
        finite = log_matrix[torch.isfinite(log_matrix)]
        if not finite.numel():
            return 0.0
        shift, height = float(finite.max()), torch.zeros(len(log_matrix), dtype=torch.float64)
        if float(finite.max() - finite.min()) > NARROW:
            shift = _largest_cycle_mean(log_matrix)
            if shift == -math.inf:
                return 0.0
            height = _longest_paths(log_matrix - shift)
        matrix = (log_matrix + height - height[:, None] - shift).exp()
        radius = float(torch.linalg.eigvals(matrix).abs().max())
        return model.discount * radius * math.exp(min(shift, 700.0))


def _largest_cycle_mean(log_matrix: Tensor) -> float:
    """The largest mean log weight of a cycle (Karp 1978), -inf where there is no cycle."""
    number = len(log_matrix)
    walks = [torch.zeros(number, dtype=torch.float64)]
    for _ in range(number):
        walks.append((log_matrix + walks[-1]).amax(-1))
    table = torch.stack(walks[:-1])
    means = (walks[-1] - table) / torch.arange(number, 0, -1)[:, None]
    means = torch.where(torch.isfinite(table), means, torch.full_like(means, math.inf))
    return float(torch.where(torch.isfinite(walks[-1]), means.amin(0), torch.full_like(walks[-1], -math.inf)).max())


def _longest_paths(log_matrix: Tensor) -> Tensor:
    """[S], the largest log weight of a path from each state, where no cycle has more than 0 up to rounding."""
    height = torch.zeros(len(log_matrix), dtype=torch.float64)
    for _ in range(len(log_matrix)):
        longer = torch.maximum((log_matrix + height).amax(-1), torch.zeros(()))
        if bool((longer <= height + 1e-9 * height.clamp(min=1.0)).all()):
            break
        height = longer
    return height


def _log_matrix(model: TrajectoryModel) -> Tensor:
    """[L, L], log M(s, s') on the L live states."""
    mdp, live, size = model.mdp, model.live, model.mdp.num_states
    weights = model.action_prior[..., None] * mdp.probabilities
    scores = safe_log(weights) + model.reward_table(0) / model.temperature
    if mdp.next_states is None:
        return safe_logsumexp(scores, 1)[live][:, live]
    cells = (torch.arange(size)[:, None, None] * size + mdp.next_states).reshape(-1)
    flat = scores.reshape(-1)
    largest = torch.full((size * size,), -torch.inf, dtype=torch.float64).scatter_reduce(0, cells, flat, "amax")
    largest = torch.where(torch.isfinite(largest), largest, torch.zeros_like(largest))
    sums = torch.zeros_like(largest).scatter_add(0, cells, (flat - largest[cells]).exp())
    return (safe_log(sums) + largest).reshape(size, size)[live][:, live]


def _reward_not_negative(model: TrajectoryModel) -> str:
    """Names the first action whose expected reward is not below 0 in a live state; empty where there is none."""
    rewards = expectation(model.mdp.probabilities, model.reward_table(0)).detach()
    taken = (model.action_prior > 0) & model.live[:, None]
    wrong = taken & (rewards >= 0)
    if not bool(wrong.any()):
        return ""
    state, action = torch.nonzero(wrong)[0].tolist()
    mdp, reward = model.mdp, float(rewards[state, action])
    return f"the expected reward of action {mdp.action_name(action)} in state {mdp.state_name(state)} is {reward:g}"
