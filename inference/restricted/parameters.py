"""The parameters of policies: tables whose rows may be shared, and modules, as log q(a_t | s_t).

Both know which actions are possible from `log_prior`, which is -inf where the prior is 0 or a reward of -inf looms, and
both work on whole tables as well as on any batch of states.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from cai.models.common.numerics import safe_log, safe_logsumexp
from cai.models.common.random_draws import OwnDraws

__all__ = ["Leaves", "ModuleParameters", "PolicyParameters", "Shape", "TiedParameters", "flat"]

RESTART_SCALE = 2.0  # nats, of the random logits that a restart begins with


class Shape(NamedTuple):
    """The size of a policy; an infinite horizon counts as one step, of index 0."""

    steps: int
    num_states: int
    num_actions: int


def flat(parts: Iterable[Tensor]) -> Tensor:
    """Tensors of any shape as one vector."""
    return torch.cat([part.reshape(-1) for part in parts])


class Leaves(Protocol):
    """Tensors that a fit moves, as one vector."""

    def parameters(self) -> list[Tensor]:
        """The leaves that move."""

    def vector(self) -> Tensor:
        """[P], a copy of all parameters in a row."""
        return flat(self.parameters()).detach().clone()

    def load(self, vector: Tensor) -> None:
        """Sets all parameters, from [P]."""
        leaves = self.parameters()
        with torch.no_grad():
            for leaf, part in zip(leaves, vector.split([leaf.numel() for leaf in leaves]), strict=True):
                leaf.copy_(part.reshape(leaf.shape))


class PolicyParameters(Leaves, Protocol):
    """The parameters of one policy, and the probabilities that they stand for."""

    def log_probs(self, t: int, states: Tensor, log_prior: Tensor) -> Tensor:
        """Log q(a_t | s_t).

        Args:
            t: time index, from 0.
            states: int64 [N].
            log_prior: [N, A], log p(a | s), -inf also for what must not be done.

        Returns:
            [N, A], -inf where `log_prior` is.
        """

    def table(self, log_prior: Tensor) -> Tensor:
        """[T, S, A] or a broadcasting [1, S, A], log q of every state, from `log_prior` of either shape."""

    def perturb(self, generator: torch.Generator) -> None:
        """Moves to a random place, for a restart."""

    def details(self) -> dict[str, Any]:
        """What of the parameters belongs into the answer."""


class TiedParameters(PolicyParameters):
    """Tables whose rows are shared: q(a | s) = sum_j c(s, j) mu(a | z(s, j)), mu a softmax over what is possible in s.

    Args:
        shape: of the policy.
        slots: int64 [S, J], the rows z that state s may be shown.
        chances: [S, J], how likely; each row sums to 1.
        num_rows: Z.
        stationary: whether all times share their rows.
        log_prior: [T, S, A] or [1, S, A]; rows begin at the mean of the prior over the states that show them.

    Attributes:
        logits: [T or 1, Z, A].
        allowed: bool [T or 1, Z, A], what a row may do; more is ruled out state by state by the prior.
    """

    def __init__(
        self, shape: Shape, slots: Tensor, chances: Tensor, num_rows: int, stationary: bool, log_prior: Tensor
    ) -> None:
        self.shape = shape
        self.slots = slots
        self.chances = chances
        self.num_rows = num_rows
        self.num_tables = 1 if stationary else shape.steps
        prior = log_prior.exp().expand(shape)[:, :, None] * chances[..., None]
        shown = self.collect(chances[None, :, :, None].expand(shape.steps, -1, -1, 1))
        mean = self.collect(prior) / torch.where(shown > 0, shown, torch.ones_like(shown))
        self.logits = torch.where(mean > 0, safe_log(mean), torch.zeros_like(mean)).requires_grad_()
        self.allowed = (mean > 0) | ~(mean > 0).any(-1, keepdim=True)

    def parameters(self) -> list[Tensor]:
        return [self.logits]

    def log_probs(self, t: int, states: Tensor, log_prior: Tensor) -> Tensor:
        row = t if self.num_tables > 1 else 0
        return self._mixed(self._rows(self.slots[states], log_prior, row)[0], self.chances[states])

    def table(self, log_prior: Tensor) -> Tensor:
        return self._mixed(self._rows(self.slots, log_prior)[0], self.chances)

    def _rows(self, slots: Tensor, log_prior: Tensor, row: int | None = None) -> tuple[Tensor, Tensor]:
        """Log mu(a | z, s) [..., N, J, A] and its log normaliser [..., N, J]; a row with nothing left is the prior."""
        which = slice(None) if row is None else row
        raw, allowed = self.logits[which][..., slots, :], self.allowed[which][..., slots, :]
        possible = torch.isfinite(log_prior)[..., None, :]
        kept = allowed & possible
        empty = ~kept.any(-1, keepdim=True)
        kept = torch.where(empty, possible, kept)
        raw = torch.where(empty, log_prior[..., None, :], raw)
        scores = torch.where(kept, raw, torch.full_like(raw, -torch.inf))
        total = safe_logsumexp(scores)
        return torch.where(kept, raw - total[..., None], torch.full_like(raw, -torch.inf)), total

    @staticmethod
    def _mixed(log_rows: Tensor, chances: Tensor) -> Tensor:
        if log_rows.shape[-2] == 1:
            return log_rows[..., 0, :]
        return safe_logsumexp(safe_log(chances)[..., None] + log_rows, -2)

    def collect(self, cells: Tensor) -> Tensor:
        """Adds numbers of cells [T, S, J, N] up over the cells that share a row: [T or 1, Z, N]."""
        cells = cells.sum(0, keepdim=True) if self.num_tables == 1 else cells
        flat = cells.reshape(self.num_tables, -1, cells.shape[-1])
        zeros = torch.zeros(self.num_tables, self.num_rows, cells.shape[-1], dtype=torch.float64)
        return zeros.index_add(1, self.slots.reshape(-1), flat.double())

    def cells(self, allowed: Tensor, possible: Tensor) -> Tensor:
        """Bool [T, S, A], what q may do where rows are restricted to `allowed` [T or 1, Z, A]."""
        shown = allowed[:, self.slots] & (self.chances > 0)[..., None]
        return (shown.any(-2) & possible).expand(self.shape)

    def mixed(self, possible: Tensor) -> Tensor:
        """Bool [T or 1, Z], rows whose cells differ in what is possible, bool [T, S, A] or [1, S, A]."""
        shown = (self.chances > 0)[..., None].double()
        shown = shown.expand(self.shape.steps, -1, -1, -1)
        cells = self.collect(possible.double()[:, :, None] * shown)
        return ((cells > 0) & (cells < self.collect(shown))).any(-1)

    def natural_gradient(
        self, log_prior: Tensor, visits: Tensor, scores: Tensor, usable: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The gradient of the bound in the logits, and the natural gradient, both [T or 1, Z, A].

        For rows that are shown for sure and whose cells may do the same. The derivative in the logit of action a of row
        z is the sum over its cells of d_t(s) mu(a) (f(s, a) - E_mu f), with f = Q - log(q / p). Over the Fisher
        information it is the advantage f - E_mu f averaged over visits, which also holds where mu has underflowed, and
        a step of length 1 along it is the soft greedy policy of the row. A row that q never visits averages over
        `usable` cells.

        Args:
            log_prior: [T, S, A] or [1, S, A], log p(a | s), -inf also for what must not be done.
            visits: [T, S], q(s_t).
            scores: [T, S, A], f; any number where q is 0.
            usable: bool [T, S], cells in which there is something to gain.
        """
        log_rows = self.table(log_prior)
        rows, kept = log_rows.exp(), torch.isfinite(log_rows)
        gains = torch.where(kept, scores - (rows * scores).sum(-1, keepdim=True), torch.zeros_like(scores))[:, :, None]
        weights = torch.where(usable, visits, torch.zeros_like(visits))[..., None, None]
        gradient = self.collect(weights * rows[:, :, None] * gains)
        visited = self.collect(weights) > 0
        weights = torch.where(visited[:, self.slots], weights, usable[..., None, None].double())
        mass = self.collect(weights)
        return gradient, self.collect(weights * gains) / torch.where(mass > 0, mass, torch.ones_like(mass))

    def perturb(self, generator: torch.Generator) -> None:
        noise = torch.randn(self.logits.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            self.logits.copy_(RESTART_SCALE * noise)

    def details(self) -> dict[str, Any]:
        scores = torch.where(self.allowed, self.logits.detach(), torch.full_like(self.logits.detach(), -torch.inf))
        return {"table": scores.softmax(-1)}


class ModuleParameters(PolicyParameters):
    """Logits that a module computes from features, added to log p(a | s).

    Args:
        shape: of the policy.
        module: a copy of the user's; it is turned to float64 and to evaluation mode.
        features: [S, F], [T, S, F], a function of (states, times), int64 [N] each, that returns [N, F], or None for
            one-hot of s_t and then t / T, F = S + 1.
    """

    def __init__(self, shape: Shape, module: nn.Module, features: Any) -> None:
        self.shape = shape
        self.module = module.double().eval()
        self.features = features

    def parameters(self) -> list[Tensor]:
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    def log_probs(self, t: int, states: Tensor, log_prior: Tensor) -> Tensor:
        return self._softmax(self._logits(states, torch.full_like(states, t)), log_prior)

    def table(self, log_prior: Tensor) -> Tensor:
        steps, num_states, num_actions = self.shape
        times, states = torch.arange(steps).repeat_interleave(num_states), torch.arange(num_states).repeat(steps)
        return self._softmax(self._logits(states, times).reshape(steps, num_states, num_actions), log_prior)

    @staticmethod
    def _softmax(logits: Tensor, log_prior: Tensor) -> Tensor:
        possible = torch.isfinite(log_prior)
        scores = torch.where(possible, logits + torch.where(possible, log_prior, 0.0), -torch.inf)
        total = safe_logsumexp(scores)[..., None]
        return torch.where(possible, logits + torch.where(possible, log_prior, 0.0) - total, -torch.inf)

    def _logits(self, states: Tensor, times: Tensor) -> Tensor:
        features = self._features(states, times)
        try:
            logits = self.module(features)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"the policy's module failed on features of shape {list(features.shape)}: {error}; "
                "by default they are one-hot of s_t and then t / T, F = S + 1"
            ) from error
        expected = (states.shape[0], self.shape.num_actions)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
            got = f"shape {list(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise ValueError(f"the policy's module returned {got}; expected logits [N, A] = {list(expected)}")
        return logits

    def _features(self, states: Tensor, times: Tensor) -> Tensor:
        given = self.features
        if given is None:
            one_hot = nn.functional.one_hot(states, self.shape.num_states).double()
            return torch.cat([one_hot, (times.double() / self.shape.steps)[:, None]], -1)
        if isinstance(given, Tensor):
            return given[states] if given.dim() == 2 else given[times, states]
        made = given(states, times)
        if not isinstance(made, Tensor) or made.dim() < 2 or made.shape[0] != states.shape[0]:
            got = f"shape {list(made.shape)}" if isinstance(made, Tensor) else f"a {type(made).__name__}"
            raise ValueError(f"features(states, times) returned {got}; expected [N, F] with N = {states.shape[0]}")
        return made.double()

    def perturb(self, generator: torch.Generator) -> None:
        with OwnDraws(generator):
            for part in self.module.modules():
                reset = getattr(part, "reset_parameters", None)
                if callable(reset):
                    reset()

    def details(self) -> dict[str, Any]:
        return {"module": copy.deepcopy(self.module)}
