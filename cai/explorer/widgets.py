"""The panel in a notebook, on ipywidgets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

try:
    import ipywidgets
except ImportError as error:
    raise ImportError(
        "the panel needs ipywidgets, which is not installed: pip install 'control-as-inference[notebooks]'"
    ) from error


from cai.explorer.answers import Exploration, View
from cai.explorer.controls import Control, Model
from cai.explorer.markup import messages_html, table_html
from cai.explorer.style import STYLE

__all__ = ["Panel"]

LOOKS = {"description_width": "170px"}


class Panel(ipywidgets.VBox):
    """Sliders above, numbers and picture below. A slider acts when it is let go of, a number when it is entered.

    Attributes:
        exploration: what is asked.
        controls: name -> widget; setting its `value` moves it.
        view: the answers that are shown.
        picture: the image widget.
        numbers: the table, as an HTML widget.
        messages: what was refused, as an HTML widget.

    Args:
        source: see `cai.explorer.explore`.
    """

    def __init__(self, source: str | Model | Callable[..., Model]) -> None:
        self.exploration = Exploration(source)
        self.controls = {control.name: _widget(control) for control in self.exploration.controls}
        self.messages = ipywidgets.HTML()
        self.numbers = ipywidgets.HTML()
        self.picture = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%", object_fit="contain"))
        for widget in self.controls.values():
            widget.observe(self._moved, names="value")
        board = ipywidgets.Layout(grid_template_columns="repeat(auto-fill, minmax(430px, 1fr))")
        sliders = ipywidgets.GridBox(list(self.controls.values()), layout=board)
        super().__init__(
            [ipywidgets.HTML(f"<style>{STYLE}</style>"), sliders, self.messages, self.numbers, self.picture]
        )
        self.view: View
        self._moved(None)

    def _moved(self, change: Any) -> None:
        self.view = self.exploration.ask(**{name: widget.value for name, widget in self.controls.items()})
        self.controls["horizon"].disabled = self.controls["infinite_horizon"].value
        self.messages.value = messages_html(self.view)
        self.numbers.value = table_html(self.view)
        picture = self.view.png()
        self.picture.value = picture or b""
        self.picture.layout.display = None if picture else "none"


def _widget(control: Control) -> Any:
    about = {"description": control.label, "style": LOOKS, "layout": ipywidgets.Layout(width="420px")}
    if control.kind == "switch":
        return ipywidgets.Checkbox(value=control.value, indent=True, **about)
    if control.kind == "number":
        return ipywidgets.FloatText(value=control.value, continuous_update=False, **about)
    about |= {"value": control.value, "continuous_update": False}
    if control.kind == "log":
        low, high = math.log10(control.low), math.log10(control.high)
        return ipywidgets.FloatLogSlider(
            min=low, max=high, step=math.log10(control.step), readout_format=".4g", **about
        )
    if control.kind == "whole":
        return ipywidgets.IntSlider(min=int(control.low), max=int(control.high), step=int(control.step), **about)
    return ipywidgets.FloatSlider(min=control.low, max=control.high, step=control.step, readout_format=".3g", **about)
