"""Maps that are read side by side: limits that were given, one scale for several, legends of letters, paths."""

import matplotlib.pyplot as plt
import pytest
import torch

import cai
from cai.models import MDP, TrajectoryModel, bridge, gymnasium_model, kitchen, lottery
from cai.pictures import plot_paths, share_scale
from cai.pictures.drawing import label_legend


@pytest.fixture(scope="module")
def answers():
    return {name: cai.infer(bridge(), name) for name in ("exact", "variational")}


def image(figure):
    (found,) = [picture for ax in figure.axes for picture in ax.images if ax.get_label() != "<colorbar>"]
    return found


@pytest.mark.parametrize("draw", [cai.plot_values, cai.plot_luck])
def test_limits_and_colours_are_those_given(answers, draw):
    shown = image(draw(answers["exact"], limits=(-3, 7.5), colors="plasma"))
    assert shown.get_clim() == (-3.0, 7.5)
    assert shown.get_cmap().name == "plasma"


def test_limits_reach_maps_and_bars_of_any_numbers():
    model, small = bridge(), lottery()
    assert image(cai.plot_map(model, torch.arange(22.0), "rank", limits=(0, 50))).get_clim() == (0.0, 50.0)
    assert cai.plot_map(small, torch.arange(4.0), "rank", limits=(-1, 9)).axes[0].get_ylim() == (-1.0, 9.0)
    assert cai.plot_luck(cai.infer(small), limits=(0, 2)).axes[0].get_ylim() == (0.0, 2.0)
    assert image(cai.plot_values(cai.infer(small), limits=(0, 2))).get_clim() == (0.0, 2.0)


@pytest.mark.parametrize("limits", [(1, 1), (2, 1), (0,), (0, 1, 2), (0, float("inf")), (float("nan"), 1)])
def test_limits_that_are_no_scale_are_refused(answers, limits):
    with pytest.raises(ValueError, match="two finite numbers, the lower one first"):
        cai.plot_values(answers["exact"], limits=limits)


def test_maps_side_by_side_share_the_scale_of_all_their_numbers(answers):
    axes = plt.figure().subplots(1, 2)
    for ax, answer in zip(axes, answers.values(), strict=True):
        cai.plot_values(answer, ax=ax)
    own = [ax.images[0].get_clim() for ax in axes]
    assert own[0] != own[1]
    ends = share_scale(axes)
    assert ends == (min(low for low, _ in own), max(high for _, high in own))
    assert {ax.images[0].get_clim() for ax in axes} == {ends}
    assert share_scale(*axes) == share_scale(ax for ax in axes) == ends
    with pytest.raises(ValueError, match="no scale to share"):
        share_scale(plt.figure().subplots())


def test_letters_on_a_map_have_a_legend(answers):
    assert set(label_legend(bridge().mdp).split(",  ")) == {"S start", "G goal", "~ chasm", "= bridge"}
    assert {"K kettle", "F fridge", "S start"} <= set(label_legend(kitchen().mdp).split(",  "))
    assert "H hole" in label_legend(gymnasium_model("FrozenLake-v1", horizon=10).mdp)
    assert label_legend(lottery().mdp) == ""
    assert "~ chasm" in cai.plot_values(answers["exact"]).axes[0].get_xlabel()


def test_paths_lead_over_the_bridge_and_round_it(answers):
    ax = plot_paths(list(answers.values()), labels=["hopes", "walks round"]).axes[0]
    lines = {line.get_label(): line.get_xydata() for line in ax.lines if not line.get_label().startswith("_")}
    assert list(lines) == ["hopes", "walks round"]
    assert {round(y) for _, y in lines["hopes"]} == {2}
    assert {round(y) for _, y in lines["walks round"]} == {0, 1, 2}
    assert all((round(x), round(y)) == (6, 2) for x, y in (path[-1] for path in lines.values()))
    assert abs(lines["hopes"][0] - lines["walks round"][0]).min() > 0.1  # neither hides the other
    coloured = plot_paths(answers["exact"], colors=["red"]).axes[0]
    assert coloured.lines[1].get_color() == "red"


def test_paths_that_cannot_be_drawn_are_refused(answers):
    with pytest.raises(ValueError, match="without a map"):
        plot_paths(cai.infer(lottery()))
    with pytest.raises(ValueError, match="different maps"):
        plot_paths([answers["exact"], cai.infer(kitchen())])
    with pytest.raises(ValueError, match="labels holds 1 entries for 2 answers"):
        plot_paths(list(answers.values()), labels=["one"])
    with pytest.raises(ValueError, match="at least one"):
        plot_paths([])


def test_where_policies_end_adds_up_to_one():
    short = TrajectoryModel(
        MDP.from_successors([[[1], [0]], [[1], [1]]], [[[1.0], [1.0]], [[1.0], [1.0]]], [1.0, 0.0], terminal=[1],
                            regions={"exit": [1]}),
        [0.0, 0.0],
        horizon=1,
    )  # fmt: skip
    ax = cai.compare(short, ["variational"]).plot().axes[2]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["exit", "elsewhere"]
    assert sum(bar.get_width() for bar in ax.patches) == pytest.approx(1.0, abs=1e-12)
    assert sorted(bar.get_width() for bar in ax.patches) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("name", "columns", "rows"), [("bridge", 7, 4), ("four-rooms", 6, 6), ("CliffWalking-v1", 6, 4)]
)
def test_large_maps_number_every_second_row_and_column(name, columns, rows):
    """Each number is a tick of its own: of a picture of six maps they were a third of its time."""
    ax = cai.plot_values(cai.infer(cai.models.build_model(name), "variational")).axes[0]
    assert (len(ax.get_xticks()), len(ax.get_yticks())) == (columns, rows)
    assert ax.get_xticks()[0] == ax.get_yticks()[0] == 0
