"""Pictures of plans: what is drawn, with which numbers, and what is refused."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import cai
from cai.models import Flat, LinearGaussianModel, QuadraticReward, bridge, build_model
from cai.pictures import plot_plan
from cai.saving import save_comparison


@pytest.fixture(scope="module")
def answers():
    model = build_model("dubins", horizon=12)
    return [cai.infer(model, backend, throw=False) for backend in ("ilqr:restarts=2", "mppi:num_samples=60", "aico")]


def drawn(figure):
    """The axes, and the lines whose label says that they are plans."""
    ax = figure.axes[0]
    return ax, [line for line in ax.lines if str(line.get_label()).startswith("plan of")]


def test_a_plan_lies_where_its_states_are(answers):
    for answer in answers:
        ax, (line,) = drawn(plot_plan(answer, num_paths=10))
        np.testing.assert_allclose(line.get_xydata(), answer.plan.states[:, :2])
        assert f"cost {answer.details['cost']:.4g}" in line.get_label()
        (paths,) = ax.collections
        assert len(paths.get_segments()) in (10, 15)
        left, right = ax.get_xlim()
        assert left <= float(answer.plan.states[:, 0].min())
        assert right >= float(answer.plan.states[:, 0].max())
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "y")
        assert answer.backend in ax.get_title()


def test_path_integrals_are_watched_at_a_time(answers):
    ax, _ = drawn(plot_plan(answers[1], time=5, num_paths=8))
    segments = ax.collections[0].get_segments()
    for segment in segments:
        np.testing.assert_allclose(segment[0], answers[1].plan.states[5, :2])
        assert len(segment) == 8
    assert any("from step 5 on" in text.get_text() for text in ax.get_legend().get_texts())
    with pytest.raises(ValueError, match="time is 12; the plan has time indices 0 to 11"):
        plot_plan(answers[1], time=12)


def test_several_plans_have_colours_of_their_own(answers):
    _, lines = drawn(plot_plan(answers))
    assert len({line.get_color() for line in lines}) == len({line.get_linestyle() for line in lines}) == 3


def test_plans_of_one_backend_are_told_apart(answers):
    twice = plot_plan([answers[0], answers[1], answers[0]])
    shown = [text.get_text() for text in twice.axes[0].get_legend().get_texts()]
    first, other = answers[0].backend, answers[1].backend
    assert [text.split(",")[0] for text in shown if text.startswith("plan")] == [
        f"plan of {first} 1",
        f"plan of {other}",
        f"plan of {first} 2",
    ]
    named = plot_plan({"cold": answers[0], "warm": answers[0]})
    shown = [text.get_text() for text in named.axes[0].get_legend().get_texts()]
    assert [text.split(",")[0] for text in shown if text.startswith("plan")] == ["plan of cold", "plan of warm"]
    assert named.axes[0].get_title().endswith("plans of cold, warm")


def test_axes_can_be_given(answers):
    figure, ax = plt.subplots()
    assert plot_plan(answers[0], num_paths=3, ax=ax) is figure


def test_what_is_no_plan_is_refused(answers):
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_plan([])
    with pytest.raises(TypeError, match="is about a TrajectoryModel; plans are drawn of one continuous model"):
        plot_plan(cai.infer(bridge(), "exact"))
    line = LinearGaussianModel(
        [[1.0]], [[1.0]], initial=torch.zeros(1), horizon=3, reward=QuadraticReward(R=[[1.0]]), action_prior=Flat()
    )
    with pytest.raises(ValueError, match="one coordinate"):
        plot_plan(cai.infer(line, "ilqr"))
    plane = LinearGaussianModel(
        torch.eye(2),
        torch.eye(2),
        initial=torch.zeros(2),
        horizon=3,
        reward=QuadraticReward(R=torch.eye(2)),
        action_prior=Flat(),
    )
    with pytest.raises(ValueError, match="the answer of 'exact' has no plan; give it alone"):
        plot_plan([cai.infer(plane, "ilqr"), cai.infer(plane, "exact")])
    assert drawn(plot_plan(cai.infer(plane, "exact"), num_paths=4))[1] == []


def test_a_saved_comparison_shows_every_plan_and_all_together(tmp_path, monkeypatch):
    monkeypatch.setattr("cai.saving._save_film", lambda *_: ())  # films have tests of their own
    result = cai.compare(build_model("dubins", horizon=6), ["ilqr:restarts=1", "mppi:num_samples=30"], num_rollouts=3)
    names = {path.name for path in save_comparison(result, tmp_path)}
    assert "plans.png" in names
    assert sum(name.startswith("plan-") for name in names) == 2
    assert all((tmp_path / name).stat().st_size > 1000 for name in names if name.endswith("png"))
