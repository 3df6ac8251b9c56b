"""Factor graphs: which variables each factor joins, found by running the program, and the picture of it."""

import matplotlib.pyplot as plt
import networkx as nx
import pyro
import pytest
import torch
from matplotlib.figure import Figure
from pyro.distributions import Categorical

from cai import MDP, TrajectoryModel, draw_factor_graph, factor_graph
from cai.models import bridge, build_model, condition, do, gymnasium_model, lottery

HALVES = torch.tensor([0.5, 0.5], dtype=torch.float64)


def joined(program):
    """Factor -> the variables it joins."""
    graph = factor_graph(program)
    return {name: set(graph.neighbors(name)) for name, data in graph.nodes(data=True) if data["bipartite"] == 1}


def random_table(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def model(reward, **options):
    """Three states, two actions, two steps."""
    transitions = random_table(3, 2, 3).softmax(-1)
    return TrajectoryModel(MDP(transitions, [1 / 3] * 3), reward, horizon=2, **options)


def chain(optimality, following=None):
    """The edges of two steps: what O_1 looks at besides itself, and what s_2 does."""
    edges = {"f(s_1)": {"s_1"}}
    for t in (1, 2):
        edges[f"f(a_{t})"] = {f"s_{t}", f"a_{t}"}
        edges[f"f(s_{t + 1})"] = {f"s_{t}", f"a_{t}", f"s_{t + 1}"}
        edges[f"f(O_{t})"] = {f"O_{t}", *(name.format(t=t, n=t + 1) for name in optimality)}
        if following:
            edges[f"f(s_{t + 1})"] = {f"s_{t + 1}", *(name.format(t=t) for name in following)}
    return edges


def windy():
    """A wind, drawn anew at each step, moves the state too; the reward does not see it."""
    state = pyro.sample("s_1", Categorical(HALVES))
    table = torch.tensor([[0.0, -1.0], [-2.0, 0.5]], dtype=torch.float64)
    moves = random_table(2, 2, 2, 2).softmax(-1)
    for t in pyro.markov(range(1, 3)):
        action = pyro.sample(f"a_{t}", Categorical(HALVES))
        wind = pyro.sample(f"w_{t}", Categorical(HALVES))
        pyro.factor(f"O_{t}", table[state, action])
        state = pyro.sample(f"s_{t + 1}", Categorical(moves[state, action, wind]))


# ---- edges -------------------------------------------------------------------------------------------------------


def test_edges_of_the_lottery():
    assert joined(lottery()) == {
        "f(s_1)": {"s_1"},
        "f(a_1)": {"s_1", "a_1"},
        "f(s_2)": {"s_1", "a_1", "s_2"},
        "f(O_1)": {"O_1", "s_1", "s_2"},  # paid on entering: the action is not looked at
    }


@pytest.mark.parametrize(
    ("shape", "optimality"),
    [
        pytest.param((3,), ["s_{t}"], id="S"),
        pytest.param((3, 2), ["s_{t}", "a_{t}"], id="SA"),
        pytest.param((3, 2, 3), ["s_{t}", "a_{t}", "s_{n}"], id="SAS"),
    ],
)
@pytest.mark.parametrize("kind", ["factor", "bernoulli"])
def test_edges_follow_what_the_reward_reads(shape, optimality, kind):
    assert joined(model(random_table(*shape), optimality=kind)) == chain(optimality)


@pytest.mark.parametrize(("shape", "optimality"), [((3,), ["s_{t}"]), ((3, 2), ["s_{t}", "a_{t}"])])
def test_discount_adds_no_edge_where_the_outcome_does_not_matter(shape, optimality):
    assert joined(model(random_table(*shape), discount=0.9)) == chain(optimality)


def test_discount_joins_the_outcome_where_it_is_paid_for():
    found = joined(model(random_table(3, 2, 3), discount=0.9))
    expected = chain(["s_{t}", "a_{t}", "k_{t}"], following=["s_{t}", "a_{t}", "k_{t}"])
    expected |= {f"f(k_{t})": {f"s_{t}", f"a_{t}", f"k_{t}"} for t in (1, 2)}
    assert found == expected


def test_edges_of_rewards_for_each_outcome():
    found = joined(gymnasium_model("CliffWalking-v1", is_slippery=True, horizon=1))
    assert found["f(k_1)"] == {"s_1", "a_1", "k_1"}
    assert found["f(s_2)"] == {"s_1", "a_1", "k_1", "s_2"}
    assert found["f(O_1)"] == {"O_1", "s_1", "a_1", "k_1"}


def test_edges_of_a_handwritten_program_with_a_wind():
    expected = chain(["s_{t}", "a_{t}"], following=["s_{t}", "a_{t}", "w_{t}"])
    for t in (1, 2):
        expected |= {f"f(a_{t})": {f"a_{t}"}, f"f(w_{t})": {f"w_{t}"}}  # neither is drawn from the state
    assert joined(windy) == expected


def test_program_that_draws_no_last_state():
    def program():
        state = pyro.sample("s_1", Categorical(HALVES))
        action = pyro.sample("a_1", Categorical(HALVES))
        pyro.factor("O_1", state.double() * action.double())

    assert joined(program) == {"f(s_1)": {"s_1"}, "f(a_1)": {"a_1"}, "f(O_1)": {"O_1", "s_1", "a_1"}}


def test_observed_sites_are_optimality():
    def program():
        state = pyro.sample("s_1", Categorical(HALVES))
        pyro.sample("a_1", Categorical(HALVES))
        pyro.sample("O_1", pyro.distributions.Bernoulli(HALVES[state]), obs=torch.tensor(1.0))

    assert joined(program)["f(O_1)"] == {"O_1", "s_1"}
    assert factor_graph(program).nodes["O_1"]["observed"]


# ---- nodes -------------------------------------------------------------------------------------------------------


def test_graph_is_bipartite():
    graph = factor_graph(windy)
    sides = nx.get_node_attributes(graph, "bipartite")
    assert all({sides[left], sides[right]} == {0, 1} for left, right in graph.edges)
    assert sum(sides.values()) == len(graph) / 2  # a factor for each variable


def test_kinds_times_and_observations():
    nodes = factor_graph(windy).nodes
    assert (nodes["s_3"]["kind"], nodes["s_3"]["time"], nodes["s_3"]["observed"]) == ("state", 3, False)
    assert (nodes["a_2"]["kind"], nodes["a_2"]["time"], nodes["a_2"]["observed"]) == ("action", 2, False)
    assert (nodes["w_2"]["kind"], nodes["w_2"]["time"], nodes["w_2"]["observed"]) == ("further", 2, False)
    assert (nodes["O_2"]["kind"], nodes["O_2"]["time"], nodes["O_2"]["observed"]) == ("optimality", 2, True)
    assert (nodes["f(O_2)"]["kind"], nodes["f(O_2)"]["time"]) == ("factor", 2)


def test_program_of_other_names_is_refused():
    with pytest.raises(ValueError, match="a_1"):
        factor_graph(lambda: pyro.sample("x", Categorical(HALVES)))


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    draw_factor_graph(windy)
    assert torch.equal(torch.get_rng_state(), before)


# ---- pictures ----------------------------------------------------------------------------------------------------


def legend_of(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def labels_of(figure):
    return {text.get_text() for text in figure.axes[0].texts}


@pytest.mark.parametrize("program", [lottery, bridge, lambda: model(random_table(3, 2, 3), discount=0.9)])
def test_picture(program):
    figure = draw_factor_graph(program())
    figure.canvas.draw()
    assert isinstance(figure, Figure)
    assert legend_of(figure)[:2] == ["state", "action"]
    assert legend_of(figure)[-1] == "factor"
    assert "time to the right" in figure.axes[0].get_title()


def test_legend_names_what_is_there():
    assert legend_of(draw_factor_graph(lottery())) == ["state", "action", "optimality (observed)", "factor"]
    assert "further latent" in legend_of(draw_factor_graph(windy))


def test_picture_labels_its_variables():
    expected = {"$s_{1}$", "$a_{1}$", "$O_{1}$", "$s_{2}$"}
    assert labels_of(draw_factor_graph(lottery())) == expected


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_picture_shows_no_more_steps_than_asked(steps):
    figure = draw_factor_graph(bridge(), max_steps=steps)
    expected = {f"${kind}_{{{t}}}$" for t in range(1, steps + 1) for kind in "saO"} | {f"$s_{{{steps + 1}}}$"}
    assert labels_of(figure) == expected
    assert f"the first {steps} of 20 steps" in figure.axes[0].get_title()


def test_picture_of_a_graph_is_that_of_its_program():
    assert labels_of(draw_factor_graph(factor_graph(windy))) == labels_of(draw_factor_graph(windy))


def test_picture_in_given_axes():
    figure, (left, right) = plt.subplots(1, 2)
    assert draw_factor_graph(lottery(), ax=right) is figure
    assert right.get_legend() is not None
    assert left.get_legend() is None


def test_variables_do_not_overlap():
    figure = draw_factor_graph(windy)
    places = [text.xy for text in figure.axes[0].texts]
    assert len(set(places)) == len(places) == 9


def test_what_is_set_is_cut_from_its_causes_and_what_is_known_is_not():
    model = lottery(horizon=2)
    free, done, seen = (factor_graph(made) for made in (model, do(model, {"a_2": 0}), condition(model, {"a_2": 0})))
    assert set(free["f(a_2)"]) == {"a_2", "s_2"}
    assert set(done["f(a_2)"]) == {"a_2"}
    assert set(seen["f(a_2)"]) == {"a_2", "s_2"}
    assert set(seen["f(evidence.a_2)"]) == {"a_2", "evidence.a_2"}
    for name in ("f(s_1)", "f(a_1)", "f(s_2)", "f(s_3)", "f(O_2)"):
        assert set(done[name]) == set(free[name]) == set(seen[name])


def test_a_name_that_is_longer_than_its_circle_stands_beside_it():
    seen = condition(build_model("machine", horizon=2), {"a_2": "replace"})
    names = {text.get_text(): text for text in draw_factor_graph(seen).axes[0].texts}
    assert names["evidence of $a_{2}$"].xyann == (18, 0)
    assert names["$a_{2}$"].xyann == (0, 0)
