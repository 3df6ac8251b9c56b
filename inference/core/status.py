"""What an answer approximates, whether it can be used, and how failures are raised."""

from __future__ import annotations

from enum import Enum
from typing import Any

__all__ = ["InferenceError", "NotKnown", "Status", "Target"]


class Target(str, Enum):
    """What a backend approximates."""

    EXACT = "exact"
    """The posterior given optimality: policy, dynamics and start all conditioned on it."""
    FIXED_DYNAMICS = "fixed-dynamics"
    """The best policy under the true dynamics and start: only the policy moves."""
    OTHER = "other"
    """Something else, which the backend's docstring states."""

    def __str__(self) -> str:
        return self.value


class Status(str, Enum):
    """How inference ended; the text of every failure says what to do."""

    SUCCESS = "success"
    IMPOSSIBLE = (
        "impossible: p(O) = 0, no trajectory with positive probability avoids a reward of -inf; "
        "look at the -inf rewards and at what the start can reach, or replace -inf by a large negative reward"
    )
    UNAVOIDABLE = (
        "unavoidable: under the true dynamics no policy can rule out a reward of -inf (or none was found in the class "
        "that was asked for), so the bound is -inf, although optimality is possible; replace -inf by a large negative "
        "reward, or ask a backend of target 'exact'"
    )
    NOT_CONVERGED = (
        "not converged: the iteration stopped before its criterion was met, so the answer is not final; raise "
        "max_iterations, or loosen tolerance (over an infinite horizon details['error_bound'] says how far off values "
        "may be)"
    )
    DIVERGED = (
        "diverged: over an infinite horizon values grow, or fall, without end, so there is no stationary answer; "
        "lower the discount (backends that believe in kind or unkind dynamics may need a low one), let every loop "
        "cost, let an end be reached from everywhere, or give a finite horizon"
    )
    NOT_ASSURED = (
        "not assured: over an infinite horizon values do not grow, but those of finite horizons have no limit, or none "
        "that a stationary policy attains; give a discount below 1 or a finite horizon"
    )
    DEGENERATE = (
        "degenerate: at some step every particle had met a reward of -inf (or a lookahead of zero), and none is left "
        "to answer with; raise num_particles, guide 'smc' with lookahead='soft-value' (a program with a function), and "
        "look at the factors of -inf: p(O) may be 0"
    )
    INFINITE = (
        "infinite: a quadratic message has no finite value, because rewards are unbounded above, or the caution of "
        "eta < 0 outgrows the noise; see details['step'], ['eigenvalue'] and, for eta < 0, ['eta_crit']: take an eta "
        "above that, a higher temperature or less noise, or let actions and states cost more"
    )
    OUT_OF_RANGE = (
        "out of range: the temperature, the rewards along the horizon, or these over the temperature are too large or "
        "too small for floats; measure rewards in other units and divide the temperature by the same number, or bring "
        "the two nearer to each other: towards temperature 0 the policy becomes that of 'value-iteration', and towards "
        "infinity the action prior"
    )
    FEW_PARTICLES = (
        "few particles: the answer rests on too few trajectories, so its numbers can be far off; raise num_particles, "
        "look ahead (backend 'smc' with lookahead='soft-value', of a program with a function), or ask a backend that "
        "draws nothing"
    )
    UNSTABLE = (
        "unstable: a loss or a value left the floats, or a learned temperature ran to its bound, so the policy means "
        "nothing; lower learning_rate, or set another target_entropy (target_kl); details['why'] says which it was"
    )
    FAILED = "failed: the backend broke with an error of its own; see the message"
    UNSUPPORTED = "unsupported: the backend does not accept this model; see the message for one that does"

    label: str
    """The first words of the text, for tables."""
    ok: bool
    """Whether the answer can be used as it is."""

    def __init__(self, text: str) -> None:
        self.label, self.ok = text.split(":")[0], text == "success"

    def __str__(self) -> str:
        return self.value


class NotKnown(ValueError, AttributeError):
    """Raised by an answer that is asked for what its kind does not have.

    Args:
        what: was asked for.
        kind: of the answer, e.g. "the particle answer of backend 'smc'".
        instead: who knows it, as advice: "ask 'exact'".
        why: further words on why it is not known.
    """

    def __init__(self, what: str, kind: str, instead: str, why: str = "") -> None:
        self.parts = (what, kind, instead, why)
        super().__init__(f"{kind} does not know {what}" + (f": {why}" if why else "") + f"; {instead}")

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return type(self), self.parts


class InferenceError(RuntimeError):
    """Raised by `cai.infer` when the status is not success; `posterior` holds what was found all the same."""

    def __init__(self, backend: str, status: Status, posterior: Any = None, detail: str = "") -> None:
        self.backend = backend
        self.status = status
        self.posterior = posterior
        self.detail = detail
        super().__init__(f"backend {backend!r}: {status}" + (f" ({detail})" if detail else ""))

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.backend, self.status, self.posterior, self.detail)
