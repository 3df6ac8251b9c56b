"""Figures that are kept between moves show what figures drawn anew show, whatever they held before."""

import dataclasses

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import cai
from cai.evaluation import continuous
from cai.explorer import Exploration
from cai.explorer.boards import Boards
from cai.explorer.letters import LetterCanvas
from cai.inference.core.tabular import TabularPosterior
from cai.models import bridge, build_model
from cai.models.zoo import toy_text

MOVES = {
    "bridge": {"slip": 0.0, "horizon": 6},
    "chain": {"slip": 0.0, "temperature": 100.0},
    "lottery": {"temperature": 31.6},
    "double-integrator": {"horizon": 9},
    "small-roads": {"temperature": 3.0},
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


def test_remembered_letters_are_those_that_the_font_draws():
    """Drawn once, drawn again from memory, and drawn by matplotlib's own canvas."""
    pictures = []
    for canvas in (LetterCanvas, FigureCanvasAgg):
        figure = Figure(figsize=(4, 3))
        canvas(figure)
        ax = figure.add_subplot()
        ax.plot([0, 1], [0, 2], label="luck, nats")
        ax.set(xlabel="time t", ylabel="turned", title=r"a title, and $\alpha^2$ in it")
        ax.tick_params(axis="x", rotation=37)
        ax.text(0.3, 0.5, "half", alpha=0.5, color="red")
        ax.text(0.3, 0.9, "half", clip_on=True, bbox={"facecolor": "yellow"})
        ax.legend()
        for _ in range(2):
            figure.canvas.draw()
            pictures.append(np.array(figure.canvas.buffer_rgba()))
        ax.set_title("another, over it")
        figure.canvas.draw()
        pictures.append(np.array(figure.canvas.buffer_rgba()))
        if canvas is LetterCanvas and matplotlib.__version_info__ >= (3, 11):  # older ones hand a font on, not pixels
            assert figure.canvas.get_renderer()._words, "no word was remembered"
    for place in range(3):
        assert np.array_equal(pictures[place], pictures[place + 3])


def test_a_table_of_gymnasium_is_read_once(monkeypatch):
    exploration = Exploration("FrozenLake-v1")
    exploration.ask()
    monkeypatch.setattr(toy_text, "read_table", lambda *_: pytest.fail("the table is read anew"))
    moved = exploration.ask(temperature=0.5, horizon=12, discount=0.9)
    monkeypatch.undo()
    fresh = cai.infer(build_model("FrozenLake-v1", temperature=0.5, horizon=12, discount=0.9), "exact")
    assert moved.numbers["exact"]["log p(O)"] == float(fresh.log_evidence)


@pytest.mark.parametrize("name", ["lqg", "double-integrator"])
def test_gaussian_returns_are_exact_without_rollouts(name, monkeypatch):
    monkeypatch.setattr(continuous, "_rollouts", lambda *_: pytest.fail("rollouts are not shown"))
    exploration = Exploration(name)
    for values in ({}, {"infinite_horizon": True}):
        numbers = exploration.ask(exploration.backends, **values).numbers
        assert all(row["real return"] is not None for row in numbers.values() if row["believed return"] is not None)
