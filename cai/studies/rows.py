"""One backend's line in a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cai.evaluation.continuous import ContinuousOutcome
from cai.evaluation.episodes import EpisodeOutcome
from cai.evaluation.evaluate import Outcome
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status
from cai.models.common.storage import storable

__all__ = ["EPISODES", "NUMBERS", "PARTICLES", "Row", "finite", "mean_of"]

NUMBERS = ("log_evidence", "elbo", "believed_return", "real_return", "optimism_gap", "luck", "policy_entropy")
EPISODES = ("stochastic_return", "deterministic_return")  # what rows of an environment have besides
PARTICLES = ("effective_sample_size", "log_evidence_error")  # what answers of weighted particles know besides


@storable("comparison-row")
@dataclass(frozen=True, eq=False)
class Row:
    """One backend's line. Numbers are None where they are not known; -inf is kept here and null in JSON.

    Attributes:
        backend: its name, with the options that differ from its defaults.
        target: what it approximates.
        status: how it ended.
        detail: why, where it was not run or its policy could not be evaluated.
        log_evidence: nats.
        elbo: nats.
        believed_return: under the backend's own dynamics, reward units.
        real_return: of its policy under the true dynamics, reward units.
        optimism_gap: believed minus real return.
        luck: nats.
        policy_entropy: under q, nats.
        seconds: for inference alone.
        posterior: the answer, or None.
        outcome: of its policy in the true world, or None.
        member: of a batch, which one; else None.
        effective_sample_size: of weighted particles, on how many trajectories the answer rests; else None.
        log_evidence_error: of weighted particles, the standard error of `log_evidence`, nats; else None.
        gain: what a step is worth in the long run, reward units, where the criterion is the average; else None.
        real_return_error: the standard error of a `real_return` that rollouts estimated; None where it is exact.
        elbo_error: the standard error of an `elbo` that episodes estimated, nats; None where it is exact.
        episodes: of its policy in an environment, in place of an outcome; else None.
    """

    backend: str
    target: str
    status: Status
    detail: str
    log_evidence: float | None
    elbo: float | None
    believed_return: float | None
    real_return: float | None
    optimism_gap: float | None
    luck: float | None
    policy_entropy: float | None
    seconds: float
    posterior: Posterior | None
    outcome: Outcome | ContinuousOutcome | None
    member: int | None = None
    effective_sample_size: float | None = None
    log_evidence_error: float | None = None
    gain: float | None = None
    real_return_error: float | None = None
    elbo_error: float | None = None
    episodes: EpisodeOutcome | None = None

    def of_episodes(self) -> dict[str, float | None]:
        """What episodes of an environment came to: returns with drawn actions and with the most probable ones."""
        columns: dict[str, float | None] = {}
        for name in ("stochastic_return", "deterministic_return", "episode_length"):
            estimate = getattr(self.episodes, name, None)
            columns[name] = None if estimate is None else estimate.mean
            columns[f"{name}_error"] = None if estimate is None else estimate.standard_error
        return columns

    def all_numbers(self) -> dict[str, Any]:
        """By name: those of the row, of its episodes, and the spread and the worst returns of its outcome."""
        spread = {name: getattr(self.outcome, name, None) for name in ("std", "cvar")}
        return vars(self) | self.of_episodes() | spread

    def to_dict(self) -> dict[str, Any]:
        """The line as JSON allows it: null for what is not known or not finite."""
        numbers = {key: finite(getattr(self, key)) for key in NUMBERS + PARTICLES}
        why = self.detail or ("" if self.status.ok else str(self.status))
        head: dict[str, Any] = {"backend": self.backend, "target": self.target, "status": self.status.label}
        if self.member is not None:
            head["member"] = self.member
        return {**head, **numbers, "seconds": round(self.seconds, 6), "detail": why}


def mean_of(rows: Sequence[Row], name: str) -> tuple[float | None, float | None]:
    """The mean over rows that know a number, and its standard error; None where it is not known.

    Args:
        rows: of one question, asked at several seeds.
        name: of a number of rows, of episodes, or of outcomes ("cvar", "std").

    Returns:
        (mean, standard error of the mean by the spread between rows; of a single row, its own, where it has one).
    """
    lines = [row.all_numbers() for row in rows]
    known = [(float(line[name]), line.get(f"{name}_error")) for line in lines if line.get(name) is not None]
    if not known:
        return None, None
    numbers = [number for number, _ in known]
    mean = math.fsum(numbers) / len(numbers) if all(map(math.isfinite, numbers)) else sum(numbers)
    if len(known) == 1:
        return mean, known[0][1]
    if not math.isfinite(mean):
        return mean, None
    spread = math.fsum((number - mean) ** 2 for number in numbers) / (len(numbers) - 1)
    return mean, math.sqrt(spread / len(numbers))


def finite(value: float | None) -> float | None:
    """The number, None where it is not known or not finite."""
    return value if value is not None and math.isfinite(value) else None
