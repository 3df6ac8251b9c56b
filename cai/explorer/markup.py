"""What a view says, as HTML and as CSV: numbers, returns as bars, what colours and letters mean, refusals."""

from __future__ import annotations

import base64
import csv
import html
import io
import math

from cai.explorer.answers import COLUMNS, View, backend_name, short_text
from cai.explorer.picture import action_legend, shown_room
from cai.models.continuous.world import World
from cai.pictures.drawing import TARGET_COLORS, label_legend

__all__ = ["columns_html", "legend_html", "messages_html", "numbers_csv", "returns_html", "table_html"]

REAL = "#595959"


def table_html(view: View) -> str:
    """The numbers as a table, below the caption."""
    caption = f'<div class="cai-caption">{html.escape(view.caption)}</div>'
    if not view.numbers:
        return caption
    names = list(next(iter(view.numbers.values())))
    head = "".join(f"<th>{html.escape(name)}<small>{COLUMNS.get(name, '')}</small></th>" for name in names)
    lines = []
    for backend, numbers in view.numbers.items():
        cells = "".join(f'<td data-column="{html.escape(key)}">{_cell(numbers[key], key)}</td>' for key in numbers)
        lines.append(f'<tr data-backend="{html.escape(backend)}"><th>{html.escape(backend)}</th>{cells}</tr>')
    return f'{caption}<table class="cai-numbers"><tr><th>answer</th>{head}</tr>{"".join(lines)}</table>'


def messages_html(view: View) -> str:
    """What went wrong, a paragraph each."""
    return "".join(f'<p class="cai-message">{html.escape(text)}</p>' for text in view.messages)


def columns_html(view: View) -> str:
    """The pictures of the answers, in a row where there is room and below each other where there is not."""
    rows = view.answers.rows if view.answers is not None else ()
    images = []
    for row, file in zip(rows, view.columns, strict=False):
        width = int.from_bytes(file[16:20])  # of the PNG header; shares of the line by width keep one scale
        images.append(
            f'<img alt="policy and luck of {html.escape(backend_name(row))}" '
            f'style="flex:{width} 1 {0.7 * width:.0f}px;max-width:min(100%,{width}px)" '
            f'src="data:image/png;base64,{base64.b64encode(file).decode()}">'
        )
    return f'<div class="cai-columns">{"".join(images)}</div>' if images else ""


def returns_html(view: View) -> str:
    """Believed and real return of every answer, as bars from 0 on one scale."""
    if view.answers is None:
        return ""
    rows = view.answers.rows
    pairs = [(row, (row.believed_return, row.real_return)) for row in rows]
    known = [value for _, pair in pairs for value in pair if value is not None and math.isfinite(value)]
    low, high = min([0.0, *known]), max([0.0, *known])
    scale = 100 / (high - low) if high > low else 0.0
    lines = []
    for row, pair in pairs:
        bars = []
        for value, color in zip(pair, (TARGET_COLORS.get(row.target, REAL), REAL), strict=True):
            if value is None or not math.isfinite(value):
                text = "-inf" if value == -math.inf else "+inf" if value == math.inf else "unknown"
                bars.append(f"<div><small>{text}</small></div>")
                continue
            left, width = scale * (min(value, 0.0) - low), scale * abs(value)
            bars.append(f'<div><i style="left:{left:.2f}%;width:{width:.2f}%;background:{color}"></i></div>')
        lines.append(f"<tr><th>{html.escape(view.title(row))}</th><td>{''.join(bars)}</td></tr>")
    ends = f"<tr><th></th><td><small>{low:.4g}</small><small>{high:.4g}</small></td></tr>"
    title = "Believed return (coloured) above, real return (grey) below, in reward units"
    return f'<div class="cai-caption">{title}</div><table class="cai-returns">{"".join(lines)}{ends}</table>'


def legend_html(view: View) -> str:
    """What the colours, letters and arrows of the pictures mean."""
    if view.answers is None or not view.columns:
        return ""
    model = view.answers.model
    if isinstance(model, World):
        text = "Line and band: mean and two standard deviations; coloured: believed, grey: in the true world."
        return f'<p class="cai-about">{text}</p>'
    if model.mdp.layout is not None:
        letters = html.escape(label_legend(model.mdp))
        words = f"Letters: {letters}. " if letters else ""
        room = shown_room(model)
        words += f"One room of many: {html.escape(room)}. " if room else ""
        words += "Arrows: actions, the longer the more probable. Dark: walls; light grey: the end."
        return f'<p class="cai-about">{words} Upper row: values; lower row: luck by state, summed over time.</p>'
    patches = "".join(
        f'<span><i style="background:{color}"></i>{html.escape(name)}</span>' for name, color in action_legend(model)
    )
    words = "the paler the less certain; below, luck by state, summed over time"
    return f'<p class="cai-about cai-actions">Most probable action: {patches} ({words})</p>'


def numbers_csv(view: View) -> str:
    """The numbers with all digits, a line for each answer; before them the values of the controls."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = list(next(iter(view.numbers.values()), {}))
    writer.writerow(["model", *view.values, "answer", *columns])
    for backend, numbers in view.numbers.items():
        cells = ["" if numbers[key] is None else numbers[key] for key in columns]
        writer.writerow([view.name, *(short_text(value) for value in view.values.values()), backend, *cells])
    return file.getvalue()


def _cell(value: float | None, column: str) -> str:
    if value is None:
        return "-"
    if column not in COLUMNS:  # a probability
        return f"{value:.1%}"
    return f"{value if abs(value) >= 5e-5 else 0.0:.4f}"
