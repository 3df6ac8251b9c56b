"""Several backends on one model, side by side."""

from __future__ import annotations

import builtins
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai.inference.core.backend import Backend
from cai.inference.registry import check_question, drawn_seed, make_backend, record_seed
from cai.models.common.checks import as_count
from cai.models.common.numerics import plain_number
from cai.models.common.random_draws import check_seed
from cai.models.common.storage import Saved, can_store, storable
from cai.models.continuous.world import World
from cai.models.environments.world import EnvironmentModel
from cai.models.programs.observed_sites import as_conditioned
from cai.models.trajectory.batch import ModelBatch
from cai.models.trajectory.model import TrajectoryModel
from cai.studies.asking import Question, ask
from cai.studies.members import is_batch, member_of, number_of_members
from cai.studies.rows import NUMBERS, PARTICLES, Row, finite
from cai.tasks.mapping import Map, check_map

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Comparison", "Row", "chance_columns", "compare"]

DEFAULT_BACKENDS = ("exact", "variational", "optimistic")
SHOWN = 8  # rows that repr names


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
        if not is_batch(self.model):
            raise ValueError("there are no members: one model was compared, not a batch")
        model, number = member_of(self.model, member), range(number_of_members(self.model))[member]
        return Comparison(model, tuple(replace(row, member=None) for row in self.rows if row.member == number))

    def __getitem__(self, backend: str) -> Row:
        """The line of a backend by what stands in its row, or by its name; the first, if it was asked twice.

        Of a batch take the lines of a member first: `comparison.member(3)["exact"]`.
        """
        if is_batch(self.model):
            raise ValueError(
                f"{backend!r} has a row for each of {number_of_members(self.model)} members; take those of one first: "
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
        if is_batch(self.model):
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
        if is_batch(self.model):
            each = [member_of(self.model, b) for b in range(number_of_members(self.model))]
            members = [
                {"horizon": finite(model.horizon), "temperature": plain_number(model.temperature)} for model in each
            ]
            base = self.model.base if isinstance(self.model, ModelBatch) else self.model
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
        if is_batch(self.model):
            raise ValueError("a batch was compared; plot one of its members: comparison.member(0).plot()")
        return plot_comparison(self, **options)


def compare(
    model: Any,
    backends: Sequence[str | Backend] = DEFAULT_BACKENDS,
    *,
    seed: int | None = 0,
    num_rollouts: int = 2000,
    episodes: int | None = None,
    map: Map = builtins.map,
    folder: str | Path | None = None,
) -> Comparison:
    """Asks several backends the same question, and tries each policy in the true world.

    No row raises: what went wrong stands in its status. Unknown names and wrong types do raise, before anything runs.

    Each backend is a task on one thread, and every row is the same to the last bit (but for its `seconds`) whatever
    `map` hands the tasks out, and however many work.

    Args:
        model: a `TrajectoryModel`, a batch of them (a row for each backend and member; the time that a backend took is
            shared out equally), a continuous model (of a batch of linear-Gaussian ones a row for each backend and
            member, asked one by one and numbered row by row over several batch axes), an environment
            (`cai.models.environment_model`), or a trajectory program (whose real return is not known here).
        backends: names, with options if wanted ("risk:eta=-2"), or instances.
        seed: for backends and rollouts; None draws one, which stands in the details of each answer.
        num_rollouts: see `evaluate`.
        episodes: how many are played in an environment, with and without the policy's own draws; 20 unless given.
            There `real_return` is their mean discounted return, `stochastic_return` and `deterministic_return` are
            plain sums of rewards, and what is estimated has its standard error beside it.
        map: who does the tasks, a function with the contract of `concurrent.futures.Executor.map`: `pool.map` of
            threads or processes, `cai.dask_map(client)`, or Python's own `map`, one after the other.
        folder: keeps what is done, so that a study that was killed or interrupted goes on there when it is asked again;
            one that asks something else is refused. Answers come back as from `cai.load`: numbers without gradients.
    """
    if isinstance(backends, str) or not isinstance(backends, Iterable):
        raise TypeError(f"backends is {backends!r}; give a list of names or instances, e.g. ['exact', 'variational']")
    check_map(map)
    model = checked_model(model)
    tries = checked_tries(model, num_rollouts, episodes)
    if seed is None:
        seed = chosen_seed(folder)
        result = compare(
            model, backends, seed=seed, num_rollouts=num_rollouts, episodes=episodes, map=map, folder=folder
        )
        for row in result.rows:
            record_seed(row.posterior, seed)
        return result
    seed = check_seed(seed)
    questions = [Question(None, make_backend(backend), seed) for backend in backends]
    if not questions:
        raise ValueError("backends is empty; name at least one, e.g. 'exact'")
    study = {"kind of study": "compare"}
    rows = ask(questions, model=model, tries=tries, label="comparing backends", map=map, folder=folder, study=study)
    return Comparison(model, tuple(row for part in rows for row in part))


def checked_model(model: Any) -> Any:
    """The model as studies ask about it.

    Raises:
        TypeError, ValueError: if it is none.
    """
    check_question(model)
    return model if isinstance(model, (World, EnvironmentModel)) else as_conditioned(model)


def checked_tries(model: Any, num_rollouts: int, episodes: int | None) -> dict[str, int]:
    """How policies are tried in the true world: by rollouts, in an environment by whole episodes.

    Raises:
        ValueError: if episodes are given where there are none.
    """
    if isinstance(model, EnvironmentModel):
        return {"episodes": 20 if episodes is None else as_count(episodes, "episodes", 2)}
    if episodes is not None:
        raise ValueError("episodes= counts whole episodes of an environment; of a model give num_rollouts=...")
    return {"num_rollouts": num_rollouts}


def chosen_seed(folder: str | Path | None) -> int:
    """A seed for seed=None.

    Raises:
        ValueError: if there is a folder, in which a study is asked again with the seed that it had.
    """
    if folder is not None:
        raise ValueError("seed=None draws another seed each time, and a folder goes on with one study; give a seed")
    return drawn_seed()


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
