"""Figures that are kept between moves show what figures drawn anew show, whatever they held before."""

import dataclasses

import pytest

import cai
from cai.explorer import Exploration
from cai.explorer.boards import Boards
from cai.inference.core.tabular import TabularPosterior
from cai.models import bridge

MOVES = {
    "bridge": {"slip": 0.0, "horizon": 6},
    "chain": {"slip": 0.0, "temperature": 100.0},
    "lottery": {"temperature": 31.6},
    "double-integrator": {"horizon": 9},
}


@pytest.mark.parametrize("returns", [False, True])
@pytest.mark.parametrize("name", list(MOVES))
def test_pictures_after_moves_are_those_drawn_anew(name, returns):
    """The same panels hold fewer, more and other bars, letters and lines from move to move."""
    exploration = Exploration(name)
    for values in ({}, MOVES[name]):
        view = exploration.ask(("variational", "exact"), **values)
        shown = view.png() if returns else view.columns
    anew = dataclasses.replace(view, boards=Boards())
    assert shown == (anew.png() if returns else anew.columns)
    assert len(exploration._boards._kept) == 1


def test_a_kept_figure_is_drawn_in_again():
    exploration = Exploration("bridge")
    exploration.ask().columns  # noqa: B018
    (board,) = exploration._boards._kept.values()
    axes = [*board.figure.axes]
    exploration.ask(slip=0.4).columns  # noqa: B018
    assert list(exploration._boards._kept.values()) == [board]
    assert board.figure.axes == axes


@pytest.mark.parametrize("name", ["lottery", "small-roads", "bridge", "inventory"])
def test_no_label_is_cut_off_whatever_was_drawn_before(name):
    Exploration("inventory").ask().columns  # noqa: B018
    figure = Exploration(name).ask().figure()
    figure.canvas.draw()
    columns = figure.axes[:3]
    for place, ax in enumerate(columns):
        texts = [text for text in (ax.yaxis.label, *ax.get_yticklabels()) if text.get_text()]
        left = min((text.get_window_extent().x0 for text in texts), default=1000.0)
        assert left >= (columns[place - 1].get_window_extent().x1 if place else 0), name


def test_rows_that_a_move_does_not_change_are_kept():
    exploration = Exploration("bridge")
    first, second = exploration.ask(), exploration.ask(eta=0.5)
    for place in (0, 1):
        assert second.answers.rows[place] is first.answers.rows[place]
    assert second.answers.rows[2] is not first.answers.rows[2]
    third = exploration.ask(eta=0.5, slip=0.3)
    assert third.numbers["exact"] == Exploration("bridge").ask(slip=0.3).numbers["exact"] != first.numbers["exact"]
    more = exploration.ask(("max-product", "exact"), slip=0.3)
    assert list(more.numbers) == ["max-product", "exact"]
    assert more.answers.rows[1] is third.answers.rows[0]


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("name", ["exact", "variational", "risk:eta=-1", "max-product"])
def test_luck_by_state_is_added_up_step_by_step(name, discount):
    answer = cai.infer(bridge(discount=discount), name)
    found, one_by_one = answer.luck_by_state(), TabularPosterior.luck_by_state(answer)
    assert (found - one_by_one).abs().max() <= 1e-12
