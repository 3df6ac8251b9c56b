"""One backend over a range of one option, of its own or of the model, e.g. the risk dial from caution to optimism."""

from __future__ import annotations

import builtins
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai.inference.core.backend import Backend
from cai.inference.registry import make_backend, record_seed
from cai.models.common.fingerprint import fingerprint
from cai.models.common.random_draws import check_seed
from cai.models.common.storage import Saved, storable
from cai.models.continuous.world import World
from cai.models.environments.world import EnvironmentModel
from cai.models.trajectory.model import TrajectoryModel
from cai.models.zoo.registry import build_model
from cai.studies.asking import Question, ask
from cai.studies.comparison import Comparison, checked_model, checked_tries, chosen_seed
from cai.studies.members import is_batch
from cai.studies.rows import EPISODES, NUMBERS, Row, mean_of
from cai.tasks.mapping import Map, check_map

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Sweep", "sweep"]


@storable("sweep")
@dataclass(frozen=True, eq=False, repr=False)
class Sweep(Saved):
    """The rows of `compare` for every value of one option, and for every seed.

    Attributes:
        backend: the name of the backend.
        option: which option moves; "seed" where seeds alone do.
        values: what it takes, in the order asked for.
        comparison: a row for each value and seed: all seeds of the first value, then those of the second. Its `model`
            is what was asked; where the option is the model's, that of the first value, and each answer has its own.
        seeds: at which every value was asked; None where one seed served all.
        of: whose option it is: "backend", "model" or "seed".
    """

    backend: str
    option: str
    values: tuple[Any, ...]
    comparison: Comparison
    seeds: tuple[int, ...] | None = None
    of: str = "backend"

    def _check_held(self) -> None:
        if len(self.comparison.rows) != len(self._places):
            raise ValueError(
                f"values are {len(self.values)} and seeds {len(self.seeds or (None,))}, and comparison has "
                f"{len(self.comparison.rows)} rows; expected one for each value and seed"
            )

    def __repr__(self) -> str:
        seeds = "" if self.seeds is None else f" and {len(self.seeds)} seeds"
        return f"Sweep of {self.backend!r} over {len(self.values)} values of {self.option}{seeds}; see to_frame()"

    def _repr_html_(self) -> str:
        """`to_frame` as a table."""
        return str(self.to_frame().to_html(max_rows=60, float_format="{:.6g}".format))

    @property
    def _places(self) -> list[tuple[Any, int | None]]:
        """(value, seed) of each row."""
        return [(value, seed) for value in self.values for seed in self.seeds or (None,)]

    def rows(self, place: int) -> tuple[Row, ...]:
        """The rows of one value, one for each seed.

        Args:
            place: of the value, from 0.
        """
        number = len(self.seeds or (None,))
        begin = range(len(self.values))[place] * number
        return self.comparison.rows[begin : begin + number]

    def to_frame(self) -> pd.DataFrame:
        """The comparison's table, with the option's value in place of the backend, and the seed if several."""
        frame = self.comparison.to_frame().reset_index(drop=True)
        frame.insert(0, self.option, [value for value, _ in self._places])
        if self.seeds is None:
            return frame.set_index(self.option)
        frame.insert(1, "seed", [seed for _, seed in self._places])
        return frame.set_index([self.option, "seed"])

    def over_seeds(self) -> pd.DataFrame:
        """A row for each value: the mean of every number over the seeds, and its standard error beside it.

        The standard error is that of the mean, by the spread between seeds; of a single seed it is that of the row,
        where the row is an estimate. Seeds that have no number are left out; `answered` counts those with an answer.
        """
        import pandas as pd

        lines = []
        for place, value in enumerate(self.values):
            rows = self.rows(place)
            line: dict[str, Any] = {self.option: value, "seeds": len(rows)}
            line["answered"] = sum(row.status.ok for row in rows)
            for name in self._numbers():
                line[name], line[f"{name}_error"] = mean_of(rows, name)
            lines.append(line)
        return pd.DataFrame(lines).set_index(self.option)

    def _numbers(self) -> tuple[str, ...]:
        played = any(row.episodes is not None for row in self.comparison.rows)
        return NUMBERS + (EPISODES if played else ())

    def to_dict(self) -> dict[str, Any]:
        """The sweep as plain values: rows with value and seed, null where a number is unknown or not finite."""
        whole = self.comparison.to_dict()
        places = [{"value": plain_value(value), "seed": seed} for value, seed in self._places]
        rows = [place | row for place, row in zip(places, whole["rows"], strict=True)]
        head = {"model": whole["model"], "backend": self.backend, "option": self.option, "of": self.of}
        return head | {"seeds": None if self.seeds is None else list(self.seeds), "rows": rows}

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict` as one JSON object."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def plot(self, **options: Any) -> Figure:
        """Believed and real return, the worst returns, gap and luck, with standard errors; see `cai.plot_sweep`.

        Of a sweep over seeds alone, the picture of its comparison.
        """
        from cai.studies.plots import plot_sweep

        return self.comparison.plot(**options) if self.of == "seed" else plot_sweep(self, **options)


def plain_value(value: Any) -> Any:
    """A value of an option as JSON allows it."""
    plain = isinstance(value, (bool, int, str)) or value is None or (isinstance(value, float) and math.isfinite(value))
    return value if plain else str(value)


def sweep(
    model: Any,
    backend: str,
    *,
    seed: int | None = 0,
    seeds: Iterable[int] | None = None,
    model_options: Mapping[str, Any] | None = None,
    num_rollouts: int = 2000,
    map: Map = builtins.map,
    folder: str | Path | None = None,
    **options: Any,
) -> Sweep:
    """Asks one backend for several values of one option, of its own or of the model's, and for several seeds.

        cai.sweep(model, "risk", eta=[-10, -1, 0, 1])
        cai.sweep("bridge", "exact", model_options={"slip": [0.0, 0.1, 0.2], "horizon": 20})
        cai.sweep("multi-goal", "soft-actor-critic", steps=20_000, seeds=range(8), map=pool.map)

    Each value and seed is a task; `map` and `folder` are those of `compare`.

    Args:
        model: a model or trajectory program, or the name of a model of the zoo.
        backend: the name of the backend.
        seed: as in `compare`, for all values.
        seeds: in place of `seed`: every value is asked at each of these. Where nothing else moves, they do.
        model_options: of a model of the zoo by name, its options ("slip", "temperature", ...); of a model, arguments
            that `model.replace` takes.
        num_rollouts: as in `compare`.
        map: as in `compare`.
        folder: as in `compare`.
        **options: the backend's options. Exactly one of these and of `model_options` is a list of values.

    Raises:
        ValueError: if no option, or more than one, is a list; or the backend or the model does not know it.
        TypeError: if the backend is not a name, or the model a batch.
    """
    if not isinstance(backend, str):
        raise TypeError(f"backend is {backend!r}; sweep takes its name, and its options as keywords")
    if is_batch(model):
        raise TypeError("sweep moves an option of one model's backend; for a batch use cai.compare(batch, [...])")
    check_map(map)
    of_model = dict(model_options or {})
    many = None if seeds is None else _checked_seeds(seeds, seed)
    of, option, values = _moving(options, of_model, many)
    if many is not None:
        drawn, first = False, many
    else:
        drawn, first = seed is None, (chosen_seed(folder) if seed is None else check_seed(seed),)
    if of == "model":
        models = [_built(model, of_model | {option: value}) for value in values]
        backends = [make_backend(backend, **options)] * len(values)
    else:
        models = [_built(model, of_model)]
        moved = options if of == "seed" else {key: part for key, part in options.items() if key != option}
        backends = [make_backend(backend, **moved, **({option: value} if of == "backend" else {})) for value in values]
    asked = _questions(of, models, backends, first)
    tries = checked_tries(models[0], num_rollouts, None)
    study = {
        "kind of study": f"sweep of {backend} over {option}",
        "values": ", ".join(_told(value) for value in values),
    }
    rows = ask(
        asked,
        model=None if of == "model" else models[0],
        tries=tries,
        label=f"sweeping {option}",
        map=map,
        folder=folder,
        study=study,
    )
    comparison = Comparison(models[0], tuple(row for part in rows for row in part))
    for row in comparison.rows if drawn else ():
        record_seed(row.posterior, first[0])
    return Sweep(backend, option, values, comparison, None if of == "seed" else many, of)


def _told(value: Any) -> str:
    """A value in words that are the same in every process."""
    plain = isinstance(value, (bool, int, float, str)) or value is None
    return repr(value) if plain else fingerprint(value)


def _questions(of: str, models: list[Any], backends: list[Backend], seeds: Sequence[int]) -> list[Question]:
    """Value-major, then seed."""
    if of == "seed":
        return [Question(None, made, seed) for made, seed in zip(backends, seeds, strict=True)]
    own = models if of == "model" else [None] * len(backends)
    return [Question(one, made, seed) for one, made in zip(own, backends, strict=True) for seed in seeds]


def _moving(
    options: Mapping[str, Any], of_model: Mapping[str, Any], seeds: tuple[int, ...] | None
) -> tuple[str, str, tuple[Any, ...]]:
    """(whose option moves, its name, its values)."""
    lists = [("backend", key, value) for key, value in options.items() if _is_list(value)]
    lists += [("model", key, value) for key, value in of_model.items() if _is_list(value)]
    if not lists and seeds is not None:
        return "seed", "seed", seeds
    if len(lists) != 1:
        got = f"got {', '.join(key for _, key, _ in lists)}" if lists else "got none"
        raise ValueError(f"exactly one option must be a list of values, e.g. eta=[-1, 0, 1]; {got}")
    of, option, given = lists[0]
    values = tuple(given.tolist() if hasattr(given, "tolist") else given)
    if not values:
        raise ValueError(f"{option} is an empty list; give at least one value")
    return of, option, values


def _built(model: Any, options: Mapping[str, Any]) -> Any:
    """The model of these options."""
    if isinstance(model, str):
        return checked_model(build_model(model, **options))
    model = checked_model(model)
    if not options:
        return model
    if not isinstance(model, (TrajectoryModel, World, EnvironmentModel)):
        raise TypeError(
            f"model_options change a model, and this is a program; write a function of {', '.join(options)} that makes "
            "the program, and compare its answers"
        )
    try:
        return checked_model(model.replace(**options))
    except TypeError as error:
        raise ValueError(
            f"{error}; options of the zoo such as slip need the name of a model: cai.sweep('bridge', ...)"
        ) from None


def _checked_seeds(seeds: Any, seed: Any) -> tuple[int, ...]:
    if not _is_list(seeds):
        raise TypeError(f"seeds is {seeds!r}; give several, as seeds=range(5), or one as seed=...")
    if seed != 0:
        raise ValueError(f"seed={seed!r} and seeds are given; leave one out")
    found = tuple(map(check_seed, seeds.tolist() if hasattr(seeds, "tolist") else seeds))
    if not found:
        raise ValueError("seeds is empty; give at least one")
    if len(set(found)) < len(found):
        again = next(one for one in found if found.count(one) > 1)
        raise ValueError(f"seeds holds {again} twice; equal seeds give equal answers, and too small an error")
    return found


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)) and not _is_scalar(value)


def _is_scalar(value: Any) -> bool:
    return getattr(value, "ndim", None) == 0
