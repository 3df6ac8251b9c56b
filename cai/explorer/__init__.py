"""A panel to play with one model: sliders, and what three backends answer; in a notebook, or as a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cai.explorer.answers import Exploration, View
from cai.explorer.controls import Control, Model

if TYPE_CHECKING:
    from cai.explorer.widgets import Panel

__all__ = ["Control", "Exploration", "View", "explore"]


def explore(model: str | Model | Callable[..., Model]) -> Panel:
    """Sliders for a model in a notebook, with live maps of policy and luck, and believed against real return.

    The answers of `exact`, `variational` and `risk` stand side by side. Sliders act when they are let go of. What is
    refused is said in words in place of the picture. The same panel as a page: `cai explore MODEL`.

    Args:
        model: a name from `cai models`, or a function that returns a model, whose own numbers (slip, rewards, ...) can
            then be changed, too; or a `TrajectoryModel` or `LinearGaussianModel`, of which temperature, discount and
            horizon can.

    Returns:
        An ipywidgets box; `panel.controls["slip"].value = 0.3` moves it from code, `panel.view` holds the answers.

    Raises:
        TypeError, ValueError: if it is none of these, or the model cannot be built as it is.
        ImportError: if ipywidgets is missing.
    """
    from cai.explorer.widgets import Panel

    return Panel(model)
