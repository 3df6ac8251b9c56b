"""From the values of the controls to answers, numbers in a table, and one picture; whatever the toolkit."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from cai.explorer.boards import Boards
from cai.explorer.controls import Control, Model, make_controls, open_source
from cai.inference.backends.risk import RiskSensitive
from cai.inference.registry import available_backends
from cai.models.common.threads import spare_core
from cai.models.continuous.world import World
from cai.models.trajectory.model import TrajectoryModel
from cai.studies.comparison import Comparison, Row, chance_columns, compare
from cai.studies.rows import NUMBERS

__all__ = ["COLUMNS", "FIRST", "Exploration", "View", "backend_name", "short_text"]

MOST_STEPS = 5_000  # steps of a panel that people wait for
MEMORY = 2**30  # bytes of one answer
REMEMBERED = 2**22  # bytes of one answer that is kept, with its picture, for whoever moves a slider back
MOST_ASKED = 32
FIRST = ("exact", "variational", "risk")
GAUSSIAN = (*FIRST, "optimistic", "max-product")  # what answers a linear-Gaussian model by quadratic messages
COLUMNS = {
    "log p(O)": "nats",
    "bound": "nats",
    "believed return": "reward units",
    "real return": "reward units",
    "gap": "believed - real",
    "luck": "nats",
    "entropy": "nats",
}


class Exploration:
    """A model whose numbers can be moved, and what the backends answer.

    Attributes:
        controls: what can be moved, in the order of the panel.
        defaults: option -> what it is at first.

    Args:
        source: a name from `cai models`, a `TrajectoryModel` or `LinearGaussianModel`, or a function that returns one.

    Raises:
        TypeError, ValueError: if it is none of these, or the model cannot be built as it is.
    """

    def __init__(self, source: str | Model | Callable[..., Model]) -> None:
        self._source = open_source(source)
        self.controls: tuple[Control, ...] = make_controls(self._source)
        self.defaults: dict[str, Any] = {control.name: control.value for control in self.controls}
        self._asked: dict[tuple[Any, ...], View] = {}
        self._boards = Boards()
        self._rows: _Rows | None = None

    @property
    def name(self) -> str:
        """The name of the model."""
        return self._source.first.name

    @property
    def backends(self) -> tuple[str, ...]:
        """The names of all backends that answer the model as it is at first; learners among them take their time."""
        model = self._source.first
        if isinstance(model, World):
            return GAUSSIAN
        return tuple(name for name, backend in available_backends().items() if _supports(backend, model))

    def ask(self, backends: Sequence[str] = FIRST, **values: Any) -> View:
        """The answers of some backends for these values; the others are as at first.

        Never raises for a value: what is refused stands in the view's messages.

        Args:
            backends: some of `backends`; `risk` is asked at the value of the dial.
            **values: option -> what it is moved to.

        Raises:
            TypeError: if there is no control of that name.
        """
        unknown = [name for name in values if name not in self.defaults]
        if unknown:
            raise TypeError(f"{self.name} has no control {unknown[0]!r}; it has {', '.join(self.defaults)}")
        settled = self.defaults | values
        key = (*backends, *settled.values())
        if key in self._asked:
            return self._asked[key]
        with spare_core():
            view = self._answer(settled, backends)
        answers = view.answers
        if answers is not None and (isinstance(answers.model, World) or _needed(answers.model) <= REMEMBERED):
            if len(self._asked) >= MOST_ASKED:
                del self._asked[next(iter(self._asked))]  # the oldest
            self._asked[key] = view
        return view

    def _answer(self, settled: dict[str, Any], backends: Sequence[str]) -> View:
        """What `ask` does for values that it has not been asked about lately."""
        try:
            if not backends:
                raise ValueError("no backend is chosen; choose at least one")
            answers = self._compared(settled, backends)
        except Exception as error:  # whatever a builder does to a number, the panel says it and goes on
            refusal = isinstance(error, ValueError)
            text = str(error) if refusal else f"{type(error).__name__}: {error}"
            return View(self.name, settled, None, (text,), self._boards)
        reasons: dict[str, list[str]] = {}
        for row in answers.rows:
            if not row.status.ok or row.detail:
                reasons.setdefault(row.detail or str(row.status), []).append(backend_name(row))
        texts = (f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
        return View(self.name, settled, answers, tuple(texts), self._boards)

    def _compared(self, settled: dict[str, Any], backends: Sequence[str]) -> Comparison:
        """What `compare` says; where eta alone was moved, or a backend chosen, the other rows are those of before."""
        own = {name: value for name, value in settled.items() if name != "eta"}
        rows = self._rows
        if rows is None or rows.own != own:
            model = self._model(settled)
            _check_size(model)
            rows = _Rows(own, model, {})
        keys: list[tuple[str, Any]] = [(name, settled["eta"] if name == "risk" else None) for name in backends]
        known = {key: rows.known[key] for key in keys if key in rows.known}
        missing = [key for key in keys if key not in known]
        if missing:
            asked = [RiskSensitive(eta=eta) if name == "risk" else name for name, eta in missing]
            rollouts = 0 if isinstance(rows.model, World) else 2  # expectations are exact; the spread is not shown
            found = compare(rows.model, asked, num_rollouts=rollouts)
            known.update(zip(missing, found.rows, strict=True))
        self._rows = rows._replace(known=known)
        return Comparison(rows.model, tuple(known[key] for key in keys))

    def _model(self, values: Mapping[str, Any]) -> Model:
        for name, value in values.items():
            if value is None:
                raise ValueError(f"{name.replace('_', ' ')} is empty; enter a number")
        options = {name: _plain(value) for name, value in values.items()}
        options.pop("eta")
        if options.pop("infinite_horizon"):
            options["horizon"] = math.inf
        elif isinstance(options["horizon"], int) and options["horizon"] > MOST_STEPS:
            raise ValueError(
                f"horizon is {options['horizon']:,}; the panel takes up to {MOST_STEPS:,} steps, which take a while: "
                "lower it, take the infinite horizon, or ask cai.infer(model, ..., keep='values')"
            )
        return self._source.build(**options)


class _Rows(NamedTuple):
    """The rows about the model that was asked last: (backend, eta of `risk`) -> row."""

    own: dict[str, Any]
    model: Model
    known: dict[tuple[str, float | None], Row]


@dataclass(frozen=True, eq=False)
class View:
    """What the panel shows for some values of its controls.

    Attributes:
        name: of the model.
        values: of every control.
        answers: of the model, a row for each backend; None where the model itself was refused.
        messages: what went wrong, and notes of `compare`, in words; empty if there is nothing to say.
        boards: figures that are drawn in again.
    """

    name: str
    values: Mapping[str, Any]
    answers: Comparison | None
    messages: tuple[str, ...] = field(default=())
    boards: Boards = field(default_factory=Boards, repr=False)

    @property
    def caption(self) -> str:
        """Which values these are the answers for, in one line."""
        shown = {name: value for name, value in self.values.items() if name != "infinite_horizon"}
        if self.values["infinite_horizon"]:
            shown["horizon"] = math.inf
        return f"{self.name}: " + ", ".join(f"{name.replace('_', ' ')} {short_text(shown[name])}" for name in shown)

    @cached_property
    def numbers(self) -> dict[str, dict[str, float | None]]:
        """Backend -> column -> number, as `cai.compare` has it; None where it is not known."""
        answers = self.answers
        return {} if answers is None else {backend_name(row): _numbers(row, answers.model) for row in answers.rows}

    def title(self, row: Row) -> str:
        """What an answer is called above its picture: its backend, and eta where that is `risk`."""
        return f"risk, eta = {short_text(self.values['eta'])}" if backend_name(row) == "risk" else backend_name(row)

    def figure(self, *, returns: bool = True) -> Figure | None:
        """Policy, luck, and believed against real return, as a figure of its own; None where there is no answer.

        Args:
            returns: with the bars of the returns, and the legend of the actions.
        """
        return self._drawn(returns, None)

    def _drawn(self, returns: bool, boards: Boards | None) -> Figure | None:
        from cai.explorer.gaussian_picture import draw_gaussian_answers
        from cai.explorer.picture import draw_answers

        if self.answers is None or not any(row.status.ok for row in self.answers.rows):
            return None
        titles = [self.title(row) for row in self.answers.rows]
        draw = draw_gaussian_answers if isinstance(self.answers.model, World) else draw_answers
        return draw(self.answers, titles, returns=returns, boards=boards)

    def _pixels(self, returns: bool) -> tuple[np.ndarray, list[slice]] | None:
        """[height, width, 3], and where the pixels of each answer begin and stop; drawn in a figure that is kept."""
        from cai.explorer.picture import cut_columns

        with self.boards.lock, spare_core():
            figure = self._drawn(returns, self.boards)
            if figure is None or self.answers is None:
                return None
            canvas: Any = figure.canvas
            canvas.draw()
            return np.array(canvas.buffer_rgba())[..., :3], cut_columns(figure, len(self.answers.rows))

    @cached_property
    def columns(self) -> list[bytes]:
        """Policy and luck of each answer as a PNG file of its own, all on one scale; none where there is no answer."""
        if self.answers is None or (not self.answers.model.is_finite and isinstance(self.answers.model, World)):
            return []
        drawn = self._pixels(returns=False)
        return [] if drawn is None else [_png(drawn[0][:, part]) for part in drawn[1]]

    def png(self) -> bytes | None:
        """The figure as the bytes of a PNG file; None where there is no answer. It is drawn once."""
        return self._png

    @cached_property
    def _png(self) -> bytes | None:
        drawn = self._pixels(returns=True)
        return None if drawn is None else _png(drawn[0])


def _png(pixels: np.ndarray) -> bytes:
    """[height, width, 3] as a file, compressed a little: it is sent once."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="png", compress_level=1)
    return file.getvalue()


def _check_size(model: Model) -> None:
    """Refuses what would fill the memory before it does.

    Raises:
        ValueError: if an answer would be larger than `MEMORY`.
    """
    if isinstance(model, World):
        return
    needed = _needed(model)
    if needed > MEMORY:
        raise ValueError(
            f"{model.steps:,} steps of {model.mdp.num_states:,} states and {model.mdp.num_actions:,} actions take "
            f"{needed / 2**30:.3g} GiB for each answer, and the panel up to {MEMORY / 2**30:g} GiB: lower the horizon, "
            "or ask cai.infer(model, ..., keep='values')"
        )


def _needed(model: TrajectoryModel) -> int:
    """Bytes of values, Q-values and policy."""
    return 8 * model.steps * model.mdp.num_states * (2 * model.mdp.num_actions + 1)


def _supports(backend: Any, model: Model) -> bool:
    try:
        backend().supports(model)
    except Exception:  # it says why it does not, in whatever way; a plug-in may fail in any
        return False
    return True


def backend_name(row: Row) -> str:
    """Of the backend, without its options."""
    return row.backend.split("(")[0]


def _numbers(row: Row, model: Model) -> dict[str, float | None]:
    numbers: dict[str, float | None] = {key: getattr(row, name) for key, name in zip(COLUMNS, NUMBERS, strict=True)}
    outcome = row.outcome
    for column, place in chance_columns(model).items():
        numbers[column] = None if outcome is None else outcome.chance(*place)
    return numbers


def _plain(value: Any) -> Any:
    """7.0, as widgets give whole numbers back, is 7."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def short_text(value: Any) -> str:
    """A number in up to six digits, anything else as Python writes it."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
