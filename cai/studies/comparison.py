"""Several backends on one model, side by side."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cai.evaluation.continuous import ContinuousOutcome
from cai.evaluation.episodes import EpisodeOutcome
from cai.evaluation.evaluate import Outcome, evaluate
from cai.inference.core.backend import Backend
from cai.inference.core.posterior import Posterior
from cai.inference.core.progress import progress
from cai.inference.core.status import Status, Target
from cai.inference.registry import (
    backend_label,
    check_question,
    check_seed,
    drawn_seed,
    infer,
    make_backend,
    record_seed,
)
from cai.models.common.checks import as_count
from cai.models.common.numerics import plain_number
from cai.models.common.storage import Saved, can_store, storable
from cai.models.continuous.world import World
from cai.models.environments.world import EnvironmentModel
from cai.models.programs.observed_sites import as_conditioned
from cai.models.trajectory.batch import ModelBatch
from cai.models.trajectory.model import TrajectoryModel
from cai.policies.policy import extract_policy
from cai.studies.rows import NUMBERS, PARTICLES, Row, finite

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Comparison", "Row", "chance_columns", "compare"]

DEFAULT_BACKENDS = ("exact", "variational", "optimistic")
SHOWN = 8  # rows that repr names
IDLE = 0.01  # nats; a policy that is nearer to the action prior shows nothing


def _parts(comparison: Comparison) -> dict[str, Any]:
    """What a file keeps; a program is code, which no file holds, and neither are the networks of a learner's answer."""
    model = comparison.model
    kept = isinstance(model, (TrajectoryModel, ModelBatch))
    kept = kept or (isinstance(model, (World, EnvironmentModel)) and can_store(model))
    rows = tuple(row if can_store(row.posterior) else replace(row, posterior=None) for row in comparison.rows)
    return {"model": model if kept else None, "rows": rows}


@storable("comparison", pack=_parts)
@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Saved):
    """The lines of `compare`.

    Attributes:
        model: what was asked; None for a program's comparison that was loaded.
        rows: one for each backend; of a batch, one for each backend and member.
    """

    model: Any
    rows: tuple[Row, ...]

    def __repr__(self) -> str:
        rows = [f"{row.backend} ({row.status.label})" for row in self.rows[:SHOWN]]
        more = [f"and {len(self.rows) - SHOWN} more rows"] if len(self.rows) > SHOWN else []
        return f"Comparison of {', '.join(rows + more)}; see to_frame()"

    def _repr_html_(self) -> str:
        """`to_frame` as a table."""
        return str(self.to_frame().to_html(max_rows=60, float_format="{:.6g}".format))

    def member(self, member: int) -> Comparison:
        """The comparison of one member of a batch.

        Raises:
            ValueError: if no batch was compared.
            IndexError: if the batch has no such member.
        """
        if not isinstance(self.model, ModelBatch):
            raise ValueError("there are no members: one model was compared, not a batch")
        model, number = self.model[member], range(len(self.model))[member]
        return Comparison(model, tuple(replace(row, member=None) for row in self.rows if row.member == number))

    def __getitem__(self, backend: str) -> Row:
        """The line of a backend by what stands in its row, or by its name; the first, if it was asked twice.

        Of a batch take the lines of a member first: `comparison.member(3)["exact"]`.
        """
        if isinstance(self.model, ModelBatch):
            raise ValueError(
                f"{backend!r} has a row for each of {len(self.model)} members; take those of one first: "
                f"comparison.member(0)[{backend!r}]"
            )
        for names in ([row.backend for row in self.rows], [row.backend.split("(")[0] for row in self.rows]):
            if backend in names:
                return self.rows[names.index(backend)]
        raise KeyError(f"{backend!r} was not compared; rows are {', '.join(row.backend for row in self.rows)}")

    def to_frame(self) -> pd.DataFrame:
        """A table with a row for each backend, and for each region the chances to visit it and to end in it.

        Of a batch there is a row for each backend and member, indexed by both.
        """
        import pandas as pd

        lines = []
        for row in self.rows:
            line: dict[str, Any] = {"backend": row.backend, "member": row.member, "target": row.target}
            line["status"] = row.status.label
            line |= {key: getattr(row, key) for key in NUMBERS + PARTICLES} | self._special(row)
            line["seconds"] = row.seconds
            if row.outcome is not None:
                line |= {"std": row.outcome.std, "cvar": row.outcome.cvar, "absorbed": row.outcome.absorbed}
                line |= {f"visits_{key}": value for key, value in (row.outcome.visits or {}).items()}
                line |= {f"ends_in_{key}": value for key, value in (row.outcome.ends_in or {}).items()}
            lines.append(line)
        frame = pd.DataFrame(lines)
        if isinstance(self.model, ModelBatch):
            return frame.set_index(["backend", "member"])
        return frame.drop(columns="member").set_index("backend")

    def _special(self, row: Row) -> dict[str, float | None]:
        """What some comparisons alone have: how far estimates may be off, gains, and what episodes came to."""
        found: dict[str, float | None] = {}
        played = any(other.episodes is not None for other in self.rows)
        if played or isinstance(self.model, (World, EnvironmentModel)):
            found["real_return_error"] = row.real_return_error
        for name in ("elbo_error", "gain"):
            if any(getattr(other, name) is not None for other in self.rows):
                found[name] = getattr(row, name)
        return found | (row.of_episodes() if played or isinstance(self.model, EnvironmentModel) else {})

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain values, null where a number is unknown or not finite."""
        if isinstance(self.model, ModelBatch):
            members = [
                {"horizon": finite(model.horizon), "temperature": float(model.temperature)} for model in self.model
            ]
            base = self.model.base
            rows = [row.to_dict() | self._special(row) for row in self.rows]
            return {"model": base.name, "discount": base.discount, "members": members, "rows": rows}
        model = self.model if isinstance(self.model, (TrajectoryModel, World, EnvironmentModel)) else None
        name = model.name if model else getattr(self.model, "__name__", "program")
        horizon: Any = model.horizon if model else next((r.posterior.horizon for r in self.rows if r.posterior), None)
        return {
            "model": name,
            "horizon": horizon if horizon is not None and math.isfinite(horizon) else None,
            "temperature": plain_number(model.temperature) if model else 1.0,
            "discount": model.discount if model else 1.0,
            **({"criterion": "average"} if getattr(model, "is_average", False) else {}),
            "rows": [row.to_dict() | self._special(row) for row in self.rows],
        }

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict` as one JSON object."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def plot(self, **options: Any) -> Figure:
        """Believed against real return, the luck, and where each policy ends; see `cai.plot_comparison`.

        Of learners in an environment their bounds and the returns of their episodes, with standard errors.

        Raises:
            ValueError: if a batch was compared, whose members have a picture each.
        """
        from cai.studies.learner_plots import plot_learners
        from cai.studies.plots import plot_comparison

        if any(row.episodes is not None for row in self.rows):
            return plot_learners(self, **options)
        if isinstance(self.model, ModelBatch):
            raise ValueError("a batch was compared; plot one of its members: comparison.member(0).plot()")
        return plot_comparison(self, **options)


def compare(
    model: Any,
    backends: Sequence[str | Backend] = DEFAULT_BACKENDS,
    *,
    seed: int | None = 0,
    num_rollouts: int = 2000,
    episodes: int | None = None,
) -> Comparison:
    """Asks several backends the same question, and tries each policy in the true world.

    No row raises: what went wrong stands in its status. Unknown names and wrong types do raise, before anything runs.

    Args:
        model: a `TrajectoryModel`, a batch of them (a row for each backend and member; the time that a backend took is
            shared out equally), a continuous model, an environment (`cai.models.environment_model`), or a trajectory
            program (whose real return is not known here).
        backends: names, with options if wanted ("risk:eta=-2"), or instances.
        seed: for backends and rollouts; None draws one, which stands in the details of each answer.
        num_rollouts: see `evaluate`.
        episodes: how many are played in an environment, with and without the policy's own draws; 20 unless given.
            There `real_return` is their mean discounted return, `stochastic_return` and `deterministic_return` are
            plain sums of rewards, and what is estimated has its standard error beside it.
    """
    if isinstance(backends, str) or not isinstance(backends, Iterable):
        raise TypeError(f"backends is {backends!r}; give a list of names or instances, e.g. ['exact', 'variational']")
    check_question(model)
    model = model if isinstance(model, (World, EnvironmentModel)) else as_conditioned(model)
    if episodes is not None and not isinstance(model, EnvironmentModel):
        raise ValueError("episodes= counts whole episodes of an environment; of a model give num_rollouts=...")
    tries = {"num_rollouts": num_rollouts}
    if isinstance(model, EnvironmentModel):
        tries = {"episodes": 20 if episodes is None else as_count(episodes, "episodes", 2)}
    if seed is None:
        seed = drawn_seed()
        result = compare(model, backends, seed=seed, num_rollouts=num_rollouts, episodes=episodes)
        for row in result.rows:
            record_seed(row.posterior, seed)
        return result
    check_seed(seed)
    chosen = [make_backend(backend) for backend in backends]
    if not chosen:
        raise ValueError("backends is empty; name at least one, e.g. 'exact'")
    if isinstance(model, World) and model.batch_shape:
        raise ValueError(
            f"the model is a batch of shape {list(model.batch_shape)}; compare backends on one of them, "
            f"model.member({', '.join('0' for _ in model.batch_shape)})"
        )
    steps = progress(len(chosen), "comparing backends")
    if isinstance(model, ModelBatch):
        return Comparison(model, tuple(row for i in steps for row in _member_rows(model, chosen[i], seed, tries)))
    return Comparison(model, tuple(_row(model, chosen[i], seed, tries) for i in steps))


def chance_columns(model: TrajectoryModel | World) -> dict[str, tuple[str, str]]:
    """What may become of a policy, for tables: column -> the arguments of `Outcome.chance`.

    Endings in terminal regions, visits of the others, and the discount's fall; none over an infinite horizon.
    """
    if not model.is_finite:
        return {}
    columns: dict[str, tuple[str, str]] = {}
    if isinstance(model, World):
        return columns | ({"cut short": ("absorbed", "")} if model.discount < 1 else {})
    for region, mask in model.mdp.regions.items():
        ends = bool(model.mdp.terminal[mask].all())
        columns[f"{'ends in' if ends else 'visits'} {region}"] = ("ends_in" if ends else "visits", region)
    if model.discount < 1:
        columns["cut short"] = ("absorbed", "")
    return columns


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
        gap = 0.0 if math.isclose(believed, real, rel_tol=1e-12, abs_tol=1e-12) else believed - real
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

    Far above them the KL from the prior goes as 1 / temperature^2, which tells where it is a tenth of a nat a step.
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
    if spent is None or not 1e-13 < spent < when:  # less is rounding: no choice makes a difference
        return ""
    temperature = plain_number(model.temperature)
    colder = temperature * math.sqrt(spent / most)
    return (
        f"the policy is all but the action prior (KL {spent:.2g} nats {over}): at temperature {temperature:g} "
        f"what it can earn hardly counts; try temperature={colder:.1g}"
    )


def _reason(error: BaseException) -> str:
    """What a row says of an error: a refusal is its own text, anything else is named."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _number(posterior: Posterior | None, name: str) -> float | None:
    value = posterior.number(name) if posterior is not None else None
    return None if value is None else float(value.detach())
