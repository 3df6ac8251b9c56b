"""Pictures of problems: every entry of the zoo has one that can be read, and it says what the problem is."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox
from matplotlib.patches import Circle, FancyArrowPatch

from cai.models import (
    MDP,
    TrajectoryModel,
    available_models,
    bridge,
    build_model,
    chain,
    cliff,
    gridworld,
    inventory,
    ladder,
    lottery,
    random_mdp,
    river_swim,
    small_roads,
    tiger,
    windy,
)
from cai.pictures.model_graphs import model_arrows, reward_text
from cai.pictures.model_pictures import plot_model

KINDS = {
    "map": "bridge gridworld windy cliff four-rooms maze kitchen FrozenLake-v1 CliffWalking-v1 Taxi-v4",
    "graph": "lottery ladder river-swim chain double-chain three-paths small-roads tiger",
    "tables": "inventory machine random-mdp",
}
KIND = {name: kind for kind, names in KINDS.items() for name in names.split()}


def words(figure):
    """Every text of a figure, those in boxes included."""
    found = [text.get_text() for text in figure.findobj(plt.Text) if text.get_visible()]
    for box in figure.findobj(AnnotationBbox):
        found += [child.get_text() for child in box.offsetbox.get_children()]
    return found


def drawn(figure):
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize("name", [name for name, entry in available_models().items() if not entry.continuous])
def test_every_entry_has_a_picture(name):
    figure = drawn(plot_model(build_model(name)))
    assert isinstance(figure, Figure)
    said = "\n".join(words(figure))
    assert f"{name}: " in said
    assert "reward" in said
    assert "reward units" in said
    circles = len(figure.findobj(Circle))
    assert {"map": not circles, "graph": circles > 0, "tables": not circles}[KIND[name]]
    for ax in figure.axes:  # nothing that is to be read lies outside
        for text in (ax.title, ax.xaxis.label, ax.yaxis.label):
            box = text.get_window_extent()
            assert not text.get_text() or figure.bbox.padded(1).contains(box.x0, box.y0), text
            assert not text.get_text() or figure.bbox.padded(1).contains(box.x1, box.y1), text


def test_a_graph_names_states_actions_probabilities_and_rewards():
    figure = plot_model(chain())
    said = words(figure)
    for text in ("s1", "s5", "on: 0.8", "back: 0.2", "on: 0.2, +2", "back: 0.8, +2", "on: 0.8, +10"):
        assert text in said, text
    circles = figure.findobj(Circle)
    assert [circle.get_linewidth() > 2 for circle in circles] == [True, False, False, False, False]
    assert len(figure.findobj(FancyArrowPatch)) == len({(a.state, a.following) for a in model_arrows(chain())})


def test_the_ends_of_a_graph_are_framed_twice():
    assert len(plot_model(lottery()).findobj(Circle)) == 4 + 3
    assert "gamble: 0.5, −10" in words(plot_model(lottery()))
    assert "climb: 0.4, −10" in words(plot_model(ladder()))
    assert "right: 0.3, +10,000" in words(plot_model(river_swim()))
    assert "open left: 0.5, −100" in words(plot_model(tiger()))


def test_words_do_not_hide_each_other_or_the_states():
    """No two labels of the graphs of the zoo overlap by more than a quarter, and none covers the middle of a state."""
    for name in KINDS["graph"].split():
        figure = drawn(plot_model(build_model(name)))
        renderer = figure.canvas.get_renderer()
        boxes = [box.patch.get_window_extent(renderer) for box in figure.findobj(AnnotationBbox)]
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                shared = max(0.0, min(a.x1, b.x1) - max(a.x0, b.x0)) * max(0.0, min(a.y1, b.y1) - max(a.y0, b.y0))
                assert shared <= 0.25 * min(a.width * a.height, b.width * b.height), name
        for circle in figure.findobj(Circle):
            middle = circle.axes.transData.transform(circle.center)
            assert not any(box.contains(*middle) for box in boxes), name


def test_a_map_says_what_cells_pay_and_how_moves_go_astray():
    said = "\n".join(words(plot_model(bridge(0.2))))
    assert "+9" in said
    assert "−21" in said
    assert "entering any other cell pays −1" in said
    assert "'right' on = leads: → 80 %, ↓ 10 %, ↑ 10 %" in said.replace("↑ 10 %, ↓ 10 %", "↓ 10 %, ↑ 10 %")
    assert "grey arrow" not in said
    assert "every move on" in "\n".join(words(plot_model(windy())))
    assert "from ~ every action leads to row 3, column 0" in "\n".join(words(plot_model(cliff())))


def test_a_table_holds_the_numbers():
    figure = plot_model(inventory())
    panels = {ax.get_title(): ax for ax in figure.axes}
    texts = {text.get_position(): text.get_text() for text in panels["action order 2"].texts}
    # One unit in stock and two ordered: with one or two sold at 8 each, less 8 for the order and 3 for storage.
    assert texts == {
        (0, 0): "0.25\n+6", (1, 0): "0.5\n−2", (2, 0): "0.25\n−10",
        (1, 1): "0.25\n+5", (2, 1): "0.5\n−3", (3, 1): "0.25\n−11",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["map", "graph", "tables"])
def test_kinds_that_are_asked_for(kind):
    assert drawn(plot_model(gridworld(), kind=kind))


def test_given_axes():
    figure, (left, right) = plt.subplots(1, 2)
    assert plot_model(chain(), ax=right) is figure
    assert plot_model(bridge(), ax=left) is figure
    drawn(figure)


def test_hard_cases():
    one = TrajectoryModel(MDP([[[1.0]]], [1.0]), [[-0.5]], horizon=1)
    assert "0: 1, −0.5" in words(drawn(plot_model(one)))
    assert "0: 1" in words(plot_model(one.replace(reward=[[0.0]])))
    forbidden = TrajectoryModel(MDP([[[0.0, 1.0]], [[1.0, 0.0]]], [0.5, 0.5]), [-math.inf, 0.0], horizon=2)
    assert "0: 1, −inf" in words(drawn(plot_model(forbidden)))
    assert drawn(plot_model(gridworld(fall_reward=-math.inf)))
    assert drawn(plot_model(gridworld(text="SG", step_cost=0.0, goal_reward=0.0)))
    assert drawn(plot_model(random_mdp(num_states=30, num_terminal=3).replace(reward=-math.inf), kind="tables"))
    assert drawn(plot_model(random_mdp(num_states=12, branching=12), kind="graph"))
    assert drawn(plot_model(small_roads(horizon=math.inf)))
    moved = chain().to(dtype=torch.float32)
    assert "on: 0.8" in words(plot_model(moved))
    ended = MDP.from_successors([[[0]], [[1]]], [[[1.0]], [[1.0]]], [1.0, 0.0], terminal=[0, 1])
    assert drawn(plot_model(TrajectoryModel(ended, 0.0, horizon=1)))
    timed = TrajectoryModel(MDP([[[1.0]]], [1.0]), lambda s, a, n, t: 3.0 * (t + 1), horizon=4)
    assert "0: 1, +3" in words(plot_model(timed))


def test_refusals():
    with pytest.raises(TypeError, match="expected a TrajectoryModel, got MDP"):
        plot_model(chain().mdp)
    with pytest.raises(ValueError, match="kind is 'pie'"):
        plot_model(chain(), kind="pie")
    with pytest.raises(ValueError, match="a map needs places"):
        plot_model(chain(), kind="map")
    with pytest.raises(ValueError, match="take no ax"):
        plot_model(inventory(), ax=plt.subplots()[1])
    with pytest.raises(ValueError, match="2001 states"):
        plot_model(random_mdp(num_states=2001, num_actions=1, branching=1))


def test_arrows_are_the_process():
    model = random_mdp(5, outcome_rewards=True)
    table, paid = np.zeros((8, 3, 8)), np.zeros((8, 3, 8))
    for arrow in model_arrows(model):
        table[arrow.state, arrow.action, arrow.following] += arrow.probability
        paid[arrow.state, arrow.action, arrow.following] += arrow.probability * arrow.reward
    np.testing.assert_allclose(table, model.mdp.dense().numpy(), atol=1e-12)
    expected = model.mdp.to_next_states(model.reward_table(0) * model.mdp.probabilities)
    np.testing.assert_allclose(paid, expected.numpy(), atol=1e-12)


def test_rewards_in_words():
    assert [reward_text(x) for x in (0.0, -1.0, 2.5, 10_000.0, -math.inf, 1 / 3)] == [
        "0", "−1", "+2.5", "+10,000", "−inf", "+0.333",
    ]  # fmt: skip
