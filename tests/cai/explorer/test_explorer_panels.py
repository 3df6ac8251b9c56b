"""The panel's widgets moved in plain Python: those of a notebook, and those of the page."""

import math
import sys

import pytest
from explorer_answers import SHARED, answers, pixels, same

from cai.explorer import Exploration, explore
from cai.models import bridge, build_model

# ---- widgets of a notebook -----------------------------------------------------------------------------------------


def test_moving_widgets_changes_picture_and_numbers():
    """One after the other, each keeping what was moved before it."""
    panel, moved = explore("bridge"), {}
    for name, value in {"slip": 0.4, "temperature": 3.0, "discount": 0.8, "eta": 1.5, "horizon": 9}.items():
        picture, numbers = pixels(panel.picture.value), panel.numbers.value
        panel.controls[name].value = value
        assert (pixels(panel.picture.value) != picture).any(-1).sum() > 500
        assert panel.numbers.value != numbers
        moved |= {} if name == "eta" else {name: value}
        expected = answers(bridge(**moved), panel.controls["eta"].value)
        same(panel.view.numbers, expected)
        assert f">{expected['risk']['believed return']:.4f}<" in panel.numbers.value


def test_sliders_wait_until_they_are_let_go():
    panel = explore(bridge())
    assert set(panel.controls) == SHARED
    for name in ("temperature", "discount", "eta", "horizon"):
        assert panel.controls[name].continuous_update is False


def test_a_refused_widget_says_so_and_recovers():
    panel = explore("bridge")
    before = panel.picture.value
    panel.controls["step_cost"].value = math.inf
    assert "cai-message" in panel.messages.value
    assert panel.picture.layout.display == "none"
    panel.controls["step_cost"].value = 1.0
    assert panel.messages.value == ""
    assert panel.picture.layout.display is None
    assert (pixels(panel.picture.value) == pixels(before)).all()
    panel.controls["infinite_horizon"].value = True
    assert panel.controls["horizon"].disabled
    assert panel.messages.value == ""


# ---- the page, without a browser -----------------------------------------------------------------------------------


def release(widget, value):
    """What the browser sends when a control is let go of."""
    param = pytest.importorskip("param")
    widget.value = value
    with param.edit_constant(widget):
        widget.value_throttled = value


def test_the_page_shows_what_the_core_says():
    pytest.importorskip("panel")
    from cai.explorer.page import Page

    page = Page(Exploration("inventory"))
    assert page.view is None  # nothing is asked before a visitor's socket is open
    page.show()
    picture = page.picture.object
    release(page.controls["discount"], 0.9)
    assert page.picture.object != picture
    same(page.view.numbers, answers(build_model("inventory", discount=0.9), -1.0))
    release(page.controls["price"], None)
    assert "price is empty" in page.messages.object
    assert page.picture.object == ""


def test_moves_in_a_row_are_answered_once():
    pytest.importorskip("panel")
    from cai.explorer.page import Page

    later = []
    page = Page(Exploration("lottery"), lambda call, wait: later.append(call))
    page.show()
    first = page.view
    for price in (-2.0, -3.0, -4.0):
        release(page.controls["safe_reward"], price)
    assert page.view is first
    assert len(later) == 3
    for call in later[:2]:
        call()
        assert page.view is first
    later[2]()
    assert page.view.values["safe_reward"] == -4.0


@pytest.mark.parametrize(("module", "extra"), [("panel", "explore"), ("ipywidgets", "notebooks")])
def test_what_is_missing_is_named(module, extra, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    for own in ("cai.explorer.page", "cai.explorer.widgets"):
        monkeypatch.delitem(sys.modules, own, raising=False)
    if module == "panel":
        from cai.cli import main

        with pytest.raises(SystemExit) as stop:
            main(["explore", "bridge", "--no-browser"])
        assert stop.value.code == 2
        text = capsys.readouterr().err
    else:
        with pytest.raises(ImportError) as caught:
            explore("bridge")
        text = str(caught.value)
    assert f"pip install 'control-as-inference[{extra}]'" in text


@pytest.mark.parametrize(("port", "words"), [(70000, "from 1 to 65535"), (-1, "from 1 to 65535")])
def test_ports_that_are_none(port, words):
    pytest.importorskip("panel")
    from cai.explorer.page import serve

    with pytest.raises(ValueError, match=words):
        serve("bridge", port=port)


def test_a_reset_shows_what_was_shown_at_first_without_drawing_it_again():
    pytest.importorskip("panel")
    from cai.explorer.page import Page

    page = Page(Exploration("lottery"))
    page.show()
    first, picture = page.view, page.picture.object
    release(page.controls["eta"], 1.5)
    assert page.view.values["eta"] == 1.5
    assert page.picture.object != picture
    page.reset.clicks += 1
    assert {name: widget.value for name, widget in page.controls.items()} == page.exploration.defaults
    assert page.view is first  # it was kept
    assert page.picture.object == picture
