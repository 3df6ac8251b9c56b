"""From the values of the controls to answers, numbers in a table, and one picture; whatever the toolkit."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from cai.explorer.controls import Control, Model, make_controls, open_source
from cai.inference.backends.risk import RiskSensitive
from cai.inference.core.backend import Backend
from cai.models.continuous.world import World
from cai.models.trajectory.model import TrajectoryModel
from cai.studies.comparison import Comparison, Row, chance_columns, compare
from cai.studies.rows import NUMBERS

__all__ = ["Exploration", "View"]

LONGEST = 5_000  # steps of a panel that people wait for
MEMORY = 2**30  # bytes of one answer
REMEMBERED = 2**22  # bytes of one answer that is kept, with its picture, for whoever moves a slider back
MOST_ASKED = 32
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

    @property
    def name(self) -> str:
        """The name of the model."""
        return self._source.first.name

    def ask(self, **values: Any) -> View:
        """The answers of `exact`, `variational` and `risk` for these values; the others are as at first.

        Never raises for a value: what is refused stands in the view's messages.

        Raises:
            TypeError: if there is no control of that name.
        """
        unknown = [name for name in values if name not in self.defaults]
        if unknown:
            raise TypeError(f"{self.name} has no control {unknown[0]!r}; it has {', '.join(self.defaults)}")
        settled = self.defaults | values
        key = tuple(settled.values())
        if key in self._asked:
            return self._asked[key]
        view = self._answer(settled)
        answers = view.answers
        if answers is not None and (isinstance(answers.model, World) or _needed(answers.model) <= REMEMBERED):
            if len(self._asked) >= MOST_ASKED:
                del self._asked[next(iter(self._asked))]  # the oldest
            self._asked[key] = view
        return view

    def _answer(self, settled: dict[str, Any]) -> View:
        """What `ask` does for values that it has not been asked about lately."""
        try:
            model = self._model(settled)
            _check_size(model)
            backends: list[str | Backend] = ["exact", "variational", RiskSensitive(eta=settled["eta"])]
            answers = compare(model, backends, num_rollouts=2)  # expectations are exact; the spread is not shown
        except Exception as error:  # whatever a builder does to a number, the panel says it and goes on
            refusal = isinstance(error, ValueError)
            text = str(error) if refusal else f"{type(error).__name__}: {error}"
            return View(self.name, settled, None, (text,))
        reasons: dict[str, list[str]] = {}
        for row in answers.rows:
            if not row.status.ok or row.detail:
                reasons.setdefault(row.detail or str(row.status), []).append(_name(row))
        texts = (f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
        return View(self.name, settled, answers, tuple(texts))

    def _model(self, values: Mapping[str, Any]) -> Model:
        for name, value in values.items():
            if value is None:
                raise ValueError(f"{name.replace('_', ' ')} is empty; enter a number")
        options = {name: _plain(value) for name, value in values.items()}
        options.pop("eta")
        if options.pop("infinite_horizon"):
            options["horizon"] = math.inf
        elif isinstance(options["horizon"], int) and options["horizon"] > LONGEST:
            raise ValueError(
                f"horizon is {options['horizon']:,}; the panel takes up to {LONGEST:,} steps, which take a while: "
                "lower it, take the infinite horizon, or ask cai.infer(model, ..., keep='values')"
            )
        return self._source.build(**options)


@dataclass(frozen=True, eq=False)
class View:
    """What the panel shows for some values of its controls.

    Attributes:
        name: of the model.
        values: of every control.
        answers: of the model, a row for each backend; None where the model itself was refused.
        messages: what went wrong, and notes of `compare`, in words; empty if there is nothing to say.
    """

    name: str
    values: Mapping[str, Any]
    answers: Comparison | None
    messages: tuple[str, ...] = field(default=())

    @property
    def caption(self) -> str:
        """Which values these are the answers for, in one line."""
        shown = {name: value for name, value in self.values.items() if name != "infinite_horizon"}
        if self.values["infinite_horizon"]:
            shown["horizon"] = math.inf
        return f"{self.name}: " + ", ".join(f"{name.replace('_', ' ')} {_short(shown[name])}" for name in shown)

    @cached_property
    def numbers(self) -> dict[str, dict[str, float | None]]:
        """Backend -> column -> number, as `cai.compare` has it; None where it is not known."""
        answers = self.answers
        return {} if answers is None else {_name(row): _numbers(row, answers.model) for row in answers.rows}

    def _title(self, row: Row) -> str:
        return f"risk, eta = {_short(self.values['eta'])}" if _name(row) == "risk" else _name(row)

    def figure(self) -> Figure | None:
        """Policy, luck, and believed against real return; None where there is no answer."""
        from cai.explorer.gaussian_picture import draw_gaussian_answers
        from cai.explorer.picture import draw_answers

        if self.answers is None or not any(row.status.ok for row in self.answers.rows):
            return None
        titles = [self._title(row) for row in self.answers.rows]
        if isinstance(self.answers.model, World):
            return draw_gaussian_answers(self.answers, titles)
        return draw_answers(self.answers, titles)

    def png(self) -> bytes | None:
        """The figure as the bytes of a PNG file; None where there is no answer. It is drawn once."""
        return self._png

    @cached_property
    def _png(self) -> bytes | None:
        figure = self.figure()
        if figure is None:
            return None
        file = io.BytesIO()
        with matplotlib.rc_context({"savefig.bbox": None}):  # a notebook's own setting would cut each picture anew
            figure.savefig(file, format="png", dpi=100, pil_kwargs={"compress_level": 1})
        return file.getvalue()

    def table_html(self) -> str:
        """The numbers as an HTML table, below the caption."""
        caption = f'<div class="cai-caption">{html.escape(self.caption)}</div>'
        if not self.numbers:
            return caption
        names = list(next(iter(self.numbers.values())))
        head = "".join(f"<th>{html.escape(name)}<br><small>{COLUMNS.get(name, '')}</small></th>" for name in names)
        lines = []
        for backend, numbers in self.numbers.items():
            cells = "".join(f'<td data-column="{html.escape(key)}">{_cell(numbers[key], key)}</td>' for key in numbers)
            lines.append(f'<tr data-backend="{html.escape(backend)}"><th>{html.escape(backend)}</th>{cells}</tr>')
        return f'{caption}<table class="cai-numbers"><tr><th>answer</th>{head}</tr>{"".join(lines)}</table>'

    def messages_html(self) -> str:
        """What went wrong, a paragraph each."""
        return "".join(f'<p class="cai-message">{html.escape(text)}</p>' for text in self.messages)


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


def _name(row: Row) -> str:
    """Of the backend, without its options."""
    return row.backend.split("(")[0]


def _numbers(row: Row, model: Model) -> dict[str, float | None]:
    numbers: dict[str, float | None] = {key: getattr(row, name) for key, name in zip(COLUMNS, NUMBERS, strict=True)}
    outcome = row.outcome
    for column, place in chance_columns(model).items():
        numbers[column] = None if outcome is None else outcome.chance(*place)
    return numbers


def _cell(value: float | None, column: str) -> str:
    if value is None:
        return "-"
    if column not in COLUMNS:  # a probability
        return f"{value:.1%}"
    return f"{value if abs(value) >= 5e-5 else 0.0:.4f}"


def _plain(value: Any) -> Any:
    """7.0, as widgets give whole numbers back, is 7."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
