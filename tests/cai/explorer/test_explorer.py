"""The panel without a browser: what moves, what is said, and that it is what `infer` and `evaluate` say."""

import csv
import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from explorer_answers import SHARED, answers, pixels, same

import cai
from cai.explorer import Exploration
from cai.explorer.markup import columns_html, legend_html, messages_html, numbers_csv, returns_html, table_html
from cai.models import MDP, TrajectoryModel, available_models, bridge, build_model, double_integrator, pendulum

# ---- the core ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moved", "model"),
    [
        ({}, lambda: bridge()),
        ({"slip": 0.35}, lambda: bridge(slip=0.35)),
        ({"temperature": 2.5}, lambda: bridge(temperature=2.5)),
        ({"discount": 0.9}, lambda: bridge(discount=0.9)),
        ({"eta": 0.7}, lambda: bridge()),
        ({"horizon": 13}, lambda: bridge(horizon=13)),
        ({"fall_reward": -3.0, "slip": 0.0}, lambda: bridge(fall_reward=-3.0, slip=0.0)),
        ({"infinite_horizon": True, "discount": 0.8}, lambda: bridge(horizon=math.inf, discount=0.8)),
    ],
)
def test_numbers_are_those_of_infer_and_evaluate(moved, model):
    view = Exploration("bridge").ask(**moved)
    assert view.messages == ()
    same(view.numbers, answers(model(), moved.get("eta", -1.0)))


def test_chances_are_those_of_evaluate():
    view = Exploration("bridge").ask(discount=0.95)
    model = bridge(discount=0.95)
    outcome = cai.evaluate(cai.extract_policy(cai.infer(model, "exact")), model)
    numbers = view.numbers["exact"]
    assert numbers["visits bridge"] == pytest.approx(outcome.visits["bridge"], abs=1e-12)
    assert numbers["ends in chasm"] == pytest.approx(outcome.ends_in["chasm"], abs=1e-12)
    assert numbers["cut short"] == pytest.approx(outcome.absorbed, abs=1e-12)


def test_a_model_moves_by_replace_and_keeps_the_rest():
    model = dataclasses.replace(bridge(), action_prior=torch.tensor([0.7, 0.1, 0.1, 0.1]), name="mine")
    exploration = Exploration(model)
    assert set(exploration.defaults) == SHARED
    view = exploration.ask(temperature=0.5, discount=0.9, horizon=7, eta=-2.0)
    same(view.numbers, answers(dataclasses.replace(model, temperature=0.5, discount=0.9, horizon=7), -2.0))
    assert "mine" in view.caption


def test_a_builder_moves_by_its_own_numbers():
    def stairs(steps=3, prize=4.0, *, fair=True, text="up", horizon=5):
        table = torch.zeros(steps + 1, 2, steps + 1)
        for state in range(steps):
            table[state, 0, state] = 1.0
            table[state, 1, state + 1] = 0.5 if fair else 1.0
            table[state, 1, state] += 0.5 if fair else 0.0
        table[steps, :, steps] = 1.0
        paid = torch.zeros(steps + 1, 2, steps + 1)
        paid[steps - 1, 1, steps] = prize
        mdp = MDP(table, torch.eye(steps + 1)[0], terminal=[steps])
        return TrajectoryModel(mdp, paid, horizon, name="stairs")

    exploration = Exploration(stairs)
    assert set(exploration.defaults) == SHARED | {"steps", "prize", "fair"}
    kinds = {control.name: control.kind for control in exploration.controls}
    assert (kinds["steps"], kinds["fair"], kinds["temperature"]) == ("number", "switch", "log")
    view = exploration.ask(steps=2.0, fair=False, temperature=2.0)  # not an argument of the builder
    same(view.numbers, answers(dataclasses.replace(stairs(2, fair=False), temperature=2.0), -1.0))


@pytest.mark.parametrize("moved", [{}, {"eta": 0.5, "noise": 0.3}, {"temperature": 2.0, "horizon": 6}])
def test_a_linear_gaussian_model_moves_like_any_other(moved):
    view = Exploration("double-integrator").ask(**moved)
    assert view.messages == ()
    options = {name: value for name, value in moved.items() if name != "eta"}
    same(view.numbers, answers(double_integrator(**options), moved.get("eta", -0.05)))
    figure = view.figure()
    assert [ax.get_ylabel() for ax in figure.axes[:3]] == ["position"] * 3
    assert len({ax.get_ylim() for ax in figure.axes[:3]}) == 1
    assert view.png().startswith(b"\x89PNG")


def test_what_gaussian_messages_do_not_answer_is_said():
    exploration = Exploration(double_integrator(horizon=4))
    assert exploration.ask(eta=-3.0).answers["variational"].status.ok
    assert any("breaks down below eta" in text for text in exploration.ask(eta=-3.0, horizon=25).messages)
    view = exploration.ask(discount=0.9)
    assert any("discretize" in text for text in view.messages)
    assert view.numbers["variational"]["real return"] is not None
    assert not Exploration("double-integrator").ask(infinite_horizon=True, discount=0.9).figure().axes[0].images
    with pytest.raises(ValueError, match="not linear-Gaussian"):
        Exploration(pendulum)
    batch = double_integrator().replace(offset=torch.zeros(2, 1, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"model\.member"):
        Exploration(batch)


# A map, a map with walls, roads, a chain, and many states: the others are drawn by the same code from other numbers.
DRAWN = ("bridge", "four-rooms", "small-roads", "river-swim", "Taxi-v4")


@pytest.mark.parametrize("name", [name for name, entry in available_models().items() if not entry.continuous])
def test_every_model_has_a_picture(name):
    exploration = Exploration(name)
    view = exploration.ask(horizon=4)
    idle = ["all but the action prior" in text for text in view.messages]
    assert idle == ([True] if name == "river-swim" else [])  # its treasure is further away than four steps
    figure = view.figure()
    assert len(figure.axes) >= 7
    assert f"{exploration.name}: " in table_html(view)
    assert ("slip" in exploration.defaults) == ("slip" in available_models()[name].options)
    if name in DRAWN:
        figure.draw_without_rendering()


def test_gymnasium_ids_outside_the_zoo():
    view = Exploration("FrozenLake8x8-v1").ask(horizon=6, temperature=0.5)
    same(view.numbers, answers(build_model("FrozenLake8x8-v1", horizon=6, temperature=0.5), -1.0))


def test_one_state_one_action_one_step():
    mdp = MDP(torch.ones(1, 1, 1), torch.ones(1))
    view = Exploration(TrajectoryModel(mdp, torch.ones(1, 1), 1)).ask()
    assert view.numbers["exact"]["believed return"] == 1.0
    assert view.png()


def test_many_actions_and_unreachable_states():
    torch.manual_seed(0)
    table = torch.rand(50, 30, 50, dtype=torch.float64)
    table[49] = torch.eye(50)[49]
    mdp = MDP(table / table.sum(-1, keepdim=True), torch.eye(50)[0], terminal=[49])
    reward = torch.randn(50, 30)
    reward[49] = 0.0
    reward[7] = -math.inf
    view = Exploration(TrajectoryModel(mdp, reward, 60, temperature=0.3)).ask()
    assert any(math.isfinite(row["luck"]) for row in view.numbers.values() if row["luck"] is not None)
    assert view.png()


def test_moved_to_float32():
    view = Exploration(bridge().to(dtype=torch.float32)).ask(temperature=2.0)
    assert view.messages == ()
    exact = cai.infer(bridge(temperature=2.0), "exact")
    assert view.numbers["exact"]["log p(O)"] == pytest.approx(float(exact.log_evidence), abs=1e-4)  # float32
    assert view.png()


def test_the_log_slider_stops_at_the_first_value_and_at_both_ends():
    (control,) = (c for c in Exploration("river-swim").controls if c.name == "temperature")
    assert control.value == 1000.0
    assert control.value in control.choices
    assert (control.choices[0], control.choices[-1]) == (10.0, 100000.0)
    ratios = np.diff(np.log10(control.choices))
    assert np.allclose(ratios, 0.1, atol=5e-3)  # three digits


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "moved", "words"),
    [
        ("bridge", {"slip": 1.5}, "slip is 1.5"),
        ("bridge", {"discount": 0.0}, "discount is 0"),
        ("bridge", {"temperature": -1.0}, "temperature is -1"),
        ("bridge", {"horizon": 0}, "horizon"),
        ("bridge", {"horizon": 2.5}, "horizon"),
        ("bridge", {"horizon": 10**12}, "lower it"),
        ("bridge", {"goal_reward": None}, "goal reward is empty"),
        ("bridge", {"goal_reward": math.nan}, "is NaN"),
        ("bridge", {"eta": math.nan}, "eta is nan"),
        ("lottery", {"win_probability": 2.0}, "win_probability is 2"),
        ("inventory", {"capacity": -1}, "capacity"),
    ],
)
def test_refused_values_are_said_in_words(source, moved, words):
    view = Exploration(source).ask(**moved)
    assert view.answers is None
    assert view.figure() is None
    assert view.png() is None
    (text,) = view.messages
    assert words in text
    assert "Traceback" not in messages_html(view)


def test_a_horizon_beyond_the_memory():
    def wide(num_states=2, horizon=3):
        state = torch.arange(num_states)
        return TrajectoryModel(MDP.from_successors(state[:, None, None], torch.ones(num_states, 1, 1), state == 0),
                               0.0, horizon)  # fmt: skip

    exploration = Exploration(wide)
    assert exploration.ask(num_states=300, horizon=30).messages == ()
    (text,) = exploration.ask(num_states=100_000, horizon=4000).messages
    assert "8.94 GiB" in text  # 8 bytes, 4000 steps, 100,000 states, values and two tables of one action
    assert "lower the horizon" in text


def test_what_is_forbidden_stays_so():
    def forbidden(slip=0.2, fall_reward=-math.inf):
        return bridge(slip, fall_reward=fall_reward)

    exploration = Exploration(forbidden)
    assert "fall_reward" not in exploration.defaults  # no widget shows what is not finite
    view = exploration.ask(slip=0.5)
    assert view.messages == ()
    assert view.numbers["variational"]["ends in chasm"] == 0.0
    assert view.numbers["exact"]["real return"] == -math.inf  # it believes that it will not slip
    assert ">-inf<" in table_html(view)
    assert view.png()


def test_impossible_optimality():
    mdp = MDP(torch.ones(1, 1, 1), torch.ones(1))
    view = Exploration(TrajectoryModel(mdp, torch.tensor([[-math.inf]]), 3)).ask()
    assert any(text.startswith("exact") and "p(O) = 0" in text for text in view.messages)
    assert view.png() is None
    assert table_html(view)


def test_one_answer_may_fail_beside_the_others():
    view = Exploration("gridworld").ask(infinite_horizon=True, eta=-20.0)
    assert len(view.messages) == 1
    assert view.messages[0].startswith("risk: diverged")
    assert view.png()
    assert view.numbers["risk"]["bound"] is None


def test_a_builder_that_breaks_is_no_traceback():
    def broken(size=1.0):
        if size != 1:
            raise KeyError("size <b>")
        return bridge()

    view = Exploration(broken).ask(size=2.0)
    assert view.messages == ("KeyError: 'size <b>'",)
    assert "&lt;b&gt;" in messages_html(view)


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("brigde", ValueError, "no model is called 'brigde'"),
        (3, TypeError, "explore got a int"),
        (bridge().mdp, TypeError, "explore got a MDP"),
        (lambda slip: bridge(slip), TypeError, "told 'slip'"),
        (lambda: bridge().mdp, TypeError, "returned a MDP"),
        (lambda: bridge().batch(temperature=[1.0, 2.0]), TypeError, "returned a ModelBatch"),
    ],
)
def test_what_is_no_source(source, error, words):
    with pytest.raises(error, match=words):
        Exploration(source)


def test_unknown_controls():
    with pytest.raises(TypeError, match="no control 'sleep'; it has slip, temperature"):
        Exploration("bridge").ask(sleep=0.1)


# ---- other backends, and what is written beside the pictures --------------------------------------------------------


@pytest.mark.parametrize("name", ["bridge", "inventory", "double-integrator"])
def test_every_backend_that_is_offered_answers(name):
    exploration = Exploration(name)
    assert {"exact", "variational", "risk", "optimistic", "max-product"} <= set(exploration.backends)
    fast = [backend for backend in exploration.backends if not backend.startswith(("soft-", "policy-gr", "kl-"))]
    view = exploration.ask(fast, horizon=4)
    assert list(view.numbers) == fast
    assert len(view.columns) == len(fast)
    assert columns_html(view).count("<img") == len(fast)
    same({"exact": view.numbers["exact"]}, {"exact": Exploration(name).ask(horizon=4).numbers["exact"]})


def test_no_backend_is_no_answer():
    assert Exploration("bridge").ask([]).messages == ("no backend is chosen; choose at least one",)


def test_the_columns_are_the_whole_picture_cut_without_a_seam():
    view = Exploration("bridge").ask()
    file = io.BytesIO()
    view.figure(returns=False).savefig(file, dpi=100)
    whole = pixels(file.getvalue())
    assert np.array_equal(np.concatenate([pixels(file) for file in view.columns], 1), whole)
    assert len({len(file) for file in view.columns}) == 3  # three different answers


def test_what_letters_colours_and_bars_mean_is_said():
    bridges, store = Exploration("bridge").ask(), Exploration("inventory").ask()
    for text in ("~ chasm", "S start", "= bridge", "G goal"):
        assert text in legend_html(bridges)
    assert all(f"</i>{store.answers.model.mdp.action_name(a)}</span>" in legend_html(store) for a in range(4))
    bars = returns_html(bridges)
    assert "-16.08" in bars
    assert "3.43" in bars
    widths = [float(part.split("%")[0]) for part in bars.split("width:")[1:]]
    believed, real = 3.4296948, -16.082863
    assert widths[:2] == pytest.approx([100 * believed / (believed - real), -100 * real / (believed - real)], abs=0.01)


def test_numbers_are_saved_with_all_digits():
    view = Exploration("bridge").ask(slip=0.3)
    rows = list(csv.DictReader(numbers_csv(view).splitlines()))
    assert [row["answer"] for row in rows] == ["exact", "variational", "risk"]
    assert {row["slip"] for row in rows} == {"0.3"}
    assert float(rows[0]["luck"]) == view.numbers["exact"]["luck"]
    assert rows[1]["log p(O)"] == ""  # unknown
