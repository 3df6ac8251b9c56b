"""Maximises the exact bound over the parameters of a policy, by natural gradients.

Rows that are shown for sure, to states that may do the same, climb along the advantage averaged over visits, a full
step of which is the soft greedy policy. Everything else, mixtures of rows and modules, takes Gauss-Newton steps: with J
the derivative of log q(a | s) in the parameters, centred under q, the Fisher information F = sum_{t,s} d_t(s) J^T
diag(q) J and the gradient g = sum_{t,s} d_t(s) J^T diag(q) f give the natural step F^-1 g by conjugate gradients, kept
within a trust region of the policy's own divergence, x^T F x / 2. No step is taken that lowers the bound, so the last
parameters are the best.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cai.inference.core.progress import progress
from cai.inference.core.status import Status
from cai.inference.restricted.objective import Measured, PolicyBound
from cai.inference.restricted.parameters import PolicyParameters, TiedParameters

__all__ = ["Ascent", "AscentOptions", "ascend", "exact_gradient"]

logger = logging.getLogger("cai.inference")

ROUNDING = 1e-13  # falls of the bound below this, relative to its size, are those of rounding
ARMIJO = 1e-4  # the share of what the slope promises that a step must keep
SHORTEST = 1e-12  # the length at which a step is given up
RADIUS = 0.1  # nats, the divergence that the first step in a trust region may make
CG_STEPS = 100
SLIGHT = 1e-6  # the damping from which on a step is as good as the full natural one
WAIT = 40  # steps in a trust region without news that end it
QUIET = 5  # of these in a row, steps that promise less than the tolerance end it too


@dataclass(frozen=True)
class AscentOptions:
    """Hyper-parameters.

    Attributes:
        max_steps: the most steps of one start.
        learning_rate: in (0, 1], the length of a step; 1 is a full natural step.
        tolerance: nats, relative to the bound once that exceeds 1.
        restarts: further starts from random places; the best counts.
        seed: of the random places.
    """

    max_steps: int
    learning_rate: float
    tolerance: float
    restarts: int = 0
    seed: int = 0


@dataclass(eq=False)
class Ascent:
    """How a climb went.

    Attributes:
        bound: of the best parameters, nats.
        status: SUCCESS or NOT_CONVERGED.
        gradient: the largest entry of the last natural gradient (of the plain one, where there are no rows).
        history: the bound at every step.
        starts: the bounds that all starts came to.
    """

    bound: float = -math.inf
    status: Status = Status.NOT_CONVERGED
    gradient: float = math.inf
    history: list[float] = field(default_factory=list)
    starts: tuple[float, ...] = ()

    def stands_still(self, patience: int, tolerance: float) -> bool:
        """Whether the last `patience` steps have gained no more than the tolerance."""
        gained = math.inf if len(self.history) <= patience else self.bound - self.history[-1 - patience]
        return gained <= tolerance


def ascend(bound: PolicyBound, policy: PolicyParameters, log_prior: Tensor, options: AscentOptions) -> Ascent:
    """Moves a policy's parameters to the best place found; interrupted, to the best so far.

    Args:
        bound: what is maximised.
        policy: the parameters; the first start is where they are.
        log_prior: [T, S, A] or [1, S, A], -inf also for what must not be done.
        options: hyper-parameters.
    """
    generator = torch.Generator().manual_seed(options.seed)
    climb: Callable[..., None] = _climb_trust_region
    if isinstance(policy, TiedParameters) and policy.slots.shape[1] == 1:
        climb = _climb_trust_region if bool(policy.mixed(torch.isfinite(log_prior)).any()) else _climb_rows
    best, kept, starts = Ascent(), [part.detach().clone() for part in policy.parameters()], []
    try:
        for start in range(1 + options.restarts):
            if start:
                policy.perturb(generator)
            found = Ascent()
            try:
                climb(bound, policy, log_prior, options, found)
            finally:
                starts.append(found.bound)
                if found.bound > best.bound:
                    best, kept = found, [part.detach().clone() for part in policy.parameters()]
    except KeyboardInterrupt:
        logger.warning("the fit was interrupted after %d steps; the best policy so far is kept", len(best.history))
        best.status = Status.NOT_CONVERGED
    _set(policy, kept)
    best.starts = tuple(starts)
    return best


def _set(policy: PolicyParameters, values: list[Tensor]) -> None:
    with torch.no_grad():
        for part, value in zip(policy.parameters(), values, strict=True):
            part.copy_(value)


@torch.no_grad()
def _climb_rows(
    bound: PolicyBound, policy: TiedParameters, log_prior: Tensor, options: AscentOptions, found: Ascent
) -> None:
    """Natural gradient ascent on rows, halving a step as long as it gains less than it should."""
    patience = math.ceil((10 + 2 * policy.shape.steps) / options.learning_rate)
    here = bound.measure(policy.table(log_prior))
    place = policy.logits.clone()
    try:
        for _ in progress(options.max_steps, "fitting the policy"):
            found.bound = float(here.bound)
            found.history.append(found.bound)
            gradient, direction = policy.natural_gradient(log_prior, here.visits, here.scores, here.usable)
            found.gradient = float(direction.abs().max())
            size = max(1.0, abs(found.bound))
            if found.gradient <= options.tolerance * size or found.stands_still(patience, options.tolerance * size):
                found.status = Status.SUCCESS
                break
            slope, length, gained = float((gradient * direction).sum()), options.learning_rate, False
            while not gained and length > SHORTEST:
                policy.logits.copy_(place + length * direction)
                there = bound.measure(policy.table(log_prior))
                gained = float(there.bound) >= found.bound + ARMIJO * length * slope - ROUNDING * size
                length /= 2
            if not gained:  # nothing but rounding is left to gain
                found.status = Status.SUCCESS
                break
            here, place = there, policy.logits.clone()
    finally:
        policy.logits.copy_(place)


class _Slopes:
    """The gradient of the bound and the Fisher information at one place, for `_climb_trust_region`."""

    def __init__(self, policy: PolicyParameters, log_prior: Tensor, shape: tuple[int, ...]) -> None:
        self.parameters = policy.parameters()
        with torch.enable_grad():
            self.log_policy = policy.table(log_prior).expand(shape)
            self.probe = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
            self.pulled = self._derivative(self.probe, create_graph=True)
        self.policy = self.log_policy.detach().exp()
        self.possible = torch.isfinite(self.log_policy.detach())

    def _centred(self, table: Tensor) -> Tensor:
        table = torch.where(self.possible, table, torch.zeros_like(table))
        return table - (self.policy * table).sum(-1, keepdim=True)

    def _pull(self, table: Tensor) -> Tensor:
        """J^T diag(q) of a table [T, S, A], one vector."""
        weights = torch.where(self.possible, self.policy * table, torch.zeros_like(table))
        return self._derivative(weights, retain_graph=True)

    def _derivative(self, weights: Tensor, **options: bool) -> Tensor:
        """J^T of a table [T, S, A], one vector; a parameter that is not used has derivative 0."""
        options |= {"allow_unused": True, "materialize_grads": True}
        return _flat(torch.autograd.grad(self.log_policy, self.parameters, weights, **options))

    def gradient(self, here: Measured) -> Tensor:
        """The gradient of the bound, one vector."""
        self.visits = torch.where(here.usable, here.visits, torch.zeros_like(here.visits))[..., None]
        return self._pull(self.visits * self._centred(here.scores))

    def fisher(self, vector: Tensor) -> Tensor:
        """F times a vector."""
        (moved,) = torch.autograd.grad(self.pulled, self.probe, vector, retain_graph=True)
        return self._pull(self.visits * self._centred(moved))

    def solve(self, gradient: Tensor, damping: float) -> Tensor:
        """(F + damping)^-1 g by conjugate gradients."""
        result, residual = torch.zeros_like(gradient), gradient.clone()
        search, norm = residual.clone(), float(residual @ residual)
        first = norm
        for _ in range(CG_STEPS):
            if norm <= 1e-20 * first or norm < 1e-300:
                break
            image = self.fisher(search) + damping * search
            length = norm / float(search @ image)
            result, residual = result + length * search, residual - length * image
            before, norm = norm, float(residual @ residual)
            search = residual + norm / before * search
        return result


def _flat(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def exact_gradient(bound: PolicyBound, policy: PolicyParameters, log_prior: Tensor) -> Tensor:
    """The gradient of the exact bound in all parameters, one vector; see the module's docstring."""
    slopes = _Slopes(policy, log_prior, bound.shape)
    with torch.no_grad():
        here = bound.measure(slopes.log_policy.detach())
    return slopes.gradient(here)


def _climb_trust_region(
    bound: PolicyBound, policy: PolicyParameters, log_prior: Tensor, options: AscentOptions, found: Ascent
) -> None:
    """Damped natural steps (Levenberg and Marquardt) within a radius; both follow how well a step was foretold."""
    sizes = [part.numel() for part in policy.parameters()]
    shapes = [part.shape for part in policy.parameters()]

    def move(vector: Tensor) -> None:
        _set(policy, [part.reshape(shape) for part, shape in zip(vector.split(sizes), shapes, strict=True)])

    place = _flat(tuple(part.detach() for part in policy.parameters())).clone()
    damping, radius, quiet = 1e-3, RADIUS, 0
    try:
        slopes = _Slopes(policy, log_prior, bound.shape)
        here = bound.measure(slopes.log_policy.detach())
        for _ in progress(options.max_steps, "fitting the policy"):
            found.bound = float(here.bound)
            found.history.append(found.bound)
            gradient, size = slopes.gradient(here), max(1.0, abs(found.bound))
            found.gradient = float(gradient.abs().max())
            tolerance = options.tolerance * size
            if quiet >= QUIET or found.gradient == 0 or found.stands_still(WAIT, tolerance):
                found.status = Status.SUCCESS
                break
            while True:
                step = options.learning_rate * slopes.solve(gradient, damping)
                moved = float(step @ slopes.fisher(step)) / 2
                share = min(1.0, math.sqrt(radius / moved)) if moved > 0 else 1.0
                promised = share * float(gradient @ step) - share**2 * moved
                move(place + share * step)
                slopes = _Slopes(policy, log_prior, bound.shape)
                there, gain = here, -math.inf
                if not bool(slopes.log_policy.isnan().any()):  # else the module has overflowed
                    there = bound.measure(slopes.log_policy.detach())
                    gain = float(there.bound) - found.bound
                taken = gain > 0 or (gain >= -ROUNDING * size and promised <= tolerance)
                if gain > 0.75 * promised:
                    damping, radius = max(damping / 3, 1e-10), 2 * radius if share < 1 else radius
                elif not gain >= 0.25 * promised and not (taken and promised <= ROUNDING * size):
                    damping, radius = 4 * damping, min(radius, share**2 * moved) / 4
                if taken:
                    sure = promised <= tolerance and share == 1 and damping <= SLIGHT
                    quiet = quiet + 1 if sure else 0
                    here, place = there, _flat(tuple(part.detach() for part in policy.parameters())).clone()
                    break
                move(place)
                slopes = _Slopes(policy, log_prior, bound.shape)
                slopes.gradient(here)
                if damping > 1e8:  # nothing but rounding is left to gain, if the gradient says so too
                    found.status = Status.SUCCESS if found.gradient <= 1e-6 * size else Status.NOT_CONVERGED
                    return
    finally:
        move(place)
