"""Sweeps over one option, the curves they draw, and options written behind a backend's name."""

import math

import numpy as np
import pytest
import torch

import cai
from cai.inference import RiskSensitive, StructuredVariational, SumProduct
from cai.inference.registry import backend_label, make_backend
from cai.models import bridge, gridworld, lottery
from cai.pictures import plot_convergence
from cai.studies.plots import plot_sweep
from cai.studies.sweep import sweep


def test_a_sweep_has_a_row_for_each_value_in_the_order_asked_for():
    found = sweep(bridge(), "risk", eta=[1.0, -3.0, 0.0])
    frame = found.to_frame()
    assert list(frame.index) == [1.0, -3.0, 0.0]
    assert frame.index.name == "eta"
    exact = cai.infer(bridge(), "exact")
    assert frame.loc[1.0, "believed_return"] == pytest.approx(float(exact.believed_return), abs=1e-9)
    assert [row.backend for row in found.comparison.rows] == ["risk(eta=1.0)", "risk(eta=-3.0)", "risk(eta=0.0)"]


def test_other_options_stay_where_they_are():
    found = sweep(lottery(), "variational", solver="svi", max_iterations=[1, 200])
    assert [row.backend for row in found.comparison.rows] == [
        "variational(solver=svi, max_iterations=1)",
        "variational(solver=svi, max_iterations=200)",
    ]
    assert [row.status.ok for row in found.comparison.rows] == [False, True]


@pytest.mark.parametrize("values", [torch.tensor([0.0, 1.0]), np.array([0.0, 1.0]), (0.0, 1.0), iter([0.0, 1.0])])
def test_any_list_of_numbers_will_do(values):
    assert len(sweep(lottery(), "risk", eta=values, num_rollouts=10).comparison.rows) == 2


@pytest.mark.parametrize(
    ("options", "error", "pattern"),
    [
        ({}, ValueError, "exactly one option must be a list.*got none"),
        ({"eta": 1.0}, ValueError, "got none"),
        ({"eta": [1.0], "tolerance": [1e-6]}, ValueError, "got eta, tolerance"),
        ({"eta": []}, ValueError, "eta is an empty list"),
        ({"theta": [1.0]}, ValueError, "backend 'risk'.*'theta'.*options are: eta"),
        ({"eta": ["much"]}, ValueError, "eta is 'much'; give a number"),
    ],
)
def test_bad_sweeps_say_what_to_do(options, error, pattern):
    with pytest.raises(error, match=pattern):
        sweep(lottery(), "risk", **options)


def test_a_sweep_takes_a_name():
    with pytest.raises(TypeError, match="sweep takes its name"):
        sweep(lottery(), RiskSensitive(1.0), eta=[1.0])


def test_the_picture_of_a_sweep_shows_its_numbers():
    found = sweep(bridge(), "risk", eta=[1000.0, -1000.0, 0.0, 1.0])
    left, middle, right = found.plot().axes
    believed, real, worst = (line.get_ydata() for line in left.get_lines())
    frame = found.to_frame().sort_index()
    assert np.allclose(believed, frame["believed_return"].astype(float))
    assert np.allclose(real, frame["real_return"].astype(float))
    assert np.allclose(worst, frame["cvar"].astype(float))
    assert np.allclose(middle.get_lines()[0].get_ydata(), frame["optimism_gap"].astype(float))
    assert np.allclose(right.get_lines()[0].get_ydata(), frame["luck"].astype(float))
    assert left.get_xlabel() == "eta"
    assert left.get_xscale() == "symlog"
    assert "bridge" in left.figure.get_suptitle()


def test_values_without_an_answer_are_counted_in_the_title():
    model = gridworld(horizon=math.inf, discount=0.9)
    figure = sweep(model, "risk", eta=[0.0, 1.0, -1000.0], num_rollouts=10).plot()
    rows = sweep(model, "risk", eta=[-1000.0]).comparison.rows
    assert ("have no answer" in figure.get_suptitle()) == (not rows[0].status.ok)


def test_a_sweep_over_words_is_not_drawn_as_a_curve():
    found = sweep(lottery(), "value-iteration", successors=["expected", "best"])
    with pytest.raises(ValueError, match=r"not numbers; use sweep\.comparison\.plot"):
        plot_sweep(found)
    assert found.comparison.plot().axes


def test_the_picture_of_convergence_holds_the_history_and_its_rate():
    model = gridworld(horizon=math.inf, discount=0.9)
    posteriors = [cai.infer(model, name, accelerate=False) for name in ("variational", "exact")]
    figure = plot_convergence(posteriors)
    lines = figure.axes[0].get_lines()
    assert len(lines) == 4
    assert np.allclose(lines[0].get_ydata(), posteriors[0].details["changes"])
    bound = lines[1].get_ydata()
    assert np.allclose(bound[1:6] / bound[:5], 0.9)
    assert bool((lines[0].get_ydata() <= bound * (1 + 1e-9)).all())  # the contraction holds at every backup


def test_convergence_needs_a_history():
    with pytest.raises(ValueError, match=r"has no history of backups; infer with horizon=math\.inf"):
        plot_convergence(cai.infer(lottery(), "exact"))
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_convergence([])


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("exact", "exact"),
        ("risk:eta=-2", "risk(eta=-2)"),
        ("risk:eta=-1", "risk"),
        ("risk:eta=inf", "risk(eta=inf)"),
        ("variational:solver=svi, max_iterations=7", "variational(solver=svi, max_iterations=7)"),
        ("exact:accelerate=false", "exact(accelerate=False)"),
    ],
)
def test_options_are_written_behind_the_name(text, label):
    assert backend_label(make_backend(text)) == label


def test_keywords_win_over_what_is_written():
    assert make_backend("risk:eta=-2", eta=3.0) == RiskSensitive(3.0)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("risk:eta", "'eta' in backend 'risk:eta' is no option; write NAME:option=value"),
        ("risk:=3", "is no option"),
        ("risk:size=3", "'risk'.*'size'.*its options are: eta"),
        ("riks:eta=3", "no backend is called 'riks'"),
    ],
)
def test_options_that_cannot_be_read(text, pattern):
    with pytest.raises(ValueError, match=pattern):
        make_backend(text)


def test_rows_are_found_by_label_and_by_name():
    table = cai.compare(lottery(), [SumProduct(), "risk:eta=2", "risk:eta=3", StructuredVariational(solver="svi")])
    assert table["risk(eta=3)"].posterior.details["eta"] == 3.0
    assert table["risk"].posterior.details["eta"] == 2.0
    assert table["variational"].status.ok
    with pytest.raises(KeyError, match=r"'smc' was not compared; rows are exact, risk\(eta=2\)"):
        table["smc"]


def test_a_batch_is_compared_not_swept():
    batch = lottery().batch(temperature=[0.5, 1.0])
    with pytest.raises(TypeError, match=r"cai.compare\(batch"):
        cai.sweep(batch, "risk", eta=[0, 1])
