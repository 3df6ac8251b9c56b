"""Bootstrap: the same fit to demonstrations drawn again, person by person, here or on many machines."""

from __future__ import annotations

import builtins
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cai.inverse.estimation.estimate import Estimate
from cai.inverse.estimation.status import FitStatus
from cai.inverse.fit import fit
from cai.models.common.checks import as_count
from cai.models.common.fingerprint import fingerprint
from cai.models.common.frames import frame_of, packed_frame
from cai.models.common.random_draws import check_seed
from cai.models.common.storage import Saved, storable
from cai.models.demonstrations.continuous import ContinuousDemonstrations
from cai.models.demonstrations.route_network import RouteNetwork
from cai.models.demonstrations.trips import read_trips
from cai.tasks.journal import Journal
from cai.tasks.mapping import Map, check_map, run_tasks

__all__ = ["Bootstrap", "bootstrap"]

OWN = {"throw", "progress"}  # of `fit`, that mean nothing here


def _parts(boot: Bootstrap) -> dict[str, Any]:
    parts = {"estimate": boot.estimate, "statuses": boot.statuses, "by": boot.by, "seed": boot.seed}
    return parts | {"coefficients": packed_frame(boot.coefficients)}


def _of_parts(parts: dict[str, Any]) -> Bootstrap:
    return Bootstrap(**parts | {"coefficients": frame_of(parts["coefficients"])})


@storable("inverse-bootstrap", pack=_parts, unpack=_of_parts)
@dataclass(frozen=True, eq=False, repr=False)
class Bootstrap(Saved):
    """What came of fits to demonstrations drawn again.

    Attributes:
        estimate: of the demonstrations as they are.
        coefficients: [R, F], a row for each replicate, columns by name; nan where it has no estimate.
        statuses: R, how each fit ended.
        by: "person" or "demonstration": what was drawn again, with all that belongs to it.
        seed: of the draws.
    """

    estimate: Estimate
    coefficients: pd.DataFrame
    statuses: tuple[FitStatus, ...]
    by: str
    seed: int

    def __repr__(self) -> str:
        ended = Counter(status.label for status in self.statuses)
        told = ", ".join(f"{number} {label}" for label, number in ended.items())
        return f"Bootstrap of {len(self.statuses)} replicates by {self.by} ({told}); see to_frame()"

    def _repr_html_(self) -> str:
        return str(self.to_frame().to_html(float_format="{:.4g}".format))

    @property
    def answered(self) -> pd.DataFrame:
        """The replicates whose fit ended in success; errors are theirs, and too small if many are missing."""
        return self.coefficients[[status.ok for status in self.statuses]]

    @property
    def standard_errors(self) -> pd.Series:
        """Standard deviations over replicates (divisor R - 1), by name; nan of fewer than two."""
        return self.answered.std(ddof=1).rename("standard_error")

    @property
    def covariance(self) -> pd.DataFrame:
        """[F, F], over replicates."""
        return self.answered.cov()

    def intervals(self, level: float = 0.95) -> pd.DataFrame:
        """Columns lower and upper: quantiles of the replicates, the percentile interval (Efron 1979).

        Args:
            level: the share of replicates in between, in (0, 1).

        Raises:
            ValueError: if it is not in (0, 1).
        """
        if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
            raise ValueError(f"level is {level!r}; expected a probability in (0, 1), such as .95")
        tail = (1 - level) / 2
        return pd.DataFrame(
            {"lower": self.answered.quantile(tail), "upper": self.answered.quantile(1 - tail)},
            index=self.coefficients.columns,
        )

    def to_frame(self) -> pd.DataFrame:
        """Columns coefficient, standard_error (of the estimate), bootstrap_error, lower, upper (of 95%)."""
        frame = pd.DataFrame(
            {
                "coefficient": self.estimate.coefficients,
                "standard_error": self.estimate.standard_errors,
                "bootstrap_error": self.standard_errors,
            }
        ).join(self.intervals())
        frame.index.name = "feature"
        return frame


@dataclass(frozen=True, eq=False)
class _Replicate:
    """Fits to what is drawn for a number; a frozen callable, which other processes can be sent."""

    problem: Any
    demonstrations: Any
    groups: np.ndarray[Any, Any]  # int64 [N], the person of each demonstration; -1 where it weighs nothing
    seed: int
    options: dict[str, Any]

    def weights(self, number: int) -> Tensor:
        """[N]: how often its person was drawn, times what it weighs."""
        count = int(self.groups.max()) + 1
        drawn = np.random.default_rng([self.seed, number]).integers(count, size=count)
        often = np.bincount(drawn, minlength=count + 1)  # the last place is that of -1
        return torch.as_tensor(self.demonstrations.weights) * torch.from_numpy(often[self.groups].astype(np.float64))

    def __call__(self, number: int) -> dict[str, Any]:
        weights = self.weights(number)
        own = self.demonstrations.weights
        drawn = replace(self.demonstrations, weights=weights.numpy() if isinstance(own, np.ndarray) else weights)
        found = fit(self.problem, drawn, **self.options, throw=False)
        return {"coefficients": torch.tensor(found.coefficients.to_numpy()), "status": found.status.label}


def bootstrap(
    problem: Any,
    demonstrations: Any,
    replicates: int = 200,
    *,
    by: Literal["person", "demonstration"] | None = None,
    seed: int = 0,
    map: Map = builtins.map,
    folder: str | Path | None = None,
    **options: Any,
) -> Bootstrap:
    """Fits again to demonstrations drawn with replacement, to see how far coefficients scatter (Efron 1979).

        boot = cai.inverse.bootstrap(network, trips, 500, features=["minutes", "left"], map=pool.map, folder="boot")
        boot.intervals()

    Each replicate draws as many persons as there are, and weighs every demonstration by how often its person was drawn;
    so what a person does twice is not taken for two pieces of evidence. It is one whole fit, begun at the estimate, and
    a task of its own: the draws of replicate r come from (seed, r) alone, so they are the same bits whatever `map`
    hands the tasks out, however many work, and however many replicates there are.

    Args:
        problem: as in `fit`.
        demonstrations: as in `fit`.
        replicates: R, 2 or more.
        by: what is drawn again: "person" with all that each showed, or "demonstration", each by itself; by person
            wherever persons are known.
        seed: of the draws.
        map: as in `cai.compare`.
        folder: as in `cai.compare`.
        **options: as in `fit`, such as features, objective, start, fixed, bounds, penalty and drop; covariance is that
            of the estimate.

    Raises:
        ValueError, TypeError: as `fit`; also if there are fewer than two persons to draw from.
        FitError: if the demonstrations as they are have no estimate. Replicates without one are counted in `statuses`.
    """
    check_map(map)
    seed = check_seed(seed)
    number = as_count(replicates, "replicates", 2)
    refused = sorted(OWN & options.keys())
    if refused:
        raise ValueError(f"{refused[0]} is no option of replicates; leave it out")
    given = _read(problem, demonstrations, options)
    name, groups = _groups(given, by)
    estimate = fit(problem, given, **options)
    of_fits = {key: value for key, value in options.items() if key not in ("drop", "covariance")}
    if of_fits.get("start") is None:
        of_fits["start"] = {name: float(estimate.coefficients[name]) for name in estimate.free}
    asked = _Replicate(problem, given, groups, int(seed), of_fits)
    journal = None if folder is None else Journal(folder, _question(asked, options, number, name))
    found = run_tasks(asked, range(number), label="bootstrap", map=map, journal=journal)
    names = {status.label: status for status in FitStatus}
    return Bootstrap(
        estimate,
        pd.DataFrame(torch.stack([one["coefficients"] for one in found]).numpy(), columns=estimate.coefficients.index),
        tuple(names[one["status"]] for one in found),
        name,
        int(seed),
    )


def _question(asked: _Replicate, options: Mapping[str, Any], number: int, by: str) -> dict[str, str]:
    """By what a folder knows it again."""
    return {
        "kind of study": "bootstrap",
        "content of the problem": fingerprint(asked.problem),
        "content of the demonstrations": fingerprint(asked.demonstrations),
        "options of the fit": fingerprint(dict(sorted(options.items()))),
        "replicates": str(number),
        "unit that is drawn": by,
        "seed": str(asked.seed),
        "version of cai": version("control-as-inference"),
    }


def _read(problem: Any, given: Any, options: Mapping[str, Any]) -> Any:
    """The demonstrations, read once."""
    if isinstance(problem, RouteNetwork):
        return read_trips(problem, given, options.get("drop"))
    return ContinuousDemonstrations(*given) if isinstance(given, tuple) and len(given) == 2 else given


def _groups(given: Any, by: str | None) -> tuple[str, np.ndarray[Any, Any]]:
    """(what is drawn again, the group of each demonstration; -1 for those that weigh nothing)."""
    if by not in (None, "person", "demonstration"):
        raise ValueError(f"by is {by!r}; expected 'person' or 'demonstration'")
    weights = getattr(given, "weights", None)
    if weights is None:
        raise TypeError(f"the demonstrations are a {type(given).__name__}; give what cai.inverse.fit takes")
    persons = given.persons
    name = by or ("demonstration" if persons is None else "person")
    counts = np.asarray(weights) > 0
    groups = np.full(len(counts), -1)
    if name == "demonstration":
        groups[counts] = np.arange(counts.sum())
    else:
        if persons is None:
            raise ValueError("by='person' needs to know who made each demonstration: give persons")
        labels = np.asarray(list(persons), dtype=object)
        missing = np.flatnonzero(counts & pd.isna(labels))
        if len(missing):
            raise ValueError(f"persons[{missing[0]}] is missing; name the person of every demonstration")
        groups[counts] = pd.factorize(labels[counts])[0]
    if groups.max() < 1:
        raise ValueError(
            f"there is one {name} alone, and nothing to draw from; "
            + ("give by='demonstration', or show more" if name == "person" else "show more demonstrations")
        )
    return name, groups
