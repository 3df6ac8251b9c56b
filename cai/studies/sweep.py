"""One backend over a range of one of its options, e.g. the risk dial from caution to optimism."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cai.inference.registry import make_backend
from cai.models.common.storage import Saved, storable
from cai.models.trajectory.batch import ModelBatch
from cai.studies.comparison import Comparison, compare

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Sweep", "sweep"]


@storable("sweep")
@dataclass(frozen=True, eq=False, repr=False)
class Sweep(Saved):
    """The rows of `compare` for every value of one option.

    Attributes:
        backend: the name of the backend.
        option: which of its options moves.
        values: what it takes, in the order asked for.
        comparison: a row for each.
    """

    backend: str
    option: str
    values: tuple[Any, ...]
    comparison: Comparison

    def __repr__(self) -> str:
        return f"Sweep of {self.backend!r} over {len(self.values)} values of {self.option}; see to_frame()"

    def _repr_html_(self) -> str:
        """`to_frame` as a table."""
        return str(self.to_frame().to_html(max_rows=60, float_format="{:.6g}".format))

    def to_frame(self) -> pd.DataFrame:
        """The comparison's table, with the option's value in place of the backend."""
        frame = self.comparison.to_frame().reset_index(drop=True)
        frame.insert(0, self.option, list(self.values))
        return frame.set_index(self.option)

    def plot(self, **options: Any) -> Figure:
        """Believed and real return, the worst returns, gap and luck; see `cai.plot_sweep`."""
        from cai.studies.plots import plot_sweep

        return plot_sweep(self, **options)


def sweep(model: Any, backend: str, *, seed: int = 0, num_rollouts: int = 2000, **options: Any) -> Sweep:
    """Asks one backend the same question for several values of one option.

    Args:
        model: a `TrajectoryModel`, or a trajectory program.
        backend: the name of the backend.
        seed: as in `compare`.
        num_rollouts: as in `compare`.
        **options: the backend's options; exactly one of them is a list of values, as in `eta=[-10, -1, 0, 1]`.

    Raises:
        ValueError: if no option, or more than one, is a list; or the backend does not know it.
        TypeError: if the backend is not a name, or the model a batch.
    """
    if not isinstance(backend, str):
        raise TypeError(f"backend is {backend!r}; sweep takes its name, and its options as keywords")
    if isinstance(model, ModelBatch):
        raise TypeError("sweep moves an option of one model's backend; for a batch use cai.compare(batch, [...])")
    lists = {key: value for key, value in options.items() if _is_list(value)}
    if len(lists) != 1:
        got = f"got {', '.join(lists)}" if lists else "got none"
        raise ValueError(f"exactly one option must be a list of values, e.g. eta=[-1, 0, 1]; {got}")
    option, given = next(iter(lists.items()))
    values = tuple(given.tolist() if hasattr(given, "tolist") else given)
    if not values:
        raise ValueError(f"{option} is an empty list; give at least one value")
    backends = [make_backend(backend, **(options | {option: value})) for value in values]
    return Sweep(backend, option, values, compare(model, backends, seed=seed, num_rollouts=num_rollouts))


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, dict)) and not _is_scalar(value)


def _is_scalar(value: Any) -> bool:
    return getattr(value, "ndim", None) == 0
