"""Questions of a study, each of them asked by itself: a backend on a model with a seed, and its policy tried."""

from __future__ import annotations

import builtins
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cai.evaluation.continuous import ContinuousOutcome
from cai.evaluation.episodes import EpisodeOutcome
from cai.evaluation.evaluate import Outcome, evaluate
from cai.inference.core.backend import Backend
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status, Target
from cai.inference.core.tabular import TabularPosterior
from cai.inference.registry import backend_label, infer
from cai.models.common.fingerprint import fingerprint
from cai.models.common.numerics import plain_number
from cai.models.common.storage import can_store
from cai.models.continuous.world import World
from cai.models.environments.world import EnvironmentModel
from cai.models.trajectory.batch import ModelBatch
from cai.models.trajectory.model import TrajectoryModel
from cai.policies.policy import extract_policy
from cai.studies.members import is_batch, member_of, number_of_members
from cai.studies.rows import Row
from cai.tasks.journal import Journal
from cai.tasks.mapping import Map, run_tasks

__all__ = ["Question", "ask"]

IDLE = 0.01  # nats; a policy that is nearer to the action prior shows nothing
ROUNDING = 1e-13  # nats; what is less may be no difference
SHOWS = 0.05  # nats; one that is as far from it does


class Question(NamedTuple):
    """A task of a study.

    Attributes:
        model: what is asked about; None where all questions are about one model.
        backend: who is asked.
        seed: of whatever is drawn.
    """

    model: Any
    backend: Backend
    seed: int


def ask(
    questions: Sequence[Question],
    *,
    model: Any = None,
    tries: Mapping[str, int],
    label: str,
    map: Map = builtins.map,
    folder: str | Path | None = None,
    study: Mapping[str, str],
) -> list[tuple[Row, ...]]:
    """The rows of each question: one, or of a batch one for each member.

    Args:
        questions: in the order of the rows.
        model: what those are about that name none.
        tries: how policies are tried; see `evaluate`.
        label: stands beside the bar of progress.
        map: see `compare`.
        folder: see `compare`.
        study: {part: words}, by which a folder knows the study again, beside models, backends, seeds and tries.
    """
    asked = _Answerer(model, dict(tries))
    journal = None
    if folder is not None:
        journal = Journal(
            folder, {**study, **_described(questions, asked)}, to_file=_storable, from_file=asked.with_own_model
        )
    return run_tasks(asked, questions, label=label, map=map, journal=journal)


def _described(questions: Sequence[Question], asked: _Answerer) -> dict[str, str]:
    """What is asked, in words where they are few, else as fingerprints."""
    models = [asked.model if question.model is None else question.model for question in questions]
    distinct = list({id(model): model for model in models}.values())
    labels = list(dict.fromkeys(backend_label(question.backend) for question in questions))
    return {
        "model": ", ".join(dict.fromkeys(str(getattr(model, "name", type(model).__name__)) for model in distinct)),
        "content of the model": fingerprint(distinct),
        "backends": ", ".join(labels),
        "options of the backends": fingerprint([question.backend for question in questions]),
        "seeds": ", ".join(map(str, dict.fromkeys(question.seed for question in questions))),
        "trials of policies": ", ".join(f"{name}={number}" for name, number in asked.tries.items()),
        "version of cai": version("control-as-inference"),
    }


@dataclass(frozen=True, eq=False)
class _Answerer:
    """Answers a question; a frozen callable, which other processes can be sent."""

    model: Any
    tries: dict[str, int]

    @property
    def held(self) -> tuple[Any, ...]:
        """What need not be sent back."""
        return () if self.model is None else (self.model,)

    def __call__(self, question: Question) -> tuple[Row, ...]:
        model = self.model if question.model is None else question.model
        if isinstance(model, ModelBatch):
            return tuple(_member_rows(model, question.backend, question.seed, self.tries))
        if is_batch(model):
            own = (member_of(model, b) for b in range(number_of_members(model)))
            rows = (_row(member, question.backend, question.seed, self.tries) for member in own)
            return tuple(replace(row, member=b) for b, row in enumerate(rows))
        return (_row(model, question.backend, question.seed, self.tries),)

    def with_own_model(self, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        """Rows from a file; their answers are about the model that was asked, and no copy of it is held."""
        for row in rows:
            own = isinstance(self.model, TrajectoryModel) and self.model.mdp.device.type == "cpu"
            if own and row.posterior is not None and isinstance(row.posterior.model, TrajectoryModel):
                row.posterior.__dict__["model"] = self.model
        return rows


def _storable(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Rows without the answers that no file can hold."""
    return tuple(row if can_store(row.posterior) else replace(row, posterior=None) for row in rows)


def _member_rows(batch: ModelBatch, backend: Backend, seed: int, tries: dict[str, int]) -> list[Row]:
    """A row for each member."""
    begin = time.perf_counter()
    try:
        answers = infer(batch, backend, seed=seed, throw=False)
    except Exception:  # then each member says for itself whether it can be answered
        return [replace(_row(model, backend, seed, tries), member=b) for b, model in enumerate(batch)]
    seconds = (time.perf_counter() - begin) / len(batch)
    return [
        replace(_finished(model, backend, answers[b], answers.statuses[b], "", seconds, seed, tries), member=b)
        for b, model in enumerate(batch)
    ]


def _row(model: Any, backend: Backend, seed: int, tries: dict[str, int]) -> Row:
    begin = time.perf_counter()
    posterior, detail, status = None, "", Status.UNSUPPORTED
    try:
        posterior = infer(model, backend, seed=seed, throw=False)
        status = posterior.status
    except (Exception, SystemExit) as error:  # a row that fails, also in a plug-in, must not take the others with it
        detail = _reason(error)
        status = Status.UNSUPPORTED if isinstance(error, ValueError) else Status.FAILED
    seconds = time.perf_counter() - begin
    return _finished(model, backend, posterior, status, detail, seconds, seed, tries)


def _finished(
    model: Any,
    backend: Backend,
    posterior: Posterior | None,
    status: Status,
    detail: str,
    seconds: float,
    seed: int,
    tries: dict[str, int],
) -> Row:
    """The row of an answer, or of none, with what its policy does in the true world."""
    outcome: Any = None
    if posterior is not None and "why" in posterior.details:
        detail = f"{status} ({posterior.details['why']})"
    elif posterior is not None:
        detail = detail or str(posterior.details.get("note", "")) or _idle(model, posterior)
    if posterior is not None and isinstance(model, (TrajectoryModel, World, EnvironmentModel)):
        try:
            problem: Any = model  # what kind it is decides which of `tries` there are
            outcome = evaluate(extract_policy(posterior), problem, seed=seed, **tries)
        except Exception as error:
            detail = detail or _reason(error)
    numbers: dict[str, Any] = {}
    for name in ("believed_return", "log_evidence", "elbo", "luck", "policy_entropy"):
        try:
            numbers[name] = _number(posterior, name)
        except Exception as error:  # what is computed when it is looked at can fail too
            numbers[name], detail = None, detail or _reason(error)
    believed = numbers["believed_return"]
    episodes = outcome if isinstance(outcome, EpisodeOutcome) else None
    outcome = None if episodes is not None else outcome
    real, real_error = _real(outcome, episodes)
    gap = None
    if believed is not None and real is not None and episodes is not None:
        gap = 0.0  # two estimates of one number: what is learned in an environment believes in it as it is
    elif believed is not None and real is not None and not believed == real == -math.inf:
        small = model.reward_size if isinstance(model, TrajectoryModel) else 0.0  # what returns may cancel to
        gap = 0.0 if math.isclose(believed, real, rel_tol=1e-12, abs_tol=1e-12 * small) else believed - real
    return Row(
        backend=backend_label(backend),
        target=str(backend.target if posterior is None else posterior.target),
        status=status,
        detail=detail,
        real_return=real,
        optimism_gap=gap,
        seconds=seconds,
        posterior=posterior,
        outcome=outcome,
        **numbers,
        effective_sample_size=_plain(posterior, "effective_sample_size"),
        log_evidence_error=_plain(posterior, "log_evidence_error"),
        gain=_number(posterior, "gain"),
        real_return_error=real_error,
        episodes=episodes,
        elbo_error=None if isinstance(model, TrajectoryModel) else _plain(posterior, "standard_error"),
    )


def _real(
    outcome: Outcome | ContinuousOutcome | None, episodes: EpisodeOutcome | None
) -> tuple[float | None, float | None]:
    """The discounted return of a policy in the true world, and its standard error where it is an estimate."""
    if episodes is not None:
        return episodes.discounted_return.mean, episodes.discounted_return.standard_error
    if isinstance(outcome, ContinuousOutcome) and not outcome.is_exact:
        return outcome.expected_return, outcome.expected_return_error
    return None if outcome is None else outcome.expected_return, None


def _plain(posterior: Posterior | None, name: str) -> float | None:
    """A number among the details of an answer."""
    value = None if posterior is None else posterior.details.get(name)
    return None if value is None else float(value)


def _idle(model: Any, posterior: Posterior) -> str:
    """What to say of a policy that is all but the action prior, as at a temperature far above what rewards differ by.

    Nothing, where no colder one was found to show more: then the prior itself may be what is best.
    """
    if not posterior.status.ok or not isinstance(model, TrajectoryModel) or posterior.target is Target.OTHER:
        return ""
    try:
        spent = _number(posterior, "policy_divergence")
    except Exception:  # what is computed when it is looked at can fail
        return ""
    over, when, most = "over all steps", IDLE, min(10.0, 0.1 * model.horizon)
    if model.is_average:
        over, when, most = "a step", 0.1 * IDLE, 0.1
    if spent is None or not spent < when:
        return ""
    temperature = plain_number(model.temperature)
    factor = math.sqrt(spent / most) if spent > ROUNDING else _differences(posterior) / temperature
    if factor <= ROUNDING:  # no choice makes a difference
        return ""
    colder = _colder(model, posterior.target, temperature, factor)
    if colder is None:
        return ""
    return (
        f"the policy is all but the action prior (KL {spent:.2g} nats {over}): at temperature {temperature:g} "
        f"what it can earn hardly counts; try temperature={colder:g}"
    )


def _differences(posterior: Posterior) -> float:
    """The most by which an action that may be taken is worth more or less than its state; 0 if unknown."""
    if not isinstance(posterior, TabularPosterior) or posterior.values is None or posterior.q_values is None:
        return 0.0
    values, q_values = posterior.values.detach(), posterior.q_values.detach()
    apart = torch.where(posterior.action_prior > 0, q_values - values[..., None], 0.0)
    return float(torch.where(torch.isfinite(apart), apart, 0.0).abs().max())


def _colder(model: TrajectoryModel, target: Target, temperature: float, factor: float) -> float | None:
    """A temperature at which the policy shows something, as the closed form finds; None if none of a few does.

    Far above what rewards differ by the KL from the prior goes as 1 / temperature^2, which tells where to look first;
    elsewhere it may be colder, or, where sums of e^(r / temperature) have no limit, not so cold.

    Args:
        model: what was asked.
        target: of the answer.
        temperature: at which it shows nothing.
        factor: by which the first temperature that is tried is colder.
    """
    backend = "exact" if target is Target.EXACT else "variational"
    least = SHOWS * (0.1 if model.is_average else 1.0)
    for power in (1.0, 1.25, 1.5, 2.0, 3.0, 0.75, 0.5):
        tried = float(f"{temperature * factor**power:.1g}")
        if not 0 < tried < temperature:
            continue
        try:
            answer = infer(model.replace(temperature=tried), backend, throw=False)
            spent = _number(answer, "policy_divergence") if answer.status.ok else None
        except (ValueError, ArithmeticError):
            continue
        if spent is not None and least < spent < math.inf:
            return tried
    return None


def _reason(error: BaseException) -> str:
    """What a row says of an error: a refusal is its own text, anything else is named."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _number(posterior: Posterior | None, name: str) -> float | None:
    value = posterior.number(name) if posterior is not None else None
    return None if value is None else float(value.detach())
