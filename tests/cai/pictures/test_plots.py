"""Pictures: every function returns a labelled figure for every kind of problem, and draws what the theory says."""

import functools
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver

from cai import MDP, TrajectoryModel, compare, infer, plot_comparison, plot_luck, plot_map, plot_messages, plot_values
from cai.inference.tabular.forward_messages import forward_messages
from cai.models import GridLayout, StepCost, bridge, gridworld, gymnasium_model, lottery
from cai.pictures.plots import TARGET_COLORS


def single():
    """One state, one action, one step."""
    return TrajectoryModel(MDP([[[1.0]]], [1.0]), [[-0.5]], horizon=1)


def infeasible(layout=False):
    """Three cells in a row; from the last one every step is forbidden, so its value is -inf."""
    place = GridLayout(1, 3, ((0, 0), (0, 1), (0, 2)), ((0, -1), (0, 1))) if layout else None
    steps = [[[0], [1]], [[0], [2]], [[2], [2]]]
    mdp = MDP.from_successors(steps, [[[1.0]] * 2] * 3, [1.0, 0.0, 0.0], layout=place)
    return TrajectoryModel(mdp, [0.0, -1.0, -math.inf], horizon=4)


def endless():
    return gridworld(horizon=math.inf, discount=0.9)


@functools.cache
def gym(name):
    return gymnasium_model(name, horizon=12)


MODELS = {
    "lottery": lottery,
    "bridge": bridge,
    "gridworld": gridworld,
    "one of each": single,
    "one step": lambda: bridge(horizon=1),
    "-inf": infeasible,
    "-inf on a map": lambda: infeasible(layout=True),
    "discounted": lambda: bridge(discount=0.9),
    "endless": endless,
    "FrozenLake": lambda: gym("FrozenLake-v1"),
    "CliffWalking": lambda: gym("CliffWalking-v1"),
    "Taxi": lambda: gym("Taxi-v4"),
}
FINITE = [name for name in MODELS if name != "endless"]
PICTURES = {"values": plot_values, "luck": plot_luck}


@pytest.fixture(autouse=True)
def neither_shown_nor_saved(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a picture function showed or saved its figure")

    for place, name in ((plt, "show"), (Figure, "show"), (plt, "savefig"), (Figure, "savefig")):
        monkeypatch.setattr(place, name, refuse)


@functools.cache
def answer(name, backend="exact"):
    return infer(MODELS[name](), backend)


def is_colorbar(ax):
    return ax.get_label() == "<colorbar>"


def panels(figure):
    return [ax for ax in figure.axes if not is_colorbar(ax)]


def colorbars(figure):
    return [ax for ax in figure.axes if is_colorbar(ax)]


def drawn(figure):
    figure.draw_without_rendering()  # whatever cannot be drawn fails here
    return figure


def check_labels(figure, bars):
    """The first panel has both labels, every panel a title and a label along x, every colour bar a label."""
    figure.draw_without_rendering()
    assert panels(figure)[0].get_ylabel()
    for ax in panels(figure):
        assert ax.get_xlabel()
        assert ax.get_title()
    assert len(colorbars(figure)) == bars
    assert all(bar.get_ylabel() for bar in colorbars(figure))


# ---- values and luck ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "backend"),  # the backend is in the title; what is drawn depends on the model
    [
        *((name, "exact") for name in MODELS),
        ("lottery", "variational"),
        ("bridge", "optimistic"),
        ("endless", "variational"),
    ],
)
def test_values(name, backend):
    figure = plot_values(answer(name, backend))
    assert isinstance(figure, Figure)
    check_labels(figure, bars=1)
    assert "reward units" in colorbars(figure)[0].get_ylabel()
    assert backend in panels(figure)[0].get_title()


@pytest.mark.parametrize("name", MODELS)
def test_luck(name):
    posterior = answer(name)
    figure = plot_luck(posterior)
    assert isinstance(figure, Figure)
    on_a_map = posterior.model.mdp.layout is not None
    check_labels(figure, bars=int(on_a_map))
    labels = [colorbars(figure)[0].get_ylabel()] if on_a_map else [panels(figure)[0].get_ylabel()]
    assert "nats" in labels[0]
    assert f"{float(posterior.luck):.2f} nats" in panels(figure)[0].get_title()


@pytest.mark.parametrize("name", ["lottery", "bridge", "Taxi"])
@pytest.mark.parametrize("picture", PICTURES)
def test_picture_in_given_axes(name, picture):
    figure, (left, right) = plt.subplots(1, 2)
    open_figures = plt.get_fignums()
    assert PICTURES[picture](answer(name), ax=right) is figure
    assert plt.get_fignums() == open_figures
    assert right.get_title()
    assert not left.get_title()
    assert not left.has_data()


@pytest.mark.parametrize("picture", PICTURES)
def test_picture_in_a_subfigure_returns_the_whole_figure(picture):
    figure = plt.figure()
    ax = figure.subfigures(1, 2)[1].subplots()
    assert PICTURES[picture](answer("bridge"), ax=ax) is figure


def test_map_shows_values_and_leaves_terminal_states_out():
    posterior = answer("bridge", "variational")
    model = posterior.model
    (image,) = panels(plot_values(posterior, t=2))[0].get_images()
    shown = image.get_array()
    for state, cell in enumerate(model.mdp.layout.cells):
        if model.mdp.terminal[state]:
            assert shown.mask[cell]
        else:
            assert shown[cell] == pytest.approx(float(posterior.values[2, state]), abs=1e-12)


@pytest.mark.parametrize("t", [0, 3, 19])
def test_map_names_its_time(t):
    figure = plot_values(answer("bridge"), t=t)
    assert f"t = {t + 1}" in panels(figure)[0].get_title()
    assert f"t = {t + 1}" in colorbars(figure)[0].get_ylabel()


def test_map_counts_negative_times_from_the_end():
    # as Posterior.dynamics does
    assert "t = 20" in panels(plot_values(answer("bridge"), t=-1))[0].get_title()


def test_map_of_a_time_outside_is_refused():
    with pytest.raises((IndexError, ValueError)):
        plot_values(answer("bridge"), t=20)


def test_map_arrows_follow_the_policy():
    posterior = answer("CliffWalking", "variational")
    ax = panels(plot_values(posterior))[0]
    (arrows,) = [artist for artist in ax.collections if isinstance(artist, Quiver)]
    layout, drawn = posterior.model.mdp.layout, {}
    for (x, y), u, v in zip(arrows.get_offsets(), arrows.U, arrows.V, strict=True):
        drawn.setdefault((round(y), round(x)), []).append((v, u))
    for state, cell in enumerate(layout.cells):
        if not posterior.model.nonterminal[state]:
            assert cell not in drawn
            continue
        best = int(posterior.action_probs[0, state].argmax())
        longest = max(drawn[cell], key=lambda arrow: math.hypot(*arrow))
        assert np.sign(longest).tolist() == list(layout.arrows[best])


def test_forbidden_values_are_hatched_on_a_map():
    ax = panels(plot_values(answer("-inf on a map")))[0]
    hatched = [patch for patch in ax.patches if patch.get_hatch()]
    assert [(patch.get_x(), patch.get_y()) for patch in hatched] == [(1.5, -0.5)]  # the third cell


def test_forbidden_values_are_left_white_over_time():
    posterior = answer("-inf")
    assert posterior.values[0, 2] == -math.inf
    (image,) = panels(plot_values(posterior))[0].get_images()
    assert image.get_array().mask[2].all()
    assert not image.get_array().mask[0].any()


def test_values_over_time_without_a_layout():
    posterior = answer("lottery")
    ax = panels(plot_values(posterior))[0]
    (image,) = ax.get_images()
    torch.testing.assert_close(torch.tensor(np.asarray(image.get_array()).T), posterior.values, rtol=0, atol=0)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["choice", "safe", "won", "lost"]


@pytest.mark.parametrize("draw", [plot_values, plot_messages])
@pytest.mark.parametrize("name", ["lottery", "one of each"])
def test_times_are_whole_numbers(draw, name):
    figure = drawn(draw(answer(name)))
    for ax in panels(figure):
        low, high = sorted(ax.get_xlim())
        ticks = [tick for tick in ax.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(float(tick).is_integer() for tick in ticks)


def test_luck_on_a_map_adds_up():
    posterior = answer("bridge")
    (image,) = panels(plot_luck(posterior))[0].get_images()
    assert float(image.get_array().sum()) == pytest.approx(float(posterior.luck), abs=1e-9)  # the start is certain


def test_luck_as_bars_adds_up():
    posterior = answer("lottery")
    bars = panels(plot_luck(posterior))[0].patches
    assert sum(bar.get_height() for bar in bars) == pytest.approx(float(posterior.luck), abs=1e-9)
    assert {to_hex(bar.get_facecolor()).upper() for bar in bars} == {TARGET_COLORS["exact"]}


def test_luck_of_the_start_is_named_where_the_states_do_not_add_up():
    posterior = answer("Taxi")  # deterministic: the only luck is that of s_1
    ax = panels(plot_luck(posterior))[0]
    assert float(np.abs(ax.get_images()[0].get_array()).sum()) == pytest.approx(0.0, abs=1e-9)
    assert float(posterior.luck) > 1
    assert "start" in ax.get_title()


def test_luck_of_fixed_dynamics_is_nothing():
    (image,) = panels(plot_luck(answer("bridge", "variational")))[0].get_images()
    assert float(np.abs(image.get_array()).max()) == 0.0


@pytest.mark.parametrize("picture", [plot_values, plot_luck])
def test_backend_without_tables_is_refused(picture):
    with pytest.raises(ValueError, match="'exact'"):
        picture(infer(lottery(), "enumeration"))


# ---- messages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FINITE)
def test_messages(name):
    figure = plot_messages(answer(name))
    assert isinstance(figure, Figure)
    check_labels(figure, bars=3)
    assert len(panels(figure)) == (12 if name in ("CliffWalking", "Taxi") else 3)  # maps of more than 40 states
    assert figure.get_suptitle()


def test_messages_of_a_large_map_are_maps_at_four_times():
    posterior = answer("CliffWalking")
    axes, steps = panels(plot_messages(posterior, floor=-5.0)), posterior.values.shape[0]
    times = [round(steps * k / 3) for k in range(4)]
    assert [ax.get_title().split("t = ")[1] for ax in axes[:4]] == [str(time + 1) for time in times]
    back = torch.cat([posterior.values, torch.zeros(1, 48, dtype=torch.float64)]) / posterior.model.temperature
    for k, time in enumerate(times):
        shown = [np.asarray(axes[4 * row + k].get_images()[0].get_array()).reshape(-1) for row in (1, 2)]
        np.testing.assert_allclose(shown[0], (back[time] - back[time].max()).clamp(min=-5.0).numpy(), atol=1e-9)
        np.testing.assert_allclose(shown[1], posterior.state_marginals[time].numpy(), atol=1e-12)


def test_messages_panels_hold_forward_backward_and_their_product():
    posterior = answer("bridge")
    shown = [panel.get_images()[0].get_array() for panel in panels(plot_messages(posterior))]
    torch.testing.assert_close(torch.tensor(np.asarray(shown[2]).T), posterior.state_marginals, rtol=0, atol=1e-12)
    back = torch.cat([posterior.values, torch.zeros(1, 22, dtype=torch.float64)])
    for table, messages in zip(shown, (forward_messages(posterior.model), back), strict=False):
        below = (messages - messages.amax(-1, keepdim=True)).clamp(min=-12.0)  # the largest of each time is 0
        below[torch.isinf(messages)] = math.nan
        torch.testing.assert_close(torch.tensor(table.filled(math.nan).T), below, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("backend", ["variational", "enumeration"])
def test_messages_of_another_answer_are_refused(backend):
    with pytest.raises(ValueError, match="use 'exact'"):
        plot_messages(infer(lottery(), backend))


def test_messages_of_an_infinite_horizon_are_refused():
    with pytest.raises(ValueError, match="finite horizon"):
        plot_messages(answer("endless"))


def random_model(dense, temperature, discount):
    """Four states, the last one terminal, two actions; reward of (s, a, s') or one for each of three outcomes."""
    source = torch.Generator().manual_seed(3)
    outcomes = 4 if dense else 3
    probabilities = torch.rand(4, 2, outcomes, generator=source, dtype=torch.float64) + 0.05
    rewards = 3 * torch.randn(4, 2, outcomes, generator=source, dtype=torch.float64)
    following = torch.randint(0, 4, (4, 2, outcomes), generator=source)
    probabilities[3], following[3], rewards[3] = 0.0, 3, 0.0
    probabilities[3, :, 3 if dense else 0] = 1.0
    probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    start = [0.5, 0.25, 0.25, 0.0]
    if dense:
        mdp = MDP(probabilities, start, terminal=[3])
    else:
        mdp = MDP.from_successors(following, probabilities, start, terminal=[3])
    return TrajectoryModel(mdp, rewards, horizon=6, temperature=temperature, discount=discount)


@pytest.mark.parametrize("discount", [1.0, 0.8])
@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "lists"])
def test_forward_times_backward_is_the_marginal(dense, temperature, discount):
    model = random_model(dense, temperature, discount)
    posterior = infer(model)
    ahead = forward_messages(model)
    back = torch.cat([posterior.values / temperature, torch.zeros(1, 4, dtype=torch.float64)])
    assert ahead.shape == (7, 4)
    product = ahead + back - posterior.log_evidence
    torch.testing.assert_close(product, posterior.state_marginals.log(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "lists"])
def test_forward_times_backward_of_huge_costs(dense):
    # every step costs thousands of nats, so nothing survives outside log space
    model = random_model(dense, temperature=1e-3, discount=1.0)
    model = model.replace(reward=model.reward + StepCost(20.0))
    posterior = infer(model)
    back = torch.cat([posterior.values / model.temperature, torch.zeros(1, 4, dtype=torch.float64)])
    product = forward_messages(model) + back - posterior.log_evidence
    assert float(forward_messages(model)[-1, :3].max()) < -745  # e to this is 0
    torch.testing.assert_close(product.exp(), posterior.state_marginals, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in FINITE if name != "Taxi"])
def test_forward_times_backward_on_the_zoo(name):
    posterior = answer(name)
    model = posterior.model
    back = torch.cat([posterior.values / model.temperature, torch.zeros_like(posterior.values[:1])])
    product = (forward_messages(model) + back - posterior.log_evidence).exp()
    torch.testing.assert_close(product, posterior.state_marginals, rtol=0, atol=1e-9)


# ---- comparison --------------------------------------------------------------------------------------------------


@functools.cache
def comparison(name):
    return compare(MODELS[name](), num_rollouts=50)


@pytest.mark.parametrize("name", MODELS)
def test_comparison(name):
    figure = plot_comparison(comparison(name))
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    for ax in figure.axes:
        assert ax.get_xlabel()
        assert ax.get_title()
    assert figure.get_suptitle()
    assert [label.get_text().split("\n")[0] for label in figure.axes[0].get_yticklabels()] == [
        "exact",
        "variational",
        "optimistic",
    ]


def test_comparison_has_one_color_for_each_target():
    table = comparison("bridge")
    figure = plot_comparison(table)
    believed, real = figure.axes[0].containers
    luck = figure.axes[1].containers[0]
    expected = [TARGET_COLORS[row.target] for row in table.rows]
    for bars in (believed, luck):
        assert [to_hex(bar.get_facecolor()).upper() for bar in bars] == expected
    assert not {to_hex(bar.get_facecolor()).upper() for bar in real} & set(TARGET_COLORS.values())


def test_comparison_bars_are_the_numbers():
    table = comparison("bridge")
    figure = plot_comparison(table)
    believed, real = figure.axes[0].containers
    assert [bar.get_width() for bar in believed] == [row.believed_return for row in table.rows]
    assert [bar.get_width() for bar in real] == [row.real_return for row in table.rows]
    assert [bar.get_width() for bar in figure.axes[1].containers[0]] == [row.luck for row in table.rows]


def test_comparison_says_what_is_missing():
    table = compare(lottery(lose_reward=-math.inf), ["exact", "variational"])
    figure = plot_comparison(table)
    assert "-inf" in [text.get_text().strip() for text in figure.axes[0].texts]


def test_comparison_takes_a_size():
    assert plot_comparison(comparison("lottery"), figsize=(3.0, 4.0)).get_size_inches().tolist() == [3.0, 4.0]


def test_comparison_plots_itself():
    assert isinstance(comparison("lottery").plot(figsize=(5.0, 3.0)), Figure)


def test_colors_are_those_of_the_three_targets():
    assert set(TARGET_COLORS) == {"exact", "fixed-dynamics", "other"}
    assert len(set(TARGET_COLORS.values())) == 3


def test_any_numbers_by_state():
    model = bridge()
    numbers = torch.arange(model.mdp.num_states, dtype=torch.float64)
    numbers[3], numbers[4] = -torch.inf, torch.nan
    figure = plot_map(model, numbers, "distance (steps)")
    shown = figure.axes[0].images[0].get_array()
    cell = model.mdp.layout.cells[7]
    assert shown[cell] == 7.0
    assert figure.axes[0].get_title() == "Distance (steps) by state, bridge"
    figure = plot_map(lottery(), [1.0, 2.0, -math.inf, 4.0], "prize (reward units)")
    assert [bar.get_height() for bar in figure.axes[0].patches][:2] == [1.0, 2.0]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["choice", "safe", "won", "lost"]
    with pytest.raises(ValueError, match=r"numbers has shape \[2\]; expected one for each state, \[4\]"):
        plot_map(lottery(), [1.0, 2.0], "prize")
