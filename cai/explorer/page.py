"""The panel as a page, served by Panel (HoloViz) on this machine; the page loads nothing from elsewhere."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable
from typing import Any

try:
    import panel
except ImportError as error:
    raise ImportError(
        "the page needs Panel, which is not installed: pip install 'control-as-inference[explore]'; in a notebook, "
        "cai.explorer.explore(model) needs ipywidgets only"
    ) from error

from cai.explorer.answers import FIRST, Exploration, View
from cai.explorer.controls import Control
from cai.explorer.markup import columns_html, legend_html, messages_html, numbers_csv, returns_html, table_html
from cai.explorer.style import STYLE

__all__ = ["Page", "serve"]

HOST = "127.0.0.1"
WAIT = 150  # milliseconds without another move until the page answers
NUMBERS_WIDTH = 330  # pixels
ABOUT = """<p class="cai-about"><b>exact</b> conditions the world on success, too: its plan believes in good luck.
<b>variational</b> plans in the world as it is. <b>risk</b> is a dial: eta below 0 is cautious, 0 variational, 1 exact.
<b>Luck</b> is how far the world that a plan believes in is from the true one, KL(believed, true) in nats: e to the
minus luck is about how probable it is that the world plays along.</p>"""
WAITING = '<p class="cai-about">The first answer is on its way.</p>'
WRAP = ":host {flex-wrap: wrap}"  # the answers come below the controls where both are wider than the window
# A phone would take a page without this for one of 980 pixels, and shrink it.
TEMPLATE = """{% extends base %}
{% block postamble %}<meta name="viewport" content="width=device-width, initial-scale=1">{% endblock %}
{% block contents %}{{ embed(roots.page) }}{% endblock %}"""


class Page:
    """One visitor's panel. Nothing is asked before `show`.

    Attributes:
        exploration: what is asked.
        controls: name -> widget of Panel.
        backends: the widget that chooses whose answers stand side by side.
        view: the answers that are shown; None before the first.
        messages: the pane of what was refused.
        numbers: the pane of the table, with the returns as bars.
        picture: the pane of the pictures.
        reset: the button that puts every control back.
        saved: the buttons that save the picture, and the numbers.
        layout: all of it, to be served.

    Args:
        exploration: what is asked.
        schedule: calls a function after some milliseconds; at once, unless given.
    """

    def __init__(self, exploration: Exploration, schedule: Callable[..., Any] | None = None) -> None:
        self.exploration = exploration
        self.view: View | None = None
        self.controls = {control.name: _widget(control) for control in exploration.controls}
        self.backends = panel.widgets.MultiChoice(
            label="answers (learners take their time)",
            options=list(exploration.backends),
            value=list(FIRST),
            width=NUMBERS_WIDTH - 30,
            css_classes=["cai-backends"],
        )
        pane = {"stylesheets": [STYLE], "sizing_mode": "stretch_width", "margin": (0, 5)}
        self.messages = panel.pane.HTML(css_classes=["cai-messages"], **pane)
        self.numbers = panel.pane.HTML(WAITING, css_classes=["cai-answers"], **pane)
        self.picture = panel.pane.HTML(css_classes=["cai-picture"], **pane)
        self._schedule = schedule
        self._moves = 0
        for control in exploration.controls:
            widget = self.controls[control.name]
            released = "value_throttled" if "value_throttled" in widget.param else "value"
            widget.param.watch(self._moved, released)
        self.backends.param.watch(self._moved, "value")
        self.reset = panel.widgets.Button(label="Reset", width=NUMBERS_WIDTH - 30, css_classes=["cai-reset"])
        self.reset.on_click(self._reset)
        self.saved = panel.Row(
            _download("Save picture", f"{exploration.name}.png", self._picture_file, "cai-save-picture"),
            _download("Save numbers", f"{exploration.name}.csv", self._numbers_file, "cai-save-numbers"),
        )
        about = panel.pane.HTML(ABOUT, **pane)
        side = panel.Column(
            *self.controls.values(), self.backends, self.reset, self.saved, width=NUMBERS_WIDTH, margin=0
        )
        answers = (about, self.messages, self.picture, self.numbers)
        main = panel.Column(*answers, sizing_mode="stretch_width", margin=0, styles={"flex": "1 1 340px"})
        self.layout = panel.Row(side, main, sizing_mode="stretch_width", stylesheets=[WRAP])

    def show(self) -> None:
        """Asks for the values that the controls have now, and shows the answers."""
        values = {name: widget.value for name, widget in self.controls.items()}
        view = self.view = self.exploration.ask(self.backends.value, **values)
        self.controls["horizon"].disabled = bool(values["infinite_horizon"])
        with panel.io.hold():
            self.messages.object = messages_html(view)
            self.numbers.object = returns_html(view) + table_html(view)
            self.picture.object = columns_html(view) + legend_html(view)
            self.picture.loading = False

    def _picture_file(self) -> io.BytesIO:
        """All answers in one picture, with the bars of the returns."""
        return io.BytesIO((self.view.png() if self.view is not None else None) or b"")

    def _numbers_file(self) -> io.BytesIO:
        return io.BytesIO((numbers_csv(self.view) if self.view is not None else "").encode())

    def _reset(self, event: Any) -> None:
        """Every control as it was at first."""
        for name, value in self.exploration.defaults.items():
            self.controls[name].value = value
        self.backends.value = list(FIRST)
        self.show()

    def _moved(self, event: Any) -> None:
        """Waits for further moves, so that a key held down is answered once."""
        self._moves += 1
        if self._schedule is None:
            self.show()
            return
        self.picture.loading = True
        move = self._moves

        def settle() -> None:
            if move == self._moves:
                self.show()

        self._schedule(settle, WAIT)


def serve(source: Any, *, port: int = 0, browser: bool = True, announce: Callable[[str], None] = print) -> None:
    """Serves the panel on 127.0.0.1 until it is interrupted.

    Args:
        source: as in `Exploration`.
        port: 0 takes a free one.
        browser: open the page.
        announce: is told in a line where the page is.

    Raises:
        TypeError, ValueError: if the source or the port is refused.
        OSError: if the port is in use.
    """
    exploration = Exploration(source)
    port = _free_port(port)
    panel.extension()

    def visit() -> Any:
        document = panel.state.curdoc
        schedule = document.add_timeout_callback if document is not None else None
        page = Page(exploration, schedule)
        panel.state.onload(page.show)  # once the visitor's socket is open
        template = panel.Template(TEMPLATE)
        template.add_panel("page", page.layout)
        return template

    origins = [f"{HOST}:{port}", f"localhost:{port}"]
    title = f"cai explore {exploration.name}"
    announce(f"{title}: http://{HOST}:{port} (stop with Ctrl-C)")
    panel.serve(
        {"/": visit},
        port=port,
        address=HOST,
        websocket_origin=origins,
        title=title,
        show=browser,
        verbose=False,
        autoreload=False,
    )


def _free_port(port: int) -> int:
    if not 0 <= port <= 65535:
        raise ValueError(f"port is {port}; give a number from 1 to 65535, or 0 for one that is free")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise OSError(f"port {port} of {HOST} cannot be used ({error.strerror}); give another one, or 0") from None
        taken: int = probe.getsockname()[1]
    return taken


def _download(label: str, name: str, callback: Callable[[], io.BytesIO], css_class: str) -> Any:
    about = {"width": (NUMBERS_WIDTH - 50) // 2, "css_classes": [css_class]}
    return panel.widgets.FileDownload(label=label, filename=name, callback=callback, **about)


def _widget(control: Control) -> Any:
    about = {"label": control.label, "value": control.value, "css_classes": [f"cai-{control.name}"]}
    about["width"] = NUMBERS_WIDTH - 30
    if control.kind == "switch":
        return panel.widgets.Checkbox(**about)
    if control.kind == "number":
        return panel.widgets.FloatInput(**about)
    if control.kind == "log":
        return panel.widgets.DiscreteSlider(options=control.choices, formatter="%.4g", **about)
    if control.kind == "whole":
        ends = {"start": int(control.low), "end": int(control.high), "step": int(control.step)}
        return panel.widgets.EditableIntSlider(fixed_start=1, **ends, **about)
    return panel.widgets.FloatSlider(start=control.low, end=control.high, step=control.step, format="0[.]00", **about)
